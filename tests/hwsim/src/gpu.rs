//! The NVML view: the state file, written under a sequence lock so that the library reads whole states only.

use crate::error::{Result, SimError, at};
use crate::profile::{Gpus, Profile};
use hwsim_nvml::state::{Gpu, MOST_INSTANCES, NO_MODULE, SEGMENTS, Segment, State};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// nvmlDeviceArchitecture_t of Ampere, of Ada and of Hopper.
const AMPERE: u32 = 7;
const ADA: u32 = 8;
const HOPPER: u32 = 9;
/// A part that is newer than what any program knows.
const NOT_YET_KNOWN: u32 = 77;

/// The state file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: File,
    sequence: u64,
}

impl StateFile {
    /// Makes `run/state.bin` below the root, of the length that the state needs.
    pub fn new(root: &Path, state: &State) -> Result<Self> {
        let path = root.join("run/state.bin");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(at(&path))?;
        let mut made = Self { path, file, sequence: 0 };
        made.write(state)?;
        Ok(made)
    }

    /// Writes the state: an odd sequence number, the body, the next even number.
    pub fn write(&mut self, state: &State) -> Result<()> {
        let bytes = state.encode(self.sequence + 2);
        let put = |bytes: &[u8], offset| self.file.write_all_at(bytes, offset).map_err(at(&self.path));
        put(&(self.sequence + 1).to_le_bytes(), 0)?;
        put(bytes.get(8..).unwrap_or_default(), 8)?;
        put(&(self.sequence + 2).to_le_bytes(), 0)?;
        self.sequence += 2;
        Ok(())
    }
}

/// NVIDIA GPUs of a profile at simulated 0; none for other vendors.
pub fn devices(profile: &Profile) -> Vec<Gpu> {
    let Some(gpus) = profile.gpus.as_ref().filter(|gpus| gpus.vendor == "nvidia") else { return Vec::new() };
    (0..gpus.count).map(|slot| device(gpus, slot)).collect()
}

fn device(gpus: &Gpus, slot: u32) -> Gpu {
    let bus = 0x19 + slot * 0x11;
    Gpu {
        uuid: format!("GPU-5157a1e0-0000-4000-8000-{slot:012x}"),
        bus_id: format!("00000000:{bus:02X}:00.0"),
        name: gpus.model.clone(),
        present: true,
        mig_capable: gpus.mig_capable,
        // The driver numbers its files in an order of its own, not in that of the bus.
        minor: gpus.count - 1 - slot,
        limit_mw: gpus.limit_w * 1_000,
        latency_us: 0,
        hang: false,
        energy_step_ms: gpus.energy_counter_ms.unwrap_or(100),
        instant_window_ms: gpus.power_instant_window_ms.unwrap_or(25),
        instant_period_ms: gpus.power_instant_period_ms.unwrap_or(100),
        average_ms: gpus.power_average_ms.unwrap_or(1_000),
        frozen: false,
        architecture: match &gpus.model {
            model if model.contains("L40") => ADA,
            model if model.contains("A100") => AMPERE,
            model if model.contains("R200") => NOT_YET_KNOWN,
            _ => HOPPER,
        },
        codes: [0; 8],
        epoch_pj: 0,
        frozen_pj: 0,
        module_mw: NO_MODULE,
        processes: Vec::new(),
        memory_mib: if gpus.model.contains("L40") { 48 << 10 } else { 80 << 10 },
        slices: [0; MOST_INSTANCES],
        crash: false,
        segments: [Segment::default(); SEGMENTS],
    }
}

/// The copy step: puts the fake library where programs look for it, `DIR/lib/libnvidia-ml.so.1`.
///
/// # Errors
/// If the library was not built, which names what to build.
pub fn install(library: &Path, root: &Path) -> Result<PathBuf> {
    let folder = root.join("lib");
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let target = folder.join("libnvidia-ml.so.1");
    if !library.is_file() {
        let why = format!("{} is not there; build the package joulebook-hwsim-nvml", library.display());
        return Err(SimError::Request(why));
    }
    fs::copy(library, &target).map_err(at(&target))?;
    Ok(target)
}

/// Where cargo leaves the library: beside the running program, or in its `deps`.
pub fn built_library() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let places = [folder.to_path_buf(), folder.join("deps")];
    places.into_iter().map(|place| place.join("libhwsim_nvml.so")).find(|path| path.is_file())
}
