//! The spool's bytes, and the only place that knows them. Integers are little-endian.
//!
//! ```text
//! segment  seg-<first sequence:016x>.spl = header, then frames, then nothing (or zeros, which end it too)
//! header   64 B: magic "JBSPOOL\0" | version u16 = 1 | 0 u16 | stream id 16 | first sequence u64 | session epoch u64
//!                | lost records u64 | lost values u64 | CRC32C u32 of the 60 bytes before it
//! frame    len u32 | type u8 | flags u8 = 0 | 0 u16 | sequence u64 | payload of len bytes | CRC32C u32 of all before it
//! batch      (type 1) payload: local_len u32 | local part | wire part: the Zstandard frame exactly as it is sent
//! dictionary (type 2) payload: serialized definitions of series; sequence: the next batch's
//! gap        (type 3) payload: from u64 | to u64 | reason u8 | samples u64 | span u8 (0 none, 1 given: boot id 16,
//!                     first u64, last u64) | lost records u64 | lost values u64; sequence: the next batch's
//! local    version u8 = 1 | values u32 | boot id 16 | first row u64 | last row u64 | local state:
//!          boot id 16 | at u64 | wall i64 | count u32 | count × (series u32 | raw u64 | value u64 | at u64 | epoch u64)
//! mark     36 B: magic 8 ("JBCURSR1" or "JBEPOCH1") | stream id 16 | value u64 | CRC32C u32
//! loss     loss.bin = two slots of 4 KiB, made whole once and written in turn: magic "JBLOSS01" | turn u64 | stream id 16
//!          | session epoch u64 | highest sequence u64 | lost records u64 | lost values u64 | earlier lost records u64 | earlier lost values u64
//!          | retired stream id 16 (zeros: none) | gaps u32 | gaps × (as the payload of a gap frame) | CRC32C u32
//! ```
//!
//! Invariants: `len` ≤ 1 MiB; batch sequences rise by one from the header's first; a segment begins with the
//! dictionary of every series known then and with the gaps not delivered then, so that it stands alone; the lost
//! counters are cumulative since the stream began. Nothing trusts a length alone: a frame counts when its CRC does.

use super::{Baseline, LocalState};
use joulebook_units::{BootId, BootNanos, LossReason, LostSpan, StreamGap, StreamId, UnixNanos};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a frame around its payload.
pub const FRAME_BYTES: usize = 20;
/// Most bytes of a frame's payload.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Version of the format this build writes.
pub const VERSION: u16 = 1;
/// Magic of the file that holds the acknowledged sequence.
pub const CURSOR_MAGIC: &[u8; 8] = b"JBCURSR1";
/// Magic of the file that holds the session epoch.
pub const EPOCH_MAGIC: &[u8; 8] = b"JBEPOCH1";
/// Bytes of one slot of the file of losses.
pub const LOSS_SLOT_BYTES: usize = 4 << 10;
/// Most gaps of one slot: so many fit, each with its span.
pub const LOSS_GAPS: usize = 48;

const MAGIC: &[u8; 8] = b"JBSPOOL\0";
const LOSS_MAGIC: &[u8; 8] = b"JBLOSS01";
const LOCAL_VERSION: u8 = 1;

/// What was lost since the stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Records.
    pub records: u64,
    /// Values in them, as far as they were known.
    pub samples: u64,
}

impl Losses {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let records = self.records.saturating_add(other.records);
        Self { records, samples: self.samples.saturating_add(other.samples) }
    }

    /// The higher of each: two copies of one cumulative count, of which one may be older.
    #[must_use]
    pub fn newer(self, other: Self) -> Self {
        Self { records: self.records.max(other.records), samples: self.samples.max(other.samples) }
    }
}

/// What a slot of the file of losses holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossSlot {
    /// Counts the writes of the file: the higher of two slots is the newer.
    pub turn: u64,
    /// The stream of the folder.
    pub stream: StreamId,
    /// Epoch of the session that wrote this: its own file cannot be replaced while the disk is full.
    pub epoch: u64,
    /// Highest number assigned when this was written.
    pub highest: u64,
    /// Losses of the stream.
    pub lost: Losses,
    /// Losses of streams whose folders are gone.
    pub earlier: Losses,
    /// The stream that was the last to be added to `earlier`: its folder counts no more.
    pub retired: Option<StreamId>,
    /// Losses that are not known to be delivered.
    pub gaps: Vec<StreamGap>,
}

/// Header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The stream of the records.
    pub stream: StreamId,
    /// Sequence of the first batch.
    pub first_sequence: u64,
    /// Epoch of the session that created the segment.
    pub epoch: u64,
    /// Losses before this segment.
    pub lost: Losses,
}

/// Why bytes are no header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// A format this build does not know.
    Newer(u16),
    /// Anything else.
    Damaged,
}

/// Type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A batch.
    Batch = 1,
    /// Definitions of series.
    Dictionary = 2,
    /// Lost records.
    Gap = 3,
}

/// A frame whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its sequence.
    pub sequence: u64,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame.
    pub fn size(&self) -> usize {
        self.payload.len() + FRAME_BYTES
    }
}

/// Why no frame begins here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// No bytes, or only zeros, follow.
    End,
    /// The bytes stop before the frame does: a write that did not finish.
    Torn,
    /// The bytes are not what was written.
    Damaged,
}

/// The parts of a batch frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchParts<'a> {
    /// Facts for gaps, without decoding the wire part.
    pub extent: Extent,
    /// What the agent needs to go on after a restart.
    pub local: LocalState,
    /// The payload as it is sent.
    pub wire: &'a [u8],
}

/// What a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of values.
    pub samples: u32,
    /// Boot and times of the first and last row.
    pub span: LostSpan,
}

/// Makes the bytes of a header.
pub fn encode_header(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&header.stream.0);
    for number in [header.first_sequence, header.epoch, header.lost.records, header.lost.samples] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    seal(out)
}

/// Reads a header from the start of a segment.
pub fn decode_header(bytes: &[u8]) -> Result<Header, HeaderFault> {
    let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderFault::Damaged)?;
    let mut rest = Reader(unsealed(bytes).ok_or(HeaderFault::Damaged)?);
    let mut read = || {
        if rest.array::<8>()? != *MAGIC {
            return None;
        }
        let version = u16::from_le_bytes(rest.array()?);
        rest.array::<2>()?;
        let stream = StreamId(rest.array()?);
        let (first_sequence, epoch) = (rest.u64()?, rest.u64()?);
        let lost = Losses { records: rest.u64()?, samples: rest.u64()? };
        Some((version, Header { stream, first_sequence, epoch, lost }))
    };
    match read() {
        Some((VERSION, header)) => Ok(header),
        Some((version, _)) if version > VERSION => Err(HeaderFault::Newer(version)),
        _ => Err(HeaderFault::Damaged),
    }
}

/// Makes the bytes of a frame; `None` if the payload is over 1 MiB.
pub fn encode_frame(kind: Kind, sequence: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD_BYTES)?;
    let mut out = Vec::with_capacity(payload.len() + FRAME_BYTES);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(payload);
    Some(seal(out))
}

/// Bytes of the whole frame whose first four bytes are `head`; absent if no frame may be that long.
pub fn frame_bytes(head: [u8; 4]) -> Option<usize> {
    let payload = usize::try_from(u32::from_le_bytes(head)).ok()?;
    (payload <= MAX_PAYLOAD_BYTES).then_some(payload + FRAME_BYTES)
}

/// Sets the format version of a segment's first bytes and makes its checksum right again: a segment of the future.
#[cfg(test)]
pub fn set_version(segment: &mut [u8], version: u8) {
    segment[8] = version;
    let sum = crc32c::crc32c(&segment[..HEADER_BYTES - 4]);
    segment[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Reads the frame at the start of `bytes`, which reach to the end of the file.
pub fn decode_frame(bytes: &[u8]) -> Result<Frame<'_>, FrameFault> {
    let mut reader = Reader(bytes);
    let Some(head) = reader.array::<16>() else {
        return Err(if bytes.iter().all(|byte| *byte == 0) { FrameFault::End } else { FrameFault::Torn });
    };
    let mut head = Reader(&head);
    let (Some(length), Some([kind, flags, zero, zero2]), Some(sequence)) = (head.length(), head.array(), head.u64())
    else {
        return Err(FrameFault::Damaged);
    };
    let kind = match kind {
        1 => Kind::Batch,
        2 => Kind::Dictionary,
        3 => Kind::Gap,
        0 if bytes.iter().all(|byte| *byte == 0) => return Err(FrameFault::End),
        _ => return Err(FrameFault::Damaged),
    };
    if length > MAX_PAYLOAD_BYTES || flags != 0 || zero != 0 || zero2 != 0 {
        return Err(FrameFault::Damaged);
    }
    let Some(whole) = bytes.get(..length + FRAME_BYTES) else {
        return Err(if is_whole_but_for_its_length(bytes) { FrameFault::Damaged } else { FrameFault::Torn });
    };
    let sealed = unsealed(whole).ok_or(FrameFault::Damaged)?;
    let payload = sealed.get(16..).ok_or(FrameFault::Damaged)?;
    Ok(Frame { kind, sequence, payload })
}

/// Whether the bytes are one frame written whole whose length was damaged since. It may have been sent, so its number
/// must not be used again, as that of a torn frame may.
fn is_whole_but_for_its_length(bytes: &[u8]) -> bool {
    let length = bytes.len().checked_sub(FRAME_BYTES).and_then(|length| u32::try_from(length).ok());
    length.is_some_and(|length| {
        let mut whole = bytes.to_vec();
        whole[..4].copy_from_slice(&length.to_le_bytes());
        unsealed(&whole).is_some()
    })
}

/// Makes the payload of a batch frame.
pub fn encode_batch(extent: &Extent, local: &LocalState, wire: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + 36 * local.baselines.len() + wire.len());
    out.extend_from_slice(&[0; 4]);
    out.push(LOCAL_VERSION);
    out.extend_from_slice(&extent.samples.to_le_bytes());
    put_span(&mut out, &extent.span);
    out.extend_from_slice(&local.boot.0);
    out.extend_from_slice(&local.at.0.to_le_bytes());
    out.extend_from_slice(&local.wall.0.to_le_bytes());
    let count = u32::try_from(local.baselines.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for baseline in &local.baselines {
        out.extend_from_slice(&baseline.series.to_le_bytes());
        for number in [baseline.raw, baseline.value, baseline.at.0, baseline.epoch] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    let local_length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&local_length.to_le_bytes());
    out.extend_from_slice(wire);
    out
}

/// Reads the payload of a batch frame.
pub fn decode_batch(payload: &[u8]) -> Option<BatchParts<'_>> {
    let mut rest = Reader(payload);
    let length = rest.length()?;
    let mut local = Reader(rest.take(length)?);
    if local.array()? != [LOCAL_VERSION] {
        return None;
    }
    let samples = local.u32()?;
    let span = local.span()?;
    let (boot, at, wall) = (BootId(local.array()?), BootNanos(local.u64()?), UnixNanos(local.i64()?));
    let count = local.length()?;
    // Counted against the bytes that are there before memory is taken for them.
    if local.0.len() != count.checked_mul(36)? {
        return None;
    }
    let mut baselines = Vec::with_capacity(count);
    for _ in 0..count {
        let series = local.u32()?;
        let (raw, value, at, epoch) = (local.u64()?, local.u64()?, BootNanos(local.u64()?), local.u64()?);
        baselines.push(Baseline { series, raw, value, at, epoch });
    }
    let local = LocalState { boot, at, wall, baselines };
    Some(BatchParts { extent: Extent { samples, span }, local, wire: rest.0 })
}

/// Makes the payload of a gap frame.
pub fn encode_gap(gap: &StreamGap, lost: Losses) -> Vec<u8> {
    let reason = match gap.reason {
        LossReason::SpoolFull => 1,
        LossReason::Corrupt => 2,
        LossReason::NoSpace => 3,
        LossReason::Rewind => 4,
    };
    let mut out = Vec::with_capacity(74);
    out.extend_from_slice(&gap.from.to_le_bytes());
    out.extend_from_slice(&gap.to.to_le_bytes());
    out.push(reason);
    out.extend_from_slice(&gap.samples.to_le_bytes());
    out.push(u8::from(gap.span.is_some()));
    if let Some(span) = &gap.span {
        put_span(&mut out, span);
    }
    out.extend_from_slice(&lost.records.to_le_bytes());
    out.extend_from_slice(&lost.samples.to_le_bytes());
    out
}

/// Reads the payload of a gap frame.
pub fn decode_gap(payload: &[u8]) -> Option<(StreamGap, Losses)> {
    Reader(payload).gap()
}

/// Makes the bytes of a slot of the file of losses; `None` if it has too many gaps.
pub fn encode_loss_slot(slot: &LossSlot) -> Option<Vec<u8>> {
    let count = u32::try_from(slot.gaps.len()).ok().filter(|_| slot.gaps.len() <= LOSS_GAPS)?;
    let mut out = LOSS_MAGIC.to_vec();
    out.extend_from_slice(&slot.turn.to_le_bytes());
    out.extend_from_slice(&slot.stream.0);
    let (lost, earlier) = (slot.lost, slot.earlier);
    for number in [slot.epoch, slot.highest, lost.records, lost.samples, earlier.records, earlier.samples] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&slot.retired.map_or([0; 16], |stream| stream.0));
    out.extend_from_slice(&count.to_le_bytes());
    slot.gaps.iter().for_each(|gap| out.extend(encode_gap(gap, lost)));
    Some(seal(out))
}

/// Reads the slot at the start of `bytes`.
pub fn decode_loss_slot(bytes: &[u8]) -> Option<LossSlot> {
    let mut rest = Reader(bytes);
    if rest.array::<8>()? != *LOSS_MAGIC {
        return None;
    }
    let (turn, stream) = (rest.u64()?, StreamId(rest.array()?));
    let (epoch, highest) = (rest.u64()?, rest.u64()?);
    let lost = Losses { records: rest.u64()?, samples: rest.u64()? };
    let earlier = Losses { records: rest.u64()?, samples: rest.u64()? };
    let retired = Some(StreamId(rest.array()?)).filter(|stream| stream.0 != [0; 16]);
    let count = rest.length().filter(|count| *count <= LOSS_GAPS)?;
    let mut gaps = Vec::with_capacity(count);
    for _ in 0..count {
        gaps.push(rest.gap()?.0);
    }
    let end = bytes.len().checked_sub(rest.0.len())?.checked_add(4)?;
    unsealed(bytes.get(..end)?)?;
    Some(LossSlot { turn, stream, epoch, highest, lost, earlier, retired, gaps })
}

/// Makes the bytes of a mark file.
pub fn encode_mark(magic: &[u8; 8], stream: StreamId, value: u64) -> Vec<u8> {
    seal([magic.as_slice(), &stream.0, &value.to_le_bytes()].concat())
}

/// Reads the bytes of a mark file.
pub fn decode_mark(magic: &[u8; 8], bytes: &[u8]) -> Option<(StreamId, u64)> {
    let mut rest = Reader(unsealed(bytes)?);
    if bytes.len() != 36 || rest.array::<8>()? != *magic {
        return None;
    }
    Some((StreamId(rest.array()?), rest.u64()?))
}

fn put_span(out: &mut Vec<u8>, span: &LostSpan) {
    out.extend_from_slice(&span.boot.0);
    out.extend_from_slice(&span.first.0.to_le_bytes());
    out.extend_from_slice(&span.last.0.to_le_bytes());
}

fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The bytes before the checksum, if it is right.
fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (content, sum) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(content) == u32::from_le_bytes(*sum)).then_some(content)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.u32()?).ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn gap(&mut self) -> Option<(StreamGap, Losses)> {
        let (from, to) = (self.u64()?, self.u64()?);
        let reason = match self.array()? {
            [1] => LossReason::SpoolFull,
            [2] => LossReason::Corrupt,
            [3] => LossReason::NoSpace,
            [4] => LossReason::Rewind,
            _ => return None,
        };
        let samples = self.u64()?;
        let span = match self.array()? {
            [0] => None,
            [1] => Some(self.span()?),
            _ => return None,
        };
        let lost = Losses { records: self.u64()?, samples: self.u64()? };
        (from >= 1 && from <= to).then_some((StreamGap { from, to, reason, samples, span }, lost))
    }

    fn span(&mut self) -> Option<LostSpan> {
        let boot = BootId(self.array()?);
        Some(LostSpan { boot, first: BootNanos(self.u64()?), last: BootNanos(self.u64()?) })
    }
}

#[cfg(test)]
mod tests;
