//! A process in its own group: ready when it says so, gone when it is dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use regex::Regex;

/// How long a process may take until it says what is waited for: far more than it needs on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Path of one of the workspace's programs, as cargo built it beside the running test.
///
/// `JOULEBOOK_BIN_DIR` names another folder. An error says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("JOULEBOOK_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let test = std::env::current_exe().context("the path of the running test")?;
            test.parent().and_then(|deps| deps.parent()).context("a test lies in target/PROFILE/deps")?.to_owned()
        }
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is not built; run: cargo build --workspace --bins", path.display());
    }
    Ok(path)
}

#[derive(Default)]
struct Output {
    lines: Vec<String>,
    open: usize,
}

type Shared = Arc<(Mutex<Output>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, Output> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running process whose two outputs are kept line by line.
pub struct Program {
    name: String,
    child: Child,
    output: Shared,
}

impl Program {
    /// Starts a process in its own group, without input.
    pub fn start<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts a prepared command in its own group, without input.
    pub fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.env("NO_COLOR", "1");
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let output = Shared::default();
        lock(&output).open = 2;
        if let Some(stdout) = child.stdout.take() {
            read(stdout, output.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read(stderr, output.clone());
        }
        Ok(Self { name, child, output })
    }

    /// Its process id, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said, both outputs in the order of arrival.
    pub fn said(&self) -> String {
        lock(&self.output).lines.join("\n")
    }

    /// Waits for a line that matches and returns the first group, or the whole match where the pattern has none.
    ///
    /// An error holds what it said instead: it ended, or a minute passed.
    pub fn wait_for(&self, pattern: &str) -> Result<String> {
        let pattern = Regex::new(pattern)?;
        let find = |lines: &[String]| {
            let found = lines.iter().find_map(|line| pattern.captures(line))?;
            found.get(1).or(found.get(0)).map(|part| part.as_str().to_owned())
        };
        let waiting = |output: &mut Output| output.open > 0 && find(&output.lines).is_none();
        let waited = self.output.1.wait_timeout_while(lock(&self.output), PATIENCE, waiting);
        let (output, _) = waited.unwrap_or_else(PoisonError::into_inner);
        find(&output.lines)
            .ok_or_else(|| anyhow!("{} never said {pattern}; it said:\n{}", self.name, output.lines.join("\n")))
    }

    /// Sends SIGTERM to the group, waits for the end and returns the status; whatever stays behind is killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Sends SIGKILL to the group and waits for the end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.wait()
    }

    /// Sends SIGHUP to the process, which asks a daemon to read its configuration again, and does not wait.
    pub fn hang_up(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGHUP);
        }
    }

    /// Sends SIGTERM to the group and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Stops the group from running (SIGSTOP) without ending it: whatever is sent to it waits.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Whether it has ended by itself, with everything that held its outputs.
    pub fn has_ended(&self) -> bool {
        lock(&self.output).open == 0
    }

    /// Waits until it ends by itself and returns the status. A process that does not end within a minute is killed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        match self.ends_within(PATIENCE)? {
            Some(status) => Ok(status),
            None => bail!("{} did not end in time; it said:\n{}", self.name, self.said()),
        }
    }

    /// Waits until it ends by itself and returns the status; none if it has not within `limit`: it is killed then.
    pub fn ends_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        // Both outputs close when the last process of the group that holds them ends.
        let waited = self.output.1.wait_timeout_while(lock(&self.output), limit, |output| output.open > 0);
        let late = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        self.signal(Signal::SIGKILL);
        let status = self.child.wait()?;
        Ok((!late).then_some(status))
    }

    fn signal(&self, signal: Signal) {
        // A group that is already gone is what was wanted.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _gone = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _status = self.child.wait();
    }
}

fn read(stream: impl Read + Send + 'static, output: Shared) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lock(&output).lines.push(text);
            output.1.notify_all();
            line.clear();
        }
        lock(&output).open -= 1;
        output.1.notify_all();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::start("sh", &["-c", script]).unwrap()
    }

    #[test]
    fn a_line_is_waited_for_on_either_output() {
        let program = shell("echo starting; echo listening on 127.0.0.1:7 >&2; exec sleep 60");
        assert_eq!(program.wait_for(r"listening on (\S+)").unwrap(), "127.0.0.1:7");
        assert_eq!(program.wait_for("^starting$").unwrap(), "starting");
    }

    #[test]
    fn a_process_that_ends_first_is_an_error_with_what_it_said() {
        let error = shell("echo no such folder").wait_for("listening").unwrap_err().to_string();
        assert!(error.contains("no such folder"), "{error}");
    }

    #[test]
    fn children_end_with_the_process() {
        let mut program = shell("sleep 600 & echo ready; wait");
        program.wait_for("ready").unwrap();
        program.stop().unwrap();
        // The child holds the outputs as well: they close when it ends too.
        assert_eq!(lock(&program.output).open, 0);
    }

    #[test]
    fn the_exit_status_is_returned() {
        assert_eq!(shell("exit 77").wait().unwrap().code(), Some(77));
    }
}
