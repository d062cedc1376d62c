//! Tables for reading, 100 columns wide: the unit in the header, `unknown` where a value is not known.

mod balance;
mod care;
mod comparison;
mod epochs;
mod factors;
mod rows;
mod training;

pub(crate) use balance::explanation;
pub(crate) use care::{backups, instant, status};
pub(crate) use comparison::comparison;
pub(crate) use epochs::alias;
pub(crate) use factors::factors;
pub(crate) use rows::energy_rows;
pub(crate) use training::{pool, pools};

use super::quantity::{self, UNKNOWN, energy_unit, mass_unit, number, percent, show};
use super::simulated;
use crate::command::version_name;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use joulebook_proto::query::{Energy, MeterLag, Reconciliation, SciAnswer};
use joulebook_units::Microjoules;

const WIDTH: u16 = 100;

/// A line above, under the header and below; none between rows, which are many.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('═').junction('═'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// An empty table of the house's style.
fn sheet(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(WIDTH).set_header(header);
    table
}

/// One row a model version: score, interval, carbon, energy, coverage; then the energy by part and what to know of it.
pub(crate) fn scores(answers: &[SciAnswer]) -> String {
    if answers.is_empty() {
        return "no model version was served in the window\nnext: joulebook energy --by workload\n".to_owned();
    }
    let per = Scale::of(answers);
    let joules = energy_unit(answers.iter().map(|answer| energy(answer).total_j));
    let mass = mass_unit(answers.iter().map(|answer| answer.carbon.and_then(|carbon| carbon.total_g)));
    let mut table = sheet(vec![
        "model version".to_owned(),
        per.header(),
        "95 % interval".to_owned(),
        format!("O ({})", mass.symbol),
        format!("M ({})", mass.symbol),
        format!("energy ({})", joules.symbol),
        "units".to_owned(),
        "coverage".to_owned(),
    ]);
    for answer in answers {
        let carbon = answer.carbon.unwrap_or_default();
        let r = answer.r.clone().unwrap_or_default();
        table.add_row(vec![
            marked_name(answer),
            per.score(answer),
            per.interval(answer),
            show(carbon.o_g, mass),
            show(carbon.m_g, mass),
            show(energy(answer).total_j, joules),
            format!("{} {}", number(r.value), r.kind),
            percent(answer.quality.as_ref().and_then(|quality| quality.joint_coverage)),
        ]);
    }
    let mut text = format!("{}{table}\n\n{}\n\n", title(answers), parts(answers));
    answers.iter().for_each(|answer| text += &(remarks(answer) + &training::extended(answer)));
    text + &next(answers)
}

/// One row a model version and level, and how far the levels lie apart.
pub(crate) fn levels(answers: &[SciAnswer]) -> String {
    if answers.is_empty() {
        return scores(answers);
    }
    let per = Scale::of(answers);
    let joules = energy_unit(answers.iter().map(|answer| energy(answer).total_j));
    let header = ["model version", "level", "label"].map(str::to_owned).into_iter();
    let mut table =
        sheet(header.chain([per.header(), "95 % interval".into(), format!("energy ({})", joules.symbol)]).collect());
    let mut names: Vec<String> = Vec::new();
    for answer in answers {
        let name = version_name(answer);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut ratios = String::new();
    for name in &names {
        let of_name: Vec<&SciAnswer> = answers.iter().filter(|answer| version_name(answer) == *name).collect();
        for answer in &of_name {
            let boundary = answer.boundary.clone().unwrap_or_default();
            let total = show(energy(answer).total_j, joules);
            let score = per.score(answer);
            let shown = marked_name(answer);
            table.add_row(vec![shown, boundary.level, boundary.label, score, per.interval(answer), total]);
        }
        let at = |level: &str| {
            let found = of_name.iter().find(|a| a.boundary.as_ref().is_some_and(|boundary| boundary.level == level));
            found.and_then(|answer| energy(answer).total_j).filter(|joules| *joules > 0.0)
        };
        let (base, narrow) = at("accelerator").map_or(("L1", at("host")), |joules| ("L0", Some(joules)));
        let ratio = at("facility").zip(narrow).map(|(wide, narrow)| wide / narrow);
        ratios += &format!("{name}: L3/{base} = {}\n", number(ratio));
    }
    format!("{}{table}\n\n{ratios}{}", title(answers), next(answers))
}

/// A model version's name, and whether its hardware is simulated.
fn marked_name(answer: &SciAnswer) -> String {
    version_name(answer) + &simulated::mark(answer.simulated, answer.simulated_share)
}

fn energy(answer: &SciAnswer) -> Energy {
    answer.energy.clone().unwrap_or_default()
}

fn title(answers: &[SciAnswer]) -> String {
    let Some(answer) = answers.first() else { return String::new() };
    let (window, idle) = (answer.window.clone().unwrap_or_default(), answer.idle.clone().unwrap_or_default());
    format!("{} … {} · idle by {}\n", window.start, window.end, idle.policy)
}

fn parts(answers: &[SciAnswer]) -> Table {
    let columns = |energy: &Energy| {
        [
            energy.accelerator_j,
            energy.host_j,
            energy.platform_j,
            energy.dedicated_idle_j,
            energy.pool_idle_j,
            energy.overhead_j,
            energy.total_j,
        ]
    };
    let unit = energy_unit(answers.iter().flat_map(|answer| columns(&energy(answer))));
    let names = ["accelerator", "host", "platform", "own idle", "pool idle", "overhead", "total"];
    let mut table = sheet([format!("energy ({})", unit.symbol)].into_iter().chain(names.map(str::to_owned)).collect());
    for answer in answers {
        let values = columns(&energy(answer)).map(|value| show(value, unit));
        table.add_row([marked_name(answer)].into_iter().chain(values).collect::<Vec<_>>());
    }
    table
}

fn remarks(answer: &SciAnswer) -> String {
    let (quality, boundary) = (answer.quality.clone().unwrap_or_default(), answer.boundary.clone().unwrap_or_default());
    let (intensity, pue) = (answer.intensity.clone().unwrap_or_default(), answer.pue.clone().unwrap_or_default());
    let tokens = answer.tokens.unwrap_or_default();
    let count = |value: Option<u64>| value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string());
    let flags = if quality.flags.is_empty() { "none".to_owned() } else { quality.flags.join(", ") };
    let mut text = format!(
        "{}: {} at level {} · flags {flags}\n  tokens in {} (cached {}), out {} · energy known for {} of the window\n  \
         {} g/kWh for {} ({}) · PUE {} ({})\n",
        marked_name(answer),
        boundary.label,
        boundary.level,
        count(tokens.input),
        count(tokens.cached),
        count(tokens.output),
        percent(quality.energy_measured_fraction),
        number(intensity.effective_g_per_kwh),
        if intensity.zone.is_empty() { UNKNOWN } else { &intensity.zone },
        intensity.granularity,
        number(pue.effective),
        pue.source,
    );
    text += &answer.reconciliation.as_ref().map_or_else(String::new, input);
    let accelerators = answer.hardware.iter().filter(|part| part.component == "accelerator").map(|part| {
        let memory = part.memory_bytes.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
        let driver = part.driver.as_ref().map_or_else(String::new, |driver| format!(", driver {driver}"));
        let model = part.model.as_deref().unwrap_or(UNKNOWN);
        format!("{} × {model}{memory}{driver}", number(part.count))
    });
    let accelerators: Vec<String> = accelerators.collect();
    if !accelerators.is_empty() {
        text += &format!("  accelerators of its nodes: {}\n", accelerators.join("; "));
    }
    if let Some(reason) = answer.sci.as_ref().and_then(|sci| sci.null_reason.as_ref()) {
        text += &format!("  score unknown: {reason}\n");
    }
    text
}

/// How late a meter is, and for how much of its time that is known.
fn lag(lag: &MeterLag) -> String {
    let (Some(least), Some(most)) = (lag.least_seconds, lag.most_seconds) else { return UNKNOWN.to_owned() };
    let range = if least < most { format!("{least} to {most} s") } else { format!("{least} s") };
    // Whole percents: the first readings of an hour have the lag of the hour before.
    if lag.known_fraction > 0.99 { range } else { format!("{range} for {}", percent(Some(lag.known_fraction))) }
}

/// What is known of the nodes' inputs.
fn input(input: &Reconciliation) -> String {
    let joules = |microjoules| number(Some(Microjoules(microjoules).to_joules().0));
    let mut text = format!(
        "  platform of its nodes {} ± {} J, {}\n",
        joules(input.platform_uj),
        joules(input.platform_bound_uj),
        input.platform_method.replace('_', " "),
    );
    if let [first, others @ ..] = input.walls.as_slice() {
        let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let measured = percent(input.measured_fraction);
        text += &format!("  wall {first}{others}, for {measured} of their components' energy\n");
    }
    if input.overcount_uj > 0 {
        let part = input.overcount_fraction.map_or(String::new(), |part| format!(" ({} of it)", percent(Some(part))));
        text += &format!("  overcount {} J{part}, trust {}\n", joules(input.overcount_uj), input.trust);
    }
    text
}

fn next(answers: &[SciAnswer]) -> String {
    match answers.iter().find(|answer| answer.subject.as_ref().is_some_and(|s| s.model_version.is_some())) {
        Some(answer) => format!("next: joulebook explain --model {}\n", selection(answer)),
        None => "next: joulebook energy --by workload\n".to_owned(),
    }
}

/// What selects an answer's row alone.
fn selection(answer: &SciAnswer) -> String {
    let subject = answer.subject.clone().unwrap_or_default();
    let (model, version) = (subject.model.unwrap_or_default(), subject.model_version.unwrap_or_default());
    let mut words = format!("{model}@{version}");
    if subject.label.contains("[weights") || subject.label.contains(", weights") {
        words += &subject.model_version_digest.map_or_else(String::new, |digest| format!(" --weights {digest}"));
    }
    if subject.label.contains("set-up") {
        words += &subject.serving_config.map_or_else(String::new, |digest| format!(" --serving-config {digest}"));
    }
    words
}

/// How scores are shown: a mass per unit, or per 1,000 units where single ones would be tiny.
struct Scale {
    unit: quantity::Unit,
    per: f64,
    kind: String,
}

impl Scale {
    fn of(answers: &[SciAnswer]) -> Self {
        let values = || answers.iter().map(|answer| answer.sci.as_ref().and_then(|sci| sci.value));
        let largest = values().flatten().fold(0.0f64, f64::max);
        let kinds: Vec<String> = answers.iter().filter_map(|answer| answer.r.clone()).map(|r| r.kind).collect();
        let first = kinds.first().cloned().unwrap_or_else(|| "unit".to_owned());
        let mixed = kinds.iter().any(|kind| *kind != first);
        let per = if largest > 0.0 && largest < 1e-6 { 1000.0 } else { 1.0 };
        let kind = if mixed { "unit (see units)".to_owned() } else { first.replace('_', " ") };
        Self { unit: mass_unit(values().map(|value| value.map(|value| value * per))), per, kind }
    }

    fn header(&self) -> String {
        let per = if self.per > 1.0 { format!("1,000 {}s", self.kind) } else { self.kind.clone() };
        format!("{} CO2e per {per}", self.unit.symbol)
    }

    fn score(&self, answer: &SciAnswer) -> String {
        show(answer.sci.as_ref().and_then(|sci| sci.value).map(|value| value * self.per), self.unit)
    }

    fn interval(&self, answer: &SciAnswer) -> String {
        let end = |value: Option<f64>| show(value.map(|value| value * self.per), self.unit);
        match answer.sci.as_ref().map(|sci| (sci.low, sci.high)) {
            Some((None, None)) | None => UNKNOWN.to_owned(),
            Some((low, high)) => format!("{} … {}", end(low), end(high)),
        }
    }
}
