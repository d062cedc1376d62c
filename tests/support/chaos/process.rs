//! Agents as processes of their own, for rigs that kill them. What they say goes to the oracle line by line.
//!
//! Each line is written after what it tells has happened: `open EPOCH HIGHEST`, `durable NUMBER`, `acked NUMBER`. Lines
//! that a killed process wrote stay in the pipe and are read to their end.

use super::agent::{Agent, spool_config};
use super::oracle::Oracle;
use super::plan::Plan;
use super::preload::Environment;
use anyhow::{Context, Result, bail, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::spool::SpoolConfig;
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::interval;

/// Agents of a rig of processes.
pub const AGENTS: u32 = 6;
/// Batches that each makes in a second. A batch is 10 s of a plan that began six days ago, 51,840 batches: twenty minutes of
/// a rig take it to the present.
const BATCHES_A_SECOND: u32 = 60;
/// How long an agent may take to start: far more than it needs on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an agent process is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The test program that runs [`main`].
    pub program: PathBuf,
    /// What it measures.
    pub plan: Plan,
    /// Its number.
    pub node: u32,
    /// Its spool.
    pub spool: PathBuf,
    /// The aggregator.
    pub endpoint: String,
    /// Whether acknowledged records stay in the spool.
    pub keep_acked: bool,
    /// Size at which the spool begins a new segment.
    pub segment_bytes: u64,
    /// Further variables of its environment.
    pub environment: Environment,
}

/// A running agent. Killed when dropped.
pub struct Process {
    child: Child,
    /// Open while the agent is to produce.
    produce: Option<ChildStdin>,
    reader: Option<JoinHandle<Result<()>>>,
    /// From its start until its spool was open.
    pub ready: Duration,
}

impl Process {
    /// Starts an agent and waits until its spool is open.
    pub fn start(settings: &Settings, oracle: &Oracle) -> Result<Self> {
        let begin = SystemClock.boot();
        let (mut process, open, _) = Self::spawn(settings, oracle)?;
        if open.recv_timeout(PATIENCE).is_err() {
            let status = process.kill()?;
            bail!("the agent of node {} did not open its spool: {status}", settings.node);
        }
        process.ready = SystemClock.boot().since(begin);
        Ok(process)
    }

    /// Starts an agent that is to kill itself. False if it did not within `limit`: it is killed then.
    pub fn fall(settings: &Settings, oracle: &Oracle, limit: Duration) -> Result<bool> {
        let (mut process, _open, ended) = Self::spawn(settings, oracle)?;
        let late = ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        let status = if late { process.kill()? } else { process.end()? };
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "an agent that was to fall ended with {status}");
        Ok(!late)
    }

    /// Starts an agent. The receivers tell that its spool is open, and (by closing) that it has said everything.
    fn spawn(settings: &Settings, oracle: &Oracle) -> Result<(Self, mpsc::Receiver<()>, mpsc::Receiver<()>)> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&settings.program);
        command.args([&settings.plan.words(), &settings.node.to_string(), &settings.endpoint]);
        command.arg(&settings.spool).args([settings.keep_acked.to_string(), settings.segment_bytes.to_string()]);
        command.envs(settings.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting an agent of the fleet")?;
        let produce = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("its output")?);
        let (node, oracle, (opened, open), (end, ended)) =
            (settings.node, oracle.clone(), mpsc::channel(), mpsc::channel());
        let reader = std::thread::spawn(move || {
            let _end: mpsc::Sender<()> = end;
            read(node, lines, &oracle, &opened)
        });
        Ok((Self { child, produce, reader: Some(reader), ready: Duration::ZERO }, open, ended))
    }

    /// Sends SIGKILL, and waits until everything it had said is read.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        self.end()
    }

    /// Makes it produce no more, and waits until it has sent everything and ended.
    pub fn drain(&mut self) -> Result<()> {
        self.produce = None;
        let status = self.end()?;
        ensure!(status.success(), "an agent of the fleet ended with {status}");
        Ok(())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        let read = self.reader.take().map(JoinHandle::join);
        let status = self.child.wait()?;
        match read {
            Some(Ok(result)) => result?,
            Some(Err(_)) => bail!("the thread that reads an agent's lines ended badly"),
            None => {}
        }
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is what was wanted.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn read(node: u32, lines: impl BufRead, oracle: &Oracle, opened: &mpsc::Sender<()>) -> Result<()> {
    for line in lines.lines() {
        let line = line?;
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>();
        match (word, numbers.as_deref()) {
            ("open", Ok([epoch, highest])) => {
                oracle.opened(node, *epoch, *highest);
                // Nobody waits any more if the patience is over.
                let _late = opened.send(());
            }
            ("durable", Ok([sequence])) => oracle.durable(node, *sequence),
            ("acked", Ok([sequence])) => oracle.acked(node, *sequence),
            // A line that the kill cut short tells nothing.
            _ => {}
        }
    }
    Ok(())
}

/// The main function of the test program: an agent that produces until its input closes, then sends what it has.
///
/// Arguments: plan, node, endpoint, spool folder, whether acknowledged records stay, bytes of a segment.
pub fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plan, node, endpoint, spool, keep_acked, segment_bytes] = arguments.as_slice() else {
        bail!("arguments: plan, node, endpoint, spool folder, whether acknowledged records stay, bytes of a segment");
    };
    let (plan, node) = (Plan::parse(plan)?, node.parse()?);
    let spool =
        SpoolConfig { segment_bytes: segment_bytes.parse()?, ..spool_config(Path::new(spool), keep_acked.parse()?) };
    let (close, closed) = watch::channel(false);
    std::thread::spawn(move || {
        // Nothing is ever sent: the end is the message.
        let _end = std::io::stdin().read_to_end(&mut Vec::new());
        close.send_replace(true);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(produce(plan, node, endpoint, &spool, closed))
}

async fn produce(
    plan: Plan,
    node: u32,
    endpoint: &str,
    spool: &SpoolConfig,
    mut closed: watch::Receiver<bool>,
) -> Result<()> {
    let mut agent = Agent::start(plan, node, spool, endpoint)?;
    let say = |line: String| -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        Ok(out.flush()?)
    };
    say(format!("open {} {}", agent.spool().session_epoch(), agent.state().highest))?;
    let mut state = agent.spool().watch();
    let mut ticks = interval(Duration::from_secs(1) / BATCHES_A_SECOND);
    let mut acked = 0;
    loop {
        let (closing, now) = (*closed.borrow(), agent.state());
        if now.acked > acked {
            acked = now.acked;
            say(format!("acked {acked}"))?;
        }
        if closing && now.acked >= now.highest {
            return Ok(());
        }
        tokio::select! {
            _ = ticks.tick(), if !closing => say(format!("durable {}", agent.produce().await?))?,
            changed = state.changed() => changed.context("the spool closed")?,
            // Its sender lives until the end is told.
            _ = closed.changed(), if !closing => {}
        }
    }
}
