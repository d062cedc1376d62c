//! Joining stored series with factors and counts over time (methodology A.3, A.5, A.7).
//!
//! An amount holds over a half-open interval and is spread evenly inside it; a factor holds over its cell. An amount
//! over no time is an event: it belongs to the cell that holds its instant.

use crate::operational::{CompensatedSum, effective_intensity, effective_pue, facility, operational};
use crate::share::{largest_remainder, portion};
use crate::spread::{Grid, Spread};
use alloc::vec::Vec;
use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Microjoules, Pue, UnixNanos, Window};

/// Answers of which less than this part is covered jointly are of low quality.
pub const LOW_QUALITY_BELOW: f64 = 0.9;
/// No question needs a finer grid.
const MOST_CELLS: u64 = 10_000_000;

/// A value over a stretch of time.
pub type Over<T> = (Window, T);

/// Energy cut at every edge of its factors, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Operational {
    /// Parts of the energy in time order; Σ is the energy exactly.
    pub parts: Vec<Microjoules>,
    /// IT energy.
    pub it: Joules,
    /// Facility energy; absent if a part has no PUE.
    pub facility: Option<Joules>,
    /// Carbon; absent if a part has no PUE or no intensity.
    pub carbon: Option<GramsCo2e>,
}

impl Operational {
    /// Carbon over facility energy in g/kWh.
    pub fn effective_intensity(&self) -> Option<f64> {
        effective_intensity(self.carbon?, self.facility?)
    }

    /// Facility over IT energy.
    pub fn effective_pue(&self) -> Option<f64> {
        effective_pue(self.facility?, self.it)
    }
}

/// O = Σ E·w·U·I over the intersections of energy intervals with the cells of both factors: never mean × mean.
pub fn with_factors(
    energy: &[Over<Microjoules>],
    intensity: &[Over<GramsCo2ePerKwh>],
    pue: &[Over<Pue>],
) -> Operational {
    let mut energy = energy.to_vec();
    energy.sort_by_key(|(window, _)| (window.start(), window.end()));
    let edges: Vec<UnixNanos> = intensity
        .iter()
        .map(|(window, _)| *window)
        .chain(pue.iter().map(|(window, _)| *window))
        .flat_map(|window| [window.start(), window.end()])
        .collect();
    let mut parts: Vec<Over<Microjoules>> = Vec::new();
    for (window, amount) in &energy {
        parts.extend(cut(*window, *amount, &edges));
    }
    parts.sort_by_key(|(window, _)| window.start());
    let (mut it, mut drawn, mut grams) =
        (CompensatedSum::default(), CompensatedSum::default(), CompensatedSum::default());
    let (mut has_pue, mut has_intensity) = (true, true);
    for (window, amount) in &parts {
        let joules = amount.to_joules();
        it.add(joules.0);
        let Some(pue) = at(pue, window.start()) else {
            has_pue = false;
            continue;
        };
        let joules = facility(joules, pue);
        drawn.add(joules.0);
        match at(intensity, window.start()) {
            Some(intensity) => grams.add(operational(joules, intensity).0),
            None => has_intensity = false,
        }
    }
    Operational {
        parts: parts.into_iter().map(|(_, amount)| amount).collect(),
        it: Joules(it.get()),
        facility: has_pue.then(|| Joules(drawn.get())),
        carbon: (has_pue && has_intensity).then(|| GramsCo2e(grams.get())),
    }
}

/// The value that holds at an instant.
fn at<T: Copy>(series: &[Over<T>], instant: UnixNanos) -> Option<T> {
    series.iter().find(|(window, _)| window.start() <= instant && instant < window.end()).map(|(_, value)| *value)
}

/// Cuts an interval at the edges inside it, its energy by largest remainder.
fn cut(window: Window, amount: Microjoules, edges: &[UnixNanos]) -> Vec<Over<Microjoules>> {
    let mut inside: Vec<UnixNanos> =
        edges.iter().copied().filter(|edge| window.start() < *edge && *edge < window.end()).collect();
    inside.sort_unstable();
    inside.dedup();
    let starts = core::iter::once(window.start()).chain(inside.iter().copied());
    let ends = inside.iter().copied().chain(core::iter::once(window.end()));
    let pieces: Vec<Window> = starts.zip(ends).filter_map(|(start, end)| Window::new(start, end)).collect();
    let weights: Vec<u128> = pieces.iter().map(|piece| u128::from(piece.nanos())).collect();
    match largest_remainder(amount.0, &weights) {
        Some(parts) => pieces.into_iter().zip(parts.into_iter().map(Microjoules)).collect(),
        None => alloc::vec![(window, amount)],
    }
}

/// An extensive series on epoch-aligned cells of `cell_nanos`, from the cell of its first start to that of its last end.
/// An amount that is `None` is not known. A cell that nothing covers is `None`, never 0. `None` for a cell of no length
/// and for more than ten million cells; an empty series has no cells.
pub fn on_cells(series: &[Over<Option<u64>>], cell_nanos: u64) -> Option<Vec<Option<u64>>> {
    let Some(start) = series.iter().map(|(window, _)| window.start()).min() else { return Some(Vec::new()) };
    let instant = |window: &Window| window.start().0.saturating_add(1);
    let end = series.iter().map(|(window, _)| window.end().0.max(instant(window))).max().unwrap_or(start.0);
    let window = Window::new(start, UnixNanos(end))?;
    if cell_nanos == 0 || window.nanos() / cell_nanos > MOST_CELLS {
        return None;
    }
    let grid = Grid::aligned(window, cell_nanos)?;
    let mut spread = Spread::new(grid.len());
    for (window, amount) in series {
        // An event is an interval of the shortest length.
        let end = UnixNanos(window.end().0.max(instant(window)));
        if let Some(amount) = amount {
            spread.add(&grid, &[(window.start(), 0), (end, *amount)]);
        }
    }
    let cells = spread.amounts.iter().zip(&spread.covered);
    Some(cells.map(|(amount, covered)| (*covered > 0).then_some(*amount)).collect())
}

/// Energy and counts over the time that both cover.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Joint {
    /// All energy.
    pub energy: Microjoules,
    /// Energy in the joint time.
    pub joint_energy: Microjoules,
    /// Functional units in the joint time.
    pub joint_units: f64,
}

impl Joint {
    /// Part of the energy for which counts are known; `None` over no energy.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn coverage(&self) -> Option<f64> {
        (self.energy.0 > 0).then(|| self.joint_energy.0 as f64 / self.energy.0 as f64)
    }

    /// Whether too little is covered for a good answer. Of nothing, nothing is covered.
    pub fn is_low(&self) -> bool {
        self.coverage().is_none_or(is_low)
    }
}

/// Whether a coverage makes an answer one of low quality.
pub fn is_low(coverage: f64) -> bool {
    coverage < LOW_QUALITY_BELOW
}

/// Restricts energy and functional units to the time that both cover.
pub fn with_counts(energy: &[Over<Microjoules>], units: &[Over<f64>]) -> Joint {
    let (powered, counted) = (union(energy), union(units));
    let joint_energy = energy.iter().map(|(window, amount)| match window.nanos() {
        0 if !holds(&counted, window.start()) => Microjoules::ZERO,
        nanos => Microjoules(portion(amount.0, overlap(*window, &counted), nanos)),
    });
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    let share = |window: Window| match window.nanos() {
        0 => f64::from(u8::from(holds(&powered, window.start()))),
        nanos => overlap(window, &powered) as f64 / nanos as f64,
    };
    let mut joint_units = CompensatedSum::default();
    for (window, amount) in units {
        joint_units.add(amount * share(*window));
    }
    Joint {
        energy: energy.iter().map(|(_, amount)| *amount).sum(),
        joint_energy: joint_energy.sum(),
        joint_units: joint_units.get(),
    }
}

/// The time that a series covers: windows in order, without overlap.
fn union<T>(series: &[Over<T>]) -> Vec<Window> {
    let mut windows: Vec<Window> = series.iter().map(|(window, _)| *window).filter(|w| !w.is_empty()).collect();
    windows.sort_by_key(|window| window.start());
    let mut merged: Vec<Window> = Vec::with_capacity(windows.len());
    for window in windows {
        match merged.last_mut() {
            Some(last) if window.start() <= last.end() => {
                *last = Window::new(last.start(), last.end().max(window.end())).unwrap_or(*last);
            }
            _ => merged.push(window),
        }
    }
    merged
}

fn overlap(window: Window, windows: &[Window]) -> u64 {
    windows.iter().filter_map(|other| window.intersect(*other)).map(Window::nanos).sum()
}

fn holds(windows: &[Window], instant: UnixNanos) -> bool {
    windows.iter().any(|window| window.start() <= instant && instant < window.end())
}

#[cfg(test)]
mod tests;
