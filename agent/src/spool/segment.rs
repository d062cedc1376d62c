//! Segment files: opening them safely, reading every frame, appending durably.

use super::error::{SpoolError, io_error, sync_error};
use super::record::{
    self, Extent, FRAME_BYTES, Frame, FrameFault, HEADER_BYTES, Header, HeaderFault, Kind, MAX_PAYLOAD_BYTES,
};
use nix::fcntl::OFlag;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A damaged record is looked for no further than this many numbers ahead.
const RESYNC_NUMBERS: u64 = 1 << 20;

/// A frame's place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its type.
    pub kind: Kind,
    /// Its sequence.
    pub sequence: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes of the whole frame.
    pub size: u64,
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// With its last frame, or zeros.
    Clean,
    /// With a frame that was never finished, hence never sent.
    Torn,
    /// With a damaged frame that may have been sent.
    Damaged,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Its frames in order.
    pub frames: Vec<Place>,
    /// Bytes up to the end of the last good frame.
    pub valid: u64,
    /// How it ends.
    pub tail: Tail,
    /// Damaged places that were skipped.
    pub damaged: u64,
}

/// Finds every good frame of a segment's bytes, from the header's end on. `first` is the number of its first batch.
pub fn scan(bytes: &[u8], first: u64) -> Scan {
    let mut scan = Scan { frames: Vec::new(), valid: length(HEADER_BYTES), tail: Tail::Clean, damaged: 0 };
    let (mut at, mut expected) = (HEADER_BYTES, first);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let fault = match record::decode_frame(rest) {
            Ok(frame) if plausible(&frame, expected) => {
                let size = frame.size();
                scan.frames.push(Place {
                    kind: frame.kind,
                    sequence: frame.sequence,
                    offset: length(at),
                    size: length(size),
                });
                expected = after(&frame, expected);
                at += size;
                scan.valid = length(at);
                continue;
            }
            Ok(_) => FrameFault::Damaged,
            Err(fault) => fault,
        };
        if fault == FrameFault::End {
            return scan;
        }
        match resynchronise(bytes, at + 1, expected) {
            Some(found) => {
                scan.damaged += 1;
                at = found;
            }
            None => {
                scan.tail = if fault == FrameFault::Torn { Tail::Torn } else { Tail::Damaged };
                return scan;
            }
        }
    }
}

/// The next batch's number after a frame.
fn after(frame: &Frame<'_>, expected: u64) -> u64 {
    match frame.kind {
        Kind::Batch => frame.sequence + 1,
        Kind::Dictionary => expected,
        Kind::Gap => record::decode_gap(frame.payload).map_or(expected, |(gap, _)| expected.max(gap.to + 1)),
    }
}

fn plausible(frame: &Frame<'_>, expected: u64) -> bool {
    (expected..expected.saturating_add(RESYNC_NUMBERS)).contains(&frame.sequence)
}

/// The next place where a good frame with a number to be expected begins.
fn resynchronise(bytes: &[u8], from: usize, expected: u64) -> Option<usize> {
    (from..bytes.len().saturating_sub(FRAME_BYTES - 1)).find(|at| {
        // The type and the zeros beside it first: they rule nearly every place out without a checksum.
        matches!(bytes.get(at + 4..at + 8), Some([1..=3, 0, 0, 0]))
            && record::decode_frame(&bytes[*at..]).is_ok_and(|frame| plausible(&frame, expected))
    })
}

/// What lies in a folder under a segment's name.
#[derive(Debug)]
pub enum Found {
    /// A segment of ours.
    Ours(Header, Vec<u8>),
    /// One of ours that nothing was written to.
    Empty,
    /// A segment whose header is damaged; its frames may be good.
    Headless(Vec<u8>),
    /// A segment of a later version of the format.
    Newer(u16),
    /// Not ours: left alone.
    Foreign,
}

/// The first sequence that a segment's name tells; `None` for any other name.
pub fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".spl")?;
    let lower = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() == 16 && lower { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// The path of the segment that begins with `first`.
pub fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("seg-{first:016x}.spl"))
}

/// What a first look at a file with a segment's name tells.
#[derive(Debug)]
pub enum Peek {
    /// A segment with a good header, and the bytes of the file.
    Ours(Header, u64),
    /// One of ours that nothing was written to.
    Empty,
    /// A segment whose header is damaged, and the bytes of the file.
    Headless(u64),
    /// A segment of a later version of the format.
    Newer(u16),
    /// Not ours: left alone.
    Foreign,
}

/// Looks at the header of a file with a segment's name, and at the rest only if that is not good.
pub fn peek(path: &Path, limit: u64) -> Result<Peek, SpoolError> {
    let Some((mut file, metadata)) = open_own(path, limit)? else { return Ok(Peek::Foreign) };
    let mut head = Vec::with_capacity(HEADER_BYTES);
    Read::by_ref(&mut file).take(length(HEADER_BYTES)).read_to_end(&mut head).map_err(io_error("reading", path))?;
    if let Ok(header) = record::decode_header(&head) {
        return Ok(Peek::Ours(header, metadata.len()));
    }
    Ok(match find(path, limit)? {
        Found::Ours(header, bytes) => Peek::Ours(header, length(bytes.len())),
        Found::Empty => Peek::Empty,
        Found::Headless(bytes) => Peek::Headless(length(bytes.len())),
        Found::Newer(version) => Peek::Newer(version),
        Found::Foreign => Peek::Foreign,
    })
}

/// Looks at a file with a segment's name, without following links or waiting for a pipe. `limit` bounds its size.
pub fn find(path: &Path, limit: u64) -> Result<Found, SpoolError> {
    let Some(bytes) = read_own(path, limit)? else { return Ok(Found::Foreign) };
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Found::Empty);
    }
    match record::decode_header(&bytes) {
        Ok(header) => Ok(Found::Ours(header, bytes)),
        Err(HeaderFault::Newer(version)) => Ok(Found::Newer(version)),
        // The creation of a segment that did not finish: it was not yet synced, so nothing in it was ever sent.
        Err(HeaderFault::Damaged) if bytes.len() < HEADER_BYTES => Ok(Found::Empty),
        Err(HeaderFault::Damaged) => Ok(Found::Headless(bytes)),
    }
}

/// The content of a regular file with one link, if there is one at `path` and it holds at most `limit` bytes.
pub fn read_own(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, SpoolError> {
    let Some((mut file, _)) = open_own(path, limit)? else { return Ok(None) };
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(limit).read_to_end(&mut bytes).map_err(io_error("reading", path))?;
    Ok(Some(bytes))
}

fn open_own(path: &Path, limit: u64) -> Result<Option<(File, Metadata)>, SpoolError> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // A link (O_NOFOLLOW) or a socket: nothing of ours.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::ENXIO)) => return Ok(None),
        Err(error) => return Err(io_error("opening", path)(error)),
    };
    let metadata = file.metadata().map_err(io_error("examining", path))?;
    if !is_own(&metadata) || metadata.len() > limit {
        return Ok(None);
    }
    Ok(Some((file, metadata)))
}

fn is_own(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() == 1
}

/// Makes what happened to names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    let opened = File::open(folder).map_err(io_error("opening", folder))?;
    opened.sync_all().map_err(sync_error("fsync of", folder))
}

/// A segment that is open for appending or reading.
#[derive(Debug)]
pub struct Segment {
    file: File,
    path: PathBuf,
    /// Bytes in use.
    size: u64,
}

impl Segment {
    /// Creates a segment with a first content. Durable on return. Fails if the name is taken.
    pub fn create(folder: &Path, first: u64, content: &[u8]) -> Result<Self, SpoolError> {
        let path = path(folder, first);
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags.bits());
        let file = options.open(&path).map_err(io_error("creating", &path))?;
        let mut segment = Self { file, path, size: 0 };
        if let Err(error) = segment.append(content) {
            let _ = std::fs::remove_file(&segment.path);
            return Err(error);
        }
        sync_folder(folder)?;
        Ok(segment)
    }

    /// Opens a segment of which `size` bytes are good, and cuts the rest off if it is `writable`.
    pub fn open(path: PathBuf, size: u64, writable: bool) -> Result<Self, SpoolError> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).write(writable).custom_flags(flags.bits()).open(&path);
        let file = opened.map_err(io_error("opening", &path))?;
        let metadata = file.metadata().map_err(io_error("examining", &path))?;
        if !is_own(&metadata) {
            return Err(SpoolError::Damaged { path, why: "it is no regular file with one link any more" });
        }
        if writable && metadata.len() > size {
            file.set_len(size).map_err(io_error("cutting", &path))?;
            file.sync_all().map_err(sync_error("fsync of", &path))?;
        }
        Ok(Self { file, path, size })
    }

    /// Appends bytes. Durable on return; on [`SpoolError::NoSpace`] nothing was appended.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if let Err(error) = self.file.write_all_at(bytes, self.size) {
            self.file.set_len(self.size).map_err(io_error("cutting", &self.path))?;
            return Err(match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SpoolError::NoSpace { path: self.path.clone() },
                _ => io_error("writing", &self.path)(error),
            });
        }
        // Never tried twice: after a failure the kernel may have dropped the pages and a second call would lie.
        self.file.sync_data().map_err(sync_error("fdatasync of", &self.path))?;
        self.size += length(bytes.len());
        Ok(())
    }

    /// Bytes in use.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of the frame at `offset`, or of all that is left if that is no good frame.
    pub fn frame_at(&self, offset: u64) -> Result<Vec<u8>, SpoolError> {
        let mut head = [0; 4];
        let left = self.size.saturating_sub(offset);
        let mut wanted = left;
        if left >= length(FRAME_BYTES) {
            self.file.read_exact_at(&mut head, offset).map_err(io_error("reading", &self.path))?;
            wanted = record::frame_bytes(head).map_or(left, |bytes| left.min(length(bytes)));
        }
        let mut bytes = vec![0; usize::try_from(wanted.min(length(MAX_PAYLOAD_BYTES + FRAME_BYTES))).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset).map_err(io_error("reading", &self.path))?;
        Ok(bytes)
    }
}

/// What the batch frame `place` covers.
pub fn extent(bytes: &[u8], place: &Place) -> Option<Extent> {
    payload(bytes, place).and_then(record::decode_batch).map(|parts| parts.extent)
}

/// The payload of a frame found by [`scan`].
pub fn payload<'a>(bytes: &'a [u8], place: &Place) -> Option<&'a [u8]> {
    let start = usize::try_from(place.offset).ok()?;
    record::decode_frame(bytes.get(start..)?).ok().map(|frame| frame.payload)
}

/// A length in memory as one in a file.
pub fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_segments() {
        assert_eq!(sequence_of("seg-00000000000000ff.spl"), Some(255));
        for name in ["seg-zz.spl", "seg-00000000000000FF.spl", "seg-ff.spl", "core", "seg-00000000000000ff.spl.tmp"] {
            assert_eq!(sequence_of(name), None);
        }
    }

    #[test]
    fn a_link_a_folder_and_a_pipe_are_not_opened_as_segments() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, b"text").expect("written");
        assert!(read_own(&file, 64).expect("readable").is_some());
        assert!(read_own(&file, 3).expect("readable").is_none());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert!(read_own(&link, 64).expect("skipped").is_none());
        assert!(read_own(folder.path(), 64).expect("skipped").is_none());
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert!(read_own(&pipe, 64).expect("skipped").is_none());
        std::fs::hard_link(&file, folder.path().join("second")).expect("linked");
        assert!(read_own(&file, 64).expect("skipped").is_none());
    }
}
