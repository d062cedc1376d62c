//! Commands to this machine's own BMC through `/dev/ipmi0` (`ipmi_devintf` over `ipmi_si` or `ipmi_ssif`).

mod ffi;

pub use ffi::Device;
