//! Answers by series of factors: each second at its own intensity, a correction that changes its own time alone, and what was
//! known before.

use super::*;
use joulebook_proto::query::IntensityKind;
use joulebook_sci::series::Status;
use joulebook_tests::history::{DeviceStep, Step, WallStep};
use joulebook_units::Window;

/// Sites of the histories' nodes are of no configured name: all stand where the default stands.
const CONFIGURATION: &str = "[site.default]\nzone = \"DEU\"\n\
     [[factor]]\nname = \"grid\"\nkind = \"average_consumption\"\n\
     [[factor]]\nname = \"margin\"\nkind = \"marginal_short_run\"\n\
     [[factor]]\nname = \"hall\"\nquantity = \"pue\"\n";
const CELL_SECONDS: i64 = 300;

/// An hour of rows of 5 s, without a meter at the input.
fn steps() -> Vec<Step> {
    let nothing =
        DeviceStep { microjoules: 0, integrated_microjoules: 0, busy_nanos: 0, held_bytes: 0, users: 0, listed: true };
    let step = |number: u64| Step {
        nanos: 5 * SECOND,
        microjoules: 100_000_000 * (1 + number / 60 % 5),
        cpu_nanos: SECOND,
        tokens: 10,
        scraped: true,
        gap: false,
        ends_batch: false,
        running: 0,
        devices: [nothing.clone(), nothing.clone()],
        wall: WallStep { microjoules: 0, told: 0, broken: 0 },
    };
    (0..720).map(step).collect()
}

pub(super) struct Fixture {
    pub(super) aggregator: Aggregator,
    query: Query,
    /// Ten cells of 300 s inside the history.
    pub(super) window: Window,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let history = history(0, &steps());
        let mut aggregator = Aggregator::new(std::slice::from_ref(&history));
        (0..history.batches.len()).for_each(|record| aggregator.send(0, &history, record));
        aggregator.settle();
        let factors = Factors::new(&toml::from_str(CONFIGURATION).expect("syntax")).expect("valid");
        let (book, clock) = (Arc::clone(&aggregator.book), Arc::new(At(aggregator.now)));
        let query = Query::new(book, watch::channel(Arc::new(factors)).1, clock);
        let end = aggregator.now.floor_to(CELL_SECONDS);
        let window = Window::new(end.plus_seconds(-10 * CELL_SECONDS), end).expect("ordered");
        Self { aggregator, query, window }
    }

    pub(super) fn cell(&self, index: i64) -> Window {
        let start = self.window.start().plus_seconds(index * CELL_SECONDS);
        Window::new(start, start.plus_seconds(CELL_SECONDS)).expect("ordered")
    }

    pub(super) fn record(&self, name: &str, first: i64, values: &[f64], status: Status, now: i64) {
        let toml = toml::from_str(CONFIGURATION).expect("syntax");
        let factors = Factors::new(&toml).expect("valid");
        let subject = &factors.feeds().iter().find(|feed| feed.name == name).expect("configured").subject;
        let cells: Vec<_> = (first..).zip(values).map(|(cell, value)| (self.cell(cell), *value, status)).collect();
        self.aggregator.book.record_factors(name, subject, &cells, UnixNanos(now)).expect("recorded");
    }

    pub(super) fn ask_all(&self, of: GetSciRequest) -> Vec<SciAnswer> {
        let window = TimeWindow { start_unix_nanos: self.window.start().0, end_unix_nanos: self.window.end().0 };
        let asked = question(window, IdlePolicy::ReservedCapacityTime, Level::Facility);
        let asked =
            GetSciRequest { window: asked.window, level: asked.level, functional_unit: asked.functional_unit, ..of };
        self.query.sci(&asked).expect("well-formed").answers.into_iter().map(timeless).collect()
    }

    fn ask(&self, of: GetSciRequest) -> SciAnswer {
        self.ask_all(of).remove(0)
    }

    /// Operational grams and E × U × I of each cell, in order.
    fn terms(&self) -> Vec<(f64, f64)> {
        let subject = self.ask(GetSciRequest::default()).subject.expect("always there");
        let window = TimeWindow { start_unix_nanos: self.window.start().0, end_unix_nanos: self.window.end().0 };
        let (model, version) = (subject.model, subject.model_version);
        let selector = Some(ModelSelector { model, version, ..ModelSelector::default() });
        let asked = GetSciRequest { selector, ..question(window, IdlePolicy::ReservedCapacityTime, Level::Facility) };
        let explained = self.query.explain(&ExplainRequest { question: Some(asked) }).expect("well-formed");
        let of = |name: &'static str| {
            let terms = explained.terms.iter().filter(move |term| term.name.starts_with(name));
            terms.map(|term| term.value.expect("known")).collect::<Vec<f64>>()
        };
        let (energies, pues, intensities) = (of("E["), of("U["), of("I["));
        let products = energies.iter().zip(&pues).zip(&intensities).map(|((e, u), i)| e * u * i / 3.6e6);
        of("O[").into_iter().zip(products).collect()
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1e-12)
}

const INTENSITIES: [f64; 10] = [100.0, 300.0, 250.0, 40.0, 500.0, 120.0, 90.0, 60.0, 700.0, 10.0];

#[test]
fn every_cell_has_its_own_intensity_and_pue_and_a_late_value_changes_its_own_cell_alone() {
    let fixture = Fixture::new();
    fixture.record("grid", 0, &INTENSITIES, Status::Forecast, 1);
    fixture.record("hall", 0, &[1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0], Status::Measured, 2);
    let (first, before) = (fixture.ask(GetSciRequest::default()), fixture.terms());
    assert_eq!(before.len(), 10);
    assert!(before.iter().all(|(found, product)| close(*found, *product) && *found > 0.0), "{before:?}");
    let carbon = first.carbon.expect("always there").o_g.expect("known");
    assert!(close(before.iter().map(|(grams, _)| grams).sum(), carbon));
    let flags = first.quality.clone().expect("always there").flags;
    assert!(flags.contains(&"forecast_intensity".to_owned()), "{flags:?}");

    fixture.record("grid", 4, &[450.0], Status::Measured, 3);
    let after = fixture.terms();
    for (cell, (old, new)) in before.iter().zip(&after).enumerate() {
        let expected = if cell == 4 { old.0 * 450.0 / 500.0 } else { old.0 };
        assert!(close(new.0, expected), "cell {cell}");
    }
    let second = fixture.ask(GetSciRequest::default());
    assert!(second.revision > first.revision && second.answer_id != first.answer_id);
    let intensity = second.intensity.clone().expect("always there");
    assert_eq!(intensity.uses.len(), 2);
    assert!(close(intensity.uses.iter().map(|used| used.energy_fraction).sum(), 1.0));

    let known = fixture.ask(GetSciRequest { as_of_unix_nanos: Some(2), ..GetSciRequest::default() });
    assert_eq!((&known.sci, &known.carbon, &known.answer_id), (&first.sci, &first.carbon, &first.answer_id));
}

#[test]
fn a_kind_that_is_missing_has_no_score_but_bounds_and_none_takes_its_place() {
    let fixture = Fixture::new();
    fixture.record("grid", 0, &INTENSITIES, Status::Measured, 1);
    let marginal = GetSciRequest { intensity_kind: IntensityKind::MarginalShortRun.into(), ..GetSciRequest::default() };
    let answer = fixture.ask(marginal.clone());
    let (sci, intensity) = (answer.sci.clone().expect("always there"), answer.intensity.clone().expect("always there"));
    assert_eq!(sci.value, None);
    assert!(sci.null_reason.expect("a reason").contains("intensity is missing"));
    assert_eq!(intensity.missing_fraction, Some(1.0));
    assert!(intensity.missing_low_g.abs() < 1e-12 && intensity.missing_high_g > 0.0);
    let printed = serde_json::to_value(&answer).expect("an answer is JSON");
    let mut found = Vec::new();
    nulls(&printed, "", &mut found);
    assert!(found.iter().all(|path| answer.not_available.contains_key(path)), "{found:?}");
    let schema: Value = serde_json::from_str(include_str!("../../../cli/schema/answer.schema.json")).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<String> =
        validator.iter_errors(&serde_json::json!({"answers": [printed]})).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");

    fixture.record("margin", 0, &[800.0; 10], Status::Measured, 2);
    let answer = fixture.ask(marginal);
    assert!(answer.sci.expect("always there").value.is_some());
    let intensity = answer.intensity.expect("always there");
    assert_eq!((intensity.kind.as_str(), intensity.missing_fraction), ("marginal_short_run", Some(0.0)));
    assert!(close(intensity.effective_g_per_kwh.expect("rated"), 800.0));
}
