//! BentoML: a server for each version of a built bento. Only a built one knows its version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use super::{exchange, installed, wait_for_answer};
use crate::installation::Target;
use crate::program::Program;

/// Name of the service.
pub const SERVICE: &str = "scorer";

/// A version that was built, in a store of its own: servers of one store would show each other's counts.
pub struct Bento {
    /// The server refuses to build below a hidden folder, which the usual temporary ones are.
    folder: TempDir,
    program: PathBuf,
    version: String,
}

impl Bento {
    /// Builds a version.
    pub fn build(version: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("joulebook-bento-").tempdir()?;
        let program = installed("JOULEBOOK_BENTOML", "bentoml/bin/bentoml")?;
        let bento = Self { folder, program, version: version.to_owned() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/bentoml/service.py");
        std::fs::copy(source, bento.folder.path().join("service.py"))?;
        let file = json!({ "service": "service:Scorer", "include": ["service.py"] });
        // JSON is YAML.
        std::fs::write(bento.folder.path().join("bentofile.yaml"), file.to_string())?;
        let built = bento.command(&["build", "--version", version]).output().context("starting bentoml build")?;
        if !built.status.success() {
            bail!("bentoml build failed: {}", String::from_utf8_lossy(&built.stderr));
        }
        Ok(bento)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.folder.path());
        command.env("BENTOML_HOME", self.folder.path().join("store")).env("BENTOML_DO_NOT_TRACK", "True");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Serves it.
    pub fn serve(&self, port: u16) -> Result<BentoServer> {
        self.serve_by(&format!("{SERVICE}:{}", self.version), port)
    }

    /// Serves what it was built from, which has no version.
    pub fn serve_source(&self, port: u16) -> Result<BentoServer> {
        self.serve_by("service:Scorer", port)
    }

    fn serve_by(&self, name: &str, port: u16) -> Result<BentoServer> {
        let serve = self.command(&["serve", name, "--host", "127.0.0.1", "--port", &port.to_string()]);
        let server = BentoServer { program: Program::spawn(serve)?, port };
        // Each look is counted by the server, and must not be by us.
        wait_for_answer(&server.program, port, "/readyz")?;
        Ok(server)
    }
}

/// A running server of one version.
pub struct BentoServer {
    program: Program,
    port: u16,
}

impl BentoServer {
    /// What an agent is to read there.
    pub fn target(port: u16) -> Target {
        Target { url: format!("http://127.0.0.1:{port}/metrics"), preset: "bentoml", reserved_cores: None }
    }

    /// Asks once and returns the status of the answer. The service refuses a negative amount of work.
    pub fn ask(&self, work: i32) -> Result<u16> {
        Ok(exchange(self.port, "POST", "/predict", &json!({ "work": work }).to_string())?.0)
    }

    /// Looks whether it is ready.
    pub fn probe(&self) -> Result<u16> {
        Ok(exchange(self.port, "GET", "/readyz", "")?.0)
    }
}

impl Drop for BentoServer {
    fn drop(&mut self) {
        // Its workers are in groups of their own: only the server ends them.
        let _ended = self.program.stop();
    }
}
