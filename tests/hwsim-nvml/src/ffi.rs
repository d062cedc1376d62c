//! The C interface of the library, as `nvml.h` declares it: the functions that nvml-wrapper and nvidia-ml-py call.
//!
//! Unsafe code is needed here and only here: exported symbols, pointers that the caller owns, the mapping of the state
//! file, and asking the loader where this library lies. Every function takes pointers as the vendor's does; a null
//! pointer gives INVALID_ARGUMENT, anything else is trusted as in C.
//!
//! The state file is `$HWSIM_STATE`, or `../run/state.bin` beside the folder that holds this library.

#![allow(unsafe_code, reason = "a C interface: exported symbols and callers' pointers; see above")]
#![allow(non_snake_case, reason = "the names are the vendor's")]
#![allow(clippy::missing_safety_doc, reason = "the contract is nvml.h's: valid pointers, lengths as given")]

use crate::abi::{FieldValue, Memory, PciInfo, ProcessInfo, ProcessSample, Utilization};
use crate::state::{ACTIVITY_COUNTERS, Class, GPU_BYTES, Gpu, HEADER_BYTES, MOST_GPUS, NO_MODULE, State};
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const SUCCESS: c_uint = 0;
const UNINITIALIZED: c_uint = 1;
const INVALID_ARGUMENT: c_uint = 2;
const NOT_SUPPORTED: c_uint = 3;
const NOT_FOUND: c_uint = 6;
const INSUFFICIENT_SIZE: c_uint = 7;
const DRIVER_NOT_LOADED: c_uint = 9;
const GPU_IS_LOST: c_uint = 15;
const UNKNOWN: c_uint = 999;
/// Not a return code: the call kills its process.
const CRASH: c_uint = u32::MAX;
/// Field ids: energy in mJ, power average, power instantaneous, and the older name of the average.
const FIELD_ENERGY: c_uint = 83;
const FIELD_AVERAGE: c_uint = 185;
const FIELD_INSTANT: c_uint = 186;
const FIELD_PROCESS_AVERAGE: c_uint = 191;
const SCOPE_MODULE: c_uint = 1;
const TYPE_UNSIGNED: c_uint = 1;
const TYPE_UNSIGNED_LONG_LONG: c_uint = 3;

mod mig;

/// A device: slot in the state file plus one; an instance of it has its own index plus one in the bits from 16 on.
type Device = *mut c_void;

/// The mapped file; as an address, since pointers are not Send. Never unmapped: another thread may be reading.
static MAPPING: Mutex<Option<(usize, usize)>> = Mutex::new(None);
static USERS: AtomicU32 = AtomicU32::new(0);

fn state_path() -> PathBuf {
    if let Some(path) = std::env::var_os("HWSIM_STATE") {
        return PathBuf::from(path);
    }
    // SAFETY: dladdr fills the structure for an address inside this library; a zeroed one is valid.
    let name = unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(state_path as *const c_void, &raw mut found) == 0 || found.dli_fname.is_null() {
            return PathBuf::new();
        }
        CStr::from_ptr(found.dli_fname).to_bytes().to_vec()
    };
    let library = Path::new(OsStr::from_bytes(&name));
    library.parent().and_then(Path::parent).map(|root| root.join("run/state.bin")).unwrap_or_default()
}

fn map() -> Option<(usize, usize)> {
    let file = File::open(state_path()).ok()?;
    let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
    if !(HEADER_BYTES..=HEADER_BYTES + GPU_BYTES * MOST_GPUS).contains(&length) {
        return None;
    }
    // SAFETY: a fresh shared read-only mapping of a file that the simulator never shortens.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    (address != libc::MAP_FAILED).then_some((address as usize, length))
}

/// One consistent copy of the state.
fn load() -> Option<State> {
    let mapping = *MAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    let (address, length) = mapping?;
    let sequence = address as *const AtomicU64;
    for _ in 0..10_000 {
        // SAFETY: page aligned, mapped for the life of the process, longer than a header.
        let before = unsafe { (*sequence).load(Ordering::Acquire) };
        if before % 2 == 0 {
            // SAFETY: inside the mapping; words are read volatile because another process writes them.
            let bytes: Vec<u8> = (0..length / 8)
                .flat_map(|word| unsafe { (address as *const u64).add(word).read_volatile() }.to_ne_bytes())
                .collect();
            fence(Ordering::Acquire);
            // SAFETY: as above.
            let after = unsafe { (*sequence).load(Ordering::Acquire) };
            if before == after {
                return State::decode(&bytes).map(|(_, state)| state);
            }
        }
        std::thread::yield_now();
    }
    None
}

fn now(state: &State) -> u64 {
    if state.manual {
        return state.now_ns;
    }
    let nanos = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()));
    u64::try_from(nanos).unwrap_or(0).saturating_sub(state.t0_ns)
}

fn current() -> Result<State, c_uint> {
    if USERS.load(Ordering::SeqCst) == 0 {
        return Err(UNINITIALIZED);
    }
    load().ok_or(UNKNOWN)
}

/// Kills the calling process as a bad pointer would. A runtime may take the first signal for its own.
fn crash() -> ! {
    loop {
        // SAFETY: sends the calling process a signal, which the fault asks for.
        unsafe { libc::raise(libc::SIGSEGV) };
    }
}

fn slot_of(device: Device) -> Result<usize, c_uint> {
    (device as usize & 0xffff).checked_sub(1).ok_or(INVALID_ARGUMENT)
}

/// Index of the instance that a handle means; `None` for a whole device.
fn instance_of(device: Device) -> Option<usize> {
    (device as usize >> 16).checked_sub(1)
}

/// The same as [`part`] for a call that no instance answers.
fn device(handle: Device, class: Class) -> Result<(State, usize), c_uint> {
    if instance_of(handle).is_some() { Err(NOT_SUPPORTED) } else { part(handle, class) }
}

/// The state and the slot of a device or of an instance, after its latency, its hang and its overridden code.
fn part(device: Device, class: Class) -> Result<(State, usize), c_uint> {
    let slot = slot_of(device)?;
    let mut state = current()?;
    let gpu = |state: &State| state.gpus.get(slot).cloned().ok_or(INVALID_ARGUMENT);
    let mut found: Gpu = gpu(&state)?;
    if found.latency_us > 0 {
        std::thread::sleep(Duration::from_micros(u64::from(found.latency_us)));
    }
    while found.hang {
        std::thread::sleep(Duration::from_millis(20));
        state = current()?;
        found = gpu(&state)?;
    }
    if found.crash {
        crash();
    }
    match found.code(class) {
        SUCCESS if !found.present => Err(GPU_IS_LOST),
        SUCCESS => Ok((state, slot)),
        code => Err(code),
    }
}

/// Stores a value at a caller's pointer.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), c_uint> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller vouches for a non-null pointer to a T.
    unsafe { place.write(value) };
    Ok(())
}

/// Stores a text with its end at a caller's buffer.
unsafe fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), c_uint> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the buffer holds `length` bytes, and text and end are no longer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

fn code(result: Result<(), c_uint>) -> c_uint {
    result.err().unwrap_or(SUCCESS)
}

/// Starts the library.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> c_uint {
    let fresh = map();
    let mut mapping = MAPPING.lock().unwrap_or_else(PoisonError::into_inner);
    if mapping.is_none() {
        *mapping = fresh;
    }
    drop(mapping);
    let Some(state) = load() else { return DRIVER_NOT_LOADED };
    let Some(first) = state.gpus.first() else {
        USERS.fetch_add(1, Ordering::SeqCst);
        return SUCCESS;
    };
    if first.code(Class::Init) == CRASH {
        crash();
    }
    match first.code(Class::Init) {
        SUCCESS => {
            USERS.fetch_add(1, Ordering::SeqCst);
            SUCCESS
        }
        code => code,
    }
}

/// Starts the library.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_uint {
    nvmlInitWithFlags(0)
}

/// Ends one use of the library.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_uint {
    match USERS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |users| users.checked_sub(1)) {
        Ok(_) => SUCCESS,
        Err(_) => UNINITIALIZED,
    }
}

/// What a return code means.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    let text = match result {
        SUCCESS => c"The operation was successful",
        UNINITIALIZED => c"NVML was not first initialized with nvmlInit()",
        INVALID_ARGUMENT => c"A supplied argument is invalid",
        NOT_SUPPORTED => c"The requested operation is not available on target device",
        NOT_FOUND => c"A query to find an object was unsuccessful",
        INSUFFICIENT_SIZE => c"An input argument is not large enough",
        DRIVER_NOT_LOADED => c"NVIDIA driver is not loaded",
        10 => c"User provided timeout passed",
        GPU_IS_LOST => c"The GPU has fallen off the bus or has otherwise become inaccessible",
        18 => c"RM detects a driver/library version mismatch",
        _ => c"An internal driver error occurred",
    };
    text.as_ptr()
}

/// Version of the driver.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(place: *mut c_char, length: c_uint) -> c_uint {
    // SAFETY: the caller's buffer.
    code(current().and_then(|state| unsafe { put_text(place, length, &state.driver) }))
}

/// Number of devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_uint {
    code(current().and_then(|state| {
        match state.gpus.first().map_or(SUCCESS, |gpu| gpu.code(Class::Count)) {
            // SAFETY: the caller's pointer.
            SUCCESS => unsafe { put(count, state.order().len() as c_uint) },
            code => Err(code),
        }
    }))
}

unsafe fn give_handle(slot: usize, place: *mut Device) -> Result<(), c_uint> {
    let handle = (slot + 1) as Device;
    device(handle, Class::Handle)?;
    // SAFETY: the caller's pointer.
    unsafe { put(place, handle) }
}

/// Device by its index among those that are there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, place: *mut Device) -> c_uint {
    let slot = current().and_then(|state| state.order().get(index as usize).copied().ok_or(INVALID_ARGUMENT));
    // SAFETY: the caller's pointer.
    code(slot.and_then(|slot| unsafe { give_handle(slot, place) }))
}

/// Device by its UUID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, place: *mut Device) -> c_uint {
    if uuid.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: a C string of the caller.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
    let slot =
        current().and_then(|state| state.gpus.iter().position(|gpu| gpu.present && gpu.uuid == uuid).ok_or(NOT_FOUND));
    // SAFETY: the caller's pointer.
    code(slot.and_then(|slot| unsafe { give_handle(slot, place) }))
}

/// A function that stores one value of a device.
macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $class:expr, $type:ty, |$state:ident, $gpu:ident, $slot:ident| $value:expr) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(handle: Device, place: *mut $type) -> c_uint {
            code(device(handle, $class).and_then(|($state, $slot)| {
                let $gpu = &$state.gpus[$slot];
                let value: Result<$type, c_uint> = $value;
                // SAFETY: the caller's pointer.
                value.and_then(|value| unsafe { put(place, value) })
            }))
        }
    };
}

getter!(
    /// Energy since the driver was loaded in mJ.
    nvmlDeviceGetTotalEnergyConsumption, Class::Energy, c_ulonglong,
    |state, gpu, slot| gpu.counter_mj(now(&state)).ok_or(NOT_SUPPORTED));
getter!(
    /// Average power in mW.
    nvmlDeviceGetPowerUsage, Class::Power, c_uint, |state, gpu, slot| Ok(gpu.average_mw(now(&state))));
getter!(
    /// Power limit in mW.
    nvmlDeviceGetEnforcedPowerLimit, Class::Other, c_uint, |state, gpu, slot| Ok(gpu.limit_mw));
getter!(
    /// Index among the devices that are there.
    nvmlDeviceGetIndex, Class::Other, c_uint,
    |state, _gpu, slot| state.order().iter().position(|other| *other == slot).map(|index| index as c_uint).ok_or(NOT_FOUND));
getter!(
    /// Number of the device file.
    nvmlDeviceGetMinorNumber, Class::Other, c_uint, |state, gpu, slot| Ok(gpu.minor));
getter!(
    /// Architecture.
    nvmlDeviceGetArchitecture, Class::Other, c_uint, |state, gpu, slot| Ok(gpu.architecture));
getter!(
    /// Brand: NVIDIA.
    nvmlDeviceGetBrand, Class::Other, c_int, |state, _gpu, slot| Ok(14));
getter!(
    /// Most MIG devices.
    nvmlDeviceGetMaxMigDeviceCount, Class::Other, c_uint,
    |state, gpu, slot| Ok(if gpu.mig_capable { 7 } else { 0 }));
getter!(
/// Use over the last second in percent.
nvmlDeviceGetUtilizationRates, Class::Other, Utilization,
|state, gpu, slot| match gpu.is_divided() {
    true => Err(NOT_SUPPORTED),
    false => Ok(Utilization { gpu: gpu.processes.iter().map(|process| process.sm_permille / 10).sum::<u32>().min(100), memory: 0 }),
});
getter!(
/// Memory.
nvmlDeviceGetMemoryInfo_v2, Class::Other, Memory, |state, gpu, slot| {
    let total = u64::from(gpu.memory_mib) << 20;
    let used = gpu.processes.iter().map(|process| u64::from(process.memory_mib) << 20).sum::<u64>().min(total);
    Ok(Memory { version: 0x0200_0028, total, reserved: 0, free: total - used, used })
});
getter!(
    /// Address on the bus.
    nvmlDeviceGetPciInfo_v3, Class::Other, PciInfo, |state, gpu, slot| Ok(pci(gpu)));

fn pci(gpu: &Gpu) -> PciInfo {
    let mut parts = gpu.bus_id.split([':', '.']).map(|part| c_uint::from_str_radix(part, 16).unwrap_or(0));
    let (domain, bus) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let slot = parts.next().unwrap_or(0);
    let text = |width: usize, text: &str| -> Vec<u8> {
        text.bytes().take(width - 1).chain(std::iter::repeat(0)).take(width).collect()
    };
    let legacy = gpu.bus_id.get(4..).unwrap_or_default();
    PciInfo {
        legacy: text(16, legacy).try_into().unwrap_or([0; 16]),
        domain,
        bus,
        device: slot,
        device_id: 0x2330_10de,
        subsystem_id: 0,
        bus_id: text(32, &gpu.bus_id).try_into().unwrap_or([0; 32]),
    }
}

unsafe fn give_text(handle: Device, place: *mut c_char, length: c_uint, pick: fn(&Gpu) -> &str) -> c_uint {
    // SAFETY: the caller's buffer.
    code(
        device(handle, Class::Other)
            .and_then(|(state, slot)| unsafe { put_text(place, length, pick(&state.gpus[slot])) }),
    )
}

/// UUID; that of an instance has its index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(handle: Device, place: *mut c_char, length: c_uint) -> c_uint {
    if let Some(index) = instance_of(handle) {
        return code(part(handle, Class::Other).and_then(|(state, slot)| {
            let whole = state.gpus[slot].uuid.trim_start_matches("GPU-");
            // SAFETY: the caller's buffer.
            unsafe { put_text(place, length, &format!("MIG-{index}-{whole}")) }
        }));
    }
    // SAFETY: the caller's buffer.
    unsafe { give_text(handle, place, length, |gpu| &gpu.uuid) }
}

/// Name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(handle: Device, place: *mut c_char, length: c_uint) -> c_uint {
    // SAFETY: the caller's buffer.
    unsafe { give_text(handle, place, length, |gpu| &gpu.name) }
}

/// Notes beside the state that counters of activity were read: on a real device they keep it from its lowest power. Fields
/// that are no energy and no power are taken for such counters.
fn note_activity_counters() {
    let _ = std::fs::write(state_path().with_file_name(ACTIVITY_COUNTERS), b"");
}

fn field(gpu: &Gpu, asked: &mut FieldValue, at: u64) -> Result<(), c_uint> {
    if ![FIELD_ENERGY, FIELD_AVERAGE, FIELD_INSTANT, FIELD_PROCESS_AVERAGE].contains(&asked.field) {
        note_activity_counters();
    }
    let class = if asked.field == FIELD_ENERGY { Class::Energy } else { Class::Power };
    if gpu.code(class) != SUCCESS {
        return Err(gpu.code(class));
    }
    let power = |milliwatts: u32| (TYPE_UNSIGNED, u64::from(milliwatts));
    let module = asked.scope == SCOPE_MODULE;
    let (value_type, value) = match asked.field {
        FIELD_ENERGY if !module => (TYPE_UNSIGNED_LONG_LONG, gpu.counter_mj(at).ok_or(NOT_SUPPORTED)?),
        FIELD_AVERAGE | FIELD_INSTANT if module && gpu.module_mw != NO_MODULE => power(gpu.module_mw),
        FIELD_AVERAGE | FIELD_PROCESS_AVERAGE if !module => power(gpu.average_mw(at)),
        FIELD_INSTANT if !module => power(gpu.instant_mw(at)),
        _ => return Err(NOT_SUPPORTED),
    };
    asked.value_type = value_type;
    asked.value = value;
    asked.timestamp_us = i64::try_from(at / 1_000).unwrap_or(0);
    asked.latency_us = 0;
    Ok(())
}

/// Values by field id: 83 energy, 185 average power, 186 instantaneous power, 191.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(handle: Device, count: c_int, values: *mut FieldValue) -> c_uint {
    code(device(handle, Class::Field).and_then(|(state, slot)| {
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller's array of that length.
        let values = unsafe { std::slice::from_raw_parts_mut(values, count) };
        for value in values {
            value.code = code(field(&state.gpus[slot], value, now(&state)));
        }
        Ok(())
    }))
}

/// Stores a list as these calls do: the number, and the entries where the caller's array is long enough.
unsafe fn put_list<T>(entries: Vec<T>, place: *mut T, count: *mut c_uint) -> Result<(), c_uint> {
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller's pointers; the array has `count` places.
    unsafe {
        let room = count.read() as usize;
        count.write(entries.len() as c_uint);
        if entries.is_empty() {
            return Ok(());
        }
        if place.is_null() || room < entries.len() {
            return Err(INSUFFICIENT_SIZE);
        }
        for (index, entry) in entries.into_iter().enumerate() {
            place.add(index).write(entry);
        }
    }
    Ok(())
}

/// Use of the device by process since a time stamp; NOT_FOUND where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    handle: Device,
    samples: *mut ProcessSample,
    count: *mut c_uint,
    since_us: c_ulonglong,
) -> c_uint {
    code(device(handle, Class::Processes).and_then(|(state, slot)| {
        let timestamp_us = now(&state) / 1_000;
        if state.gpus[slot].is_divided() {
            return Err(NOT_SUPPORTED);
        }
        let working =
            state.gpus[slot].processes.iter().filter(|process| process.sm_permille > 0 && timestamp_us > since_us);
        let entries: Vec<_> = working
            .map(|process| ProcessSample {
                pid: process.pid,
                timestamp_us,
                sm: process.sm_permille / 10,
                memory: 0,
                encoder: 0,
                decoder: 0,
            })
            .collect();
        if entries.is_empty() {
            return Err(NOT_FOUND);
        }
        // SAFETY: the caller's pointers.
        unsafe { put_list(entries, samples, count) }
    }))
}

/// Processes that hold a context on the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    handle: Device,
    count: *mut c_uint,
    infos: *mut ProcessInfo,
) -> c_uint {
    code(part(handle, Class::Processes).and_then(|(state, slot)| {
        let none = c_uint::MAX;
        let of = instance_of(handle);
        let on_it = |instance: u8| of.is_none_or(|index| usize::from(instance) == index + 1);
        let entries: Vec<_> = state.gpus[slot]
            .processes
            .iter()
            .filter(|process| on_it(process.instance))
            .map(|process| ProcessInfo {
                pid: process.pid,
                memory: u64::from(process.memory_mib) << 20,
                gpu_instance: if process.instance == 0 { none } else { process.instance.into() },
                compute_instance: if process.instance == 0 { none } else { 0 },
            })
            .collect();
        // SAFETY: the caller's pointers.
        unsafe { put_list(entries, infos, count) }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_answers_before_the_library_is_started() {
        let mut count = 0;
        // SAFETY: a pointer to a live variable.
        assert_eq!(unsafe { nvmlDeviceGetCount_v2(&raw mut count) }, UNINITIALIZED);
        assert_eq!(nvmlShutdown(), UNINITIALIZED);
    }
}
