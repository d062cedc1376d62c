//! Which device a name stands for.
//!
//! Device plugins name a device by its identity (`GPU-…`, `MIG-…`; `::3` behind it is a share), GKE's by its file in `/dev`
//! (`nvidia0`, a share `nvidia0/vgpu3`), whose number is the driver's minor number. The DRA driver of NVIDIA calls a whole
//! device `gpu-N`, N the minor number as well (`GpuInfo.CanonicalName` in its `deviceinfo.go`, since August 2025: its previews
//! before counted by index), and a claim's CDI device `k8s.gpu.nvidia.com/claim=UID-gpu-N`.
//!
//! Its names of MIG instances tell a profile and a place (`gpu-0-mig-1g5gb-19-4`), which NVML does not tell of an instance
//! that runs nothing, and those of devices that are passed through (`gpu-vfio-0`) are no minor numbers. Such names, and GKE's
//! `nvidia0/gi1`, stand for no device here: who holds what is not guessed.

use super::message::ClaimResource;

/// NVIDIA's DRA driver, and the vendor and class of the CDI devices of its claims.
const DRIVER: &str = "gpu.nvidia.com";
const CLAIM: &str = "k8s.gpu.nvidia.com/claim=";
/// Length of the uid of a claim.
const UID_BYTES: usize = 36;
/// Longest name of a device.
const LONGEST_ID: usize = 128;
/// What a name is called that cannot be shown.
const UNREADABLE: &str = "unreadable";

/// A device as its allocation names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Device {
    /// By the hardware's identity.
    Identity(String),
    /// By the minor number of its file.
    Minor {
        /// The number.
        minor: u32,
        /// The name.
        name: String,
    },
    /// By a name that stands for no device.
    Other {
        /// The name.
        name: String,
    },
}

impl Device {
    /// A device plugin's; `None` if the id is empty.
    pub(super) fn plugged(id: &str) -> Option<Self> {
        let file = id.strip_prefix("nvidia").map(|file| file.split("/vgpu").next().unwrap_or(file));
        let by_file = || minor(file?).map(|minor| Self::Minor { minor, name: id.to_owned() });
        (!id.is_empty()).then(|| Self::named(id).or_else(by_file).unwrap_or_else(|| Self::other(id)))
    }

    /// A claim's: by the first name of it that is an identity, else by that of NVIDIA's driver. `None` if it is another
    /// driver's.
    pub(super) fn claimed(claim: &ClaimResource) -> Option<Self> {
        let interfaces = || claim.cdi_devices.iter().map(|device| device.name.as_str());
        let last = |name: &'_ str| name.rsplit('=').next().and_then(Self::named);
        if let Some(device) = interfaces().find_map(last).or_else(|| Self::named(&claim.device_name)) {
            return Some(device);
        }
        let name = match claim.driver_name.as_str() {
            DRIVER => claim.device_name.as_str(),
            // A kubelet that does not tell the driver yet.
            "" => interfaces().find(|name| name.starts_with(CLAIM))?,
            _ => return None,
        };
        let of_claim = name.strip_prefix(CLAIM).and_then(|rest| rest.get(UID_BYTES..)?.strip_prefix('-'));
        let canonical = of_claim.unwrap_or(name);
        let by_minor = canonical.strip_prefix("gpu-").and_then(minor);
        let by_minor = by_minor.map(|minor| Self::Minor { minor, name: canonical.to_owned() });
        Some(by_minor.unwrap_or_else(|| Self::other(canonical)))
    }

    /// By an identity. Shares of one device have a number behind it: `GPU-…::3`.
    pub(super) fn named(id: &str) -> Option<Self> {
        let id = id.split("::").next()?;
        let (_, uuid) = id.split_once('-').filter(|(kind, _)| matches!(*kind, "GPU" | "MIG"))?;
        let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/');
        let is_identity = !uuid.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(is_usable);
        is_identity.then(|| Self::Identity(id.to_owned()))
    }

    fn other(name: &str) -> Self {
        let is_shown = !name.is_empty() && name.len() <= LONGEST_ID && name.bytes().all(|byte| byte.is_ascii_graphic());
        Self::Other { name: if is_shown { name } else { UNREADABLE }.to_owned() }
    }
}

/// A minor number: digits and nothing else.
fn minor(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
