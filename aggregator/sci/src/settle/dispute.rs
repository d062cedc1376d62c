//! Two ways to know one energy: a counter of the hardware beside the integral of the power that it shows.
//!
//! The counter is what is booked. Where the two differ too much, neither is proved wrong: both stay visible, and the cell
//! says that they are disputed.

use super::NodeSeries;
use crate::spread::{Grid, Spread};
use joulebook_units::{Method, Source, Subject, Window};

/// Seconds over which the two are compared: a whole minute of the clock, whatever part of it is asked for.
const COMPARED_SECONDS: i64 = 60;
/// Time of a minute in which both must be known.
const COMPARABLE_NANOS: u64 = 55_000_000_000;
/// Difference, in percent of the integral, up to which they agree.
const AGREED_PERCENT: u128 = 10;

/// Whether, in a minute that `window` touches, a counter and the integrated power beside it differ by more than 10 %.
pub(super) fn is_disputed(node: &NodeSeries, window: Window) -> bool {
    let minutes = window.slots(COMPARED_SECONDS).filter_map(|part| {
        let start = part.start().floor_to(COMPARED_SECONDS);
        Window::new(start, start.plus_seconds(COMPARED_SECONDS))
    });
    let grids: alloc::vec::Vec<Grid> = minutes.map(Grid::new).collect();
    sources(node).filter(|source| source.method == Method::IntegratedPower).any(|twin| {
        let beside = |counter: &&Source| {
            counter.method == Method::Counter
                && counter.component == twin.component
                && twin.contained_in.as_ref() == Some(&counter.id)
        };
        sources(node).find(beside).is_some_and(|counter| grids.iter().any(|grid| differ(node, counter, twin, grid)))
    })
}

/// Whether two sources differ over the seconds of a minute in which both are known throughout.
fn differ(node: &NodeSeries, counter: &Source, twin: &Source, grid: &Grid) -> bool {
    let (counter, twin) = (spread(node, counter, grid), spread(node, twin, grid));
    let mut known: u64 = 0;
    let (mut counted, mut integrated) = (0u128, 0u128);
    for (index, slot) in grid.slots().iter().enumerate() {
        let of = |spread: &Spread| spread.covered.get(index).zip(spread.amounts.get(index)).map(|(c, a)| (*c, *a));
        if let (Some((one, energy)), Some((other, integral))) = (of(&counter), of(&twin))
            && one.min(other) >= slot.nanos()
        {
            known += slot.nanos();
            counted += u128::from(energy);
            integrated += u128::from(integral);
        }
    }
    known >= COMPARABLE_NANOS && counted.abs_diff(integrated) * 100 > integrated * AGREED_PERCENT
}

fn spread(node: &NodeSeries, source: &Source, grid: &Grid) -> Spread {
    let mut spread = Spread::new(grid.len());
    let mine = node.runs.iter().filter(|run| matches!(&*run.subject, Subject::Energy(other) if **other == *source));
    mine.for_each(|run| spread.add(grid, &run.points));
    spread
}

fn sources(node: &NodeSeries) -> impl Iterator<Item = &Source> {
    node.runs.iter().filter_map(|run| match &*run.subject {
        Subject::Energy(source) => Some(&**source),
        _ => None,
    })
}
