//! The queue of one stream, synchronous: its segments in order, what is acknowledged, what is lost.
//!
//! It writes and reads; how much all streams together may keep is decided by [`super::lanes`].

use super::entry::Entry;
use super::loss::{self, LossFile};
use super::record::{self, Header, Kind, LossSlot, Losses};
use super::segment::{self, Place, Segment, Tail, length};
use super::{LastRecord, LostByReason, SpoolError, cursor};
use definitions::Definitions;
use joulebook_proto::convert;
use joulebook_units::{LossReason, StreamGap, StreamId, Subject};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use survey::Survey;

mod definitions;
mod losing;
mod reading;
pub mod survey;

pub use reading::read_folder;

pub(super) const CURSOR: &str = "cursor";
pub(super) const EPOCH: &str = "epoch";
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
    /// No batch in it has a higher number; one less than its first number if it has none.
    last: u64,
    /// Places of its batches; read when first needed, always there for the active segment.
    batches: Option<Vec<Place>>,
}

/// What a folder holds of a stream, before it is opened.
#[derive(Debug)]
pub struct Found {
    dir: PathBuf,
    survey: Survey,
    /// The stream; none if nothing of one is there.
    stream: Option<StreamId>,
    epoch_mark: Option<u64>,
    acked: u64,
    slot: Option<LossSlot>,
    damaged: bool,
}

/// The open queue of one stream.
#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    segment_bytes: u64,
    stream: StreamId,
    epoch: u64,
    /// By first sequence; the last is the active one.
    segments: BTreeMap<u64, Held>,
    definitions: Definitions,
    /// Declared losses above the acknowledged number, by first missing number.
    gaps: BTreeMap<u64, StreamGap>,
    /// Highest missing number that was given to a reader as part of a gap.
    told: u64,
    lost: Losses,
    /// Of them those of this run.
    lost_by_reason: LostByReason,
    /// Losses of streams whose folders are gone, and the one that was the last to go.
    earlier: Losses,
    retired: Option<StreamId>,
    /// None where there was no space to make it.
    losses: Option<LossFile>,
    highest: u64,
    acked: u64,
    saved: u64,
    /// The next batch begins a segment: its number is far above the last.
    begin_segment: bool,
    appended: u64,
    damaged: u64,
    foreign: u64,
    newer: u64,
}

impl Found {
    /// Looks at a folder. Only empty segments of ours are removed.
    pub fn look(dir: &Path) -> Result<Self, SpoolError> {
        let epoch_mark = cursor::read(dir, EPOCH, record::EPOCH_MAGIC)?;
        let cursor_mark = cursor::read(dir, CURSOR, record::CURSOR_MAGIC)?;
        let owner = epoch_mark.map(|(stream, _)| stream);
        let survey = survey::survey(dir, owner)?;
        let stream = survey.stream.or(owner);
        let told = stream.map(|stream| loss::read(dir, stream)).transpose()?.map(|(told, ..)| told).unwrap_or_default();
        let of_stream = |mark: Option<(StreamId, u64)>| mark.filter(|mark| Some(mark.0) == stream).map(|mark| mark.1);
        Ok(Self {
            dir: dir.to_owned(),
            stream,
            epoch_mark: of_stream(epoch_mark),
            acked: of_stream(cursor_mark).unwrap_or(0),
            slot: told.slot,
            damaged: told.damaged,
            survey,
        })
    }

    /// The stream; none if nothing of one is there.
    pub fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// The stream that this one took the losses over from when its folder was to be removed.
    pub fn retired(&self) -> Option<StreamId> {
        self.slot.as_ref().and_then(|slot| slot.retired)
    }

    /// Whether no number of the stream was ever used.
    pub fn is_blank(&self) -> bool {
        let told = self.slot.as_ref().map_or(0, |slot| slot.highest);
        self.survey.newest.is_none() && self.survey.gaps.is_empty() && self.acked.max(told) == 0
            // A segment that cannot be read whole may have held something.
            && self.survey.damaged == 0
            && self.survey.segments.len() <= 1
    }

    /// Whether a later format was written here: its highest number is unknown, so nothing can be appended.
    pub fn is_sealed(&self) -> bool {
        self.survey.newer > 0
    }

    /// Whether there are segments, and nothing tells of which stream they are.
    pub fn is_unreadable(&self) -> bool {
        self.stream.is_none() && self.survey.foreign > 0
    }

    /// Files left alone, and segments of a later format among them.
    pub fn left_alone(&self) -> (u64, u64) {
        (self.survey.foreign, self.survey.newer)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lowest epoch that no earlier session can have had, as far as this folder tells.
    pub fn next_epoch(&self) -> u64 {
        let told = self.survey.epoch.max(self.slot.as_ref().map_or(0, |slot| slot.epoch));
        match (self.epoch_mark, self.survey.stream) {
            (Some(epoch), _) => epoch.max(told) + 1,
            (None, Some(_)) => told + EPOCH_LEAP,
            (None, None) => 1,
        }
    }
}

impl Queue {
    /// Begins a stream in a folder that exists. Durable on return.
    pub fn create(dir: &Path, segment_bytes: u64, epoch: u64) -> Result<Self, SpoolError> {
        let stream = survey::new_stream(dir)?;
        cursor::write(dir, EPOCH, record::EPOCH_MAGIC, stream, epoch)?;
        let losses = Some(LossFile::open(dir, stream)?);
        let mut queue = Self::empty(dir, segment_bytes, stream, epoch, losses);
        queue.begin()?;
        Ok(queue)
    }

    fn empty(dir: &Path, segment_bytes: u64, stream: StreamId, epoch: u64, losses: Option<LossFile>) -> Self {
        Self {
            dir: dir.to_owned(),
            segment_bytes,
            stream,
            epoch,
            segments: BTreeMap::new(),
            definitions: Definitions::default(),
            gaps: BTreeMap::new(),
            told: 0,
            lost: Losses::default(),
            lost_by_reason: LostByReason::default(),
            earlier: Losses::default(),
            retired: None,
            losses,
            highest: 0,
            acked: 0,
            saved: 0,
            begin_segment: false,
            appended: 0,
            damaged: 0,
            foreign: 0,
            newer: 0,
        }
    }

    /// Takes over what a folder holds; `epoch` is that of this session. A folder without a stream has nothing to open.
    pub fn open(found: Found, segment_bytes: u64, epoch: u64) -> Result<(Self, Option<LastRecord>), SpoolError> {
        let Found { dir, survey, stream, acked, slot, damaged, .. } = found;
        let Some(stream) = stream else {
            return Err(SpoolError::Damaged { path: dir, why: "it holds no stream" });
        };
        let losses = match LossFile::open(&dir, stream) {
            Ok(losses) => Some(losses),
            Err(SpoolError::NoSpace { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut queue = Self::empty(&dir, segment_bytes, stream, epoch, losses);
        let (lost, earlier) = loss::losses(slot.as_ref());
        queue.lost = survey.lost.newer(lost);
        queue.earlier = earlier;
        queue.retired = slot.as_ref().and_then(|slot| slot.retired);
        (queue.acked, queue.saved) = (acked, acked);
        queue.highest = acked.max(slot.as_ref().map_or(0, |slot| slot.highest));
        queue.damaged = survey.damaged + u64::from(damaged);
        (queue.foreign, queue.newer) = (survey.foreign, survey.newer);
        let last = queue.adopt(survey, slot.map(|slot| slot.gaps).unwrap_or_default())?;
        Ok((queue, last))
    }

    /// Takes over the segments and losses.
    fn adopt(&mut self, survey: Survey, told: Vec<StreamGap>) -> Result<Option<LastRecord>, SpoolError> {
        let active = survey.segments.keys().next_back().copied();
        let mut burned = None;
        let mut last_held = 0;
        for (first, found) in survey.segments {
            let is_active = Some(first) == active;
            let opened = Segment::open(segment::path(&self.dir, first), found.size, is_active)?;
            let (last, batches) = match found.scan {
                Some(scan) if is_active => {
                    burned = (scan.tail == Tail::Damaged).then_some(found.last + 1);
                    (found.last, Some(batches(scan)))
                }
                _ => (found.last, None),
            };
            last_held = last_held.max(last);
            self.segments.insert(first, Held { segment: opened, last, batches });
        }
        self.highest = self.highest.max(last_held);
        for gap in survey.gaps.into_iter().chain(told) {
            self.highest = self.highest.max(gap.to);
            self.insert_gap(gap);
        }
        self.begin_segment = self.highest > last_held;
        self.definitions.add(survey.definitions, self.highest, 0);
        self.finish_drops()?;
        let last = survey.newest.and_then(|(sequence, payload)| {
            let stored = reading::stored(sequence, &payload)?;
            Some(LastRecord { sequence, batch: stored.batch, local: stored.local })
        });
        if let Some(number) = burned.filter(|number| *number > self.highest) {
            // It was written whole and may have been sent: its number is used up.
            self.highest = number;
            self.declare(StreamGap { from: number, to: number, reason: LossReason::Corrupt, samples: 0, span: None })?;
        }
        Ok(last)
    }

    /// Makes the session's epoch durable, also on a full disk.
    pub fn save_epoch(&mut self) -> Result<(), SpoolError> {
        match cursor::write(&self.dir, EPOCH, record::EPOCH_MAGIC, self.stream, self.epoch) {
            Err(error @ SpoolError::NoSpace { .. }) => {
                if self.write_losses()? {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            result => result,
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Highest number ever assigned.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Highest number acknowledged, of those assigned.
    pub fn acked_upto(&self) -> u64 {
        self.acked.min(self.highest)
    }

    /// Losses of the stream, and of those before it whose folders are gone.
    pub fn losses(&self) -> Losses {
        self.lost.plus(self.earlier)
    }

    /// What this run declared lost of the stream.
    pub fn lost_by_reason(&self) -> LostByReason {
        self.lost_by_reason
    }

    /// Damaged places, files left alone, and segments of a later format among those.
    pub fn oddities(&self) -> (u64, u64, u64) {
        (self.damaged, self.foreign, self.newer)
    }

    /// Number of segments.
    pub fn segments(&self) -> u64 {
        length(self.segments.len())
    }

    /// Bytes of the segments and of the file of losses.
    pub fn bytes(&self) -> u64 {
        let made = self.losses.as_ref().map_or(0, |_| LossFile::bytes());
        self.segments.values().map(|held| held.segment.size()).sum::<u64>() + made
    }

    /// The definitions known.
    pub fn definitions_from(&self, ordinal: u64) -> Vec<(u32, Subject)> {
        self.definitions.from(ordinal)
    }

    /// Whether a series is defined in the stream.
    pub fn knows(&self, series: u32) -> bool {
        self.definitions.knows(series)
    }

    /// Bytes that an entry adds, and whether it begins a segment.
    pub fn room_for(&self, entry: &Entry) -> Result<(u64, bool), SpoolError> {
        let payload = entry.payload.as_ref().map_or(0, |payload| payload.len() + record::FRAME_BYTES);
        let new = length(dictionary_frames(self.highest + 1, &self.unknown(entry))?.len()) + length(payload);
        let begins = self.begins_segment(new);
        let head = if begins { length(self.first_content()?.len()) } else { 0 };
        Ok((head + new, begins))
    }

    fn begins_segment(&self, bytes: u64) -> bool {
        let Some(active) = self.active() else { return true };
        let has_batches = active.batches.as_ref().is_some_and(|list| !list.is_empty());
        self.begin_segment || (has_batches && active.segment.size() + bytes > self.segment_bytes)
    }

    fn unknown(&self, entry: &Entry) -> Vec<(u32, Subject)> {
        entry.new_series.iter().filter(|(number, _)| !self.definitions.knows(*number)).cloned().collect()
    }

    /// Appends an entry; durable on return. What cannot be recorded takes its number as a declared loss.
    ///
    /// # Errors
    /// After [`SpoolError::NoSpace`] nothing was appended.
    pub fn append(&mut self, entry: &Entry) -> Result<u64, SpoolError> {
        let Some(payload) = &entry.payload else {
            self.lose_next(1, entry.samples, entry.span, LossReason::Corrupt)?;
            return Ok(self.highest);
        };
        let sequence = self.highest + 1;
        let new = self.unknown(entry);
        let mut bytes = dictionary_frames(sequence, &new)?;
        let prefix = length(bytes.len());
        let frame = record::encode_frame(Kind::Batch, sequence, payload).ok_or(SpoolError::TooLarge)?;
        bytes.extend_from_slice(&frame);
        if self.begins_segment(length(bytes.len())) {
            self.begin()?;
        }
        let Some(held) = self.active_mut() else { return Err(SpoolError::Closed) };
        let offset = held.segment.size() + prefix;
        held.segment.append(&bytes)?;
        held.last = sequence;
        let place = Place { kind: Kind::Batch, sequence, offset, size: length(frame.len()) };
        held.batches.get_or_insert_default().push(place);
        self.highest = sequence;
        self.appended += 1;
        self.definitions.add(new, sequence, self.appended);
        self.definitions.used(&entry.series, sequence, self.appended);
        Ok(sequence)
    }

    fn active(&self) -> Option<&Held> {
        self.segments.values().next_back()
    }

    fn active_mut(&mut self) -> Option<&mut Held> {
        self.segments.values_mut().next_back()
    }

    /// What a segment begins with, so that it stands alone: definitions, and the losses not yet delivered.
    fn first_content(&self) -> Result<Vec<u8>, SpoolError> {
        let first = self.highest + 1;
        let header = Header { stream: self.stream, first_sequence: first, epoch: self.epoch, lost: self.lost };
        let mut content = record::encode_header(&header);
        content.extend(dictionary_frames(first, &self.definitions.all())?);
        for gap in self.gaps.values() {
            content.extend(gap_frame(first, gap, self.lost)?);
        }
        Ok(content)
    }

    /// Begins a segment.
    fn begin(&mut self) -> Result<(), SpoolError> {
        let first = self.highest + 1;
        if self.segments.contains_key(&first) {
            // The active segment is still empty; it needs no successor.
            self.begin_segment = false;
            return Ok(());
        }
        let oldest = self.segments.keys().next().copied().unwrap_or(first);
        self.definitions.prune(oldest, self.appended);
        survey::keep_aside(&segment::path(&self.dir, first))?;
        let created = Segment::create(&self.dir, first, &self.first_content()?)?;
        if let Some(held) = self.active_mut() {
            held.batches = None;
        }
        self.segments.insert(first, Held { segment: created, last: first - 1, batches: Some(Vec::new()) });
        self.begin_segment = false;
        Ok(())
    }

    /// Moves the acknowledged number.
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
        if raised || sequence == self.highest || sequence - self.saved >= CURSOR_EVERY {
            self.save_cursor()?;
        }
        Ok(())
    }

    /// Segments, oldest first, that are acknowledged and may go, with their bytes. While the stream is `live` its active
    /// segment stays, and its newest record, which holds the baselines.
    pub fn spent(&self, live: bool) -> impl Iterator<Item = (u64, u64)> {
        let newest = self.segments.values().map(|held| held.last).max().unwrap_or(0);
        let active = self.segments.keys().next_back().copied();
        let done = !live && self.highest <= self.acked;
        let goes = move |first: u64, held: &Held| {
            done || (Some(first) != active && held.last <= self.acked && !(live && held.last >= newest))
        };
        let spent = self.segments.iter().take_while(move |(first, held)| goes(**first, held));
        spent.map(|(first, held)| (*first, held.segment.size()))
    }

    /// Whether everything of the stream is acknowledged.
    pub fn is_delivered(&self) -> bool {
        self.highest <= self.acked
    }

    /// Records appended since this was opened.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Whether everything of the stream is acknowledged and no segment is left.
    pub fn is_over(&self) -> bool {
        self.segments.is_empty() && self.highest <= self.acked
    }

    /// Removes a segment. Needs no space.
    pub fn remove(&mut self, first: u64) -> Result<(), SpoolError> {
        let path = segment::path(&self.dir, first);
        std::fs::remove_file(&path).map_err(super::error::io_error("removing", &path))?;
        segment::sync_folder(&self.dir)?;
        self.segments.remove(&first);
        Ok(())
    }

    /// Saves the acknowledged number. A full disk is no error: the number is advisory.
    pub fn save_cursor(&mut self) -> Result<(), SpoolError> {
        if self.saved == self.acked {
            return Ok(());
        }
        match cursor::write(&self.dir, CURSOR, record::CURSOR_MAGIC, self.stream, self.acked) {
            Ok(()) => self.saved = self.acked,
            Err(SpoolError::NoSpace { .. }) => tracing::warn!("no space to save the spool's cursor"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The file of losses, to be broken.
    #[cfg(test)]
    pub fn loss_file(&mut self) -> Option<&mut LossFile> {
        self.losses.as_mut()
    }
}

fn batches(scan: segment::Scan) -> Vec<Place> {
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
