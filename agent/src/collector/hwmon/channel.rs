//! One power or energy reading of a chip: what it meters, what contains it, and what its number means.

use super::chip::Chip;
use crate::collector::attribute;
use joulebook_units::{Component, Milliwatts};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a channel meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The whole node.
    Wall,
    /// A superchip: processors, accelerator, memory and regulators of a socket.
    Module,
    /// The processor side of a superchip, its memory included.
    Grace,
    /// The processor's cores.
    Cpu,
    /// What connects a processor with the rest.
    Sysio,
    /// Input and output of a system on a chip.
    Io,
    /// One core.
    Core,
    /// An accelerator.
    Gpu,
    /// An accelerator's card, its memory and regulators included.
    Card,
    /// The package on a card.
    Package,
    /// A supply of a system on a module, whatever it feeds.
    Rail,
}

impl Role {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Module => "module",
            Self::Grace => "grace",
            Self::Cpu => "cpu",
            Self::Sysio => "sysio",
            Self::Io => "io",
            Self::Core => "core",
            Self::Gpu => "gpu",
            Self::Card => "card",
            Self::Package => "package",
            Self::Rail => "rail",
        }
    }
}

/// What is read of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// Power in µW; a reading of 0 is none where `draws` says that it always draws something.
    Power {
        /// The file.
        file: PathBuf,
        /// Whether 0 W cannot be true.
        draws: bool,
    },
    /// Power as the product of a voltage in mV and a current in mA.
    Product {
        /// File of the voltage.
        volts: PathBuf,
        /// File of the current.
        amperes: PathBuf,
    },
    /// An energy counter in µJ.
    Energy {
        /// The file.
        file: PathBuf,
    },
}

/// A value that a channel shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Power in µW.
    Microwatts(u64),
    /// Energy in µJ since some instant.
    Microjoules(u64),
}

/// Why a channel gives no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason, one of those of [`crate::collector::ReadFailure`].
    pub reason: &'static str,
    /// What was tried and why it failed.
    pub why: String,
}

/// One power or energy reading of a chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its chip.
    pub chip: Chip,
    /// Name and number, for example `power1`.
    pub channel: String,
    /// What the driver calls it.
    pub label: Option<String>,
    /// What it meters.
    pub role: Role,
    /// The part of the node that it adds to.
    pub component: Component,
    /// CPU socket, where its label names one.
    pub socket: Option<u32>,
    /// Time over which it is a mean, where that is told.
    pub window: Option<Duration>,
    /// Highest power that is believed.
    pub ceiling: Milliwatts,
    /// How it is read.
    pub measure: Measure,
    /// What it shares with those that contain it: the socket or the card.
    pub group: String,
    /// Roles that contain it in its group, the nearest first.
    pub inside: &'static [Role],
    /// Index of the channel that contains it, among all of the node.
    pub container: Option<usize>,
}

/// Return codes of Linux are below this.
const HIGHEST_ERRNO: u64 = 4_095;
/// What drivers with 32 bits of mW show for "unknown".
const UNKNOWN_MILLIWATTS: u64 = u32::MAX as u64;

impl Channel {
    /// Reads it once.
    ///
    /// # Errors
    /// Whatever is no measurement: a number that means "unknown", an error that was printed as a number, more than the
    /// hardware can draw, and nothing where something must be drawn.
    pub fn read(&self) -> Result<Shown, Refusal> {
        match &self.measure {
            Measure::Energy { file } => Ok(Shown::Microjoules(self.number(file)?)),
            Measure::Power { file, draws } => {
                let shown = self.number(file)?;
                if shown == 0 && *draws {
                    return Err(refusal(
                        "not_supported",
                        format!("{} shows 0 W, which is no measurement", file.display()),
                    ));
                }
                self.believed(shown, file)
            }
            Measure::Product { volts, amperes } => {
                // mV × mA = µW.
                let product = self.number(volts)?.saturating_mul(self.number(amperes)?);
                self.believed(product, amperes)
            }
        }
    }

    /// Whether a power is one, and not an error in a number's clothes.
    fn believed(&self, microwatts: u64, file: &std::path::Path) -> Result<Shown, Refusal> {
        let errno = (1 << 32) - HIGHEST_ERRNO..1 << 32;
        let in_milliwatts = microwatts.is_multiple_of(1_000) && microwatts / 1_000 == UNKNOWN_MILLIWATTS;
        if errno.contains(&microwatts) || in_milliwatts {
            let why = format!("{} shows {microwatts}, an error code and no power", file.display());
            return Err(refusal("not_supported", why));
        }
        if microwatts > self.ceiling.0.saturating_mul(1_000) {
            let why = format!("{} shows {microwatts} µW, more than it can draw", file.display());
            return Err(refusal("implausible", why));
        }
        Ok(Shown::Microwatts(microwatts))
    }

    fn number(&self, file: &std::path::Path) -> Result<u64, Refusal> {
        match attribute::number(file) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => Err(refusal("parse", format!("{} shows no whole number", file.display()))),
            Err(error) => Err(explain(file, &error)),
        }
    }
}

fn refusal(reason: &'static str, why: String) -> Refusal {
    Refusal { reason, why }
}

fn explain(file: &std::path::Path, error: &io::Error) -> Refusal {
    use nix::errno::Errno;
    let path = file.display();
    let code = error.raw_os_error().map(Errno::from_raw);
    match code {
        Some(Errno::EACCES | Errno::EPERM) => {
            refusal("permission", format!("{path} may not be read: {error}; run as root, or wake the device"))
        }
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
            refusal("missing", format!("{path} is gone; it is looked for again"))
        }
        Some(Errno::ENODATA | Errno::EOPNOTSUPP) => refusal("not_supported", format!("{path} has no value: {error}")),
        _ => refusal("io", format!("{path} could not be read: {error}")),
    }
}
