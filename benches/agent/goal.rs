//! The goals, held against the measurements of one run.

use std::fmt::Write;

use crate::contestant::{Contestant, Measured};
use crate::settings::GOAL_PROCESSES;

/// Bytes of a KiB over bytes of a MB.
const MEGABYTES: f64 = 1024.0 / 1e6;
const WALK: &str = "all of 300 processes, RAPL, encode, send: CPU ms a cycle";
const PRUNED: &str = "the same with processes in sleeping groups: CPU ms a cycle";
const MEMORY: &str = "anonymous resident memory, MB";
const FAST: &str = "10 Hz energy with 1 Hz processes: CPU ms a second";
const GROWTH: &str = "growth over the numbers of processes: CPU µs a process";
const GROWTH_PRUNED: &str = "growth with processes in sleeping groups (about 0)";

/// The whole result.
pub struct Report {
    /// Tables for reading.
    pub text: String,
    /// Whether a cycle costs less than scaphandre's, or scaphandre was not measured.
    pub must_hold: bool,
}

/// One goal, what it allows, and what was found. Where a peer or floor is not there, its part is not decided.
struct Goal {
    id: &'static str,
    what: &'static str,
    most: f64,
    ours: Option<f64>,
    /// Value of scaphandre and the largest ratio to it.
    peer: Option<(Option<f64>, f64)>,
    /// Value of the floor and the largest ratio to it.
    floor: Option<(Option<f64>, f64)>,
}

impl Goal {
    fn verdict(&self, why: &str) -> String {
        let Some(ours) = self.ours else { return "not measured".to_owned() };
        let mut missed = Vec::new();
        let mut open = Vec::new();
        if ours > self.most {
            missed.push(format!("above {}", self.most));
        }
        for (name, limit) in [("scaphandre", self.peer), ("floor", self.floor)] {
            match limit {
                Some((Some(other), most)) if ours > most * other => missed.push(format!("above {most} × {name}")),
                Some((None, _)) => open.push(format!("{name} not measured")),
                _ => {}
            }
        }
        let open = if open.is_empty() { String::new() } else { format!(" ({})", open.join(", ")) };
        if missed.is_empty() { format!("met{open}") } else { format!("missed: {}{open}; {why}", missed.join(", ")) }
    }

    fn line(&self, why: &str) -> String {
        let ratio = |other: Option<(Option<f64>, f64)>| match (self.ours, other) {
            (Some(ours), Some((Some(other), most))) => (number(Some(other)), format!("{:.2} (≤ {most})", ours / other)),
            _ => (number(None), number(None)),
        };
        let ((peer, to_peer), (floor, to_floor)) = (ratio(self.peer), ratio(self.floor));
        let (id, what, ours, most) = (self.id, self.what, number(self.ours), self.most);
        format!(
            "| {id} | {what} | {ours} | {most} | {peer} | {to_peer} | {floor} | {to_floor} | {} |",
            self.verdict(why)
        )
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// Straight line through all measurements of a contestant: CPU ms of a cycle without processes, and µs a process. Needs
/// two numbers of processes.
fn line_through(measured: &[Measured], contestant: Contestant) -> Option<(f64, f64)> {
    let points = || measured.iter().filter(|one| one.contestant == contestant);
    let count = points().count() as f64;
    let mean = |value: &dyn Fn(&Measured) -> f64| points().map(value).sum::<f64>() / count;
    let (x, y) = (mean(&|one| one.processes as f64), mean(&Measured::cpu_millis));
    let spread = points().map(|one| (one.processes as f64 - x).powi(2)).sum::<f64>();
    let slope = points().map(|one| (one.processes as f64 - x) * (one.cpu_millis() - y)).sum::<f64>() / spread;
    slope.is_finite().then_some((y - slope * x, slope * 1e3))
}

/// All tables.
pub fn report(measured: &[Measured], left_out: &[(Contestant, String)]) -> Report {
    let mut text = String::from("\n");
    // Writing into a String does not fail.
    let _ = costs(&mut text, measured, left_out);
    let at_goal = |contestant, value: &dyn Fn(&Measured) -> f64| {
        let here = measured.iter().filter(|one| one.contestant == contestant && one.wanted == GOAL_PROCESSES);
        median(here.map(value))
    };
    let cpu = |contestant| at_goal(contestant, &Measured::cpu_millis);
    let megabytes = |contestant| at_goal(contestant, &|one| one.memory.anonymous_kib as f64 * MEGABYTES);
    let slope = |contestant| line_through(measured, contestant).map(|(_, slope)| slope);
    let scaphandre = cpu(Contestant::Scaphandre);
    let goal = |id, what, most, ours, peer, floor| Goal { id, what, most, ours, peer, floor };
    let goals = [
        (
            goal(
                "PERF-A1",
                WALK,
                2.4,
                cpu(Contestant::Agent),
                Some((scaphandre, 0.10)),
                Some((cpu(Contestant::FloorKept), 1.2)),
            ),
            Contestant::Agent,
        ),
        (
            goal("PERF-A2", PRUNED, 0.5, cpu(Contestant::AgentPruned), Some((scaphandre, 0.02)), None),
            Contestant::AgentPruned,
        ),
        (
            goal(
                "PERF-A3",
                MEMORY,
                6.0,
                megabytes(Contestant::Agent),
                Some((megabytes(Contestant::Scaphandre), 0.35)),
                None,
            ),
            Contestant::Agent,
        ),
        (goal("PERF-A3", FAST, 5.0, cpu(Contestant::AgentFast), None, None), Contestant::AgentPruned),
        (
            goal("growth", GROWTH, 8.0, slope(Contestant::Agent), None, Some((slope(Contestant::FloorKept), 1.2))),
            Contestant::Agent,
        ),
        (goal("growth", GROWTH_PRUNED, 1.0, slope(Contestant::AgentPruned), None, None), Contestant::AgentPruned),
    ];
    text.push_str("\n| id | goal | ours | at most | scaphandre | ratio | floor | ratio | met or missed |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (goal, explained_by) in goals {
        let _ = writeln!(text, "{}", goal.line(&made_of(measured, explained_by)));
    }
    let (must, must_hold) = match (cpu(Contestant::Agent), scaphandre) {
        (Some(ours), Some(peer)) if ours < peer => (format!("holds: {:.1} times less", peer / ours), true),
        (Some(ours), Some(peer)) => (format!("does not hold: {ours:.2} ms against {peer:.2} ms"), false),
        _ => ("not measured".to_owned(), true),
    };
    let _ = writeln!(text, "\nless CPU a cycle than scaphandre at {GOAL_PROCESSES} processes: {must}");
    Report { text, must_hold }
}

/// What a cycle's cost is made of, beside the floor's.
fn made_of(measured: &[Measured], contestant: Contestant) -> String {
    let part = |contestant| {
        line_through(measured, contestant).map(|(fixed, slope)| format!("{fixed:.2} ms + {slope:.2} µs a process"))
    };
    let calls = |contestant| {
        let here = measured.iter().filter(|one| one.contestant == contestant && one.wanted == GOAL_PROCESSES);
        here.filter_map(|one| one.calls).next().map_or_else(|| "?".to_owned(), |calls| format!("{calls:.0}"))
    };
    let unknown = || "not known from one number of processes".to_owned();
    format!(
        "{} a cycle is {}, {} system calls; the floor's {}, {}",
        dearest(measured, contestant),
        part(contestant).unwrap_or_else(unknown),
        calls(contestant),
        part(Contestant::FloorKept).unwrap_or_else(unknown),
        calls(Contestant::FloorKept),
    )
}

/// The cycles that send, which are the dearest of each five, apart from the others.
fn dearest(measured: &[Measured], contestant: Contestant) -> String {
    let here = measured.iter().filter(|one| one.contestant == contestant && one.wanted == GOAL_PROCESSES);
    let mut cycles: Vec<f64> = here.flat_map(|one| one.cycles.iter().copied()).collect();
    cycles.sort_by(f64::total_cmp);
    let (others, sending) = cycles.split_at(cycles.len() - cycles.len() / 5);
    let mean = |cycles: &[f64]| cycles.iter().sum::<f64>() / cycles.len().max(1) as f64;
    format!("a row takes {:.2} ms, one with which five are synced and sent {:.2} ms;", mean(others), mean(sending))
}

/// Every contestant at every number of processes.
fn costs(text: &mut String, measured: &[Measured], left_out: &[(Contestant, String)]) -> std::fmt::Result {
    text.push_str(
        "| contestant | processes | CPU ms a cycle | rounds from … to | RSS anonymous MB | RSS MB | system calls |\n",
    );
    text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    let mut numbers: Vec<usize> = measured.iter().map(|one| one.wanted).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for contestant in Contestant::ALL {
        if let Some((_, why)) = left_out.iter().find(|(one, _)| *one == contestant) {
            writeln!(text, "| {} | – | not measured: {why} | | | | |", contestant.name())?;
        }
        for wanted in numbers.iter().copied() {
            let here = || measured.iter().filter(|one| one.contestant == contestant && one.wanted == wanted);
            let cpu = || here().map(Measured::cpu_millis);
            let (Some(middle), Some(least), Some(most)) =
                (median(cpu()), cpu().reduce(f64::min), cpu().reduce(f64::max))
            else {
                continue;
            };
            writeln!(
                text,
                "| {} | {} | {middle:.3} | {least:.3} … {most:.3} | {} | {} | {} |",
                contestant.name(),
                here().map(|one| one.processes).max().unwrap_or(wanted),
                number(median(here().map(|one| one.memory.anonymous_kib as f64 * MEGABYTES))),
                number(median(here().map(|one| one.memory.resident_kib as f64 * MEGABYTES))),
                here()
                    .find_map(|one| one.calls)
                    .map_or_else(|| "not measured".to_owned(), |calls| format!("{calls:.0}")),
            )?;
        }
    }
    Ok(())
}
