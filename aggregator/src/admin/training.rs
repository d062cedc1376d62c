//! Training of model versions: recorded, and listed with its ledgers.

use crate::query::Query;
use crate::store::Book;
use crate::training::disclosure::Revised;
use crate::training::{self, Disclosure, Event, Family, Pool, Served, TrainingError};
use joulebook_proto::admin::record_training_request::Event as Wire;
use joulebook_proto::admin::{
    ListTrainingRequest, ListTrainingResponse, RecordTrainingRequest, RecordTrainingResponse, TrainingEvent,
    TrainingPool,
};
use joulebook_units::UnixNanos;
use tonic::Status;

pub(super) fn record(
    book: &Book,
    query: &Query,
    request: RecordTrainingRequest,
    now: UnixNanos,
) -> Result<RecordTrainingResponse, Status> {
    let event = request.event.ok_or_else(|| Status::invalid_argument("nothing is said to have happened"))?;
    let mut revised = None;
    let (pool, event) = match event {
        Wire::Document(text) => {
            let mut disclosure = Disclosure::parse(&text).map_err(|error| status(&error))?;
            training::measure(query, &mut disclosure).map_err(|error| status(&error))?;
            revised = disclosure.revised.take();
            (disclosure.pool.clone(), Event::Disclose(Box::new(disclosure)))
        }
        Wire::Revise(revise) => (revise.pool, Event::Revise { units: revise.units, reason: revise.reason }),
        Wire::Retire(retire) => (retire.pool, Event::Retire { successor: retire.successor, reason: retire.reason }),
    };
    let mut revision = training::record(book, &pool, &event, now).map_err(|error| status(&error))?;
    if let Some(Revised { units, reason }) = revised {
        let event = Event::Revise { units, reason };
        revision = training::record(book, &pool, &event, now).map_err(|error| status(&error))?;
    }
    tracing::info!(target: "audit", pool, "training is recorded");
    Ok(RecordTrainingResponse { pool, revision_unix_nanos: revision.0 })
}

pub(super) fn list(book: &Book, request: &ListTrainingRequest, now: UnixNanos) -> Result<ListTrainingResponse, Status> {
    let pools = training::pools(book, None).map_err(|error| status(&error.into()))?;
    if let Some(name) = request.pool.as_ref().filter(|name| !pools.contains_key(*name)) {
        return Err(status(&TrainingError::NoPool(name.clone())));
    }
    let family = Family::new(&pools, Served::new(book, now));
    let asked = pools.iter().filter(|(name, _)| request.pool.as_ref().is_none_or(|only| only == *name));
    let listed = asked.map(|(name, pool)| listed(&family, name, pool, now)).collect::<Result<_, _>>();
    Ok(ListTrainingResponse { pools: listed.map_err(|error| status(&error))? })
}

fn listed(family: &Family<'_>, name: &str, pool: &Pool, now: UnixNanos) -> Result<TrainingPool, TrainingError> {
    let account = family.account_at(name, now)?;
    let json =
        |value: Result<String, serde_json::Error>| value.map_err(|error| TrainingError::Refused(error.to_string()));
    let event = |(at, event): &(UnixNanos, Event)| {
        Ok(TrainingEvent { unix_nanos: at.0, event: json(serde_json::to_string(event))? })
    };
    Ok(TrainingPool {
        pool: name.to_owned(),
        document: json(serde_json::to_string_pretty(&pool.exported()))?,
        events: pool.events.iter().map(event).collect::<Result<_, TrainingError>>()?,
        training_g: account.training,
        expected_units: account.units,
        used_units: account.used,
        allocated_g: account.allocated,
        written_off_g: account.written_off,
        remaining_g: account.remaining,
        fully_amortised: account.fully_amortised,
        retired: pool.retired(),
    })
}

fn status(error: &TrainingError) -> Status {
    let message = error.to_string();
    match error {
        TrainingError::Refused(_) | TrainingError::Lineage(_) => Status::invalid_argument(message),
        TrainingError::NoPool(_) => Status::not_found(message),
        TrainingError::Store(_) => Status::data_loss(message),
    }
}
