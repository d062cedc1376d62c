//! Small files that hold one number: the acknowledged sequence (advisory) and the session epoch. They are replaced
//! whole (temporary file, fsync, rename, fsync of the folder), so that a crash leaves the old or the new one.

use super::error::{SpoolError, io_error, sync_error};
use super::record::{decode_mark, encode_mark};
use super::segment::{read_own, sync_folder};
use joulebook_units::StreamId;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads the number that `name` holds in `folder`; `None` if there is no such file or it is damaged.
pub fn read(folder: &Path, name: &str, magic: &[u8; 8]) -> Result<Option<(StreamId, u64)>, SpoolError> {
    let Some(bytes) = read_own(&folder.join(name), 64)? else { return Ok(None) };
    let mark = decode_mark(magic, &bytes);
    if mark.is_none() {
        tracing::warn!(file = name, "a small file of the spool is damaged and is made anew");
    }
    Ok(mark)
}

/// Replaces the file `name` in `folder`. Durable on return.
pub fn write(folder: &Path, name: &str, magic: &[u8; 8], stream: StreamId, value: u64) -> Result<(), SpoolError> {
    let temporary = folder.join(format!("{name}.tmp"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error("removing", &temporary)(error)),
        _ => {}
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = created.map_err(io_error("creating", &temporary))?;
    file.write_all(&encode_mark(magic, stream, value)).map_err(io_error("writing", &temporary))?;
    file.sync_all().map_err(sync_error("fsync of", &temporary))?;
    let path = folder.join(name);
    fs::rename(&temporary, &path).map_err(io_error("renaming to", &path))?;
    sync_folder(folder)
}
