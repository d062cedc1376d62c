//! Real inference servers, as `make setup` installs them: llama.cpp with tiny random models, driven by the demo's own
//! scripts, and below Triton and MLServer with models that only use the CPU.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::installation::Target;
use crate::program::Program;

pub mod bentoml;
pub mod dynamo;
pub mod kserve;
pub mod litellm;
pub mod mlserver;
pub mod model_server;
pub mod rayserve;
pub mod torchserve;
pub mod triton;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Times that a server is asked whether it is ready, and the pause between two: two minutes, far more than it needs on a
/// loaded machine.
const TRIES: u32 = 2400;
const PAUSE: Duration = Duration::from_millis(50);

/// The name under which every version is served.
pub const ALIAS: &str = "tiny-chat";

/// A server of one version.
pub struct Engine {
    program: Program,
    port: u16,
}

/// What servers returned, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens, cached ones included.
    pub input: u64,
    /// Cached prompt tokens.
    pub cached: u64,
    /// Generated tokens.
    pub output: u64,
}

/// A program of a server: what the variable names, or where `make setup` puts it below the folder of engines.
fn installed(variable: &str, path: &str) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
            let cache = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
            cache.join("joulebook/engines").join(path)
        }
    };
    if !path.is_file() {
        bail!("{} is not there; run: make setup", path.display());
    }
    Ok(path)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name)
}

/// Ports that are free now and differ from each other.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let held: Vec<_> = (0..N).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, socket) in ports.iter_mut().zip(&held) {
        *port = socket.local_addr()?.port();
    }
    Ok(ports)
}

/// The exposition of a llama.cpp server on this port, for which half a core is reserved.
pub fn exposition(port: u16) -> Target {
    Target { url: format!("http://127.0.0.1:{port}/metrics"), preset: "llamacpp", reserved_cores: Some(0.5) }
}

impl Engine {
    /// Makes a model of that version in the folder and serves it.
    pub fn start(folder: &Path, version: &str, port: u16) -> Result<Self> {
        let python = installed("JOULEBOOK_ENGINE", "llamacpp/bin/python")?;
        let model = folder.join(format!("{ALIAS}-{version}.gguf"));
        let made = Command::new(&python)
            .arg(script("make_gguf.py"))
            .arg(&model)
            .args([ALIAS, version, &port.to_string()])
            .output()
            .context("starting the model's script")?;
        if !made.status.success() {
            bail!("making {} failed: {}", model.display(), String::from_utf8_lossy(&made.stderr));
        }
        let arguments =
            [script("serve.py").into_os_string(), model.into_os_string(), port.to_string().into(), ALIAS.into()];
        let program = Program::start(python, &arguments)?;
        program.wait_for(r"listening on (\S+)")?;
        Ok(Self { program, port })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Asks for an answer of so many tokens and adds what the server returned to the sums.
    pub fn ask(&self, question: &str, tokens: u32, sums: &mut Usage) -> Result<()> {
        let body = json!({
            "model": ALIAS, "messages": [{ "role": "user", "content": question }],
            "max_tokens": tokens, "ignore_eos": true,
        });
        let answer = post(self.port, "/v1/chat/completions", &body)?;
        usage(&answer, sums)
    }
}

/// Adds what an answer says of its tokens.
fn usage(answer: &Value, sums: &mut Usage) -> Result<()> {
    let count = |pointer: &str| {
        let count = answer.pointer(pointer).and_then(Value::as_u64);
        count.with_context(|| format!("the answer has no {pointer}: {answer}"))
    };
    sums.input += count("/usage/prompt_tokens")?;
    sums.cached += count("/usage/prompt_tokens_details/cached_tokens")?;
    sums.output += count("/usage/completion_tokens")?;
    Ok(())
}

/// Waits until a server is so far.
fn wait_until(server: &Program, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    for _ in 0..TRIES {
        if is_so() {
            return Ok(());
        }
        if server.has_ended() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    bail!("the server was not {what} in time; it said:\n{}", server.said())
}

/// Waits until a server answers at a path with success.
fn wait_for_answer(server: &Program, port: u16, path: &str) -> Result<()> {
    let is_there = || exchange(port, "GET", path, "").is_ok_and(|(status, _)| status == 200);
    wait_until(server, &format!("ready at {path}"), is_there)
}

/// Posts JSON and returns the JSON of the answer.
fn post(port: u16, path: &str, body: &Value) -> Result<Value> {
    let (status, page) = exchange(port, "POST", path, &body.to_string())?;
    if status != 200 {
        bail!("{path} answered {status}: {}", String::from_utf8_lossy(&page));
    }
    serde_json::from_slice(&page).with_context(|| format!("{path} did not answer with JSON"))
}

/// Status and page of an answer.
fn exchange(port: u16, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
    request(port, method, path, "", body)
}

/// The same for a post with a key.
fn authorised(port: u16, path: &str, key: &str, body: &str) -> Result<(u16, Vec<u8>)> {
    request(port, "POST", path, &format!("Authorization: Bearer {key}\r\n"), body)
}

fn request(port: u16, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the answer is not chunked and ends with the connection, or where it says, if its server leaves that open.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), None);
    while !head.ends_with("\r\n\r\n") {
        let begin = head.len();
        if answer.read_line(&mut head)? == 0 {
            bail!("{path}: the answer has no end of its head: {head}");
        }
        let field = head[begin..].split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        length = field.and_then(|(_, value)| value.trim().parse::<u64>().ok()).or(length);
    }
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let mut page = Vec::new();
    answer.take(length.unwrap_or(u64::MAX)).read_to_end(&mut page)?;
    Ok((status.with_context(|| format!("{path} answered: {head}"))?, page))
}
