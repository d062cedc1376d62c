//! The database's bytes: keys, and values behind a right checksum.

use joulebook_aggregator::store::block::descriptor::Entity;
use joulebook_aggregator::store::block::fact::{
    BootFact, BridgesFact, Fact, GapFact, HashFact, LongFact, MarkFact, NodeFact, Schema, StreamFact,
};
use joulebook_aggregator::store::block::row::RowRecord;
use joulebook_aggregator::store::block::{CELLS_VERSION, CHUNK_VERSION, Writer, cell, cells, chunk};
use joulebook_aggregator::store::key::{self, GapKey, Meta, RowKey};
use joulebook_units::{Consumer, Consumption, Subject, UnixNanos, Window, Workload, WorkloadKind};
use std::fmt::Debug;
use std::sync::Arc;

/// A key that is read is written the same way.
pub fn keys(data: &[u8]) {
    if let Ok(key) = RowKey::decode(data) {
        assert_eq!(key.encode().as_slice(), data);
    }
    if let Ok(key) = GapKey::decode(data) {
        assert_eq!(key.encode().as_slice(), data);
    }
    if let Ok(key) = Meta::decode(data) {
        assert_eq!(key.encode(), data);
    }
    if let Ok((node, start)) = key::decode_cell(data) {
        assert_eq!(key::cell(node, start).as_slice(), data);
    }
}

const KEY: &[u8] = b"fuzz";

/// Values of every kind: the bytes as they are, and behind a right checksum.
pub fn blocks(data: &[u8]) {
    let mut writer = Writer::default();
    writer.raw(data);
    let sealed = writer.seal(KEY);
    for value in [data, &sealed] {
        fact::<Schema>(value);
        fact::<NodeFact>(value);
        fact::<StreamFact>(value);
        fact::<HashFact>(value);
        fact::<BootFact>(value);
        fact::<BridgesFact>(value);
        fact::<MarkFact>(value);
        fact::<LongFact>(value);
        fact::<GapFact>(value);
        fact::<Subject>(value);
        if let Ok(record) = RowRecord::decode(KEY, UnixNanos(0), value) {
            let again = RowRecord::decode(KEY, UnixNanos(0), &record.encode(KEY));
            assert!(again.is_ok_and(|again| again == record), "rows read back");
        }
        let _ = cell::decode(KEY, value, &|_| None);
    }
    let mut writer = Writer::of(CHUNK_VERSION);
    writer.raw(data);
    for value in [data, &writer.seal(KEY)] {
        let records = chunk::decode(KEY, UnixNanos(0), 1, value, &|_, _| true);
        columns(value, records.as_deref().ok());
        let Ok(records) = records else { continue };
        // The rows of records may come in an order that is never written.
        if let Some(value) = chunk::encode(KEY, UnixNanos(0), &records) {
            let again = chunk::decode(KEY, UnixNanos(0), 1, &value, &|_, _| true);
            assert!(again.is_ok_and(|again| again == records), "a chunk reads back");
        }
    }
    let mut writer = Writer::of(CELLS_VERSION);
    writer.raw(data);
    for value in [data, &writer.seal(KEY)] {
        let Ok(hour) = cells::decode(KEY, value, u64::MAX, &|id| Some(named(id))) else { continue };
        let number = |entity: &Entity| (0..NAMED).find(|id| named(*id) == *entity);
        // One without cells is never written.
        if let Some(value) = cells::encode(KEY, &hour, &number) {
            let again = cells::decode(KEY, &value, u64::MAX, &|id| Some(named(id)));
            assert!(again.is_ok_and(|again| again == hour), "an hour of cells reads back");
        }
    }
}

/// A chunk read by columns is what its records are, and damage where they are.
fn columns(value: &[u8], records: Option<&[chunk::Numbered]>) {
    let (first, last) = (UnixNanos(i64::MIN), UnixNanos(i64::MAX));
    let Some(all) = Window::new(first, last) else { return };
    let found = chunk::columns(KEY, UnixNanos(0), 1, value, &(first..last), all).ok();
    let points = |columns: chunk::Columns| columns.series.iter().map(|(_, column)| column.len()).sum::<usize>();
    let is_inside = |at: UnixNanos| at < last;
    let told = records.map(|records| {
        let columns =
            records.iter().filter(|(_, record)| is_inside(record.rows[0])).flat_map(|(_, record)| &record.columns);
        let columns = columns.filter(|column| column.span().is_some_and(|(first, _)| is_inside(first)));
        columns.map(|column| column.points.len()).sum::<usize>()
    });
    assert_eq!(found.map(points), told, "columns and records differ");
}

/// What cells name here.
const NAMED: u32 = 6;

fn named(id: u32) -> Entity {
    let name = (id % NAMED).to_string();
    if id.is_multiple_of(2) {
        return Entity::Workload(Arc::new(Workload::bare(name.clone(), WorkloadKind::Unit, name)));
    }
    Entity::Consumption(Arc::new(Consumption {
        consumer: Consumer { kind: "key".to_owned(), name },
        engine: "litellm".to_owned(),
        gateway: "http://127.0.0.1:4000".to_owned(),
        endpoint: None,
        model: None,
        version: None,
    }))
}

fn fact<T: Fact + PartialEq + Debug>(value: &[u8]) {
    if let Ok(fact) = T::decode(KEY, value) {
        let again = T::decode(KEY, &fact.encode(KEY));
        assert!(again.as_ref().is_ok_and(|again| *again == fact), "{fact:?} reads back as {again:?}");
    }
}
