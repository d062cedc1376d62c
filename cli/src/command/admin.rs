//! `joulebook admin`: care of the aggregator.

use crate::arguments::{AdminCommand, AdminForm, Connection, DumpArguments, FormArguments};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use crate::period;
use jiff::Timestamp;
use joulebook_proto::admin::{
    BackupInfo, BackupRequest, DumpRequest, DumpResponse, Findings, GetStatusRequest, ListBackupsRequest,
    VerifyRequest, backup_response, verify_response,
};
use std::io::{Error, Write};

pub(crate) async fn answer(
    connection: &Connection,
    command: &AdminCommand,
    now: Timestamp,
    stdout: &mut dyn Write,
) -> Result<String, Failure> {
    match command {
        AdminCommand::Status(FormArguments { output }) => {
            let asked = client::ask_admin(connection, async |mut client| client.get_status(GetStatusRequest {}).await);
            let status = asked.await?;
            match output {
                AdminForm::Table => Ok(table::status(&status)),
                AdminForm::Json => json::plain(&status),
            }
        }
        AdminCommand::Backup(arguments) => {
            let made = back_up(connection, arguments.keep).await?;
            match arguments.form.output {
                AdminForm::Table => Ok(table::backups(&[made])),
                AdminForm::Json => json::plain(&made),
            }
        }
        AdminCommand::Backups(FormArguments { output }) => {
            let question = ListBackupsRequest {};
            let asked = client::ask_admin(connection, async |mut client| client.list_backups(question).await);
            let listed = asked.await?;
            match output {
                AdminForm::Table => Ok(table::backups(&listed.backups)),
                AdminForm::Json => json::plain(&listed),
            }
        }
        AdminCommand::Verify(arguments) => {
            let findings = verify(connection, arguments.backup).await?;
            if !findings.damages.is_empty() {
                return Err(damage(&findings));
            }
            match arguments.form.output {
                AdminForm::Table => {
                    Ok(format!("{} files, {} bytes: nothing is damaged\n", findings.files, findings.bytes))
                }
                AdminForm::Json => json::plain(&findings),
            }
        }
        AdminCommand::Dump(arguments) => dump(connection, arguments, now, stdout).await.map(|()| String::new()),
    }
}

async fn back_up(connection: &Connection, keep: Option<u32>) -> Result<BackupInfo, Failure> {
    let question = BackupRequest { keep };
    let mut steps = client::ask_admin(connection, async |mut client| client.backup(question).await).await?;
    while let Some(step) = client::next(connection, &mut steps).await? {
        if let Some(backup_response::Step::Done(made)) = step.step {
            return Ok(made);
        }
    }
    Err(unfinished(connection))
}

async fn verify(connection: &Connection, backup: Option<u32>) -> Result<Findings, Failure> {
    let question = VerifyRequest { backup };
    let mut steps = client::ask_admin(connection, async |mut client| client.verify(question).await).await?;
    while let Some(step) = client::next(connection, &mut steps).await? {
        if let Some(verify_response::Step::Done(findings)) = step.step {
            return Ok(findings);
        }
    }
    Err(unfinished(connection))
}

fn unfinished(connection: &Connection) -> Failure {
    Failure::Unavailable(format!("{} ended its answer before the end; check that it runs", connection.aggregator))
}

fn damage(findings: &Findings) -> Failure {
    let lines: Vec<String> = findings.damages.iter().map(|one| format!("{}: {}", one.file, one.reason)).collect();
    let count = lines.len();
    Failure::Damaged(format!("{count} damaged; restore them from a backup\n{}", lines.join("\n")))
}

async fn dump(
    connection: &Connection,
    arguments: &DumpArguments,
    now: Timestamp,
    stdout: &mut dyn Write,
) -> Result<(), Failure> {
    let (from, to) = (arguments.from.as_deref(), arguments.to.as_deref());
    let window = match (from, to) {
        (None, None) => None,
        _ => Some(period::window(None, from, to, now).map_err(|error| Failure::Usage(error.to_string()))?),
    };
    let question = DumpRequest {
        node: arguments.node.clone(),
        start_unix_nanos: window.map(|window| window.start().0),
        end_unix_nanos: window.map(|window| window.end().0),
    };
    let mut runs = client::ask_admin(connection, async |mut client| client.dump(question).await).await?;
    let header = ["series", "unit", "stream", "sequence", "unix_nanos", "value"].map(str::to_owned);
    write(stdout, &[header])?;
    while let Some(run) = client::next(connection, &mut runs).await? {
        write(stdout, &lines(&run))?;
    }
    Ok(())
}

fn lines(run: &DumpResponse) -> Vec<[String; 6]> {
    let line = |at: i64, value: u64| {
        let (sequence, at, value) = (run.sequence.to_string(), at.to_string(), value.to_string());
        [run.series.clone(), run.unit.clone(), run.stream_id.clone(), sequence, at, value]
    };
    run.points.iter().map(|point| line(point.unix_nanos, point.value)).collect()
}

fn write(stdout: &mut dyn Write, lines: &[[String; 6]]) -> Result<(), Failure> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let failed = |error: csv::Error| Failure::Output(Error::other(error));
    for line in lines {
        writer.write_record(line).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| Failure::Output(Error::other(error.to_string())))?;
    stdout.write_all(&bytes).map_err(Failure::Output)
}
