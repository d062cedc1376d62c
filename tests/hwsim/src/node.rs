//! The node: owns truth, views and clock. What is shown is always a function of the truth at the node's time.

use crate::dcmi::Dcmi;
use crate::error::{Result, SimError, at};
use crate::fault::Active;
use crate::gpu::{self, StateFile};
use crate::hwmon::{self, Meter};
use crate::powercap::{Plan, Zone};
use crate::profile::{Levels, Profile};
use crate::redfish::Bmc;
use crate::truth::Leaf;
use crate::workload::{Table, Workload};
use hwsim_nvml::state::{ACTIVITY_COUNTERS, Gpu, MOST_INSTANCES, Process, State};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads of a package: what the machine can be busy with.
const THREADS_OF_A_SOCKET: u32 = 64;
/// Cores of which the zone `core` of AMD counts one.
const CORES: u32 = 64;
/// Compute slices of a GPU that can be divided.
const WHOLE_SLICES: u32 = 7;

/// How a node is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether time moves by [`Node::step`] only.
    pub manual: bool,
    /// Counts that registers are below their wrap at simulated 0; each differs by the seed.
    pub below_wrap: u32,
    /// Makes registers differ.
    pub seed: u32,
    /// Whether zones tell power limits.
    pub limits: bool,
    /// What the boot clock shows at simulated 0, in ns: processes start on it.
    pub booted_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { manual: true, below_wrap: 1_000_000, seed: 1, limits: true, booted_ns: 0 }
    }
}

/// Exact energy over a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// µJ by leaf.
    pub leaves: BTreeMap<String, i128>,
    /// µJ by zone of the powercap view.
    pub zones: BTreeMap<String, i128>,
    /// µJ by channel of the hwmon view.
    pub meters: BTreeMap<String, i128>,
}

/// A simulated node.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    profile: Profile,
    options: Options,
    t0_ns: u64,
    now_ns: u64,
    levels: BTreeMap<String, Levels>,
    leaves: BTreeMap<String, Leaf>,
    pub(crate) zones: Vec<Zone>,
    pub(crate) meters: Vec<Meter>,
    pub(crate) state: State,
    file: StateFile,
    pub(crate) table: Table,
    pub(crate) active: Vec<Active>,
    /// By how much the wall clock was set, in ms.
    pub(crate) wall_offset_ms: i64,
    /// Time spent asleep, which the boot clock counts and the simulated time does not.
    pub(crate) suspended_ns: u64,
    /// Power at the input in mW when it was last shown: what a BMC's sensors see.
    input_mw: Arc<AtomicU64>,
    bmc: Option<Arc<Bmc>>,
    /// By how much its sensors are late.
    bmc_lag_ns: u64,
    dcmi: Dcmi,
}

/// A workload's process as its GPU shows it.
fn on_gpu(workload: &Workload) -> Process {
    let memory_mib = u32::try_from(workload.gpu_memory_bytes >> 20).unwrap_or(u32::MAX);
    Process { pid: workload.pid, sm_permille: workload.sm_permille, memory_mib, instance: workload.gpu_instance }
}

/// Use of a whole GPU in permille by a workload that may be on an instance of it.
fn of_device(device: Option<&Gpu>, workload: &Workload) -> u32 {
    let index = usize::from(workload.gpu_instance).checked_sub(1);
    match index.and_then(|index| device?.instance(index)) {
        Some(slices) => workload.sm_permille * u32::from(slices) / WHOLE_SLICES,
        None => workload.sm_permille,
    }
}

/// CLOCK_MONOTONIC in ns.
fn monotonic() -> u64 {
    let nanos = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()));
    u64::try_from(nanos).unwrap_or(0)
}

impl Node {
    /// Makes the tree of a node at rest below `root`.
    pub fn new(profile: Profile, root: &Path, options: Options) -> Result<Self> {
        let run = root.join("run");
        std::fs::create_dir_all(&run).map_err(at(&run))?;
        let levels = profile.leaves();
        let leaves = levels.iter().map(|(name, levels)| (name.clone(), Leaf::new(levels.idle.microwatts()))).collect();
        let t0_ns = monotonic();
        let driver = profile.gpus.as_ref().map(|gpus| gpus.driver.clone()).unwrap_or_default();
        let gpus = gpu::devices(&profile);
        let state = State { manual: options.manual, now_ns: 0, t0_ns, index_shift: 0, driver, gpus };
        let table = Table::new(root, &profile.cpu, THREADS_OF_A_SOCKET, options.booted_ns)?;
        let mut node = Self {
            root: root.to_path_buf(),
            zones: Vec::new(),
            meters: Vec::new(),
            file: StateFile::new(root, &state)?,
            profile,
            options,
            t0_ns,
            now_ns: 0,
            levels,
            leaves,
            state,
            table,
            active: Vec::new(),
            wall_offset_ms: 0,
            suspended_ns: 0,
            input_mw: Arc::default(),
            bmc: None,
            bmc_lag_ns: 0,
            dcmi: Dcmi::new(root),
        };
        for plan in node.plans() {
            node.zones.push(Zone::new(root, plan)?);
        }
        for plan in hwmon::plans(&node.profile, &node.leaf_names()) {
            node.meters.push(Meter::new(root, plan)?);
        }
        node.publish()?;
        Ok(node)
    }

    fn plans(&self) -> Vec<Plan> {
        let Some(rapl) = &self.profile.cpu.rapl else { return Vec::new() };
        let limit = self.options.limits.then(|| u64::from(self.profile.cpu.tdp_w) * 1_000_000);
        let mut plans: Vec<Plan> = Vec::new();
        let mut plan = |id: String, name: String, leaves: Vec<String>, part, unit_nj, limit_uw| {
            let below =
                self.options.below_wrap.wrapping_add(self.options.seed.wrapping_mul(7_919 * (plans.len() as u32 + 1)));
            plans.push(Plan { id, name, leaves, part, unit_nj, register: u32::MAX - below, limit_uw });
        };
        for socket in 0..self.profile.cpu.sockets {
            let package = format!("intel-rapl:{socket:x}");
            plan(
                package.clone(),
                format!("package-{socket}"),
                vec![format!("cpu{socket}.pkg")],
                1,
                rapl.unit_nj,
                limit,
            );
            for (index, zone) in rapl.zones.iter().filter(|zone| *zone != "package").enumerate() {
                let (leaf, part, unit) = match zone.as_str() {
                    "dram" => (format!("cpu{socket}.dram"), 1, rapl.dram_unit_nj.unwrap_or(rapl.unit_nj)),
                    _ => (format!("cpu{socket}.pkg"), CORES, rapl.unit_nj),
                };
                plan(format!("{package}:{index:x}"), zone.clone(), vec![leaf], part, unit, None);
            }
        }
        if rapl.psys {
            let leaves = self.leaves.keys().filter(|leaf| !leaf.starts_with("gpu")).cloned().collect();
            let (id, unit) = (format!("intel-rapl:{:x}", self.profile.cpu.sockets), rapl.psys_unit_nj);
            plan(id, "psys".to_owned(), leaves, 1, unit.unwrap_or(rapl.unit_nj), None);
        }
        plans
    }

    /// The folder of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether anyone has read counters of activity of a GPU: on a real one they raise its idle power.
    pub fn read_activity_counters(&self) -> bool {
        self.root.join("run").join(ACTIVITY_COUNTERS).exists()
    }

    /// The profile.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// CLOCK_MONOTONIC at simulated 0, in ns.
    pub fn t0_ns(&self) -> u64 {
        self.t0_ns
    }

    /// Simulated time in ns.
    pub fn now_ns(&self) -> u64 {
        if self.options.manual { self.now_ns } else { monotonic().saturating_sub(self.t0_ns) }
    }

    /// Simulated time in ns of what the views show.
    pub fn shown_ns(&self) -> u64 {
        self.state.now_ns
    }

    /// The node's boot clock in ns: simulated time and time asleep.
    pub fn boot_ns(&self) -> u64 {
        self.now_ns() + self.suspended_ns
    }

    /// By how much the node's wall clock was set, in ms.
    pub fn wall_offset_ms(&self) -> i64 {
        self.wall_offset_ms
    }

    /// Whether time moves by hand.
    pub fn is_manual(&self) -> bool {
        self.options.manual
    }

    /// Whether there are GPUs that NVML sees.
    pub fn has_nvml(&self) -> bool {
        !self.state.gpus.is_empty()
    }

    /// The powercap zones.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The workload table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Names of the leaves.
    pub fn leaf_names(&self) -> Vec<String> {
        self.leaves.keys().cloned().collect()
    }

    /// Sets the power of a leaf in µW from now on, at once or by a ramp.
    pub fn set(&mut self, leaf: &str, p_uw: i64, ramp_ns: u64) -> Result<()> {
        if p_uw < 0 {
            return Err(SimError::Request(format!("a leaf cannot draw {p_uw} µW")));
        }
        let now = self.now_ns();
        let found = self.leaves.get_mut(leaf);
        found.ok_or_else(|| SimError::Request(format!("there is no leaf {leaf:?}")))?.set(now, p_uw, ramp_ns);
        self.publish()
    }

    /// Moves a manual clock; faults that end on the way end at their time.
    pub fn step(&mut self, nanos: u64) -> Result<()> {
        if !self.options.manual {
            return Err(SimError::Request("a real clock cannot be stepped; start with --clock manual".to_owned()));
        }
        let end = self.now_ns.saturating_add(nanos);
        while let Some(next) = self.active.iter().map(|active| active.until_ns).min().filter(|next| *next <= end) {
            self.now_ns = next.max(self.now_ns);
            self.end_faults()?;
        }
        self.now_ns = end;
        self.publish()
    }

    /// Moves a manual clock without showing anything on the way or after it.
    pub(crate) fn skip(&mut self, nanos: u64) {
        self.now_ns = self.now_ns.saturating_add(nanos);
    }

    /// Brings every view up to now. With a real clock this is the tick.
    pub fn publish(&mut self) -> Result<()> {
        self.end_faults()?;
        let now = self.now_ns();
        for zone in &self.zones {
            zone.show(self.zone_pj(zone, now))?;
        }
        for meter in &self.meters {
            meter.show(self.meter_value(meter, now))?;
        }
        self.table.show(now)?;
        self.state.now_ns = now;
        let module: i64 = self
            .leaves
            .iter()
            .filter(|(name, _)| name.starts_with("grace") || name.starts_with("gpu"))
            .map(|(_, leaf)| leaf.power_uw(now))
            .sum();
        let tells_module = self.profile.gpus.as_ref().is_some_and(|gpus| gpus.field_scope_module);
        for (slot, gpu) in self.state.gpus.iter_mut().enumerate() {
            if let Some(leaf) = self.leaves.get(&format!("gpu{slot}")) {
                gpu.segments = leaf.latest(now);
            }
            let here = |workload: &&Workload| workload.gpu.is_some_and(|gpu| gpu as usize == slot);
            gpu.processes = self.table.workloads().filter(here).map(on_gpu).collect();
            if tells_module {
                gpu.module_mw = u32::try_from(module / 1_000).unwrap_or(0);
            }
        }
        let seen = self.input_uw(now.saturating_sub(self.bmc_lag_ns));
        let input_mw = u64::try_from(seen / 1_000).unwrap_or(0);
        self.input_mw.store(input_mw, Ordering::Relaxed);
        let refresh_s = self.profile.bmc.map_or(1, |bmc| bmc.refresh_s);
        self.dcmi.show(now, refresh_s.saturating_mul(1_000_000_000), input_mw)?;
        self.file.write(&self.state)
    }

    /// Power of the whole node at its input in µW at an instant: what its parts draw, and what its supplies lose at this load.
    pub fn input_uw(&self, t_ns: u64) -> i64 {
        let parts: i64 = self.leaves.values().map(|leaf| leaf.power_uw(t_ns)).sum();
        let Some(efficiency) = self.profile.psu_efficiency else { return parts };
        let sum = |of: fn(&Levels) -> i64| self.levels.values().map(of).sum::<i64>();
        let (rest, work) = (sum(|levels| levels.idle.microwatts()), sum(|levels| levels.active.microwatts()));
        let load = if work > rest { (parts - rest) as f64 / (work - rest) as f64 } else { 0.0 };
        let efficiency = efficiency.idle + (efficiency.active - efficiency.idle) * load.clamp(0.0, 1.0);
        (parts as f64 / efficiency).round() as i64
    }

    /// From now on the BMC's sensors see what was drawn so long ago.
    pub fn set_bmc_lag(&mut self, nanos: u64) {
        self.bmc_lag_ns = nanos;
    }

    /// The power at the input in mW that was last shown, for a BMC to read.
    pub fn input_meter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.input_mw)
    }

    /// The BMC that faults are for.
    pub fn set_bmc(&mut self, bmc: Arc<Bmc>) {
        self.bmc = Some(bmc);
    }

    /// It.
    pub fn bmc(&self) -> Option<&Bmc> {
        self.bmc.as_deref()
    }

    /// Energy of a zone's leaves in pJ from simulated 0, before the zone's part is taken.
    pub(crate) fn zone_pj(&self, zone: &Zone, t_ns: u64) -> i128 {
        zone.leaves.iter().filter_map(|leaf| self.leaves.get(leaf)).map(|leaf| leaf.energy_pj(t_ns)).sum()
    }

    /// Energy of a meter's leaves in pJ from simulated 0, before the meter's share is taken.
    fn meter_pj(&self, meter: &Meter, t_ns: u64) -> i128 {
        meter.leaves().iter().filter_map(|leaf| self.leaves.get(leaf)).map(|leaf| leaf.energy_pj(t_ns)).sum()
    }

    /// What a channel of hwmon shows: µW over its window, or µJ.
    pub(crate) fn meter_value(&self, meter: &Meter, t_ns: u64) -> i128 {
        let value = match meter.window_ns() {
            None => self.meter_pj(meter, t_ns) / 1_000_000,
            Some(window) if window.min(t_ns) > 0 => {
                let nanos = window.min(t_ns);
                // pJ ÷ ns = mW.
                (self.meter_pj(meter, t_ns) - self.meter_pj(meter, t_ns - nanos)) * 1_000 / i128::from(nanos)
            }
            Some(_) => {
                let leaves = meter.leaves().iter().filter_map(|leaf| self.leaves.get(leaf));
                leaves.map(|leaf| i128::from(leaf.power_uw(t_ns))).sum()
            }
        };
        meter.share(value)
    }

    /// The channels of hwmon.
    pub fn meters(&self) -> &[Meter] {
        &self.meters
    }

    /// Energy of a leaf in pJ from simulated 0; `None` if there is no such leaf.
    pub fn leaf_pj(&self, leaf: &str, t_ns: u64) -> Option<i128> {
        self.leaves.get(leaf).map(|leaf| leaf.energy_pj(t_ns))
    }

    /// Power of a leaf in µW now; `None` if there is no such leaf.
    pub fn power_uw(&self, leaf: &str) -> Option<i64> {
        self.leaves.get(leaf).map(|leaf| leaf.power_uw(self.now_ns()))
    }

    /// Exact energy in whole µJ over a window of simulated time.
    pub fn truth(&self, from_ns: u64, to_ns: u64) -> Truth {
        let leaves = self.leaves.iter().map(|(name, leaf)| {
            (name.clone(), (leaf.energy_pj(to_ns) - leaf.energy_pj(from_ns)).div_euclid(1_000_000))
        });
        let zones = self.zones.iter().map(|zone| {
            let energy = self.zone_pj(zone, to_ns) - self.zone_pj(zone, from_ns);
            (zone.id.clone(), (energy / i128::from(zone.part)).div_euclid(1_000_000))
        });
        let meters = self.meters.iter().map(|meter| {
            let energy = self.meter_pj(meter, to_ns) - self.meter_pj(meter, from_ns);
            (meter.id(), meter.share(energy).div_euclid(1_000_000))
        });
        Truth { leaves: leaves.collect(), zones: zones.collect(), meters: meters.collect() }
    }

    /// Adds a workload; processors and its GPU then draw by their use.
    pub fn add_workload(&mut self, workload: Workload) -> Result<()> {
        self.table.add(self.now_ns(), workload)?;
        self.level()
    }

    /// Ends a workload.
    pub fn remove_workload(&mut self, name: &str) -> Result<()> {
        if !self.table.remove(self.now_ns(), name)? {
            return Err(SimError::Request(format!("there is no workload {name:?}")));
        }
        self.level()
    }

    /// Divides a GPU into instances of so many compute slices (MIG); none joins it again.
    pub fn divide(&mut self, gpu: u32, slices: &[u8]) -> Result<()> {
        let refused = |why: &str| Err(SimError::Request(why.to_owned()));
        if slices.len() > MOST_INSTANCES || slices.iter().map(|slices| u32::from(*slices)).sum::<u32>() > WHOLE_SLICES {
            return refused("a GPU has seven slices");
        }
        let slot = usize::try_from(gpu).unwrap_or(usize::MAX);
        let Some(device) = self.state.gpus.get_mut(slot).filter(|device| device.mig_capable) else {
            return refused("there is no such GPU that could be divided");
        };
        device.slices = std::array::from_fn(|index| slices.get(index).copied().unwrap_or(0));
        self.level()
    }

    /// CPU time of a control group in ns since it was made.
    pub fn group_nanos(&mut self, path: &str) -> Option<u64> {
        let now = self.now_ns();
        self.table.group_nanos(now, path)
    }

    /// Sets the power of processors, memory and GPUs by the use that the table makes of them.
    fn level(&mut self) -> Result<()> {
        let now = self.now_ns();
        let busy: u64 = self.table.workloads().map(|workload| workload.cpu_millicores).sum();
        let cpu = i64::try_from(busy / self.table.threads().max(1)).unwrap_or(1_000).min(1_000);
        for (name, levels) in &self.levels {
            let gpu = name.strip_prefix("gpu").and_then(|slot| slot.parse::<u32>().ok());
            let holders: Vec<&Workload> =
                self.table.workloads().filter(|workload| gpu.is_some() && workload.gpu == gpu).collect();
            let used = match gpu {
                Some(slot) => {
                    let device = usize::try_from(slot).ok().and_then(|slot| self.state.gpus.get(slot));
                    let used = holders.iter().map(|holder| of_device(device, holder)).sum::<u32>();
                    i64::from(used.min(1_000))
                }
                None if name.starts_with("cpu") => cpu,
                None => continue,
            };
            let idle = if holders.is_empty() { levels.idle } else { levels.loaded_idle.unwrap_or(levels.idle) };
            let (idle, active) = (idle.microwatts(), levels.active.microwatts());
            if let Some(leaf) = self.leaves.get_mut(name) {
                leaf.set(now, idle + (active - idle) * used / 1_000, 0);
            }
        }
        self.publish()
    }
}
