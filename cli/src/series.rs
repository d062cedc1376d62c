//! A window in parts of one length: the same question for each of them, and one answer of all.

use crate::failure::Failure;
use jiff::Timestamp;
use joulebook_proto::query::{GetEnergyResponse, KeyPart, TimeWindow};
use std::time::Duration;

/// Most parts of a window: each is a question.
const MOST: usize = 1_000;
/// Shortest part: rows are a second apart.
const LEAST: Duration = Duration::from_secs(1);

/// The parts of a window, each so long, the last one cut at its end.
///
/// # Errors
/// A part below a second, or more than 1,000 of them.
pub(crate) fn windows(window: TimeWindow, step: Duration) -> Result<Vec<TimeWindow>, Failure> {
    let nanos = i64::try_from(step.as_nanos()).unwrap_or(i64::MAX);
    if step < LEAST {
        return Err(Failure::Usage("--step must be at least 1s".to_owned()));
    }
    let (mut start, end) = (window.start_unix_nanos, window.end_unix_nanos);
    let mut parts = Vec::new();
    while start < end {
        if parts.len() == MOST {
            return Err(Failure::Usage(format!("the window has more than {MOST} steps: ask for longer ones")));
        }
        let until = start.saturating_add(nanos).min(end);
        parts.push(TimeWindow { start_unix_nanos: start, end_unix_nanos: until });
        start = until;
    }
    Ok(parts)
}

/// One answer of several: its rows begin with the instant from which they are. How inputs and parts were reconciled stands
/// in the answer to the whole window only.
#[allow(clippy::cast_precision_loss, reason = "a weighted mean for reading")]
pub(crate) fn joined(answers: Vec<GetEnergyResponse>) -> GetEnergyResponse {
    let mut whole = GetEnergyResponse::default();
    let (mut known, mut nanos) = (0.0, 0.0);
    for answer in answers {
        let Some(window) = answer.window else { continue };
        let from = KeyPart { name: "from".to_owned(), value: instant(window.start_unix_nanos) };
        whole.rows.extend(answer.rows.into_iter().map(|mut row| {
            row.key.insert(0, from.clone());
            row
        }));
        whole.total_microjoules = whole.total_microjoules.saturating_add(answer.total_microjoules);
        whole.simulated_microjoules = whole.simulated_microjoules.saturating_add(answer.simulated_microjoules);
        whole.simulated |= answer.simulated;
        for (program, energy) in answer.own_microjoules {
            let own = whole.own_microjoules.entry(program).or_default();
            *own = own.saturating_add(energy);
        }
        whole.resolution_seconds = whole.resolution_seconds.max(answer.resolution_seconds);
        if let Some(fraction) = answer.energy_measured_fraction {
            let length = (window.end_unix_nanos - window.start_unix_nanos) as f64;
            (known, nanos) = (known + fraction * length, nanos + length);
        }
        let start = whole.window.map_or(window.start_unix_nanos, |all| all.start_unix_nanos);
        whole.window = Some(TimeWindow { start_unix_nanos: start, ..window });
    }
    whole.energy_measured_fraction = (nanos > 0.0).then(|| known / nanos);
    whole
}

fn instant(nanos: i64) -> String {
    Timestamp::from_nanosecond(nanos.into()).map_or_else(|_| format!("{nanos} ns"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_proto::query::EnergyRow;

    const SECOND: i64 = 1_000_000_000;

    fn window(start: i64, end: i64) -> TimeWindow {
        TimeWindow { start_unix_nanos: start * SECOND, end_unix_nanos: end * SECOND }
    }

    #[test]
    fn a_window_falls_into_parts_without_a_hole_and_the_last_one_ends_with_it() {
        let parts = windows(window(10, 35), Duration::from_secs(10)).expect("three");
        assert_eq!(parts, [window(10, 20), window(20, 30), window(30, 35)]);
        assert!(matches!(windows(window(0, 1_001), Duration::from_secs(1)), Err(Failure::Usage(_))));
        assert!(windows(window(0, 1_000), Duration::from_secs(1)).is_ok());
        assert!(matches!(windows(window(0, 1), Duration::from_millis(999)), Err(Failure::Usage(_))));
    }

    #[test]
    fn rows_say_from_when_they_are_and_sums_are_those_of_all_parts() {
        let part = |start: i64, energy: u64, known: f64| GetEnergyResponse {
            rows: vec![EnergyRow { microjoules: Some(energy), ..EnergyRow::default() }],
            total_microjoules: energy,
            resolution_seconds: 1,
            window: Some(window(start, start + 10)),
            energy_measured_fraction: Some(known),
            own_microjoules: [("agent".to_owned(), energy - 4)].into(),
            ..GetEnergyResponse::default()
        };
        let whole = joined(vec![part(0, 5, 1.0), part(10, 7, 0.5)]);
        assert_eq!((whole.total_microjoules, whole.window), (12, Some(window(0, 20))));
        assert_eq!(whole.own_microjoules, [("agent".to_owned(), 4)].into());
        assert!((whole.energy_measured_fraction.expect("known") - 0.75).abs() < 1e-12);
        let from: Vec<&str> = whole.rows.iter().map(|row| row.key[0].value.as_str()).collect();
        assert_eq!(from, ["1970-01-01T00:00:00Z", "1970-01-01T00:00:10Z"]);
    }
}
