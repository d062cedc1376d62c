//! Devices that are divided into instances, and the activity of those.

use super::{
    Device, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, SUCCESS, code, current, device, instance_of,
    note_activity_counters, part, put, slot_of,
};
use crate::abi::{Attributes, GpmMetric, GpmQuestion, GpmSupport};
use crate::state::{Class, MOST_INSTANCES};
use std::ffi::{c_uint, c_void};

/// Part of time in which an instance is active, in percent.
const METRIC_GRAPHICS: c_uint = 1;
/// nvmlDeviceArchitecture_t of the first part that tells it.
const HOPPER: u32 = 9;
/// Memory slices of a device.
const MEMORY_SLICES: u64 = 8;

/// Whether the device is divided; NOT_SUPPORTED where it cannot be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(handle: Device, mode: *mut c_uint, pending: *mut c_uint) -> c_uint {
    code(device(handle, Class::Other).and_then(|(state, slot)| {
        if !state.gpus[slot].mig_capable {
            return Err(NOT_SUPPORTED);
        }
        let divided = c_uint::from(state.gpus[slot].is_divided());
        // SAFETY: the caller's pointers.
        unsafe { put(mode, divided).and_then(|()| put(pending, divided)) }
    }))
}

/// An instance of a divided device; NOT_FOUND where an index has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    handle: Device,
    index: c_uint,
    place: *mut Device,
) -> c_uint {
    code(device(handle, Class::Other).and_then(|(state, slot)| {
        let index = index as usize;
        if index >= MOST_INSTANCES {
            return Err(INVALID_ARGUMENT);
        }
        state.gpus[slot].instance(index).ok_or(NOT_FOUND)?;
        // SAFETY: the caller's pointer.
        unsafe { put(place, ((index + 1) << 16 | (slot + 1)) as Device) }
    }))
}

/// What an instance has of its device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(handle: Device, place: *mut Attributes) -> c_uint {
    code(part(handle, Class::Other).and_then(|(state, slot)| {
        let gpu = &state.gpus[slot];
        let slices = gpu.instance(instance_of(handle).ok_or(NOT_SUPPORTED)?).ok_or(INVALID_ARGUMENT)?;
        // As the profiles 1g.10gb, 2g.20gb, 3g.40gb, 4g.40gb and 7g.80gb have it.
        let of_memory = if slices < 3 { u64::from(slices) } else { u64::from(slices).next_power_of_two() };
        let attributes = Attributes {
            gpu_instance_slices: slices.into(),
            compute_instance_slices: slices.into(),
            memory_mib: u64::from(gpu.memory_mib) * of_memory / MEMORY_SLICES,
            ..Attributes::default()
        };
        // SAFETY: the caller's pointer.
        unsafe { put(place, attributes) }
    }))
}

/// Whether the device tells activity: Hopper and later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmQueryDeviceSupport(handle: Device, place: *mut GpmSupport) -> c_uint {
    code(device(handle, Class::Other).and_then(|(state, slot)| {
        let supported = c_uint::from(state.gpus[slot].architecture >= HOPPER);
        // SAFETY: the caller's pointer.
        unsafe { put(place, GpmSupport { version: 1, supported }) }
    }))
}

/// A sample of activity: the handle of the instance that it is of.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleAlloc(place: *mut *mut c_void) -> c_uint {
    let sample: *mut usize = Box::into_raw(Box::new(0));
    // SAFETY: the caller's pointer.
    code(unsafe { put(place, sample.cast()) })
}

/// Frees a sample.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleFree(sample: *mut c_void) -> c_uint {
    if sample.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: made by nvmlGpmSampleAlloc, and not freed before.
    drop(unsafe { Box::from_raw(sample.cast::<usize>()) });
    SUCCESS
}

/// Takes a sample of an instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMigSampleGet(handle: Device, instance: c_uint, sample: *mut c_void) -> c_uint {
    note_activity_counters();
    code(device(handle, Class::Other).and_then(|(state, slot)| {
        let gpu = &state.gpus[slot];
        if gpu.architecture < HOPPER {
            return Err(NOT_SUPPORTED);
        }
        let index = (instance as usize).checked_sub(1).filter(|index| gpu.instance(*index).is_some());
        let index = index.ok_or(INVALID_ARGUMENT)?;
        // SAFETY: made by nvmlGpmSampleAlloc.
        unsafe { put(sample.cast::<usize>(), (index + 1) << 16 | (slot + 1)) }
    }))
}

/// Takes a sample of a whole device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmSampleGet(handle: Device, sample: *mut c_void) -> c_uint {
    note_activity_counters();
    code(device(handle, Class::Other).and_then(|(state, slot)| {
        if state.gpus[slot].architecture < HOPPER {
            return Err(NOT_SUPPORTED);
        }
        // SAFETY: made by nvmlGpmSampleAlloc.
        unsafe { put(sample.cast::<usize>(), slot + 1) }
    }))
}

/// What two samples tell of the time between them. The simulated activity is that of now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlGpmMetricsGet(question: *mut GpmQuestion) -> c_uint {
    if question.is_null() {
        return INVALID_ARGUMENT;
    }
    code(current().and_then(|state| {
        // SAFETY: the caller's structure: both samples are those of nvmlGpmSampleAlloc, and `count` metrics follow. The
        // list is reached through the caller's pointer, since it is longer than this declaration says.
        unsafe {
            let (first, second) = ((*question).first.cast::<usize>(), (*question).second.cast::<usize>());
            if first.is_null() || second.is_null() || *first != *second {
                return Err(INVALID_ARGUMENT);
            }
            let handle = *second as Device;
            let (slot, index) = (slot_of(handle)?, instance_of(handle).ok_or(INVALID_ARGUMENT)?);
            let gpu = state.gpus.get(slot).ok_or(INVALID_ARGUMENT)?;
            let metrics = (&raw mut (*question).metrics).cast::<GpmMetric>();
            for at in 0..(*question).count as usize {
                let metric = metrics.add(at);
                (*metric).code = if (*metric).id == METRIC_GRAPHICS { SUCCESS } else { NOT_SUPPORTED };
                (*metric).value = f64::from(gpu.activity(index)) / 10.0;
            }
        }
        Ok(())
    }))
}
