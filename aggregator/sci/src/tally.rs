//! What of totals adds up and can be taken away again, as numbers in a row: of two sums over all that came before two
//! instants, the difference is the sum over the time between, whatever lies in it. Energy over a window is answered from its
//! ends by it.
//!
//! Integers only, so that nothing is rounded. What is there or not there (a source, a version on a node, a flag) is counted
//! in how many of the added totals it was: it is gone from a difference exactly if it was in none of the time between.
//!
//! A tally holds what questions about the energy of versions, nodes, components, sources and accelerators read. It holds no
//! grams, and neither workloads nor services one by one, which come and go without bound: entries keep the part of the node
//! they are of, and whether they are the platform's, nobody's or Joulebook's own.

use crate::allocate::{IdleRule, Ledger, ModelVersion, VersionCost};
use crate::cell::{Account, Cell, EntryKey, Flags, InputUse, Purpose, ServiceUse, SourceKey, SourceUse};
use crate::totals::{Level, NodeTotals, Totals, VersionTotals};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use joulebook_units::CountKind;

/// How many times it was there, and what of it adds up.
type Row<const N: usize> = [u64; N];

/// Numbers in the places that [`Places`] gave out. What lies beyond the end is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(Vec<u64>);

impl Tally {
    /// Adds every number of `other`.
    pub fn plus(&mut self, other: &Self) {
        self.zip(other, u64::wrapping_add);
    }

    /// Takes every number of `other` away, which was added before.
    pub fn minus(&mut self, other: &Self) {
        self.zip(other, u64::wrapping_sub);
    }

    /// How many numbers it holds.
    pub fn numbers(&self) -> usize {
        self.0.len()
    }

    // Whatever is in between, only the result has to be a number that there is: sums wrap, and come back.
    fn zip(&mut self, other: &Self, with: fn(u64, u64) -> u64) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(mine, other)| *mine = with(*mine, *other));
    }

    fn add<const N: usize>(&mut self, place: usize, row: Row<N>) {
        let end = place + N;
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        let mine = self.0.iter_mut().skip(place);
        mine.zip(row).for_each(|(mine, other)| *mine = mine.wrapping_add(other));
    }

    /// What stands at a place; `None` where it was never there.
    fn row<const N: usize>(&self, place: usize) -> Option<Row<N>> {
        let mut row = [0; N];
        row.iter_mut().zip(self.0.iter().skip(place)).for_each(|(to, from)| *to = *from);
        (row.first() != Some(&0)).then_some(row)
    }
}

/// Places of things of one kind.
type Known<K> = BTreeMap<K, usize>;

/// Which number stands where. Places are given out once and never taken back.
#[derive(Debug, Clone, Default)]
pub struct Places {
    slots: Known<()>,
    nodes: BTreeMap<String, OfNode>,
    versions: BTreeMap<ModelVersion, OfVersion>,
    /// The first number that is free.
    next: usize,
}

#[derive(Debug, Clone, Default)]
struct OfNode {
    own: Known<()>,
    simulated: Known<()>,
    flags: Known<u32>,
    sources: Known<SourceKey>,
    entries: Known<EntryKey>,
    meters: Known<SourceKey>,
}

#[derive(Debug, Clone, Default)]
struct OfVersion {
    own: Known<()>,
    /// What it cost; of that, what is simulated.
    costs: Known<bool>,
    counts: Known<CountKind>,
    nodes: Known<String>,
    served_on: Known<String>,
}

/// Where places are given out, and the tally that is filled.
struct Filling<'a> {
    next: &'a mut usize,
    tally: Tally,
}

impl Filling<'_> {
    fn add<K: Ord + Clone, const N: usize>(&mut self, known: &mut Known<K>, key: &K, row: Row<N>) {
        let place = match known.get(key) {
            Some(place) => *place,
            None => {
                let place = *self.next;
                *self.next += N;
                known.insert(key.clone(), place);
                place
            }
        };
        self.tally.add(place, row);
    }
}

impl Places {
    /// The numbers of totals.
    pub fn tally(&mut self, totals: &Totals) -> Tally {
        let mut filling = Filling { next: &mut self.next, tally: Tally::default() };
        filling.add(&mut self.slots, &(), [1, totals.slots]);
        for (name, node) in &totals.nodes {
            self.nodes.entry(name.clone()).or_default().fill(&mut filling, node);
        }
        for (name, version) in &totals.versions {
            self.versions.entry(name.clone()).or_default().fill(&mut filling, version);
        }
        filling.tally
    }

    /// How many numbers have a place.
    pub fn numbers(&self) -> usize {
        self.next
    }

    /// The totals that numbers stand for, at a level under a rule.
    pub fn totals(&self, tally: &Tally, level: Level, rule: IdleRule) -> Totals {
        let mut totals = Totals::new(level, rule);
        totals.slots = self.slots.get(&()).and_then(|place| tally.row(*place)).map_or(0, |[_, slots]| slots);
        totals.nodes = read_all(&self.nodes, |node| node.read(tally));
        totals.versions = read_all(&self.versions, |version| version.read(tally));
        totals
    }
}

fn read_all<K: Ord + Clone, P, V>(all: &BTreeMap<K, P>, read: impl Fn(&P) -> Option<V>) -> BTreeMap<K, V> {
    all.iter().filter_map(|(key, places)| Some((key.clone(), read(places)?))).collect()
}

/// What was there of one kind.
fn rows<'a, K: Ord, const N: usize>(known: &'a Known<K>, tally: &'a Tally) -> impl Iterator<Item = (&'a K, Row<N>)> {
    known.iter().filter_map(|(key, place)| Some((key, tally.row(*place)?)))
}

fn names<K: Ord + Clone>(known: &Known<K>, tally: &Tally) -> BTreeSet<K> {
    rows::<K, 1>(known, tally).map(|(key, _)| key.clone()).collect()
}

/// The entry under which an energy is tallied.
fn coarse(key: &EntryKey) -> EntryKey {
    let account = match &key.account {
        Account::Platform => Account::Platform,
        // Few, and told apart in every answer.
        Account::Workload(workload) if workload.own_program().is_some() => key.account.clone(),
        Account::Unattributed => Account::Unattributed,
        Account::Service(_) | Account::Workload(_) | Account::System | Account::PoolIdle => Account::System,
    };
    EntryKey { account, component: key.component, purpose: Purpose::Dynamic }
}

fn cost_row(cost: &VersionCost) -> Row<10> {
    [
        1,
        cost.accelerator_dynamic,
        cost.accelerator_base,
        cost.host,
        cost.cpu,
        cost.platform,
        cost.dedicated_idle,
        cost.pool_idle,
        cost.support,
        cost.direct,
    ]
}

fn cost_of(
    [_, accelerator_dynamic, accelerator_base, host, cpu, platform, dedicated_idle, pool_idle, support, direct]: Row<
        10,
    >,
) -> VersionCost {
    VersionCost {
        accelerator_dynamic,
        accelerator_base,
        host,
        cpu,
        platform,
        dedicated_idle,
        pool_idle,
        support,
        direct,
        ..VersionCost::default()
    }
}

impl OfNode {
    fn fill(&mut self, filling: &mut Filling<'_>, node: &NodeTotals) {
        let NodeTotals { ledger, cell, .. } = node;
        let row = [
            1,
            ledger.workloads,
            ledger.unattributed_inference,
            ledger.system,
            ledger.unallocated_idle,
            ledger.out_of_service,
            ledger.unattributed,
            node.allocated,
            cell.overcount_microjoules,
            cell.input.component_microjoules,
            cell.input.platform_microjoules,
            cell.input.bound_microjoules,
            cell.input.scaled_microjoules,
            cell.capacity_core_nanos,
            cell.capacity_device_nanos,
            cell.expected_nanos,
            cell.covered_nanos,
        ];
        filling.add(&mut self.own, &(), row);
        if node.simulated {
            filling.add(&mut self.simulated, &(), [1]);
        }
        // That nothing of its making accrues any more is no fact about energy: a factor says it.
        let mut told = cell.flags;
        told.remove(Flags::FULLY_AMORTISED);
        for bit in (0..u32::BITS).filter(|bit| told.contains(Flags(1 << bit))) {
            filling.add(&mut self.flags, &bit, [1]);
        }
        for (key, used) in &cell.sources {
            let SourceUse { microjoules, covered_nanos, gap_low_microjoules, gap_high_microjoules } = *used;
            filling.add(
                &mut self.sources,
                key,
                [1, microjoules, covered_nanos, gap_low_microjoules, gap_high_microjoules],
            );
        }
        for (key, energy) in &cell.entries {
            filling.add(&mut self.entries, &coarse(key), [1, *energy]);
        }
        for (key, nanos) in &cell.input.meters {
            filling.add(&mut self.meters, key, [1, *nanos]);
        }
    }

    fn read(&self, tally: &Tally) -> Option<NodeTotals> {
        let [
            _,
            workloads,
            unattributed_inference,
            system,
            unallocated_idle,
            out_of_service,
            unattributed,
            allocated,
            overcount_microjoules,
            component_microjoules,
            platform_microjoules,
            bound_microjoules,
            scaled_microjoules,
            capacity_core_nanos,
            capacity_device_nanos,
            expected_nanos,
            covered_nanos,
        ] = tally.row(*self.own.get(&())?)?;
        let mut flags = Flags::default();
        names(&self.flags, tally).into_iter().for_each(|bit| flags.insert(Flags(1 << bit)));
        let source = |(key, [_, microjoules, covered_nanos, gap_low_microjoules, gap_high_microjoules]): (
            &SourceKey,
            Row<5>,
        )| {
            (key.clone(), SourceUse { microjoules, covered_nanos, gap_low_microjoules, gap_high_microjoules })
        };
        let cell = Cell {
            sources: rows(&self.sources, tally).map(source).collect(),
            entries: rows(&self.entries, tally).map(|(key, [_, energy])| (key.clone(), energy)).collect(),
            overcount_microjoules,
            input: InputUse {
                meters: rows(&self.meters, tally).map(|(key, [_, nanos])| (key.clone(), nanos)).collect(),
                component_microjoules,
                platform_microjoules,
                bound_microjoules,
                scaled_microjoules,
                ..InputUse::default()
            },
            capacity_core_nanos,
            capacity_device_nanos,
            expected_nanos,
            covered_nanos,
            flags,
            ..Cell::default()
        };
        let ledger =
            Ledger { workloads, unattributed_inference, system, unallocated_idle, out_of_service, unattributed };
        let simulated = !names(&self.simulated, tally).is_empty();
        Some(NodeTotals { simulated, cell, ledger, allocated, ..NodeTotals::default() })
    }
}

impl OfVersion {
    fn fill(&mut self, filling: &mut Filling<'_>, version: &VersionTotals) {
        let used = &version.cost.used;
        let [counted, resident, executing, cores, devices, cpu, joint] = used.amounts();
        let row = [1, counted, resident, executing, cores, devices, cpu, joint];
        filling.add(&mut self.own, &(), row);
        filling.add(&mut self.costs, &false, cost_row(&version.cost));
        // Nearly every fleet is real: rows of zeros would be a third of what stands there for a version.
        let simulated = cost_row(&version.simulated);
        if simulated.iter().skip(1).any(|energy| *energy > 0) {
            filling.add(&mut self.costs, &true, simulated);
        }
        for (kind, count) in &used.counts {
            filling.add(&mut self.counts, kind, [1, *count]);
        }
        version.nodes.iter().for_each(|node| filling.add(&mut self.nodes, node, [1]));
        version.served_on.iter().for_each(|node| filling.add(&mut self.served_on, node, [1]));
    }

    fn read(&self, tally: &Tally) -> Option<VersionTotals> {
        let [
            _,
            counted_nanos,
            resident_nanos,
            executing_nanos,
            reserved_core_nanos,
            reserved_device_nanos,
            cpu_nanos,
            joint_microjoules,
        ] = tally.row(*self.own.get(&())?)?;
        let used = ServiceUse {
            counts: rows(&self.counts, tally).map(|(kind, [_, count])| (*kind, count)).collect(),
            counted_nanos,
            resident_nanos,
            executing_nanos,
            reserved_core_nanos,
            reserved_device_nanos,
            cpu_nanos,
            joint_microjoules,
            ..ServiceUse::default()
        };
        let cost = |is_simulated: bool| {
            let place = self.costs.get(&is_simulated)?;
            tally.row(*place).map(cost_of)
        };
        let (cost, simulated) = (VersionCost { used, ..cost(false)? }, cost(true).unwrap_or_default());
        Some(VersionTotals {
            cost,
            simulated,
            nodes: names(&self.nodes, tally),
            served_on: names(&self.served_on, tally),
            ..VersionTotals::default()
        })
    }
}
