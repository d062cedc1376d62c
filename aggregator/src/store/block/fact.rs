//! Small records.
//!
//! ```text
//! schema   version u32 | cluster 16 bytes
//! node     inventory | session epoch | first row: option signed | skew ns signed | later inventory (absent in old records)
//! stream   id 16 bytes | node | high-water mark | lost records | refused values | last instant: option signed |
//!          clock: option (boot 16 bytes, offset signed) | poller (absent in the streams of agents)
//! poller   name | inventory | session epoch | skew ns signed | later inventory
//! hash     sequence | 16 bytes
//! boot     offset ns signed
//! bridges  n, then each: series | instant signed | value
//! mark     generation
//! cut      rows signed | cells of 60 s signed | settled cells signed
//! training JSON
//! long     earliest instant signed | first row signed
//! gap      0 | series | to signed | reason u8 | low µJ | high µJ          (declared by the agent)
//!          1 | to signed | reason u8 | last sequence | values             (records lost)
//! ```

use super::descriptor::{
    read_inventory, read_kind, read_later_inventory, write_inventory, write_kind, write_later_inventory,
};
use super::{Damaged, Reader, Writer};
use crate::store::StoreError;
use crate::store::cut::Cut;
use joulebook_units::{BootId, GapReason, Inventory, LossReason, PollerName, StreamId, UnixNanos};

/// A value that is stored as a whole under one key.
pub trait Fact: Sized {
    /// Name for messages.
    const NAME: &'static str;
    /// Appends the fields.
    fn write(&self, writer: &mut Writer);
    /// Reads the fields.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged>;

    /// The bytes to store under `key`.
    fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.seal(key)
    }

    /// Reads the bytes stored under `key`.
    fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let read = || {
            let mut reader = Reader::open(key, value)?;
            let fact = Self::read(&mut reader)?;
            reader.end()?;
            Ok(fact)
        };
        read().map_err(|damaged: Damaged| damaged.of(Self::NAME))
    }
}

/// Version of the schema and identity of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Version of key and value layouts together.
    pub version: u32,
    /// Random identity.
    pub cluster: [u8; 16],
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFact {
    /// What its agent said last.
    pub inventory: Inventory,
    /// Highest session epoch.
    pub epoch: u64,
    /// First row ever.
    pub first_row: Option<UnixNanos>,
    /// The node's wall clock − ours at the last meeting, in ns.
    pub skew_nanos: i64,
}

/// A stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamFact {
    /// Its identity.
    pub id: StreamId,
    /// The node it is bound to.
    pub node: u32,
    /// Highest sequence number that is stored, 0 if none.
    pub acked: u64,
    /// Records declared lost.
    pub lost: u64,
    /// Values refused.
    pub rejected: u64,
    /// Last instant stored.
    pub last: Option<UnixNanos>,
    /// Boot of the last record and where its clock lies on ours in ns.
    pub clock: Option<(BootId, i64)>,
    /// Number of the poller that it belongs to; none for the node's own agent.
    pub poller: Option<u32>,
}

/// A poller that speaks for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollerFact {
    /// Its name.
    pub name: PollerName,
    /// What it said of the node last: its meters.
    pub inventory: Inventory,
    /// Highest session epoch.
    pub epoch: u64,
    /// Its wall clock − ours at the last meeting, in ns.
    pub skew_nanos: i64,
}

/// Hash of a recent record's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashFact {
    /// The record.
    pub sequence: u64,
    /// BLAKE3, first 16 bytes.
    pub hash: [u8; 16],
}

/// Where a boot's clock lies on ours: our time at its boot, in ns since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootFact(pub i64);

/// All rows before this instant, at which an hour begins, are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedFact(pub UnixNanos);

/// Last points before a loss, by series, until each is joined to what comes after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgesFact(pub Vec<(u32, UnixNanos, u64)>);

/// An event of training, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingFact(pub String);

/// A dirty mark's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkFact(pub u64);

/// Where a record with a long interval lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongFact {
    /// Earliest instant.
    pub earliest: UnixNanos,
    /// First row, for the key of the record.
    pub first_row: UnixNanos,
}

/// A gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapFact {
    /// Declared by the agent for one energy source.
    Energy {
        /// The series.
        series: u32,
        /// First instant at which it is known again.
        to: UnixNanos,
        /// Why.
        reason: GapReason,
        /// Least energy in µJ.
        low: u64,
        /// Most energy in µJ.
        high: u64,
    },
    /// Records that never come.
    Lost {
        /// Last instant of the loss.
        to: UnixNanos,
        /// Why.
        reason: LossReason,
        /// Last lost record.
        last_sequence: u64,
        /// Values in them.
        samples: u64,
    },
}

impl Fact for Schema {
    const NAME: &'static str = "the schema record";
    fn write(&self, writer: &mut Writer) {
        writer.number(u64::from(self.version));
        writer.raw(&self.cluster);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self { version: reader.small()?, cluster: reader.raw()? })
    }
}

impl Fact for NodeFact {
    const NAME: &'static str = "a node record";
    fn write(&self, writer: &mut Writer) {
        write_inventory(writer, &self.inventory);
        writer.number(self.epoch);
        writer.option(self.first_row, |writer, at| writer.signed(at.0));
        writer.signed(self.skew_nanos);
        write_later_inventory(writer, &self.inventory);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut node = Self {
            inventory: read_inventory(reader)?,
            epoch: reader.number()?,
            first_row: reader.option(|reader| reader.signed().map(UnixNanos))?,
            skew_nanos: reader.signed()?,
        };
        // A record of the first layout ends here.
        if reader.end().is_err() {
            read_later_inventory(reader, &mut node.inventory)?;
        }
        Ok(node)
    }
}

impl Fact for StreamFact {
    const NAME: &'static str = "a stream record";
    fn write(&self, writer: &mut Writer) {
        writer.raw(&self.id.0);
        writer.number(u64::from(self.node));
        writer.number(self.acked);
        writer.number(self.lost);
        writer.number(self.rejected);
        writer.option(self.last, |writer, at| writer.signed(at.0));
        writer.option(self.clock, |writer, (boot, offset)| {
            writer.raw(&boot.0);
            writer.signed(offset);
        });
        if let Some(poller) = self.poller {
            writer.number(u64::from(poller));
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            id: StreamId(reader.raw()?),
            node: reader.small()?,
            acked: reader.number()?,
            lost: reader.number()?,
            rejected: reader.number()?,
            last: reader.option(|reader| reader.signed().map(UnixNanos))?,
            clock: reader.option(|reader| Ok((BootId(reader.raw()?), reader.signed()?)))?,
            poller: if reader.end().is_ok() { None } else { Some(reader.small()?) },
        })
    }
}

impl Fact for PollerFact {
    const NAME: &'static str = "the record of a poller";
    fn write(&self, writer: &mut Writer) {
        writer.text(self.name.as_str());
        write_inventory(writer, &self.inventory);
        writer.number(self.epoch);
        writer.signed(self.skew_nanos);
        write_later_inventory(writer, &self.inventory);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut poller = Self {
            name: reader.text()?.parse().map_err(|_| Damaged("not a poller's name"))?,
            inventory: read_inventory(reader)?,
            epoch: reader.number()?,
            skew_nanos: reader.signed()?,
        };
        read_later_inventory(reader, &mut poller.inventory)?;
        Ok(poller)
    }
}

impl Fact for HashFact {
    const NAME: &'static str = "the hash of a record";
    fn write(&self, writer: &mut Writer) {
        writer.number(self.sequence);
        writer.raw(&self.hash);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self { sequence: reader.number()?, hash: reader.raw()? })
    }
}

impl Fact for TrainingFact {
    const NAME: &'static str = "an event of training";
    fn write(&self, writer: &mut Writer) {
        writer.text(&self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self(reader.text()?))
    }
}

impl Fact for BootFact {
    const NAME: &'static str = "the clock of a boot";
    fn write(&self, writer: &mut Writer) {
        writer.signed(self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        reader.signed().map(Self)
    }
}

impl Fact for SealedFact {
    const NAME: &'static str = "how far rows are sealed";
    fn write(&self, writer: &mut Writer) {
        writer.signed(self.0.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        reader.signed().map(|at| Self(UnixNanos(at)))
    }
}

impl Fact for Cut {
    const NAME: &'static str = "what the budget of the disk took";
    fn write(&self, writer: &mut Writer) {
        [self.rows, self.minutes, self.settled].iter().for_each(|before| writer.signed(before.0));
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut instant = || reader.signed().map(UnixNanos);
        Ok(Self { rows: instant()?, minutes: instant()?, settled: instant()? })
    }
}

impl Fact for BridgesFact {
    const NAME: &'static str = "the last points before a loss";
    fn write(&self, writer: &mut Writer) {
        writer.length(self.0.len());
        for (series, at, value) in &self.0 {
            writer.number(u64::from(*series));
            writer.signed(at.0);
            writer.number(*value);
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        reader.list(|reader| Ok((reader.small()?, UnixNanos(reader.signed()?), reader.number()?))).map(Self)
    }
}

impl Fact for MarkFact {
    const NAME: &'static str = "a dirty mark";
    fn write(&self, writer: &mut Writer) {
        writer.number(self.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        reader.number().map(Self)
    }
}

impl Fact for LongFact {
    const NAME: &'static str = "an entry of the index of long intervals";
    fn write(&self, writer: &mut Writer) {
        writer.signed(self.earliest.0);
        writer.signed(self.first_row.0);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self { earliest: UnixNanos(reader.signed()?), first_row: UnixNanos(reader.signed()?) })
    }
}

const LOSSES: [LossReason; 4] = [LossReason::SpoolFull, LossReason::Corrupt, LossReason::NoSpace, LossReason::Rewind];
const REASONS: [GapReason; 8] = [
    GapReason::CounterReset,
    GapReason::AmbiguousWrap,
    GapReason::WrapUnknownRange,
    GapReason::SourceLost,
    GapReason::Implausible,
    GapReason::Reboot,
    GapReason::UnstableCounter,
    GapReason::CounterStuck,
];

impl Fact for GapFact {
    const NAME: &'static str = "a gap";
    fn write(&self, writer: &mut Writer) {
        match *self {
            Self::Energy { series, to, reason, low, high } => {
                writer.byte(0);
                writer.number(u64::from(series));
                writer.signed(to.0);
                write_kind(writer, &REASONS, &reason);
                writer.number(low);
                writer.number(high);
            }
            Self::Lost { to, reason, last_sequence, samples } => {
                writer.byte(1);
                writer.signed(to.0);
                write_kind(writer, &LOSSES, &reason);
                writer.number(last_sequence);
                writer.number(samples);
            }
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        if !reader.truth()? {
            let (series, to) = (reader.small()?, UnixNanos(reader.signed()?));
            let reason = read_kind(reader, &REASONS)?;
            return Ok(Self::Energy { series, to, reason, low: reader.number()?, high: reader.number()? });
        }
        let (to, reason) = (UnixNanos(reader.signed()?), read_kind(reader, &LOSSES)?);
        Ok(Self::Lost { to, reason, last_sequence: reader.number()?, samples: reader.number()? })
    }
}
