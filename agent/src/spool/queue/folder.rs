//! A spool's folder: whether it may be used, what lies in it, which of that is ours.

use super::Named;
use crate::spool::record::{self, Header, Kind, Losses};
use crate::spool::segment::{self, Found, Scan, Tail};
use crate::spool::{SpoolConfig, SpoolError, io_error};
use joulebook_proto::convert;
use joulebook_units::{StreamGap, StreamId, Subject};
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Larger files are not read as segments.
pub const MAX_SEGMENT_BYTES: u64 = 256 << 20;
const MIN_SEGMENT_BYTES: u64 = 4096;
const LOCK: &str = "lock";

/// Makes sure that the folder is there, ours and closed to others, and takes its lock.
pub fn prepare(config: &SpoolConfig) -> Result<File, SpoolError> {
    let dir = &config.dir;
    let refuse = |why| SpoolError::Configuration { path: dir.clone(), why };
    if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES / 2).contains(&config.segment_bytes) {
        return Err(refuse("segment_bytes must be 4 KiB to 128 MiB"));
    }
    if config.max_bytes < config.segment_bytes.saturating_mul(2) {
        return Err(refuse("max_bytes must be at least two segments"));
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(refuse("its parent folder does not exist: make it, or set spool.dir"));
        }
        Err(error) => return Err(io_error("making", dir)(error)),
    }
    let metadata = fs::symlink_metadata(dir).map_err(io_error("examining", dir))?;
    if !metadata.is_dir() {
        return Err(refuse("it is not a folder: set spool.dir to one"));
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(SpoolError::Permission { path: dir.clone(), why: format!("it belongs to uid {}", metadata.uid()) });
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io_error("closing to others", dir))?;
    }
    let path = dir.join(LOCK);
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits());
    let file = options.open(&path).map_err(io_error("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked { dir: dir.clone() }),
        Err(TryLockError::Error(error)) => Err(io_error("locking", &path)(error)),
    }
}

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

/// Bytes that this user may still write to the folder's file system.
pub fn free_bytes(dir: &Path) -> Result<u64, SpoolError> {
    let found =
        nix::sys::statvfs::statvfs(dir).map_err(|error| io_error("examining the file system of", dir)(error.into()))?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// The files with a segment's name, by first sequence.
pub fn segments(dir: &Path) -> Result<Vec<Named>, SpoolError> {
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
    /// Its frames; those of batches only in the newest segment matter, the others' are read again when needed.
    pub scan: Scan,
}

/// What a folder holds of the stream.
#[derive(Debug, Default)]
pub struct Survey {
    /// The stream; none if the folder holds no usable segment.
    pub stream: Option<StreamId>,
    /// Its segments by first sequence.
    pub segments: BTreeMap<u64, Surveyed>,
    /// Every definition in them.
    pub definitions: BTreeMap<u32, Subject>,
    /// Every loss declared in them, oldest first.
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

/// Reads every segment of a folder. `owner` is the stream that the epoch file names: a segment without a readable
/// header is taken for its.
pub fn survey(dir: &Path, owner: Option<StreamId>) -> Result<Survey, SpoolError> {
    let named = segments(dir)?;
    let mut survey = Survey { stream: stream_of(&named, owner)?, ..Survey::default() };
    for (first, path) in named {
        let (header, bytes) = match segment::find(&path, MAX_SEGMENT_BYTES)? {
            Found::Ours(header, bytes) if Some(header.stream) == survey.stream && header.first_sequence == first => {
                (Some(header), bytes)
            }
            Found::Headless(bytes) if owner.is_some() && owner == survey.stream => (None, bytes),
            Found::Empty => {
                fs::remove_file(&path).map_err(io_error("removing", &path))?;
                segment::sync_folder(dir)?;
                continue;
            }
            other => {
                survey.foreign += 1;
                let version = if let Found::Newer(version) = other { Some(version) } else { None };
                survey.newer += u64::from(version.is_some());
                tracing::warn!(file = %path.display(), version, "a file is no segment of this stream: left alone");
                continue;
            }
        };
        survey.take(first, header, &bytes);
    }
    Ok(survey)
}

/// The stream of the newest segment; none if that is of a later format, since its highest number is then unknown.
fn stream_of(named: &[Named], owner: Option<StreamId>) -> Result<Option<StreamId>, SpoolError> {
    for (_, path) in named.iter().rev() {
        match segment::find(path, MAX_SEGMENT_BYTES)? {
            Found::Ours(header, _) => return Ok(Some(header.stream)),
            Found::Headless(_) if owner.is_some() => return Ok(owner),
            Found::Newer(_) => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

impl Survey {
    fn take(&mut self, first: u64, header: Option<Header>, bytes: &[u8]) {
        let mut scan = segment::scan(bytes, first);
        self.damaged += scan.damaged + u64::from(header.is_none()) + u64::from(scan.tail == Tail::Damaged);
        if let Some(header) = header {
            self.epoch = self.epoch.max(header.epoch);
            self.lost = header.lost;
        }
        for place in &scan.frames {
            let Some(payload) = segment::payload(bytes, place) else { continue };
            match place.kind {
                Kind::Dictionary => self.definitions.extend(convert::decode_definitions(payload).unwrap_or_default()),
                Kind::Gap => {
                    if let Some((gap, lost)) = record::decode_gap(payload) {
                        self.gaps.push(gap);
                        self.lost = lost;
                    }
                }
                Kind::Batch => {}
            }
        }
        let newest = scan.frames.iter().rev().find(|place| place.kind == Kind::Batch);
        if let Some((place, payload)) = newest.and_then(|place| Some((place, segment::payload(bytes, place)?))) {
            self.newest = Some((place.sequence, payload.to_vec()));
        }
        scan.frames.retain(|place| place.kind == Kind::Batch);
        if let Some(mut earlier) = self.segments.last_entry() {
            // Only the newest segment's places are needed at once; of the others the last number is.
            let frames = &mut earlier.get_mut().scan.frames;
            *frames = frames.last().copied().into_iter().collect();
        }
        self.segments.insert(first, Surveyed { scan });
    }
}
