//! From files and documents of any layout to cells: where time, value and status stand, in which unit and time zone.
//!
//! A value that cannot be one is refused with its line; where more than one in a hundred is, everything is. Two different
//! values for one instant are refused always, as is a table that seems to be in another unit.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use joulebook_sci::quantity::Quantity;
use joulebook_sci::series::{Conflict, Status, ends, in_order};
use joulebook_units::{UnixNanos, Window};
use serde::Deserialize;

/// Most refused values in a delivery that is used all the same, as a share.
const MOST_REFUSED: f64 = 0.01;
/// An intensity that is below this everywhere is one in kilograms.
const KILOGRAMS_BELOW: f64 = 2.0;
/// Length of the last cell of a table without ends, where the cell before does not say.
pub(super) const DEFAULT_CELL_SECONDS: i64 = 3600;
/// Most refused values that are told one by one.
const MOST_TOLD: usize = 100;

/// `mapping` of `[[factor]]`: names of columns (csv) or pointers to fields of each element (json).
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// json: pointer to the list, for example /data. Unset: the document is the list.
    pub items: Option<String>,
    /// Start of the cell. Unset: start.
    pub start: Option<String>,
    /// End of the cell. Unset: csv: the column end where there is one; else each lasts until the next one begins.
    pub end: Option<String>,
    /// The value. Unset: value.
    pub value: Option<String>,
    /// Its status. Unset: csv: the column status where there is one; else all have `all_are`.
    pub status: Option<String>,
    /// Status of all values: measured, estimated or forecast. Unset: measured.
    pub all_are: Option<String>,
    /// Unit of the values: g/kWh, kg/kWh, kg/MWh or lb/MWh. Unset: that of the quantity.
    pub unit: Option<String>,
    /// Time zone of times that state none, for example Europe/Berlin. Unset: such times are refused.
    pub time_zone: Option<String>,
    /// csv: the byte between columns. Unset: a comma.
    pub delimiter: Option<char>,
}

/// One value as it stands in a table or document.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RawCell {
    /// Its line in the file, or its place in the list, from 1.
    pub line: u64,
    /// Start, as it is written.
    pub start: String,
    /// End, as it is written.
    pub end: Option<String>,
    /// Value, as it is written.
    pub value: String,
    /// Status, as it is written.
    pub status: Option<String>,
}

/// Cells of a table or document.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cells {
    /// In order, without overlap.
    pub cells: Vec<(Window, f64, Status)>,
    /// Values that were refused, each with its line: the first hundred.
    pub refused: Vec<String>,
    /// How many were.
    pub refusals: usize,
}

/// Why a table or document is not used at all.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MappingError {
    /// There is no value in it.
    #[error("there is no value in it")]
    Empty,
    /// A column or field that the mapping names is not there.
    #[error("there is no `{name}`; it has {}", found.join(", "))]
    Missing {
        /// The column or field.
        name: String,
        /// What is there instead.
        found: Vec<String>,
    },
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// Too many values are none.
    #[error("{count} of {of} values are refused, more than 1 in 100; the first: {first}")]
    Refused {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// The first of them, with its line.
        first: String,
    },
    /// Two values for one instant.
    #[error(
        "lines {first} and {second} have different values for one instant; if a clock was set back between them, give times with their offset"
    )]
    Conflict {
        /// A line.
        first: u64,
        /// Another one.
        second: u64,
    },
    /// All values are so small that the unit must be another.
    #[error("every value is below 2 g/kWh, as if in kg/kWh; say mapping.unit")]
    Kilograms,
}

impl Mapping {
    /// What a source's own documentation says of its values: their unit, whatever their size.
    pub(super) fn in_unit(unit: &str) -> Self {
        Self { unit: Some(unit.to_owned()), ..Self::default() }
    }

    /// Refuses words that nobody knows; says which key and why.
    pub(super) fn check(&self, quantity: Quantity) -> Result<(), (&'static str, String)> {
        self.factor(quantity).ok_or_else(|| ("unit", "write g/kWh, kg/kWh, kg/MWh or lb/MWh".to_owned()))?;
        self.common_status().ok_or_else(|| ("all_are", "write measured, estimated or forecast".to_owned()))?;
        self.zone().map_err(|why| ("time_zone", why))?;
        match self.delimiter {
            Some(delimiter) if !delimiter.is_ascii() => Err(("delimiter", "it must be one byte".to_owned())),
            _ => Ok(()),
        }
    }

    /// What a value is multiplied by.
    fn factor(&self, quantity: Quantity) -> Option<f64> {
        match (self.unit.as_deref(), quantity) {
            (None, _) => Some(1.0),
            (Some("g/kWh" | "kg/MWh"), Quantity::Intensity) => Some(1.0),
            (Some("kg/kWh"), Quantity::Intensity) => Some(1000.0),
            // A pound is 453.59237 g.
            (Some("lb/MWh"), Quantity::Intensity) => Some(0.453_592_37),
            _ => None,
        }
    }

    fn common_status(&self) -> Option<Status> {
        self.all_are.as_deref().map_or(Some(Status::Measured), Status::of)
    }

    fn zone(&self) -> Result<Option<TimeZone>, String> {
        let zone = self.time_zone.as_deref().map(TimeZone::get).transpose();
        zone.map_err(|error| format!("{error}; write for example Europe/Berlin"))
    }

    /// Cells of raw ones, by every rule above.
    ///
    /// # Errors
    /// See [`MappingError`].
    pub fn cells(&self, raw: &[RawCell], quantity: Quantity) -> Result<Cells, MappingError> {
        self.cells_each(raw, quantity, DEFAULT_CELL_SECONDS)
    }

    /// The same, where a single cell without an end is `seconds` long.
    ///
    /// # Errors
    /// See [`MappingError`].
    pub fn cells_each(&self, raw: &[RawCell], quantity: Quantity, seconds: i64) -> Result<Cells, MappingError> {
        let mut reading = self.reading(quantity)?;
        raw.iter().for_each(|cell| reading.take(cell));
        reading.cells(seconds)
    }

    /// Reads cells one by one: of a long table nothing is kept as it was written.
    ///
    /// # Errors
    /// A time zone that nobody knows.
    pub fn reading(&self, quantity: Quantity) -> Result<Reading, MappingError> {
        Ok(Reading {
            quantity,
            factor: self.factor(quantity).unwrap_or(1.0),
            unit_is_said: self.unit.is_some(),
            common: self.common_status().unwrap_or(Status::Measured),
            zone: self.zone().map_err(MappingError::Unreadable)?,
            read: Vec::new(),
            refused: Vec::new(),
            refusals: 0,
        })
    }
}

/// Cells that are being read.
pub struct Reading {
    quantity: Quantity,
    factor: f64,
    unit_is_said: bool,
    common: Status,
    zone: Option<TimeZone>,
    read: Vec<(u64, Point)>,
    refused: Vec<String>,
    refusals: usize,
}

impl Reading {
    /// How many were read, refused ones included.
    pub fn taken(&self) -> usize {
        self.read.len() + self.refusals
    }

    /// Takes the next one.
    pub fn take(&mut self, cell: &RawCell) {
        match point(cell, self.quantity, self.factor, self.common, self.zone.as_ref()) {
            Ok(point) => self.read.push((cell.line, point)),
            Err(why) => {
                self.refusals += 1;
                if self.refused.len() < MOST_TOLD {
                    self.refused.push(format!("line {}: {why}", cell.line));
                }
            }
        }
    }

    /// The cells, where a single one without an end is `seconds` long.
    ///
    /// # Errors
    /// See [`MappingError`].
    pub fn cells(mut self, seconds: i64) -> Result<Cells, MappingError> {
        let of = self.taken();
        if of == 0 {
            return Err(MappingError::Empty);
        }
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let share = self.refusals as f64 / of as f64;
        if share > MOST_REFUSED || self.read.is_empty() {
            return Err(MappingError::Refused { count: self.refusals, of, first: self.refused.swap_remove(0) });
        }
        let small = |(_, point): &(u64, Point)| point.value < KILOGRAMS_BELOW;
        let nothing = self.read.iter().all(|(_, point)| point.value <= 0.0);
        if self.quantity == Quantity::Intensity && !self.unit_is_said && self.read.iter().all(small) && !nothing {
            return Err(MappingError::Kilograms);
        }
        let ended = with_ends(&mut self.read, seconds);
        let plain: Vec<(Window, f64)> = ended.iter().map(|(window, value, _, _)| (*window, *value)).collect();
        let line = |index: usize| ended.get(index).map_or(0, |cell| cell.3);
        let order = in_order(&plain).map_err(|Conflict { first, second }| MappingError::Conflict {
            first: line(first).min(line(second)),
            second: line(first).max(line(second)),
        })?;
        let cell = |index: usize| ended.get(index).map(|(window, value, status, _)| (*window, *value, *status));
        let cells = order.into_iter().filter_map(cell).collect();
        Ok(Cells { cells, refused: self.refused, refusals: self.refusals })
    }
}

/// A value with its time.
struct Point {
    start: UnixNanos,
    end: Option<UnixNanos>,
    value: f64,
    status: Status,
}

fn point(
    raw: &RawCell,
    quantity: Quantity,
    factor: f64,
    common: Status,
    zone: Option<&TimeZone>,
) -> Result<Point, String> {
    let start = instant(&raw.start, zone)?;
    let end = raw.end.as_deref().map(|text| instant(text, zone)).transpose()?;
    if end.is_some_and(|end| end <= start) {
        return Err(format!("it ends at {} and begins at {}", raw.end.as_deref().unwrap_or_default(), raw.start));
    }
    let value: f64 = raw.value.trim().parse().map_err(|_| format!("`{}` is no number", raw.value))?;
    let value = quantity.check(value * factor).map_err(|error| error.to_string())?;
    let status = match &raw.status {
        Some(word) => Status::of(word).ok_or_else(|| format!("`{word}` is no status"))?,
        None => common,
    };
    Ok(Point { start, end, value, status })
}

/// An instant: RFC 3339, seconds since 1970, or a local time of `zone`. A local time that a clock that was set forward
/// skipped is none; one that it passed twice is the first of the two, so that two values for it are seen as a conflict.
pub(super) fn instant(text: &str, zone: Option<&TimeZone>) -> Result<UnixNanos, String> {
    let text = text.trim();
    let nanos =
        |at: Timestamp| i64::try_from(at.as_nanosecond()).map(UnixNanos).map_err(|_| format!("`{text}` is too far"));
    if let Ok(at) = text.parse::<Timestamp>() {
        return nanos(at);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(UnixNanos::from_seconds(seconds));
    }
    // As some services write it, without seconds.
    if let Some(minutes) = text.strip_suffix('Z')
        && let Ok(local) = minutes.parse::<DateTime>()
    {
        return local.to_zoned(TimeZone::UTC).map_err(|error| error.to_string()).and_then(|at| nanos(at.timestamp()));
    }
    let local: DateTime = text.parse().map_err(|_| format!("`{text}` is no time; write it as 2026-11-24T10:00:00Z"))?;
    let zone = zone.ok_or_else(|| format!("`{text}` states no offset, and mapping.time_zone is not set"))?;
    let placed = zone.to_ambiguous_zoned(local);
    if matches!(placed.offset(), AmbiguousOffset::Gap { .. }) {
        return Err(format!("`{text}` is no time there: the clock was set forward"));
    }
    placed.earlier().map_err(|error| error.to_string()).and_then(|at| nanos(at.timestamp()))
}

type Ended = (Window, f64, Status, u64);

/// Cells with ends: a cell without one lasts until the next begins, but not over a hole: then it is as long as a usual one.
fn with_ends(read: &mut [(u64, Point)], single_seconds: i64) -> Vec<Ended> {
    read.sort_by_key(|(line, point)| (point.start, *line));
    let starts: Vec<UnixNanos> = read.iter().map(|(_, point)| point.start).collect();
    let untold = ends(&starts, single_seconds.saturating_mul(UnixNanos::PER_SECOND));
    let mut ended = Vec::with_capacity(read.len());
    for ((line, point), until) in read.iter().zip(untold) {
        let window = Window::new(point.start, point.end.unwrap_or(until));
        ended.extend(window.map(|window| (window, point.value, point.status, *line)));
    }
    ended
}

#[cfg(test)]
mod tests;
