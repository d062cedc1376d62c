//! Reading a stream in order: records, declared losses, and what turns out to be damaged.

use super::{Queue, batches, survey};
use crate::spool::record;
use crate::spool::segment::{self, Found, Place};
use crate::spool::{Item, SpoolError, StoredRecord};
use bytes::Bytes;
use joulebook_proto::convert;
use joulebook_units::{LossReason, LostSpan, StreamGap};
use std::path::Path;

impl Queue {
    /// What comes after `sequence`.
    pub fn next_after(&mut self, sequence: u64) -> Result<Item, SpoolError> {
        let item = self.look_after(sequence)?;
        if let Item::Gap(gap) = &item {
            self.told = self.told.max(gap.to);
        }
        Ok(item)
    }

    fn look_after(&mut self, sequence: u64) -> Result<Item, SpoolError> {
        let wanted = sequence.saturating_add(1);
        loop {
            let Some((first, index, place)) = self.place_from(wanted)? else {
                return if wanted > self.highest { Ok(Item::None) } else { self.missing(wanted, self.highest, None) };
            };
            let Some(held) = self.segments.get_mut(&first) else { return Err(SpoolError::Closed) };
            let bytes = held.segment.frame_at(place.offset)?;
            let frame = record::decode_frame(&bytes).ok().filter(|frame| frame.sequence == place.sequence);
            let Some(parts) = frame.and_then(|frame| record::decode_batch(frame.payload)) else {
                tracing::error!(sequence = place.sequence, "a record in the spool is damaged and lost");
                self.damaged += 1;
                held.batches.as_mut().map(|list| list.remove(index));
                continue;
            };
            if place.sequence > wanted {
                return self.missing(wanted, place.sequence - 1, Some(parts.extent.span));
            }
            return Ok(Item::Record {
                sequence: wanted,
                hash: convert::payload_hash(parts.wire),
                samples: parts.extent.samples,
                payload: Bytes::copy_from_slice(parts.wire),
                dictionary_upto: self.definitions.next(),
            });
        }
    }

    /// The first batch held whose number is at least `wanted`: its segment, its index there, its place.
    fn place_from(&mut self, wanted: u64) -> Result<Option<(u64, usize, Place)>, SpoolError> {
        let active = self.segments.keys().next_back().copied();
        let start = self.segments.range(..=wanted).next_back().map_or(0, |(first, _)| *first);
        let candidates: Vec<_> = self.segments.range(start..).map(|(first, _)| *first).collect();
        for first in candidates {
            let path = segment::path(&self.dir, first);
            let Some(held) = self.segments.get_mut(&first) else { continue };
            if held.last < wanted {
                continue;
            }
            if held.batches.is_none() {
                let bytes = segment::read_own(&path, survey::MAX_SEGMENT_BYTES)?.unwrap_or_default();
                let scan = segment::scan(&bytes, first);
                self.damaged += scan.damaged;
                held.batches = Some(batches(scan));
            }
            let list = held.batches.as_deref().unwrap_or_default();
            let index = list.partition_point(|place| place.sequence < wanted);
            if let Some(place) = list.get(index).copied() {
                // One list besides the active segment's is enough: reading goes forward.
                for (other, held) in &mut self.segments {
                    if *other != first && Some(*other) != active {
                        held.batches = None;
                    }
                }
                return Ok(Some((first, index, place)));
            }
        }
        Ok(None)
    }

    /// Names the reason for missing numbers. Those that no one has declared yet are damage, and are declared now.
    fn missing(&mut self, from: u64, to: u64, next: Option<LostSpan>) -> Result<Item, SpoolError> {
        // The contract's limit for one gap.
        let to = to.min(from.saturating_add(u64::from(u32::MAX) - 1));
        if from <= self.acked {
            let to = to.min(self.acked);
            return Ok(Item::Gap(StreamGap { from, to, reason: LossReason::Rewind, samples: 0, span: None }));
        }
        let known = self.gaps.range(..=from).next_back().map(|(_, gap)| gap).filter(|gap| gap.to >= from);
        if let Some(gap) = known {
            return Ok(Item::Gap(StreamGap { from, to: gap.to.min(to), ..gap.clone() }));
        }
        let until = self.gaps.range(from..=to).next().map_or(to, |(later, _)| later - 1);
        let before = self.extent_of(from - 1)?;
        let span = before.zip(next).filter(|(before, next)| before.boot == next.boot && until == to);
        let span = span.map(|(before, next)| LostSpan { boot: next.boot, first: before.last, last: next.first });
        let gap = StreamGap { from, to: until, reason: LossReason::Corrupt, samples: 0, span };
        tracing::error!(from, to = until, "records in the spool are damaged and lost");
        self.declare(gap.clone())?;
        Ok(Item::Gap(gap))
    }

    /// What the record `sequence` covers, if it is held.
    fn extent_of(&mut self, sequence: u64) -> Result<Option<LostSpan>, SpoolError> {
        let Some((first, _, place)) = self.place_from(sequence)? else { return Ok(None) };
        let Some(held) = self.segments.get(&first).filter(|_| place.sequence == sequence) else { return Ok(None) };
        let bytes = held.segment.frame_at(place.offset)?;
        let parts = record::decode_frame(&bytes).ok().and_then(|frame| record::decode_batch(frame.payload));
        Ok(parts.map(|parts| parts.extent.span))
    }
}

/// The record in the payload of a batch frame.
pub fn stored(sequence: u64, payload: &[u8]) -> Option<StoredRecord> {
    let parts = record::decode_batch(payload)?;
    let batch = convert::decode_batch(parts.wire).ok()?;
    Some(StoredRecord { sequence, batch, local: parts.local })
}

/// Every good record in a folder of one stream, in order, without opening it: nothing is changed or locked.
pub fn read_folder(dir: &Path) -> Result<Vec<StoredRecord>, SpoolError> {
    let mut records = Vec::new();
    for (first, path) in survey::segments(dir)? {
        let Found::Ours(_, bytes) = segment::find(&path, survey::MAX_SEGMENT_BYTES)? else { continue };
        for place in batches(segment::scan(&bytes, first)) {
            records.extend(segment::payload(&bytes, &place).and_then(|payload| stored(place.sequence, payload)));
        }
    }
    Ok(records)
}
