//! Aggregator, agent and operator's tool in one temporary folder, with mutual TLS between them as users have it. Their
//! configuration keys stand here only.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use joulebook_aggregator::clock::{Clock, SystemClock};
use joulebook_aggregator::dev_certs;
use serde_json::Value;
use tempfile::TempDir;

use crate::chaos::server::ANY_DISK;
use crate::program::{Program, binary};

/// What the aggregator says when it is ready; an error about the same address goes on behind it.
const AGGREGATOR_READY: &str = r"listening on ([0-9.:\[\]a-f]+:\d+)$";
/// Name of the node.
const NODE: &str = "under-test";
/// What the agent says when its first tick is set.
pub const AGENT_READY: &str = "sampling every";

/// A folder for everything, and where the aggregator listens once it runs.
pub struct Installation {
    folder: TempDir,
    address: String,
    /// Further keys of the aggregator.
    keys: String,
    /// The aggregator's list of pollers.
    pollers: String,
}

/// A server that an agent reads.
pub struct Target {
    /// URL of its metric page.
    pub url: String,
    /// Preset that reads it.
    pub preset: &'static str,
    /// CPU cores that are kept for it, if any.
    pub reserved_cores: Option<f64>,
}

/// What an agent is to do.
#[derive(Default)]
pub struct AgentSettings {
    /// sysfs root; none is the machine's own.
    pub sysfs: Option<PathBuf>,
    /// Inference servers.
    pub targets: Vec<Target>,
    /// Further tables of the configuration.
    pub more: String,
    /// Further keys of the last of them, TOML.
    pub keys: String,
    /// Whether acknowledged records stay in the spool, so that a test can read everything that was ever sent.
    pub keep_spool: bool,
}

impl Installation {
    /// A new folder with an aggregator that runs in it.
    pub fn start() -> Result<(Self, Program)> {
        Self::make(&[NODE, "simulated"], &[], |_| String::new())
    }

    /// The same with further keys of the aggregator's configuration, made for the folder.
    pub fn start_with(keys: impl FnOnce(&Path) -> String) -> Result<(Self, Program)> {
        Self::make(&[NODE, "simulated"], &[], keys)
    }

    /// The same for these nodes, and for pollers with the nodes that each may speak for.
    pub fn of(nodes: &[&str], pollers: &[(&str, &[&str])]) -> Result<(Self, Program)> {
        Self::make(nodes, pollers, |_| String::new())
    }

    fn make(
        nodes: &[&str],
        pollers: &[(&str, &[&str])],
        keys: impl FnOnce(&Path) -> String,
    ) -> Result<(Self, Program)> {
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let names = nodes.iter().map(|node| node.parse()).collect::<Result<Vec<_>, _>>()?;
        let outside = pollers.iter().map(|(poller, _)| poller.parse()).collect::<Result<Vec<_>, _>>()?;
        dev_certs::write(&folder.path().join("certs"), &names, &outside, SystemClock.unix())?;
        let list = |(poller, nodes): &(&str, &[&str])| format!("[[poller]]\nname = \"{poller}\"\nnodes = {nodes:?}\n");
        let pollers = pollers.iter().map(list).collect();
        let keys = keys(folder.path());
        let mut installation = Self { folder, address: "127.0.0.1:0".to_owned(), keys, pollers };
        let aggregator = installation.start_aggregator()?;
        Ok((installation, aggregator))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file of the certificates that all three programs use.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder().join("certs").join(name)
    }

    /// Where the agent keeps its records.
    pub fn spool(&self) -> PathBuf {
        self.folder().join("spool")
    }

    /// Starts the aggregator on the folder: the first time on a free port, afterwards on the same one.
    pub fn start_aggregator(&mut self) -> Result<Program> {
        let config = format!(
            "listen = \"{}\"\ndata_dir = \"{}\"\n{}\n{ANY_DISK}\n[tls]\n{}client_ca = \"{}\"\n{}",
            self.address,
            self.folder().join("aggregator").display(),
            self.keys,
            self.pair("server"),
            self.certificate("ca.crt").display(),
            self.pollers,
        );
        let path = self.folder().join("aggregator.toml");
        std::fs::write(&path, config)?;
        let arguments = ["--config".into(), path.into_os_string()];
        let program = Program::start(binary("joulebook-aggregator")?, &arguments)?;
        self.address = program.wait_for(AGGREGATOR_READY)?;
        Ok(program)
    }

    /// Writes an agent's configuration and returns its path.
    pub fn agent_config(&self, settings: &AgentSettings) -> Result<PathBuf> {
        let mut config = format!(
            "{}\n[spool]\ndir = \"{}\"\nmin_free_bytes = 0\nkeep_acked = {}\n\n[sampling]\ntick = \"1s\"\nbatch_rows = 5\n",
            self.connection(NODE),
            self.spool().display(),
            settings.keep_spool,
        );
        if let Some(sysfs) = &settings.sysfs {
            write!(config, "\n[roots]\nsysfs = \"{}\"\n", sysfs.display())?;
        }
        write!(config, "\n{}", settings.more)?;
        for Target { url, preset, reserved_cores } in &settings.targets {
            write!(config, "\n[[target]]\nurl = \"{url}\"\npreset = \"{preset}\"\ninterval = \"2s\"\n")?;
            if let Some(cores) = reserved_cores {
                writeln!(config, "reserved_cores = {cores:?}")?;
            }
        }
        config.push_str(&settings.keys);
        let path = self.folder().join("agent.toml");
        std::fs::write(&path, config)?;
        Ok(path)
    }

    /// The configuration keys of the connection of a node's agent: `under-test` or `simulated`, if no others were named.
    pub fn connection(&self, node: &str) -> String {
        format!("node = \"{node}\"\n{}", self.connection_of(&format!("node-{node}")))
    }

    /// Those of a poller's, and its role.
    pub fn poller_connection(&self, poller: &str) -> String {
        format!("role = \"bmc-poller\"\npoller = \"{poller}\"\n{}", self.connection_of(&format!("poller-{poller}")))
    }

    fn connection_of(&self, pair: &str) -> String {
        format!(
            "aggregator = \"https://{}\"\n\n[tls]\n{}ca = \"{}\"\n",
            self.address,
            self.pair(pair),
            self.certificate("ca.crt").display(),
        )
    }

    /// The configuration keys of one certificate with its key.
    fn pair(&self, name: &str) -> String {
        let file = |kind: &str| self.certificate(&format!("{name}.{kind}")).display().to_string();
        format!("certificate = \"{}\"\nkey = \"{}\"\n", file("crt"), file("key"))
    }

    /// Starts an agent and waits for its first tick.
    pub fn start_agent(&self, settings: &AgentSettings) -> Result<Program> {
        run_agent(self.agent_config(settings)?)
    }

    /// The same with a configuration of the test's own, kept as `NAME.toml`.
    pub fn start_agent_as(&self, name: &str, config: &str) -> Result<Program> {
        let path = self.folder().join(format!("{name}.toml"));
        std::fs::write(&path, config)?;
        run_agent(path)
    }

    /// What the operator's tool answers as JSON.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let text = self.text(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("joulebook {} did not print JSON", words.join(" ")))
    }

    /// What it prints.
    pub fn text(&self, words: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = Command::new(binary("joulebook")?)
            .args(["--aggregator", &format!("https://{}", self.address)])
            .args([OsStr::new("--tls-ca"), self.certificate("ca.crt").as_os_str()])
            .args([OsStr::new("--tls-cert"), self.certificate("operator.crt").as_os_str()])
            .args([OsStr::new("--tls-key"), self.certificate("operator.key").as_os_str()])
            .args(words)
            .output()?;
        if !status.success() {
            bail!("joulebook {} ended with {status}: {}", words.join(" "), String::from_utf8_lossy(&stderr));
        }
        String::from_utf8(stdout).with_context(|| format!("joulebook {} did not print UTF-8", words.join(" ")))
    }
}

/// Starts an agent and waits for its first tick.
fn run_agent(config: PathBuf) -> Result<Program> {
    let program = Program::start(binary("joulebook-agent")?, &["--config".into(), config.into_os_string()])?;
    program.wait_for(AGENT_READY)?;
    Ok(program)
}
