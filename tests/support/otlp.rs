//! Real receivers of OpenTelemetry (`.ci/setup telemetry`): rotel, which prints or passes on, and VictoriaMetrics behind it.

use crate::program::Program;
use crate::prometheus::{Labels, component, instant};
use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::path::PathBuf;
use tempfile::TempDir;

/// A port that was free a moment ago, for programs that take no port 0.
fn port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn rotel() -> Result<PathBuf> {
    let folder = component("JOULEBOOK_ROTEL", "engines/rotel/lib")?;
    let pythons = folder.read_dir().with_context(|| format!("{}: run `.ci/setup telemetry`", folder.display()))?;
    let mut found = pythons.filter_map(|python| Some(python.ok()?.path().join("site-packages/rotel/rotel-agent")));
    found.find(|path| path.exists()).with_context(|| format!("no rotel-agent in {}", folder.display()))
}

/// A receiver.
pub struct Rotel {
    /// Its address for gRPC.
    pub grpc: String,
    /// Its address for HTTP.
    pub http: String,
    /// The program.
    pub program: Program,
}

impl Rotel {
    /// One that prints all of `metrics`, `traces` or `logs`.
    pub fn printing(what: &str) -> Result<Self> {
        Self::start(&["--exporter", "blackhole", "--debug-log", what, "--debug-log-verbosity", "detailed"])
    }

    /// One that passes on to a store.
    pub fn before(store: &Victoria) -> Result<Self> {
        let to = format!("http://{}/opentelemetry", store.address);
        Self::start(&["--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", &to])
    }

    fn start(arguments: &[&str]) -> Result<Self> {
        let (grpc, http) = (format!("127.0.0.1:{}", port()?), format!("127.0.0.1:{}", port()?));
        let own = ["start", "--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http, "--batch-timeout", "200ms"];
        let program = Program::start(rotel()?, &[&own[..], arguments].concat())?;
        program.wait_for("Starting Rotel")?;
        Ok(Self { grpc, http, program })
    }
}

/// A store that takes OTLP and answers Prometheus' queries.
pub struct Victoria {
    address: String,
    _program: Program,
    _folder: TempDir,
}

impl Victoria {
    /// An empty one.
    pub fn start() -> Result<Self> {
        let program = component("JOULEBOOK_VICTORIA", "peers/victoria-metrics/usr/bin")?.join("victoria-metrics");
        if !program.exists() {
            bail!("{} is missing: run `.ci/setup telemetry`", program.display());
        }
        let folder = tempfile::tempdir()?;
        let arguments = [
            format!("-storageDataPath={}", folder.path().join("data").display()),
            "-httpListenAddr=127.0.0.1:0".to_owned(),
            "-retentionPeriod=100y".to_owned(),
            "-search.latencyOffset=0s".to_owned(),
            "-opentelemetry.usePrometheusNaming".to_owned(),
        ];
        let program = Program::start(program, &arguments)?;
        let address = program.wait_for(r"started server at http://([0-9.]+:\d+)/")?;
        Ok(Self { address, _program: program, _folder: folder })
    }

    /// The series and values of a query at a time in seconds.
    pub async fn query(&self, query: &str, at: i64) -> Result<Vec<(Labels, f64)>> {
        instant(&self.address, &format!("/api/v1/query?time={at}&nocache=1"), query).await
    }
}
