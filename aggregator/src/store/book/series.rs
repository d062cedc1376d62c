//! Rows as columns: what is stored of each series, records put one after the other. What is sealed is read as it lies.

use super::records::{damaged, is_chunk, reach};
use super::{Book, unknown};
use crate::store::StoreError;
use crate::store::block::chunk::{self, Columns};
use crate::store::block::column::{Column, Loose};
use crate::store::block::row::RowRecord;
use crate::store::key::RowKey;
use joulebook_units::{Subject, Window};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What is stored of a series of a stream in one place: a sealed hour, or records between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// What it measures, and in which unit.
    pub subject: Arc<Subject>,
    /// Its points.
    pub column: Column,
}

/// What lies under a key.
enum Stored {
    Record(RowRecord),
    Chunk(Columns),
}

impl Book {
    /// What [`Book::runs`] gives, by series: those of each stream after another, and what is stored of each in the order of
    /// its records. A series whose records lie in several places comes several times, its later part after the earlier one.
    pub fn series(&self, node: u32, window: Window) -> Result<Vec<Series>, StoreError> {
        let rows = reach(window);
        // Chunks lie where the first of their records is.
        let mut stored: BTreeMap<RowKey, Stored> = BTreeMap::new();
        let mut sealed: Vec<(u32, Vec<u64>)> = Vec::new();
        self.near(node, &rows, |key, value| {
            let row = RowKey::decode(key)?;
            if !is_chunk(value) {
                if !rows.contains(&row.at) {
                    return Ok(());
                }
                let record = RowRecord::decode(key, row.at, value).map_err(damaged(row))?;
                stored.insert(row, Stored::Record(record));
                return Ok(());
            }
            let mut chunk = chunk::columns(key, row.at, row.sequence, value, &rows, window).map_err(damaged(row))?;
            sealed.push((row.ordinal, std::mem::take(&mut chunk.sequences)));
            if let Some((at, sequence)) = chunk.first {
                stored.insert(RowKey { at, sequence, ..row }, Stored::Chunk(chunk));
            }
            Ok(())
        })?;
        // What was sealed meanwhile is there twice.
        let is_sealed = |row: &RowKey| {
            sealed.iter().any(|(ordinal, known)| *ordinal == row.ordinal && known.binary_search(&row.sequence).is_ok())
        };
        stored.retain(|row, stored| matches!(stored, Stored::Chunk(_)) || !is_sealed(row));
        stored.extend(self.long(node, window)?.into_iter().map(|(row, record)| (row, Stored::Record(record))));
        self.by_series(stored, window)
    }

    fn by_series(&self, stored: BTreeMap<RowKey, Stored>, window: Window) -> Result<Vec<Series>, StoreError> {
        let mut found: Vec<((u32, u32), RowKey, Column)> = Vec::new();
        let mut open: HashMap<(u32, u32), (RowKey, Loose)> = HashMap::new();
        for (row, stored) in stored {
            match stored {
                Stored::Record(record) => {
                    let touches = |(first, last)| first < window.end() && last >= window.start();
                    for column in record.columns.iter().filter(|column| column.span().is_some_and(touches)) {
                        let entry = open.entry((row.ordinal, column.series));
                        entry.or_insert_with(|| (row, Loose::default())).1.push(column);
                    }
                }
                Stored::Chunk(chunk) => {
                    for (number, column) in chunk.series {
                        let series = (row.ordinal, number);
                        found.extend(open.remove(&series).map(|(first, loose)| (series, first, loose.into())));
                        found.push((series, row, column));
                    }
                }
            }
        }
        found.extend(open.into_iter().map(|(series, (first, loose))| (series, first, loose.into())));
        found.sort_by_key(|(series, first, _)| (*series, *first));
        let catalog = self.read();
        let series = found.into_iter().map(|((ordinal, number), row, column)| {
            let subject = catalog.subject(ordinal, number).ok_or_else(|| unknown("series", row))?;
            Ok(Series { subject, column })
        });
        series.collect()
    }
}
