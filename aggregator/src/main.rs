//! `joulebook-aggregator`: arguments → configuration → run → exit code.

use clap::{Args, Parser, Subcommand};
use joulebook_aggregator::clock::{Clock, SystemClock};
use joulebook_aggregator::config::{Config, ConfigError, EXAMPLE};
use joulebook_aggregator::dev_certs::{self, DevCertsError};
use joulebook_aggregator::directory::Directories;
use joulebook_aggregator::export::metric;
use joulebook_aggregator::reload::Reload;
use joulebook_aggregator::run::{RunError, run_reloading, unix_clock};
use joulebook_aggregator::{exit, offline};
use joulebook_otlp::trace::{Carrier, Telling, dispatch, own};
use joulebook_proto::config_file::{ConfigFile, LOOK_EVERY};
use joulebook_proto::metrics::reference;
use joulebook_units::{NodeName, PollerName};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How long work that cannot be stopped may hold the end of the process up.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Stores telemetry of Joulebook's agents, attributes every joule and answers what a model version costs.
#[derive(Debug, Parser)]
#[command(name = "joulebook-aggregator", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Something other than to serve
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file (TOML); the defaults hold without one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Folder of the database [default: /var/lib/joulebook]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// File of the pods and labels of nodes, which agents are told [default: none]
    #[arg(long, value_name = "FILE")]
    node_directory: Option<PathBuf>,
    /// Serve plaintext, on a loopback address only
    #[arg(long)]
    insecure_loopback: bool,
    /// Certificate of the aggregator (PEM)
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA certificates of agents and operators (PEM)
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Print a complete configuration file with every default and exit
    #[arg(long)]
    print_default_config: bool,
    /// Read the configuration as to serve with it, say whether that could be, and exit; nothing is opened
    #[arg(long)]
    check_config: bool,
}

/// Something other than to serve.
#[derive(Debug, Subcommand)]
enum Command {
    /// Make certificates of a new CA for one machine: server, operator, agents and pollers; nothing is overwritten
    DevCerts {
        /// Folder to write to; made if it is missing
        folder: PathBuf,
        /// Node that gets an agent's certificate; may be given several times [default: the host name]
        #[arg(long, value_name = "NAME")]
        node: Vec<NodeName>,
        /// Poller that gets a certificate; may be given several times
        #[arg(long, value_name = "NAME")]
        poller: Vec<PollerName>,
        /// Further host name of the aggregator, beside localhost; may be given several times
        #[arg(long, value_name = "HOST")]
        server_name: Vec<String>,
    },
    /// What the metrics page tells
    Metrics {
        /// What of it.
        #[command(subcommand)]
        command: MetricsCommand,
    },
    /// Restore a backup to a missing or empty folder of a database; no aggregator may serve it
    Restore {
        /// Folder of the backups
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// A backup by its number [default: the newest that was finished]
        #[arg(long, value_name = "NUMBER")]
        backup: Option<u32>,
        /// Where the database belongs.
        #[command(flatten)]
        place: Place,
    },
    /// Look at everything stored while no aggregator serves it, and change nothing; exit 74 if something is damaged
    Verify {
        /// Where the database lies.
        #[command(flatten)]
        place: Place,
    },
    /// Cut a damaged log off where the damage begins, and say what is dropped; agents send what they still hold of it
    Repair {
        /// Where the database lies.
        #[command(flatten)]
        place: Place,
        /// Really do it: what is behind the damage is dropped
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// What of the metrics page.
#[derive(Debug, Subcommand)]
enum MetricsCommand {
    /// Print every name with its type, unit, labels and meaning, as a table in Markdown
    List,
}

/// Where the database lies.
#[derive(Debug, Args)]
struct Place {
    /// Configuration file (TOML), for its data_dir
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database [default: /var/lib/joulebook]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; a closed pipe is none either.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if arguments.print_default_config {
        // A closed pipe: whoever reads has read enough.
        let _ = io::stdout().write_all(EXAMPLE.as_bytes());
        return ExitCode::SUCCESS;
    }
    if let Some(command) = &arguments.command {
        return ExitCode::from(apart(command));
    }
    if arguments.check_config {
        return ExitCode::from(check_config(&arguments).unwrap_or_else(|error| {
            let (code, text) = told(error);
            let _ = writeln!(io::stderr(), "joulebook-aggregator: {text}");
            code
        }));
    }
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "joulebook-aggregator: {error}");
            ExitCode::from(exit::code(&error))
        }
    }
}

/// Does something other than to serve, and returns the exit code.
fn apart(command: &Command) -> u8 {
    let done = match command {
        Command::DevCerts { folder, node, poller, server_name } => make_certificates(folder, node, poller, server_name)
            .map(|()| 0)
            .map_err(|error| (exit::dev_certs_code(&error), error.to_string())),
        Command::Metrics { command: MetricsCommand::List } => {
            // A closed pipe: whoever reads has read enough.
            let _ = io::stdout().write_all(reference(metric::ALL).as_bytes());
            Ok(0)
        }
        Command::Restore { from, backup, place } => place.of_database().and_then(|data_dir| {
            offline::restore(from, *backup, &data_dir, &mut io::stdout())
                .map(|()| 0)
                .map_err(|error| told(error.into()))
        }),
        Command::Verify { place } => place.of_database().and_then(|data_dir| {
            let verified = offline::verify(&data_dir, &mut io::stdout());
            verified.map(|well| if well { 0 } else { exit::IO }).map_err(|error| told(error.into()))
        }),
        Command::Repair { place, yes: _ } => place.of_database().and_then(|data_dir| {
            offline::repair(&data_dir, &mut io::stdout()).map(|()| 0).map_err(|error| told(error.into()))
        }),
    };
    done.unwrap_or_else(|(code, text)| {
        let _ = writeln!(io::stderr(), "joulebook-aggregator: {text}");
        code
    })
}

/// The exit code of an error, and what it says.
fn told(error: RunError) -> (u8, String) {
    (exit::code(&error), error.to_string())
}

impl Place {
    fn of_database(&self) -> Result<PathBuf, (u8, String)> {
        match (&self.data_dir, &self.config) {
            (Some(folder), _) => Ok(folder.clone()),
            (None, Some(path)) => Ok(Config::read(path).map_err(|error| told(error.into()))?.data_dir),
            (None, None) => Ok(Config::default().data_dir),
        }
    }
}

fn make_certificates(
    folder: &Path,
    nodes: &[NodeName],
    pollers: &[PollerName],
    hosts: &[String],
) -> Result<(), DevCertsError> {
    let host = || nix::unistd::gethostname().ok()?.into_string().ok()?.parse().ok();
    let nodes = if nodes.is_empty() { host().into_iter().collect() } else { nodes.to_vec() };
    for path in dev_certs::write_for(folder, &nodes, pollers, hosts, SystemClock.unix())? {
        // A closed pipe: whoever reads has read enough.
        let _ = writeln!(io::stdout(), "{}", path.display());
    }
    Ok(())
}

/// The file's configuration with the flags over it.
fn configuration(arguments: &Arguments) -> Result<Config, ConfigError> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    config.listen = arguments.listen.unwrap_or(config.listen);
    config.data_dir = arguments.data_dir.clone().unwrap_or(config.data_dir);
    config.insecure_loopback |= arguments.insecure_loopback;
    if let Some(file) = &arguments.node_directory {
        config.node_directory = Some(file.clone());
    }
    config.tls.certificate = arguments.tls_cert.clone().or(config.tls.certificate);
    config.tls.key = arguments.tls_key.clone().or(config.tls.key);
    config.tls.client_ca = arguments.tls_ca.clone().or(config.tls.client_ca);
    Ok(config)
}

/// Everything that `start` refuses before it opens anything, so that a chart or a unit can ask before a restart.
fn check_config(arguments: &Arguments) -> Result<u8, RunError> {
    let config = configuration(arguments)?;
    config.check()?;
    if let Some(file) = &config.node_directory {
        Directories::read(file, SystemClock.unix())?;
    }
    // A closed pipe: whoever reads has read enough.
    let _ = writeln!(io::stdout(), "the configuration is valid");
    Ok(0)
}

/// Says to standard error what happens, and notes it for a receiver of OpenTelemetry if there is one that wants to know.
fn log(telling: Option<Telling>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let people = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    dispatch(people, filter, telling).init();
}

fn start(arguments: Arguments) -> Result<(), RunError> {
    let config = configuration(&arguments)?;
    config.otlp.check().map_err(ConfigError::from)?;
    let service = ("joulebook-aggregator", env!("CARGO_PKG_VERSION"));
    let clock = unix_clock(&(Arc::new(SystemClock) as Arc<dyn Clock>));
    let (telling, carrier) = own(&config.otlp, service, None, &clock)?.unzip();
    log(telling);
    let runtime = tokio::runtime::Runtime::new().map_err(|_| RunError::Stuck)?;
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            _ => return Err(RunError::Stuck),
        };
        let stopped = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let Ok(file) = ConfigFile::watch(arguments.config.clone(), LOOK_EVERY) else { return Err(RunError::Stuck) };
        let reload = Reload::new(file, move || configuration(&arguments));
        let nobody = tokio::sync::oneshot::channel().0;
        let carrying = carrier.map(Carrier::start);
        let ended = run_reloading(config, Some(reload), Arc::new(SystemClock), nobody, stopped).await;
        if let Some(carrying) = carrying {
            carrying.finish().await;
        }
        ended
    });
    // A backup cannot be stopped while RocksDB copies files; nothing that was acknowledged waits for it.
    runtime.shutdown_timeout(LAST_WAIT);
    ended
}
