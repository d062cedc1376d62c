//! The contestants: how each is started, paced and measured.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_benches::meter::{self, Memory};
use joulebook_tests::installation::AGENT_READY;
use joulebook_tests::program::{Program, binary};
use serde_json::json;

use crate::processes::{self, Arrangement};
use crate::settings::GOAL_PROCESSES;
use crate::{Bench, peer};

const SECOND: Duration = Duration::from_secs(1);
/// Cycles that pass before the first that is measured: the first batch describes every series.
const WARM_CYCLES: usize = 5;
/// Cycles in which system calls are counted: as many as rows are sent together.
const TRACED_CYCLES: usize = 5;
/// The node that the installation has a certificate for.
const NODE: &str = "under-test";
/// Ten rows a second, sent each five seconds like the others.
const FAST_SAMPLING: &str = "[sampling]\ntick = \"100ms\"\nbatch_rows = 50\n";

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// The agent; every process is in the root group, so that each has to be looked at.
    Agent,
    /// The agent; the processes sleep in containers, which tell that none of them ran.
    AgentPruned,
    /// The agent at ten rows a second of energy and one of processes, which sleep in containers. A cycle is a second of it.
    AgentFast,
    /// The agent beside processes of which some work and some have threads.
    AgentMixed,
    /// The least in C, with descriptors kept.
    FloorKept,
    /// The least in C, each file opened anew.
    FloorReopened,
    /// The least in C beside processes of which some work and some have threads.
    FloorMixed,
    /// node_exporter, which reads no processes.
    NodeExporter,
    /// scaphandre.
    Scaphandre,
}

impl Contestant {
    /// All, in the order of a round: those that are compared follow each other.
    pub const ALL: [Self; 9] = [
        Self::FloorKept,
        Self::Agent,
        Self::FloorReopened,
        Self::NodeExporter,
        Self::Scaphandre,
        Self::AgentPruned,
        Self::AgentFast,
        Self::FloorMixed,
        Self::AgentMixed,
    ];

    /// Its name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "joulebook",
            Self::AgentPruned => "joulebook-pruned",
            Self::AgentFast => "joulebook-10hz",
            Self::AgentMixed => "joulebook-mixed",
            Self::FloorKept => "floor-kept",
            Self::FloorReopened => "floor-reopened",
            Self::FloorMixed => "floor-mixed",
            Self::NodeExporter => "node_exporter",
            Self::Scaphandre => "scaphandre",
        }
    }

    /// How the processes are arranged for it.
    pub fn arrangement(self) -> Arrangement {
        match self {
            Self::AgentPruned | Self::AgentFast => Arrangement::Contained,
            Self::AgentMixed | Self::FloorMixed => Arrangement::Mixed,
            _ => Arrangement::Asleep,
        }
    }

    /// Whether it is somebody else's: a run goes on without it.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::NodeExporter | Self::Scaphandre)
    }

    /// Whether it is measured at this number of processes: some answer a question about one number only.
    pub fn runs_at(self, processes: usize) -> bool {
        !matches!(self, Self::AgentFast | Self::AgentMixed | Self::FloorMixed) || processes == GOAL_PROCESSES
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Who.
    pub contestant: Contestant,
    /// Number of processes that was wanted on the node.
    pub wanted: usize,
    /// Number that was there.
    pub processes: usize,
    /// Round, from 1.
    pub round: usize,
    /// CPU time in ms of each cycle.
    pub cycles: Vec<f64>,
    /// Memory at the end.
    pub memory: Memory,
    /// System calls a cycle, in the first round.
    pub calls: Option<f64>,
}

impl Measured {
    /// Mean CPU time of a cycle in ms. The mean and not the median: the agent sends once in five cycles.
    pub fn cpu_millis(&self) -> f64 {
        self.cycles.iter().sum::<f64>() / self.cycles.len().max(1) as f64
    }

    /// One line of JSON.
    pub fn line(&self) -> String {
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        json!({
            "contestant": self.contestant.name(),
            "processes_wanted": self.wanted,
            "processes": self.processes,
            "round": self.round,
            "cycles": self.cycles.len(),
            "cpu_milliseconds_per_cycle": rounded(self.cpu_millis()),
            "cpu_milliseconds_least": self.cycles.iter().copied().reduce(f64::min).map(rounded),
            "cpu_milliseconds_most": self.cycles.iter().copied().reduce(f64::max).map(rounded),
            "rss_anonymous_kib": self.memory.anonymous_kib,
            "rss_kib": self.memory.resident_kib,
            "system_calls_per_cycle": self.calls.map(rounded),
        })
        .to_string()
    }
}

/// How one knows that a cycle has passed.
enum Pace {
    /// It keeps the seconds by itself, this long after it was ready: half a second before and after each cycle.
    Own,
    /// Each request makes it work.
    Scraped(u16),
    /// It writes at the end of each.
    Written(PathBuf),
}

/// A contestant that runs.
struct Running {
    program: Program,
    pace: Pace,
    next: Duration,
}

impl Running {
    /// Waits until one more cycle is over.
    fn cycle(&mut self) -> Result<()> {
        if let Pace::Written(file) = &self.pace {
            return peer::wait_written(file);
        }
        self.next += SECOND;
        std::thread::sleep(self.next.saturating_sub(now()));
        if let Pace::Scraped(port) = self.pace {
            peer::scrape(port)?;
        }
        Ok(())
    }
}

impl Bench {
    /// Why a contestant cannot be measured here, if it cannot.
    pub fn obstacle(&self, contestant: Contestant) -> Option<String> {
        let missing = |name| format!("{name} is not installed; run: make bench-peers");
        match contestant {
            Contestant::AgentPruned | Contestant::AgentFast => processes::why_not_contained(),
            Contestant::NodeExporter => self.peers.node_exporter.is_none().then(|| missing("node_exporter")),
            Contestant::Scaphandre if self.peers.scaphandre.is_none() => Some(missing("scaphandre")),
            Contestant::Scaphandre => self.why_not_private.clone(),
            _ => None,
        }
    }

    /// Starts a contestant, lets it warm up, and measures its cycles.
    pub fn measure(&self, contestant: Contestant, wanted: usize, round: usize) -> Result<Measured> {
        let mut running = self.start(contestant)?;
        let pid = i32::try_from(running.program.pid())?;
        for _ in 0..WARM_CYCLES {
            running.cycle()?;
        }
        let mut before = meter::cpu_millis(pid)?;
        let mut cycles = Vec::new();
        for _ in 0..self.settings.cycles {
            running.cycle()?;
            let after = meter::cpu_millis(pid)?;
            cycles.push(after - before);
            before = after;
        }
        let (memory, processes) = (meter::memory(pid)?, processes::alive()?);
        let counted = round == 1 && meter::why_no_calls().is_none();
        let calls = counted.then(|| {
            meter::calls(pid, self.installation.folder(), || (0..TRACED_CYCLES).try_for_each(|_| running.cycle()))
        });
        let calls = calls.transpose()?.map(|calls| calls as f64 / TRACED_CYCLES as f64);
        running.program.stop()?;
        Ok(Measured { contestant, wanted, processes, round, cycles, memory, calls })
    }

    fn start(&self, contestant: Contestant) -> Result<Running> {
        let (program, pace) = match contestant {
            Contestant::FloorKept | Contestant::FloorMixed => (self.floor("kept")?, Pace::Own),
            Contestant::FloorReopened => (self.floor("reopened")?, Pace::Own),
            Contestant::NodeExporter => {
                let port = peer::free_port()?;
                let program = self.peers.node_exporter.as_deref().unwrap_or("prometheus-node-exporter".as_ref());
                let program = Program::spawn(peer::node_exporter(program, self.node.sysfs(), port))?;
                peer::wait_answering(port)?;
                (program, Pace::Scraped(port))
            }
            Contestant::Scaphandre => {
                let file = self.installation.folder().join("scaphandre.json");
                // What an earlier one wrote is no sign that this one works.
                std::fs::write(&file, "")?;
                let program = self.peers.scaphandre.as_deref().unwrap_or("scaphandre".as_ref());
                let program = Program::spawn(peer::scaphandre(program, &file, &self.tools.modules)?)?;
                peer::wait_written(&file)?;
                (program, Pace::Written(file))
            }
            agent => (self.agent(agent)?, Pace::Own),
        };
        // Its own cycles come at whole seconds from now.
        Ok(Running { program, pace, next: now() + SECOND / 2 })
    }

    fn floor(&self, mode: &str) -> Result<Program> {
        let mut command = Command::new(&self.tools.floor);
        command.arg(mode).arg(self.node.sysfs()).arg(SECOND.as_millis().to_string());
        let program = Program::spawn(command)?;
        program.wait_for("^ready$")?;
        Ok(program)
    }

    /// An agent on a spool of its own, which sends to the aggregator of this run over mutual TLS.
    fn agent(&self, contestant: Contestant) -> Result<Program> {
        let number = self.agents.get();
        self.agents.set(number + 1);
        let folder = self.installation.folder().join(format!("agent-{number}"));
        std::fs::create_dir(&folder)?;
        let no_groups = folder.join("no-groups");
        std::fs::create_dir(&no_groups)?;
        let contained = contestant.arrangement() == Arrangement::Contained;
        let groups = if contained { PathBuf::from("/sys/fs/cgroup") } else { no_groups };
        let config = folder.join("agent.toml");
        let sampling = if contestant == Contestant::AgentFast { FAST_SAMPLING } else { "" };
        std::fs::write(&config, format!("{}\n{sampling}", self.installation.connection(NODE)))?;
        let mut command = Command::new(binary("joulebook-agent")?);
        command
            .arg("--config")
            .arg(config)
            .arg("--spool-dir")
            .arg(folder.join("spool"))
            .arg("--sysfs-root")
            .arg(self.node.sysfs());
        command.arg("--cgroup-root").arg(groups);
        let program = Program::spawn(command)?;
        program.wait_for(AGENT_READY)?;
        ensure!(!program.said().contains("estimated"), "the agent reads no energy counter: {}", program.said());
        Ok(program)
    }
}

fn now() -> Duration {
    Duration::from_nanos(SystemClock.boot().0)
}
