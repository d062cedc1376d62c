//! The sections `[export]` and `[metrics]` of the configuration.

use crate::config::duration;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// The shortest step: energy that is finer shows what a machine computes.
const LEAST_STEP: Duration = Duration::from_secs(60);
/// The longest window: that of a question.
const LONGEST_WINDOW: Duration = Duration::from_secs(400 * 86_400);
/// Most windows.
const MOST_WINDOWS: usize = 4;

/// `[export]`: what is worked out for other systems.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportSection {
    /// Time from one figure to the next.
    #[serde(deserialize_with = "duration")]
    pub step: Duration,
    /// How long after its end a step is taken for complete.
    #[serde(deserialize_with = "duration")]
    pub delay: Duration,
    /// Windows of the figures of model versions, besides the step.
    #[serde(deserialize_with = "durations")]
    pub windows: Vec<Duration>,
    /// Most model versions of a window.
    pub max_model_versions: usize,
}

impl Default for ExportSection {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self { step: minutes(5), delay: minutes(1), windows: vec![minutes(60)], max_model_versions: 200 }
    }
}

/// `[metrics]`: the page that Prometheus reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSection {
    /// Where it listens; absent: not at all.
    pub listen: Option<SocketAddr>,
    /// Whether plaintext is spoken where others can reach it.
    pub plaintext: bool,
}

/// Why the sections cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Too fine, or not the same every hour.
    #[error("export.step: it must be a whole number of minutes that an hour can be divided by, or whole hours")]
    Step,
    /// A delay of hours is a mistake.
    #[error("export.delay: it must be at most an hour")]
    Delay,
    /// A window that does not consist of steps.
    #[error(
        "export.windows: each must be another whole number of steps, at most 400 days, and there may be {MOST_WINDOWS} at most"
    )]
    Windows,
    /// None or far too many.
    #[error("export.max_model_versions must be 1 to 10000")]
    ModelVersions,
    /// Others could read it on the way.
    #[error(
        "metrics.listen = \"{0}\" can be reached by others: set [tls], or metrics.plaintext = true where the network is closed otherwise"
    )]
    Plaintext(SocketAddr),
}

impl ExportSection {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn check(&self) -> Result<(), ExportError> {
        let (step, hour) = (self.step.as_secs(), 3600_u64);
        let whole = self.step.subsec_nanos() == 0 && step.is_multiple_of(60);
        if self.step < LEAST_STEP
            || !whole
            || !(hour.is_multiple_of(step) || step.is_multiple_of(hour))
            || self.step > LONGEST_WINDOW
        {
            return Err(ExportError::Step);
        }
        if self.delay > Duration::from_secs(hour) {
            return Err(ExportError::Delay);
        }
        let steps = |window: &Duration| {
            *window >= self.step
                && *window <= LONGEST_WINDOW
                && window.subsec_nanos() == 0
                && window.as_secs().is_multiple_of(step)
        };
        let once = self.windows.iter().collect::<BTreeSet<_>>().len() == self.windows.len();
        if self.windows.len() > MOST_WINDOWS || !once || !self.windows.iter().all(steps) {
            return Err(ExportError::Windows);
        }
        if !(1..=10_000).contains(&self.max_model_versions) {
            return Err(ExportError::ModelVersions);
        }
        Ok(())
    }
}

impl MetricsSection {
    /// Refuses plaintext that was not asked for; `tls` says whether there are certificates.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn check(&self, tls: bool) -> Result<(), ExportError> {
        match self.listen {
            Some(listen) if !listen.ip().is_loopback() && !self.plaintext && !tls => {
                Err(ExportError::Plaintext(listen))
            }
            _ => Ok(()),
        }
    }

    /// Whether the page is served in plaintext: on a loopback address, and where that is asked for.
    pub fn is_plain(&self) -> bool {
        self.plaintext || self.listen.is_none_or(|listen| listen.ip().is_loopback())
    }
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    /// One of them.
    #[derive(Deserialize)]
    struct One(#[serde(deserialize_with = "duration")] Duration);
    Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|one| one.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let section: ExportSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.check().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_finer_than_a_minute_and_nothing_that_does_not_fit_an_hour() {
        for good in ["", "step = \"1m\"", "step = \"1h\"\nwindows = [\"1d\"]", "delay = \"0s\"\nwindows = []"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "step = \"1s\"",
            "step = \"59s\"",
            "step = \"7m\"",
            "step = \"90s\"",
            "step = \"60s 1ns\"",
            "delay = \"2h\"",
            "windows = [\"7m\"]",
            "windows = [\"1m\"]",
            "windows = [\"1h\", \"60m\"]",
            "windows = [\"401d\"]",
            "windows = [\"5m\", \"10m\", \"15m\", \"20m\", \"25m\"]",
            "max_model_versions = 0",
        ] {
            assert!(check(bad).is_err_and(|why| why.starts_with("export.")), "{bad}");
        }
    }

    #[test]
    fn plaintext_beyond_this_machine_is_asked_for() {
        let section = |text: &str| toml::from_str::<MetricsSection>(text).expect("valid");
        let far = section("listen = \"0.0.0.0:7464\"");
        assert!(far.check(false).is_err() && far.check(true).is_ok() && !far.is_plain());
        let plain = section("listen = \"0.0.0.0:7464\"\nplaintext = true");
        assert!(plain.check(false).is_ok() && plain.is_plain());
        let near = section("listen = \"127.0.0.1:7464\"");
        assert!(near.check(false).is_ok() && near.is_plain());
    }
}
