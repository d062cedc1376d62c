//! Stored cells, read ahead: a question takes them in their order, and one scan of the store finds several.

use crate::store::{Book, Resolution, StoreError};
use joulebook_sci::Cell;
use joulebook_units::{UnixNanos, Window};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Settled cells that are read ahead, of all nodes together.
const AHEAD: i64 = 8_192;
/// Of a node it is an hour at least, and a day at most.
const DAY_SECONDS: i64 = 86_400;

/// The cells of a stretch of time; one that was taken is empty here.
struct Ahead {
    window: Window,
    cells: BTreeMap<UnixNanos, Option<Cell>>,
}

/// The stored cells of a question.
pub(super) struct Stored<'a> {
    book: &'a Book,
    /// What is read ahead of a node in seconds: much of few nodes, since beginning to read costs as much as some cells, and
    /// little of many.
    reach: i64,
    ahead: RefCell<BTreeMap<(u32, Resolution), Ahead>>,
}

impl<'a> Stored<'a> {
    /// Nothing of these many nodes is read yet.
    pub(super) fn new(book: &'a Book, nodes: usize) -> Self {
        let each = AHEAD / i64::try_from(nodes.max(1)).unwrap_or(AHEAD) * Resolution::Settled.seconds();
        let hour = Resolution::Hour.seconds();
        Self { book, reach: (each / hour * hour).clamp(hour, DAY_SECONDS), ahead: RefCell::default() }
    }

    /// The stretch around an instant that is read at once; `None` where time ends.
    fn stretch(&self, resolution: Resolution, start: UnixNanos) -> Option<Window> {
        let reach = match resolution {
            Resolution::Minute => Resolution::Settled.seconds(),
            Resolution::Settled | Resolution::Hour => self.reach,
        };
        let first = start.floor_to(reach);
        Window::new(first, first.plus_seconds(reach)).filter(|window| start < window.end())
    }

    /// A stored cell.
    pub(super) fn cell(&self, node: u32, resolution: Resolution, start: UnixNanos) -> Result<Option<Cell>, StoreError> {
        let mut ahead = self.ahead.borrow_mut();
        let known = ahead.get(&(node, resolution));
        if !known.is_some_and(|ahead| (ahead.window.start()..ahead.window.end()).contains(&start)) {
            let Some(window) = self.stretch(resolution, start) else { return self.book.cell(node, resolution, start) };
            let cells = self.book.cells(node, resolution, window)?;
            let cells = cells.into_iter().map(|(start, cell)| (start, Some(cell))).collect();
            ahead.insert((node, resolution), Ahead { window, cells });
        }
        match ahead.get_mut(&(node, resolution)).and_then(|ahead| ahead.cells.get_mut(&start)) {
            None => Ok(None),
            Some(cell) => match cell.take() {
                Some(cell) => Ok(Some(cell)),
                // It is asked for once more.
                None => self.book.cell(node, resolution, start),
            },
        }
    }
}
