//! VictoriaMetrics and Prometheus, fed by Prometheus remote write as an agent of theirs would, and asked in PromQL.

use crate::workload::Node;
use anyhow::{Context, Result, bail, ensure};
use joulebook_tests::program::Program;
use joulebook_tests::prometheus::{Labels, component, instant};
use prost::Message;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Steps in which its start is waited for, and how many at most: half a minute.
const STEP: Duration = Duration::from_millis(50);
const STEPS: usize = 600;

/// `prometheus.WriteRequest` of the remote write protocol 1.0.
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

/// A series of it.
#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

/// A label of it.
#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A sample of it.
#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// A running peer.
pub struct Peer {
    /// The process.
    pub program: Program,
    data: PathBuf,
    port: u16,
}

impl Peer {
    /// VictoriaMetrics; none where it is not installed.
    pub fn find() -> Option<PathBuf> {
        found("victoria-metrics", "JOULEBOOK_VICTORIA", "peers/victoria-metrics/usr/bin")
    }

    /// Prometheus; none where it is not installed.
    pub fn find_prometheus() -> Option<PathBuf> {
        found("prometheus", "JOULEBOOK_PROMETHEUS", "peers/prometheus/usr/bin")
    }

    /// Starts VictoriaMetrics with its data below `folder`.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        Self::listening(program, folder.join("vm"), |data, port| {
            let answers =
                ["-search.disableCache", "-search.maxQueryDuration=10m", "-search.maxSamplesPerQuery=1000000000"];
            let mut words = vec![format!("-storageDataPath={data}"), format!("-httpListenAddr=127.0.0.1:{port}")];
            words.extend(["-retentionPeriod=100y", "-loggerLevel=ERROR"].map(str::to_owned));
            words.push("-search.maxUniqueTimeseries=1000000".to_owned());
            words.extend(answers.map(str::to_owned));
            words
        })
    }

    /// Starts Prometheus with its data below `folder`.
    pub fn start_prometheus(program: &Path, folder: &Path) -> Result<Self> {
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, "global: {scrape_interval: 1h}\nstorage: {tsdb: {out_of_order_time_window: 2h}}\n")?;
        Self::listening(program, folder.join("prometheus"), |data, port| {
            let mut words = vec![format!("--config.file={}", config.display()), format!("--storage.tsdb.path={data}")];
            words.push(format!("--web.listen-address=127.0.0.1:{port}"));
            let more = ["--storage.tsdb.retention.time=100y", "--query.max-samples=500000000", "--query.timeout=10m"];
            words.extend(
                ["--web.enable-remote-write-receiver", "--web.enable-admin-api", "--log.level=warn"]
                    .iter()
                    .chain(&more)
                    .map(|&word| word.to_owned()),
            );
            words
        })
    }

    fn listening(program: &Path, data: PathBuf, words: impl FnOnce(&str, u16) -> Vec<String>) -> Result<Self> {
        // Nobody else is told the port: what takes it meanwhile makes the start fail.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(program);
        command.args(words(&data.display().to_string(), port));
        let peer = Self { program: Program::spawn(command)?, data, port };
        for _ in 0..STEPS {
            // Prometheus listens before it takes anything; VictoriaMetrics has no page of that name, and is ready at once.
            if status(port, "GET", "/-/ready").is_ok_and(|status| status < 500) {
                return Ok(peer);
            }
            ensure!(!peer.program.has_ended(), "{} has ended: {}", program.display(), peer.program.said());
            std::thread::sleep(STEP);
        }
        bail!("{} does not listen on {port}", program.display())
    }

    /// Makes what was written known to questions: VictoriaMetrics holds the latest back for some seconds.
    pub fn flush(&self) -> Result<()> {
        // Prometheus has no such page, and needs none.
        status(self.port, "GET", "/internal/force_flush").map(drop)
    }

    /// Where Prometheus puts a block of what it holds, as it would write one after two hours.
    pub fn snapshot(&self) -> Result<PathBuf> {
        let status = status(self.port, "POST", "/api/v1/admin/tsdb/snapshot")?;
        ensure!(status == 200, "no snapshot: {status}");
        Ok(self.data.join("snapshots"))
    }

    /// A connection to write on.
    pub fn connect(&self) -> Result<TcpStream> {
        let connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_nodelay(true)?;
        Ok(connection)
    }

    /// Writes samples of some series: their labels, and instants in ms since 1970 with values.
    pub fn write(
        connection: &mut TcpStream,
        series: impl Iterator<Item = (Vec<(String, String)>, Vec<(i64, f64)>)>,
    ) -> Result<()> {
        let series = series.map(|(labels, samples)| TimeSeries {
            labels: labels.into_iter().map(|(name, value)| Label { name, value }).collect(),
            samples: samples.into_iter().map(|(timestamp, value)| Sample { value, timestamp }).collect(),
        });
        let request = WriteRequest { timeseries: series.collect() }.encode_to_vec();
        post(connection, &snap::raw::Encoder::new().compress_vec(&request)?).context("remote write")
    }

    /// What a query gives at an instant in ms since 1970.
    pub async fn ask(&self, query: &str, at: i64) -> Result<Vec<(Labels, f64)>> {
        let at = format!("{}.{:03}", at.div_euclid(1_000), at.rem_euclid(1_000));
        let path = format!("/api/v1/query?nocache=1&timeout=300s&time={at}");
        instant(&format!("127.0.0.1:{}", self.port), &path, query).await
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Sends what a node tells from `begin` (ms since 1970) on, so many rows in a request; with `pace` a request so often. The
    /// connection, which is still open.
    pub fn send(&self, number: u32, node: &Node, begin: i64, rows: usize, pace: Option<Duration>) -> Result<TcpStream> {
        let mut connection = self.connect()?;
        let label = |name: &str, value: String| Label { name: name.to_owned(), value };
        let labels: Vec<Vec<Label>> = node
            .series
            .iter()
            .map(|(kind, of, _)| {
                vec![
                    label("__name__", kind.name().to_owned()),
                    label("node", format!("gpu-node-{number:04}")),
                    label("of", of.to_string()),
                ]
            })
            .collect();
        for start in (0..node.rows.len()).step_by(rows) {
            let end = node.rows.len().min(start + rows);
            let series = node.series.iter().zip(&labels).map(|((_, _, values), labels)| TimeSeries {
                labels: labels.clone(),
                samples: (start..end)
                    .map(|row| Sample { value: values[row] as f64, timestamp: begin + node.rows[row] as i64 })
                    .collect(),
            });
            let request = WriteRequest { timeseries: series.collect() }.encode_to_vec();
            let body = snap::raw::Encoder::new().compress_vec(&request)?;
            post(&mut connection, &body).context("remote write")?;
            if let Some(pace) = pace {
                std::thread::sleep(pace);
            }
        }
        Ok(connection)
    }
}

/// A program that is installed, or that a variable or `.ci/setup` put into a folder of its own.
fn found(name: &str, variable: &str, folder: &str) -> Option<PathBuf> {
    let runs = |program: &PathBuf| {
        let status = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let unpacked = component(variable, folder).ok().map(|folder| folder.join(name));
    [Some(PathBuf::from(name)), unpacked].into_iter().flatten().find(runs)
}

/// The status of a page.
fn status(port: u16, method: &str, path: &str) -> Result<u16> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).context("no answer")?;
    Ok(status.parse()?)
}

fn post(connection: &mut TcpStream, body: &[u8]) -> Result<()> {
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\n\
         Content-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body)?;
    // An answer has no body: it ends with its head.
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}
