//! `joulebook-agent`: arguments → configuration → run → exit code.

use clap::Parser;
use joulebook_agent::clock::SystemClock;
use joulebook_agent::collector::nvml::serve::{HELPER, serve as serve_nvml};
use joulebook_agent::config::{Config, EXAMPLE, Overrides};
use joulebook_agent::run::RunError;
use joulebook_agent::{exit, run};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Reads power and inference counts of this node and delivers them to the aggregator.
#[derive(Debug, Parser)]
#[command(name = "joulebook-agent", version)]
struct Arguments {
    /// Configuration file (TOML); see --print-default-config.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the node [default: the host name].
    #[arg(long)]
    node: Option<String>,
    /// Address of the aggregator, https://host:port [default: https://127.0.0.1:7443].
    #[arg(long, value_name = "URL")]
    aggregator: Option<String>,
    /// Allow plaintext to an aggregator at 127.0.0.1 or ::1.
    #[arg(long)]
    insecure_loopback: bool,
    /// The agent's certificate (PEM), which names the node.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// CA certificates of the aggregator (PEM).
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Folder of the disk queue.
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// Where sysfs is mounted.
    #[arg(long, value_name = "DIR")]
    sysfs_root: Option<PathBuf>,
    /// Where procfs is mounted.
    #[arg(long, value_name = "DIR")]
    procfs_root: Option<PathBuf>,
    /// Where control groups are mounted.
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// NVIDIA's management library, if not the one that the driver installed.
    #[arg(long, value_name = "FILE")]
    nvml_lib: Option<PathBuf>,
    /// Print a complete commented configuration and exit.
    #[arg(long)]
    print_default_config: bool,
}

fn main() -> ExitCode {
    // The agent starts itself once more to hold the vendor's library, which may hang or crash.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|first| first == HELPER) {
        let library = words.next().map(PathBuf::from);
        return match serve_nvml(library.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(exit::TEMPORARY),
        };
    }
    let arguments = match Arguments::try_parse() {
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
    let filter = tracing_subscriber::EnvFilter::try_from_env("JOULEBOOK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            exit::exit(&error)
        }
    }
}

fn serve(arguments: Arguments) -> Result<(), RunError> {
    let overrides = Overrides {
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
    };
    let config = Config::load(arguments.config.as_deref(), overrides)?;
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
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run::run(config, Arc::new(SystemClock), shutdown).await
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
