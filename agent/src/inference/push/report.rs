//! One line from a server.

use super::super::reader::NO_VERSION;
use super::super::told::Refusal;
use joulebook_units::{CountKind, VersionSource};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Highest integer that every JSON reader holds exactly.
const EXACT: u64 = 1 << 53;
/// Most bytes of a name.
const MOST_NAME_BYTES: usize = 256;
/// Most generations from the sender to the process the counts belong to.
const MOST_PARENTS: u8 = 4;

/// Counts of one model version. A count that is left out is not known.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Number of the report, from 1 and rising; one that is not above the last of its process is a repetition and
    /// changes nothing.
    pub seq: u64,
    /// Whether counts are since the start of the process. Otherwise they are since the report before (the first: since
    /// the connection).
    pub cumulative: bool,
    /// Model name, 1 to 256 bytes.
    pub model: String,
    /// Version, at most 256 bytes; unset = unknown.
    pub model_version: Option<String>,
    /// Generations up from the sender to the process the counts belong to, 0 to 4: a script that sends through a tool
    /// says 1.
    #[serde(default)]
    pub parents: u8,
    /// Requests finished successfully.
    pub requests: Option<u64>,
    /// Requests that failed.
    pub failed: Option<u64>,
    /// Requests given up.
    pub aborted: Option<u64>,
    /// Model evaluations.
    pub items: Option<u64>,
    /// Prompt tokens with the cached ones.
    pub input_tokens: Option<u64>,
    /// Cached prompt tokens.
    pub cached_tokens: Option<u64>,
    /// Generated tokens.
    pub output_tokens: Option<u64>,
    /// Generated tokens of hidden reasoning, part of the output.
    pub reasoning_tokens: Option<u64>,
    /// Time spent on inference in s.
    pub busy_seconds: Option<f64>,
    /// Images made or looked at.
    pub images: Option<u64>,
    /// Sound made or listened to, in s of it.
    pub audio_seconds: Option<f64>,
    /// Video made or looked at, in s of it.
    pub video_seconds: Option<f64>,
    /// Sessions of several requests.
    pub sessions: Option<u64>,
    /// Who the requests were for. The counts are then that consumer's alone: those of others are told in reports of their own,
    /// and the model version has them all.
    pub consumer: Option<String>,
    /// The workflow that the requests were a part of, in the same way.
    pub workflow: Option<String>,
    /// The root of the requests: what of the workflow started them, the same in every report of one run. It does not leave
    /// the node; runs are counted.
    pub root: Option<String>,
}

/// The line that says why a report was not counted.
pub fn refused(refusal: &Refusal) -> String {
    format!("{}\n", serde_json::json!({"ok": false, "reason": refusal.reason, "why": refusal.why}))
}

impl Report {
    /// Reads and checks a line.
    ///
    /// # Errors
    /// No JSON object of this form, or a value out of its range.
    pub fn parse(line: &[u8]) -> Result<Self, Refusal> {
        // A list in the order of the fields would be read too.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refusal::form("a line is one JSON object"));
        }
        let report: Self = serde_json::from_slice(line).map_err(|error| Refusal::form(error.to_string()))?;
        let (consumer, workflow, root) = (report.consumer.as_ref(), report.workflow.as_ref(), report.root.as_ref());
        let names = [Some(&report.model), report.model_version.as_ref(), consumer, workflow, root];
        let bad = |name: &&String| name.len() > MOST_NAME_BYTES || name.chars().any(char::is_control);
        if report.model.trim().is_empty() || names.into_iter().flatten().any(|name| bad(&name)) {
            return Err(Refusal::value("a name holds 1 to 256 bytes and no control characters"));
        }
        if [consumer, workflow, root].into_iter().flatten().any(|name| name.trim().is_empty()) {
            return Err(Refusal::value(
                "`consumer`, `workflow` and `root` hold something; leave out what is not known",
            ));
        }
        if report.root.is_some() && (report.workflow.is_none() || report.cumulative) {
            return Err(Refusal::value("`root` goes with `workflow`, and with counts since the report before"));
        }
        if report.seq == 0 || report.seq > EXACT {
            return Err(Refusal::value("`seq` counts from 1"));
        }
        if report.parents > MOST_PARENTS {
            return Err(Refusal::value("`parents` is 0 to 4"));
        }
        let times = [report.busy_seconds, report.audio_seconds, report.video_seconds];
        if times.into_iter().flatten().any(|seconds| !(0.0..=1e9).contains(&seconds)) {
            return Err(Refusal::value("`busy_seconds`, `audio_seconds` and `video_seconds` are 0 to 1e9"));
        }
        let counts = report.counts();
        if counts.is_empty() {
            return Err(Refusal::value("the report holds no count"));
        }
        if counts.iter().any(|(kind, count)| !kind.is_time() && *count > EXACT) {
            return Err(Refusal::value("a count is at most 2^53"));
        }
        if report.cached_tokens.unwrap_or(0) > report.input_tokens.unwrap_or(u64::MAX) {
            return Err(Refusal::value("`cached_tokens` are part of `input_tokens`"));
        }
        if report.reasoning_tokens.unwrap_or(0) > report.output_tokens.unwrap_or(u64::MAX) {
            return Err(Refusal::value("`reasoning_tokens` are part of `output_tokens`"));
        }
        Ok(report)
    }

    /// The counts that it holds.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 0 to 10^18")]
    pub fn counts(&self) -> BTreeMap<CountKind, u64> {
        let nanos = |seconds: Option<f64>| seconds.map(|seconds| (seconds * 1e9).round() as u64);
        let counts = [
            (CountKind::RequestsOk, self.requests),
            (CountKind::RequestsFailed, self.failed),
            (CountKind::RequestsAborted, self.aborted),
            (CountKind::Items, self.items),
            (CountKind::InputTokens, self.input_tokens),
            (CountKind::CachedTokens, self.cached_tokens),
            (CountKind::OutputTokens, self.output_tokens),
            (CountKind::ReasoningTokens, self.reasoning_tokens),
            (CountKind::BusyNanos, nanos(self.busy_seconds)),
            (CountKind::Images, self.images),
            (CountKind::AudioNanos, nanos(self.audio_seconds)),
            (CountKind::VideoNanos, nanos(self.video_seconds)),
            (CountKind::Sessions, self.sessions),
        ];
        counts.into_iter().filter_map(|(kind, count)| Some((kind, count?))).collect()
    }

    /// The version and where it comes from.
    pub fn version(&self) -> (Option<String>, VersionSource) {
        version(self.model_version.as_deref())
    }
}

/// The version that a server tells of itself, and where it comes from.
pub fn version(told: Option<&str>) -> (Option<String>, VersionSource) {
    match told.map(str::trim) {
        None => (None, VersionSource::Unresolved),
        Some(word) if NO_VERSION.contains(&word) => (None, VersionSource::DenyList),
        Some(version) => (Some(version.to_owned()), VersionSource::Pushed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_report_is_refused_with_the_reason() {
        let base = "\"seq\":1,\"cumulative\":true,\"model\":\"m\"";
        for (line, reason, word) in [
            ("[1,true,\"m\"]".to_owned(), "form", "object"),
            (format!("{{{base},\"seq\":2,\"requests\":1}}"), "form", "duplicate"),
            (format!("{{{base},\"requests\":1"), "form", "EOF"),
            (format!("{{{base},\"requests\":1,\"tokens\":1}}"), "form", "unknown field"),
            (format!("{{{base},\"requests\":-1}}"), "form", "invalid value"),
            (format!("{{{base},\"requests\":1.5}}"), "form", "invalid type"),
            (format!("{{{base},\"requests\":9007199254740993}}"), "value", "2^53"),
            (format!("{{{base},\"busy_seconds\":-1}}"), "value", "busy_seconds"),
            (format!("{{{base}}}"), "value", "no count"),
            (format!("{{{base},\"requests\":1,\"parents\":5}}"), "value", "parents"),
            (format!("{{{base},\"requests\":1,\"workflow\":\"w\",\"root\":\"r\"}}"), "value", "root"),
            (format!("{{{base},\"requests\":1,\"consumer\":\" \"}}"), "value", "consumer"),
            (format!("{{{base},\"audio_seconds\":1e300}}"), "value", "audio_seconds"),
            (format!("{{{base},\"input_tokens\":1,\"cached_tokens\":2}}"), "value", "part of"),
            (format!("{{{base},\"output_tokens\":1,\"reasoning_tokens\":2}}"), "value", "part of"),
            ("{\"seq\":0,\"cumulative\":true,\"model\":\"m\",\"items\":1}".to_owned(), "value", "seq"),
            ("{\"seq\":1,\"cumulative\":true,\"model\":\"a\\u0007\",\"items\":1}".to_owned(), "value", "name"),
            ("{\"seq\":1,\"cumulative\":true,\"model\":\" \",\"items\":1}".to_owned(), "value", "name"),
        ] {
            let refusal = Report::parse(line.as_bytes()).expect_err(&line);
            assert!(refusal.reason == reason && refusal.why.contains(word), "{line}: {refusal:?}");
        }
        assert!(Report::parse("{\"a\":".repeat(100_000).as_bytes()).is_err());
    }
}
