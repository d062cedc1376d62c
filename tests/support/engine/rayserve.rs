//! Ray Serve with two versions of a model, each an application of its own. Its node's agent shows the counts of all
//! deployments, some ten seconds behind them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{exchange, free_ports, installed, wait_until};
use crate::installation::Target;
use crate::program::Program;

/// The applications; one request to the first is three times the work of one to the second.
pub const VERSIONS: [&str; 2] = ["v1", "v2"];
/// Name of the deployment in each.
pub const DEPLOYMENT: &str = "scorer";

/// Where it listens.
#[derive(Clone, Copy)]
pub struct Ports {
    http: u16,
    metrics: u16,
}

impl Ports {
    /// Ports that are free now.
    pub fn find() -> Result<Self> {
        let [http, metrics] = free_ports()?;
        Ok(Self { http, metrics })
    }

    /// What an agent is to read there.
    pub fn target(&self) -> Target {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics);
        Target { url, preset: "rayserve", reserved_cores: None }
    }
}

/// A running node.
pub struct RayServe {
    program: Program,
    ports: Ports,
}

impl RayServe {
    /// Starts a node of its own, which keeps its sockets and logs below the folder, and serves both versions.
    pub fn start(folder: &Path, ports: Ports) -> Result<Self> {
        let mut command = Command::new(installed("JOULEBOOK_RAYSERVE", "rayserve/bin/python")?);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/rayserve/serve_two.py"));
        command.args([ports.http.to_string(), ports.metrics.to_string()]).arg(folder.join("ray"));
        command.env("RAY_USAGE_STATS_ENABLED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        let program = Program::spawn(command)?;
        wait_until(&program, "serving both versions", || program.said().contains("both versions are served"))?;
        Ok(Self { program, ports })
    }

    /// Asks a version once and returns the status of the answer. The models refuse a negative amount of work.
    pub fn ask(&self, version: &str, work: i32) -> Result<u16> {
        Ok(exchange(self.ports.http, "GET", &format!("/{version}?work={work}"), "")?.0)
    }

    /// Waits until its page has counted so many answers, failed ones included.
    pub fn wait_for_counts(&self, answers: u64) -> Result<()> {
        wait_until(&self.program, "done counting", || {
            exchange(self.ports.metrics, "GET", "/metrics", "").is_ok_and(|(_, page)| counted(&page) == answers)
        })
    }
}

impl Drop for RayServe {
    fn drop(&mut self) {
        // The node's processes are in groups of their own: this one ends them.
        let _ended = self.program.stop();
    }
}

/// Answers of all deployments on a page.
fn counted(page: &[u8]) -> u64 {
    const COUNTERS: [&str; 2] =
        ["ray_serve_deployment_request_counter_total{", "ray_serve_deployment_error_counter_total{"];
    let page = String::from_utf8_lossy(page);
    let lines = page.lines().filter(|line| COUNTERS.iter().any(|name| line.starts_with(name)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
