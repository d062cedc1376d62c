//! A changed configuration is taken over while the aggregator runs: what factors come from, how long data are kept and how
//! much of the disk stays free. Nothing is taken over of a file that is wrong, or that changes what only a start can.

use crate::config::{Config, ConfigError};
use crate::factor::Factors;
use crate::ingest::Counters;
use crate::store::retention::Periods;
use crate::store::space::Space;
use joulebook_proto::config_file::{ConfigFile, RELOAD_FAILURES, RELOADS};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a changed configuration is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It is no configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It changes what is fixed while the aggregator runs.
    #[error("`{0}` cannot change while the aggregator runs: start it again, or set the key back")]
    Fixed(&'static str),
}

/// Where a changed configuration comes from.
pub struct Reload {
    file: ConfigFile,
    read: Box<dyn Fn() -> Result<Config, ConfigError> + Send>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reload").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Reload {
    /// `read` reads the whole configuration again when `file` says so, flags of the command line included.
    pub fn new(file: ConfigFile, read: impl Fn() -> Result<Config, ConfigError> + Send + 'static) -> Self {
        Self { file, read: Box::new(read) }
    }

    /// Takes changes over until it is dropped. `config` is what `live` was made of.
    pub(crate) async fn run(mut self, mut config: Config, live: Live, counters: Arc<Counters>) {
        counters.add(RELOAD_FAILURES, 0);
        loop {
            self.file.changed().await;
            match (self.read)()
                .map_err(ReloadError::from)
                .and_then(|found| live.take_over(&config, &found).map(|()| found))
            {
                Ok(found) => {
                    config = found;
                    counters.add(RELOADS, 1);
                    tracing::info!("the configuration was read again and is in force");
                }
                Err(error) => {
                    counters.add(RELOAD_FAILURES, 1);
                    tracing::error!(%error, "the changed configuration is not taken over: the one before stays in force");
                }
            }
        }
    }
}

/// What follows the configuration while the aggregator runs.
#[derive(Debug)]
pub(crate) struct Live {
    /// What answers are made with.
    pub factors: watch::Sender<Arc<Factors>>,
    /// How long data are kept.
    pub periods: watch::Sender<Periods>,
    /// The disk.
    pub space: Arc<Space>,
}

impl Live {
    /// All of it or nothing.
    fn take_over(&self, now: &Config, found: &Config) -> Result<(), ReloadError> {
        let factors = found.check()?;
        if let Some(key) = now.fixed_key_changed_in(found) {
            return Err(ReloadError::Fixed(key));
        }
        self.factors.send_replace(Arc::new(factors));
        self.periods.send_replace(found.periods());
        self.space.leave(found.least_space());
        Ok(())
    }
}
