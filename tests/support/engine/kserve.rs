//! KServe's own server with two models in one process, told apart by name.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::{exchange, installed, wait_for_answer};
use crate::installation::Target;
use crate::program::Program;

/// The models: one request to the first is three times the work of one to the second.
pub const MODELS: [&str; 2] = ["scorer-1", "scorer-2"];

/// A running server.
pub struct KServe {
    program: Program,
    port: u16,
}

impl KServe {
    /// Serves both models at a port.
    pub fn start(port: u16) -> Result<Self> {
        let mut command = Command::new(installed("JOULEBOOK_KSERVE", "kserve/bin/python")?);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/kserve/scorer.py"));
        command.args(["--http_port", &port.to_string(), "--enable_grpc", "false"]);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let server = Self { program: Program::spawn(command)?, port };
        for model in MODELS {
            wait_for_answer(&server.program, port, &format!("/v1/models/{model}"))?;
        }
        Ok(server)
    }

    /// What an agent is to read there.
    pub fn target(port: u16) -> Target {
        Target { url: format!("http://127.0.0.1:{port}/metrics"), preset: "kserve", reserved_cores: None }
    }

    /// Asks a model once and returns the status of the answer. The models refuse a negative amount of work.
    pub fn ask(&self, model: &str, work: i32) -> Result<u16> {
        let path = format!("/v1/models/{model}:predict");
        Ok(exchange(self.port, "POST", &path, &json!({ "instances": [work] }).to_string())?.0)
    }
}
