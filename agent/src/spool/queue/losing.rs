//! What is lost: counted and declared on the disk before it goes, and told to who reads.

use super::{Held, Queue, gap_frame, segment};
use crate::spool::SpoolError;
use crate::spool::loss::LossFile;
use crate::spool::record::{Kind, LossSlot, Losses};
use joulebook_units::{LossReason, LostSpan, StreamGap, StreamId};

impl Queue {
    /// A segment that a durable gap declares as dropped was only not yet removed.
    pub(super) fn finish_drops(&mut self) -> Result<(), SpoolError> {
        let dropped: Vec<_> = self.gaps.values().filter(|gap| gap.reason == LossReason::SpoolFull).cloned().collect();
        // A drop takes all of a segment that is not acknowledged: one number of it tells.
        let covered = |first: u64, held: &Held| dropped.iter().any(|gap| gap.from <= held.last && first <= gap.to);
        let doomed = self.segments.iter().filter(|(first, held)| covered(**first, held));
        let doomed: Vec<_> = doomed.map(|(first, _)| *first).collect();
        for first in doomed {
            self.remove(first)?;
        }
        Ok(())
    }

    /// Whether [`Self::drop_oldest`] would find something. While the stream is `live` its active segment stays, and its
    /// newest record, which holds the baselines.
    fn can_drop(&self, live: bool) -> bool {
        let newest = self.segments.values().map(|held| held.last).max().unwrap_or(0);
        let first = self.segments.first_key_value();
        first.is_some_and(|(first, held)| {
            if live {
                self.segments.len() > 1 && held.last < newest
            } else {
                self.segments.len() > 1 || held.last >= *first
            }
        })
    }

    /// Drops the oldest segment and declares what is lost with it; false if there is none that may go. The active
    /// segment of a stream that is not `live` any more may go as well.
    ///
    /// # Errors
    /// After [`SpoolError::NoSpace`] nothing is dropped: a loss that cannot be declared is not made.
    pub fn drop_oldest(&mut self, live: bool) -> Result<bool, SpoolError> {
        if !self.can_drop(live) {
            return Ok(false);
        }
        let Some((&first, held)) = self.segments.first_key_value() else { return Ok(false) };
        let from = first.max(self.acked + 1);
        // Numbers of it that cannot be read are declared as damaged when their turn comes.
        if held.last >= from
            && let Some(gap) = self.doomed(first, from)?
        {
            let (to, samples) = (gap.to, gap.samples);
            tracing::error!(from, to, samples, "the spool is full: the oldest records are lost");
            self.declare(gap)?;
        }
        self.remove(first)?;
        if self.segments.is_empty() {
            // Made from what was just freed. If others took that, the file of losses tells all the same.
            match self.begin() {
                Ok(()) | Err(SpoolError::NoSpace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The loss of the records from `from` on in a segment; none if it holds none.
    fn doomed(&self, first: u64, from: u64) -> Result<Option<StreamGap>, SpoolError> {
        let path = segment::path(&self.dir, first);
        let Some(bytes) = segment::read_own(&path, super::survey::MAX_SEGMENT_BYTES)? else { return Ok(None) };
        let found = segment::scan(&bytes, first);
        let lost: Vec<_> =
            found.frames.iter().filter(|place| place.kind == Kind::Batch && place.sequence >= from).collect();
        let Some(to) = lost.last().map(|place| place.sequence) else { return Ok(None) };
        let extents: Vec<_> = lost.iter().filter_map(|place| segment::extent(&bytes, place)).collect();
        let samples = extents.iter().map(|extent| u64::from(extent.samples)).sum();
        let span = extents.first().zip(extents.last()).filter(|(a, b)| a.span.boot == b.span.boot);
        let span = span.map(|(a, b)| LostSpan { last: b.span.last, ..a.span });
        Ok(Some(StreamGap { from, to, reason: LossReason::SpoolFull, samples, span }))
    }

    /// Declares the next numbers as lost before they were recorded.
    pub fn lose_next(
        &mut self,
        records: u64,
        samples: u64,
        span: Option<LostSpan>,
        reason: LossReason,
    ) -> Result<(), SpoolError> {
        let (from, to) = (self.highest + 1, self.highest + records.max(1));
        self.highest = to;
        let declared = self.declare(StreamGap { from, to, reason, samples, span });
        if declared.is_err() {
            self.highest = from - 1;
        }
        declared
    }

    /// Makes a loss known and durable.
    pub(super) fn declare(&mut self, gap: StreamGap) -> Result<(), SpoolError> {
        let before = (self.lost, self.gaps.clone());
        let (records, reason) = (self.undeclared(&gap), gap.reason);
        self.lost = self.lost.plus(Losses { records, samples: gap.samples });
        let at = gap.from;
        self.insert_gap(gap);
        let on_disk = self.write_losses()?;
        // A second copy, among the data. The next segment begins with one if there is no space for it now.
        let among_data = self.write_gap(at)?;
        if !on_disk && !among_data {
            (self.lost, self.gaps) = before;
            return Err(SpoolError::NoSpace { path: self.dir.clone() });
        }
        self.lost_by_reason.add(reason, records);
        Ok(())
    }

    /// How many numbers of a gap are not part of a known one.
    fn undeclared(&self, gap: &StreamGap) -> u64 {
        let overlap = |known: &StreamGap| {
            let (from, to) = (known.from.max(gap.from), known.to.min(gap.to));
            if from > to { 0 } else { to - from + 1 }
        };
        (gap.to - gap.from + 1).saturating_sub(self.gaps.values().map(overlap).sum())
    }

    /// Writes the losses to their file; false if that is not possible now.
    pub(super) fn write_losses(&mut self) -> Result<bool, SpoolError> {
        if self.losses.is_none() {
            self.losses = match LossFile::open(&self.dir, self.stream) {
                Ok(file) => Some(file),
                Err(SpoolError::NoSpace { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        let (lost, earlier, retired) = (self.lost, self.earlier, self.retired);
        let gaps = self.gaps.values().cloned().collect();
        let (stream, epoch, highest) = (self.stream, self.epoch, self.highest);
        let slot = LossSlot { turn: 0, stream, epoch, highest, lost, earlier, retired, gaps };
        match self.losses.as_mut().map(|file| file.write(slot)) {
            Some(Ok(written)) => Ok(written),
            // A file system that writes elsewhere needs space even to overwrite.
            Some(Err(SpoolError::NoSpace { .. })) | None => Ok(false),
            Some(Err(error)) => Err(error),
        }
    }

    /// Writes the known gap that holds number `at` to the active segment; false if there is no space.
    fn write_gap(&mut self, at: u64) -> Result<bool, SpoolError> {
        let Some(gap) = self.gaps.range(..=at).next_back().map(|(_, gap)| gap) else { return Ok(true) };
        let frame = gap_frame(self.highest + 1, gap, self.lost)?;
        match self.active_mut().map(|held| held.segment.append(&frame)) {
            None | Some(Err(SpoolError::NoSpace { .. })) => Ok(false),
            Some(result) => result.map(|()| true),
        }
    }

    /// Takes over the losses of a stream whose folder is about to be removed. Durable on return; false if it cannot be
    /// made so now, and nothing is changed then.
    pub fn inherit(&mut self, losses: Losses, stream: StreamId) -> Result<bool, SpoolError> {
        let before = (self.earlier, self.retired);
        (self.earlier, self.retired) = (self.earlier.plus(losses), Some(stream));
        let written = self.write_losses()?;
        if !written {
            (self.earlier, self.retired) = before;
        }
        Ok(written)
    }

    /// Adds a gap to those known: one that is known already changes nothing, a neighbour of the same kind is joined,
    /// unless it was given out already: it will be acknowledged by itself.
    pub(super) fn insert_gap(&mut self, gap: StreamGap) {
        if gap.to <= self.acked {
            return;
        }
        let told = self.told;
        match self.gaps.range_mut(..=gap.from).next_back().map(|(_, known)| known) {
            Some(known) if known.to >= gap.to => {}
            // A later frame tells of more of the same loss.
            Some(known) if known.from == gap.from => *known = gap,
            Some(known) if known.to + 1 == gap.from && known.reason == gap.reason && known.to > told => {
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
}
