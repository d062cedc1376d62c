//! The aggregator as a process on a folder, started again and again on one port.

use super::netns::Namespace;
use super::preload::Environment;
use crate::program::{Program, binary};
use anyhow::{Context, Result};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_proto::credentials::CredentialFiles;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How full the disk of the machine is that runs a test is no matter of the test; bytes must be free all the same.
pub const ANY_DISK: &str = "[disk]\nmin_free_percent = 0.0\n";
const READY: &str = r"listening on ([0-9.:\[\]a-f]+:\d+)$";

/// Where an aggregator keeps its data and listens.
#[derive(Debug, Clone)]
pub struct Server {
    config: PathBuf,
    data: PathBuf,
    address: String,
    environment: Environment,
    /// Words before the program's own: where it is started.
    inside: Vec<OsString>,
    /// Further lines of the configuration.
    settings: String,
    /// Lines of `[tls]`; plaintext without any.
    tls: String,
}

impl Server {
    /// An aggregator of the data folder `data`, with its configuration in `folder`, on a free port.
    pub fn new(folder: &Path, data: &Path) -> Self {
        let (config, data) = (folder.join("aggregator.toml"), data.to_owned());
        let (address, environment) = ("127.0.0.1:0".to_owned(), Environment::new());
        let (settings, tls) = (String::new(), String::new());
        Self { config, data, address, environment, inside: Vec::new(), settings, tls }
    }

    /// The same with further lines in its configuration.
    pub fn with_settings(self, settings: &str) -> Self {
        Self { settings: settings.to_owned(), ..self }
    }

    /// The same on another data folder.
    pub fn on(self, data: &Path) -> Self {
        Self { data: data.to_owned(), ..self }
    }

    /// The same with mutual TLS.
    pub fn secure(self, files: &CredentialFiles) -> Self {
        let CredentialFiles { certificate, key, ca, .. } = files;
        let line = |name: &str, path: &Path| format!("{name} = \"{}\"\n", path.display());
        let tls = line("certificate", certificate) + &line("key", key) + &line("client_ca", ca);
        Self { tls: format!("\n[tls]\n{tls}"), ..self }
    }

    /// The same on every address of a network namespace.
    pub fn within(self, namespace: &Namespace) -> Self {
        Self { inside: namespace.words(), address: "0.0.0.0:0".to_owned(), ..self }
    }

    /// The same with further words before the program's own.
    pub fn after(mut self, words: &[OsString]) -> Self {
        self.inside.extend_from_slice(words);
        self
    }

    /// The port, once it was started.
    pub fn port(&self) -> Result<u16> {
        Ok(self.address.parse::<std::net::SocketAddr>()?.port())
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
        let (address, data, settings, tls) = (&self.address, self.data.display(), &self.settings, &self.tls);
        let config = format!("listen = \"{address}\"\ndata_dir = \"{data}\"\n{settings}\n{ANY_DISK}{tls}");
        std::fs::write(&self.config, config).context("writing the aggregator's configuration")?;
        // Nothing may outlive the rig: its folders are unmounted behind it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(&self.inside).arg(binary("joulebook-aggregator")?);
        command.arg("--config").arg(&self.config);
        if self.tls.is_empty() {
            command.arg("--insecure-loopback");
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Program::spawn(command)
    }

    /// Its URL, once it was started.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
