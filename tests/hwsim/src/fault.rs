//! Faults: what breaks in the views. The truth never changes, but for the time that `jump_wraps` lets pass.

use crate::error::{Result, SimError};
use crate::hwmon::Meter;
use crate::node::Node;
use crate::powercap::{Obstacle, Plan, Zone};
use crate::workload::Workload;
use hwsim_nvml::state::Class;
use serde::{Deserialize, Serialize};

/// nvmlReturn_t of the faults.
const NOT_SUPPORTED: u32 = 3;
const TIMEOUT: u32 = 10;
const GPU_IS_LOST: u32 = 15;
const LIB_RM_VERSION_MISMATCH: u32 = 18;
const UNKNOWN: u32 = 999;
/// Not a return code: the call kills its process.
const CRASH: u32 = u32::MAX;
/// CPU of a child of an exit storm: 24 ms, so 24 thousandths of a core for one child a second.
const CHILD_MILLICORES: u64 = 24;

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The counter's place is taken by a folder (EISDIR; a real EIO needs a file system of our own).
    Eio,
    /// The counter may not be read (for root, who may read all: as `eio`).
    Eacces,
    /// The counter stands still.
    Freeze,
    /// The counter starts again at 0.
    Reset,
    /// As much time passes as the counter needs for `n` wraps, unseen. Manual clock only.
    JumpWraps,
    /// The zone, or the chip of the channel, goes, and comes back at the end.
    RemoveZone,
    /// A second door to the same counters appears.
    DupMmio,
    /// Every package shows two dies with the same counter. AMD only.
    MirrorDies,
    /// Every call on the GPU says that it is lost.
    GpuLost,
    /// Energy counters start again at 0.
    DriverReload,
    /// The GPU has no energy counter.
    NotSupported,
    /// Calls on the GPU time out.
    Timeout,
    /// Calls on the GPU do not return until the fault ends.
    Hang,
    /// Calls on the GPU kill the calling process.
    Crash,
    /// Starting the library kills the calling process.
    InitCrash,
    /// Every call says that something unknown went wrong.
    Unknown,
    /// The library cannot be started.
    LibMismatch,
    /// The order of devices turns by one.
    IndexShift,
    /// The energy counter stands still while power flows.
    FrozenCounter,
    /// The GPU is unplugged, and plugged in at the end.
    Hotplug,
    /// The wall clock is set by `n` ms.
    NtpStep,
    /// The node sleeps for `n` s: only its boot clock goes on, and its counters start again.
    Suspend,
    /// Another process takes the pid of the workload.
    PidReuse,
    /// `n` children a second that live too shortly to be seen.
    ExitStorm,
    /// The workload's control group is made anew.
    CgroupRecreate,
}

/// A request to break something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A zone (`intel-rapl:0`), a channel of hwmon (`hwmon0/power1`), a GPU (`gpu3`), a workload's name; nothing where the kind says it all.
    #[serde(default)]
    pub target: String,
    /// What.
    pub kind: Kind,
    /// The kind's number.
    pub n: Option<i64>,
    /// When it ends, in ms from now; at the end of the simulation if absent.
    pub for_ms: Option<u64>,
}

/// A fault that will end.
#[derive(Debug, Clone)]
pub struct Active {
    pub(crate) until_ns: u64,
    kind: Kind,
    target: String,
}

/// Whether a target is a channel of hwmon, for example `hwmon0/power1`.
fn is_hwmon(target: &str) -> bool {
    target.starts_with("hwmon")
}

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(SimError::Request(why.into()))
}

impl Node {
    /// Breaks something, and plans its end.
    pub fn fault(&mut self, fault: &Fault) -> Result<()> {
        self.publish()?;
        self.change(fault.kind, &fault.target, fault.n, true)?;
        if let Some(after) = fault.for_ms {
            let until_ns = self.now_ns().saturating_add(after.saturating_mul(1_000_000));
            self.active.push(Active { until_ns, kind: fault.kind, target: fault.target.clone() });
        }
        self.publish()
    }

    /// Ends a fault before its time.
    pub fn repair(&mut self, kind: Kind, target: &str) -> Result<()> {
        self.active.retain(|active| active.kind != kind || active.target != target);
        self.change(kind, target, None, false)?;
        self.publish()
    }

    /// Ends the faults whose time has come.
    pub(crate) fn end_faults(&mut self) -> Result<()> {
        let now = self.now_ns();
        let (ended, active) = std::mem::take(&mut self.active).into_iter().partition(|active| active.until_ns <= now);
        self.active = active;
        let ended: Vec<Active> = ended;
        ended.iter().try_for_each(|active| self.change(active.kind, &active.target, None, false))
    }

    fn change(&mut self, kind: Kind, target: &str, n: Option<i64>, begins: bool) -> Result<()> {
        let number = n.unwrap_or(1);
        match kind {
            Kind::Eio => self.obstruct(target, Obstacle::Folder, begins),
            Kind::Eacces => self.obstruct(target, Obstacle::Forbidden, begins),
            Kind::RemoveZone => self.obstruct(target, Obstacle::Gone, begins),
            Kind::Freeze if is_hwmon(target) => self.meter(target).map(|(meter, _)| meter.freeze(begins)),
            Kind::Freeze => self.zone(target).map(|(zone, _)| zone.freeze(begins)),
            Kind::Reset if begins => self.zone(target).map(|(zone, energy)| zone.reset(energy)),
            Kind::JumpWraps if begins => self.jump(target, number),
            Kind::DupMmio => self.second_door(begins),
            Kind::MirrorDies => self.mirror(begins),
            Kind::NtpStep if begins => {
                self.wall_offset_ms = self.wall_offset_ms.saturating_add(number);
                Ok(())
            }
            Kind::Suspend if begins => self.suspend(number),
            Kind::PidReuse if begins => {
                let now = self.now_ns();
                self.table.reuse_pid(now, target)
            }
            Kind::CgroupRecreate if begins => {
                let now = self.now_ns();
                self.table.recreate_group(now, target)
            }
            Kind::ExitStorm => self.storm(number, begins),
            Kind::Reset | Kind::JumpWraps | Kind::NtpStep | Kind::Suspend | Kind::PidReuse | Kind::CgroupRecreate => {
                Ok(())
            }
            _ => self.change_gpu(kind, target, begins),
        }
    }

    fn zone(&mut self, id: &str) -> Result<(&mut Zone, i128)> {
        let now = self.now_ns();
        let Some(index) = self.zones.iter().position(|zone| zone.id == id) else {
            return refuse(format!("there is no zone {id:?}"));
        };
        let energy = self.zones.get(index).map(|zone| self.zone_pj(zone, now));
        match (self.zones.get_mut(index), energy) {
            (Some(zone), Some(energy)) => Ok((zone, energy)),
            _ => refuse(format!("there is no zone {id:?}")),
        }
    }

    fn meter(&mut self, id: &str) -> Result<(&mut Meter, i128)> {
        let now = self.now_ns();
        let value = self.meters.iter().find(|meter| meter.id() == id).map(|meter| self.meter_value(meter, now));
        match (self.meters.iter_mut().find(|meter| meter.id() == id), value) {
            (Some(meter), Some(value)) => Ok((meter, value)),
            _ => refuse(format!("there is no channel {id:?}")),
        }
    }

    fn obstruct(&mut self, target: &str, obstacle: Obstacle, begins: bool) -> Result<()> {
        if is_hwmon(target) {
            let (meter, value) = self.meter(target)?;
            return if begins { meter.obstruct(obstacle) } else { meter.restore(value) };
        }
        let (zone, energy) = self.zone(target)?;
        if begins { zone.obstruct(obstacle) } else { zone.restore(energy) }
    }

    fn jump(&mut self, target: &str, wraps: i64) -> Result<()> {
        if !self.is_manual() {
            return refuse("jump_wraps lets time pass, which a real clock cannot; start with --clock manual");
        }
        let (zone, _) = self.zone(target)?;
        let (range, leaves) = (zone.range_pj() * i128::from(zone.part), zone.leaves.clone());
        let power: i64 = leaves.iter().filter_map(|leaf| self.power_uw(leaf)).sum();
        if power <= 0 || wraps < 0 {
            return refuse(format!("{target} draws nothing, so it never wraps"));
        }
        // pJ ÷ µW = µs.
        let nanos = range * i128::from(wraps) * 1_000 / i128::from(power);
        self.skip(u64::try_from(nanos).unwrap_or(0));
        Ok(())
    }

    fn second_door(&mut self, begins: bool) -> Result<()> {
        if !begins {
            return self.drop_zones(|zone| zone.id.starts_with("intel-rapl-mmio"));
        }
        let mut plans: Vec<Plan> = Vec::new();
        for zone in self.zones.iter().filter(|zone| zone.name.starts_with("package-") || zone.name == "dram") {
            // The memory of a package is its first sub-zone here, whatever it is behind the other door.
            let base = zone.id.replacen("intel-rapl:", "intel-rapl-mmio:", 1);
            let id = match (zone.name.as_str(), base.rsplit_once(':')) {
                ("dram", Some((package, _))) => format!("{package}:0"),
                _ => base,
            };
            plans.push(copy_of(zone, id, zone.name.clone()));
        }
        self.add_zones(plans)
    }

    fn mirror(&mut self, begins: bool) -> Result<()> {
        if self.profile().cpu.vendor != "AuthenticAMD" {
            return refuse("only AMD's dies mirror their package; dies of Intel have counters of their own");
        }
        if !begins {
            return self.drop_zones(|zone| zone.name.ends_with("-die-1"));
        }
        let packages = self.zones.iter().filter(|zone| zone.name.starts_with("package-"));
        let first = self.zones.len();
        let plans = packages
            .enumerate()
            .map(|(index, zone)| {
                copy_of(zone, format!("intel-rapl:{:x}", first + index), format!("{}-die-1", zone.name))
            })
            .collect();
        self.add_zones(plans)
    }

    fn add_zones(&mut self, plans: Vec<Plan>) -> Result<()> {
        let root = self.root().to_path_buf();
        for plan in plans {
            let zone = Zone::new(&root, plan)?;
            self.zones.push(zone);
        }
        Ok(())
    }

    fn drop_zones(&mut self, which: impl Fn(&Zone) -> bool) -> Result<()> {
        let (gone, kept): (Vec<Zone>, Vec<Zone>) = std::mem::take(&mut self.zones).into_iter().partition(which);
        self.zones = kept;
        // Sub-zones lie in the folders of their packages, so the last made go first.
        gone.into_iter().rev().try_for_each(|mut zone| zone.obstruct(Obstacle::Gone))
    }

    fn suspend(&mut self, seconds: i64) -> Result<()> {
        let asleep = u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000);
        self.suspended_ns = self.suspended_ns.saturating_add(asleep);
        let ids: Vec<String> = self.zones.iter().map(|zone| zone.id.clone()).collect();
        ids.iter().try_for_each(|id| self.zone(id).map(|(zone, energy)| zone.reset(energy)))
    }

    fn storm(&mut self, each_second: i64, begins: bool) -> Result<()> {
        let name = "exit-storm".to_owned();
        if !begins {
            return self.remove_workload(&name);
        }
        let children = u64::try_from(each_second).unwrap_or(0);
        self.add_workload(Workload {
            cgroup: "/system.slice/exit-storm.service".to_owned(),
            name,
            pid: 0,
            cpu_millicores: children.saturating_mul(CHILD_MILLICORES),
            gpu: None,
            sm_permille: 0,
            gpu_instance: 0,
            gpu_memory_bytes: 0,
            memory_bytes: 0,
            model: None,
            requests_per_kilosecond: 0,
            prompt_tokens: 0,
            generated_tokens: 0,
            port: None,
        })
    }

    fn change_gpu(&mut self, kind: Kind, target: &str, begins: bool) -> Result<()> {
        let now = self.now_ns();
        if kind == Kind::IndexShift {
            self.state.index_shift = u32::from(begins);
            return Ok(());
        }
        let whole = matches!(kind, Kind::LibMismatch | Kind::DriverReload | Kind::InitCrash | Kind::Unknown);
        let wanted: Vec<usize> =
            (0..self.state.gpus.len()).filter(|slot| whole || *target == format!("gpu{slot}")).collect();
        if wanted.is_empty() {
            return refuse(format!("there is no GPU {target:?} that NVML sees"));
        }
        for slot in wanted {
            let energy = self.leaf_pj(&format!("gpu{slot}"), now).unwrap_or(0);
            let Some(gpu) = self.state.gpus.get_mut(slot) else { continue };
            let mut code = |classes: &[Class], code: u32| {
                classes.iter().for_each(|class| gpu.codes[*class as usize] = if begins { code } else { 0 });
            };
            let calls = [Class::Energy, Class::Power, Class::Field, Class::Processes, Class::Other];
            match kind {
                Kind::GpuLost => {
                    code(&calls, GPU_IS_LOST);
                    code(&[Class::Handle], GPU_IS_LOST);
                }
                Kind::NotSupported => code(&[Class::Energy], NOT_SUPPORTED),
                Kind::Timeout => code(&calls, TIMEOUT),
                Kind::LibMismatch => code(&[Class::Init, Class::Count, Class::Handle], LIB_RM_VERSION_MISMATCH),
                Kind::DriverReload if begins => gpu.epoch_pj = energy,
                Kind::Hang => gpu.hang = begins,
                Kind::Crash => gpu.crash = begins,
                Kind::InitCrash => code(&[Class::Init], CRASH),
                Kind::Unknown => {
                    code(&calls, UNKNOWN);
                    code(&[Class::Count, Class::Handle], UNKNOWN);
                }
                Kind::FrozenCounter => {
                    gpu.frozen_pj = energy;
                    gpu.frozen = begins;
                }
                Kind::Hotplug => gpu.present = !begins,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A zone that shows the same register as another one.
fn copy_of(zone: &Zone, id: String, name: String) -> Plan {
    Plan {
        id,
        name,
        leaves: zone.leaves.clone(),
        part: zone.part,
        unit_nj: zone.unit_nj,
        register: zone.register(0),
        limit_uw: None,
    }
}
