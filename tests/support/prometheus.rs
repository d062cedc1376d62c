//! A real Prometheus and its tool (`.ci/setup telemetry`), and questions over HTTP.

use crate::program::Program;
use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Names the folder of a component's programs; unset: where `.ci/setup` puts them.
pub fn component(variable: &str, folder: &str) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return Ok(named.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("joulebook").join(folder))
}

fn program(name: &str) -> Result<PathBuf> {
    let path = component("JOULEBOOK_PROMETHEUS", "peers/prometheus/usr/bin")?.join(name);
    if !path.exists() {
        bail!("{} is missing: run `.ci/setup telemetry`, or name its folder with JOULEBOOK_PROMETHEUS", path.display());
    }
    Ok(path)
}

/// What `promtool` says to arguments and an input.
pub fn promtool(arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new(program("promtool")?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

/// The status and body of a page of this machine, given a path and an `Accept` header.
pub async fn get(address: &str, path: &str, accept: &str) -> Result<(u16, String)> {
    request("GET", address, path, accept).await
}

/// The same with another method.
pub async fn request(method: &str, address: &str, path: &str, accept: &str) -> Result<(u16, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let url: Uri = path.parse()?;
    let request = Request::builder().method(method).uri(url).header("host", address).header("accept", accept);
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, String::from_utf8(body.to_vec())?))
}

/// Labels of a series.
pub type Labels = BTreeMap<String, String>;

/// A Prometheus that reads pages each second.
pub struct Prometheus {
    /// Where it answers.
    pub address: String,
    program: Program,
    _folder: TempDir,
}

impl Prometheus {
    /// Reads these pages; `more` are further keys of the job, `rules` further files.
    pub fn start(pages: &[String], more: &str, rules: &[&Path]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\nrule_files: {rules:?}\n\
             scrape_configs:\n- job_name: joulebook\n  honor_timestamps: false\n{more}  static_configs:\n"
        );
        writeln!(config, "  - targets: {pages:?}")?;
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, config)?;
        let arguments = [
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            "--web.listen-address=127.0.0.1:0".to_owned(),
        ];
        let program = Program::start(program("prometheus")?, &arguments)?;
        let address = program.wait_for(r#"msg="Listening on" address=([0-9.]+:\d+)"#)?;
        program.wait_for("Server is ready")?;
        Ok(Self { address, program, _folder: folder })
    }

    /// What it said.
    pub fn said(&self) -> String {
        self.program.said()
    }

    /// The series and values that a query gives now; none where it gives none.
    pub async fn query(&self, query: &str) -> Result<Vec<(Labels, f64)>> {
        instant(&self.address, "/api/v1/query", query).await
    }

    /// What a path of its API answers.
    pub async fn api(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&get(&self.address, path, "*/*").await?.1)?)
    }
}

/// The series and values of an instant query to who speaks Prometheus' API.
pub async fn instant(address: &str, path: &str, query: &str) -> Result<Vec<(Labels, f64)>> {
    let mark = if path.contains('?') { '&' } else { '?' };
    let (status, body) = get(address, &format!("{path}{mark}query={}", encoded(query)), "*/*").await?;
    let answer: Value = serde_json::from_str(&body).with_context(|| format!("{query}: {status} {body}"))?;
    if answer["status"] != "success" {
        bail!("{query}: {body}");
    }
    let result = answer["data"]["result"].as_array().with_context(|| format!("{query}: {body}"))?;
    let series = result.iter().map(|series| {
        let labels = serde_json::from_value(series["metric"].clone())?;
        Ok((labels, series["value"][1].as_str().context("a value")?.parse()?))
    });
    series.collect()
}

/// A query as it stands in a URL.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}
