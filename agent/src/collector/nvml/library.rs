//! The vendor's library, called through nvml-wrapper. Runs in the helper process only.
//!
//! Errors concern one call on one device. Return codes that the crate does not know arrive as `UnexpectedVariant` and
//! count as errors that may pass, so no match here is exhaustive over codes.

use super::message::{Facts, Fault, Process, Sampled, Use, by_index};
use crate::clock::{Clock, SystemClock};
use nvml_wrapper::enums::device::{DeviceArchitecture, SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use std::collections::BTreeMap;
use std::path::Path;

/// Field ids of nvml.h: mean power over a second, power now. Both are the same in every driver's numbering.
const POWER_AVERAGE: FieldId = FieldId(185);
const POWER_INSTANT: FieldId = FieldId(186);
const PPM_PER_PERCENT: u32 = 10_000;
/// The file that the driver installs.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Now on CLOCK_BOOTTIME.
pub fn now() -> u64 {
    SystemClock.boot().0
}

/// Starts the library: the named file, else the driver's.
///
/// # Errors
/// The library's, in words, with what would mend it.
pub fn start(file: Option<&Path>) -> Result<Nvml, String> {
    let file = file.unwrap_or(Path::new(LIBRARY));
    Nvml::builder().lib_path(file.as_os_str()).init().map_err(|error| {
        let hint = match error {
            NvmlError::LibloadingError(_) => "; install NVIDIA's driver, or name the file with --nvml-lib",
            NvmlError::LibRmVersionMismatch => "; the driver was upgraded: load its kernel module anew, or reboot",
            NvmlError::NoPermission => "; run as root, or give access to /dev/nvidiactl",
            _ => "",
        };
        format!("starting {} failed: {error}{hint}", file.display())
    })
}

/// Every device that can be opened, by UUID: the order of indices changes when one is lost. `begin` is told each name
/// before the first call on the device, and says whether to make it.
///
/// # Errors
/// Of the count of devices; a device that cannot be opened is left out.
pub fn devices(
    nvml: &Nvml,
    mut begin: impl FnMut(String) -> bool,
) -> Result<BTreeMap<String, (u32, Device<'_>)>, NvmlError> {
    let mut found = BTreeMap::new();
    for index in 0..nvml.device_count()? {
        if !begin(by_index(index)) {
            continue;
        }
        let opened = nvml.device_by_index(index).and_then(|device| Ok((device.uuid()?, device)));
        if let Ok((uuid, device)) = opened {
            found.insert(uuid, (index, device));
        }
    }
    Ok(found)
}

/// What does not change of a device.
pub fn facts(nvml: &Nvml, uuid: &str, index: u32, device: &Device<'_>) -> Facts {
    let model = device.name().unwrap_or_else(|_| "NVIDIA device".to_owned());
    Facts {
        uuid: uuid.to_owned(),
        index,
        minor: device.minor_number().ok(),
        bus: device.pci_info().ok().map(|pci| pci.bus_id),
        // The limit in force may be raised later, the highest one not.
        limit_milliwatts: device
            .power_management_limit_constraints()
            .map(|limits| limits.max_limit)
            .or_else(|_| device.enforced_power_limit())
            .ok(),
        memory_bytes: device.memory_info().ok().map(|memory| memory.total),
        divided: device.mig_mode().is_ok_and(|mode| mode.current != 0),
        counts: counts(device),
        module: joulebook_nvml_module::power(nvml, device).is_some(),
        power_usage: power_usage(device, &model),
        model,
    }
}

/// Whether a device has an energy counter: an error that may pass says nothing against it.
pub fn counts(device: &Device<'_>) -> bool {
    !matches!(energy(device), Err(Fault::NotSupported))
}

/// What the plain power call tells: GA100 and everything before Ampere the power now, later parts a mean over 1 s.
fn power_usage(device: &Device<'_>, model: &str) -> Sampled {
    // Parts with the GA100 chip.
    let ga100 = ["A100", "A800", "A30"].iter().any(|part| model.split(['-', ' ']).any(|word| word == *part));
    match device.architecture() {
        Ok(
            DeviceArchitecture::Kepler
            | DeviceArchitecture::Maxwell
            | DeviceArchitecture::Pascal
            | DeviceArchitecture::Volta
            | DeviceArchitecture::Turing,
        ) => Sampled::Instant,
        Ok(DeviceArchitecture::Ampere) if ga100 => Sampled::Instant,
        _ => Sampled::Average,
    }
}

/// A value of the energy counter.
#[derive(Debug, Clone, Copy)]
pub struct Energy {
    /// In mJ.
    pub millijoules: u64,
    /// Before the call.
    pub before: u64,
    /// After the call.
    pub after: u64,
}

impl Energy {
    /// The middle of the call.
    pub fn at(self) -> u64 {
        midpoint(self.before, self.after)
    }
}

/// Reads the energy counter.
pub fn energy(device: &Device<'_>) -> Result<Energy, Fault> {
    let before = now();
    let millijoules = device.total_energy_consumption().map_err(fault)?;
    Ok(Energy { millijoules, before, after: now() })
}

/// Power in mW: a mean over the last second where the device has one, else the power now, else what the plain call
/// tells.
pub fn power(device: &Device<'_>, power_usage: Sampled) -> Result<(u32, Sampled, u64), Fault> {
    let before = now();
    if let Ok(values) = device.field_values_for(&[POWER_AVERAGE, POWER_INSTANT]) {
        let at = midpoint(before, now());
        let value = |index: usize| {
            let sample = values.get(index)?.as_ref().ok()?;
            match sample.value.as_ref().ok()? {
                SampleValue::U32(milliwatts) => Some(*milliwatts),
                SampleValue::U64(milliwatts) => u32::try_from(*milliwatts).ok(),
                SampleValue::F64(_) | SampleValue::I64(_) => None,
            }
        };
        if let Some(milliwatts) = value(0) {
            return Ok((milliwatts, Sampled::Average, at));
        }
        if let Some(milliwatts) = value(1) {
            return Ok((milliwatts, Sampled::Instant, at));
        }
    }
    let before = now();
    let milliwatts = device.power_usage().map_err(fault)?;
    Ok((milliwatts, power_usage, midpoint(before, now())))
}

/// Power in mW of the module that the device is a part of, and when it was read.
pub fn module(nvml: &Nvml, device: &Device<'_>) -> Option<(u32, u64)> {
    let before = now();
    let milliwatts = joulebook_nvml_module::power(nvml, device)?;
    Some((milliwatts, midpoint(before, now())))
}

/// Who is on the device, and what each used of it since `since_us`, the time stamp of the newest sample seen. Gives the
/// next such time stamp too.
pub fn processes(device: &Device<'_>, since_us: u64) -> Result<(Use, u64), Fault> {
    let at = now();
    let resident = device.running_compute_processes().map_err(fault)?;
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    for process in resident.into_iter().chain(device.running_graphics_processes().unwrap_or_default()) {
        let memory_bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let process = Process { pid: process.pid, memory_bytes, busy_ppm: 0, slice_millionths: 0 };
        let one = processes.entry(process.pid).or_insert(process);
        one.memory_bytes = one.memory_bytes.max(memory_bytes);
    }
    let mut newest = since_us;
    let mut samples: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    match device.process_utilization_stats(since_us) {
        Ok(used) => {
            for sample in used.iter().filter(|sample| sample.timestamp > since_us) {
                newest = newest.max(sample.timestamp);
                let (sum, count) = samples.entry(sample.pid).or_default();
                *sum += u64::from(sample.sm_util.min(100));
                *count += 1;
            }
        }
        // Nothing ran since then, or the device cannot tell one process from another.
        Err(NvmlError::NotFound | NvmlError::NotSupported) => {}
        Err(error) => return Err(fault(error)),
    }
    for (pid, (sum, count)) in samples {
        if let (Some(process), Some(mean)) = (processes.get_mut(&pid), sum.checked_div(count)) {
            process.busy_ppm = PPM_PER_PERCENT * u32::try_from(mean).unwrap_or(100);
        }
    }
    let busy_ppm = device.utilization_rates().ok().map(|rates| PPM_PER_PERCENT * rates.gpu.min(100));
    let processes = processes.into_values().collect();
    Ok((Use { at, busy_ppm, slices: None, processes, free: Vec::new() }, newest))
}

fn midpoint(before: u64, after: u64) -> u64 {
    before + after.saturating_sub(before) / 2
}

/// What an error means for the device.
pub fn fault(error: NvmlError) -> Fault {
    match error {
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => Fault::NotSupported,
        // 28 is GPU_NOT_FOUND of newer headers.
        NvmlError::GpuLost | NvmlError::ResetRequired | NvmlError::UnexpectedVariant(28) => Fault::Lost,
        NvmlError::NoPermission => Fault::Permission,
        other => Fault::Failed(other.to_string()),
    }
}
