//! Ingest, store and ledger in memory, driven record by record.

#![allow(clippy::expect_used, clippy::panic, reason = "functions that tests call may fail the test")]

use crate::history::{BOOTED, History, dictionary, inventory};
use joulebook_aggregator::clock::Clock;
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::ledger::Ledger;
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_aggregator::store::{Book, Resolution, Store, StoreError};
use joulebook_proto::convert::encode_batch;
use joulebook_sci::Cell;
use joulebook_units::{BootId, BootNanos, Subject, UnixNanos, Window};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A clock that stands.
pub struct At(pub UnixNanos);

impl Clock for At {
    fn unix(&self) -> UnixNanos {
        self.0
    }
}

/// An aggregator in memory whose clock is past every row.
pub struct Aggregator {
    /// What it stores.
    pub book: Arc<Book>,
    intake: Intake,
    ledger: Ledger,
    /// Its clock.
    pub now: UnixNanos,
}

impl Aggregator {
    /// In memory, with a session of every node open.
    pub fn new(histories: &[History]) -> Self {
        Self::on(Arc::new(MemoryStore::default()), histories).expect("memory does not fail")
    }

    /// On a store, with a session of every node open.
    pub fn on(store: Arc<dyn Store>, histories: &[History]) -> Result<Self, StoreError> {
        Self::of(store, histories, &dictionary())
    }

    /// The same of histories whose series measure something else.
    pub fn of(store: Arc<dyn Store>, histories: &[History], dictionary: &[(u32, Subject)]) -> Result<Self, StoreError> {
        let book = Arc::new(Book::open(store)?);
        let end = histories.iter().map(|history| history.end).max().expect("a history");
        let now = UnixNanos(BOOTED + i64::try_from(end).expect("a time of this century"));
        let clock: Arc<dyn Clock> = Arc::new(At(now));
        let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
        for (index, history) in (0u8..).zip(histories) {
            let opening = Opening {
                inventory: inventory(index),
                poller: None,
                epoch: 1,
                boot: BootId([index; 16]),
                boot_time: BootNanos(end),
                wall: now,
                received: now,
                streams: vec![history.stream, history.live],
            };
            let opened = vec![
                Request::Open(u64::from(index), Box::new(opening)),
                Request::Define(u64::from(index), history.stream, dictionary.to_vec()),
                Request::Define(u64::from(index), history.live, dictionary.to_vec()),
            ];
            intake.apply(now, opened)?;
        }
        Ok(Self { ledger: Ledger::new(Arc::clone(&book), clock), book, intake, now })
    }

    /// Sends one record and requires that it is acknowledged whole.
    pub fn send(&mut self, index: usize, history: &History, record: usize) {
        self.try_send(index, history, record).expect("the store does not fail");
    }

    /// The same where the store may fail.
    pub fn try_send(&mut self, index: usize, history: &History, record: usize) -> Result<(), StoreError> {
        let reply = self.offer(index, history, record)?;
        assert!(matches!(&reply, Reply::Ack { rejects, .. } if rejects.is_empty()), "{reply:?}");
        Ok(())
    }

    /// Sends one record, of which some may be refused.
    pub fn offer(&mut self, index: usize, history: &History, record: usize) -> Result<Reply, StoreError> {
        let batch = history.batches[record].clone();
        let payload = encode_batch(&batch).expect("a batch within the limits");
        let (stream, sequence) = history.place(record);
        let request = Request::Record {
            session: index as u64,
            stream,
            sequence,
            hash: payload.hash,
            payload: payload.bytes.to_vec(),
            batch: Some(Box::new(batch)),
        };
        Ok(self.intake.apply(self.now, vec![request])?.remove(0))
    }

    /// Settles every marked cell; the clock is far past all of them.
    pub fn settle(&self) {
        self.try_settle().expect("the store does not fail");
    }

    /// Settles what is closed at an instant, as the ledger does every five seconds. Returns how many cells that were.
    pub fn pass(&self, now: UnixNanos) -> usize {
        self.ledger.pass(now).expect("the store does not fail")
    }

    /// The same where the store may fail.
    pub fn try_settle(&self) -> Result<(), StoreError> {
        while self.ledger.pass(self.now.plus_seconds(3600))? > 0 {}
        Ok(())
    }

    /// Every stored cell of a node.
    pub fn cells(&self, index: usize) -> BTreeMap<(Resolution, UnixNanos), Cell> {
        // A cell of an hour may begin before the nodes do.
        let all = Window::new(UnixNanos(BOOTED).plus_seconds(-3600), self.now.plus_seconds(7200)).expect("ordered");
        let mut cells = BTreeMap::new();
        for resolution in [Resolution::Minute, Resolution::Settled, Resolution::Hour] {
            for (start, cell) in self.book.cells(index as u32, resolution, all).expect("memory does not fail") {
                cells.insert((resolution, start), cell);
            }
        }
        cells
    }
}
