//! What the agent and its helper process say to each other: one JSON object a line over the helper's stdin and stdout.
//!
//! The agent asks with a [`Request`] only after the answer to the one before is complete. The helper answers with a
//! line for each device as soon as it has been read, and ends with [`Line::End`]: a call that never returns shows on
//! which device it hangs. Instants are CLOCK_BOOTTIME in nanoseconds, which is one clock for both.

use serde::{Deserialize, Serialize};

/// A round of readings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Request {
    /// Devices to leave alone, because a call on them has hung: UUIDs, or [`by_index`] where a device hangs before it
    /// tells its UUID.
    pub skip: Vec<String>,
    /// Whether the processes on the devices are read as well.
    pub processes: bool,
}

/// A line of the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The library cannot be used; the helper ends after this.
    Failed {
        /// What failed and why.
        why: String,
    },
    /// The devices that there are, in the first round and whenever they were looked for again.
    Devices {
        /// Version of the driver.
        driver: Option<String>,
        /// The devices.
        devices: Vec<Facts>,
    },
    /// A call on this device comes next.
    Begin {
        /// UUID of the device, or its [`by_index`].
        device: String,
    },
    /// A device was read.
    Device(Box<Shown>),
    /// The round is complete.
    End,
}

/// How a device is named of which only the index is known.
pub fn by_index(index: u32) -> String {
    format!("GPU {index}")
}

/// What does not change of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its identity.
    pub uuid: String,
    /// Its index when it was found.
    pub index: u32,
    /// Model as the hardware names it.
    pub model: String,
    /// Number of its file in `/dev`.
    pub minor: Option<u32>,
    /// Address on the bus.
    pub bus: Option<String>,
    /// Power limit in mW.
    pub limit_milliwatts: Option<u32>,
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether it is divided into instances (MIG).
    pub divided: bool,
    /// Whether it has an energy counter.
    pub counts: bool,
    /// Whether it tells the power of a module that it is a part of.
    pub module: bool,
    /// What the plain power call tells on this generation.
    pub power_usage: Sampled,
}

/// What a power value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampled {
    /// The power at its instant.
    Instant,
    /// The mean over the second that ends at it.
    Average,
}

/// Why a call gave no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The device cannot tell this.
    NotSupported,
    /// The device is not there any more.
    Lost,
    /// The driver refuses this user.
    Permission,
    /// Another error, which may pass: the library's words.
    Failed(String),
}

/// One device at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// UUID.
    pub uuid: String,
    /// Energy counter in mJ, and the instant at which it showed this.
    pub energy: Result<(u64, u64), Fault>,
    /// Power in mW, what kind of value it is, and the instant of the call.
    pub power: Result<(u32, Sampled, u64), Fault>,
    /// Power in mW of the module that it is a part of, where it tells one, and the instant of the call.
    pub module: Option<(u32, u64)>,
    /// Processes, if they were asked for.
    pub processes: Option<Result<Use, Fault>>,
}

/// Use of a device since the round before that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// When the list was read.
    pub at: u64,
    /// Utilisation of the device in millionths; absent where it cannot be told.
    pub busy_ppm: Option<u32>,
    /// Compute slices of the whole device where it is divided into instances.
    pub slices: Option<u32>,
    /// Processes with a context on the device.
    pub processes: Vec<Process>,
    /// Instances of a divided device on which no process is.
    pub free: Vec<Instance>,
}

/// An instance of a divided device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity, `MIG-…`.
    pub uuid: String,
    /// Memory that it reserves in bytes.
    pub memory_bytes: u64,
    /// Compute slices that it reserves, in millionths of one.
    pub slice_millionths: u32,
}

/// A process on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid in the host's namespace.
    pub pid: u32,
    /// Memory that it has on the device in bytes, on a divided device what is reserved for it; absent where it cannot be
    /// told.
    pub memory_bytes: Option<u64>,
    /// Share of the time of all multiprocessors of the device in millionths.
    pub busy_ppm: u32,
    /// Compute slices that are reserved for it on a divided device, in millionths of one.
    pub slice_millionths: u32,
}
