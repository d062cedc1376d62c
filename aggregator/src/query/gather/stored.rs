//! Stored cells, read ahead: a question takes them in their order, and one scan of the store finds several.

use crate::memory::Memory;
use crate::store::{Book, Resolution, StoreError};
use joulebook_sci::Cell;
use joulebook_units::{UnixNanos, Window};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Of a node it is a day at most, and an hour at least where memory has no limit.
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
    /// The slots of the question: of what is read ahead inside it nothing lies outside.
    window: Option<Window>,
    ahead: RefCell<BTreeMap<(u32, Resolution), Ahead>>,
}

impl<'a> Stored<'a> {
    /// Nothing of these many nodes and this window is read yet.
    pub(super) fn new(book: &'a Book, (nodes, window): (usize, Window), memory: Memory) -> Self {
        let cells = i64::try_from(memory.ahead()).unwrap_or(i64::MAX);
        let (slot, hour) = (Resolution::Settled.seconds(), Resolution::Hour.seconds());
        let each = (cells / i64::try_from(nodes.max(1)).unwrap_or(cells)).saturating_mul(slot);
        let least = if memory.limit().is_some() { slot } else { hour };
        let each = if each < hour { each } else { each / hour * hour };
        let window = Window::new(window.start().floor_to(slot), window.end().ceil_to(slot));
        Self { book, reach: each.clamp(least, DAY_SECONDS), window, ahead: RefCell::default() }
    }

    /// The stretch around an instant that is read at once; `None` where time ends.
    fn stretch(&self, resolution: Resolution, start: UnixNanos) -> Option<Window> {
        let reach = match resolution {
            Resolution::Minute => Resolution::Settled.seconds(),
            Resolution::Settled | Resolution::Hour => self.reach,
        };
        let first = start.floor_to(reach);
        let around = Window::new(first, first.plus_seconds(reach)).filter(|window| start < window.end())?;
        let asked = self.window.and_then(|window| window.intersect(around));
        Some(asked.filter(|asked| (asked.start()..asked.end()).contains(&start)).unwrap_or(around))
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
