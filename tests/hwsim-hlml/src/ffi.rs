//! The C interface of the library, as `hlml.h` declares it.
//!
//! Unsafe code is needed here and only here: exported symbols, pointers that the caller owns, and asking the loader where
//! this library lies. A null pointer gives INVALID_ARGUMENT, anything else is trusted as in C.
//!
//! The accelerators stand in the file `hlml.state` beside this library, one a line: uuid, energy in mJ (`-`: no counter),
//! power in mW, the code that both calls give, and the model up to the line's end. It is read anew at each call; without
//! it there is no driver.

#![allow(unsafe_code, reason = "a C interface: exported symbols and callers' pointers; see above")]
#![allow(clippy::missing_safety_doc, reason = "the contract is hlml.h's: valid pointers, lengths as given")]

use nix::libc;
use std::ffi::{CStr, OsStr, c_char, c_uint, c_ulonglong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const SUCCESS: c_uint = 0;
const INVALID_ARGUMENT: c_uint = 2;
const NOT_SUPPORTED: c_uint = 3;
const NOT_FOUND: c_uint = 6;
const INSUFFICIENT_SIZE: c_uint = 7;
const DRIVER_NOT_LOADED: c_uint = 9;

struct Accelerator {
    uuid: String,
    millijoules: Option<u64>,
    milliwatts: u32,
    code: c_uint,
    model: String,
}

fn state() -> Option<String> {
    // SAFETY: dladdr fills the structure for an address inside this library; a zeroed one is valid.
    let name = unsafe {
        let mut found: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(hlml_init as *const c_void, &raw mut found) == 0 || found.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(found.dli_fname)
    };
    let library = Path::new(OsStr::from_bytes(name.to_bytes()));
    std::fs::read_to_string(library.parent()?.join("hlml.state")).ok()
}

fn accelerators() -> Vec<Accelerator> {
    let parse = |line: &str| {
        let mut words = line.splitn(5, ' ');
        Some(Accelerator {
            uuid: words.next()?.to_owned(),
            millijoules: words.next()?.parse().ok(),
            milliwatts: words.next()?.parse().ok()?,
            code: words.next()?.parse().ok()?,
            model: words.next()?.to_owned(),
        })
    };
    state().unwrap_or_default().lines().filter_map(parse).collect()
}

/// A handle is the index plus one.
fn of(device: *mut c_void) -> Option<Accelerator> {
    let index = (device as usize).checked_sub(1)?;
    accelerators().into_iter().nth(index)
}

unsafe fn put(text: &str, to: *mut c_char, room: c_uint) -> c_uint {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() >= room as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the caller owns `room` bytes at `to`, and the text with its end takes fewer.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        *to.add(text.len()) = 0;
    }
    SUCCESS
}

/// Starts the library.
#[unsafe(no_mangle)]
pub extern "C" fn hlml_init() -> c_uint {
    if state().is_some() { SUCCESS } else { DRIVER_NOT_LOADED }
}

/// Ends it.
#[unsafe(no_mangle)]
pub extern "C" fn hlml_shutdown() -> c_uint {
    SUCCESS
}

/// How many accelerators there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hlml_device_get_count(count: *mut c_uint) -> c_uint {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller's own.
    unsafe { *count = c_uint::try_from(accelerators().len()).unwrap_or(0) };
    SUCCESS
}

/// One of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hlml_device_get_handle_by_index(index: c_uint, device: *mut *mut c_void) -> c_uint {
    if device.is_null() {
        return INVALID_ARGUMENT;
    }
    if index as usize >= accelerators().len() {
        return NOT_FOUND;
    }
    // SAFETY: the caller's own.
    unsafe { *device = (index as usize + 1) as *mut c_void };
    SUCCESS
}

/// Its identity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hlml_device_get_uuid(device: *mut c_void, uuid: *mut c_char, room: c_uint) -> c_uint {
    // SAFETY: as the caller promises.
    of(device).map_or(NOT_FOUND, |one| unsafe { put(&one.uuid, uuid, room) })
}

/// Its model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hlml_device_get_name(device: *mut c_void, name: *mut c_char, room: c_uint) -> c_uint {
    // SAFETY: as the caller promises.
    of(device).map_or(NOT_FOUND, |one| unsafe { put(&one.model, name, room) })
}

/// Its power in mW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hlml_device_get_power_usage(device: *mut c_void, power: *mut c_uint) -> c_uint {
    match of(device) {
        Some(one) if one.code == SUCCESS && !power.is_null() => {
            // SAFETY: the caller's own.
            unsafe { *power = one.milliwatts };
            SUCCESS
        }
        Some(one) if one.code != SUCCESS => one.code,
        _ => INVALID_ARGUMENT,
    }
}

/// Its energy in mJ.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hlml_device_get_total_energy_consumption(
    device: *mut c_void,
    energy: *mut c_ulonglong,
) -> c_uint {
    match of(device) {
        Some(one) if one.code != SUCCESS => one.code,
        Some(Accelerator { millijoules: None, .. }) => NOT_SUPPORTED,
        Some(Accelerator { millijoules: Some(millijoules), .. }) if !energy.is_null() => {
            // SAFETY: the caller's own.
            unsafe { *energy = millijoules };
            SUCCESS
        }
        _ => INVALID_ARGUMENT,
    }
}
