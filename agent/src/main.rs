//! `joulebook-agent`: arguments → configuration → run → exit code.

use clap::{Args, Parser, Subcommand, ValueEnum};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::collector::gaudi::serve::{HELPER as GAUDI_HELPER, serve as serve_gaudi};
use joulebook_agent::collector::nvml::serve::{HELPER, serve as serve_nvml};
use joulebook_agent::config::{Config, EXAMPLE, Overrides, Role};
use joulebook_agent::run::{RunError, unix_clock};
use joulebook_agent::{doctor, exit, measure, presets, reload};
use joulebook_otlp::trace::{Carrier, Telling, dispatch, own};
use joulebook_proto::config_file::{ConfigFile, LOOK_EVERY};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Reads power and inference counts of this node and delivers them to the aggregator.
#[derive(Debug, Parser)]
#[command(name = "joulebook-agent", version)]
struct Arguments {
    /// Something other than to serve
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML); see --print-default-config.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the node [default: the host name].
    #[arg(long, global = true)]
    node: Option<String>,
    /// Address of the aggregator, https://host:port [default: https://127.0.0.1:7443].
    #[arg(long, global = true, value_name = "URL")]
    aggregator: Option<String>,
    /// Allow plaintext to an aggregator at 127.0.0.1 or ::1.
    #[arg(long)]
    insecure_loopback: bool,
    /// The agent's certificate (PEM), which names the node.
    #[arg(long, global = true, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA certificates of the aggregator (PEM).
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Folder of the disk queue.
    #[arg(long, global = true, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// Where sysfs is mounted.
    #[arg(long, global = true, value_name = "DIR")]
    sysfs_root: Option<PathBuf>,
    /// Where procfs is mounted.
    #[arg(long, global = true, value_name = "DIR")]
    procfs_root: Option<PathBuf>,
    /// Where control groups are mounted.
    #[arg(long, global = true, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// NVIDIA's management library, if not the one that the driver installed.
    #[arg(long, global = true, value_name = "FILE")]
    nvml_lib: Option<PathBuf>,
    /// Print a complete commented configuration and exit.
    #[arg(long)]
    print_default_config: bool,
    /// Read the configuration as to serve with it, say whether that could be, and exit; nothing is opened or sent.
    #[arg(long)]
    check_config: bool,
}

/// Something other than to serve.
#[derive(Debug, Subcommand)]
enum Command {
    /// Look at every energy source of this node: what it shows, why one is not read, and what would mend it.
    ///
    /// Changes nothing and speaks to no other machine. Ends with 69 if a source that is there cannot be read.
    Doctor(DoctorArguments),
    /// Presets say what is counted on an engine's metric page: look at them, or try one on a page.
    #[command(subcommand)]
    Presets(PresetsCommand),
    /// The page of metrics: what stands on it.
    #[command(subcommand, hide = true)]
    Metrics(MetricsCommand),
    /// Run a command and say what energy the node used meanwhile, by the running agent's sensors, at rest apart.
    ///
    /// The report goes to standard error. Ends as the command ends; 69 if no agent answers, 77 if it may not be asked.
    Measure(MeasureArguments),
}

/// Arguments of `measure`.
#[derive(Debug, Args)]
struct MeasureArguments {
    /// The agent's socket for reports [default: push.socket of the configuration].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Run it so often, one run after the other, and tell mean and standard deviation.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
    /// Form of the report.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// The command and its arguments, behind `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What to do with presets.
#[derive(Debug, Subcommand)]
enum PresetsCommand {
    /// List every preset that a target may name, with what recognises its page.
    List,
    /// Print a preset of this build, as a start for one's own.
    Show {
        /// Name of the preset.
        name: String,
    },
    /// Read a metric page from standard input and say what would be counted, and what is left out and why.
    ///
    /// Ends with 65 if the page cannot be read with the preset, with 78 if the preset is wrong.
    Test {
        /// A preset's file, or the name of one. Without it the page says by its families which one it is.
        file: Option<PathBuf>,
    },
}

/// What to do with metrics.
#[derive(Debug, Subcommand)]
enum MetricsCommand {
    /// Print the reference of every name on the page, as a table in Markdown.
    List,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
struct DoctorArguments {
    /// For how long to measure, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Form of the findings.
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
    /// NVIDIA's tool whose watts stand beside ours.
    #[arg(long, value_name = "FILE", default_value = "nvidia-smi")]
    nvidia_smi: PathBuf,
}

/// Form of findings.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// For reading.
    Text,
    /// For programs.
    Json,
}

fn main() -> ExitCode {
    // The agent starts itself once more to hold the vendor's library, which may hang or crash.
    let mut words = std::env::args_os().skip(1);
    if let Some(first) = words.next().filter(|first| first == HELPER || first == GAUDI_HELPER) {
        let library = words.next().filter(|library| !library.is_empty()).map(PathBuf::from);
        let dcgm = words.next().and_then(|url| url.into_string().ok());
        let served = match first == HELPER {
            true => serve_nvml(library.as_deref(), dcgm.as_deref()),
            false => serve_gaudi(library.as_deref()),
        };
        return if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(exit::TEMPORARY) };
    }
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    if arguments.print_default_config {
        // A closed pipe is the reader's choice, not a failure.
        let _ = std::io::stdout().write_all(EXAMPLE.as_bytes());
        return ExitCode::SUCCESS;
    }
    let command = arguments.command.take();
    let check = arguments.check_config;
    if command.is_some() || check {
        log(None);
    }
    let (file, overrides) = (arguments.config.clone(), overrides(arguments));
    let ended = match command {
        Some(Command::Doctor(look)) => {
            Config::read(file.as_deref(), overrides).map_err(RunError::from).and_then(|config| examine(&config, &look))
        }
        Some(Command::Presets(wish)) => {
            Config::read(file.as_deref(), overrides).map_err(RunError::from).map(|config| tell_presets(&config, &wish))
        }
        Some(Command::Metrics(MetricsCommand::List)) => {
            let text = joulebook_proto::metrics::reference(joulebook_agent::metrics::name::ALL);
            // A closed pipe is the reader's choice, not a failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Measure(wish)) => {
            Config::read(file.as_deref(), overrides).map_err(RunError::from).map(|config| measure(&config, &wish))
        }
        None if check => check_config(file.as_deref(), overrides),
        None => serve(file, overrides),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            exit::exit(&error)
        }
    }
}

fn overrides(arguments: Arguments) -> Overrides {
    Overrides {
        node: arguments.node,
        aggregator: arguments.aggregator,
        insecure_loopback: arguments.insecure_loopback,
        tls_certificate: arguments.tls_cert,
        tls_key: arguments.tls_key,
        tls_ca: arguments.tls_ca,
        spool_dir: arguments.spool_dir,
        sysfs_root: arguments.sysfs_root,
        procfs_root: arguments.procfs_root,
        cgroup_root: arguments.cgroup_root,
        nvml_library: arguments.nvml_lib,
    }
}

fn examine(config: &Config, arguments: &DoctorArguments) -> Result<ExitCode, RunError> {
    let time = Duration::from_secs(arguments.seconds);
    let look = doctor::Look { time, ..doctor::Look::default() };
    let node = match config.role {
        Role::Node => config.node_name()?.to_string(),
        Role::BmcPoller => config.poller_name()?.to_string(),
    };
    let findings = doctor::look(config, node, &SystemClock, look, &arguments.nvidia_smi);
    let text = match arguments.output {
        Form::Text => doctor::write(&findings),
        Form::Json => serde_json::to_string_pretty(&findings).unwrap_or_default() + "\n",
    };
    // A closed pipe is the reader's choice, not a failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if findings.is_all_read() { ExitCode::SUCCESS } else { ExitCode::from(exit::UNAVAILABLE) })
}

fn tell_presets(config: &Config, wish: &PresetsCommand) -> ExitCode {
    let text = match wish {
        PresetsCommand::List => presets::list(config),
        PresetsCommand::Show { name } => presets::show(config, name),
        PresetsCommand::Test { file } => presets::test(config, file.as_deref(), std::io::stdin().lock()),
    };
    match text {
        Ok(text) => {
            // A closed pipe is the reader's choice, not a failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn measure(config: &Config, wish: &MeasureArguments) -> ExitCode {
    let socket = wish.socket.as_deref().or(config.push.socket.as_deref());
    match measure::measure(socket, wish.repeat, &wish.command) {
        Ok(measured) => {
            let text = match wish.output {
                Form::Text => measure::write(&measured),
                Form::Json => serde_json::to_string_pretty(&measured).unwrap_or_default() + "\n",
            };
            // A closed pipe is the reader's choice, not a failure.
            let _ = std::io::stderr().write_all(text.as_bytes());
            let code = measured.runs.last().map_or(0, |run| run.exit_code);
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Err(error) => {
            tracing::error!("{}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Everything that `serve` refuses before it opens anything, so that a chart or a unit can ask before a restart.
fn check_config(file: Option<&Path>, overrides: Overrides) -> Result<ExitCode, RunError> {
    let config = Config::load(file, overrides)?;
    config.presets()?;
    // A closed pipe is the reader's choice, not a failure.
    let _ = std::io::stdout().write_all(b"the configuration is valid\n");
    Ok(ExitCode::SUCCESS)
}

/// Says to standard error what happens, and notes it for a receiver of OpenTelemetry if there is one that wants to know.
fn log(telling: Option<Telling>) {
    let filter = EnvFilter::try_from_env("JOULEBOOK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let people = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    dispatch(people, filter, telling).init();
}

/// The configuration, with what it says of the agent's own spans and log in force.
fn begin(path: Option<&Path>, overrides: Overrides) -> Result<(Config, Option<Carrier>), RunError> {
    let begun = Config::load(path, overrides).map_err(RunError::from).and_then(|config| {
        let clock = unix_clock(&(Arc::new(SystemClock) as Arc<dyn Clock>));
        let host = config.node_name().ok().filter(|_| config.role == Role::Node);
        let service = ("joulebook-agent", env!("CARGO_PKG_VERSION"));
        let own = own(&config.export, service, host.as_ref().map(|host| host.as_str()), &clock)?;
        Ok((config, own))
    });
    match begun {
        Ok((config, own)) => {
            let (telling, carrier) = own.unzip();
            log(telling);
            Ok((config, carrier))
        }
        Err(error) => {
            log(None);
            Err(error)
        }
    }
}

fn serve(path: Option<PathBuf>, overrides: Overrides) -> Result<ExitCode, RunError> {
    let (config, carrier) = begin(path.as_deref(), overrides.clone())?;
    keep_descriptors();
    // Question: one thread or several for the tasks? A tick works a millisecond a second, a session less, and the disk has
    // a thread of its own. Several threads would wake each other for every tick and message, which costs 80 to 100 µs a
    // cycle, and each would hold an arena of memory. Choice: one. What would change it: a task that computes or blocks for
    // long; what may hang (the vendor's library) is in a process of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Start { source })?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|source| RunError::Start { source })?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|source| RunError::Start { source })?;
        let stopped = std::pin::pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let file = ConfigFile::watch(path.clone(), LOOK_EVERY).map_err(|source| RunError::Start { source })?;
        let read = || Config::read(path.as_deref(), overrides.clone());
        let carrying = carrier.map(Carrier::start);
        let ended = reload::run_reloading(config, file, read, Arc::new(SystemClock), stopped).await;
        if let Some(carrying) = carrying {
            carrying.finish().await;
        }
        ended.map(|()| ExitCode::SUCCESS)
    })
}

/// Raises the limit of open files as far as this process may: files of processes and control groups are kept open.
fn keep_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, "the limit of open files stays: fewer are kept open, which costs CPU time");
    }
}

/// The error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let next = source.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = source.source();
    }
    text
}
