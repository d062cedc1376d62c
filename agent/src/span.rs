//! Energy between two instants: what every source of the node shows at the beginning and at the end of a span.
//!
//! What a source did not show, or does not know in between, is told as not measured and is never 0.

use joulebook_units::{BootNanos, Component, Microjoules, Milliwatts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// Part of a span that a source must cover to have measured it, in thousandths.
const COVERED_PERMILLE: u128 = 900;

/// A reading so much older than its row is of the row before.
const LATE: Duration = Duration::from_millis(20);

/// What a source shows at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Part of the node that it meters.
    pub component: Component,
    /// Whether its energy is added to that of the others.
    pub is_part: bool,
    /// Number of its series: another one cannot be gone on with.
    pub series: u32,
    /// Energy so far.
    pub energy: Microjoules,
    /// When that was read; absent if nothing was read yet.
    pub at: Option<BootNanos>,
    /// Stretches in which its energy is unknown, so far.
    pub gaps: u64,
    /// Its power at rest, if that is known.
    pub idle: Option<Milliwatts>,
    /// Why it is not read; absent if it is.
    pub unavailable: Option<String>,
}

/// What the node shows at an instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When the row was taken that it is from.
    pub at: BootNanos,
    /// By source.
    pub sources: BTreeMap<String, Shown>,
}

impl Snapshot {
    /// Whether a source's last reading is of before the row, though it is read.
    pub fn is_late(&self) -> bool {
        self.sources.values().any(|shown| shown.unavailable.is_none() && self.is_behind(shown))
    }

    fn is_behind(&self, shown: &Shown) -> bool {
        shown.at.is_none_or(|at| self.at.since(at) > LATE)
    }

    /// Takes from the next row what was behind in this one.
    pub fn complete(&mut self, next: Self) {
        for (id, shown) in next.sources {
            let behind = self.sources.get(&id).is_none_or(|own| self.is_behind(own));
            if behind {
                self.sources.insert(id, shown);
            }
        }
    }
}

/// Asks for a row now and what it shows.
pub type Request = oneshot::Sender<Snapshot>;

/// Energy of a span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Length of the span in s.
    pub seconds: f64,
    /// Energy in µJ of all parts of the node that were measured; unset if none was.
    pub microjoules: Option<u64>,
    /// What of it the same parts draw at rest in that time, in µJ; unset if the idle power of one of them is not known.
    pub idle_microjoules: Option<u64>,
    /// Every part that was measured, by source.
    pub sources: BTreeMap<String, Measured>,
    /// Every source that was not, and why.
    pub not_measured: BTreeMap<String, String>,
}

/// Energy of one source over a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// cpu, dram, accelerator, wall or other.
    pub component: String,
    /// Whether it is added to the others: a source that contains others is shown beside them.
    pub added: bool,
    /// In µJ.
    pub microjoules: u64,
    /// At rest, in µJ; unset if the idle power is not known.
    pub idle_microjoules: Option<u64>,
}

impl Report {
    /// What was used between two rows.
    pub fn between(begin: &Snapshot, end: &Snapshot) -> Self {
        let span = end.at.since(begin.at);
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let (mut sources, mut not_measured) = (BTreeMap::new(), BTreeMap::new());
        for (id, last) in &end.sources {
            match measured(begin.sources.get(id), last, nanos) {
                Ok(measured) => sources.extend([(id.clone(), measured)]),
                Err(why) => not_measured.extend([(id.clone(), why)]),
            }
        }
        let gone = begin.sources.keys().filter(|id| !end.sources.contains_key(*id));
        not_measured.extend(gone.map(|id| (id.clone(), "it vanished during the span".to_owned())));
        let added = || sources.values().filter(|measured| measured.added);
        let sum = |part: fn(&Measured) -> Option<u64>| added().map(part).sum::<Option<u64>>();
        let any = added().next().is_some();
        Self {
            seconds: span.as_secs_f64(),
            microjoules: sum(|measured| Some(measured.microjoules)).filter(|_| any),
            idle_microjoules: sum(|measured| measured.idle_microjoules).filter(|_| any),
            sources,
            not_measured,
        }
    }
}

fn measured(first: Option<&Shown>, last: &Shown, nanos: u64) -> Result<Measured, String> {
    if let Some(why) = &last.unavailable {
        return Err(why.clone());
    }
    let Some(first) = first.filter(|first| first.series == last.series) else {
        return Err("it came to life during the span".to_owned());
    };
    let (Some(from), Some(to)) = (first.at, last.at) else { return Err("nothing was read of it yet".to_owned()) };
    if first.gaps != last.gaps {
        return Err("its energy is unknown in a part of the span".to_owned());
    }
    let covered = u64::try_from(to.since(from).as_nanos()).unwrap_or(u64::MAX);
    if u128::from(covered) * 1_000 < u128::from(nanos) * COVERED_PERMILLE {
        return Err(format!("it was read over {:.3} s of the span only", to.since(from).as_secs_f64()));
    }
    let energy = last.energy.0.saturating_sub(first.energy.0);
    Ok(Measured {
        component: component(last.component).to_owned(),
        added: last.is_part,
        microjoules: energy,
        idle_microjoules: last.idle.or(first.idle).map(|idle| idle.over_nanos(covered).0.min(energy)),
    })
}

fn component(component: Component) -> &'static str {
    match component {
        Component::Cpu => "cpu",
        Component::Dram => "dram",
        Component::Accelerator => "accelerator",
        Component::Wall => "wall",
        Component::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn shown(energy: u64, at: Option<u64>) -> Shown {
        Shown {
            component: Component::Cpu,
            is_part: true,
            series: 1,
            energy: Microjoules(energy),
            at: at.map(|seconds| BootNanos(seconds * SECOND)),
            gaps: 0,
            idle: Some(Milliwatts(20_000)),
            unavailable: None,
        }
    }

    fn snapshot(second: u64, sources: &[(&str, Shown)]) -> Snapshot {
        let sources = sources.iter().map(|(id, shown)| ((*id).to_owned(), shown.clone())).collect();
        Snapshot { at: BootNanos(second * SECOND), sources }
    }

    #[test]
    fn parts_are_added_containers_are_not_and_rest_stands_apart() {
        let wall = |energy, at| Shown { is_part: false, component: Component::Wall, ..shown(energy, Some(at)) };
        let begin = snapshot(10, &[("a", shown(5, Some(10))), ("b", shown(7, Some(10))), ("w", wall(0, 10))]);
        let end = snapshot(
            12,
            &[("a", shown(100_000_005, Some(12))), ("b", shown(30_000_007, Some(12))), ("w", wall(160_000_000, 12))],
        );
        let report = Report::between(&begin, &end);
        assert_eq!((report.microjoules, report.idle_microjoules), (Some(130_000_000), Some(40_000_000 + 30_000_000)));
        assert_eq!(report.sources["w"].microjoules, 160_000_000);
        assert!((report.seconds - 2.0).abs() < 1e-9 && report.not_measured.is_empty());
    }

    #[test]
    fn what_was_not_measured_is_said_and_is_never_0() {
        let off = Shown { unavailable: Some("permission denied".to_owned()), ..shown(0, None) };
        let other = Shown { series: 9, ..shown(9, Some(12)) };
        let gap = Shown { gaps: 1, ..shown(900, Some(12)) };
        let begin = snapshot(
            10,
            &[
                ("off", off.clone()),
                ("new", shown(1, Some(10))),
                ("gap", shown(1, Some(10))),
                ("still", shown(1, Some(10))),
                ("gone", shown(1, Some(10))),
                ("unread", shown(0, None)),
            ],
        );
        let end = snapshot(
            12,
            &[
                ("off", off),
                ("new", other),
                ("gap", gap),
                ("still", shown(1, Some(11))),
                ("unread", shown(0, None)),
                ("late", shown(5, Some(12))),
            ],
        );
        let report = Report::between(&begin, &end);
        assert_eq!((report.microjoules, report.idle_microjoules, report.sources.len()), (None, None, 0));
        let why: Vec<_> = report.not_measured.keys().map(String::as_str).collect();
        assert_eq!(why, ["gap", "gone", "late", "new", "off", "still", "unread"]);
        assert_eq!(report.not_measured["off"], "permission denied");
    }

    #[test]
    fn readings_that_are_behind_their_row_are_taken_from_the_next_one() {
        let mut edge = snapshot(10, &[("cpu", shown(5, Some(10))), ("gpu", shown(3, Some(9)))]);
        assert!(edge.is_late());
        edge.complete(snapshot(11, &[("cpu", shown(9, Some(11))), ("gpu", shown(4, Some(10)))]));
        assert_eq!((edge.sources["cpu"].energy.0, edge.sources["gpu"].energy.0, edge.is_late()), (5, 4, false));
    }

    #[test]
    fn a_part_without_a_known_idle_power_leaves_the_rest_unknown() {
        let bare = |energy, at| Shown { idle: None, ..shown(energy, Some(at)) };
        let begin = snapshot(10, &[("a", bare(0, 10)), ("b", shown(0, Some(10)))]);
        let end = snapshot(11, &[("a", bare(5, 11)), ("b", shown(5, Some(11)))]);
        let report = Report::between(&begin, &end);
        assert_eq!((report.microjoules, report.idle_microjoules), (Some(10), None));
        assert_eq!(report.sources["b"].idle_microjoules, Some(5), "never more than was used");
    }
}
