//! One value that nvml-wrapper cannot be asked for: the power of the module that a GPU is a part of (GH200, GB200), which is
//! the field "power now" in another scope than the GPU's.

mod ffi;

pub use ffi::power;
