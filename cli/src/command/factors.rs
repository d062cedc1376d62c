//! `joulebook factors`: series of factors, listed and pushed.

use crate::arguments::{AdminForm, Connection, FactorsCommand, FormArguments, PushArguments, UnitName};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use jiff::Timestamp;
use joulebook_proto::admin::{FactorCell, FactorSeries, ListFactorsRequest, PushFactorsRequest, PushFactorsResponse};
use joulebook_proto::query::IntensityKind;
use joulebook_sci::quantity::Quantity;
use joulebook_sci::series::{Conflict, ends, in_order};
use joulebook_units::{UnixNanos, Window};
use std::fs::File;
use std::path::Path;

/// Cells of one question: well below the largest message.
const CELLS_PER_QUESTION: usize = 20_000;
/// Larger files are sent in parts by whoever has them: the aggregator takes no more at once.
const MOST_CELLS: usize = 250_000;
/// An intensity that is below this everywhere is one in kilograms.
const KILOGRAMS_BELOW: f64 = 2.0;
/// Length of a single cell without an end: an hour.
const SINGLE_CELL_NANOS: i64 = 3600 * UnixNanos::PER_SECOND;

pub(crate) async fn answer(connection: &Connection, command: &FactorsCommand) -> Result<String, Failure> {
    match command {
        FactorsCommand::List(FormArguments { output }) => {
            let question = ListFactorsRequest {};
            let listed = client::ask_admin(connection, async |mut client| client.list_factors(question).await).await?;
            match output {
                AdminForm::Table => Ok(table::factors(&listed.series)),
                AdminForm::Json => json::plain(&listed),
            }
        }
        FactorsCommand::Push(arguments) => push(connection, arguments).await,
    }
}

async fn push(connection: &Connection, arguments: &PushArguments) -> Result<String, Failure> {
    let quantity = arguments.quantity.quantity();
    let cells = read(&arguments.file, quantity, arguments.unit)?;
    let series = FactorSeries {
        name: arguments.series.clone(),
        quantity: arguments.quantity.word().to_owned(),
        kind: arguments.kind.map_or_else(String::new, |kind| word(kind.wire())),
        basis: arguments.basis.map_or_else(String::new, |basis| basis.word().to_owned()),
        zone: arguments.zone.clone().unwrap_or_else(|| arguments.series.clone()),
        source: arguments.source.clone(),
    };
    let mut sum = PushFactorsResponse::default();
    for part in cells.chunks(CELLS_PER_QUESTION) {
        let question = PushFactorsRequest { series: Some(series.clone()), cells: part.to_vec() };
        let pushed = client::ask_admin(connection, async |mut client| client.push_factors(question).await).await?;
        sum.recorded += pushed.recorded;
        sum.unchanged += pushed.unchanged;
        sum.revision_unix_nanos = sum.revision_unix_nanos.max(pushed.revision_unix_nanos);
    }
    match arguments.form.output {
        AdminForm::Table => Ok(format!("{} cells recorded, {} known already\n", sum.recorded, sum.unchanged)),
        AdminForm::Json => json::plain(&sum),
    }
}

/// The contract's word of a kind, as its enum spells it.
fn word(kind: IntensityKind) -> String {
    kind.as_str_name().trim_start_matches("INTENSITY_KIND_").to_lowercase()
}

/// The cells of a file with the columns start, value and, if it has them, end and status. Without ends each cell lasts until
/// the next one begins. All of it is read and checked before anything is sent: what is sent in several questions is not taken
/// back.
fn read(path: &Path, quantity: Quantity, unit: Option<UnitName>) -> Result<Vec<FactorCell>, Failure> {
    let unusable = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| unusable(&error.to_string()))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let header = reader.headers().map_err(|error| unusable(&error.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let needed = |name: &str| column(name).ok_or_else(|| unusable(&format!("there is no column `{name}`")));
    let (start, end, value, status) = (needed("start")?, column("end"), needed("value")?, column("status"));
    let mut cells: Vec<(u64, FactorCell)> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| unusable(&error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let text = |place: usize| record.get(place).unwrap_or_default();
        let refused = |what: &str| unusable(&format!("line {line}: {what}; nothing was sent"));
        let instant = |place: usize| {
            let at: Result<Timestamp, _> = text(place).parse();
            let nanos = at.ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
            nanos.ok_or_else(|| refused(&format!("`{}` is no time; write 2026-11-24T10:00:00Z", text(place))))
        };
        let begins = instant(start)?;
        let told: f64 = text(value).parse().map_err(|_| refused(&format!("`{}` is no number", text(value))))?;
        let told = told * unit.map_or(1.0, UnitName::factor);
        let cell = FactorCell {
            start_unix_nanos: begins,
            end_unix_nanos: end.map_or(Ok(begins), instant)?,
            value: quantity.check(told).map_err(|error| refused(&error.to_string()))?,
            status: status.map_or("measured", text).to_owned(),
        };
        cells.push((line, cell));
        if cells.len() > MOST_CELLS {
            return Err(unusable(&format!("more than {MOST_CELLS} cells; send parts of it, nothing was sent")));
        }
    }
    if cells.is_empty() {
        return Err(unusable("there is no cell in it"));
    }
    let small = cells.iter().all(|(_, cell)| cell.value < KILOGRAMS_BELOW);
    if quantity == Quantity::Intensity && unit.is_none() && small && cells.iter().any(|(_, cell)| cell.value > 0.0) {
        return Err(unusable("every value is below 2 g/kWh, as if in kg/kWh; say --unit; nothing was sent"));
    }
    if end.is_none() {
        cells.sort_by_key(|(_, cell)| cell.start_unix_nanos);
        let starts: Vec<UnixNanos> = cells.iter().map(|(_, cell)| UnixNanos(cell.start_unix_nanos)).collect();
        for ((_, cell), end) in cells.iter_mut().zip(ends(&starts, SINGLE_CELL_NANOS)) {
            cell.end_unix_nanos = end.0;
        }
    }
    let window = |cell: &FactorCell| Window::new(UnixNanos(cell.start_unix_nanos), UnixNanos(cell.end_unix_nanos));
    let mut plain = Vec::with_capacity(cells.len());
    for (line, cell) in &cells {
        let window = window(cell).filter(|window| !window.is_empty());
        let window = window
            .ok_or_else(|| unusable(&format!("line {line}: it does not end after it starts; nothing was sent")))?;
        plain.push((window, cell.value));
    }
    in_order(&plain).map_err(|Conflict { first, second }| {
        let mut lines = [first, second].map(|place| cells.get(place).map_or(0, |(line, _)| *line));
        lines.sort_unstable();
        let [first, second] = lines;
        unusable(&format!("lines {first} and {second} overlap: which one holds is not said; nothing was sent"))
    })?;
    Ok(cells.into_iter().map(|(_, cell)| cell).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<FactorCell>, Failure> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("grid.csv");
        std::fs::write(&path, text).expect("written");
        read(&path, Quantity::Intensity, None)
    }

    #[test]
    fn a_file_without_ends_has_cells_that_last_until_the_next_begins() {
        let text = "start,value\n2026-01-01T01:00:00Z,20\n2026-01-01T00:00:00Z,10\n2026-01-01T02:00:00Z,30\n";
        let cells = read_text(text).expect("three");
        let hours: Vec<i64> = cells
            .iter()
            .map(|cell| (cell.end_unix_nanos - cell.start_unix_nanos) / 3600 / UnixNanos::PER_SECOND)
            .collect();
        assert_eq!(hours, [1, 1, 1]);
        assert!(cells.windows(2).all(|pair| pair[0].end_unix_nanos == pair[1].start_unix_nanos));
        let told = read_text("start,end,value\n2026-01-01T00:00:00Z,2026-01-01T00:05:00Z,10\n").expect("one");
        assert_eq!(told[0].end_unix_nanos - told[0].start_unix_nanos, 300 * UnixNanos::PER_SECOND);
        assert!(read_text("start,end,value\n2026-01-01T00:00:00Z,,10\n").is_err(), "an end that is not told");
    }
}
