//! Writes the fleet into a store: cells of every minute, sums over them, and rows of the last hour.

use super::node::{courses, inventory, series};
use super::script::{HOUR, NODES, Script};
use super::{grid, training};
use crate::aggregator::At;
use joulebook_aggregator::clock::Clock;
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::ledger::Ledger;
use joulebook_aggregator::query::Query;
use joulebook_aggregator::store::{Book, Resolution, Store};
use joulebook_proto::convert::encode_batch;
use joulebook_sci::{Cell, settle};
use joulebook_units::{Batch, BootId, BootNanos, Column, Point, StreamId, Subject, UnixNanos, Window};
use std::sync::Arc;
use tokio::sync::watch;

const MINUTE: i64 = 60;
/// How long the nodes run when the script begins, so that no boot clock shows less than 0.
const BOOTED_BEFORE: i64 = 1000;

/// The store of an aggregator that the fleet was written into.
pub struct Fleet {
    /// What is stored.
    pub book: Arc<Book>,
    /// The script.
    pub script: Script,
    /// The aggregator's clock: the end of the script.
    pub now: UnixNanos,
}

impl Fleet {
    /// Writes everything into a store that is empty.
    pub fn write(store: Arc<dyn Store>, script: Script) -> Self {
        let fleet = Self { book: Arc::new(Book::open(store).expect("an empty store")), script, now: script.end() };
        let last = script.hours().last().expect("an hour at least");
        let mut intake = Intake::new(Arc::clone(&fleet.book), Arc::new(Counters::default()));
        for node in 0..NODES.len() {
            Agent { fleet: &fleet, node, boot: fleet.script.start.plus_seconds(-BOOTED_BEFORE), last }
                .tell(&mut intake);
        }
        let clock: Arc<dyn Clock> = Arc::new(At(fleet.now));
        let ledger = Ledger::new(Arc::clone(&fleet.book), clock);
        while ledger.pass(fleet.now.plus_seconds(HOUR)).expect("the store does not fail") > 0 {}
        for node in 0..NODES.len() {
            script.hours().filter(|hour| *hour != last).for_each(|hour| fleet.settle(node, hour));
        }
        grid::fill(&fleet.book, &script);
        training::fill(&fleet.book, &script);
        fleet
    }

    /// Stores the cells of a node and an hour.
    fn settle(&self, node: usize, hour: i64) {
        let minute = self.minute(node, hour);
        let (mut settled, mut whole) = (Cell::default(), Cell::default());
        let (minutes, slots) = (Resolution::Settled.seconds() / MINUTE, HOUR / Resolution::Settled.seconds());
        (0..minutes).for_each(|_| settled.merge(&minute));
        (0..slots).for_each(|_| whole.merge(&settled));
        let start = self.script.hour(hour);
        let of = |resolution: Resolution, cell: &Cell| -> Vec<(Resolution, UnixNanos, Cell)> {
            let slots = self.script.hour_window(hour).slots(resolution.seconds());
            slots.map(|slot| (resolution, slot.start(), cell.clone())).collect()
        };
        let mut cells = of(Resolution::Minute, &minute);
        cells.extend(of(Resolution::Settled, &settled));
        cells.push((Resolution::Hour, start, whole));
        let number = u32::try_from(node).expect("few nodes");
        self.book.settle(number, &cells, &[]).expect("the store does not fail");
    }

    /// The cell of each minute of an hour, as the ledger would settle it.
    pub fn minute(&self, node: usize, hour: i64) -> Cell {
        let start = self.script.hour(hour);
        let window = Window::new(start, start.plus_seconds(MINUTE)).expect("ordered");
        settle(&series(node, &self.script.minute(node, hour), window), window)
    }

    /// The cells of the last hour, which the ledger settled out of rows.
    pub fn from_rows(&self, node: usize) -> Vec<Cell> {
        let last = self.script.hours().last().expect("an hour at least");
        let number = u32::try_from(node).expect("few nodes");
        let cells = self.book.cells(number, Resolution::Minute, self.script.hour_window(last));
        cells.expect("the store does not fail").into_iter().map(|(_, cell)| cell).collect()
    }

    /// Answers questions with the factors of the script.
    pub fn query(&self) -> Query {
        let clock: Arc<dyn Clock> = Arc::new(At(self.now));
        Query::new(Arc::clone(&self.book), watch::channel(Arc::new(grid::factors())).1, clock)
    }
}

/// The agent of a node: it tells its first row, and the rows of the last hour.
struct Agent<'a> {
    fleet: &'a Fleet,
    node: usize,
    boot: UnixNanos,
    last: i64,
}

impl Agent<'_> {
    fn tell(&self, intake: &mut Intake) {
        let script = &self.fleet.script;
        let number = u8::try_from(self.node).expect("few nodes");
        let (session, boot, stream) = (u64::from(number), BootId([number; 16]), StreamId([number ^ 0xa5; 16]));
        let began = script.hours().next().expect("an hour at least");
        let first = script.hour(began);
        let opening = Opening {
            inventory: inventory(self.node),
            poller: None,
            epoch: 1,
            boot,
            boot_time: self.since_boot(first),
            wall: first,
            received: first,
            streams: vec![stream],
        };
        let subjects: Vec<Subject> = script.hours().fold(Vec::new(), |mut subjects, hour| {
            let told = courses(self.node, &script.minute(self.node, hour), 0).into_iter().map(|(subject, ..)| subject);
            told.for_each(|subject| {
                if !subjects.contains(&subject) {
                    subjects.push(subject);
                }
            });
            subjects
        });
        let described = (1u32..).zip(subjects.iter().cloned()).collect();
        let opened = vec![Request::Open(session, Box::new(opening)), Request::Define(session, stream, described)];
        intake.apply(first, opened).expect("the store does not fail");

        let minute = script.minute(self.node, self.last);
        let start = script.hour(self.last);
        let id = |subject: &Subject| {
            let place = subjects.iter().position(|known| known == subject).expect("described");
            u32::try_from(place).expect("few series") + 1
        };
        let mut rows = vec![(first, courses(self.node, &script.minute(self.node, began), 0), None)];
        rows.push((start, courses(self.node, &minute, 0), None));
        for number in 0..HOUR / MINUTE {
            let at = start.plus_seconds(MINUTE * (number + 1));
            rows.push((at, courses(self.node, &minute, number.unsigned_abs()), Some(at.plus_seconds(-MINUTE))));
        }
        for (sequence, (at, courses, before)) in (1u64..).zip(rows) {
            let point = |at: UnixNanos, value: u64| Point { at: self.since_boot(at), value };
            let column = |(subject, from, to)| Column {
                series: id(&subject),
                previous: before.map(|before| point(before, from)),
                // The first of a run is where its first minute begins.
                points: vec![point(at, if before.is_some() { to } else { from })],
            };
            let columns = courses.into_iter().map(column).collect();
            let batch = Batch { boot, wall: at, rows: vec![self.since_boot(at)], columns, gaps: vec![] };
            let payload = encode_batch(&batch).expect("a batch within the limits");
            let record = Request::Record {
                session,
                stream,
                sequence,
                hash: payload.hash,
                payload: payload.bytes.to_vec(),
                batch: Some(Box::new(batch)),
            };
            let replies = intake.apply(at, vec![record]).expect("the store does not fail");
            assert!(matches!(&replies[..], [Reply::Ack { rejects, .. }] if rejects.is_empty()), "{replies:?}");
        }
    }

    fn since_boot(&self, at: UnixNanos) -> BootNanos {
        BootNanos(at.nanos_since(self.boot))
    }
}
