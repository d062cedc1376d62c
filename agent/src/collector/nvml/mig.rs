//! A GPU that is divided into instances (MIG): who is on which instance, and for how much of the whole GPU. Runs in the
//! helper process only.
//!
//! Energy and power are the whole GPU's, so everything is told in parts of the whole: an instance's activity counts by its
//! slices, and what it reserves is its slices and its memory, used or not. What no instance holds belongs to nobody. Activity comes from
//! GPM (Hopper and later), else from a page of dcgm-exporter; where neither is, the dynamic energy goes by what is reserved.

use super::dcgm::Pages;
use super::library::{fault, now};
use super::message::{Facts, Fault, Instance, Process, Use};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::{GpmSample, gpm_metrics_get};
use nvml_wrapper::{Device, Nvml};
use std::collections::{BTreeMap, BTreeSet};

/// Compute slices of a whole GPU: seven on every part that can be divided but one.
const SLICES: u32 = 7;
const SLICES_A30: u32 = 4;
const PPM: u32 = 1_000_000;

/// Activity of the instances of one GPU: the last sample of each.
#[derive(Debug, Default)]
pub struct Activity<'nvml> {
    samples: BTreeMap<u32, GpmSample<'nvml>>,
}

impl<'nvml> Activity<'nvml> {
    /// Part of the time since the last call in which an instance was active, in millionths; `None` at the first call, and
    /// where the GPU does not tell.
    fn of(&mut self, nvml: &'nvml Nvml, device: &Device<'nvml>, instance: u32) -> Option<u32> {
        let sample = device.gpm_mig_sample(instance).ok()?;
        let before = self.samples.remove(&instance);
        let shown = before.and_then(|before| {
            let metrics = gpm_metrics_get(nvml, &before, &sample, &[GpmMetricId::GraphicsUtil]).ok()?;
            metrics.into_iter().next()?.ok()
        });
        self.samples.insert(instance, sample);
        let percent = shown.map(|metric| metric.value).filter(|percent| percent.is_finite())?;
        // Within 0 and 10⁶.
        Some((percent.clamp(0.0, 100.0) * f64::from(PPM / 100)) as u32)
    }
}

/// What an instance is of its GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Its compute slices, those of the GPU instance that it is a part of, and those of the whole GPU.
    compute: u32,
    instance: u32,
    whole: u32,
    /// Memory of the GPU instance in bytes.
    memory_bytes: u64,
}

impl Shape {
    /// Memory that it holds: compute instances of one GPU instance share its memory.
    fn reserved(self) -> u64 {
        let part = u128::from(self.memory_bytes) * u128::from(self.compute) / u128::from(self.instance.max(1));
        u64::try_from(part).unwrap_or(self.memory_bytes).min(self.memory_bytes)
    }

    /// Its compute slices in millionths of one.
    fn slices(self) -> u32 {
        self.compute.min(self.whole).saturating_mul(PPM)
    }

    /// A part of its time as part of the whole GPU's, in millionths.
    fn of_whole(self, ppm: u32) -> u32 {
        let part = u64::from(ppm) * u64::from(self.compute) / u64::from(self.whole.max(1));
        u32::try_from(part).unwrap_or(PPM).min(PPM)
    }
}

/// Who is on the instances of a divided GPU.
///
/// # Errors
/// The library's, of the GPU or of one of its instances: then it is not known who is on the GPU.
pub fn processes<'nvml>(
    nvml: &'nvml Nvml,
    device: &Device<'nvml>,
    facts: &Facts,
    activity: &mut Activity<'nvml>,
    pages: &Pages,
) -> Result<Use, Fault> {
    let at = now();
    let whole = if facts.model.split([' ', '-']).any(|word| word == "A30") { SLICES_A30 } else { SLICES };
    let (mut found, mut free, mut live) = (Vec::new(), Vec::new(), BTreeSet::new());
    for index in 0..device.mig_device_count().map_err(fault)? {
        let instance = match device.mig_device_by_index(index) {
            Ok(instance) => instance,
            // Indices have holes.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => continue,
            Err(error) => return Err(fault(error)),
        };
        let resident = instance.running_compute_processes().map_err(fault)?;
        let attributes = instance.attributes().map_err(fault)?;
        let shape = Shape {
            compute: attributes.compute_instance_slice_count,
            instance: attributes.gpu_instance_slice_count,
            whole,
            memory_bytes: attributes.memory_size_mb << 20,
        };
        if resident.is_empty() {
            // It reserves nothing for anybody, unless somebody holds it by allocation.
            let (memory_bytes, slice_millionths) = (shape.reserved(), shape.slices());
            let uuid = instance.uuid().ok();
            free.extend(uuid.map(|uuid| Instance { uuid, memory_bytes, slice_millionths }));
            continue;
        }
        let id = resident.iter().find_map(|process| process.gpu_instance_id);
        live.extend(id);
        let active = id.and_then(|id| activity.of(nvml, device, id).or_else(|| pages.of(&facts.uuid, id)));
        let busy = active.map_or(0, |ppm| shape.of_whole(ppm));
        let memory = |used: &UsedGpuMemory| match used {
            UsedGpuMemory::Used(bytes) => Some(*bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let users: Vec<_> = resident.iter().map(|process| (process.pid, memory(&process.used_gpu_memory))).collect();
        found.extend(share(&users, shape.reserved(), busy, shape.slices()));
    }
    activity.samples.retain(|instance, _| live.contains(instance));
    Ok(Use { at, busy_ppm: None, slices: Some(whole), processes: found, free })
}

/// Splits what an instance reserves and does among its processes: by their memory, or evenly where that is not told. The
/// parts add up to the whole.
fn share(users: &[(u32, Option<u64>)], reserved: u64, busy_ppm: u32, slices: u32) -> Vec<Process> {
    let known: Option<Vec<u64>> = users.iter().map(|(_, memory)| *memory).collect();
    let weights = known.filter(|weights| weights.iter().any(|weight| *weight > 0)).unwrap_or(vec![1; users.len()]);
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let up_to = |whole: u64, weight: u128| u64::try_from(u128::from(whole) * weight / sum.max(1)).unwrap_or(whole);
    let mut below = 0;
    let mut processes = Vec::with_capacity(users.len());
    for ((pid, _), weight) in users.iter().zip(weights) {
        let above = below + u128::from(weight);
        let part = |whole: u64| up_to(whole, above) - up_to(whole, below);
        processes.push(Process {
            pid: *pid,
            memory_bytes: Some(part(reserved)),
            busy_ppm: u32::try_from(part(u64::from(busy_ppm))).unwrap_or(PPM),
            slice_millionths: u32::try_from(part(u64::from(slices))).unwrap_or(slices),
        });
        below = above;
    }
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_counts_by_its_slices_and_holds_those_and_its_memory() {
        let shape = Shape { compute: 3, instance: 3, whole: 7, memory_bytes: 40 << 30 };
        assert_eq!((shape.of_whole(PPM), shape.reserved(), shape.slices()), (428_571, 40 << 30, 3 * PPM));
        let part = Shape { compute: 1, ..shape };
        assert_eq!((part.of_whole(500_000), part.reserved(), part.slices()), (71_428, (40 << 30) / 3, PPM));
        let whole = Shape { compute: 7, instance: 7, ..shape };
        assert_eq!((whole.of_whole(PPM), whole.slices()), (PPM, 7 * PPM));
    }

    #[test]
    fn processes_of_an_instance_share_it_whole() {
        let sum = |processes: &[Process]| {
            let memory: u64 = processes.iter().filter_map(|process| process.memory_bytes).sum();
            let slices: u32 = processes.iter().map(|process| process.slice_millionths).sum();
            (memory, processes.iter().map(|process| process.busy_ppm).sum::<u32>(), slices)
        };
        let by_memory = share(&[(1, Some(1)), (2, Some(2)), (3, Some(0))], 1_000, 428_571, 3 * PPM);
        assert_eq!(sum(&by_memory), (1_000, 428_571, 3 * PPM));
        let second = Process { pid: 2, memory_bytes: Some(667), busy_ppm: 285_714, slice_millionths: 2 * PPM };
        assert_eq!(by_memory[1], second);
        assert_eq!((by_memory[2].memory_bytes, by_memory[2].slice_millionths), (Some(0), 0));
        let evenly = share(&[(1, None), (2, Some(5))], 1_001, 3, PPM);
        assert_eq!(sum(&evenly), (1_001, 3, PPM));
        assert_eq!((evenly[0].memory_bytes, evenly[0].slice_millionths), (Some(500), PPM / 2));
        assert_eq!(sum(&share(&[(1, Some(0))], 9, 9, 9)), (9, 9, 9));
    }
}
