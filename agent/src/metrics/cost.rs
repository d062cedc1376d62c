//! What the agent itself uses: CPU time, memory, and its part of the node's energy.

use super::name::{CPU, ENERGY, RESIDENT};
use crate::sampler::status::CpuEnergy;
use joulebook_proto::metrics::Points;
use joulebook_units::Microjoules;
use procfs::process::Process;

/// Energy is worked out over this time at least: what is finer shows what a machine computes.
const LEAST_NANOS: u64 = 60_000_000_000;

/// The energy of the agent so far.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// What was known when energy was worked out last, and the agent's CPU time then in ns.
    last: Option<(CpuEnergy, u64)>,
    energy: Option<Microjoules>,
}

/// CPU time in ns and resident memory in bytes of a process.
struct Used {
    cpu_nanos: u64,
    resident: u64,
}

impl Used {
    fn of(process: Result<Process, procfs::ProcError>) -> Option<Self> {
        let stat = process.ok()?.stat().ok()?;
        let ticks = stat.utime.saturating_add(stat.stime);
        let cpu_nanos = u128::from(ticks) * 1_000_000_000 / u128::from(procfs::ticks_per_second().max(1));
        let resident = stat.rss.saturating_mul(procfs::page_size());
        Some(Self { cpu_nanos: u64::try_from(cpu_nanos).unwrap_or(u64::MAX), resident })
    }

    fn add_to(&self, points: &mut Points, process: &str) {
        points.add(&CPU, &[process], std::time::Duration::from_nanos(self.cpu_nanos).as_secs_f64());
        points.count(&RESIDENT, &[process], self.resident);
    }
}

impl Cost {
    /// What is used as of now; `node` is what the agent's own node says of its CPUs.
    pub(super) fn add_to(&mut self, points: &mut Points, node: Option<CpuEnergy>, helper: Option<u32>) {
        let own = Used::of(Process::myself());
        let helper = helper.and_then(|pid| i32::try_from(pid).ok()).and_then(|pid| Used::of(Process::new(pid)));
        for (used, name) in [(&own, "main"), (&helper, "helper")] {
            used.iter().for_each(|used| used.add_to(points, name));
        }
        // A helper that was started again counts from 0: it is left out of the energy.
        if let (Some(node), Some(own)) = (node, own) {
            self.charge(node, own.cpu_nanos);
        }
        points.add(&ENERGY, &[], self.energy.map(|energy| energy.to_joules().0));
    }

    /// Gives the agent its part of what the CPUs drew above rest since energy was worked out last.
    fn charge(&mut self, node: CpuEnergy, own: u64) {
        let Some((before, own_before)) = self.last else {
            self.last = Some((node, own));
            return;
        };
        if node.at.0.saturating_sub(before.at.0) < LEAST_NANOS {
            return;
        }
        self.last = Some((node, own));
        let Some(above_rest) = node.above_rest_since(&before) else { return };
        let busy = node.busy_nanos.saturating_sub(before.busy_nanos).max(1);
        let mine = u128::from(above_rest.0) * u128::from(own.saturating_sub(own_before).min(busy)) / u128::from(busy);
        let energy = self.energy.unwrap_or_default().0.saturating_add(u64::try_from(mine).unwrap_or(u64::MAX));
        self.energy = Some(Microjoules(energy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{BootNanos, Milliwatts};

    const SECOND: u64 = 1_000_000_000;

    fn at(second: u64, watts: u64, idle: Option<u64>) -> CpuEnergy {
        let idle = idle.map(|watts| Milliwatts(watts * 1000));
        let energy = Microjoules(second * watts * 1_000_000);
        CpuEnergy { at: BootNanos(second * SECOND), energy, idle, busy_nanos: second * 4 * SECOND }
    }

    #[test]
    fn the_agent_has_its_part_of_what_is_drawn_above_rest_and_no_finer_than_a_minute() {
        let mut cost = Cost::default();
        cost.charge(at(10, 100, Some(60)), 5 * SECOND);
        cost.charge(at(69, 100, Some(60)), 8 * SECOND);
        assert_eq!(cost.energy, None, "59 s are too fine");
        // 60 s × 40 W above rest, of which 240 CPU seconds have 2.4 kJ and the agent's 4 a sixtieth.
        cost.charge(at(70, 100, Some(60)), 9 * SECOND);
        assert_eq!(cost.energy, Some(Microjoules(40_000_000)));
        cost.charge(at(130, 50, Some(60)), 9 * SECOND);
        assert_eq!(cost.energy, Some(Microjoules(40_000_000)), "never less");
    }

    #[test]
    fn without_a_power_at_rest_nothing_is_said_of_the_agents_energy() {
        let mut cost = Cost::default();
        cost.charge(at(10, 100, None), 0);
        cost.charge(at(100, 100, None), SECOND);
        assert_eq!(cost.energy, None);
    }
}
