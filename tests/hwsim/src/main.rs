//! `hwsim`: a simulated node for as long as the process runs.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use joulebook_hwsim::control::{self, Scenario};
use joulebook_hwsim::node::{Node, Options};
use joulebook_hwsim::profile::Profile;
use joulebook_hwsim::redfish::shape::Shape;
use joulebook_hwsim::{front, gpu, redfish};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Simulates a node: powercap, procfs, control groups, NVML and an inference server from one known truth.
#[derive(Debug, Parser)]
struct Arguments {
    /// Profile of the node.
    #[arg(long)]
    profile: PathBuf,
    /// Requests with their times (TOML: `[[at]]` with `ms` and a request of the control socket).
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Folder in which everything is shown; best on tmpfs.
    #[arg(long)]
    root: PathBuf,
    /// Whether time passes by itself or by `step` requests.
    #[arg(long, value_enum, default_value_t = Clock::Real)]
    clock: Clock,
    /// Time between two updates of the files, in ms.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    tick_ms: u64,
    /// Makes the first values of the counters differ.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Address of the inference server's metrics; a free port with :0.
    #[arg(long, default_value = "127.0.0.1:0")]
    front: String,
    /// Address of the BMC, which speaks Redfish over TLS; a free port with :0.
    #[arg(long, requires_all = ["redfish_cert", "redfish_key"])]
    redfish: Option<String>,
    /// Its certificate (PEM).
    #[arg(long)]
    redfish_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long)]
    redfish_key: Option<PathBuf>,
    /// Folder with its documents (map.json, expected.json); the plainest ones if absent.
    #[arg(long)]
    redfish_set: Option<PathBuf>,
    /// Password of its account `power`.
    #[arg(long, default_value = "power")]
    redfish_password: String,
    /// The fake NVML library that is copied to `lib/`, if not the one beside this program.
    #[arg(long)]
    nvml: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clock {
    Real,
    Manual,
}

/// Does what the scenario has for now and before.
fn play(node: &mut Node, scenario: &mut Scenario) -> Result<()> {
    let now_ms = node.now_ns() / 1_000_000;
    let (due, later): (Vec<_>, Vec<_>) =
        std::mem::take(&mut scenario.at).into_iter().partition(|timed| timed.ms <= now_ms);
    scenario.at = later;
    for timed in due {
        control::answer(node, &timed.request)
            .with_context(|| format!("doing what the scenario has at {} ms", timed.ms))?;
    }
    Ok(())
}

/// What happens at each tick of the program.
fn tick(node: &mut Node, scenario: &mut Scenario) -> Result<()> {
    play(node, scenario)?;
    if !node.is_manual() {
        node.publish()?;
    }
    Ok(())
}

/// Begins to serve the BMC, if there is to be one; gives its URL.
async fn serve_bmc(arguments: &Arguments, node: &mut Node) -> Result<Option<String>> {
    let (Some(address), Some(certificate), Some(key)) =
        (&arguments.redfish, &arguments.redfish_cert, &arguments.redfish_key)
    else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let tls = tls.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    let meter = node.input_meter();
    let options = redfish::Options {
        shape: arguments.redfish_set.as_deref().map(Shape::read).transpose()?.unwrap_or_else(Shape::plain),
        power: Arc::new(move || meter.load(Ordering::Relaxed) as f64 / 1e3),
        refresh: Duration::from_secs(node.profile().bmc.map_or(1, |bmc| bmc.refresh_s)),
        account: ("power".to_owned(), arguments.redfish_password.clone()),
        sessions: true,
        stamps: true,
    };
    let bmc = redfish::Bmc::new(options, Arc::new(tls));
    node.set_bmc(Arc::clone(&bmc));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    let url = format!("https://{}", listener.local_addr()?);
    tokio::spawn(bmc.serve(listener));
    Ok(Some(url))
}

async fn run(arguments: Arguments) -> Result<()> {
    let profile = Profile::read(&arguments.profile)?;
    let mut scenario = match &arguments.scenario {
        None => Scenario::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?
        }
    };
    scenario.at.sort_by_key(|timed| timed.ms);
    let manual = arguments.clock == Clock::Manual;
    // Processes start on the clock that programs beside the simulator read.
    let booted = if manual { Duration::ZERO } else { clock_gettime(ClockId::CLOCK_BOOTTIME)?.into() };
    let booted_ns = u64::try_from(booted.as_nanos())?;
    let options = Options { manual, seed: arguments.seed, booted_ns, ..Options::default() };
    let mut node = Node::new(profile, &arguments.root, options)?;
    let library = arguments.nvml.clone().or_else(gpu::built_library).filter(|_| node.has_nvml());
    let nvml = library.map(|library| gpu::install(&library, &arguments.root)).transpose()?;
    play(&mut node, &mut scenario)?;
    let socket = arguments.root.join("run/ctl.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).with_context(|| format!("listening on {}", socket.display()))?;
    let bmc = serve_bmc(&arguments, &mut node).await?;
    let metrics =
        TcpListener::bind(&arguments.front).await.with_context(|| format!("listening on {}", arguments.front))?;
    let address = metrics.local_addr()?;
    let ready = json!({
        "ready": true,
        "root": arguments.root,
        "ctl": socket,
        "front": format!("http://{address}/metrics"),
        "nvml": nvml,
        "redfish": bmc,
        "t0_mono_ns": node.t0_ns(),
    });
    let node = Arc::new(Mutex::new(node));
    tokio::spawn(control::serve(listener, node.clone()));
    tokio::spawn(front::serve(metrics, node.clone(), None));
    let mut fronts = front::Fronts::default();
    fronts.follow(&node).context("serving a workload's own page")?;
    writeln!(std::io::stdout(), "{ready}")?;
    let mut ticks = tokio::time::interval(Duration::from_millis(arguments.tick_ms));
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                tick(&mut node.lock().unwrap_or_else(PoisonError::into_inner), &mut scenario)?;
                fronts.follow(&node).context("serving a workload's own page")?;
            }
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(run(arguments))
}
