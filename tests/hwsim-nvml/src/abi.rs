//! Structures of `nvml.h`, laid out as the vendor's.

use std::ffi::{c_char, c_uint, c_ulonglong, c_void};

/// nvmlPciInfo_t.
#[repr(C)]
#[derive(Debug)]
pub struct PciInfo {
    pub(crate) legacy: [u8; 16],
    pub(crate) domain: c_uint,
    pub(crate) bus: c_uint,
    pub(crate) device: c_uint,
    pub(crate) device_id: c_uint,
    pub(crate) subsystem_id: c_uint,
    pub(crate) bus_id: [u8; 32],
}

/// nvmlMemory_v2_t, in bytes.
#[repr(C)]
#[derive(Debug)]
pub struct Memory {
    pub(crate) version: c_uint,
    pub(crate) total: c_ulonglong,
    pub(crate) reserved: c_ulonglong,
    pub(crate) free: c_ulonglong,
    pub(crate) used: c_ulonglong,
}

/// nvmlUtilization_t, in percent.
#[repr(C)]
#[derive(Debug)]
pub struct Utilization {
    pub(crate) gpu: c_uint,
    pub(crate) memory: c_uint,
}

/// nvmlFieldValue_t.
#[repr(C)]
#[derive(Debug)]
pub struct FieldValue {
    pub(crate) field: c_uint,
    pub(crate) scope: c_uint,
    pub(crate) timestamp_us: i64,
    pub(crate) latency_us: i64,
    pub(crate) value_type: c_uint,
    pub(crate) code: c_uint,
    pub(crate) value: u64,
}

/// nvmlProcessUtilizationSample_t.
#[repr(C)]
#[derive(Debug)]
pub struct ProcessSample {
    pub(crate) pid: c_uint,
    pub(crate) timestamp_us: c_ulonglong,
    pub(crate) sm: c_uint,
    pub(crate) memory: c_uint,
    pub(crate) encoder: c_uint,
    pub(crate) decoder: c_uint,
}

/// nvmlProcessInfo_v2_t, which the third version of the call fills.
#[repr(C)]
#[derive(Debug)]
pub struct ProcessInfo {
    pub(crate) pid: c_uint,
    pub(crate) memory: c_ulonglong,
    pub(crate) gpu_instance: c_uint,
    pub(crate) compute_instance: c_uint,
}

/// nvmlDeviceAttributes_t.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Attributes {
    pub(crate) multiprocessors: c_uint,
    pub(crate) shared_engines: [c_uint; 5],
    pub(crate) gpu_instance_slices: c_uint,
    pub(crate) compute_instance_slices: c_uint,
    pub(crate) memory_mib: c_ulonglong,
}

/// nvmlGpmSupport_t.
#[repr(C)]
#[derive(Debug)]
pub struct GpmSupport {
    pub(crate) version: c_uint,
    pub(crate) supported: c_uint,
}

/// nvmlGpmMetric_t.
#[repr(C)]
#[derive(Debug)]
pub struct GpmMetric {
    pub(crate) id: c_uint,
    pub(crate) code: c_uint,
    pub(crate) value: f64,
    pub(crate) names: [*mut c_char; 3],
}

/// nvmlGpmMetricsGet_t up to its list of metrics, of which `count` follow.
#[repr(C)]
#[derive(Debug)]
pub struct GpmQuestion {
    pub(crate) version: c_uint,
    pub(crate) count: c_uint,
    pub(crate) first: *mut c_void,
    pub(crate) second: *mut c_void,
    pub(crate) metrics: [GpmMetric; 1],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_vendors() {
        assert_eq!(size_of::<PciInfo>(), 68);
        assert_eq!(size_of::<FieldValue>(), 40);
        assert_eq!((size_of::<Attributes>(), size_of::<GpmMetric>(), size_of::<GpmQuestion>()), (40, 40, 24 + 40));
        assert_eq!((size_of::<ProcessSample>(), size_of::<ProcessInfo>(), size_of::<Memory>()), (32, 24, 40));
    }
}
