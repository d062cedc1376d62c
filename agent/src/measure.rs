//! `joulebook-agent measure`: runs a command once or several times and says what energy the node used meanwhile, by the
//! running agent's own sensors.

use crate::span::Report;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// How long the agent may take to answer: a row lasts milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// No socket is known.
    #[error("no socket is named: give --socket PATH, or --config FILE with push.socket")]
    NoSocket,
    /// The agent does not answer.
    #[error("asking the agent at {path} failed: {source}; is it running, with push.socket set to that path?")]
    Agent {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The agent refuses.
    #[error("the agent refused to measure ({reason}): {why}")]
    Refused {
        /// Its reason.
        reason: String,
        /// In words.
        why: String,
    },
    /// The command does not start.
    #[error("starting {} failed: {source}", command.display())]
    Command {
        /// Its program.
        command: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl MeasureError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoSocket => 78,
            Self::Agent { .. } => 69,
            Self::Refused { reason, .. } if reason == "peer" => 77,
            Self::Refused { .. } => 75,
            // As a shell has it.
            Self::Command { .. } => 127,
        }
    }
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// Each run.
    pub runs: Vec<Run>,
    /// Mean and standard deviation over the runs of what every run has.
    pub mean: BTreeMap<String, Spread>,
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Run {
    /// The command's exit code, or 128 + the signal that ended it.
    pub exit_code: i32,
    /// What was used.
    pub used: Report,
}

/// Mean and standard deviation of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample (n − 1); unset for one run.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of these values; `None` of none.
    #[expect(clippy::cast_precision_loss, reason = "few values")]
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)?;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        Some(Self { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) })
    }
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    span: Option<u64>,
    used: Option<Report>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    why: String,
}

/// The running agent.
struct Agent {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Agent {
    fn connect(path: &Path) -> Result<Self, MeasureError> {
        let failed = |source| MeasureError::Agent { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    fn says(&mut self, line: &serde_json::Value) -> Result<Answer, MeasureError> {
        let failed = |path: &Path, source| MeasureError::Agent { path: path.to_owned(), source };
        let stream = self.stream.get_mut();
        stream.write_all(format!("{line}\n").as_bytes()).map_err(|source| failed(&self.path, source))?;
        let mut text = String::new();
        self.stream.read_line(&mut text).map_err(|source| failed(&self.path, source))?;
        let answer: Answer = serde_json::from_str(&text).map_err(|error| failed(&self.path, error.into()))?;
        if answer.ok {
            return Ok(answer);
        }
        Err(MeasureError::Refused { reason: answer.reason, why: answer.why })
    }
}

/// Runs a command so many times and measures each run. A run that fails ends the series: the others would measure the failure.
///
/// # Errors
/// See [`MeasureError`].
pub fn measure(socket: Option<&Path>, repeat: u32, command: &[OsString]) -> Result<Measurement, MeasureError> {
    let mut agent = Agent::connect(socket.ok_or(MeasureError::NoSocket)?)?;
    let mut runs = Vec::new();
    for _ in 0..repeat {
        let span = agent.says(&serde_json::json!({"begin": "measure"}))?.span;
        let status = run(command)?;
        let used = agent.says(&serde_json::json!({"end": span}))?.used;
        let used = used.ok_or_else(|| MeasureError::Refused {
            reason: "form".to_owned(),
            why: "it did not say what was used".to_owned(),
        })?;
        let exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        runs.push(Run { exit_code, used });
        if exit_code != 0 {
            break;
        }
    }
    let mean = means(&runs);
    Ok(Measurement { runs, mean })
}

fn run(command: &[OsString]) -> Result<ExitStatus, MeasureError> {
    let (program, arguments) =
        command.split_first().map_or((OsString::new(), &[][..]), |(one, rest)| (one.clone(), rest));
    let failed = |source| MeasureError::Command { command: PathBuf::from(&program), source };
    Command::new(&program).args(arguments).status().map_err(failed)
}

#[expect(clippy::cast_precision_loss, reason = "joules for reading")]
fn means(runs: &[Run]) -> BTreeMap<String, Spread> {
    let joules = |energy: u64| energy as f64 / 1e6;
    let mut means: BTreeMap<String, Spread> = BTreeMap::new();
    let mut add = |name: String, values: Option<Vec<f64>>| {
        means.extend(values.and_then(|values| Spread::of(&values)).map(|spread| (name, spread)));
    };
    add("seconds".to_owned(), Some(runs.iter().map(|run| run.used.seconds).collect()));
    add("joules".to_owned(), runs.iter().map(|run| run.used.microjoules.map(joules)).collect());
    add("idle_joules".to_owned(), runs.iter().map(|run| run.used.idle_microjoules.map(joules)).collect());
    for id in runs.first().into_iter().flat_map(|run| run.used.sources.keys()) {
        let of_source = runs.iter().map(|run| run.used.sources.get(id).map(|one| joules(one.microjoules)));
        add(format!("{id} joules"), of_source.collect());
    }
    means
}

/// For reading.
pub fn write(measured: &Measurement) -> String {
    let runs = measured.runs.len();
    let spread = |name: &str, unit: &str| match measured.mean.get(name) {
        None => "not measured".to_owned(),
        Some(Spread { mean, deviation: None }) => format!("{mean:.3} {unit}"),
        Some(Spread { mean, deviation: Some(deviation) }) => format!("{mean:.3} ± {deviation:.3} {unit}"),
    };
    let mut text =
        format!("\n{runs} {}, {}\n", if runs == 1 { "run" } else { "runs, mean ± sd" }, spread("seconds", "s"));
    text += &format!("node      {}\n", spread("joules", "J"));
    let idle = match measured.mean.contains_key("idle_joules") {
        true => spread("idle_joules", "J"),
        false => "unknown: the idle power of a part is not known".to_owned(),
    };
    text += &format!("  at rest {idle}\n");
    if let Some(last) = measured.runs.last() {
        for (id, one) in &last.used.sources {
            let beside = if one.added { "" } else { " (contains others, not added)" };
            text += &format!("  {id} {}{beside}\n", spread(&format!("{id} joules"), "J"));
        }
        for (id, why) in &last.used.not_measured {
            text += &format!("  {id} not measured: {why}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(microjoules: Option<u64>) -> Run {
        let used = Report {
            seconds: 2.0,
            microjoules,
            idle_microjoules: None,
            sources: BTreeMap::new(),
            not_measured: BTreeMap::from([("nvml/0".to_owned(), "no library".to_owned())]),
        };
        Run { exit_code: 0, used }
    }

    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, deviation: None }));
        assert_eq!(Spread::of(&[2.0, 4.0]), Some(Spread { mean: 3.0, deviation: Some(2.0_f64.sqrt()) }));
    }

    #[test]
    fn what_one_run_did_not_measure_has_no_mean() {
        let runs = vec![ran(Some(5_000_000)), ran(None)];
        let mean = means(&runs);
        assert_eq!(mean.keys().map(String::as_str).collect::<Vec<_>>(), ["seconds"]);
        let text = write(&Measurement { runs, mean });
        assert!(text.contains("node      not measured") && text.contains("nvml/0 not measured: no library"), "{text}");
        let runs = vec![ran(Some(5_000_000)), ran(Some(7_000_000))];
        let text = write(&Measurement { mean: means(&runs), runs });
        assert!(text.contains("2 runs") && text.contains("6.000 ± 1.414 J"), "{text}");
    }

    #[test]
    fn without_an_agent_nothing_is_run() {
        let folder = tempfile::tempdir().expect("folder");
        let mark = folder.path().join("ran");
        let command = ["touch".into(), mark.clone().into_os_string()];
        let error = measure(Some(&folder.path().join("none.sock")), 1, &command).expect_err("no agent");
        assert_eq!((error.exit_code(), mark.exists()), (69, false));
        assert_eq!(measure(None, 1, &command).expect_err("no socket").exit_code(), 78);
    }
}
