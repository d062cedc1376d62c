//! A folder of one stream: which files in it are ours, and what they hold.
//!
//! Question: read everything at start, or little? A full spool is a gigabyte, and an agent must run within a second. The
//! newest segment stands alone: it begins with the definitions and undelivered losses of its time, and bears the counts.
//! Choice: it is read whole, of the others the header. If it is damaged, all are read. What would change it: a segment
//! that needs another one.

use crate::spool::error::{SpoolError, io_error};
use crate::spool::record::{self, Header, Kind, Losses};
use crate::spool::segment::{self, Found, Peek, Scan, Tail};
use joulebook_proto::convert;
use joulebook_units::{StreamGap, StreamId, Subject};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Larger files are not read as segments.
pub const MAX_SEGMENT_BYTES: u64 = 256 << 20;

/// 128 random bits.
pub fn new_stream(dir: &Path) -> Result<StreamId, SpoolError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| SpoolError::Io {
        what: "making a random stream id for",
        path: dir.into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(StreamId(id))
}

/// The files with a segment's name, by first sequence.
pub fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("listing", dir))? {
        let entry = entry.map_err(io_error("listing", dir))?;
        let first = entry.file_name().to_str().and_then(segment::sequence_of);
        found.extend(first.filter(|first| *first > 0).map(|first| (first, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Moves a file that is not this stream's out of the way of a new segment. It is kept.
pub fn keep_aside(path: &Path) -> Result<(), SpoolError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let name = |n: u32| PathBuf::from(format!("{}.kept-{n}", path.display()));
    let free = (1..u32::MAX).map(name).find(|name| fs::symlink_metadata(name).is_err());
    let free = free.ok_or(SpoolError::Damaged { path: path.into(), why: "its name is needed: move it away" })?;
    tracing::warn!(from = %path.display(), to = %free.display(), "a foreign file is renamed: its name is needed");
    fs::rename(path, &free).map_err(io_error("renaming", path))
}

/// A segment of the stream.
#[derive(Debug)]
pub struct Surveyed {
    /// Bytes that are good, or all of them where it was not read.
    pub size: u64,
    /// No batch has a higher number.
    pub last: u64,
    /// Its frames, of the newest segment only.
    pub scan: Option<Scan>,
}

/// What a folder holds of one stream.
#[derive(Debug, Default)]
pub struct Survey {
    /// The stream; none if the folder holds no usable segment.
    pub stream: Option<StreamId>,
    /// Its segments by first sequence.
    pub segments: BTreeMap<u64, Surveyed>,
    /// The definitions in those that were read.
    pub definitions: BTreeMap<u32, Subject>,
    /// The losses declared in them, oldest first.
    pub gaps: Vec<StreamGap>,
    /// The newest cumulative losses.
    pub lost: Losses,
    /// Number and payload of the newest batch.
    pub newest: Option<(u64, Vec<u8>)>,
    /// Highest epoch in a header.
    pub epoch: u64,
    /// Damaged places.
    pub damaged: u64,
    /// Files left alone.
    pub foreign: u64,
    /// Segments of a later format among them.
    pub newer: u64,
}

/// Looks at every segment of a folder. `owner` is the stream that the epoch file names: a segment without a readable
/// header is taken for its.
pub fn survey(dir: &Path, owner: Option<StreamId>) -> Result<Survey, SpoolError> {
    let mut peeked = Vec::new();
    for (first, path) in segments(dir)? {
        peeked.push((first, segment::peek(&path, MAX_SEGMENT_BYTES)?, path));
    }
    let mut survey = Survey { stream: stream_of(&peeked, owner), ..Survey::default() };
    let mut own = Vec::new();
    for (first, peek, path) in peeked {
        match peek {
            Peek::Ours(header, size) if Some(header.stream) == survey.stream && header.first_sequence == first => {
                survey.epoch = survey.epoch.max(header.epoch);
                own.push((first, size, path, true));
            }
            Peek::Headless(size) if owner.is_some() && owner == survey.stream => {
                survey.damaged += 1;
                own.push((first, size, path, false));
            }
            Peek::Empty => {
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
                segment::sync_folder(dir)?;
            }
            other => {
                survey.foreign += 1;
                let version = if let Peek::Newer(version) = other { Some(version) } else { None };
                survey.newer += u64::from(version.is_some());
                tracing::warn!(file = %path.display(), version, "a file is no segment of this stream: left alone");
            }
        }
    }
    for (index, (first, size, _, _)) in own.iter().enumerate() {
        let last = own.get(index + 1).map_or(first - 1, |(next, ..)| next - 1);
        survey.segments.insert(*first, Surveyed { size: *size, last, scan: None });
    }
    survey.read(&own)?;
    Ok(survey)
}

/// The stream that the epoch file names, if it has a segment here; else that of the newest segment.
fn stream_of(peeked: &[(u64, Peek, PathBuf)], owner: Option<StreamId>) -> Option<StreamId> {
    let streams = || {
        peeked.iter().rev().filter_map(|(_, peek, _)| match peek {
            Peek::Ours(header, _) => Some(header.stream),
            Peek::Headless(_) => owner,
            _ => None,
        })
    };
    owner.filter(|owner| streams().any(|stream| stream == *owner)).or_else(|| streams().next())
}

impl Survey {
    /// Reads the newest segment, and older ones while the newer are damaged or hold no batch.
    fn read(&mut self, own: &[(u64, u64, PathBuf, bool)]) -> Result<(), SpoolError> {
        let (mut whole, mut older) = (true, false);
        let mut parts = Vec::new();
        for (first, _, path, headed) in own.iter().rev() {
            if older && whole && self.newest.is_some() {
                break;
            }
            let bytes = match segment::find(path, MAX_SEGMENT_BYTES)? {
                Found::Ours(_, bytes) | Found::Headless(bytes) => bytes,
                _ => continue,
            };
            let scan = segment::scan(&bytes, *first);
            let is_whole = *headed && scan.damaged == 0 && scan.tail != Tail::Damaged;
            self.damaged += scan.damaged + u64::from(scan.tail == Tail::Damaged);
            if self.newest.is_none() {
                let newest = scan.frames.iter().rev().find(|place| place.kind == Kind::Batch);
                let newest = newest.and_then(|place| Some((place.sequence, segment::payload(&bytes, place)?.to_vec())));
                self.newest = newest;
            }
            parts.push(Part::of(&bytes, &scan, headed.then(|| record::decode_header(&bytes).ok()).flatten()));
            if let Some(surveyed) = self.segments.get_mut(first).filter(|_| !older) {
                let last = scan.frames.iter().rev().find(|place| place.kind == Kind::Batch);
                surveyed.last = last.map_or(*first - 1, |place| place.sequence);
                surveyed.size = scan.valid;
                surveyed.scan = Some(scan);
            }
            whole &= is_whole;
            older = true;
        }
        for part in parts.into_iter().rev() {
            self.definitions.extend(part.definitions);
            self.gaps.extend(part.gaps);
            self.lost = self.lost.newer(part.lost);
        }
        Ok(())
    }
}

/// What a segment that was read adds.
struct Part {
    definitions: Vec<(u32, Subject)>,
    gaps: Vec<StreamGap>,
    lost: Losses,
}

impl Part {
    fn of(bytes: &[u8], scan: &Scan, header: Option<Header>) -> Self {
        let lost = header.map(|header| header.lost).unwrap_or_default();
        let mut part = Self { definitions: Vec::new(), gaps: Vec::new(), lost };
        for place in &scan.frames {
            let Some(payload) = segment::payload(bytes, place) else { continue };
            match place.kind {
                Kind::Dictionary => part.definitions.extend(convert::decode_definitions(payload).unwrap_or_default()),
                Kind::Gap => {
                    if let Some((gap, lost)) = record::decode_gap(payload) {
                        part.gaps.push(gap);
                        part.lost = part.lost.newer(lost);
                    }
                }
                Kind::Batch => {}
            }
        }
        part
    }
}
