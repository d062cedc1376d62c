//! MLServer with two versions of a model and one worker: the process that listens does no inference, its child does.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::installed;
use super::model_server::{ModelServer, Ports};
use crate::program::Program;

/// Name of the model. Its versions are v1 and v2.
pub const MODEL: &str = "scorer";
/// Steps of a request to v2: some 10 ms of a core.
const STEPS: u32 = 150_000;

/// Serves two versions out of the folder. A request to v1 is three times the work of one to v2.
pub fn start(folder: &Path, ports: Ports) -> Result<ModelServer> {
    let models = folder.join("mlserver");
    for (version, steps) in [("v1", 3 * STEPS), ("v2", STEPS)] {
        let settings = json!({
            "name": MODEL, "implementation": "scorer.Scorer",
            "parameters": { "version": version, "extra": { "steps": steps } },
        });
        std::fs::create_dir_all(models.join(version))?;
        std::fs::write(models.join(version).join("model-settings.json"), settings.to_string())?;
    }
    let settings = json!({
        "debug": false, "host": "127.0.0.1", "http_port": ports.http, "grpc_port": ports.grpc,
        "metrics_port": ports.metrics, "parallel_workers": 1,
    });
    std::fs::write(models.join("settings.json"), settings.to_string())?;
    let mut command = Command::new(installed("JOULEBOOK_MLSERVER", "mlserver/bin/mlserver")?);
    command.arg("start").arg(&models).current_dir(&models);
    command.env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/mlserver"));
    // The repository's folder is not the place for what the interpreter caches.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let program = Program::spawn(command)?;
    for version in ["v1", "v2"] {
        program.wait_for(&format!(r"\[{MODEL}:{version}\] INFO - Loaded model"))?;
    }
    ModelServer::wait(program, ports, MODEL, ["v1", "v2"], ("model_infer_request_duration_sum", 1.0))
}
