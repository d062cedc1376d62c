//! NVIDIA's Dynamo: its frontend and one worker that simulates an engine, without weights and accelerators. They find
//! each other by files.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{PATIENCE, Usage, exchange, free_ports, installed, post, usage, wait_until};
use crate::installation::Target;
use crate::program::Program;

/// Name of the model.
pub const MODEL: &str = "tiny-words";
/// Where requests for it go.
const PATH: &str = "/v1/chat/completions";

/// Where frontend and worker listen.
#[derive(Clone, Copy)]
pub struct Ports {
    frontend: u16,
    worker: u16,
}

impl Ports {
    /// Ports that are free now.
    pub fn find() -> Result<Self> {
        let [frontend] = free_ports()?;
        // The worker's page takes a signed number of two bytes, and ports that are given out are above those.
        let first = 10_000 + u16::try_from(std::process::id() % 20_000)?;
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let worker = (first..=i16::MAX.unsigned_abs()).find(is_free).context("no free port")?;
        Ok(Self { frontend, worker })
    }

    /// What an agent is to read at the frontend.
    pub fn frontend(&self) -> Target {
        Target { url: page(self.frontend), preset: "dynamo-frontend", reserved_cores: None }
    }

    /// What an agent is to read at the worker, whose requests are the same again.
    pub fn worker(&self) -> Target {
        Target { url: page(self.worker), preset: "custom", reserved_cores: None }
    }
}

fn page(port: u16) -> String {
    format!("http://127.0.0.1:{port}/metrics")
}

/// A running frontend with its worker.
pub struct Dynamo {
    frontend: Program,
    worker: Program,
    ports: Ports,
}

impl Dynamo {
    /// Serves the model in a namespace.
    pub fn start(folder: &Path, ports: Ports, namespace: &str) -> Result<Self> {
        let python = installed("JOULEBOOK_DYNAMO", "dynamo/bin/python")?;
        let (folder, model) = (folder.join("dynamo"), folder.join("dynamo/model"));
        std::fs::create_dir_all(&folder)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/dynamo/model.py");
        let made = Command::new(&python).arg(script).arg(&model).output().context("starting the model's script")?;
        if !made.status.success() {
            bail!("making {} failed: {}", model.display(), String::from_utf8_lossy(&made.stderr));
        }
        let start = |module: &str, arguments: &[&str]| {
            let mut command = Command::new(&python);
            command.args(["-m", module]).args(arguments).current_dir(&folder);
            command.args(["--discovery-backend", "file", "--request-plane", "tcp", "--event-plane", "zmq"]);
            command.env("DYN_FILE_KV", folder.join("kv")).env("DYN_NAMESPACE", namespace);
            command.env("DYN_SYSTEM_HOST", "127.0.0.1").env("DYN_TCP_RPC_HOST", "127.0.0.1");
            command.env("DYN_EVENT_PLANE_HOST", "127.0.0.1");
            command.env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
            // Only the worker has a page of its own beside the one for requests.
            let own = if module == "dynamo.mocker" { ports.worker.to_string() } else { "-1".to_owned() };
            Program::spawn({
                command.env("DYN_SYSTEM_PORT", own);
                command
            })
        };
        let model = model.display().to_string();
        let worker = start("dynamo.mocker", &["--model-path", &model, "--model-name", MODEL, "--speedup-ratio", "10"])?;
        let port = ports.frontend.to_string();
        let frontend = start("dynamo.frontend", &["--http-host", "127.0.0.1", "--http-port", &port])?;
        let server = Self { frontend, worker, ports };
        wait_until(&server.frontend, "serving the model", || {
            let listed = exchange(ports.frontend, "GET", "/v1/models", "");
            listed.is_ok_and(|(_, page)| String::from_utf8_lossy(&page).contains(MODEL))
        })
        .with_context(|| format!("the worker said:\n{}", server.worker.said()))?;
        Ok(server)
    }

    /// Asks for an answer of so many tokens and adds what the server returned to the sums.
    pub fn ask(&self, question: &str, tokens: u32, sums: &mut Usage) -> Result<()> {
        usage(&post(self.ports.frontend, PATH, &body(MODEL, question, tokens, false))?, sums)
    }

    /// Asks a model that is not served and returns the status of the answer.
    pub fn ask_other(&self, model: &str) -> Result<u16> {
        Ok(exchange(self.ports.frontend, "POST", PATH, &body(model, "w1", 1, false).to_string())?.0)
    }

    /// Asks for a stream of so many tokens and goes away once some were generated. The frontend has seen that when this
    /// returns.
    pub fn abandon(&self, question: &str, tokens: u32) -> Result<()> {
        let (before, gone) = (self.output_tokens()?, self.aborted()?);
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.frontend))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let body = body(MODEL, question, tokens, true).to_string();
        let head = "HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json";
        write!(stream, "POST {PATH} {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let is_begun = || self.output_tokens().is_ok_and(|now| now >= before + u64::from(tokens) / 100);
        wait_until(&self.frontend, "generating", is_begun)?;
        drop(stream);
        wait_until(&self.frontend, "told that the client has gone", || self.aborted().is_ok_and(|now| now == gone + 1))
    }

    /// Tokens that the frontend's page has counted.
    pub fn output_tokens(&self) -> Result<u64> {
        self.sum("dynamo_frontend_output_tokens_total", "")
    }

    fn aborted(&self) -> Result<u64> {
        self.sum("dynamo_frontend_requests_total", "error_type=\"cancelled\"")
    }

    /// A counter of the frontend's page for the model.
    fn sum(&self, metric: &str, label: &str) -> Result<u64> {
        let (_, page) = exchange(self.ports.frontend, "GET", "/metrics", "")?;
        let page = String::from_utf8(page).context("the page is no text")?;
        let model = format!("model=\"{MODEL}\"");
        let of_name = page.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{')));
        let values = of_name.filter(|line| line.contains(&model) && line.contains(label));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
    }
}

fn body(model: &str, question: &str, tokens: u32, is_stream: bool) -> serde_json::Value {
    json!({
        "model": model, "messages": [{ "role": "user", "content": question }],
        "max_tokens": tokens, "ignore_eos": true, "stream": is_stream,
    })
}
