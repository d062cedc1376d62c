//! Tables for reading, 100 columns wide: the unit in the header, `unknown` where a value is not known.

mod balance;

pub(crate) use balance::explanation;

use super::csv::key_names;
use super::quantity::{self, UNKNOWN, energy_unit, exact_joules, mass_unit, number, percent, show};
use crate::command::version_name;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use joulebook_proto::query::{Energy, GetEnergyResponse, SciAnswer};

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
            version_name(answer),
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
    answers.iter().for_each(|answer| text += &remarks(answer));
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
            table.add_row(vec![name.clone(), boundary.level, boundary.label, score, per.interval(answer), total]);
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

/// One row a row, exact joules, and their sum.
pub(crate) fn energy_rows(answer: &GetEnergyResponse) -> String {
    let keys = key_names(answer);
    let ratio = answer.rows.iter().any(|row| row.joules_per_unit.is_some() || row.per_unit_null_reason.is_some());
    let mut header = keys.clone();
    header.extend(["energy (J)", "share", "CPU time (s)", "method"].map(str::to_owned));
    if ratio {
        header.push("J per unit".to_owned());
    }
    let mut table = sheet(header);
    for row in &answer.rows {
        let part = |name: &String| row.key.iter().find(|part| part.name == *name).map(|part| part.value.clone());
        let mut cells: Vec<String> = keys.iter().map(|name| part(name).unwrap_or_default()).collect();
        #[allow(clippy::cast_precision_loss, reason = "a percentage for reading")]
        let share = row.microjoules.map(|own| own as f64 / answer.total_microjoules.max(1) as f64);
        cells.push(row.microjoules.map_or_else(|| UNKNOWN.to_owned(), exact_joules));
        cells.push(percent(share));
        cells.push(row.cpu_seconds.map_or_else(|| "–".to_owned(), |seconds| number(Some(seconds))));
        cells.push(row.method.clone());
        if ratio {
            let reason = row.per_unit_null_reason.clone().unwrap_or_else(|| "no reason given".to_owned());
            cells.push(row.joules_per_unit.map_or_else(|| format!("unknown: {reason}"), |value| number(Some(value))));
        }
        table.add_row(cells);
    }
    format!(
        "{table}\ntotal {} J · energy known for {} of the window · cut at {} s\nnext: joulebook sci --level all\n",
        exact_joules(answer.total_microjoules),
        percent(answer.energy_measured_fraction),
        answer.resolution_seconds,
    )
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
        table.add_row([version_name(answer)].into_iter().chain(values).collect::<Vec<_>>());
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
        version_name(answer),
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
    if let Some(reason) = answer.sci.as_ref().and_then(|sci| sci.null_reason.as_ref()) {
        text += &format!("  score unknown: {reason}\n");
    }
    text
}

fn next(answers: &[SciAnswer]) -> String {
    match answers.iter().find(|answer| answer.subject.as_ref().is_some_and(|s| s.model_version.is_some())) {
        Some(answer) => format!("next: joulebook explain --model {}\n", version_name(answer)),
        None => "next: joulebook energy --by workload\n".to_owned(),
    }
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
