//! What is kept for how long: rows 7 d + 2 h (never dropped under a dirty cell), cells of 60 s 90 d, settled cells
//! 400 d, sums of 1 h for ever.

use super::book::{Book, CELL_SECONDS};
use super::key;
use super::{Durability, Resolution, StoreError, Table};
use joulebook_units::UnixNanos;

/// Age in seconds after which data are refused: 7 d.
pub const ACCEPTED_SECONDS: i64 = 7 * 86_400;
/// Age in seconds up to which rows are kept: 7 d + 2 h.
pub const ROWS_SECONDS: i64 = ACCEPTED_SECONDS + 7_200;
/// Age in seconds up to which cells of 60 s are kept: 90 d.
pub const MINUTES_SECONDS: i64 = 90 * 86_400;
/// Age in seconds up to which settled cells are kept: 400 d.
pub const SETTLED_SECONDS: i64 = 400 * 86_400;

/// Drops what is older than its time at `now`.
pub fn apply(book: &Book, now: UnixNanos) -> Result<(), StoreError> {
    book.transact(Durability::Buffered, |catalog, changes| {
        for node in (0..u32::MAX).zip(&catalog.nodes).map(|(number, _)| number) {
            let mut rows = now.plus_seconds(-ROWS_SECONDS).floor_to(CELL_SECONDS);
            let marks = catalog.dirty.range((node, UnixNanos(i64::MIN))..=(node, UnixNanos(i64::MAX)));
            if let Some(((_, start), _)) = marks.into_iter().next() {
                // A record reaches a cell's length beyond its first row, on either side.
                rows = rows.min(start.plus_seconds(-2 * CELL_SECONDS));
            }
            let kept = [
                (Table::Rows, rows),
                (Table::Long, rows),
                (Resolution::Minute.table(), now.plus_seconds(-MINUTES_SECONDS).floor_to(CELL_SECONDS)),
                (Resolution::Settled.table(), now.plus_seconds(-SETTLED_SECONDS).floor_to(CELL_SECONDS)),
            ];
            for (table, from) in kept {
                let first = key::cell(node, UnixNanos(i64::MIN)).to_vec();
                changes.writes.delete_range(table, first..key::cell(node, from).to_vec());
            }
        }
        Ok(())
    })
}
