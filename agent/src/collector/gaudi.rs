//! Collector `gaudi`: energy and power of Gaudi accelerators through Habana's management library, `libhlml.so`.
//!
//! Reads, for each accelerator, the energy counter (mJ since the driver was loaded; some versions have none) and the power
//! now in mW. Needs access to the accelerators' files, no root. The first energy exists at the second reading. Where there
//! is no counter, energy is the integral of the power. Who is on an accelerator the library does not tell: its energy is
//! the node's, and no version's, until something else tells.
//!
//! The library runs in a helper process, as NVIDIA's does, with which it shares everything but the calls: see
//! [`super::nvml`].

use super::nvml::Vendor;
use crate::config::{GaudiSection, NvmlSection};
use crate::hardware;

pub mod serve;

/// Habana.
pub static HABANA: Vendor = Vendor {
    collector: "gaudi",
    library: "Habana's library",
    helper: serve::HELPER,
    seen: |roots| hardware::unread_sources(&hardware::gaudi(roots), "gaudi"),
};

/// The maker, whether it is to be read, and how.
pub(super) fn configured(section: &GaudiSection) -> (&'static Vendor, bool, NvmlSection) {
    let GaudiSection { enabled, library, idle_watts, helper, patience, limits } = section.clone();
    (&HABANA, enabled, NvmlSection { enabled, library, dcgm_url: None, idle_watts, helper, patience, limits })
}
