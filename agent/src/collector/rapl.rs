//! Collector `rapl`: energy counters of CPU packages and memory through powercap.
//!
//! Reads `<sysfs>/class/powercap/<zone>/energy_uj`: µJ as the kernel derives them from a 32-bit counter of 15 to 61 µJ
//! units, refreshed every millisecond. Mode 0400 since Linux 5.10: needs root (or the owner). The first value exists at
//! once; a zone whose counter does not move for 10 s while the CPU is more than 5 % busy is dead (virtual machines show
//! such zones) and becomes unavailable. `psys` is the whole platform, a layer beside the wall that contains the packages;
//! on servers it counts in steps of 1 J.

use super::attribute::{self, parse};
use super::guard::{self, Guard, Outcome, Probe};
use super::{Collector, ReadFailure, Reading, Value};
use crate::config::{RaplSection, Roots, milliwatts};
use crate::hardware;
use crate::process::proc::{CpuTimes, cpu_times, open};
use joulebook_units::{BootNanos, Component, Method, Milliwatts, Source, SourceState};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

pub mod zone;

use zone::{Role, Zone};

/// A counter that has not moved for this long under load is dead.
const DEAD_NANOS: u64 = 10 * 1_000_000_000;
/// Load above which a counter has to move, in thousandths.
const DEAD_BUSY_PERMILLE: u64 = 50;
/// Highest plausible power of a package whose limits are not told.
const PACKAGE_CEILING: Milliwatts = Milliwatts(1_500_000);
/// Highest plausible power of the memory of one socket.
const DRAM_CEILING: Milliwatts = Milliwatts(500_000);
/// A package's ceiling is never put below this, whatever its limits say.
const LEAST_CEILING: u64 = 100_000;
/// Half-widths of the 95 % intervals: Intel packages, AMD packages, modelled memory energy.
const INTEL_PERMILLE: u32 = 50;
const AMD_PERMILLE: u32 = 100;
const DRAM_PERMILLE: u32 = 200;
/// The same for the platform, of which nobody says how well it is measured.
const PSYS_PERMILLE: u32 = 100;
/// Highest plausible power of a server's platform, and the unit of its register in nJ; others are a client's.
const PLATFORM_CEILING: Milliwatts = Milliwatts(20_000_000);
const PLATFORM_UNIT: u64 = 1_000_000_000;
const DEAD: &str = "counter does not move while the CPU is busy (virtual machines show such zones); estimated instead";

/// The collector.
#[derive(Debug)]
pub struct Rapl {
    roots: Roots,
    ceiling: Option<Milliwatts>,
    meters: BTreeMap<String, Meter>,
    counters: Guard<Counter>,
    zones_ignored: usize,
}

/// A zone's file, kept open.
#[derive(Debug)]
struct Counter {
    path: PathBuf,
    file: Option<File>,
}

/// What it showed.
#[derive(Debug)]
struct Shown {
    bytes: [u8; attribute::BYTES],
    length: usize,
}

/// Why it showed nothing.
#[derive(Debug)]
enum Failed {
    Open(io::Error),
    Read(io::Error),
}

/// One readable zone.
#[derive(Debug)]
struct Meter {
    path: PathBuf,
    range: Option<u64>,
    proof: Proof,
    /// It could not be read yet, as the discovery said: it is tried at every reading, and not told again.
    off: bool,
}

/// What is known of a zone's life. Found out once, at start; a counter that stops later is the tracker's matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Not read yet.
    Unread,
    /// It has not moved since this reading.
    Still { raw: u64, at: BootNanos, cpu: Option<CpuTimes> },
    /// It has moved.
    Moves,
    /// It stood still under load.
    Dead,
}

impl Rapl {
    /// A collector below the given roots; opens nothing yet.
    pub fn new(roots: &Roots, section: &RaplSection) -> Self {
        Self {
            roots: roots.clone(),
            ceiling: section.ceiling_watts.map(milliwatts),
            meters: BTreeMap::new(),
            counters: Guard::default(),
            zones_ignored: 0,
        }
    }

    /// Zones that were left out because there are more than 256.
    pub fn zones_ignored(&self) -> usize {
        self.zones_ignored
    }

    fn source(&self, zone: &Zone, vendor: Option<&str>) -> Source {
        let folder = self.folder(zone);
        let name = zone.name.clone().unwrap_or_else(|| zone.folder.clone());
        let amd = matches!(vendor, Some("AuthenticAMD" | "HygonGenuine"));
        let (id, component, uncertainty, ceiling) = match &zone.role {
            Role::Dram => {
                // Sockets may have several dies, each with memory of its own: the folder tells them apart.
                let parent = zone.folder.rsplit_once(':').map_or("", |(parent, _)| parent);
                let parent = attribute::text(&folder.with_file_name(parent).join("name"));
                let parent = parent.map_or_else(|| zone.folder.clone(), |name| name.trim().to_owned());
                (format!("rapl/{parent}/dram"), Component::Dram, DRAM_PERMILLE, DRAM_CEILING)
            }
            // A layer of its own: shown beside what it contains, and never added to it.
            Role::Psys => (format!("rapl/{name}"), Component::Wall, PSYS_PERMILLE, psys_ceiling(zone.range)),
            Role::Cpu | Role::Mirror { .. } | Role::Ignored => {
                let uncertainty = if amd { AMD_PERMILLE } else { INTEL_PERMILLE };
                (format!("rapl/{name}"), Component::Cpu, uncertainty, limit(&folder))
            }
        };
        Source {
            id,
            component,
            socket: zone.socket,
            device: None,
            collector: "rapl".to_owned(),
            method: Method::Counter,
            unit_nanojoules: zone.range.and_then(zone::unit_nanojoules),
            ceiling: self.ceiling.unwrap_or(ceiling),
            uncertainty_permille: uncertainty,
            contained_in: None,
            scope: None,
            basis: folder.join("energy_uj").display().to_string(),
        }
    }

    fn folder(&self, zone: &Zone) -> PathBuf {
        self.roots.sysfs.join("class/powercap").join(&zone.folder)
    }

    /// The source of a zone, and why it can never be read where that is known already.
    fn found(&mut self, zone: &Zone, vendor: Option<&str>) -> Option<SourceState> {
        let counted = matches!(zone.role, Role::Cpu | Role::Dram | Role::Psys);
        // A masked zone cannot say what it is: only whole packages are reported then.
        let masked_package = zone.dangling && zone::is_rapl(&zone.folder) && zone.folder.matches(':').count() == 1;
        if !counted && !masked_package {
            return None;
        }
        let source = self.source(zone, vendor);
        if zone.dangling {
            return Some(SourceState { source: source.into(), unavailable: Some(masked(&self.folder(zone))) });
        }
        let path = self.folder(zone).join("energy_uj");
        let (range, proof, off) = (zone.range, Proof::Unread, false);
        let new = || Meter { path: path.clone(), range, proof, off };
        self.meters.entry(source.id.clone()).or_insert_with(new).range = range;
        if !self.counters.knows(&source.id) {
            self.counters.insert(source.id.clone(), Counter { path, file: None });
        }
        Some(SourceState { source: source.into(), unavailable: None })
    }

    /// Why each source cannot be read now, from a look at all of them.
    fn look(&mut self, states: &mut [SourceState]) {
        let outcomes = self.counters.round();
        for state in states.iter_mut().filter(|state| state.unavailable.is_none()) {
            let Some(meter) = self.meters.get_mut(&state.source.id) else { continue };
            state.unavailable = match outcomes.get(&state.source.id) {
                _ if meter.proof == Proof::Dead => Some(DEAD.to_owned()),
                Some(Outcome::Shown(Err(Failed::Open(error)))) => Some(explain(&meter.path, error)),
                Some(Outcome::Stuck) => Some(guard::stuck(&meter.path)),
                // One that was opened is there, whatever it shows just now.
                _ => None,
            };
            meter.off = state.unavailable.is_some() && meter.proof == Proof::Unread;
        }
    }
}

impl Collector for Rapl {
    fn discover(&mut self) -> Vec<SourceState> {
        let vendor = hardware::cpu(&self.roots.procfs).vendor;
        let (zones, left_out) = zone::classify(&self.roots.sysfs, vendor.as_deref());
        if left_out > self.zones_ignored {
            tracing::warn!(
                zones_ignored = left_out,
                folder = %self.roots.sysfs.join("class/powercap").display(),
                "more than {} powercap zones: those behind them in the order of their ids are not read",
                zone::MOST_ZONES
            );
        }
        self.zones_ignored = left_out;
        let mut states: Vec<_> = zones.iter().filter_map(|zone| self.found(zone, vendor.as_deref())).collect();
        self.look(&mut states);
        states
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let unproven = self.meters.values().any(|meter| matches!(meter.proof, Proof::Unread | Proof::Still { .. }));
        let cpu = if unproven { cpu_times(&self.roots.procfs) } else { None };
        let meters = &mut self.meters;
        self.counters.retain(|id| meters.get(id).is_some_and(|meter| meter.proof != Proof::Dead));
        let shown = self.counters.round().into_iter();
        shown.filter_map(|(id, outcome)| meters.get_mut(&id)?.take(&id, now, cpu, outcome)).collect()
    }
}

impl Probe for Counter {
    type Shown = Result<Shown, Failed>;

    fn read(&mut self) -> Self::Shown {
        let mut bytes = [0u8; attribute::BYTES];
        let file = self.open().map_err(Failed::Open)?;
        match file.read_at(&mut bytes, 0) {
            Ok(length) => Ok(Shown { bytes, length }),
            Err(error) => {
                self.file = None;
                Err(Failed::Read(error))
            }
        }
    }
}

impl Counter {
    fn open(&mut self) -> io::Result<&File> {
        // A file that was replaced or removed keeps showing its last value through an old descriptor.
        let stale =
            self.file.as_ref().is_some_and(|file| file.metadata().map_or(true, |metadata| metadata.nlink() == 0));
        if stale {
            self.file = None;
        }
        match &mut self.file {
            Some(file) => Ok(file),
            empty => {
                let file = open(&self.path)?;
                if !file.metadata()?.is_file() {
                    return Err(attribute::not_regular());
                }
                Ok(empty.insert(file))
            }
        }
    }
}

impl Meter {
    /// `None` for a source that is off and still cannot be read.
    fn take(
        &mut self,
        id: &str,
        now: BootNanos,
        cpu: Option<CpuTimes>,
        outcome: Outcome<Result<Shown, Failed>>,
    ) -> Option<Result<Reading, ReadFailure>> {
        let failure = |reason, why: String| Some(Err(ReadFailure { source_id: id.to_owned(), reason, why }));
        let shown = match outcome {
            Outcome::Shown(Ok(shown)) => shown,
            _ if self.off => return None,
            Outcome::Shown(Err(Failed::Open(error) | Failed::Read(error))) => {
                let reason = match error.kind() {
                    ErrorKind::PermissionDenied => "permission",
                    ErrorKind::NotFound => "missing",
                    _ if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => "missing",
                    _ => "io",
                };
                return failure(reason, explain(&self.path, &error));
            }
            Outcome::Stuck => return failure("stuck", guard::stuck(&self.path)),
            Outcome::Late => return failure("late", format!("{} had no turn", self.path.display())),
        };
        let Some(raw) = shown.bytes.get(..shown.length).and_then(parse) else {
            let path = self.path.display();
            return failure("parse", format!("{path} shows no whole number; the next reading is awaited"));
        };
        self.proof = self.proof.after(raw, now, cpu);
        if self.proof == Proof::Dead {
            return failure("dead", format!("{}: {DEAD}", self.path.display()));
        }
        let value = Value::Counter { raw, range: self.range };
        Some(Ok(Reading { source: id.to_owned(), at: now, value }))
    }
}

impl Proof {
    fn after(self, raw: u64, now: BootNanos, cpu: Option<CpuTimes>) -> Self {
        let Self::Still { raw: first, at, cpu: then } = self else {
            return if self == Self::Unread { Self::Still { raw, at: now, cpu } } else { self };
        };
        if raw != first {
            return Self::Moves;
        }
        let (Some(then), Some(cpu)) = (then, cpu) else { return self };
        let total = cpu.total.saturating_sub(then.total);
        let busy = cpu.busy.saturating_sub(then.busy);
        let loaded = total > 0 && busy * 1_000 / total > DEAD_BUSY_PERMILLE;
        if loaded && now.0.saturating_sub(at.0) >= DEAD_NANOS { Self::Dead } else { self }
    }
}

/// 1.5 times the highest limit the zone tells, within 100 and 1,500 W; 1,500 W where it tells none.
fn limit(folder: &Path) -> Milliwatts {
    let limits = (0..4)
        .flat_map(|index| [format!("constraint_{index}_max_power_uw"), format!("constraint_{index}_power_limit_uw")]);
    let highest = limits.filter_map(|file| parse(attribute::text(&folder.join(file))?.as_bytes())).max();
    let told = highest.filter(|limit| *limit > 0).map(|limit| Milliwatts((limit / 2_000).saturating_mul(3)));
    told.map_or(PACKAGE_CEILING, |told| Milliwatts(told.0.clamp(LEAST_CEILING, PACKAGE_CEILING.0)))
}

/// Highest plausible power of a platform: its own limits are those of a client's supply, where it tells any.
fn psys_ceiling(range: Option<u64>) -> Milliwatts {
    let server = range.and_then(zone::unit_nanojoules).is_some_and(|unit| unit >= PLATFORM_UNIT);
    if server { PLATFORM_CEILING } else { PACKAGE_CEILING }
}

fn masked(folder: &Path) -> String {
    let target = std::fs::read_link(folder).unwrap_or_else(|_| folder.to_path_buf());
    format!(
        "{} is masked: it leads to {}, which the container runtime hides with all of /sys/devices/virtual/powercap; \
         mount the host's /sys read-only at another path, for example /host/sys, and name that path with --sysfs-root",
        folder.display(),
        target.display()
    )
}

fn explain(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::PermissionDenied => format!("{path} may not be read: needs uid 0 (or owner), see CVE-2020-8694"),
        ErrorKind::NotFound => format!("{path} is gone; it is looked for at every reading"),
        _ => format!("{path} could not be read: {error}"),
    }
}

#[cfg(test)]
mod tests;
