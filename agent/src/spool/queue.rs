//! The queue itself, synchronous: segments in order, what is acknowledged, what is lost.

use super::record::{self, Extent, Header, Kind, Losses};
use super::segment::{self, Found, Place, Scan, Segment, Tail, length, sync_folder};
use super::{
    Counters, Item, LastRecord, LocalState, Recovery, SpoolConfig, SpoolError, StoredRecord, cursor, io_error,
};
use bytes::Bytes;
use joulebook_proto::convert;
use joulebook_units::{Batch, LossReason, LostSpan, StreamGap, StreamId, Subject};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

mod folder;

const CURSOR: &str = "cursor";
const EPOCH: &str = "epoch";
/// The cursor is saved at least after this many acknowledged records: it is advisory, so a lost one costs resending.
const CURSOR_EVERY: u64 = 64;
/// Definitions of one dictionary frame: their longest texts together stay below a frame's limit.
const DEFINITIONS_A_FRAME: usize = 64;
/// Added to the epoch when the file that held it is lost: headers tell only the epochs that began a segment.
const EPOCH_LEAP: u64 = 1 << 20;

/// A segment that is held.
#[derive(Debug)]
struct Held {
    segment: Segment,
    /// Number of its newest batch; one less than its first number if it has none.
    last: u64,
    /// Places of its batches; read when first needed, always there for the active segment.
    batches: Option<Vec<Place>>,
}

/// The open spool.
#[derive(Debug)]
pub struct Queue {
    config: SpoolConfig,
    stream: StreamId,
    epoch: u64,
    /// By first sequence; the last is the active one.
    segments: BTreeMap<u64, Held>,
    /// In the order in which they became known.
    definitions: Vec<(u32, Subject)>,
    known: BTreeSet<u32>,
    /// Declared losses above the acknowledged number, by first missing number.
    gaps: BTreeMap<u64, StreamGap>,
    lost: Losses,
    highest: u64,
    acked: u64,
    saved: u64,
    /// The next batch begins a segment: its number is far above the last.
    begin_segment: bool,
    appended: u64,
    damaged: u64,
    foreign: u64,
    newer: u64,
    /// Held for its lock.
    _lock: File,
}

impl Queue {
    /// Opens or initialises the spool of a folder.
    pub fn open(config: &SpoolConfig) -> Result<(Self, Recovery), SpoolError> {
        let lock = folder::prepare(config)?;
        let epoch_mark = cursor::read(&config.dir, EPOCH, record::EPOCH_MAGIC)?;
        let cursor_mark = cursor::read(&config.dir, CURSOR, record::CURSOR_MAGIC)?;
        let survey = folder::survey(&config.dir, epoch_mark.map(|(stream, _)| stream))?;

        let stream = match survey.stream {
            Some(stream) => stream,
            None => folder::new_stream(&config.dir)?,
        };
        let of_stream = |mark: Option<(StreamId, u64)>| mark.filter(|(owner, _)| *owner == stream).map(|mark| mark.1);
        let epoch = match (of_stream(epoch_mark), survey.stream) {
            (Some(epoch), _) => epoch.max(survey.epoch) + 1,
            (None, Some(_)) => survey.epoch + EPOCH_LEAP,
            (None, None) => 1,
        };
        cursor::write(&config.dir, EPOCH, record::EPOCH_MAGIC, stream, epoch)?;

        let acked = of_stream(cursor_mark).unwrap_or(0);
        let mut queue = Self {
            config: config.clone(),
            stream,
            epoch,
            segments: BTreeMap::new(),
            definitions: Vec::new(),
            known: BTreeSet::new(),
            gaps: BTreeMap::new(),
            lost: survey.lost,
            highest: acked,
            acked,
            saved: acked,
            begin_segment: false,
            appended: 0,
            damaged: survey.damaged,
            foreign: survey.foreign,
            newer: survey.newer,
            _lock: lock,
        };
        let last = queue.adopt(survey)?;
        let recovery = Recovery {
            stream,
            session_epoch: epoch,
            dictionary: queue.definitions.iter().cloned().collect(),
            last,
            highest_sequence: queue.highest,
        };
        Ok((queue, recovery))
    }

    /// Takes over what the folder held.
    fn adopt(&mut self, survey: folder::Survey) -> Result<Option<LastRecord>, SpoolError> {
        self.define(&survey.definitions.into_iter().collect::<Vec<_>>());
        let active = survey.segments.keys().next_back().copied();
        let mut burned = None;
        for (first, found) in survey.segments {
            let is_active = Some(first) == active;
            let path = segment::path(&self.config.dir, first);
            let opened = Segment::open(path, found.scan.valid, is_active)?;
            let batches: Vec<_> = found.scan.frames.into_iter().filter(|place| place.kind == Kind::Batch).collect();
            let last = batches.last().map_or(first - 1, |place| place.sequence);
            self.highest = self.highest.max(last);
            if is_active {
                burned = (found.scan.tail == Tail::Damaged).then_some(last + 1);
                self.begin_segment = self.highest > last;
            }
            self.segments.insert(first, Held { segment: opened, last, batches: is_active.then_some(batches) });
        }
        for gap in survey.gaps {
            self.highest = self.highest.max(gap.to);
            self.insert_gap(gap);
        }
        self.finish_drops()?;
        let last = survey.newest.and_then(|(sequence, payload)| {
            let stored = stored(sequence, &payload)?;
            Some(LastRecord { sequence, batch: stored.batch, local: stored.local })
        });
        if self.segments.is_empty() {
            self.begin()?;
        }
        if let Some(number) = burned.filter(|number| *number > self.highest) {
            // It was written whole and may have been sent: its number is used up.
            self.highest = number;
            self.declare(StreamGap { from: number, to: number, reason: LossReason::Corrupt, samples: 0, span: None })?;
        }
        self.free()?;
        Ok(last)
    }

    /// A segment that a durable gap declares as dropped was only not yet removed.
    fn finish_drops(&mut self) -> Result<(), SpoolError> {
        let dropped: Vec<_> = self.gaps.values().filter(|gap| gap.reason == LossReason::SpoolFull).cloned().collect();
        let active = self.segments.keys().next_back().copied();
        let covered = |held: &Held| dropped.iter().any(|gap| (gap.from..=gap.to).contains(&held.last));
        let doomed = self.segments.iter().filter(|(first, held)| Some(**first) != active && covered(held));
        let doomed: Vec<_> = doomed.map(|(first, _)| *first).collect();
        for first in doomed {
            self.remove(first)?;
        }
        Ok(())
    }

    /// State and counters.
    pub fn counters(&self) -> Counters {
        Counters {
            highest: self.highest,
            acked: self.acked.min(self.highest),
            appended: self.appended,
            lost_records: self.lost.records,
            lost_samples: self.lost.samples,
            damaged: self.damaged,
            foreign: self.foreign,
            newer: self.newer,
            bytes: self.bytes(),
            segments: length(self.segments.len()),
        }
    }

    fn bytes(&self) -> u64 {
        self.segments.values().map(|held| held.segment.size()).sum()
    }

    /// Appends a batch; durable on return.
    pub fn append(
        &mut self,
        batch: &Batch,
        local: &LocalState,
        new_series: &[(u32, Subject)],
    ) -> Result<u64, SpoolError> {
        let payload = convert::encode_batch(batch)?;
        let sequence = self.highest + 1;
        let (first, last) = (batch.rows.first().copied(), batch.rows.last().copied());
        let span = LostSpan { boot: batch.boot, first: first.unwrap_or_default(), last: last.unwrap_or_default() };
        let extent = Extent { samples: u32::try_from(payload.samples).unwrap_or(u32::MAX), span };
        let new: Vec<_> = new_series.iter().filter(|(number, _)| !self.known.contains(number)).cloned().collect();
        let mut bytes = dictionary_frames(sequence, &new)?;
        let prefix = length(bytes.len());
        let frame = record::encode_frame(Kind::Batch, sequence, &record::encode_batch(&extent, local, &payload.bytes));
        let frame = frame.ok_or(SpoolError::TooLarge)?;
        bytes.extend_from_slice(&frame);

        let used = self.active().map(|held| held.segment.size() + length(bytes.len()));
        let has_batches = self.active().is_some_and(|held| held.batches.as_ref().is_some_and(|list| !list.is_empty()));
        let full = has_batches && used.is_none_or(|used| used > self.config.segment_bytes);
        if self.begin_segment || full {
            self.make_room(length(bytes.len()) + length(record::HEADER_BYTES))?;
            self.begin()?;
        }
        self.make_room(length(bytes.len()))?;
        let offset = loop {
            let Some(held) = self.active_mut() else { return Err(SpoolError::Closed) };
            let offset = held.segment.size();
            match held.segment.append(&bytes) {
                Ok(()) => break offset + prefix,
                Err(error @ SpoolError::NoSpace { .. }) => {
                    if !self.drop_oldest()? {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        if let Some(held) = self.active_mut() {
            held.last = sequence;
            let place = Place { kind: Kind::Batch, sequence, offset, size: length(frame.len()) };
            held.batches.get_or_insert_default().push(place);
        }
        self.define(&new);
        self.highest = sequence;
        self.appended += 1;
        Ok(sequence)
    }

    fn define(&mut self, new: &[(u32, Subject)]) {
        for (number, subject) in new {
            if self.known.insert(*number) {
                self.definitions.push((*number, subject.clone()));
            }
        }
    }

    /// The definitions from the `index`th on.
    pub fn definitions_from(&self, index: usize) -> Vec<(u32, Subject)> {
        self.definitions.get(index..).unwrap_or_default().to_vec()
    }

    fn active(&self) -> Option<&Held> {
        self.segments.values().next_back()
    }

    fn active_mut(&mut self) -> Option<&mut Held> {
        self.segments.values_mut().next_back()
    }

    /// Begins a segment that stands alone: with every definition, and the losses not yet delivered.
    fn begin(&mut self) -> Result<(), SpoolError> {
        let first = self.highest + 1;
        let header = Header { stream: self.stream, first_sequence: first, epoch: self.epoch, lost: self.lost };
        let mut content = record::encode_header(&header);
        content.extend(dictionary_frames(first, &self.definitions)?);
        for gap in self.gaps.values() {
            content.extend(gap_frame(first, gap, self.lost)?);
        }
        if self.segments.contains_key(&first) {
            // The active segment is still empty; it needs no successor.
            self.begin_segment = false;
            return Ok(());
        }
        folder::keep_aside(&segment::path(&self.config.dir, first))?;
        let created = loop {
            match Segment::create(&self.config.dir, first, &content) {
                Err(error @ SpoolError::NoSpace { .. }) => {
                    if self.segments.len() < 2 || !self.drop_oldest()? {
                        return Err(error);
                    }
                }
                result => break result?,
            }
        };
        if let Some(held) = self.active_mut() {
            held.batches = None;
        }
        self.segments.insert(first, Held { segment: created, last: first - 1, batches: Some(Vec::new()) });
        self.begin_segment = false;
        Ok(())
    }

    /// Drops segments until `wanted` bytes fit under the cap and the file system keeps its reserve.
    fn make_room(&mut self, wanted: u64) -> Result<(), SpoolError> {
        while self.bytes() + wanted > self.config.max_bytes
            || folder::free_bytes(&self.config.dir)? < self.config.min_free_bytes + wanted
        {
            if !self.drop_oldest()? {
                break;
            }
        }
        Ok(())
    }

    /// Drops the oldest segment and declares what is lost with it; false if only the active one is left.
    fn drop_oldest(&mut self) -> Result<bool, SpoolError> {
        if self.segments.len() < 2 {
            return Ok(false);
        }
        let Some((&first, held)) = self.segments.first_key_value() else { return Ok(false) };
        let last = held.last;
        let from = first.max(self.acked + 1);
        if last >= from {
            let (samples, span) = self.lost_in(first, from)?;
            let gap = StreamGap { from, to: last, reason: LossReason::SpoolFull, samples, span };
            tracing::error!(from, to = last, samples, "the spool is full: the oldest records are lost");
            if !self.declare(gap)? {
                // No room even to say so: make it first. A crash in between shows as damage, not as silence.
                self.remove(first)?;
                self.write_gap(from)?;
                return Ok(true);
            }
        }
        self.remove(first)?;
        Ok(true)
    }

    /// The values and the time that the records from `from` on in a segment hold.
    fn lost_in(&self, first: u64, from: u64) -> Result<(u64, Option<LostSpan>), SpoolError> {
        let path = segment::path(&self.config.dir, first);
        let Some(bytes) = segment::read_own(&path, folder::MAX_SEGMENT_BYTES)? else { return Ok((0, None)) };
        let found = segment::scan(&bytes, first);
        let lost = found.frames.iter().filter(|place| place.kind == Kind::Batch && place.sequence >= from);
        let extents: Vec<_> = lost.filter_map(|place| segment::extent(&bytes, place)).collect();
        let samples = extents.iter().map(|extent| u64::from(extent.samples)).sum();
        let span = extents.first().zip(extents.last()).filter(|(a, b)| a.span.boot == b.span.boot);
        Ok((samples, span.map(|(a, b)| LostSpan { last: b.span.last, ..a.span })))
    }

    /// Makes a loss known and durable; false if there is no space for that now: the next segment will tell of it.
    fn declare(&mut self, gap: StreamGap) -> Result<bool, SpoolError> {
        self.lost.records = self.lost.records.saturating_add(gap.to - gap.from + 1);
        self.lost.samples = self.lost.samples.saturating_add(gap.samples);
        let at = gap.from;
        self.insert_gap(gap);
        self.write_gap(at)
    }

    /// Writes the known gap that holds number `at` to the active segment; false if there is no space.
    fn write_gap(&mut self, at: u64) -> Result<bool, SpoolError> {
        let Some(gap) = self.gaps.range(..=at).next_back().map(|(_, gap)| gap) else { return Ok(true) };
        let frame = gap_frame(self.highest + 1, gap, self.lost)?;
        match self.active_mut().map_or(Err(SpoolError::Closed), |held| held.segment.append(&frame)) {
            Err(SpoolError::NoSpace { .. }) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Adds a gap to those known: one that is known already changes nothing, a neighbour of the same kind is joined.
    fn insert_gap(&mut self, gap: StreamGap) {
        if gap.to <= self.acked {
            return;
        }
        match self.gaps.range_mut(..=gap.from).next_back().map(|(_, known)| known) {
            Some(known) if known.to >= gap.to => {}
            // A later frame tells of more of the same loss.
            Some(known) if known.from == gap.from => *known = gap,
            Some(known) if known.to + 1 == gap.from && known.reason == gap.reason => {
                known.to = gap.to;
                known.samples = known.samples.saturating_add(gap.samples);
                known.span = known
                    .span
                    .zip(gap.span)
                    .filter(|(a, b)| a.boot == b.boot)
                    .map(|(a, b)| LostSpan { last: b.last, ..a });
            }
            _ => {
                self.gaps.insert(gap.from, gap);
            }
        }
    }

    /// What comes after `sequence`.
    pub fn next_after(&mut self, sequence: u64) -> Result<Item, SpoolError> {
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
                dictionary_upto: self.definitions.len(),
            });
        }
    }

    /// The first batch held whose number is at least `wanted`: its segment, its index there, its place.
    fn place_from(&mut self, wanted: u64) -> Result<Option<(u64, usize, Place)>, SpoolError> {
        let active = self.segments.keys().next_back().copied();
        let start = self.segments.range(..=wanted).next_back().map_or(0, |(first, _)| *first);
        let candidates: Vec<_> = self.segments.range(start..).map(|(first, _)| *first).collect();
        for first in candidates {
            let path = segment::path(&self.config.dir, first);
            let Some(held) = self.segments.get_mut(&first) else { continue };
            if held.last < wanted {
                continue;
            }
            if held.batches.is_none() {
                let bytes = segment::read_own(&path, folder::MAX_SEGMENT_BYTES)?.unwrap_or_default();
                held.batches = Some(batches(segment::scan(&bytes, first)));
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

    /// Moves the acknowledged number, frees what is below it.
    pub fn acked(&mut self, sequence: u64) -> Result<(), SpoolError> {
        if sequence <= self.acked {
            return Ok(());
        }
        self.acked = sequence;
        let raised = sequence > self.highest;
        if raised {
            tracing::warn!(sequence, highest = self.highest, "the aggregator holds records that this spool lost");
            self.highest = sequence;
            self.begin_segment = true;
        }
        self.gaps.retain(|_, gap| gap.to > sequence);
        let freed = self.free()?;
        if raised || freed || sequence == self.highest || sequence - self.saved >= CURSOR_EVERY {
            self.save_cursor()?;
        }
        Ok(())
    }

    /// Removes acknowledged segments. The newest record stays: it holds the baselines.
    fn free(&mut self) -> Result<bool, SpoolError> {
        if self.config.keep_acked {
            return Ok(false);
        }
        let newest = self.segments.values().map(|held| held.last).max().unwrap_or(0);
        let done = |held: &Held| held.last <= self.acked && held.last < newest;
        let active = self.segments.keys().next_back().copied();
        let done = self.segments.iter().filter(|(first, held)| Some(**first) != active && done(held));
        let done: Vec<_> = done.map(|(first, _)| *first).collect();
        for first in &done {
            self.remove(*first)?;
        }
        Ok(!done.is_empty())
    }

    fn remove(&mut self, first: u64) -> Result<(), SpoolError> {
        let path = segment::path(&self.config.dir, first);
        std::fs::remove_file(&path).map_err(io_error("removing", &path))?;
        sync_folder(&self.config.dir)?;
        self.segments.remove(&first);
        Ok(())
    }

    /// Saves the acknowledged number. A full disk is no error: the number is advisory.
    pub fn save_cursor(&mut self) -> Result<(), SpoolError> {
        if self.saved == self.acked {
            return Ok(());
        }
        match cursor::write(&self.config.dir, CURSOR, record::CURSOR_MAGIC, self.stream, self.acked) {
            Ok(()) => self.saved = self.acked,
            Err(SpoolError::NoSpace { .. }) => tracing::warn!("no space to save the spool's cursor"),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn batches(scan: Scan) -> Vec<Place> {
    scan.frames.into_iter().filter(|place| place.kind == Kind::Batch).collect()
}

fn dictionary_frames(sequence: u64, definitions: &[(u32, Subject)]) -> Result<Vec<u8>, SpoolError> {
    let mut frames = Vec::new();
    for chunk in definitions.chunks(DEFINITIONS_A_FRAME) {
        let payload = convert::encode_definitions(chunk.iter().map(|(number, subject)| (*number, subject)));
        frames.extend(record::encode_frame(Kind::Dictionary, sequence, &payload).ok_or(SpoolError::TooLarge)?);
    }
    Ok(frames)
}

fn gap_frame(sequence: u64, gap: &StreamGap, lost: Losses) -> Result<Vec<u8>, SpoolError> {
    record::encode_frame(Kind::Gap, sequence, &record::encode_gap(gap, lost)).ok_or(SpoolError::TooLarge)
}

fn stored(sequence: u64, payload: &[u8]) -> Option<StoredRecord> {
    let parts = record::decode_batch(payload)?;
    let batch = convert::decode_batch(parts.wire).ok()?;
    Some(StoredRecord { sequence, batch, local: parts.local })
}

/// Every good record of a spool's folder, in order, without opening the spool: nothing is changed or locked.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn read_all(dir: &Path) -> Result<Vec<StoredRecord>, SpoolError> {
    let mut records = Vec::new();
    for (first, path) in folder::segments(dir)? {
        let Found::Ours(_, bytes) = segment::find(&path, folder::MAX_SEGMENT_BYTES)? else { continue };
        for place in batches(segment::scan(&bytes, first)) {
            records.extend(segment::payload(&bytes, &place).and_then(|payload| stored(place.sequence, payload)));
        }
    }
    Ok(records)
}

/// A path in errors.
type Named = (u64, PathBuf);
