//! How late the meters at a node's input are, hour by hour: from the rows of the hour before, each worked out once.

use super::joined;
use crate::store::hours::HOUR_SECONDS;
use crate::store::{Book, StoreError};
use joulebook_sci::settle::lag::{Lags, estimate};
use joulebook_units::{Source, Subject, UnixNanos, Window};
use std::collections::BTreeMap;

/// The lags of the readings of a window.
///
/// # Errors
/// The store's.
pub(super) fn lags(book: &Book, node: u32, window: Window) -> Result<Lags, StoreError> {
    let mut lags = Lags::default();
    // Asked before anything is read. An hour without a row yet has no reading to be moved, and the one before it may not be
    // over.
    let Some((version, latest)) = book.hours(node) else { return Ok(lags) };
    let mut hour = window.start().floor_to(HOUR_SECONDS);
    while hour < window.end() && hour <= latest {
        let found = match book.lags(node, hour, version) {
            Some(found) => found,
            None => {
                let found = found(book, node, hour)?;
                book.remember_lags(node, hour, version, found.clone());
                found
            }
        };
        lags.set(hour, found);
        hour = hour.plus_seconds(HOUR_SECONDS);
    }
    Ok(lags)
}

/// What the hour before shows.
fn found(book: &Book, node: u32, hour: UnixNanos) -> Result<BTreeMap<Source, u64>, StoreError> {
    let Some(before) = Window::new(hour.plus_seconds(-HOUR_SECONDS), hour) else { return Ok(BTreeMap::new()) };
    let series = book.series(node, before)?;
    let energy = series.iter().filter(|series| matches!(&*series.subject, Subject::Energy(_)));
    Ok(estimate(&joined(energy, before), before))
}
