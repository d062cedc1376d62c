//! Stored cells, read ahead: a question takes them in their order, and one scan of the store finds several.

use crate::store::{Book, Resolution, StoreError};
use joulebook_sci::Cell;
use joulebook_units::{UnixNanos, Window};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What is read ahead of a node: an hour of settled cells, five minutes of minutes. Little, for there are many nodes.
fn reach_seconds(resolution: Resolution) -> i64 {
    match resolution {
        Resolution::Minute => Resolution::Settled.seconds(),
        Resolution::Settled | Resolution::Hour => Resolution::Hour.seconds(),
    }
}

/// The cells of a stretch of time; one that was taken is empty here.
struct Ahead {
    window: Window,
    cells: BTreeMap<UnixNanos, Option<Cell>>,
}

/// The stored cells of a question.
pub(super) struct Stored<'a> {
    book: &'a Book,
    ahead: RefCell<BTreeMap<(u32, Resolution), Ahead>>,
}

impl<'a> Stored<'a> {
    /// Nothing is read yet.
    pub(super) fn new(book: &'a Book) -> Self {
        Self { book, ahead: RefCell::default() }
    }

    /// A stored cell.
    pub(super) fn cell(&self, node: u32, resolution: Resolution, start: UnixNanos) -> Result<Option<Cell>, StoreError> {
        let mut ahead = self.ahead.borrow_mut();
        let known = ahead.get(&(node, resolution));
        if !known.is_some_and(|ahead| (ahead.window.start()..ahead.window.end()).contains(&start)) {
            let reach = reach_seconds(resolution);
            let first = start.floor_to(reach);
            let hour = Window::new(first, first.plus_seconds(reach)).filter(|window| start < window.end());
            // Where time ends there is no hour.
            let Some(window) = hour else { return self.book.cell(node, resolution, start) };
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
