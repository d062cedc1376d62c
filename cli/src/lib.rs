//! The operator's tool, as a library so that tests run it in-process.
//!
//! Arguments become a question ([`arguments`], [`period`]), the question goes to the aggregator ([`client`]), the answer
//! becomes bytes ([`output`]). Nothing is printed before the whole answer is there, but for `admin dump`, which may
//! be long, and `doctor`, which passes on what the agent prints.

pub mod arguments;
mod client;
mod command;
mod failure;
mod output;
pub mod period;
mod series;

use arguments::{Arguments, Command};
use clap::Parser;
use failure::Failure;
use jiff::Timestamp;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};

/// Runs one command line (`args[0]` is the program's name) and returns the exit code: 0 answered (or the reader went
/// away), 1 nothing of that name, 64 usage, 69 unavailable, 74 output failed or server data damaged, 75 try again, 77 not
/// permitted.
pub async fn run(args: Vec<OsString>, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    let json = arguments::asks_for_json(&args);
    let outcome = match Arguments::try_parse_from(args) {
        Ok(arguments) => answer(&arguments, Timestamp::now(), stdout).await,
        Err(error) if !error.use_stderr() => Ok(error.to_string()),
        Err(error) => Err(Failure::Usage(error.to_string().trim_start_matches("error: ").trim_end().to_owned())),
    };
    match outcome {
        Ok(text) => match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => 0,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => 0,
            Err(error) => report(&Failure::Output(error), json, stderr),
        },
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => 0,
        Err(failure) => report(&failure, json, stderr),
    }
}

async fn answer(arguments: &Arguments, now: Timestamp, stdout: &mut dyn Write) -> Result<String, Failure> {
    match &arguments.command {
        Command::Sci(sci) => command::sci::answer(&arguments.connection, sci, now).await,
        Command::Energy(energy) => command::energy::answer(&arguments.connection, energy, now).await,
        Command::Explain(explain) => command::explain::answer(&arguments.connection, explain, now).await,
        Command::Factors(factors) => command::factors::answer(&arguments.connection, factors).await,
        Command::Training(training) => command::training::answer(&arguments.connection, training).await,
        Command::Idle(idle) => command::idle::answer(&arguments.connection, idle, now).await,
        Command::Estimate(estimate) => command::estimate::answer(&arguments.connection, estimate, now).await,
        Command::Compare(compare) => command::compare::answer(&arguments.connection, compare, now).await,
        Command::Doctor(doctor) => command::doctor::answer(doctor, stdout).await,
        Command::Admin(admin) => command::admin::answer(&arguments.connection, admin, now, stdout).await,
    }
}

fn report(failure: &Failure, json: bool, stderr: &mut dyn Write) -> u8 {
    let text = if json { failure.to_json() } else { format!("joulebook: {failure}") };
    // With stderr gone there is nobody left to tell; the exit code still speaks.
    let _ = writeln!(stderr, "{text}");
    failure.exit_code()
}
