//! What a series measures: its descriptor. Rows carry numbers only; a descriptor is sent once per stream and series.

use crate::count::{Consumption, CountKind};
use crate::quantity::Milliwatts;
use crate::serving::Serving;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The part of a node that an energy source meters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// CPU package(s), cores and uncore included.
    Cpu,
    /// Memory modules.
    Dram,
    /// GPU or another accelerator, its own memory included.
    Accelerator,
    /// No part but what is metered at an input: of the node, or of several nodes as its [`Scope`] says. It contains parts
    /// and is never added to them.
    Wall,
    /// Another metered part (NIC, switch, disk).
    Other,
}

impl Component {
    /// Its name in answers and findings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Dram => "dram",
            Self::Accelerator => "accelerator",
            Self::Wall => "wall",
            Self::Other => "other",
        }
    }
}

/// How an energy value comes about. One total never mixes methods without saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Difference of a hardware energy counter.
    Counter,
    /// Integral of measured power.
    IntegratedPower,
    /// Model of utilisation: no sensor was read.
    Estimated,
}

/// Where an idle power comes from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdleOrigin {
    /// Stated in the agent's configuration.
    Configured,
    /// 5th percentile of the power measured while the CPU was less than 2 % busy.
    Learned,
    /// Derived from a table row that matches the hardware.
    Table,
    /// Per-thread default, no row matched.
    Default,
}

/// A layer of the tree of containment, from the inside out. Parts of a node are below all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Several parts of one node together, behind its power supplies: psys, the module of a superchip.
    Board,
    /// One node at its input.
    Node,
    /// Nodes that share power supplies.
    Enclosure,
    /// The nodes behind a rack's distribution unit.
    Rack,
    /// A site at its main meter, cooling included.
    Site,
}

impl Layer {
    /// All, from the inside out.
    pub const ALL: [Self; 5] = [Self::Board, Self::Node, Self::Enclosure, Self::Rack, Self::Site];

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Board => "board",
            Self::Node => "node",
            Self::Enclosure => "enclosure",
            Self::Rack => "rack",
            Self::Site => "site",
        }
    }
}

/// What a source contains that meters more than a part: a layer is shown beside what it contains and never added to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The layer.
    pub layer: Layer,
    /// Name of what is metered: of the enclosure, rack or site; "" for a board or node, of which the source's node has one.
    pub name: String,
    /// What it contains: ids of sources for a board, names of nodes for the layers above the node. Empty where it is not
    /// declared: a site then contains the nodes that are placed in it.
    pub members: Vec<String>,
}

/// One energy source of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Identity within the node, for example `rapl/package-0` or `estimate/cpu`.
    pub id: String,
    /// The part it meters.
    pub component: Component,
    /// CPU socket, where it belongs to one.
    pub socket: Option<u32>,
    /// Hardware identity of a device (a GPU's UUID), where there is one.
    pub device: Option<String>,
    /// Name of the collector that reads it.
    pub collector: String,
    /// How its values come about.
    pub method: Method,
    /// Energy of one count of the hardware counter in nanojoules, where it has one.
    pub unit_nanojoules: Option<u64>,
    /// Highest power it can plausibly show.
    pub ceiling: Milliwatts,
    /// Half-width of the 95 % interval of its energy in thousandths of the value.
    pub uncertainty_permille: u32,
    /// The source that contains this one, if any: the two are never added.
    pub contained_in: Option<String>,
    /// The layer that it meters. Absent for a part of the node, and for [`Component::Wall`] where it is the node itself.
    pub scope: Option<Scope>,
    /// What it stands on: the table row an estimate matched, the file a counter is read from.
    pub basis: String,
}

/// Collector whose only source of [`Component::Wall`] is psys, which lies behind the power supply.
const PSYS_COLLECTOR: &str = "rapl";

impl Source {
    /// Whether its energy is added to that of its node's other parts: it is a part, and no other source contains it.
    pub fn is_part(&self) -> bool {
        self.contained_in.is_none() && self.layer().is_none()
    }

    /// The layer that it meters; absent for a part of the node.
    pub fn layer(&self) -> Option<Layer> {
        layer(self.scope.as_ref(), self.component, &self.collector)
    }
}

/// The layer that a source meters, by what it says of itself; absent for a part of the node. A wall without a scope is the
/// node's input, but for psys: agents that know no scopes told it so.
pub fn layer(scope: Option<&Scope>, component: Component, collector: &str) -> Option<Layer> {
    match (scope, component) {
        (Some(scope), _) => Some(scope.layer),
        (None, Component::Wall) if collector == PSYS_COLLECTOR => Some(Layer::Board),
        (None, Component::Wall) => Some(Layer::Node),
        (None, _) => None,
    }
}

/// What kind of thing a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// A container (one cgroup scope).
    Container,
    /// A systemd unit.
    Unit,
    /// A control group that is neither.
    Cgroup,
    /// A process and its descendants.
    ProcessTree,
    /// Kernel threads.
    Kernel,
    /// Everything of the node that no other workload covers: root total − child cgroups − process trees.
    Remainder,
}

/// A program of Joulebook whose processes have rows of their own, in whatever group they run: what the book itself costs.
///
/// A row is told by its name, which is the program's. Processes are known by their command names, so whoever calls itself so is
/// taken for it: the label moves no energy, and the row keeps its container and pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnProgram {
    /// The agent, and its helpers that hold a vendor's library.
    Agent,
    /// The aggregator.
    Aggregator,
}

impl OwnProgram {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Aggregator];
    /// Bytes of a command name that the kernel keeps.
    const COMMAND_BYTES: usize = 15;

    /// Name of its rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "joulebook-agent",
            Self::Aggregator => "joulebook-aggregator",
        }
    }

    /// What it is called where everything is Joulebook's.
    pub fn part(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Aggregator => "aggregator",
        }
    }

    /// The program of a command name as the kernel keeps it, cut.
    pub fn of_command(command: &str) -> Option<Self> {
        let cut = |program: &Self| program.name().get(..Self::COMMAND_BYTES).unwrap_or(program.name());
        Self::ALL.into_iter().find(|program| cut(program) == command)
    }
}

/// How a workload's CPU time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuTimeMethod {
    /// The cgroup's own counter: exact, ended processes included.
    Cgroup,
    /// Sum over processes (utime + stime by pid and start time).
    ProcessTime,
}

/// Something that uses the node: the unit energy is attributed to before models are known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// Identity within the node, for example `container/<64 hex>`, `unit/nginx.service`, `process/4711@98765`.
    pub id: String,
    /// What kind of thing it is.
    pub kind: WorkloadKind,
    /// A name for people: unit name, command name, container id cut to 12; of Joulebook's own processes that of their
    /// [`OwnProgram`].
    pub name: String,
    /// Its control group's path, where it has one of its own.
    pub cgroup: Option<String>,
    /// Container id (64 hex), where known.
    pub container_id: Option<String>,
    /// Kubernetes pod uid, where known.
    pub pod_uid: Option<String>,
    /// How its CPU time is counted.
    pub cpu_time_method: CpuTimeMethod,
    /// CPU reservation in thousandths of a core; absent reserves nothing.
    pub reserved_millicores: Option<u64>,
    /// Where the reservation comes from: `config`, `container_request`, `cpuset`, `quota`.
    pub reservation_origin: Option<String>,
    /// Identity of the workload that this one is a part of: a server's own processes for one model version, say. The
    /// two are counted apart, and services of the part share what the rest of the whole uses.
    pub part_of: Option<String>,
    /// The service group that it works for, where that is known: servers on whatever nodes that work on the same requests.
    pub group: Option<String>,
    /// The inference engine whose processes it holds, where they are known by their commands: its energy serves a model even
    /// where no counts tell which.
    pub engine: Option<String>,
    /// The pod that it runs in, as the cluster describes it; absent outside of clusters and until that is told.
    pub pod: Option<PodIdentity>,
}

/// A pod: its name, and what its labels say of whose it is and what it is there for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: Option<String>,
    /// The serving pool that it belongs to.
    pub pool: Option<String>,
    /// The pool that it is there for without serving a model itself.
    pub support_of: Option<String>,
    /// The model version, or the pool of training, that it works on.
    pub training_of: Option<String>,
}

impl Workload {
    /// The program of Joulebook whose process it is, if it is one.
    pub fn own_program(&self) -> Option<OwnProgram> {
        let is_process = self.kind == WorkloadKind::ProcessTree && self.part_of.is_none();
        OwnProgram::ALL.into_iter().find(|program| is_process && program.name() == self.name)
    }

    /// A workload of which nothing else is known; its CPU time, if it has any, is that of its processes.
    pub fn bare(id: impl Into<String>, kind: WorkloadKind, name: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            kind,
            name: name.into(),
            cgroup: None,
            container_id: None,
            pod_uid: None,
            cpu_time_method: CpuTimeMethod::ProcessTime,
            reserved_millicores: None,
            reservation_origin: None,
            part_of: None,
            group: None,
            engine: None,
            pod: None,
        }
    }
}

/// Where a model version's name comes from (resolution order of the identity rules).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VersionSource {
    /// Stated for the target in the configuration.
    Config,
    /// Pushed by the application.
    Pushed,
    /// A label of the metric page.
    Label,
    /// The label held a word that is no version (`latest`, `None`, …); no version is known.
    DenyList,
    /// The engine's own information endpoint.
    EngineApi,
    /// A pod label or annotation.
    PodLabel,
    /// The process: command line, environment or the weights file it maps.
    Process,
    /// The container image's digest.
    Image,
    /// Nothing told.
    Unresolved,
    /// Nothing told, and what could have told may not be read (the process of another user, say).
    NotReadable,
    /// The tag of the container's image, where its digest is not known: weak, since a tag can be moved to another image.
    ImageTag,
}

/// One served model version at one counting point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// Model name as served; absent if nothing names it.
    pub model: Option<String>,
    /// Version; absent if unresolved.
    pub version: Option<String>,
    /// Where the version comes from.
    pub version_source: VersionSource,
    /// Digest or other fingerprint of the weights, where one is known (`sha256:…`, `gguf:…`).
    pub fingerprint: Option<String>,
    /// LoRA or other adapter; `*` when adapters are counted in the base.
    pub adapter: Option<String>,
    /// Preset that reads it (`llamacpp`, `custom`, …).
    pub engine: String,
    /// The target it is counted at, as configured or discovered.
    pub target: String,
    /// Identity of the workload that does its work; absent if no process could be found.
    pub workload: Option<String>,
    /// Tokenizer, where known: token units are comparable only within one.
    pub tokenizer: Option<String>,
    /// What is behind the name, and how it is set up.
    pub serving: Serving,
}

/// What one series measures, and in which unit.
///
/// *Cumulative* series (energy, CPU time, counts) never fall within a stream: the amount between two points is their
/// difference. *Held* series (memory, idle power, reservations) give the value that held since the point before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Cumulative energy of a source in µJ.
    Energy(Arc<Source>),
    /// Held idle power of the source with this id in mW, and where it comes from: its floor, with nothing resident.
    IdlePower {
        /// Id of the source.
        source: String,
        /// Where the value comes from.
        origin: IdleOrigin,
    },
    /// Held power in mW of the source with this id while something is resident on its device and nothing runs: what a
    /// loaded model draws at rest. Told for people; the floor that splits base from dynamic energy is the other one.
    ResidentIdlePower {
        /// Id of the source.
        source: String,
    },
    /// Cumulative CPU time of a workload in ns.
    CpuTime(Arc<Workload>),
    /// Held resident memory of the workload with this id in bytes.
    Memory {
        /// Id of the workload.
        workload: String,
    },
    /// Held memory in use on the node in bytes (total − available).
    NodeMemoryUsed,
    /// Cumulative count of a service.
    Count(Arc<Service>, CountKind),
    /// Cumulative count of what a consumer had from an upstream of a gateway. It is no count of a service: where the
    /// upstream is one, it says whose that service's work was.
    Consumption(Arc<Consumption>, CountKind),
    /// Cumulative busy time of an accelerator in ns: utilisation × time. Known exactly while the list of the processes
    /// on the device is: a workload that has a point is resident, and where the device has one and no workload does,
    /// nothing is.
    DeviceTime {
        /// Hardware identity of the device, as its source names it.
        device: String,
        /// Identity of the workload that used it; absent for the device as a whole.
        workload: Option<String>,
    },
    /// Held memory in bytes that a workload has on an accelerator.
    DeviceMemory {
        /// Hardware identity of the device.
        device: String,
        /// Identity of the workload.
        workload: String,
    },
    /// Held compute slices, in millionths of one, that a workload has of an accelerator that is divided into instances.
    /// Slices that no workload holds belong to nobody, also where only one workload is on the device.
    DeviceSlices {
        /// Hardware identity of the device.
        device: String,
        /// Identity of the workload.
        workload: String,
        /// Slices of the whole device, from 1.
        of: u32,
    },
}

impl Subject {
    /// Whether values accumulate (and never fall) rather than hold.
    pub fn is_cumulative(&self) -> bool {
        matches!(
            self,
            Self::Energy(_) | Self::CpuTime(_) | Self::Count(..) | Self::Consumption(..) | Self::DeviceTime { .. }
        )
    }
}
