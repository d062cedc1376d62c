//! `joulebook factors`: series of factors, listed and pushed.

use crate::arguments::{AdminForm, Connection, FactorsCommand, FormArguments, PushArguments};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use jiff::Timestamp;
use joulebook_proto::admin::{FactorCell, FactorSeries, ListFactorsRequest, PushFactorsRequest, PushFactorsResponse};
use joulebook_proto::query::IntensityKind;
use std::fs::File;
use std::path::Path;

/// Cells of one question: well below the largest message.
const CELLS_PER_QUESTION: usize = 20_000;
/// Larger files are sent in parts by whoever has them: the aggregator takes no more at once.
const MOST_CELLS: usize = 250_000;

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
    let cells = read(&arguments.file)?;
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

/// The cells of a file with the columns start, end, value and, if it has one, status. All of it is read before anything is
/// sent.
fn read(path: &Path) -> Result<Vec<FactorCell>, Failure> {
    let unusable = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| unusable(&error.to_string()))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let header = reader.headers().map_err(|error| unusable(&error.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let needed = |name: &str| column(name).ok_or_else(|| unusable(&format!("there is no column `{name}`")));
    let (start, end, value, status) = (needed("start")?, needed("end")?, needed("value")?, column("status"));
    let mut cells = Vec::new();
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
        cells.push(FactorCell {
            start_unix_nanos: instant(start)?,
            end_unix_nanos: instant(end)?,
            value: text(value).parse().map_err(|_| refused(&format!("`{}` is no number", text(value))))?,
            status: status.map_or("measured", text).to_owned(),
        });
        if cells.len() > MOST_CELLS {
            return Err(unusable(&format!("more than {MOST_CELLS} cells; send parts of it, nothing was sent")));
        }
    }
    if cells.is_empty() { Err(unusable("there is no cell in it")) } else { Ok(cells) }
}
