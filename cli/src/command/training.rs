//! `joulebook training`: what is disclosed of the training of model versions, and its ledgers.

use crate::arguments::{AdminForm, Connection, TrainingCommand};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use joulebook_proto::admin::record_training_request::Event;
use joulebook_proto::admin::{
    ListTrainingRequest, RecordTrainingRequest, RetireTraining, ReviseTraining, TrainingPool,
};
use std::path::Path;

pub(crate) async fn answer(connection: &Connection, command: &TrainingCommand) -> Result<String, Failure> {
    match command {
        TrainingCommand::Set { file } | TrainingCommand::Import { file } => {
            record(connection, Event::Document(read(file)?)).await
        }
        TrainingCommand::Revise { pool, units, reason } => {
            let revise = ReviseTraining { pool: pool.clone(), units: *units, reason: reason.clone() };
            record(connection, Event::Revise(revise)).await
        }
        TrainingCommand::Retire { pool, successor, reason } => {
            let (pool, successor, reason) = (pool.clone(), successor.clone(), reason.clone());
            record(connection, Event::Retire(RetireTraining { pool, successor, reason })).await
        }
        TrainingCommand::List(form) => {
            let pools = list(connection, None).await?;
            match form.output {
                AdminForm::Table => Ok(table::pools(&pools)),
                AdminForm::Json => json::plain(&pools),
            }
        }
        TrainingCommand::Show { pool, form } => {
            let pools = list(connection, Some(pool)).await?;
            match form.output {
                AdminForm::Table => Ok(pools.iter().map(table::pool).collect()),
                AdminForm::Json => json::plain(&pools),
            }
        }
        TrainingCommand::Export { pool } => {
            let pools = list(connection, Some(pool)).await?;
            Ok(pools.into_iter().map(|pool| pool.document + "\n").collect())
        }
    }
}

async fn record(connection: &Connection, event: Event) -> Result<String, Failure> {
    let question = RecordTrainingRequest { event: Some(event) };
    let recorded = client::ask_admin(connection, async |mut client| client.record_training(question).await).await?;
    let at = table::instant(recorded.revision_unix_nanos);
    Ok(format!("pool {} recorded at {at}\n", recorded.pool))
}

async fn list(connection: &Connection, pool: Option<&String>) -> Result<Vec<TrainingPool>, Failure> {
    let question = ListTrainingRequest { pool: pool.cloned() };
    let listed = client::ask_admin(connection, async |mut client| client.list_training(question).await).await?;
    Ok(listed.pools)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}
