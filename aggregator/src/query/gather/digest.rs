//! What the factors of a time are, in 32 bytes: what was made with them stands as long as they are the same.
//!
//! A digest is over all that [`super::Gathered::slot`] takes from factors: the configuration and the tables by their revision, what
//! is known of making each node's hardware, and of each site the cells of its series inside the time, with their values and where
//! they come from. When a value was recorded is in none: one that was recorded again is the same.

use super::{Gathered, Site};
use joulebook_sci::Rate;
use joulebook_units::Window;
use std::ops::Range;

/// A digest.
pub type Digest = [u8; 32];

/// Digests of the factors of a question.
pub struct FactorDigests {
    /// Of what holds at all times.
    constant: Digest,
    /// Of each origin of an intensity, in the question's order.
    origins: Vec<Digest>,
}

/// What is hashed, field by field: each with its length, so that no two rows of fields are alike. Gathered first: many small
/// pieces cost the hash more than one.
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn value(&mut self, value: f64) {
        self.number(value.to_bits());
    }

    /// The part of a cell inside a window.
    fn time(&mut self, cell: Window, window: Window) {
        let inside = cell.intersect(window).unwrap_or(cell);
        self.number(inside.start().0.cast_unsigned());
        self.number(inside.end().0.cast_unsigned());
    }

    fn digest(self) -> Digest {
        *blake3::hash(&self.0).as_bytes()
    }
}

impl FactorDigests {
    /// Those of a question.
    pub fn new(gathered: &Gathered<'_>) -> Self {
        let mut constant = Fields(Vec::new());
        constant.number(gathered.known.revision());
        for member in &gathered.members {
            constant.bytes(member.record.inventory.node.as_str().as_bytes());
            constant.bytes(format!("{:?}", member.embodied).as_bytes());
        }
        let origin = |origin| *blake3::hash(format!("{origin:?}").as_bytes()).as_bytes();
        Self { constant: constant.digest(), origins: gathered.origins.iter().map(origin).collect() }
    }

    /// That of a part of the question's window.
    pub fn of(&self, gathered: &Gathered<'_>, window: Window) -> Digest {
        let mut fields = Fields(Vec::new());
        fields.bytes(&self.constant);
        for (name, site) in &gathered.sites {
            fields.bytes(name.as_bytes());
            self.add_site(&mut fields, site, window);
        }
        fields.digest()
    }

    fn add_site(&self, fields: &mut Fields, site: &Site, window: Window) {
        let cells = inside(&site.intensity, window, |cell| cell.window);
        let origins =
            cells.clone().filter_map(|at| site.origins.get(at)).filter_map(|origin| self.origins.get(*origin));
        for (cell, origin) in cells.filter_map(|at| site.intensity.get(at)).zip(origins) {
            fields.time(cell.window, window);
            match cell.value {
                Rate::Known(value) => fields.value(value.get()),
                Rate::Between(low, high) => [low, high].into_iter().for_each(|end| fields.value(end.get())),
            }
            fields.bytes(origin);
        }
        for cell in inside(&site.pue, window, |cell| cell.window).filter_map(|at| site.pue.get(at)) {
            fields.time(cell.window, window);
            [cell.value.get(), cell.uncertainty].into_iter().for_each(|value| fields.value(value));
            fields.bytes(cell.source.as_bytes());
            fields.bytes(cell.granularity.as_bytes());
        }
        for cells in site.impacts.series() {
            let cells = inside(cells, window, |cell| cell.window).filter_map(|at| cells.get(at));
            for cell in cells {
                fields.time(cell.window, window);
                fields.bytes(format!("{:?}", cell.value).as_bytes());
            }
            fields.bytes(&[]);
        }
    }
}

/// Places of the cells that touch a window, of cells in order and without overlap.
pub(super) fn inside<T>(cells: &[T], window: Window, when: impl Fn(&T) -> Window) -> Range<usize> {
    let first = cells.partition_point(|cell| when(cell).end() <= window.start());
    let end = cells.partition_point(|cell| when(cell).start() < window.end());
    first..end.max(first)
}
