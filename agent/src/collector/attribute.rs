//! Small files of sysfs: a number or a word on one line.

use crate::process::proc::open;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Most bytes read of one; a u64 has at most 20 digits.
pub(super) const BYTES: usize = 64;

/// Reads at most 64 bytes of a small text file.
pub(super) fn text(path: &Path) -> Option<String> {
    let file = open(path).ok()?;
    let mut bytes = [0u8; BYTES];
    let read = file.read_at(&mut bytes, 0).ok()?;
    String::from_utf8(bytes.get(..read)?.to_vec()).ok()
}

/// Reads a file that holds a whole number.
///
/// # Errors
/// `Ok(None)` is text that is no number; an error says that nothing could be read.
pub(super) fn number(path: &Path) -> io::Result<Option<u64>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    let mut bytes = [0u8; BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(bytes.get(..read).and_then(parse))
}

/// What is said of a pipe or a folder in place of a file.
pub(super) fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is not a regular file; name the kernel's sysfs with --sysfs-root")
}

/// A whole number in ASCII digits, with or without a newline behind it; nothing else is one. What fills the whole
/// buffer may have been cut off, and zeros at its head hide how much.
pub(super) fn parse(bytes: &[u8]) -> Option<u64> {
    if bytes.len() >= BYTES {
        return None;
    }
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
