//! A server of several model versions that speaks the Open Inference Protocol (`/v2/models/…`), as Triton and MLServer do.

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{exchange, free_ports, wait_for_answer};
use crate::installation::Target;
use crate::program::Program;

/// Where a server listens.
#[derive(Clone, Copy)]
pub struct Ports {
    pub(super) http: u16,
    pub(super) grpc: u16,
    pub(super) metrics: u16,
}

impl Ports {
    /// Ports that are free now.
    pub fn find() -> Result<Self> {
        let [http, grpc, metrics] = free_ports()?;
        Ok(Self { http, grpc, metrics })
    }

    /// What an agent is to read there.
    pub fn target(&self, preset: &'static str) -> Target {
        Target { url: format!("http://127.0.0.1:{}/metrics", self.metrics), preset, reserved_cores: None }
    }
}

/// A running server of one model.
pub struct ModelServer {
    program: Program,
    ports: Ports,
    model: &'static str,
    /// Metric of the time in which a version was busy, and its unit in seconds.
    busy: (&'static str, f64),
}

impl ModelServer {
    /// Waits until every version answers that it is ready. An error holds what the server said instead.
    pub(super) fn wait(
        program: Program,
        ports: Ports,
        model: &'static str,
        versions: [&str; 2],
        busy: (&'static str, f64),
    ) -> Result<Self> {
        for version in versions {
            wait_for_answer(&program, ports.http, &format!("/v2/models/{model}/versions/{version}/ready"))?;
        }
        Ok(Self { program, ports, model, busy })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Asks a version once and returns the status of the answer. The models refuse a negative amount of work.
    pub fn ask(&self, version: &str, work: i32) -> Result<u16> {
        let body = json!({ "inputs": [{ "name": "work", "shape": [1], "datatype": "INT32", "data": [work] }] });
        let path = format!("/v2/models/{}/versions/{version}/infer", self.model);
        Ok(exchange(self.ports.http, "POST", &path, &body.to_string())?.0)
    }

    /// Seconds for which a version was busy, as the server's own page says now.
    pub fn busy_seconds(&self, version: &str) -> Result<f64> {
        let (name, unit) = self.busy;
        let labels = [format!("model=\"{}\"", self.model), format!("version=\"{version}\"")];
        let (_, page) = exchange(self.ports.metrics, "GET", "/metrics", "")?;
        let page = String::from_utf8_lossy(&page);
        let of_name = page.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
        let found: Vec<&str> = of_name.filter(|line| labels.iter().all(|label| line.contains(label))).collect();
        let [line] = found[..] else {
            bail!("{} samples {name} of version {version} on the page:\n{page}", found.len())
        };
        let value: Option<f64> = line.rsplit(' ').next().and_then(|value| value.parse().ok());
        Ok(unit * value.with_context(|| format!("{line} has no value"))?)
    }

    /// Its descendants whose command line holds the text.
    pub fn processes(&self, text: &str) -> Result<Vec<u32>> {
        let (mut found, mut parents) = (Vec::new(), vec![self.pid()]);
        while let Some(parent) = parents.pop() {
            for thread in std::fs::read_dir(format!("/proc/{parent}/task"))? {
                let children = std::fs::read_to_string(thread?.path().join("children"))?;
                for child in children.split_whitespace() {
                    let pid: u32 = child.parse()?;
                    parents.push(pid);
                    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
                    if String::from_utf8_lossy(&line).contains(text) {
                        found.push(pid);
                    }
                }
            }
        }
        Ok(found)
    }
}
