//! The aggregator as a process on a folder, started again and again on one port.

use super::preload::Environment;
use crate::program::{Program, binary};
use anyhow::{Context, Result};
use joulebook_agent::clock::{Clock, SystemClock};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const READY: &str = r"listening on ([0-9.:\[\]a-f]+:\d+)$";

/// Where an aggregator keeps its data and listens.
#[derive(Debug, Clone)]
pub struct Server {
    config: PathBuf,
    data: PathBuf,
    address: String,
    environment: Environment,
    settings: String,
}

impl Server {
    /// An aggregator of the data folder `data`, with its configuration in `folder`, on a free port.
    pub fn new(folder: &Path, data: &Path) -> Self {
        let (config, data) = (folder.join("aggregator.toml"), data.to_owned());
        let (address, settings) = ("127.0.0.1:0".to_owned(), String::new());
        Self { config, data, address, environment: Environment::new(), settings }
    }

    /// The same with further lines in its configuration.
    pub fn with_settings(self, settings: &str) -> Self {
        Self { settings: settings.to_owned(), ..self }
    }

    /// The same on another data folder.
    pub fn on(self, data: &Path) -> Self {
        Self { data: data.to_owned(), ..self }
    }

    /// The same with further variables in its environment.
    pub fn with(self, environment: Environment) -> Self {
        Self { environment, ..self }
    }

    /// Starts it: the first time on a free port, afterwards on the same one. Says how long it took until it was ready.
    pub fn start(&mut self) -> Result<(Program, Duration)> {
        let begin = SystemClock.boot();
        let program = self.spawn()?;
        self.address = program.wait_for(READY)?;
        Ok((program, SystemClock.boot().since(begin)))
    }

    /// Starts it and does not wait until it is ready: it may never be.
    pub fn spawn(&self) -> Result<Program> {
        let (address, data, settings) = (&self.address, self.data.display(), &self.settings);
        let config = format!("listen = \"{address}\"\ndata_dir = \"{data}\"\n{settings}");
        std::fs::write(&self.config, config).context("writing the aggregator's configuration")?;
        // Nothing may outlive the rig: its folders are unmounted behind it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary("joulebook-aggregator")?);
        command.arg("--config").arg(&self.config).arg("--insecure-loopback");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Program::spawn(command)
    }

    /// Its URL, once it was started.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
