//! The seam for storage: ordered tables of bytes with atomic, durable writes.
//!
//! [`Book`] is the typed face of it and the only thing the rest of the aggregator uses. Key layouts live in [`key`],
//! value codecs in [`block`], nowhere else.

pub mod block;
pub mod book;
pub(crate) mod catalog;
pub mod cut;
pub mod factors;
pub(crate) mod hours;
pub mod key;
pub mod memory;
pub mod retention;
pub mod rocks;
pub mod schema;
pub mod space;
pub mod training;

pub use book::{
    Book, CELL_SURROUNDINGS_SECONDS, ChangedCells, LostRecords, NodeRecord, PollerRecord, Resolution, Run, Series,
    Status, StoredGap, StreamStatus, WALL_SURROUNDINGS_SECONDS,
};
pub use catalog::NodePods;

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

/// A table: an ordered map from bytes to bytes. In RocksDB a column family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Schema, identity, nodes, streams, series, entities, clocks.
    Meta,
    /// One record per node and batch.
    Rows,
    /// Records with an interval that begins more than 60 s before their first row.
    Long,
    /// Declared gaps and lost records.
    Gaps,
    /// Cells of 60 s.
    Cells,
    /// Settled cells of 300 s.
    Settled,
    /// Sums of settled cells of 1 h.
    Hours,
    /// Cells of 60 s that must be worked out again.
    Dirty,
    /// Records whose number was used before with other content.
    Quarantine,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 9] = [
        Self::Meta,
        Self::Rows,
        Self::Long,
        Self::Gaps,
        Self::Cells,
        Self::Settled,
        Self::Hours,
        Self::Dirty,
        Self::Quarantine,
    ];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Rows => "rows",
            Self::Long => "long",
            Self::Gaps => "gaps",
            Self::Cells => "cells",
            Self::Settled => "settled",
            Self::Hours => "hours",
            Self::Dirty => "dirty",
            Self::Quarantine => "quarantine",
        }
    }
}

/// One change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a key's value.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a key; nothing happens if it is not there.
    Delete(Table, Vec<u8>),
    /// Removes every key of the half-open range.
    DeleteRange(Table, Range<Vec<u8>>),
}

/// Changes that take effect together or not at all, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writes {
    /// The changes.
    pub changes: Vec<Change>,
}

impl Writes {
    /// Sets a key's value.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put(table, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(table, key.into()));
    }

    /// Removes every key of the half-open range.
    pub fn delete_range(&mut self, table: Table, range: Range<Vec<u8>>) {
        if range.start < range.end {
            self.changes.push(Change::DeleteRange(table, range));
        }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// How safe a commit is when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: survives power loss. For everything that is acknowledged.
    Synced,
    /// In the log of the operating system: survives the process. For what can be worked out again.
    Buffered,
}

/// Order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// Why storage fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory open.
    #[error("opening the database in {dir}: another process holds its LOCK; stop that process or use another folder")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds something else, or a part of the database is missing. Nothing was created in it.
    #[error("opening the database in {dir}: {reason}; use an empty folder, or restore this one from a backup")]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The parent of the data directory does not exist.
    #[error("creating the data folder {dir}: its parent folder does not exist; create it or set `data_dir`")]
    MissingParent {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory does not exist, and was to be read only.
    #[error("opening the database in {dir}: there is no such folder; name the one that holds it")]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory may not be read or written.
    #[error("opening the database in {dir}: permission denied; give it to the user that runs the aggregator")]
    Permission {
        /// The directory.
        dir: PathBuf,
    },
    /// The data was written by a newer version.
    #[error("opening the database: its schema is version {found}, this program knows {known}; use a newer program")]
    Newer {
        /// Version in the database.
        found: u32,
        /// Newest version this program knows.
        known: u32,
    },
    /// The data was written by an older version that this program cannot bring up to date.
    #[error(
        "opening the database: its schema is version {found}, which this program ({known}) cannot bring up to date; open it with the program between them first"
    )]
    Older {
        /// Version in the database.
        found: u32,
        /// Version this program writes.
        known: u32,
    },
    /// Stored bytes are not what was written.
    #[error("reading {what}: damaged: {reason}; restore it from a backup")]
    Damaged {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk failed.
    #[error("{what}: {reason}; check the disk, then start again")]
    Io {
        /// What was tried.
        what: String,
        /// What the disk or the engine said.
        reason: String,
    },
    /// The disk has no room: nothing of what was tried is stored.
    #[error("{what}: no space left on the disk; free some, the aggregator goes on by itself")]
    Full {
        /// What was tried.
        what: String,
    },
    /// An earlier write failed: what is in memory may not be on the disk.
    #[error("writing to the database: {reason}; start the aggregator again")]
    Latched {
        /// The first failure.
        reason: String,
    },
}

/// What a scan calls with each key and value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered tables with atomic writes. Safe to use from many threads.
pub trait Store: Send + Sync {
    /// Applies all changes or none. When it returns with [`Durability::Synced`] they are on the disk.
    fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError>;

    /// The value of a key, if it is there.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits keys and values of a half-open range, as they were when the scan began, until `visit` breaks.
    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError>;
}
