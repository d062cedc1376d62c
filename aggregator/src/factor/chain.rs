//! What holds at a site: stored series in their order, the finest value first; then a value that holds on; then the tables
//! of the same kind. Where the chain is empty the intensity is missing, with bounds: never 0.

use super::impact::DeclaredCell;
use super::{Feed, IntensityCell, IntensityProvenance, PueCell, Site};
use crate::store::block::factor::SeriesSubject;
use crate::store::{Book, StoreError};
use joulebook_sci::Rate;
use joulebook_sci::impact::Declared;
use joulebook_sci::quantity::{Basis, Kind, Quantity};
use joulebook_sci::series::{Granularity, Hold, SeriesCell, Status, best, held, layer};
use joulebook_units::{GramsCo2ePerKwh, Pue, UnixNanos, Window};
use std::cmp::Reverse;
use std::sync::Arc;

/// How far back a series teaches within which bounds a missing value lies.
const BOUNDS_SECONDS: i64 = 30 * 86_400;
/// Half-widths (methodology C).
const ACTUAL_UNCERTAINTY: f64 = 0.10;
const FORECAST_UNCERTAINTY: f64 = 0.17;
pub(super) const COARSE_UNCERTAINTY: f64 = 0.30;
const MARGINAL_UNCERTAINTY: f64 = 0.30;
const FINE_PUE_UNCERTAINTY: f64 = 0.02;
const MONTHLY_PUE_UNCERTAINTY: f64 = 0.05;
const ANNUAL_PUE_UNCERTAINTY: f64 = 0.08;

/// Which intensities a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// The kind; none: that of the site's first series, else of its tables.
    pub kind: Option<Kind>,
    /// As they were known at this instant; none: now.
    pub as_of: Option<UnixNanos>,
}

/// Series that hold at a site, in their order.
pub(super) struct Stored<'a> {
    pub(super) feeds: Vec<&'a Feed>,
    pub(super) book: &'a Book,
    pub(super) as_of: Option<UnixNanos>,
}

/// A value of a series: as it is, or holding on.
struct Found<'a> {
    feed: &'a Feed,
    cell: SeriesCell,
    holds_on: bool,
}

/// Stored values, each with the window that it covers and its rank.
type Candidates<'a> = (Vec<(Window, (bool, Reverse<usize>))>, Vec<Found<'a>>);

impl<'a> Stored<'a> {
    /// Whether what is stored under a series' name is what its configuration says. Whoever pushes first decides what a series
    /// is: values of another kind are none of this one.
    pub(super) fn fits(book: &Book, feed: &Feed) -> bool {
        let about = |subject: &SeriesSubject| (subject.quantity, subject.kind, subject.basis);
        book.factor_subject(&feed.name).is_none_or(|stored| about(&stored) == about(&feed.subject))
    }

    /// Every stored value that may hold in a window; with `hold` also those that hold on from before.
    fn candidates(&self, at: Window, hold: Option<Hold>) -> Result<Candidates<'a>, StoreError> {
        let (mut ranked, mut found) = (Vec::new(), Vec::new());
        for (order, feed) in self.feeds.iter().enumerate() {
            let seconds = |nanos: u64| i64::try_from(nanos / 1_000_000_000).unwrap_or(0);
            let (back, ahead) = hold.map_or((0, 0), |hold| (seconds(hold.tail_nanos), seconds(hold.hole_nanos)));
            let around = Window::new(at.start().plus_seconds(-back), at.end().plus_seconds(ahead)).unwrap_or(at);
            let known = self.book.factors(&feed.name, around, self.as_of)?;
            let parts = best(around, &known.cells);
            for (part, cell) in parts.iter().filter_map(|(part, cell)| cell.map(|cell| (*part, cell))) {
                ranked.push((part, (true, Reverse(order))));
                found.push(Found { feed, cell, holds_on: false });
            }
            for (part, cell) in hold.map(|hold| held(&parts, known.later, hold)).into_iter().flatten() {
                ranked.push((part, (false, Reverse(order))));
                found.push(Found { feed, cell, holds_on: true });
            }
        }
        Ok((ranked, found))
    }

    /// Least and greatest value that the series lately had; the whole range where they had none.
    fn bounds(&self, at: Window) -> Result<(GramsCo2ePerKwh, GramsCo2ePerKwh), StoreError> {
        let before = Window::new(at.start().plus_seconds(-BOUNDS_SECONDS), at.end()).unwrap_or(at);
        let (least, most) = Quantity::Intensity.range();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for feed in &self.feeds {
            for cell in self.book.factors(&feed.name, before, self.as_of)?.cells {
                (low, high) = (low.min(cell.value), high.max(cell.value));
            }
        }
        let (low, high) = if low <= high { (low, high) } else { (least, most) };
        Ok((grams(low)?, grams(high)?))
    }
}

/// Intensity of a site over a window from its series; `fallback` says what the tables have of the kind, after the steps.
pub(super) fn intensity(
    stored: &Stored<'_>,
    site: &Site,
    at: Window,
    kind: Kind,
    steps: &[String],
    fallback: impl Fn(Vec<String>) -> Result<IntensityCell, Vec<String>>,
) -> Result<Vec<IntensityCell>, StoreError> {
    let (ranked, found) = stored.candidates(at, Some(Hold::DEFAULT))?;
    let mut cells: Vec<IntensityCell> = Vec::new();
    let mut latest: Option<&Found<'_>> = None;
    for (part, index) in layer(at, &ranked) {
        if let Some(found) = index.and_then(|index| found.get(index)) {
            let same = latest.replace(found).filter(|latest| latest.comes_as(found));
            let known = same.and(cells.last()).map(|cell| Arc::clone(&cell.provenance));
            let provenance = known.unwrap_or_else(|| Arc::new(provenance(found, kind, steps)));
            let value = Rate::Known(grams(found.cell.value)?);
            cells.push(IntensityCell { window: part, value, revision: Some(found.cell.revision), provenance });
            continue;
        }
        latest = None;
        let mut steps = steps.to_vec();
        steps.extend(stored.feeds.iter().map(|feed| format!("series {}: no value then", feed.name)));
        cells.push(match fallback(steps) {
            Ok(cell) => IntensityCell { window: part, ..cell },
            Err(steps) => missing(site, part, kind, stored.bounds(at)?, steps),
        });
    }
    Ok(cells)
}

/// An intensity that is not known, between bounds.
pub(super) fn missing(
    site: &Site,
    window: Window,
    kind: Kind,
    (low, high): (GramsCo2ePerKwh, GramsCo2ePerKwh),
    mut steps: Vec<String>,
) -> IntensityCell {
    steps.push(format!("missing: between {} and {} g/kWh", low.get(), high.get()));
    let provenance = IntensityProvenance {
        kind,
        basis: Basis::Lifecycle,
        status: "missing",
        source: "none".to_owned(),
        zone: site.name.clone(),
        granularity: "none",
        year: None,
        world: false,
        uncertainty: 0.0,
        steps,
    };
    IntensityCell { window, value: Rate::Between(low, high), revision: None, provenance: Arc::new(provenance) }
}

impl Found<'_> {
    /// Whether another value comes from where this one does, as it does.
    fn comes_as(&self, other: &Self) -> bool {
        let how = |found: &Self| (found.cell.status, found.holds_on, Granularity::of(found.cell.window));
        std::ptr::eq(self.feed, other.feed) && how(self) == how(other)
    }
}

fn provenance(found: &Found<'_>, kind: Kind, steps: &[String]) -> IntensityProvenance {
    let Found { feed, cell, holds_on } = found;
    let granularity = Granularity::of(cell.window);
    let uncertainty = match (kind.is_marginal(), *holds_on, granularity, cell.status) {
        (true, ..) => MARGINAL_UNCERTAINTY,
        (_, true, ..) => COARSE_UNCERTAINTY,
        (_, _, granularity, _) if granularity > Granularity::Hour => COARSE_UNCERTAINTY,
        (_, _, _, Status::Forecast) => FORECAST_UNCERTAINTY,
        _ => ACTUAL_UNCERTAINTY,
    };
    let mut steps = steps.to_vec();
    let how = if *holds_on { "the last value before a hole" } else { granularity.name() };
    steps.push(format!("series {}: {how}", feed.name));
    IntensityProvenance {
        kind,
        basis: feed.subject.basis.unwrap_or(Basis::Lifecycle),
        status: if *holds_on { "held" } else { cell.status.name() },
        source: feed.subject.source.clone(),
        zone: feed.subject.zone.clone(),
        granularity: granularity.name(),
        year: None,
        world: false,
        uncertainty,
        steps,
    }
}

/// PUE of a site over a window from its series, and the parts of it that they do not cover. Nothing holds on: the next level
/// takes its place.
pub(super) fn pue(
    stored: &Stored<'_>,
    at: Window,
    next: impl Fn(Window) -> Option<PueCell>,
) -> Result<Vec<PueCell>, StoreError> {
    let (ranked, found) = stored.candidates(at, None)?;
    let mut cells = Vec::new();
    for (window, index) in layer(at, &ranked) {
        let Some(Found { feed, cell, .. }) = index.and_then(|index| found.get(index)) else {
            cells.extend(next(window));
            continue;
        };
        let value = Pue::new(cell.value).map_err(|error| out_of_range(&error.to_string()))?;
        let (granularity, uncertainty) = match Granularity::of(cell.window) {
            Granularity::FiveMinutes | Granularity::Hour => ("hourly", FINE_PUE_UNCERTAINTY),
            Granularity::Day => ("daily", MONTHLY_PUE_UNCERTAINTY),
            Granularity::Month => ("monthly", MONTHLY_PUE_UNCERTAINTY),
            Granularity::Year => ("annual", ANNUAL_PUE_UNCERTAINTY),
        };
        let source = format!("{}, series {}", feed.subject.source, feed.name);
        cells.push(PueCell { window, value, source, granularity, uncertainty, revision: Some(cell.revision) });
    }
    Ok(cells)
}

/// Values of a series that is declared beside carbon, and for the parts of the window that it does not cover what `next` has.
pub(super) fn declared(
    stored: &Stored<'_>,
    at: Window,
    next: Option<&Declared>,
) -> Result<Vec<DeclaredCell>, StoreError> {
    let (ranked, found) = stored.candidates(at, None)?;
    let cells = layer(at, &ranked).into_iter().map(|(window, index)| {
        let found = index.and_then(|index| found.get(index)).map(|Found { feed, cell, .. }| Declared {
            value: cell.value,
            half_width: match Granularity::of(cell.window) {
                Granularity::FiveMinutes | Granularity::Hour => ACTUAL_UNCERTAINTY,
                _ => COARSE_UNCERTAINTY,
            },
            source: format!("{}, series {}", feed.subject.source, feed.name),
        });
        DeclaredCell { window, value: found.or_else(|| next.cloned()) }
    });
    Ok(cells.collect())
}

fn grams(value: f64) -> Result<GramsCo2ePerKwh, StoreError> {
    GramsCo2ePerKwh::new(value).map_err(|error| out_of_range(&error.to_string()))
}

/// What was recorded was in range: now the stored bytes are not what was written.
fn out_of_range(reason: &str) -> StoreError {
    StoreError::Damaged { what: "a series of factors".to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
