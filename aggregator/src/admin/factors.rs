//! Series of factors: what is pushed into them, and how they are.

use crate::factor::{Feed, ProviderName};
use crate::store::block::factor::{SeriesFact, SeriesSubject};
use crate::store::factors::RecordError;
use crate::store::{Book, StoreError};
use joulebook_proto::admin::{
    FactorCell, FactorSeries, FactorSeriesStatus, ListFactorsResponse, PushFactorsRequest, PushFactorsResponse,
};
use joulebook_sci::quantity::{Basis, Kind, Quantity};
use joulebook_sci::series::{Status as CellStatus, in_order};
use joulebook_units::{UnixNanos, Window};
use std::collections::BTreeMap;
use tonic::Status;

type Cell = (Window, f64, CellStatus);

/// Records what was pushed.
///
/// # Errors
/// INVALID_ARGUMENT for cells that are none and for another subject, else the store's.
pub(super) fn push(book: &Book, request: &PushFactorsRequest, now: UnixNanos) -> Result<PushFactorsResponse, Status> {
    let series = request.series.as_ref().ok_or_else(|| Status::invalid_argument("no series is named"))?;
    let subject = subject(series)?;
    let cells = request.cells.iter().zip(1usize..).map(|(cell, place)| {
        checked(cell, subject.quantity).map_err(|why| Status::invalid_argument(format!("cell {place}: {why}")))
    });
    let cells: Vec<Cell> = cells.collect::<Result<_, _>>()?;
    if cells.is_empty() {
        return Err(Status::invalid_argument("there is no cell in it"));
    }
    let plain: Vec<(Window, f64)> = cells.iter().map(|(window, value, _)| (*window, *value)).collect();
    let order = in_order(&plain).map_err(|conflict| {
        let (first, second) = (conflict.first.min(conflict.second) + 1, conflict.first.max(conflict.second) + 1);
        Status::invalid_argument(format!("cells {first} and {second} overlap: which one holds is not said"))
    })?;
    let cells: Vec<Cell> = order.into_iter().filter_map(|place| cells.get(place).copied()).collect();
    let recorded = book.record_factors(&series.name, &subject, &cells, now).map_err(|error| refusal(&error))?;
    tracing::info!(target: "audit", series = series.name, recorded = recorded.recorded, "factors are pushed");
    Ok(PushFactorsResponse {
        recorded: u64::try_from(recorded.recorded).unwrap_or(u64::MAX),
        unchanged: u64::try_from(recorded.unchanged).unwrap_or(u64::MAX),
        revision_unix_nanos: recorded.revision.map_or(0, |revision| revision.0),
    })
}

fn refusal(error: &RecordError) -> Status {
    let message = error.to_string();
    match error {
        RecordError::Name(_) | RecordError::TooMany(_) | RecordError::Window(_) | RecordError::Other { .. } => {
            Status::invalid_argument(message)
        }

        RecordError::Store(StoreError::Full { .. }) => Status::unavailable(message),
        RecordError::Store(_) => Status::data_loss(message),
    }
}

fn subject(series: &FactorSeries) -> Result<SeriesSubject, Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("the series has no {what} that is known"));
    let quantity = Quantity::of(&series.quantity).ok_or_else(|| invalid("quantity"))?;
    let (kind, basis) = match quantity {
        Quantity::Intensity => (
            Some(Kind::of(&series.kind).ok_or_else(|| invalid("kind"))?),
            Some(Basis::of(&series.basis).ok_or_else(|| invalid("basis"))?),
        ),
        _ if series.kind.is_empty() && series.basis.is_empty() => (None, None),
        _ => return Err(Status::invalid_argument("kind and basis are of intensities only")),
    };
    Ok(SeriesSubject { quantity, kind, basis, zone: series.zone.clone(), source: series.source.clone() })
}

fn checked(cell: &FactorCell, quantity: Quantity) -> Result<Cell, String> {
    let window = Window::new(UnixNanos(cell.start_unix_nanos), UnixNanos(cell.end_unix_nanos));
    let window = window.filter(|window| !window.is_empty()).ok_or("it does not end after it starts")?;
    let value = quantity.check(cell.value).map_err(|error| error.to_string())?;
    let status = CellStatus::of(&cell.status).ok_or_else(|| format!("`{}` is no status", cell.status))?;
    Ok((window, value, status))
}

/// How a source is: why its last attempt failed ("" if it did not), and when it is asked next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedState {
    /// Why the last attempt failed.
    pub failure: String,
    /// When it is asked next; none while it is not.
    pub next: Option<UnixNanos>,
}

/// Every series that is stored or configured.
pub(super) fn list(book: &Book, feeds: &[Feed], states: &BTreeMap<String, FeedState>) -> ListFactorsResponse {
    let mut rows: BTreeMap<String, FactorSeriesStatus> =
        book.factor_series().into_iter().map(|(name, fact)| (name.clone(), stored(&name, &fact))).collect();
    for feed in feeds {
        let row = rows.entry(feed.name.clone()).or_insert_with(|| FactorSeriesStatus {
            series: Some(wire(&feed.name, &feed.subject)),
            ..FactorSeriesStatus::default()
        });
        let state = states.get(&feed.name).cloned().unwrap_or_default();
        row.provider = feed.provider.map_or("", ProviderName::name).to_owned();
        row.failure = state.failure;
        row.next_unix_nanos = state.next.map(|next| next.0);
    }
    ListFactorsResponse { series: rows.into_values().collect() }
}

fn stored(name: &str, fact: &SeriesFact) -> FactorSeriesStatus {
    FactorSeriesStatus {
        series: Some(wire(name, &fact.subject)),
        revisions: fact.revisions,
        revision_unix_nanos: Some(fact.last_revision.0),
        first_unix_nanos: Some(fact.first.0),
        last_unix_nanos: Some(fact.last.0),
        ..FactorSeriesStatus::default()
    }
}

fn wire(name: &str, subject: &SeriesSubject) -> FactorSeries {
    FactorSeries {
        name: name.to_owned(),
        quantity: subject.quantity.name().to_owned(),
        kind: subject.kind.map_or("", Kind::name).to_owned(),
        basis: subject.basis.map_or("", Basis::name).to_owned(),
        zone: subject.zone.clone(),
        source: subject.source.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;
    use tonic::Code;

    fn hour(start: i64, value: f64) -> FactorCell {
        let at = |hour: i64| hour * 3600 * UnixNanos::PER_SECOND;
        let status = "measured".to_owned();
        FactorCell { start_unix_nanos: at(start), end_unix_nanos: at(start + 1), value, status }
    }

    fn pue() -> FactorSeries {
        FactorSeries { name: "hall".into(), quantity: "pue".into(), zone: "hall 1".into(), ..FactorSeries::default() }
    }

    fn push_pue(book: &Book, cells: Vec<FactorCell>) -> Result<PushFactorsResponse, Status> {
        push(book, &PushFactorsRequest { series: Some(pue()), cells }, UnixNanos(5))
    }

    #[test]
    fn what_is_no_cell_is_refused_by_its_place_and_nothing_is_stored() {
        let book = Book::open(Arc::new(MemoryStore::new())).expect("open");
        let why = |cells: Vec<FactorCell>| {
            let refused = push_pue(&book, cells).expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            refused.message().to_owned()
        };
        assert!(why(vec![hour(0, 1.2), hour(1, 0.99)]).contains("cell 2: 0.99 is no pue"));
        assert!(why(vec![hour(0, f64::NAN)]).contains("cell 1"));
        assert!(why(vec![hour(0, 1.2), hour(0, 1.3)]).contains("cells 1 and 2 overlap"));
        assert!(why(vec![FactorCell { end_unix_nanos: 0, ..hour(0, 1.2) }]).contains("does not end"));
        assert!(why(vec![FactorCell { status: "guessed".into(), ..hour(0, 1.2) }]).contains("guessed"));
        assert!(why(vec![]).contains("no cell"));
        assert!(book.factor_series().is_empty());
    }

    #[test]
    fn a_push_is_listed_and_another_subject_under_its_name_is_refused() {
        let book = Book::open(Arc::new(MemoryStore::new())).expect("open");
        let pushed = push_pue(&book, vec![hour(1, 1.2), hour(0, 1.1), hour(1, 1.2)]).expect("taken");
        assert_eq!((pushed.recorded, pushed.unchanged, pushed.revision_unix_nanos), (2, 0, 5));
        let again = push_pue(&book, vec![hour(0, 1.1), hour(1, 1.25)]).expect("taken");
        assert_eq!((again.recorded, again.unchanged, again.revision_unix_nanos), (1, 1, 6));
        let other = FactorSeries { zone: "hall 2".into(), ..pue() };
        let refused = push(&book, &PushFactorsRequest { series: Some(other), cells: vec![hour(0, 1.1)] }, UnixNanos(7));
        assert_eq!(refused.expect_err("refused").code(), Code::InvalidArgument);
        let listed = list(&book, &[], &BTreeMap::new()).series;
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].revisions, listed[0].series.clone()), (2, Some(pue())));
    }
}
