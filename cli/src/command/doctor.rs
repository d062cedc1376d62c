//! `joulebook doctor`: the agent's own look at this machine. The sensors are the agent's, and so is their code: this
//! runs `joulebook-agent doctor` and passes on what it says.

use crate::arguments::DoctorArguments;
use crate::failure::Failure;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Stdio;

const AGENT: &str = "joulebook-agent";

pub(crate) async fn answer(arguments: &DoctorArguments, stdout: &mut dyn Write) -> Result<String, Failure> {
    let program = arguments.agent.clone().unwrap_or_else(agent);
    let mut command = tokio::process::Command::new(&program);
    command.args(["doctor", "--seconds", &arguments.seconds.to_string(), "--output", arguments.output.word()]);
    if let Some(config) = &arguments.config {
        command.arg("--config").arg(config);
    }
    command.args(&arguments.rest).stdin(Stdio::null()).kill_on_drop(true);
    let ended = command.output().await.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => "; run it where the agent is installed, or name the program with --agent",
            _ => "",
        };
        Failure::Unavailable(format!("starting {} failed: {error}{hint}", program.display()))
    })?;
    stdout.write_all(&ended.stdout).map_err(Failure::Output)?;
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    match ended.status.code() {
        Some(0) => Ok(String::new()),
        Some(69) => Err(Failure::Unavailable("a source that is there cannot be read: see why above".to_owned())),
        Some(64 | 78) => Err(Failure::Usage(said)),
        _ => Err(Failure::Unavailable(format!("{} ended: {}; {said}", program.display(), ended.status))),
    }
}

/// The agent beside this program, else the one that is found by its name.
fn agent() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(AGENT));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| AGENT.into())
}
