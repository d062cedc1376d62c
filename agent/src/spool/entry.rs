//! A batch on its way into the spool, encoded once: it may have to wait in memory until the disk takes it.

use super::record::{self, Extent};
use super::{LocalState, SpoolError};
use bytes::Bytes;
use joulebook_proto::convert;
use joulebook_units::{Batch, LostSpan, Subject};
use std::collections::{BTreeSet, VecDeque};

/// Most bytes of batches that wait in memory while the disk is full.
pub const MAX_RING_BYTES: usize = 8 << 20;
/// What a baseline and a definition take in memory, about.
const SMALL_BYTES: usize = 64;
const DEFINITION_BYTES: usize = 512;

/// A batch to be appended.
#[derive(Debug)]
pub struct Entry {
    /// What goes into the record; none if the batch cannot be recorded, and takes a number only to be declared lost.
    pub payload: Option<Bytes>,
    /// Number of values.
    pub samples: u64,
    /// When its rows were read; none if it has no row.
    pub span: Option<LostSpan>,
    /// Definitions that may not have been recorded yet.
    pub new_series: Vec<(u32, Subject)>,
    /// Series that it uses.
    pub series: Vec<u32>,
    /// Whether it begins a new stream.
    pub begins_stream: bool,
}

impl Entry {
    /// Encodes a batch. What cannot be recorded becomes an entry without payload, told with the reason.
    pub fn new(
        batch: &Batch,
        local: &LocalState,
        new_series: Vec<(u32, Subject)>,
        begins_stream: bool,
    ) -> (Self, Option<SpoolError>) {
        let samples = u64::try_from(batch.samples()).unwrap_or(u64::MAX);
        let ends = batch.rows.first().zip(batch.rows.last());
        let span = ends.map(|(first, last)| LostSpan { boot: batch.boot, first: *first, last: *last });
        let columns = batch.columns.iter().map(|column| column.series);
        let gaps = batch.gaps.iter().map(|gap| gap.series);
        let baselines = local.baselines.iter().map(|baseline| baseline.series);
        let series = columns.chain(gaps).chain(baselines).collect::<BTreeSet<_>>().into_iter().collect();
        let encoded = match (convert::encode_batch(batch), span) {
            (Ok(wire), Some(span)) => {
                let extent = Extent { samples: u32::try_from(samples).unwrap_or(u32::MAX), span };
                let payload = record::encode_batch(&extent, local, &wire.bytes);
                if payload.len() <= record::MAX_PAYLOAD_BYTES { Ok(payload.into()) } else { Err(SpoolError::TooLarge) }
            }
            (Ok(_), None) => Err(SpoolError::TooLarge),
            (Err(error), _) => Err(error.into()),
        };
        let (payload, refused) = match encoded {
            Ok(payload) => (Some(payload), None),
            Err(error) => (None, Some(error)),
        };
        (Self { payload, samples, span, new_series, series, begins_stream }, refused)
    }

    /// Bytes that it takes in memory, about.
    fn bytes(&self) -> usize {
        let payload = self.payload.as_ref().map_or(0, Bytes::len);
        payload + SMALL_BYTES * (1 + self.series.len()) + DEFINITION_BYTES * self.new_series.len()
    }
}

/// Batches that wait for the disk, oldest first, and what was dropped of a stream that could not yet begin.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Records and values dropped before their stream could begin, and when they were read.
    pub before_stream: (u64, u64, Option<LostSpan>),
}

impl Ring {
    /// Adds a batch behind the others.
    pub fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// The oldest one.
    pub fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Takes the oldest one out: it is recorded.
    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes = if self.entries.is_empty() { 0 } else { self.bytes.saturating_sub(entry.bytes()) };
        Some(entry)
    }

    /// Takes the oldest one out because it is lost. What it defines, and that it begins a stream, goes to the next one.
    pub fn drop_oldest(&mut self) -> Option<Entry> {
        let mut lost = self.pop()?;
        if let Some(next) = self.entries.front_mut() {
            let mut inherited = std::mem::take(&mut lost.new_series);
            inherited.retain(|(number, _)| next.new_series.iter().all(|(own, _)| own != number));
            self.bytes += DEFINITION_BYTES * inherited.len();
            next.new_series.extend(inherited);
            next.begins_stream |= lost.begins_stream;
        }
        Some(lost)
    }

    /// The stream that the oldest one begins has begun.
    pub fn stream_begun(&mut self) {
        if let Some(first) = self.entries.front_mut() {
            first.begins_stream = false;
        }
    }

    /// Counts a batch that is lost and can be declared only when its stream has begun.
    pub fn count_before_stream(&mut self, lost: &Entry) {
        let (records, samples, span) = self.before_stream;
        let joined = match (span, lost.span) {
            (Some(first), Some(last)) if first.boot == last.boot => Some(LostSpan { last: last.last, ..first }),
            (None, span) if records == 0 => span,
            _ => None,
        };
        self.before_stream = (records + 1, samples.saturating_add(lost.samples), joined);
    }

    /// Whether more waits than may, and something newer waits as well.
    pub fn is_over(&self) -> bool {
        self.bytes > MAX_RING_BYTES && self.entries.len() > 1
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{BootId, BootNanos};

    fn entry(bytes: usize, number: u32, begins_stream: bool) -> Entry {
        let new_series = vec![(number, Subject::NodeMemoryUsed)];
        let payload = Some(vec![0; bytes].into());
        Entry { payload, samples: 1, span: None, new_series, series: vec![number], begins_stream }
    }

    #[test]
    fn what_waits_takes_no_more_than_8_mib() {
        let mut ring = Ring::default();
        for number in 0..1000 {
            ring.push(entry(100 << 10, number, false));
            while ring.is_over() {
                ring.drop_oldest();
            }
            let held: usize = ring.entries.iter().map(|entry| entry.payload.as_ref().map_or(0, Bytes::len)).sum();
            assert!(held <= 8 << 20, "{held}");
        }
        assert!(ring.len() > 70, "{}", ring.len());
    }

    #[test]
    fn what_a_lost_batch_defines_and_begins_goes_to_the_next() {
        let mut ring = Ring::default();
        ring.push(entry(1, 1, true));
        ring.push(entry(1, 2, false));
        ring.push(entry(1, 1, false));
        ring.drop_oldest();
        ring.drop_oldest();
        let last = ring.front().expect("one");
        assert!(last.begins_stream);
        assert_eq!(last.new_series.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2], "each once");
        ring.drop_oldest();
        assert_eq!((ring.len(), ring.bytes), (0, 0));
    }

    #[test]
    fn losses_before_a_stream_add_up_and_their_span_is_told_while_it_is_one_boot() {
        let at = |boot, second| {
            let instant = BootNanos(second);
            Some(LostSpan { boot: BootId([boot; 16]), first: instant, last: instant })
        };
        let mut ring = Ring::default();
        for (boot, second) in [(1, 5), (1, 6)] {
            ring.count_before_stream(&Entry { span: at(boot, second), ..entry(1, 1, true) });
        }
        let span = ring.before_stream.2.expect("one boot");
        assert_eq!((ring.before_stream.0, span.first, span.last), (2, BootNanos(5), BootNanos(6)));
        ring.count_before_stream(&Entry { span: at(2, 1), ..entry(1, 1, true) });
        assert_eq!((ring.before_stream.0, ring.before_stream.1, ring.before_stream.2), (3, 3, None));
    }
}
