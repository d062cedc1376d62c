//! The call of `nvml.h`: `nvmlDeviceGetFieldValues` with a scope.
//!
//! Unsafe code is needed here and only here: the device's raw handle is passed to the library with a pointer to a structure
//! of ours, and a union is read as the type that the library names.

#![allow(unsafe_code, reason = "a C interface; see above")]

use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::nvmlFieldValue_t;

/// NVML_FI_DEV_POWER_INSTANT: the same number with every driver.
const POWER_INSTANT: u32 = 186;
/// NVML_POWER_SCOPE_MODULE.
const MODULE: u32 = 1;
/// NVML_VALUE_TYPE_UNSIGNED_INT.
const UNSIGNED_INT: u32 = 1;

/// Power in mW, now, of the module that a device is a part of. `None` where there is no module, or it does not tell.
pub fn power(nvml: &Nvml, device: &Device<'_>) -> Option<u32> {
    let call = nvml.lib().nvmlDeviceGetFieldValues.as_ref().ok()?;
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut value: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
    (value.fieldId, value.scopeId) = (POWER_INSTANT, MODULE);
    // SAFETY: the handle is used for this call only, while `device` and the library live; the library writes to one
    // structure, which is ours.
    let code = unsafe { call(device.handle(), 1, &raw mut value) };
    if code != 0 || value.nvmlReturn != 0 || value.valueType != UNSIGNED_INT {
        return None;
    }
    // SAFETY: the library says that it wrote this member.
    Some(unsafe { value.value.uiVal })
}
