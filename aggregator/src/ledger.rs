//! Keeps the book: turns rows into cells, cell by cell, whenever rows under a cell change.
//!
//! A cell is always recomputed from rows and overwritten, never added to: late rows and replays cannot distort it. What a
//! cell depends on lies within one minute around it, nine where a meter stands at the node's input, which is why a change
//! marks its neighbours dirty as well. How late such a meter is stands on the hour of the clock before its readings: what
//! comes late to an hour marks the next one.

mod lag;

use crate::clock::Clock;
use crate::store::space::Space;
use crate::store::{
    Book, CELL_SURROUNDINGS_SECONDS, LostRecords, NodeRecord, Resolution, Series, StoreError, StoredGap,
};
use joulebook_sci::attribution::OutputWeight;
use joulebook_sci::settle::lag::Lags;
use joulebook_sci::{Cell, Gap, NodeSeries, Run, settle};
use joulebook_units::{Subject, UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A cell is closed this long after its end: the rows of a batch of 5 s and of its neighbour's first batch are in.
const CLOSED_AFTER_SECONDS: i64 = 10;
/// Cells settled in one pass, so that a pass after a long outage does not hold memory without bound.
const CELLS_PER_PASS: usize = 4096;
const PASS_EVERY: Duration = Duration::from_secs(5);

/// The task that settles dirty cells.
pub struct Ledger {
    book: Arc<Book>,
    clock: Arc<dyn Clock>,
    space: Option<Arc<Space>>,
}

impl Ledger {
    /// A ledger over a book.
    pub fn new(book: Arc<Book>, clock: Arc<dyn Clock>) -> Self {
        Self { book, clock, space: None }
    }

    /// The same, which settles nothing while there is no room on the disk: the marks stay.
    pub fn while_open(self, space: Arc<Space>) -> Self {
        Self { space: Some(space), ..self }
    }

    /// Settles closed dirty cells every 5 s until `shutdown` is true or its sender is gone.
    ///
    /// # Errors
    /// The store's: the process must stop, since a book that cannot be kept must not go on acknowledging.
    pub async fn run(self, mut shutdown: tokio::sync::watch::Receiver<bool>) -> Result<(), StoreError> {
        let ledger = Arc::new(self);
        loop {
            tokio::select! {
                stopped = shutdown.wait_for(|stop| *stop) => {
                    // An error means that the other end is gone: time to stop, too.
                    let _ = stopped;
                    return Ok(());
                }
                () = tokio::time::sleep(PASS_EVERY) => {}
            }
            if ledger.space.as_ref().is_some_and(|space| !space.is_open()) {
                continue;
            }
            let (this, now) = (Arc::clone(&ledger), ledger.clock.unix());
            let passes = tokio::task::spawn_blocking(move || {
                while this.pass(now)? == CELLS_PER_PASS {}
                Ok::<_, StoreError>(())
            });
            match passes.await {
                // The committer ends the process once there is room.
                Ok(Err(full @ StoreError::Full { .. })) => tracing::warn!(error = %full, "cells wait to be settled"),
                Ok(result) => result?,
                // A panic in a pass is a bug; the next pass starts from the marks again.
                Err(error) => tracing::error!(%error, "settling cells failed"),
            }
        }
    }

    /// Settles up to 4,096 closed dirty cells and returns how many it did.
    ///
    /// # Errors
    /// The store's.
    #[tracing::instrument(name = "ledger.settle", skip_all)]
    pub fn pass(&self, now: UnixNanos) -> Result<usize, StoreError> {
        let mut by_node: BTreeMap<u32, Vec<(UnixNanos, u64)>> = BTreeMap::new();
        // Rows after the surroundings of a cell do not change it any more, and a row marks whole minutes: a cell that is
        // settled a minute too early is settled again with each record until it is over.
        let minute = Resolution::Minute.seconds();
        let closed = |node: u32| {
            let marked = now.plus_seconds(-CLOSED_AFTER_SECONDS - self.book.surroundings(node)).floor_to(minute);
            marked.plus_seconds(-minute)
        };
        let marks = self.book.dirty(usize::MAX).into_iter().filter(|(node, start, _)| *start <= closed(*node));
        for (node, start, generation) in marks.take(CELLS_PER_PASS) {
            by_node.entry(node).or_default().push((start, generation));
        }
        let mut done = 0;
        for (number, marks) in by_node {
            let Some(node) = self.book.node_record(number) else {
                // Passed over, it would be met again for ever.
                let (what, reason) = ("the marks of changed cells".to_owned(), format!("node {number} is not known"));
                return Err(StoreError::Damaged { what, reason });
            };
            self.settle_node(&node, &marks)?;
            done += marks.len();
        }
        Ok(done)
    }

    /// Recomputes the marked minutes of a node and every sum that holds one, in one commit.
    fn settle_node(&self, node: &NodeRecord, marks: &[(UnixNanos, u64)]) -> Result<(), StoreError> {
        let mut minutes: BTreeMap<UnixNanos, Cell> = BTreeMap::new();
        let slot = |mark: &(UnixNanos, u64)| mark.0.floor_to(Resolution::Settled.seconds());
        // Marks of a node come in order: those of a slot are read for together.
        for marks in marks.chunk_by(|one, next| slot(one) == slot(next)) {
            let minute =
                |(start, _): &(UnixNanos, u64)| Window::new(*start, start.plus_seconds(Resolution::Minute.seconds()));
            let windows: Vec<Window> = marks.iter().filter_map(minute).collect();
            let ends = windows.first().zip(windows.last());
            let Some(stretch) = ends.and_then(|(first, last)| Window::new(first.start(), last.end())) else { continue };
            let rows = Rows::read(&self.book, node, stretch)?;
            minutes.extend(windows.into_iter().map(|window| (window.start(), rows.cell(node, window))));
        }
        let of_whole = self.whole(node, marks, &minutes);
        let settled = self.sums(node, Resolution::Settled, Resolution::Minute, &of_whole)?;
        let changed = settled.iter().map(|(start, cell)| (*start, cell)).collect();
        let hours = self.sums(node, Resolution::Hour, Resolution::Settled, &changed)?;
        let tagged = |resolution, cells: BTreeMap<UnixNanos, Cell>| {
            cells.into_iter().map(move |(start, cell)| (resolution, start, cell))
        };
        let cells = tagged(Resolution::Minute, minutes)
            .chain(tagged(Resolution::Settled, settled))
            .chain(tagged(Resolution::Hour, hours))
            .collect::<Vec<_>>();
        self.book.settle(node.number, &cells, marks)
    }

    /// Those of the minutes whose slot of 300 s has no mark left but theirs. A slot of which more is to be settled is summed up
    /// with its last minute: until then nobody takes its sum, and a live one would be made anew each minute.
    fn whole<'a>(
        &self,
        node: &NodeRecord,
        marks: &[(UnixNanos, u64)],
        minutes: &'a BTreeMap<UnixNanos, Cell>,
    ) -> BTreeMap<UnixNanos, &'a Cell> {
        let mut open: BTreeMap<UnixNanos, bool> = BTreeMap::new();
        let own: BTreeSet<UnixNanos> = marks.iter().map(|(start, _)| *start).collect();
        let mut is_whole = |start: &UnixNanos| {
            let seconds = Resolution::Settled.seconds();
            let slot = start.floor_to(seconds);
            !*open.entry(slot).or_insert_with(|| {
                let window = Window::new(slot, slot.plus_seconds(seconds));
                window.is_some_and(|window| !self.book.is_dirty(node.number, window).is_subset(&own))
            })
        };
        minutes.iter().filter(|(start, _)| is_whole(start)).map(|(start, cell)| (*start, cell)).collect()
    }

    /// Sums of `fine` cells over the `coarse` slots that hold a changed one; unchanged parts come from the store.
    fn sums(
        &self,
        node: &NodeRecord,
        coarse: Resolution,
        fine: Resolution,
        changed: &BTreeMap<UnixNanos, &Cell>,
    ) -> Result<BTreeMap<UnixNanos, Cell>, StoreError> {
        let starts: BTreeSet<UnixNanos> = changed.keys().map(|start| start.floor_to(coarse.seconds())).collect();
        let mut sums = BTreeMap::new();
        for start in starts {
            let Some(window) = Window::new(start, start.plus_seconds(coarse.seconds())) else { continue };
            let mut sum = Cell::default();
            for part in window.slots(fine.seconds()) {
                match changed.get(&part.start()) {
                    Some(cell) => sum.merge(cell),
                    None => {
                        if let Some(cell) = self.book.cell(node.number, fine, part.start())? {
                            sum.merge(&cell);
                        }
                    }
                }
            }
            sums.insert(start, sum);
        }
        Ok(sums)
    }
}

/// The cell of any window of whole seconds, from rows. Works minute by minute with the same surroundings as the ledger,
/// so that parts of a minute add up to its cell.
///
/// # Errors
/// The store's.
pub fn cell_from_rows(book: &Book, node: &NodeRecord, window: Window) -> Result<Cell, StoreError> {
    let mut cell = Cell::default();
    for stretch in window.slots(Resolution::Settled.seconds()) {
        let rows = Rows::read(book, node, stretch)?;
        if rows.is_empty() {
            continue;
        }
        for part in stretch.slots(Resolution::Minute.seconds()) {
            cell.merge(&rows.cell(node, part));
        }
    }
    Ok(cell)
}

/// What is stored of a node around some minutes: read once, looked at minute by minute.
struct Rows {
    series: Vec<Series>,
    gaps: Vec<StoredGap>,
    lost: Vec<LostRecords>,
    lags: Lags,
    surroundings: i64,
    output_weight: OutputWeight,
}

/// The minutes that hold a window, and so many seconds on either side; `None` where time ends.
fn around(window: Window, seconds: i64) -> Option<Window> {
    let minute = Resolution::Minute.seconds();
    Window::new(
        window.start().floor_to(minute).plus_seconds(-seconds),
        window.end().ceil_to(minute).plus_seconds(seconds),
    )
}

impl Rows {
    fn read(book: &Book, node: &NodeRecord, window: Window) -> Result<Self, StoreError> {
        let (surroundings, output_weight) = (book.surroundings(node.number), book.output_weight());
        let (Some(input), Some(near)) = (around(window, surroundings), around(window, CELL_SURROUNDINGS_SECONDS))
        else {
            let lags = Lags::default();
            return Ok(Self { series: vec![], gaps: vec![], lost: vec![], lags, surroundings, output_weight });
        };
        let (gaps, lost) = book.gaps(node.number, near)?;
        let lags = match surroundings == CELL_SURROUNDINGS_SECONDS {
            true => Lags::default(),
            false => lag::lags(book, node.number, input)?,
        };
        Ok(Self { series: book.series(node.number, input)?, gaps, lost, lags, surroundings, output_weight })
    }

    /// Whether nothing at all is known: a cell of it is the empty one.
    fn is_empty(&self) -> bool {
        self.series.is_empty() && self.gaps.is_empty() && self.lost.is_empty()
    }

    /// The cell of a part of one minute.
    fn cell(&self, node: &NodeRecord, part: Window) -> Cell {
        let ends = (around(part, CELL_SURROUNDINGS_SECONDS), around(part, self.surroundings));
        let (Some(near), Some(input)) = ends else { return Cell::default() };
        settle(&self.series(node, near, input), part)
    }

    /// What is stored around a window, as the pure crate takes it; `input` is how far the node's input is looked at.
    fn series(&self, node: &NodeRecord, near: Window, input: Window) -> NodeSeries {
        let inventory = &node.inventory;
        let touching = |window: Window, wanted: fn(&Subject) -> bool| {
            joined(self.series.iter().filter(|series| wanted(&series.subject)), window)
        };
        let gaps = self.gaps.iter().filter(|gap| gap.window.start() < near.end() && gap.window.end() > near.start());
        let gap = |gap: &StoredGap| match &*gap.subject {
            Subject::Energy(source) => Some(Gap {
                source: source.clone(),
                window: gap.window,
                reason: gap.reason,
                low: gap.low,
                high: gap.high,
            }),
            // Only energy has declared gaps.
            _ => None,
        };
        let lost = self.lost.iter().map(|lost| lost.window);
        // What is not a part is not needed to know the energy of the parts.
        let readable = inventory.sources.iter().filter(|state| state.unavailable.is_none() && state.source.is_part());
        let accelerators = &inventory.hardware.accelerators;
        NodeSeries {
            threads: inventory.hardware.threads,
            memory_bytes: inventory.hardware.memory_bytes,
            device_memory_bytes: accelerators
                .iter()
                .filter_map(|one| Some((one.device.clone()?, one.memory_bytes?)))
                .collect(),
            expected_sources: readable.map(|state| state.source.id.clone()).collect(),
            runs: touching(near, |_| true),
            input_runs: match input == near {
                true => Vec::new(),
                false => touching(input, |subject| matches!(subject, Subject::Energy(_))),
            },
            lags: self.lags.clone(),
            gaps: gaps.filter_map(gap).collect(),
            output_weight: self.output_weight,
            lost: lost.filter(|lost| lost.start() < near.end() && lost.end() > near.start()).collect(),
        }
    }
}

/// What records that touch a window tell of series one after the other, each as one run as far as it goes on: each run is
/// looked up by all that describes its subject, and what is stored of a series may lie in several places.
fn joined<'a>(stored: impl Iterator<Item = &'a Series>, window: Window) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for series in stored {
        for stretch in series.column.stretches().filter_map(|stretch| stretch.touching(window)) {
            let own = stretch.times.iter().copied().zip(stretch.values.iter().copied());
            match runs.last_mut() {
                // A series of a stream has one description in memory.
                Some(run)
                    if Arc::ptr_eq(&run.subject, &series.subject)
                        && stretch.before.is_some()
                        && run.points.last() == stretch.before.as_ref() =>
                {
                    run.points.extend(own);
                }
                _ => {
                    let points = stretch.before.into_iter().chain(own).collect();
                    runs.push(Run { subject: Arc::clone(&series.subject), points });
                }
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::block::column::Loose;
    use crate::store::block::row::StoredColumn;

    #[test]
    fn what_goes_on_is_one_run_and_what_does_not_stays_apart() {
        let [one, other] = [Arc::new(Subject::NodeMemoryUsed), Arc::new(Subject::NodeMemoryUsed)];
        let point = |at: &i64| (UnixNanos(*at), at.unsigned_abs());
        let stored = |subject: &Arc<Subject>, records: &[(Option<i64>, &[i64])]| {
            let mut loose = Loose::default();
            for (previous, points) in records {
                let previous = previous.as_ref().map(point);
                loose.push(&StoredColumn { series: 1, previous, points: points.iter().map(point).collect() });
            }
            Series { subject: Arc::clone(subject), column: loose.into() }
        };
        let series = [
            stored(&one, &[(None, &[1, 2]), (Some(2), &[4, 5])]),
            // It goes on in another place, and begins anew there where it ends.
            stored(&one, &[(Some(5), &[6]), (None, &[6, 7])]),
            stored(&one, &[(Some(7), &[8])]),
            // Another stream's, which ends where that goes on.
            stored(&other, &[(Some(8), &[9])]),
            // The record between is lost, or lies elsewhere.
            stored(&other, &[(Some(10), &[11])]),
        ];
        let points = |from, to| -> Vec<Vec<i64>> {
            let window = Window::new(UnixNanos(from), UnixNanos(to)).expect("ordered");
            let runs = joined(series.iter(), window);
            runs.iter().map(|run| run.points.iter().map(|(at, _)| at.0).collect()).collect()
        };
        let all = [vec![1, 2, 4, 5, 6], vec![6, 7, 8], vec![8, 9], vec![10, 11]];
        assert_eq!(points(0, 20), all);
        assert_eq!(points(6, 7), [vec![5, 6], vec![6, 7]], "records that touch");
    }
}
