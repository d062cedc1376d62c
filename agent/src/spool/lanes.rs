//! All streams of a spool: the live one, and older ones that are still to be delivered.
//!
//! The folder of the spool is that of the first stream; each later one has a folder of its own in it,
//! `lane-<number:016x>`, and the newest is the live one. What the streams together may keep is decided here: what is
//! acknowledged goes first, then the oldest records of the oldest stream. A stream that is delivered goes whole, and
//! hands its count of losses to the live one.
//!
//! While the disk takes nothing, batches wait in memory. Question: drop older records from the disk to write newer ones?
//! A disk that others fill takes them too, and nothing would be left. Choice: what is on the disk stays; of what waits,
//! the oldest goes. What would change it: a reserve that is the spool's own.

use super::entry::{Entry, Ring};
use super::error::io_error;
use super::queue::{CURSOR, EPOCH, Found, Queue, read_folder, survey};
use super::record::Losses;
use super::segment::{length, sync_folder};
use super::{
    Counters, Item, LastRecord, LocalState, LostByReason, Recovery, SpoolConfig, SpoolError, StoredRecord, StreamState,
    folder, loss,
};
use joulebook_units::{Batch, LossReason, StreamId, Subject};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Most streams that an aggregator is told of in one session.
pub const MAX_LANES: usize = 8;
const PREFIX: &str = "lane-";

/// The open spool.
#[derive(Debug)]
pub struct Lanes {
    config: SpoolConfig,
    /// Oldest first; the last is the live one. Never empty.
    lanes: Vec<Queue>,
    /// Number of the next folder.
    next: u64,
    epoch: u64,
    ring: Ring,
    /// Of streams that are gone since the start.
    appended: u64,
    lost_by_reason: LostByReason,
    /// Of folders that hold no stream to deliver.
    foreign: (u64, u64),
    /// Held for its lock.
    _lock: File,
}

impl Lanes {
    /// Opens or initialises the spool of a folder.
    pub fn open(config: &SpoolConfig) -> Result<(Self, Recovery), SpoolError> {
        let lock = folder::prepare(config)?;
        let numbers = numbers(&config.dir)?;
        let next = numbers.last().map_or(1, |last| last + 1);
        let mut found = Vec::new();
        for number in numbers {
            found.push(Found::look(&path(&config.dir, number))?);
        }
        let root = Found::look(&config.dir)?;
        // Also of a folder that holds nothing to deliver: epochs of one node only rise.
        let root_epoch = root.next_epoch();
        let mut foreign = (0, 0);
        if root.stream().is_some() && !(root.is_blank() && (root.is_sealed() || !found.is_empty())) {
            found.insert(0, root);
        } else {
            foreign = root.left_alone();
        }
        // What the newest stream held may be delivered: who went on from an older one would count it twice.
        let unreadable = found.last().is_some_and(Found::is_unreadable);
        let found = tidied(found, &config.dir)?;
        let epoch = found.iter().map(Found::next_epoch).fold(root_epoch, u64::max);
        let sealed = unreadable || found.last().is_none_or(Found::is_sealed);

        let (mut lanes, mut last) = (Vec::<Queue>::new(), None);
        for one in found {
            let unused = one.is_blank() && !one.is_sealed();
            let (queue, newest) = Queue::open(one, config.segment_bytes, epoch)?;
            match lanes.last_mut() {
                Some(before) if unused => give_back(queue, before, &config.dir)?,
                _ => {
                    lanes.push(queue);
                    last = newest;
                }
            }
        }
        let (config, ring) = (config.clone(), Ring::default());
        let mut opened = Self {
            config,
            lanes,
            next,
            epoch,
            ring,
            appended: 0,
            lost_by_reason: LostByReason::default(),
            foreign,
            _lock: lock,
        };
        if sealed {
            last = None;
            let in_root = opened.lanes.is_empty() && foreign == (0, 0);
            opened.begin_stream(in_root)?;
        }
        opened.live_mut().save_epoch()?;
        opened.trim()?;
        let recovery = opened.recovery(last);
        Ok((opened, recovery))
    }

    fn recovery(&self, last: Option<LastRecord>) -> Recovery {
        let live = self.live();
        Recovery {
            stream: live.stream(),
            session_epoch: self.epoch,
            dictionary: live.definitions_from(0).into_iter().collect(),
            last,
            highest_sequence: live.highest(),
        }
    }

    fn live(&self) -> &Queue {
        // The last of a vector that is never empty: `open` begins a stream if it found none.
        &self.lanes[self.lanes.len() - 1]
    }

    fn live_mut(&mut self) -> &mut Queue {
        let last = self.lanes.len() - 1;
        &mut self.lanes[last]
    }

    /// Index of the first stream whose newest record is needed: of the live one, and of the one before while that has none.
    /// It holds the baselines from which a later run of the agent goes on.
    fn first_needed(&self) -> usize {
        let live = self.lanes.len() - 1;
        if self.live().highest() == 0 { live.saturating_sub(1) } else { live }
    }

    fn lane(&mut self, stream: StreamId) -> Option<&mut Queue> {
        self.lanes.iter_mut().find(|lane| lane.stream() == stream)
    }

    /// State and counters.
    pub fn counters(&self) -> Counters {
        let (live, waited) = (self.live(), self.ring.before_stream);
        let mut lost = Losses { records: waited.0, samples: waited.1 };
        let (mut damaged, (mut foreign, mut newer)) = (0, self.foreign);
        for lane in &self.lanes {
            lost = lost.plus(lane.losses());
            let odd = lane.oddities();
            (damaged, foreign, newer) = (damaged + odd.0, foreign + odd.1, newer + odd.2);
        }
        Counters {
            stream: live.stream(),
            highest: live.highest(),
            acked: live.acked_upto(),
            waiting: self.lanes.iter().map(|lane| lane.highest() - lane.acked_upto()).sum(),
            in_memory: length(self.ring.len()),
            streams: length(self.lanes.len()),
            appended: self.appended + self.lanes.iter().map(Queue::appended).sum::<u64>(),
            lost_records: lost.records,
            lost_samples: lost.samples,
            lost_by_reason: self.lanes.iter().map(Queue::lost_by_reason).fold(self.lost_by_reason, LostByReason::plus),
            damaged,
            foreign,
            newer,
            bytes: self.bytes(),
            segments: self.lanes.iter().map(Queue::segments).sum(),
        }
    }

    fn bytes(&self) -> u64 {
        self.lanes.iter().map(Queue::bytes).sum()
    }

    /// The streams that a session is to open, oldest first, the live one last: at most eight.
    pub fn streams(&self) -> Vec<StreamState> {
        let mut chosen: Vec<usize> = (0..self.lanes.len()).collect();
        // Those that are delivered are only of use if the aggregator lost them: they yield.
        while chosen.len() > MAX_LANES {
            let spare = chosen.iter().position(|index| self.lanes[*index].is_delivered());
            chosen.remove(spare.unwrap_or(chosen.len() - 2));
        }
        let state =
            |lane: &Queue| StreamState { stream: lane.stream(), highest: lane.highest(), acked: lane.acked_upto() };
        chosen.into_iter().map(|index| state(&self.lanes[index])).collect()
    }

    /// Appends a batch, behind those that wait; durable on return. Returns its number.
    ///
    /// # Errors
    /// [`SpoolError::NoSpace`]: it waits in memory and is written when there is space. [`SpoolError::Refused`] and
    /// [`SpoolError::TooLarge`]: it cannot be recorded and is declared lost.
    pub fn append(
        &mut self,
        batch: &Batch,
        local: &LocalState,
        mut new_series: Vec<(u32, Subject)>,
        begins_stream: bool,
    ) -> Result<u64, SpoolError> {
        if !begins_stream && self.ring.len() == 0 {
            // What waits need not hold what is on the disk already; behind a stream that is to begin it may be new.
            new_series.retain(|(number, _)| !self.live().knows(*number));
        }
        let (entry, refused) = Entry::new(batch, local, new_series, begins_stream);
        self.ring.push(entry);
        let written = self.write_waiting();
        match (refused, written) {
            (_, Err(error)) if error.is_fatal() => Err(error),
            (Some(refused), _) => Err(refused),
            (None, written) => written,
        }
    }

    /// Writes the batches that wait in memory, as far as the disk takes them. Returns the highest number.
    ///
    /// # Errors
    /// [`SpoolError::NoSpace`]: some wait on.
    pub fn write_waiting(&mut self) -> Result<u64, SpoolError> {
        while self.ring.front().is_some() {
            match self.write_first() {
                Ok(()) => drop(self.ring.pop()),
                Err(error @ SpoolError::NoSpace { .. }) => {
                    while self.ring.is_over() {
                        self.lose_waiting()?;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.live().highest())
    }

    fn write_first(&mut self) -> Result<(), SpoolError> {
        if self.ring.front().is_some_and(|entry| entry.begins_stream) {
            self.begin_stream(false)?;
            self.ring.stream_begun();
        }
        if let (records @ 1.., samples, span) = self.ring.before_stream {
            self.live_mut().lose_next(records, samples, span, LossReason::NoSpace)?;
            self.ring.before_stream = (0, 0, None);
        }
        let Some(entry) = self.ring.front() else { return Ok(()) };
        let (wanted, begins) = self.live().room_for(entry)?;
        self.make_room(wanted, begins)?;
        loop {
            let last = self.lanes.len() - 1;
            let (Some(entry), Some(live)) = (self.ring.front(), self.lanes.get_mut(last)) else { return Ok(()) };
            match live.append(entry) {
                Ok(_) => return Ok(()),
                Err(error @ SpoolError::NoSpace { .. }) => {
                    if !self.free_one()? {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Drops the oldest batch that waits, counts and declares it.
    fn lose_waiting(&mut self) -> Result<(), SpoolError> {
        let Some(lost) = self.ring.drop_oldest() else { return Ok(()) };
        tracing::error!(
            values = lost.samples,
            "the disk is full and so is the memory for waiting batches: one is lost"
        );
        if lost.begins_stream || self.ring.before_stream.0 > 0 {
            self.ring.count_before_stream(&lost);
            return Ok(());
        }
        match self.live_mut().lose_next(1, lost.samples, lost.span, LossReason::NoSpace) {
            // Not even the file of losses could be made when the folder was: told as soon as there is space.
            Err(SpoolError::NoSpace { .. }) => {
                self.ring.count_before_stream(&lost);
                Ok(())
            }
            result => result,
        }
    }

    /// Makes the live stream an older one and begins another; durable on return.
    fn begin_stream(&mut self, in_root: bool) -> Result<(), SpoolError> {
        while self.lanes.len() >= MAX_LANES && self.lanes.first().is_some_and(Queue::is_delivered) {
            if !self.free_one()? {
                break;
            }
        }
        let segment_bytes = self.config.segment_bytes;
        if in_root {
            self.lanes.push(Queue::create(&self.config.dir, segment_bytes, self.epoch)?);
            return Ok(());
        }
        let dir = path(&self.config.dir, self.next);
        DirBuilder::new().mode(0o700).create(&dir).map_err(io_error("making", &dir))?;
        sync_folder(&self.config.dir)?;
        match Queue::create(&dir, segment_bytes, self.epoch) {
            Ok(queue) => {
                self.next += 1;
                tracing::info!(stream = %queue.stream(), older = self.lanes.len(), "live data goes to a new stream");
                self.lanes.push(queue);
                Ok(())
            }
            Err(error) => {
                // Nothing was told of it yet.
                clear(&dir, None, &self.config.dir)?;
                Err(error)
            }
        }
    }

    /// Makes room for `wanted` bytes: under the cap, and above the reserve of the file system, below which the spool does
    /// not grow any more.
    fn make_room(&mut self, wanted: u64, begins: bool) -> Result<(), SpoolError> {
        while self.bytes() + wanted > self.config.max_bytes && (self.free_one()? || self.lose_one()?) {}
        if begins && self.config.min_free_bytes > 0 {
            let least = self.config.min_free_bytes.saturating_add(wanted.max(self.config.segment_bytes));
            while folder::free_bytes(&self.config.dir)? < least && self.free_one()? {}
            if folder::free_bytes(&self.config.dir)? < least {
                self.lose_one()?;
            }
        }
        Ok(())
    }

    /// Removes the oldest acknowledged segment; false if there is none.
    fn free_one(&mut self) -> Result<bool, SpoolError> {
        let needed = self.first_needed();
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let first = lane.spent(index >= needed).next();
            let Some((first, _)) = first else {
                if index < needed && lane.is_over() {
                    return self.retire(index);
                }
                continue;
            };
            lane.remove(first)?;
            if index < needed && lane.is_over() {
                self.retire(index)?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Drops the oldest records, with what they say; false if only the newest are left.
    fn lose_one(&mut self) -> Result<bool, SpoolError> {
        let needed = self.first_needed();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            match lane.drop_oldest(index >= needed) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                // A loss that cannot be declared is not made.
                Err(SpoolError::NoSpace { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Removes the folder of a stream that is delivered. Its count of losses goes to the live one before.
    fn retire(&mut self, index: usize) -> Result<bool, SpoolError> {
        let (losses, stream) = (self.lanes[index].losses(), self.lanes[index].stream());
        if !self.live_mut().inherit(losses, stream)? {
            return Ok(false);
        }
        let gone = self.lanes.remove(index);
        self.appended += gone.appended();
        self.lost_by_reason = self.lost_by_reason.plus(gone.lost_by_reason());
        let (_, foreign, newer) = gone.oddities();
        (self.foreign.0, self.foreign.1) = (self.foreign.0 + foreign, self.foreign.1 + newer);
        clear(gone.dir(), Some(stream), &self.config.dir)?;
        Ok(true)
    }

    /// Removes acknowledged segments beyond what is kept for an aggregator that lost data.
    fn trim(&mut self) -> Result<(), SpoolError> {
        let keep = if self.config.keep_acked { self.config.max_bytes } else { self.config.rewind_bytes };
        loop {
            let needed = self.first_needed();
            let lanes = self.lanes.iter().enumerate();
            let spent: u64 = lanes.flat_map(|(index, lane)| lane.spent(index >= needed)).map(|(_, bytes)| bytes).sum();
            let over = self.lanes.iter().take(needed).any(Queue::is_over);
            if (spent <= keep && !over) || !self.free_one()? {
                return Ok(());
            }
        }
    }

    /// What comes after a number of a stream; nothing if the stream is gone.
    pub fn next_after(&mut self, stream: StreamId, sequence: u64) -> Result<Item, SpoolError> {
        self.lane(stream).map_or(Ok(Item::None), |lane| lane.next_after(sequence))
    }

    /// The definitions of a stream from an ordinal on, and the ordinal of the next one.
    pub fn definitions_from(&mut self, stream: StreamId, ordinal: u64) -> Vec<(u32, Subject)> {
        self.lane(stream).map(|lane| lane.definitions_from(ordinal)).unwrap_or_default()
    }

    /// Every record of a stream up to a number is stored at the aggregator.
    pub fn acked(&mut self, stream: StreamId, sequence: u64) -> Result<(), SpoolError> {
        if let Some(lane) = self.lane(stream) {
            lane.acked(sequence)?;
            self.trim()?;
        }
        if self.ring.front().is_some() {
            match self.write_waiting() {
                Ok(_) | Err(SpoolError::NoSpace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Saves what is acknowledged.
    pub fn save_cursors(&mut self) -> Result<(), SpoolError> {
        self.lanes.iter_mut().try_for_each(Queue::save_cursor)
    }

    /// The live stream's queue, to be broken.
    #[cfg(test)]
    pub fn live_queue(&mut self) -> &mut Queue {
        self.live_mut()
    }
}

/// Removes the folders of streams that had handed over their losses when an earlier run ended, and of streams that had not
/// begun. A folder whose files nobody can tell the stream of stays.
fn tidied(found: Vec<Found>, root: &Path) -> Result<Vec<Found>, SpoolError> {
    let retired: Vec<StreamId> = found.iter().filter_map(Found::retired).collect();
    let mut kept: Vec<Found> = Vec::new();
    for one in found {
        match one.stream() {
            Some(stream) if !retired.contains(&stream) => kept.push(one),
            None if one.is_unreadable() => {
                tracing::warn!(folder = %one.dir().display(), "a folder of the spool holds nothing that can be read: left alone");
            }
            stream => clear(one.dir(), stream, root)?,
        }
    }
    Ok(kept)
}

/// Removes a stream that was begun and never used: the one before it is live again, and has the losses that the unused one
/// had taken over.
fn give_back(unused: Queue, before: &mut Queue, root: &Path) -> Result<(), SpoolError> {
    let losses = unused.losses();
    if losses != Losses::default() && !before.inherit(losses, unused.stream())? {
        return Err(SpoolError::NoSpace { path: unused.dir().to_owned() });
    }
    clear(unused.dir(), Some(unused.stream()), root)
}

/// Numbers of the folders of later streams.
fn numbers(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("listing", dir))? {
        let entry = entry.map_err(io_error("listing", dir))?;
        let is_folder = entry.file_type().map_err(io_error("examining", &entry.path()))?.is_dir();
        let digits = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)).map(str::to_owned);
        let number = digits.filter(|digits| digits.len() == 16).and_then(|d| u64::from_str_radix(&d, 16).ok());
        numbers.extend(number.filter(|_| is_folder));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{number:016x}"))
}

/// Removes the files of a stream, and its folder if that is its own and nothing else lies in it.
fn clear(dir: &Path, stream: Option<StreamId>, root: &Path) -> Result<(), SpoolError> {
    let own = survey::survey(dir, stream)?;
    for first in own.segments.keys() {
        let path = super::segment::path(dir, *first);
        fs::remove_file(&path).map_err(io_error("removing", &path))?;
    }
    // The epoch file last: it says whose the others are.
    for name in [CURSOR, loss::NAME, EPOCH] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error("removing", &path)(error)),
            _ => {}
        }
    }
    sync_folder(dir)?;
    if dir != root {
        match fs::remove_dir(dir) {
            Ok(()) => sync_folder(root)?,
            Err(error) => {
                tracing::warn!(folder = %dir.display(), %error, "a folder of the spool is not empty: it stays")
            }
        }
    }
    Ok(())
}

/// Every good record of a spool's folder, the streams one after the other, each in order, without opening the spool:
/// nothing is changed or locked.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn read_all(dir: &Path) -> Result<Vec<StoredRecord>, SpoolError> {
    let mut records = read_folder(dir)?;
    for number in numbers(dir)? {
        records.extend(read_folder(&path(dir, number))?);
    }
    Ok(records)
}
