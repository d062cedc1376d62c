//! Cells as they lie: each by itself, and once an hour is over and settled, all of a length in it as one value.
//!
//! The cells of a length in an hour lie in one of the two ways and never in both: they are put together in one commit, and taken
//! apart in the one that settles any of them anew.

use super::{Book, Resolution, SEALED_SECONDS};
use crate::store::block::cell as cell_block;
use crate::store::block::{CELLS_VERSION, Reader, cells as cells_block};
use crate::store::key;
use crate::store::{Direction, Durability, StoreError, Writes};
use joulebook_sci::Cell;
use joulebook_units::{UnixNanos, Window};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Fewer cells than this stay as they are.
const LEAST_CELLS: usize = 4;

/// Key and value of a cell as it lies.
type Stored = (Vec<u8>, Vec<u8>);

/// Cells of a node and a length in an hour that are taken apart.
pub(super) struct Apart {
    pub(super) resolution: Resolution,
    pub(super) hour: UnixNanos,
    pub(super) cells: Vec<(UnixNanos, Cell)>,
}

impl Book {
    /// A stored cell.
    pub fn cell(&self, node: u32, resolution: Resolution, start: UnixNanos) -> Result<Option<Cell>, StoreError> {
        let (table, key) = (resolution.table(), key::cell(node, start));
        let hour = start.floor_to(SEALED_SECONDS);
        let of_hour = |value: &[u8]| {
            let window = Window::new(start, start.plus_seconds(resolution.seconds()));
            let cells = window.map(|window| self.decode_hour(node, resolution, hour, value, window)).transpose()?;
            Ok(cells.and_then(|cells| cells.into_iter().find(|(at, _)| *at == start)).map(|(_, cell)| cell))
        };
        let own = self.store.get(table, &key)?;
        match own {
            Some(value) if is_hour(&value) => return of_hour(&value),
            Some(value) => return self.decode_cell(&key, &value).map(Some),
            None if start == hour => return Ok(None),
            None => {}
        }
        if let Some(value) = self.hour(node, resolution, hour)? {
            return of_hour(&value);
        }
        // It may have been taken apart between the two.
        self.store.get(table, &key)?.map(|value| self.decode_cell(&key, &value)).transpose()
    }

    /// Stored cells of a node that begin in a window, ascending.
    pub fn cells(
        &self,
        node: u32,
        resolution: Resolution,
        window: Window,
    ) -> Result<Vec<(UnixNanos, Cell)>, StoreError> {
        let first = window.start().floor_to(SEALED_SECONDS);
        let mut cells = self.cells_from(node, resolution, window)?;
        let rest = first.plus_seconds(SEALED_SECONDS).min(window.end());
        if first == window.start() || cells.first().is_some_and(|(start, _)| *start < rest) {
            return Ok(cells);
        }
        // Of the hour in which the window begins no cell lies by itself: all may lie at its beginning.
        let mut of_first = match (self.hour(node, resolution, first)?, Window::new(window.start(), rest)) {
            (Some(value), Some(part)) => self.decode_hour(node, resolution, first, &value, part)?,
            // They may have been taken apart between the two.
            (None, Some(part)) => self.cells_from(node, resolution, part)?,
            (_, None) => Vec::new(),
        };
        of_first.append(&mut cells);
        Ok(of_first)
    }

    /// Those that lie in a window, by themselves or at the beginnings of its hours.
    fn cells_from(
        &self,
        node: u32,
        resolution: Resolution,
        window: Window,
    ) -> Result<Vec<(UnixNanos, Cell)>, StoreError> {
        let mut cells = Vec::new();
        let (first, end) = (key::cell(node, window.start()), key::cell(node, window.end()));
        self.scan(resolution.table(), &first, &end, |key, value| {
            let start = key::decode_cell(key)?.1;
            if is_hour(value) {
                cells.append(&mut self.decode_hour(node, resolution, start, value, window)?);
            } else {
                cells.push((start, self.decode_cell(key, value)?));
            }
            Ok(())
        })?;
        Ok(cells)
    }

    /// The cells of an hour, if they lie together. What cannot be read where no cell lies by itself may have been all of them.
    fn hour(&self, node: u32, resolution: Resolution, hour: UnixNanos) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key::cell(node, hour);
        let Some(value) = self.store.get(resolution.table(), &key)? else { return Ok(None) };
        if is_hour(&value) {
            return Ok(Some(value));
        }
        if let Err(damaged) = Reader::open(&key, &value) {
            let (after, end) = (hour.plus_seconds(1), hour.plus_seconds(SEALED_SECONDS));
            let mut lie_alone = false;
            let range = (key::cell(node, after), key::cell(node, end));
            self.store.scan(resolution.table(), &range.0..&range.1, Direction::Forward, &mut |_, _| {
                lie_alone = true;
                ControlFlow::Break(())
            })?;
            if !lie_alone {
                return Err(damaged.of("an hour of cells"));
            }
        }
        Ok(None)
    }

    fn decode_cell(&self, key: &[u8], value: &[u8]) -> Result<Cell, StoreError> {
        let catalog = self.read();
        cell_block::decode(key, value, &|id| catalog.entity(id)).map_err(|damaged| damaged.of("a cell"))
    }

    /// Those cells of an hour that begin in a window.
    fn decode_hour(
        &self,
        node: u32,
        resolution: Resolution,
        hour: UnixNanos,
        value: &[u8],
        window: Window,
    ) -> Result<Vec<(UnixNanos, Cell)>, StoreError> {
        let start = |slot: u32| start_of(hour, resolution, slot);
        let inside = |slot: &u32| (window.start()..window.end()).contains(&start(*slot));
        let wanted = (0..slots(resolution)).filter(inside).fold(0, |wanted, slot| wanted | 1u64 << slot);
        let catalog = self.read();
        let cells = cells_block::decode(&key::cell(node, hour), value, wanted, &|id| catalog.entity(id));
        let cells = cells.map_err(|damaged| damaged.of("an hour of cells"))?;
        Ok(cells.into_iter().map(|(slot, cell)| (start(slot), cell)).collect())
    }

    /// What lies together with one of these cells and must be taken apart to settle it.
    pub(super) fn together(
        &self,
        node: u32,
        cells: &[(Resolution, UnixNanos, Cell)],
    ) -> Result<Vec<Apart>, StoreError> {
        let hours = cells.iter().filter(|(resolution, ..)| slots(*resolution) > 1);
        let hours: BTreeSet<_> =
            hours.map(|(resolution, start, _)| (*resolution, start.floor_to(SEALED_SECONDS))).collect();
        let mut apart = Vec::new();
        for (resolution, hour) in hours {
            let whole = Window::new(hour, hour.plus_seconds(SEALED_SECONDS));
            if let (Some(value), Some(whole)) = (self.hour(node, resolution, hour)?, whole) {
                let cells = self.decode_hour(node, resolution, hour, &value, whole)?;
                apart.push(Apart { resolution, hour, cells });
            }
        }
        Ok(apart)
    }

    /// Puts the cells of a length in an hour together; how many.
    pub(super) fn seal_cells(&self, node: u32, resolution: Resolution, hour: UnixNanos) -> Result<usize, StoreError> {
        let (table, key) = (resolution.table(), key::cell(node, hour));
        let stored = self.stored(node, resolution, hour)?;
        if stored.len() < LEAST_CELLS || stored.iter().any(|(_, value)| is_hour(value)) {
            return Ok(0);
        }
        let mut cells: Vec<(u32, Cell)> = Vec::new();
        for (key, value) in &stored {
            let start = key::decode_cell(key)?.1;
            let slot = (0..slots(resolution)).find(|slot| start_of(hour, resolution, *slot) == start);
            let Some(slot) = slot else { return Ok(0) };
            cells.push((slot, self.decode_cell(key, value)?));
        }
        let (value, read) = {
            let catalog = self.read();
            let Some(value) = cells_block::encode(&key, &cells, &|entity| catalog.number(entity)) else {
                tracing::debug!(node, hour = hour.0, "cells that cannot be kept together stay as they are");
                return Ok(0);
            };
            let read = cells_block::decode(&key, &value, u64::MAX, &|id| catalog.entity(id));
            (value, read)
        };
        // Cells are given up only for what gives them back, and is smaller.
        if read.as_deref() != Ok(cells.as_slice()) {
            tracing::error!(
                node,
                hour = hour.0,
                "an hour of cells is not what went into it; the cells stay as they are"
            );
            return Ok(0);
        }
        if value.len() >= stored.iter().map(|(key, value)| key.len() + value.len()).sum() {
            return Ok(0);
        }
        let mut writes = Writes::default();
        stored.iter().for_each(|(key, _)| writes.delete(table, key.clone()));
        writes.put(table, key, value);
        let mut latch = self.begin()?;
        // What was settled meanwhile is not in it.
        if self.stored(node, resolution, hour)? != stored {
            return Ok(0);
        }
        // What a power cut takes of it are cells as they were.
        self.finish(&mut latch, writes, Durability::Buffered)?;
        Ok(cells.len())
    }

    /// What is stored of the cells of an hour.
    fn stored(&self, node: u32, resolution: Resolution, hour: UnixNanos) -> Result<Vec<Stored>, StoreError> {
        let mut stored = Vec::new();
        let (first, end) = (key::cell(node, hour), key::cell(node, hour.plus_seconds(SEALED_SECONDS)));
        self.scan(resolution.table(), &first, &end, |key, value| {
            stored.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(stored)
    }
}

/// Cells of a length in an hour.
fn slots(resolution: Resolution) -> u32 {
    u32::try_from(SEALED_SECONDS / resolution.seconds()).unwrap_or(0)
}

/// When one of them begins.
fn start_of(hour: UnixNanos, resolution: Resolution, slot: u32) -> UnixNanos {
    hour.plus_seconds(i64::from(slot) * resolution.seconds())
}

fn is_hour(value: &[u8]) -> bool {
    value.first() == Some(&CELLS_VERSION)
}
