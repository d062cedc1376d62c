//! Series of factors and their cells.
//!
//! ```text
//! series   quantity | kind ("" for none) | basis ("" for none) | zone | source | revisions | last revision signed |
//!          first start signed | last end signed
//! cells    n, then each: start − the start before signed | length | status u8 | value, 8 bytes of IEEE 754
//! ```

use super::fact::Fact;
use super::{Damaged, Reader, Writer};
use joulebook_sci::quantity::{Basis, Kind, Quantity};
use joulebook_sci::series::{SeriesCell, Status};
use joulebook_units::{UnixNanos, Window};

/// What a series is about. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesSubject {
    /// The quantity.
    pub quantity: Quantity,
    /// What an intensity says; none for other quantities.
    pub kind: Option<Kind>,
    /// Which emissions an intensity counts; none for other quantities.
    pub basis: Option<Basis>,
    /// Grid zone or site.
    pub zone: String,
    /// Data set, for people.
    pub source: String,
}

/// A series as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesFact {
    /// What it is about.
    pub subject: SeriesSubject,
    /// How often cells were recorded.
    pub revisions: u64,
    /// When they were recorded last.
    pub last_revision: UnixNanos,
    /// Start of its first cell.
    pub first: UnixNanos,
    /// End of its last cell.
    pub last: UnixNanos,
}

impl Fact for SeriesFact {
    const NAME: &'static str = "a series of factors";
    fn write(&self, writer: &mut Writer) {
        let subject = &self.subject;
        for text in [
            subject.quantity.name(),
            subject.kind.map_or("", Kind::name),
            subject.basis.map_or("", Basis::name),
            &subject.zone,
            &subject.source,
        ] {
            writer.text(text);
        }
        writer.number(self.revisions);
        for at in [self.last_revision, self.first, self.last] {
            writer.signed(at.0);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let quantity = Quantity::of(&reader.text()?).ok_or(Damaged("unknown quantity"))?;
        let (kind, basis) = (reader.text()?, reader.text()?);
        let subject = SeriesSubject {
            quantity,
            kind: named(&kind, Kind::of)?,
            basis: named(&basis, Basis::of)?,
            zone: reader.text()?,
            source: reader.text()?,
        };
        Ok(Self {
            subject,
            revisions: reader.number()?,
            last_revision: UnixNanos(reader.signed()?),
            first: UnixNanos(reader.signed()?),
            last: UnixNanos(reader.signed()?),
        })
    }
}

fn named<T>(name: &str, of: fn(&str) -> Option<T>) -> Result<Option<T>, Damaged> {
    match name {
        "" => Ok(None),
        name => of(name).map(Some).ok_or(Damaged("unknown name")),
    }
}

/// Cells of one revision: windows, values and statuses, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CellsFact(pub Vec<(Window, f64, Status)>);

impl CellsFact {
    /// The cells as values of the revision under which they are stored.
    pub fn values(self, revision: UnixNanos) -> impl Iterator<Item = SeriesCell> {
        self.0.into_iter().map(move |(window, value, status)| SeriesCell { window, value, status, revision })
    }
}

impl Fact for CellsFact {
    const NAME: &'static str = "cells of factors";
    fn write(&self, writer: &mut Writer) {
        writer.length(self.0.len());
        let mut before = 0i64;
        for (window, value, status) in &self.0 {
            writer.signed(window.start().0.wrapping_sub(before));
            before = window.start().0;
            writer.number(window.nanos());
            writer.byte(match status {
                Status::Forecast => 0,
                Status::Estimated => 1,
                Status::Measured => 2,
            });
            writer.raw(&value.to_bits().to_le_bytes());
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut before = 0i64;
        let cells = reader.list(|reader| {
            before = before.wrapping_add(reader.signed()?);
            let length = i64::try_from(reader.number()?).map_err(|_| Damaged("a cell without end"))?;
            let end = before.checked_add(length).ok_or(Damaged("a cell without end"))?;
            let window = Window::new(UnixNanos(before), UnixNanos(end)).ok_or(Damaged("a cell without end"))?;
            let status = match reader.byte()? {
                0 => Status::Forecast,
                1 => Status::Estimated,
                2 => Status::Measured,
                _ => return Err(Damaged("unknown status")),
            };
            Ok((window, f64::from_bits(u64::from_le_bytes(reader.raw()?)), status))
        })?;
        Ok(Self(cells))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn series_and_cells_come_back(
            cells in prop::collection::vec((any::<i32>(), 0u32..1 << 30, any::<f64>(), 0usize..3), 0..20),
            zone: String,
        ) {
            let cells = cells.into_iter().map(|(start, length, value, status)| {
                let start = UnixNanos::from_seconds(i64::from(start));
                let window = Window::new(start, start.plus_seconds(i64::from(length))).expect("ordered");
                (window, value, Status::ALL[status])
            });
            let fact = CellsFact(cells.collect());
            let read = CellsFact::decode(b"k", &fact.encode(b"k")).expect("own value");
            prop_assert_eq!(read.encode(b"k"), fact.encode(b"k"), "bit by bit, not a number included");
            let subject = SeriesSubject {
                quantity: Quantity::Intensity,
                kind: Some(Kind::MarginalShortRun),
                basis: None,
                zone,
                source: "pushed".to_owned(),
            };
            let series = SeriesFact {
                subject,
                revisions: 3,
                last_revision: UnixNanos(-1),
                first: UnixNanos(7),
                last: UnixNanos(i64::MAX),
            };
            prop_assert_eq!(SeriesFact::decode(b"k", &series.encode(b"k")).expect("own value"), series);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut value = Writer::default();
            value.raw(&bytes);
            let value = value.seal(b"k");
            let _ = (CellsFact::decode(b"k", &value), SeriesFact::decode(b"k", &value));
        }
    }
}
