//! The database's bytes: keys, and values behind a right checksum.

use joulebook_aggregator::store::block::descriptor::Entity;
use joulebook_aggregator::store::block::fact::{
    BootFact, BridgesFact, Fact, GapFact, HashFact, LongFact, MarkFact, NodeFact, Schema, StreamFact,
};
use joulebook_aggregator::store::block::row::RowRecord;
use joulebook_aggregator::store::block::{CELLS_VERSION, CHUNK_VERSION, Writer, cell, cells, chunk};
use joulebook_aggregator::store::key::{self, GapKey, Meta, RowKey};
use joulebook_units::{Consumer, Consumption, Subject, UnixNanos, Workload, WorkloadKind};
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
        let Ok(records) = chunk::decode(KEY, UnixNanos(0), 1, value, &|_, _| true) else { continue };
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
