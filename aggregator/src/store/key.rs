//! Layout of keys. The only place that knows it.
//!
//! Numbers are big-endian, so that bytes order as numbers do. An instant is its nanoseconds since 1970 with the sign
//! bit flipped, so that instants before 1970 order before those after.
//!
//! | table | key | bytes |
//! | --- | --- | --- |
//! | rows | node u32, first row instant, stream ordinal u32, sequence u64 | 24 |
//! | rows, chunks | node u32, instant at which the hour begins, stream ordinal u32, first record's sequence u64 | 24 |
//! | long | node u32, last instant, stream ordinal u32, sequence u64 | 24 |
//! | gaps | node u32, from instant, stream ordinal u32, sequence u64, index u32 | 28 |
//! | cells, settled, hours, dirty | node u32, start instant | 12 |
//! | cells, settled, put together | node u32, instant at which the hour begins | 12 |
//! | quarantine | stream ordinal u32, sequence u64, received instant | 20 |
//! | meta | one tag byte, then per tag as in [`Meta`] | |
//! | meta, series of factors | 0x20, name | 2 … 129 |
//! | meta, events of training | 0x22, length of the pool u8, pool, revision instant | 11 … |
//! | meta, cells of factors | 0x21, length of the name u8, name, 0 or 1 (long cells), first start instant, revision instant | 19 … |
//!
//! Invariants: a layout never changes (a new one is a new table or tag); decoding refuses any other length or tag;
//! one row record per node and batch, never a key per value.

use super::StoreError;
use joulebook_units::{BootId, StreamId, UnixNanos};

const SIGN: u64 = 1 << 63;
/// Tag of a series of factors in the table of facts.
const FACTOR_SERIES: u8 = 0x20;
/// Tag of cells of factors.
const FACTOR_CELLS: u8 = 0x21;
/// Tag of events of training.
const TRAINING: u8 = 0x22;

/// Key of a row record, and of its entry in the index of long intervals (there `at` is the last instant).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// Number of the node.
    pub node: u32,
    /// First row (rows), last instant (long).
    pub at: UnixNanos,
    /// Ordinal of the stream.
    pub ordinal: u32,
    /// Sequence number of the record.
    pub sequence: u64,
}

impl RowKey {
    /// The bytes.
    pub fn encode(self) -> [u8; 24] {
        let mut key = [0; 24];
        key[..12].copy_from_slice(&cell(self.node, self.at));
        key[12..16].copy_from_slice(&self.ordinal.to_be_bytes());
        key[16..].copy_from_slice(&self.sequence.to_be_bytes());
        key
    }

    /// Reads a key; any length but 24 is damage.
    pub fn decode(key: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(key);
        let row = Self { node: fields.u32()?, at: fields.instant()?, ordinal: fields.u32()?, sequence: fields.u64()? };
        fields.end()?;
        Ok(row)
    }
}

/// Key of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GapKey {
    /// Number of the node.
    pub node: u32,
    /// Last instant at which everything was known.
    pub from: UnixNanos,
    /// Ordinal of the stream.
    pub ordinal: u32,
    /// Sequence number of the record that declares it, or first lost record.
    pub sequence: u64,
    /// Place in the record.
    pub index: u32,
}

impl GapKey {
    /// The bytes.
    pub fn encode(self) -> [u8; 28] {
        let mut key = [0; 28];
        let row = RowKey { node: self.node, at: self.from, ordinal: self.ordinal, sequence: self.sequence };
        key[..24].copy_from_slice(&row.encode());
        key[24..].copy_from_slice(&self.index.to_be_bytes());
        key
    }

    /// Reads a key; any length but 28 is damage.
    pub fn decode(key: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(key);
        let (node, from) = (fields.u32()?, fields.instant()?);
        let gap = Self { node, from, ordinal: fields.u32()?, sequence: fields.u64()?, index: fields.u32()? };
        fields.end()?;
        Ok(gap)
    }
}

/// Key of a cell of any resolution, of a dirty mark, and prefix of every key of a node from an instant on.
pub fn cell(node: u32, start: UnixNanos) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&node.to_be_bytes());
    key[4..].copy_from_slice(&(start.0.cast_unsigned() ^ SIGN).to_be_bytes());
    key
}

/// Reads a key made by [`cell`]; any length but 12 is damage.
pub fn decode_cell(key: &[u8]) -> Result<(u32, UnixNanos), StoreError> {
    let mut fields = Fields(key);
    let decoded = (fields.u32()?, fields.instant()?);
    fields.end()?;
    Ok(decoded)
}

/// First key after every key of a node; with it `cell(node, UnixNanos(i64::MIN))..node_end(node)` is all of the node.
pub fn node_end(node: u32) -> Vec<u8> {
    match node.checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        // Longer than any key of the last node.
        None => vec![0xff; 32],
    }
}

/// Key of a quarantined record.
pub fn quarantine(ordinal: u32, sequence: u64, received: UnixNanos) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&ordinal.to_be_bytes());
    key[4..12].copy_from_slice(&sequence.to_be_bytes());
    key[12..].copy_from_slice(&(received.0.cast_unsigned() ^ SIGN).to_be_bytes());
    key
}

/// A key of the table of facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// 0x01: version of the schema and identity of the database.
    Schema,
    /// 0x02, number u32: a node.
    Node(u32),
    /// 0x03, ordinal u32: a stream.
    Stream(u32),
    /// 0x04, ordinal u32, sequence modulo 64 u8: hash of a recent record.
    Hash(u32, u8),
    /// 0x05, ordinal u32, series u32: a series' subject.
    Series(u32, u32),
    /// 0x06, node u32, boot 16 bytes: where a boot's clock lies on ours.
    Boot(u32, BootId),
    /// 0x07, id u32: a service, workload or source that cells name.
    Entity(u32),
    /// 0x08, ordinal u32: last points before a loss, not yet bridged.
    Bridges(u32),
    /// 0x09, number u32: what a poller is to a node.
    Poller(u32),
    /// 0x0a, node u32: how far a node's rows are sealed.
    Sealed(u32),
    /// 0x0b: before what instants the budget of the disk took data.
    Cut,
}

impl Meta {
    /// Records whose hashes are kept.
    pub const HASHES: u64 = 64;

    /// The bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(21);
        match self {
            Self::Schema => key.push(1),
            Self::Node(number) => {
                key.push(2);
                key.extend(number.to_be_bytes());
            }
            Self::Stream(ordinal) => {
                key.push(3);
                key.extend(ordinal.to_be_bytes());
            }
            Self::Hash(ordinal, slot) => {
                key.push(4);
                key.extend(ordinal.to_be_bytes());
                key.push(slot);
            }
            Self::Series(ordinal, series) => {
                key.push(5);
                key.extend(ordinal.to_be_bytes());
                key.extend(series.to_be_bytes());
            }
            Self::Boot(node, boot) => {
                key.push(6);
                key.extend(node.to_be_bytes());
                key.extend(boot.0);
            }
            Self::Entity(id) => {
                key.push(7);
                key.extend(id.to_be_bytes());
            }
            Self::Bridges(ordinal) => {
                key.push(8);
                key.extend(ordinal.to_be_bytes());
            }
            Self::Poller(number) => {
                key.push(9);
                key.extend(number.to_be_bytes());
            }
            Self::Sealed(node) => {
                key.push(10);
                key.extend(node.to_be_bytes());
            }
            Self::Cut => key.push(11),
        }
        key
    }

    /// Reads a key; another tag or length is damage.
    pub fn decode(key: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(key);
        let meta = match fields.array::<1>()? {
            [1] => Self::Schema,
            [2] => Self::Node(fields.u32()?),
            [3] => Self::Stream(fields.u32()?),
            [4] => Self::Hash(fields.u32()?, fields.array::<1>()?[0]),
            [5] => Self::Series(fields.u32()?, fields.u32()?),
            [6] => Self::Boot(fields.u32()?, BootId(fields.array()?)),
            [7] => Self::Entity(fields.u32()?),
            [8] => Self::Bridges(fields.u32()?),
            [9] => Self::Poller(fields.u32()?),
            [10] => Self::Sealed(fields.u32()?),
            [11] => Self::Cut,
            [tag] => return Err(damaged(&format!("unknown tag {tag}"))),
        };
        fields.end()?;
        Ok(meta)
    }
}

/// Key of the record of a series of factors.
pub fn factor_series(name: &str) -> Vec<u8> {
    let mut key = vec![FACTOR_SERIES];
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name in a key made by [`factor_series`]; `None` for other keys.
pub fn decode_factor_series(key: &[u8]) -> Option<Result<String, StoreError>> {
    let name = key.strip_prefix(&[FACTOR_SERIES])?;
    Some(String::from_utf8(name.to_vec()).map_err(|_| damaged("a name that is not UTF-8")))
}

/// Whether a key is one of cells of factors or of training: they are read when they are asked for.
pub fn is_read_later(key: &[u8]) -> bool {
    matches!(key.first(), Some(&FACTOR_CELLS | &TRAINING))
}

/// Key of an event of training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingKey {
    /// The pool, at most 128 bytes.
    pub pool: String,
    /// When it was recorded.
    pub revision: UnixNanos,
}

impl TrainingKey {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut key = vec![TRAINING, u8::try_from(self.pool.len()).unwrap_or(u8::MAX)];
        key.extend_from_slice(self.pool.as_bytes());
        key.extend((self.revision.0.cast_unsigned() ^ SIGN).to_be_bytes());
        key
    }

    /// Reads a key; anything else is damage.
    pub fn decode(key: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(key);
        let [tag, length] = fields.array::<2>()?;
        let split = fields.0.split_at_checked(usize::from(length)).filter(|_| tag == TRAINING);
        let (pool, rest) = split.ok_or_else(|| damaged("no key of training"))?;
        let pool = String::from_utf8(pool.to_vec()).map_err(|_| damaged("a name that is not UTF-8"))?;
        let mut fields = Fields(rest);
        let decoded = Self { pool, revision: fields.instant()? };
        fields.end()?;
        Ok(decoded)
    }
}

/// First key of training, and the first after all of them.
pub fn training_range() -> (Vec<u8>, Vec<u8>) {
    (vec![TRAINING], vec![TRAINING + 1])
}

/// Key of cells of a series of factors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactorKey {
    /// Name of the series, at most 128 bytes.
    pub name: String,
    /// Whether a cell is longer than what the other keys span together.
    pub long: bool,
    /// Start of the first cell.
    pub start: UnixNanos,
    /// When the cells were recorded.
    pub revision: UnixNanos,
}

impl FactorKey {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut key = Self::from(&self.name, self.long, self.start);
        key.extend((self.revision.0.cast_unsigned() ^ SIGN).to_be_bytes());
        key
    }

    /// First key of a series that begins at or after an instant.
    pub fn from(name: &str, long: bool, start: UnixNanos) -> Vec<u8> {
        let mut key = vec![FACTOR_CELLS, u8::try_from(name.len()).unwrap_or(u8::MAX)];
        key.extend_from_slice(name.as_bytes());
        key.push(u8::from(long));
        key.extend((start.0.cast_unsigned() ^ SIGN).to_be_bytes());
        key
    }

    /// Reads a key; anything else is damage.
    pub fn decode(key: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(key);
        let [tag, length] = fields.array::<2>()?;
        let split = fields.0.split_at_checked(usize::from(length)).filter(|_| tag == FACTOR_CELLS);
        let (name, rest) = split.ok_or_else(|| damaged("no key of factors"))?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| damaged("a name that is not UTF-8"))?;
        let mut fields = Fields(rest);
        let long = fields.array::<1>()? == [1];
        let decoded = Self { name, long, start: fields.instant()?, revision: fields.instant()? };
        fields.end()?;
        Ok(decoded)
    }
}

/// Slot of the hash of a record: the last [`Meta::HASHES`] are kept.
pub fn hash_slot(sequence: u64) -> u8 {
    u8::try_from(sequence % Meta::HASHES).unwrap_or(0)
}

/// For messages: a stream and a record.
pub fn describe(stream: StreamId, sequence: u64) -> String {
    format!("record {sequence} of stream {stream}")
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| damaged("too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    fn instant(&mut self) -> Result<UnixNanos, StoreError> {
        self.u64().map(|raw| UnixNanos((raw ^ SIGN).cast_signed()))
    }

    fn end(&self) -> Result<(), StoreError> {
        if self.0.is_empty() { Ok(()) } else { Err(damaged("too long")) }
    }
}

fn damaged(reason: &str) -> StoreError {
    StoreError::Damaged { what: "a key".to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_of_row_keys_never_changes() {
        let key = RowKey { node: 0x0102_0304, at: UnixNanos(5), ordinal: 6, sequence: 7 }.encode();
        let golden = [1, 2, 3, 4, 0x80, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(key, golden);
        assert_eq!(cell(1, UnixNanos(-1)), [0, 0, 0, 1, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(Meta::Series(1, 2).encode(), [5, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert_eq!(Meta::Hash(1, 63).encode(), [4, 0, 0, 0, 1, 63]);
        assert_eq!(Meta::Boot(9, BootId([7; 16])).encode()[..6], [6, 0, 0, 0, 9, 7]);
    }

    #[test]
    fn garbage_is_no_key() {
        assert!(RowKey::decode(&[0; 23]).is_err());
        assert!(RowKey::decode(&[0; 25]).is_err());
        assert!(GapKey::decode(&[0; 27]).is_err());
        assert!(decode_cell(&[]).is_err());
        assert!(Meta::decode(&[]).is_err());
        assert!(Meta::decode(&[11, 0, 0, 0, 0]).is_err() && Meta::decode(&[12]).is_err());
        assert!(Meta::decode(&[1, 0]).is_err());
    }

    proptest! {
        #[test]
        fn keys_order_as_their_fields_do(
            a in (any::<u32>(), any::<i64>(), any::<u32>(), any::<u64>()),
            b in (any::<u32>(), any::<i64>(), any::<u32>(), any::<u64>()),
        ) {
            let key = |f: (u32, i64, u32, u64)| RowKey { node: f.0, at: UnixNanos(f.1), ordinal: f.2, sequence: f.3 };
            prop_assert_eq!(key(a).encode().cmp(&key(b).encode()), key(a).cmp(&key(b)));
            prop_assert_eq!(RowKey::decode(&key(a).encode()).expect("own key"), key(a));
            let gap = GapKey { node: a.0, from: UnixNanos(a.1), ordinal: a.2, sequence: a.3, index: b.0 };
            prop_assert_eq!(GapKey::decode(&gap.encode()).expect("own key"), gap);
            let whole = key(a).encode();
            prop_assert!(whole.as_slice() < node_end(a.0).as_slice());
            prop_assert!(whole.as_slice() >= cell(a.0, UnixNanos(i64::MIN)).as_slice());
            let factor = |start, revision| FactorKey { name: "pue".into(), long: false, start, revision };
            let (one, other) = (factor(UnixNanos(a.1), UnixNanos(b.1)), factor(UnixNanos(b.1), UnixNanos(a.1)));
            prop_assert_eq!(one.encode().cmp(&other.encode()), (a.1, b.1).cmp(&(b.1, a.1)));
            prop_assert_eq!(FactorKey::decode(&one.encode()).expect("own key"), one);
        }

        #[test]
        fn hostile_keys_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (RowKey::decode(&bytes), GapKey::decode(&bytes), decode_cell(&bytes), Meta::decode(&bytes));
            let _ = (FactorKey::decode(&bytes), decode_factor_series(&bytes), TrainingKey::decode(&bytes));
        }
    }
}
