//! NVIDIA's Triton with two versions of a Python model, each of which it runs in a process of its own.

use std::path::Path;

use anyhow::Result;

use super::installed;
use super::model_server::{ModelServer, Ports};
use crate::program::Program;

/// Name of the model. Its versions are 1 and 2.
pub const MODEL: &str = "counter";

/// Serves two versions out of the folder. A request to version 1 is three times the work of one to version 2, which waits
/// for the rest of the time.
pub fn start(folder: &Path, ports: Ports) -> Result<ModelServer> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/triton");
    let repository = folder.join("triton");
    for version in ["1", "2"] {
        let version = repository.join(MODEL).join(version);
        std::fs::create_dir_all(&version)?;
        std::fs::copy(source.join("model.py"), version.join("model.py"))?;
    }
    std::fs::copy(source.join("config.pbtxt"), repository.join(MODEL).join("config.pbtxt"))?;
    let arguments = [
        format!("--model-repository={}", repository.display()),
        "--http-address=127.0.0.1".to_owned(),
        format!("--http-port={}", ports.http),
        "--allow-grpc=false".to_owned(),
        "--metrics-address=127.0.0.1".to_owned(),
        format!("--metrics-port={}", ports.metrics),
    ];
    let program = Program::start(installed("JOULEBOOK_TRITON", "triton/bin/tritonserver")?, &arguments)?;
    program.wait_for("Started Metrics Service at")?;
    ModelServer::wait(program, ports, MODEL, ["1", "2"], ("nv_inference_compute_infer_duration_us", 1e-6))
}

/// What the command line of a version's process holds.
pub fn file_of(version: &str) -> String {
    format!("/{MODEL}/{version}/model.py\0")
}
