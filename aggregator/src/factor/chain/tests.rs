use super::*;
use crate::factor::Factors;
use crate::store::block::factor::SeriesSubject;
use crate::store::memory::MemoryStore;
use std::sync::Arc;

const HOUR: i64 = 3600;
/// 2026-11-24T09:00:00Z.
const START: i64 = 1_795_510_800;

fn at(hour: i64) -> UnixNanos {
    UnixNanos::from_seconds(START + hour * HOUR)
}

fn window(from: i64, to: i64) -> Window {
    Window::new(at(from), at(to)).expect("ordered")
}

/// A site in Germany with an average series, a further one behind it, a marginal one and one of PUE.
const CONFIGURATION: &str = "[site.default]\nzone = \"DEU\"\npue = 1.3\n\
     [[factor]]\nname = \"grid\"\nkind = \"average_consumption\"\n\
     [[factor]]\nname = \"spare\"\nkind = \"average_consumption\"\n\
     [[factor]]\nname = \"margin\"\nkind = \"marginal_short_run\"\n\
     [[factor]]\nname = \"hall\"\nquantity = \"pue\"\n";

fn fixture() -> (Factors, Book) {
    let factors = Factors::new(&toml::from_str(CONFIGURATION).expect("valid")).expect("valid");
    (factors, Book::open(Arc::new(MemoryStore::new())).expect("open"))
}

fn record(factors: &Factors, book: &Book, name: &str, from: i64, values: &[f64], status: Status, now: i64) {
    let feed = factors.feeds().iter().find(|feed| feed.name == name).expect("configured");
    let cell = |(hour, value): (i64, &f64)| (window(from + hour, from + hour + 1), *value, status);
    let cells: Vec<_> = (0..).zip(values).map(cell).collect();
    let subject: &SeriesSubject = &feed.subject;
    book.record_factors(name, subject, &cells, UnixNanos(now)).expect("recorded");
}

/// Hour from the start, value (none: missing), status.
fn shown(factors: &Factors, book: &Book, at: Window, asked: Asked) -> Vec<(i64, Option<f64>, &'static str)> {
    let cells = factors.intensity(None, at, asked, book).expect("read");
    assert!(cells.windows(2).all(|pair| pair[0].window.end() == pair[1].window.start()), "no hole, no overlap");
    let hour = |at: UnixNanos| (at.0 / UnixNanos::PER_SECOND - START) / HOUR;
    let value = |rate: Rate| match rate {
        Rate::Known(value) => Some(value.get()),
        Rate::Between(..) => None,
    };
    cells.iter().map(|cell| (hour(cell.window.start()), value(cell.value), cell.provenance.status)).collect()
}

#[test]
fn the_first_series_is_used_then_the_next_then_a_value_that_holds_on_then_it_is_missing() {
    let (factors, book) = fixture();
    record(&factors, &book, "grid", 0, &[100.0], Status::Measured, 1);
    record(&factors, &book, "grid", 40, &[140.0], Status::Measured, 1);
    record(&factors, &book, "spare", 0, &[1.0, 2.0], Status::Forecast, 1);
    let found = shown(&factors, &book, window(0, 41), Asked::default());
    assert_eq!(
        found,
        [
            (0, Some(100.0), "measured"),
            (1, Some(2.0), "forecast"),
            (2, Some(2.0), "held"),
            (26, None, "missing"),
            (40, Some(140.0), "measured"),
        ],
        "Germany's yearly value is of production: another kind"
    );
    let missing = &factors.intensity(None, window(30, 31), Asked::default(), &book).expect("read")[0];
    let Rate::Between(low, high) = missing.value else { panic!("known") };
    assert!((low.get() - 1.0).abs() < 1e-12 && (high.get() - 100.0).abs() < 1e-12, "what the month before had");
    assert!(missing.provenance.steps.iter().any(|step| step.contains("of another kind, average_production")));
}

#[test]
fn a_table_of_the_same_kind_stands_behind_a_series() {
    let text = CONFIGURATION.replace("average_consumption", "average_production");
    let factors = Factors::new(&toml::from_str(&text).expect("valid")).expect("valid");
    let (_, book) = fixture();
    record(&factors, &book, "grid", 0, &[100.0], Status::Measured, 1);
    let found = shown(&factors, &book, window(0, 48), Asked::default());
    assert_eq!(found.iter().map(|(hour, ..)| *hour).collect::<Vec<_>>(), [0, 1, 25]);
    let cells = factors.intensity(None, window(30, 31), Asked::default(), &book).expect("read");
    assert_eq!((cells[0].provenance.zone.as_str(), cells[0].provenance.granularity), ("DEU", "year"));
}

#[test]
fn b70_a_source_that_is_down_a_week_ends_in_a_missing_intensity_and_never_in_0_g() {
    let (factors, book) = fixture();
    record(&factors, &book, "grid", 0, &[100.0], Status::Measured, 1);
    let found = shown(&factors, &book, window(0, 7 * 24), Asked::default());
    assert_eq!(found, [(0, Some(100.0), "measured"), (1, Some(100.0), "held"), (25, None, "missing")]);
}

#[test]
fn a_marginal_question_gets_marginal_values_only() {
    let (factors, book) = fixture();
    record(&factors, &book, "grid", 0, &[100.0, 100.0], Status::Measured, 1);
    record(&factors, &book, "margin", 0, &[700.0], Status::Measured, 1);
    let marginal = Asked { kind: Some(Kind::MarginalShortRun), as_of: None };
    assert_eq!(shown(&factors, &book, window(0, 1), marginal), [(0, Some(700.0), "measured")]);
    assert_eq!(shown(&factors, &book, window(-48, -47), marginal), [(-48, None, "missing")]);
    let long = Asked { kind: Some(Kind::MarginalLongRun), as_of: None };
    let cells = factors.intensity(None, window(0, 1), long, &book).expect("read");
    let Rate::Between(low, high) = cells[0].value else { panic!("known") };
    assert!(low.get().abs() < 1e-12 && (high.get() - 2000.0).abs() < 1e-12, "nothing is known of it");
}

#[test]
fn a_late_value_changes_its_own_hours_and_the_answer_of_before_stays_reproducible() {
    let (factors, book) = fixture();
    record(&factors, &book, "grid", 0, &[100.0, 110.0, 120.0], Status::Forecast, 10);
    let before = shown(&factors, &book, window(0, 3), Asked::default());
    record(&factors, &book, "grid", 1, &[90.0], Status::Measured, 20);
    let after = shown(&factors, &book, window(0, 3), Asked::default());
    assert_eq!(after[1], (1, Some(90.0), "measured"));
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    let as_of = |at: i64| shown(&factors, &book, window(0, 3), Asked { kind: None, as_of: Some(UnixNanos(at)) });
    assert_eq!(as_of(19), before);
    assert_eq!(as_of(20), after);
    assert_eq!(as_of(9), [(0, None, "missing")]);
}

#[test]
fn pue_goes_from_the_hour_to_the_site_and_nothing_holds_on() {
    let (factors, book) = fixture();
    record(&factors, &book, "hall", 0, &[1.1, 1.2], Status::Measured, 1);
    let month = [(window(0, 30 * 24), 1.25, Status::Estimated)];
    let subject = factors.feeds().iter().find(|feed| feed.name == "hall").expect("configured").subject.clone();
    book.record_factors("hall", &subject, &month, UnixNanos(2)).expect("recorded");
    let cells = factors.pue(None, window(0, 31 * 24), None, &book).expect("read");
    let found: Vec<_> = cells.iter().map(|cell| (cell.value.get(), cell.granularity)).collect();
    assert_eq!(found, [(1.1, "hourly"), (1.2, "hourly"), (1.25, "monthly"), (1.3, "annual")]);
    let known = factors.pue(None, window(2, 3), Some(UnixNanos(1)), &book).expect("read");
    assert_eq!(known[0].granularity, "annual", "the month was not known then");
}

#[test]
fn series_that_do_not_fit_are_refused_with_their_key() {
    let refused = |text: &str| {
        let config = toml::from_str(text).expect("syntax");
        Factors::new(&config).expect_err(text).to_string()
    };
    let one = |rest: &str| refused(&format!("[[factor]]\nname = \"a\"\n{rest}"));
    assert!(one("").contains("factor.a.kind"));
    assert!(one("kind = \"mean\"").contains("average_consumption"));
    assert!(one("quantity = \"pue\"\nkind = \"average_consumption\"").contains("factor.a.kind"));
    assert!(one("quantity = \"pue\"\nprovider = \"neso\"").contains("factor.a.quantity"));
    assert!(one("provider = \"watttime\"\nzone = \"CAISO_NORTH\"").contains("factor.a.secret_file"));
    assert!(one("provider = \"neso\"\nkind = \"marginal_short_run\"").contains("gives average_consumption"));
    assert!(one("provider = \"neso\"\nevery = \"1s\"").contains("at least 10s"));
    assert!(one("provider = \"neso\"\nbackfill = \"2years\"").contains("400days"));
    let twice = "[[factor]]\nname = \"a\"\nprovider = \"neso\"\n[[factor]]\nname = \"a\"\nprovider = \"neso\"\n";
    assert!(refused(twice).contains("another series"));
}

#[test]
fn what_is_stored_under_a_name_as_another_kind_is_no_value_of_this_one() {
    let (factors, book) = fixture();
    let margin = factors.feeds().iter().find(|feed| feed.name == "margin").expect("configured");
    let cells = [(window(0, 1), 700.0, Status::Measured)];
    book.record_factors("grid", &margin.subject, &cells, UnixNanos(1)).expect("pushed before anybody asked");
    let found = factors.intensity(None, window(0, 1), Asked::default(), &book).expect("read");
    assert!(matches!(found[0].value, Rate::Between(..)), "{found:?}");
    assert!(found[0].provenance.steps.iter().any(|step| step.contains("grid") && step.contains("another kind")));
}
