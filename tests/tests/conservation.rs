//! Every joule is counted once: random nodes, workloads, gaps and orders of arrival through ingest, store and ledger.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use joulebook_aggregator::ledger::cell_from_rows;
use joulebook_aggregator::store::Resolution;
use joulebook_sci::{Cell, ServiceUse};
use joulebook_tests::aggregator::Aggregator;
use joulebook_tests::history::{BOOTED, History, SECOND, history, step, wall};
use joulebook_units::{Component, CountKind, UnixNanos, Window};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn sum(cells: &BTreeMap<(Resolution, UnixNanos), Cell>, resolution: Resolution) -> Cell {
    let mut sum = Cell::default();
    cells.iter().filter(|((length, _), _)| *length == resolution).for_each(|(_, cell)| sum.merge(cell));
    sum
}

/// Cells that tell something. How many empty ones stand around them depends on when a meter at the input was first met.
fn told(mut cells: BTreeMap<(Resolution, UnixNanos), Cell>) -> BTreeMap<(Resolution, UnixNanos), Cell> {
    cells.retain(|_, cell| *cell != Cell::default());
    cells
}

fn booked(cell: &Cell, component: Component) -> u64 {
    cell.entries.iter().filter(|(key, _)| key.component == component).map(|(_, energy)| energy).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_joule_is_booked_once_whatever_the_order_of_arrival(
        steps in prop::collection::vec(prop::collection::vec(step(), 2..40), 1..4),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..200),
    ) {
        let histories: Vec<History> = (0u8..).zip(&steps).map(|(index, steps)| history(index, steps)).collect();

        // In order, settled once at the end.
        let mut early = Aggregator::new(&histories);
        for (index, history) in histories.iter().enumerate() {
            (0..history.batches.len()).for_each(|record| early.send(index, history, record));
        }
        early.settle();

        // Live records before those of the outage, nodes interleaved, cells settled in between (so that later rows are
        // late), records replayed.
        let arrival = |history: &History, turn: usize| (turn + history.outage()) % history.batches.len();
        let mut late = Aggregator::new(&histories);
        let mut sent = vec![0usize; histories.len()];
        for (pick, what) in order {
            let index = pick.index(histories.len());
            match what {
                0 => late.settle(),
                1 if sent[index] > 0 => late.send(index, &histories[index], arrival(&histories[index], pick.index(sent[index]))),
                _ if sent[index] < histories[index].batches.len() => {
                    late.send(index, &histories[index], arrival(&histories[index], sent[index]));
                    sent[index] += 1;
                }
                _ => {}
            }
        }
        for (index, history) in histories.iter().enumerate() {
            (sent[index]..history.batches.len()).for_each(|turn| late.send(index, history, arrival(history, turn)));
        }
        late.settle();

        for (index, history) in histories.iter().enumerate() {
            let cells = early.cells(index);
            for resolution in [Resolution::Minute, Resolution::Settled, Resolution::Hour] {
                let whole = sum(&cells, resolution);
                prop_assert_eq!(whole.component_microjoules(), history.energy, "{:?}", resolution);
                prop_assert_eq!(whole.total_microjoules(), history.energy + whole.platform_microjoules());
                // The identity of the input, and that it is the meter's to the microjoule.
                prop_assert_eq!(
                    whole.measured_input_microjoules() + whole.overcount_microjoules,
                    whole.input.component_microjoules + whole.input.platform_microjoules
                );
                if wall::has_one(u8::try_from(index).expect("few")) {
                    prop_assert_eq!(whole.measured_input_microjoules(), history.wall_energy);
                }
                prop_assert_eq!(booked(&whole, Component::Accelerator), history.devices_energy);
                let held: u64 = whole.services.values().map(|used| used.reserved_device_nanos).sum();
                prop_assert!(held <= 2 * (history.end - 1000 * SECOND), "{} device-ns on at most two devices", held);
                let tokens = whole.services.values().filter_map(|used| used.counts.get(&CountKind::OutputTokens)).sum::<u64>();
                prop_assert_eq!(tokens, history.tokens);
            }
            prop_assert!(told(late.cells(index)) == told(cells.clone()), "the order of arrival changes the book of node {}", index);
            // Time passes once, in however many workloads a service's energy is used.
            for ((resolution, _), cell) in &cells {
                let most = u64::try_from(resolution.seconds()).expect("positive") * SECOND;
                let times = |used: &ServiceUse| used.resident_nanos.max(used.counted_nanos).max(used.executing_nanos);
                prop_assert!(cell.services.values().all(|used| times(used) <= most), "{:?}", cell.services);
            }

            // A window of odd seconds from rows is the difference of its neighbours.
            let node = &early.book.nodes()[index];
            let all = Window::new(UnixNanos(BOOTED), early.now.ceil_to(1)).expect("ordered");
            let middle = UnixNanos(BOOTED + i64::try_from(history.end / 2 + 500 * SECOND).expect("small")).floor_to(1);
            let part = |from, to| cell_from_rows(&early.book, node, Window::new(from, to).expect("ordered")).expect("memory").component_microjoules();
            let late_start = UnixNanos(BOOTED + i64::try_from(1000 * SECOND).expect("small"));
            let cut = middle.max(late_start).min(all.end());
            prop_assert_eq!(part(late_start, cut) + part(cut, all.end()), history.energy);
        }
    }
}
