//! A changed configuration is taken over while the agent runs: it is proved first, then an agent with the new one takes the
//! place of the old one in the same process. What is wrong changes nothing.
//!
//! Question: why not change the parts that differ? Because every part would need a second way to come about, which nobody
//! tests as often as the start. A start on the same boot is exact anyway: counters go on from the spool's baselines, and
//! records that were not acknowledged are sent again.

use crate::clock::Clock;
use crate::config::{Config, ConfigError, Role};
use crate::inference;
use crate::metrics::Process;
use crate::run::{Ending, RunError, run_counted, security};
use joulebook_otlp::Signal;
use joulebook_proto::config_file::{ConfigFile, RELOAD_FAILURES, RELOADS};
use std::cell::Cell;
use std::sync::Arc;

/// Why a changed configuration is not taken over.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Wrong(#[from] RunError),
    #[error("`{0}` cannot change while the agent runs: start it again, or set the key back")]
    Fixed(&'static str),
}

/// Runs an agent until `stopped` completes. When `file` says so, `read` reads the configuration again, flags of the command
/// line included.
///
/// # Errors
/// See [`RunError`].
pub async fn run_reloading(
    config: Config,
    mut file: ConfigFile,
    read: impl Fn() -> Result<Config, ConfigError>,
    clock: Arc<dyn Clock>,
    mut stopped: impl Future<Output = ()> + Unpin,
) -> Result<(), RunError> {
    let process = Arc::new(Process::default());
    let (mut config, mut before) = (config, None::<Config>);
    loop {
        let (started, mut found) = (Cell::new(false), None);
        let is_new = before.is_some();
        let ending = async {
            started.set(true);
            if is_new {
                accept(&process);
            }
            loop {
                tokio::select! {
                    biased;
                    () = &mut stopped => return Ending::Stop,
                    () = file.changed() => {}
                }
                match read()
                    .map_err(|error| ReloadError::from(RunError::from(error)))
                    .and_then(|new| prove(&config, new))
                {
                    Ok(new) => {
                        found = Some(new);
                        return Ending::Replaced;
                    }
                    Err(error) => refuse(&process, &error),
                }
            }
        };
        let running = run_counted(config.clone(), Arc::clone(&clock), ending, Arc::clone(&process));
        match (running.await, before.take()) {
            (Ok(()), _) => match found {
                None => return Ok(()),
                Some(new) => before = Some(std::mem::replace(&mut config, new)),
            },
            // Proved and yet it does not start, for lack of a folder, say: nothing has begun with it.
            (Err(error), Some(old)) if !started.get() => {
                refuse(&process, &ReloadError::Wrong(error));
                config = old;
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// Refuses what an agent would refuse at its start, as far as that can be told without starting one, and what makes
/// another agent of it.
fn prove(now: &Config, new: Config) -> Result<Config, ReloadError> {
    let wrong = |error: ConfigError| ReloadError::Wrong(error.into());
    new.check().map_err(wrong)?;
    if now.role != new.role {
        return Err(ReloadError::Fixed("role"));
    }
    if now.node_name().map_err(wrong)? != new.node_name().map_err(wrong)? {
        return Err(ReloadError::Fixed("node"));
    }
    // Its streams at the aggregator belong to the name.
    if new.role == Role::BmcPoller && now.poller_name().map_err(wrong)? != new.poller_name().map_err(wrong)? {
        return Err(ReloadError::Fixed("poller"));
    }
    // Records that were not delivered would stay behind.
    if now.spool.dir != new.spool.dir {
        return Err(ReloadError::Fixed("spool.dir"));
    }
    // One subscriber for the whole process, made at its start.
    let own = |config: &Config| [Signal::Traces, Signal::Logs].iter().any(|signal| config.export.tells(*signal));
    if now.export != new.export && (own(now) || own(&new)) {
        return Err(ReloadError::Fixed("export"));
    }
    security(&new)?;
    if let Some(socket) = new.push.socket.as_deref().filter(|socket| now.push.socket.as_deref() != Some(*socket)) {
        inference::listening::check(inference::push::KEY, socket).map_err(RunError::from)?;
    }
    if let Some(socket) = new.otlp.socket.as_deref().filter(|socket| now.otlp.socket.as_deref() != Some(*socket)) {
        inference::listening::check(inference::otlp::SOCKET, socket).map_err(RunError::from)?;
    }
    inference::check(new.target.clone(), &new.presets().map_err(wrong)?).map_err(RunError::from)?;
    Ok(new)
}

/// Counts and says that a changed configuration is in force.
fn accept(process: &Process) {
    let taken = process.reloaded();
    tracing::info!("the configuration was read again and is in force ({RELOADS} {taken})");
}

/// Counts and says that one is not taken over.
fn refuse(process: &Process, error: &ReloadError) {
    let refused = process.refused();
    tracing::error!(
        %error,
        "the changed configuration is not taken over: the one before stays in force ({RELOAD_FAILURES} {refused})"
    );
}
