//! A file of comma-separated values with a header, by a mapping.

use super::Unread;
use crate::factor::feed::Feed;
use crate::factor::mapping::{Cells, DEFAULT_CELL_SECONDS, MappingError, RawCell};
use crate::store::factors::MAX_CELLS;
use std::io::Read;

/// Cells of a file, and the rows that were refused. A file of too many rows is refused before it is read to its end.
pub(in crate::factor) fn read(feed: &Feed, file: impl Read) -> Result<Cells, Unread> {
    let mapping = &feed.config.mapping;
    let delimiter = mapping.delimiter.and_then(|delimiter| u8::try_from(delimiter).ok()).unwrap_or(b',');
    let mut reader =
        ::csv::ReaderBuilder::new().delimiter(delimiter).trim(::csv::Trim::All).flexible(true).from_reader(file);
    let strange = |error: ::csv::Error| Unread::Strange(error.to_string());
    let header = reader.headers().map_err(strange)?.clone();
    // A byte order mark belongs to no name.
    let names: Vec<String> = header.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    if names.iter().all(String::is_empty) {
        return Err(MappingError::Empty.into());
    }
    let place = |name: &str| {
        let missing = || MappingError::Missing { name: name.to_owned(), found: names.clone() };
        names.iter().position(|other| other == name).ok_or_else(missing)
    };
    let start = place(mapping.start.as_deref().unwrap_or("start"))?;
    let value = place(mapping.value.as_deref().unwrap_or("value"))?;
    // Columns of these names are what they are called.
    let told = |mapped: Option<&str>, usual: &str| match mapped {
        Some(name) => place(name).map(Some),
        None => Ok(names.iter().position(|name| name == usual)),
    };
    let end = told(mapping.end.as_deref(), "end")?;
    let status = told(mapping.status.as_deref(), "status")?;
    let mut reading = mapping.reading(feed.subject.quantity)?;
    for record in reader.records() {
        let record = record.map_err(strange)?;
        if reading.taken() == MAX_CELLS {
            return Err(Unread::Refused(format!("it has more than {MAX_CELLS} rows; split it by years")));
        }
        let text = |place: usize| record.get(place).unwrap_or_default().to_owned();
        reading.take(&RawCell {
            line: record.position().map_or(0, ::csv::Position::line),
            start: text(start),
            end: end.map(text),
            value: text(value),
            status: status.map(text),
        });
    }
    Ok(reading.cells(DEFAULT_CELL_SECONDS)?)
}
