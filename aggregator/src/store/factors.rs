//! Stored series of factors: what is recorded stays, and a correction is a further revision beside it.
//!
//! A revision is the instant at which cells were recorded, later than every other of its series. What was known at an
//! earlier instant is what has no later revision.

use super::block::fact::Fact;
use super::block::factor::{CellsFact, SeriesFact, SeriesSubject};
use super::key::{self, FactorKey};
use super::{Book, Direction, Durability, StoreError, Table};
use joulebook_sci::series::{SeriesCell, Status};
use joulebook_units::{UnixNanos, Window};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Longest name of a series in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest cell.
pub const MAX_CELL_SECONDS: i64 = 366 * 86_400;
/// Most cells of one delivery: two years of 5 minutes, in memory that a small machine has.
pub const MAX_CELLS: usize = 250_000;
/// Cells under one key.
const CELLS_PER_KEY: usize = 4096;
/// Most time under one key, but for longer cells, which have keys of their own.
const KEY_SECONDS: i64 = 32 * 86_400;

/// What became of cells that were recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// New ones, and those that differ from what was known.
    pub recorded: usize,
    /// Those that were known already.
    pub unchanged: usize,
    /// The revision; none if nothing was recorded.
    pub revision: Option<UnixNanos>,
}

/// Why cells are not recorded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// A name that no series may have.
    #[error("`{0}` is no name of a series: write 1 to {MAX_NAME_BYTES} bytes of letters, digits and -_.:/")]
    Name(String),
    /// Too many cells.
    #[error("{0} cells in one delivery, at most {MAX_CELLS} are taken: send them in parts")]
    TooMany(usize),
    /// A cell that holds at no time, or too long.
    #[error("the cell that begins at {0} ns must end after it, within 366 days")]
    Window(i64),
    /// The series is about something else.
    #[error("the series {name} has {known}, not {given}: take another name")]
    Other {
        /// Name of the series.
        name: String,
        /// What it is about.
        known: String,
        /// What was given.
        given: String,
    },
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a series knows of a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Every cell that touches it, of every revision.
    pub cells: Vec<SeriesCell>,
    /// Whether there are cells after it.
    pub later: bool,
}

impl Book {
    /// Every series of factors, by name.
    pub fn factor_series(&self) -> BTreeMap<String, SeriesFact> {
        self.read().factors.clone()
    }

    /// What a series is about.
    pub fn factor_subject(&self, name: &str) -> Option<SeriesSubject> {
        self.read().factors.get(name).map(|series| series.subject.clone())
    }

    /// What a series knows of a window, or knew at the instant `as_of`.
    ///
    /// # Errors
    /// The store's.
    pub fn factors(&self, name: &str, window: Window, as_of: Option<UnixNanos>) -> Result<Known, StoreError> {
        let mut known = Known::default();
        let counts = |key: &FactorKey| as_of.is_none_or(|as_of| key.revision <= as_of);
        for (long, reach) in [(false, KEY_SECONDS), (true, MAX_CELL_SECONDS)] {
            let first = FactorKey::from(name, long, window.start().plus_seconds(-reach));
            let end = FactorKey::from(name, long, window.end());
            let mut failed = None;
            self.store().scan(Table::Meta, &first..&end, Direction::Forward, &mut |key, value| {
                let read = FactorKey::decode(key).and_then(|key_of| Ok((key_of, CellsFact::decode(key, value)?)));
                match read {
                    Ok((key, cells)) if counts(&key) => {
                        // Cells under one key reach far: some of them lie after the window.
                        for cell in cells.values(key.revision) {
                            known.later |= cell.window.start() >= window.end();
                            known.cells.extend(Some(cell).filter(|cell| cell.window.intersect(window).is_some()));
                        }
                        ControlFlow::Continue(())
                    }
                    Ok(_) => ControlFlow::Continue(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
            let last = FactorKey::from(name, long, UnixNanos(i64::MAX));
            self.store().scan(Table::Meta, &end..&last, Direction::Forward, &mut |key, _| {
                match FactorKey::decode(key) {
                    Ok(key) => known.later |= counts(&key),
                    Err(error) => failed = Some(error),
                }
                if known.later || failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(known)
    }

    /// Records cells of a series at the instant `now`; they must not overlap. What says the same as the newest revision of
    /// its time and status changes nothing. All or nothing, and on the disk when it returns.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn record_factors(
        &self,
        name: &str,
        subject: &SeriesSubject,
        cells: &[(Window, f64, Status)],
        now: UnixNanos,
    ) -> Result<Recorded, RecordError> {
        check_name(name)?;
        if cells.len() > MAX_CELLS {
            return Err(RecordError::TooMany(cells.len()));
        }
        let too_long =
            |window: &Window| window.is_empty() || window.end() > window.start().plus_seconds(MAX_CELL_SECONDS);
        if let Some((window, ..)) = cells.iter().find(|(window, ..)| too_long(window)) {
            return Err(RecordError::Window(window.start().0));
        }
        // Read before the commit is begun: damage in a factor must not latch what rows go through.
        let fresh = self.fresh(name, cells)?;
        let mut refused = None;
        let recorded = self.transact(Durability::Synced, |catalog, changes| {
            let before = catalog.factors.get(name);
            if let Some(series) = before.filter(|series| series.subject != *subject) {
                let (known, given) = (describe(&series.subject), describe(subject));
                refused = Some(RecordError::Other { name: name.to_owned(), known, given });
                return Ok(None);
            }
            let unchanged = cells.len() - fresh.len();
            let (Some(first), Some(last)) =
                (fresh.iter().map(|cell| cell.0.start()).min(), fresh.iter().map(|cell| cell.0.end()).max())
            else {
                return Ok(Some(Recorded { recorded: 0, unchanged, revision: None }));
            };
            let revision = before.map_or(now, |series| now.max(UnixNanos(series.last_revision.0.saturating_add(1))));
            let fact = SeriesFact {
                subject: subject.clone(),
                revisions: before.map_or(1, |series| series.revisions.saturating_add(1)),
                last_revision: revision,
                first: before.map_or(first, |series| series.first.min(first)),
                last: before.map_or(last, |series| series.last.max(last)),
            };
            let recorded = fresh.len();
            for (long, start, cells) in parts(fresh) {
                let key = FactorKey { name: name.to_owned(), long, start, revision }.encode();
                let value = CellsFact(cells).encode(&key);
                changes.writes.put(Table::Meta, key, value);
            }
            let key = key::factor_series(name);
            changes.writes.put(Table::Meta, key.clone(), fact.encode(&key));
            catalog.factors.insert(name.to_owned(), fact);
            Ok(Some(Recorded { recorded, unchanged, revision: Some(revision) }))
        })?;
        match (recorded, refused) {
            (Some(recorded), _) => Ok(recorded),
            (None, refused) => Err(refused.unwrap_or_else(|| RecordError::Name(name.to_owned()))),
        }
    }

    /// The cells that the series does not know yet, in order.
    fn fresh(&self, name: &str, cells: &[(Window, f64, Status)]) -> Result<Vec<(Window, f64, Status)>, StoreError> {
        let start = cells.iter().map(|cell| cell.0.start()).min();
        let end = cells.iter().map(|cell| cell.0.end()).max();
        let Some(hull) = start.zip(end).and_then(|(start, end)| Window::new(start, end)) else { return Ok(vec![]) };
        let mut newest: BTreeMap<(UnixNanos, UnixNanos, Status), (UnixNanos, u64)> = BTreeMap::new();
        for cell in self.factors(name, hull, None)?.cells {
            let entry = newest.entry((cell.window.start(), cell.window.end(), cell.status)).or_default();
            *entry = (*entry).max((cell.revision, cell.value.to_bits()));
        }
        let known = |(window, value, status): &(Window, f64, Status)| {
            let newest = newest.get(&(window.start(), window.end(), *status));
            newest.is_some_and(|(_, bits)| *bits == value.to_bits())
        };
        let mut fresh: Vec<_> = cells.iter().filter(|cell| !known(cell)).copied().collect();
        fresh.sort_by_key(|(window, ..)| window.start());
        Ok(fresh)
    }
}

/// Refuses names that keys, command lines or configurations would not bear.
pub fn check_name(name: &str) -> Result<(), RecordError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(RecordError::Name(name.to_owned()));
    }
    Ok(())
}

/// A part of a delivery under one key: whether its cells are long, the first start, and the cells.
type Part = (bool, UnixNanos, Vec<(Window, f64, Status)>);

/// Parts that a scan finds again: few cells, little time, long cells apart.
fn parts(cells: Vec<(Window, f64, Status)>) -> Vec<Part> {
    let is_long = |window: Window| window.end() > window.start().plus_seconds(KEY_SECONDS);
    let mut parts: Vec<Part> = Vec::new();
    let (long, short): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(window, ..)| is_long(*window));
    parts.extend(long.into_iter().map(|cell| (true, cell.0.start(), vec![cell])));
    for cell in short {
        match parts.last_mut() {
            Some((false, start, part))
                if part.len() < CELLS_PER_KEY && cell.0.end() <= start.plus_seconds(KEY_SECONDS) =>
            {
                part.push(cell);
            }
            _ => parts.push((false, cell.0.start(), vec![cell])),
        }
    }
    parts
}

fn describe(subject: &SeriesSubject) -> String {
    let kind = subject.kind.map_or("", |kind| kind.name());
    let basis = subject.basis.map_or("", |basis| basis.name());
    let words = [subject.quantity.name(), kind, basis, "of", &subject.zone, "from", &subject.source];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
