//! The file of losses: a loss is on the disk before what is lost goes, also when the disk is full.
//!
//! `loss.bin` is made whole with the folder and only overwritten, so that writing it needs no space. Its two slots are
//! written in turn: a write that did not finish leaves the other. It is no second truth about data. It only adds to what
//! the segments say: of two counts the higher one holds, and a gap is known if either knows it.

use super::error::{SpoolError, io_error, sync_error};
use super::record::{LOSS_SLOT_BYTES, LossSlot, Losses, decode_loss_slot, encode_loss_slot};
use super::segment::{length, read_own, sync_folder};
use joulebook_units::StreamId;
use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of the file.
pub const NAME: &str = "loss.bin";
const FILE_BYTES: usize = 2 * LOSS_SLOT_BYTES;

/// The file of losses of one folder, open for writing.
#[derive(Debug)]
pub struct LossFile {
    file: File,
    path: PathBuf,
    /// The turn of the newer slot, and which of the two that is.
    turn: u64,
    newer: usize,
}

/// What a file of losses said when it was opened.
#[derive(Debug, Default)]
pub struct Told {
    /// Its newer good slot, if it is of the stream.
    pub slot: Option<LossSlot>,
    /// Whether it holds something and none of it can be read.
    pub damaged: bool,
}

/// Reads the file of losses of a folder without changing it.
pub fn read(folder: &Path, stream: StreamId) -> Result<(Told, u64, usize), SpoolError> {
    let Some(bytes) = read_own(&folder.join(NAME), length(FILE_BYTES))? else { return Ok((Told::default(), 0, 1)) };
    let slots = bytes.chunks(LOSS_SLOT_BYTES).enumerate();
    let good = slots.filter_map(|(index, slot)| Some((index, decode_loss_slot(slot)?)));
    match good.max_by_key(|(_, slot)| slot.turn) {
        Some((newer, slot)) => {
            let turn = slot.turn;
            Ok((Told { slot: Some(slot).filter(|slot| slot.stream == stream), damaged: false }, turn, newer))
        }
        None => Ok((Told { slot: None, damaged: bytes.iter().any(|byte| *byte != 0) }, 0, 1)),
    }
}

impl LossFile {
    /// Opens the file of losses of a folder and makes it whole, if it is not. Durable on return.
    ///
    /// # Errors
    /// [`SpoolError::NoSpace`] if it has to be made and there is no space; what it says is told by [`read`] all the same.
    pub fn open(folder: &Path, stream: StreamId) -> Result<Self, SpoolError> {
        let (_, turn, newer) = read(folder, stream)?;
        let path = folder.join(NAME);
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits());
        let file = options.open(&path).map_err(io_error("opening", &path))?;
        let metadata = file.metadata().map_err(io_error("examining", &path))?;
        if !metadata.is_file() {
            return Err(SpoolError::Damaged { path, why: "it is no regular file: move it away" });
        }
        let held = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        if held < FILE_BYTES {
            // Written, not only made longer: a hole would need space later.
            let zeros = vec![0; FILE_BYTES - held];
            file.write_all_at(&zeros, metadata.len()).map_err(io_error("writing", &path))?;
            file.sync_all().map_err(sync_error("fsync of", &path))?;
            sync_folder(folder)?;
        }
        Ok(Self { file, path, turn, newer })
    }

    /// Writes what is lost in place of the older slot. Durable on return; false if it has too many gaps for a slot.
    pub fn write(&mut self, slot: LossSlot) -> Result<bool, SpoolError> {
        let slot = LossSlot { turn: self.turn + 1, ..slot };
        let Some(bytes) = encode_loss_slot(&slot) else { return Ok(false) };
        let older = 1 - self.newer;
        let at = length(older * LOSS_SLOT_BYTES);
        self.file.write_all_at(&bytes, at).map_err(io_error("writing", &self.path))?;
        self.file.sync_data().map_err(sync_error("fdatasync of", &self.path))?;
        (self.turn, self.newer) = (slot.turn, older);
        Ok(true)
    }

    /// Bytes that the file takes.
    pub fn bytes() -> u64 {
        length(FILE_BYTES)
    }

    /// Makes every later write fail, as on a broken disk.
    #[cfg(test)]
    pub fn break_it(&mut self) {
        // Tests alone break it, and the file is theirs.
        self.file = File::open(&self.path).expect("readable");
    }
}

/// What was lost in folders that are gone, and in this one, as far as a slot tells.
pub fn losses(slot: Option<&LossSlot>) -> (Losses, Losses) {
    slot.map_or_else(Default::default, |slot| (slot.lost, slot.earlier))
}
