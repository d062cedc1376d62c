//! The helper process as the agent sees it: started, asked, and given up when it hangs or dies.
//!
//! The vendor's library may crash or never return; it does so in a process of its own, and the agent never waits for
//! it. One thread passes the helper's lines on; it ends with the helper. There is at most one helper: one that cannot
//! be killed (a call stuck in the kernel) is waited for before another is started.

use super::message::{Line, Request};
use super::{Vendor, library};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// A helper that lived this long died of something new: pauses begin anew.
const HEALTHY_NANOS: u64 = 60_000_000_000;
/// Lines that may wait for the agent: more than a round of 64 devices has.
const WAITING_LINES: usize = 256;

/// How a helper is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Whose library it holds.
    pub vendor: &'static Vendor,
    /// The program, which must serve the library when its first argument is [`Vendor::helper`].
    pub program: PathBuf,
    /// The vendor's library; its usual name if absent.
    pub library: Option<PathBuf>,
    /// Page of NVIDIA's dcgm-exporter, where there is one.
    pub dcgm: Option<String>,
    /// Its limits.
    pub limits: Limits,
}

/// When a helper is given up, and when it is started again.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A call that takes longer than this hangs.
    pub hang: Duration,
    /// Pause after a helper died; each further one is twice as long.
    pub first_pause: Duration,
    /// Longest pause, and the one after the library could not be started.
    pub longest_pause: Duration,
    /// For how long a device on which a call hung is left alone; each further time twice as long.
    pub skip: Duration,
    /// A library that fails on every device for this long is given up.
    pub all_fail: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hang: Duration::from_secs(5),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            skip: Duration::from_secs(60),
            all_fail: Duration::from_secs(300),
        }
    }
}

/// What came of a helper.
#[derive(Debug)]
pub enum Event {
    /// It said something.
    Line(Line),
    /// It is gone.
    Gone {
        /// How it ended.
        why: String,
        /// Device on which it hung, if it did.
        hung_on: Option<String>,
        /// Whether it had said before what is wrong.
        failed: bool,
    },
}

/// The helper, running or not.
#[derive(Debug)]
pub struct Helper {
    launch: Launch,
    running: Option<Running>,
    /// Not started before this instant.
    not_before: u64,
    pause: Duration,
}

#[derive(Debug)]
struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Line>,
    since: u64,
    /// Last sign of life; since then a call may hang.
    heard: u64,
    /// Whether a round was asked for that is not complete.
    asked: bool,
    /// The device that it is on.
    on: Option<String>,
    /// Whether it is at work: starting, or in a round.
    working: bool,
    failed: bool,
    killed: bool,
}

impl Helper {
    /// A helper that is started at the first [`Helper::ensure`].
    pub fn new(launch: Launch) -> Self {
        let pause = launch.limits.first_pause;
        Self { launch, running: None, not_before: 0, pause }
    }

    /// Starts the helper if none runs and its pause is over.
    ///
    /// # Errors
    /// Of starting the process, in words.
    pub fn ensure(&mut self) -> Result<(), String> {
        let now = library::now();
        if self.running.is_some() || now < self.not_before {
            return Ok(());
        }
        let mut command = Command::new(&self.launch.program);
        let library = self.launch.library.clone().unwrap_or_default();
        command
            .arg(self.launch.vendor.helper)
            .arg(library)
            .args(&self.launch.dcgm)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let started = command.spawn().and_then(|mut child| {
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (stdin, stdout) = pipes.ok_or_else(|| std::io::Error::other("it has no pipes"))?;
            let (passed, lines) = sync_channel(WAITING_LINES);
            let pass = std::thread::Builder::new().name("nvml-lines".to_owned()).stack_size(256 * 1024);
            pass.spawn(move || pass_lines(BufReader::new(stdout), &passed))?;
            Ok((child, stdin, lines))
        });
        match started {
            Ok((child, stdin, lines)) => {
                let running = Running {
                    child,
                    stdin,
                    lines,
                    since: now,
                    heard: now,
                    asked: false,
                    on: None,
                    working: true,
                    failed: false,
                    killed: false,
                };
                self.running = Some(running);
                Ok(())
            }
            Err(error) => {
                self.not_before = later(now, self.launch.limits.longest_pause);
                Err(format!("starting the helper process for {} failed: {error}", self.launch.vendor.library))
            }
        }
    }

    /// Asks for a round, unless the one before is not complete.
    pub fn ask(&mut self, request: &Request) -> bool {
        let Some(running) = self.running.as_mut().filter(|running| !running.asked && !running.killed) else {
            return false;
        };
        let now = library::now();
        let text = serde_json::to_string(request).unwrap_or_default();
        // A helper that died shows at the next poll.
        if writeln!(running.stdin, "{text}").and_then(|()| running.stdin.flush()).is_err() {
            return false;
        }
        running.asked = true;
        if !running.working {
            running.heard = now;
        }
        running.working = true;
        true
    }

    /// Whether a round that was asked for is not complete.
    pub fn is_outstanding(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.asked)
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// What came since the last poll; waits for the first of it no longer than `wait`.
    pub fn poll(&mut self, wait: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(running) = &mut self.running else { return events };
        let mut ended = false;
        let mut wait = wait;
        loop {
            match running.lines.recv_timeout(wait) {
                Ok(line) => {
                    wait = Duration::ZERO;
                    running.hear(&line);
                    if !matches!(line, Line::Begin { .. }) {
                        events.push(Event::Line(line));
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    ended = true;
                    break;
                }
            }
        }
        let now = library::now();
        if !ended && running.working && !running.killed && now > later(running.heard, self.launch.limits.hang) {
            // Whether it dies shows when its output ends: a call stuck in the kernel outlives the signal.
            running.killed = true;
            let _ = running.child.kill();
        }
        // The output has ended, so the process is ending: this does not wait for a call of the library.
        if ended && let Some(mut running) = self.running.take() {
            let status = running.child.wait();
            events.push(self.bury(&running, status, now));
        }
        events
    }

    /// Ends the helper; it is started again after the usual pause.
    pub fn restart(&mut self) {
        if let Some(running) = &mut self.running {
            running.killed = true;
            running.on = None;
            let _ = running.child.kill();
        }
    }

    fn bury(&mut self, running: &Running, status: std::io::Result<std::process::ExitStatus>, now: u64) -> Event {
        let hung_on = running.on.clone().filter(|_| running.killed);
        let library = self.launch.vendor.library;
        let why = match (running.killed, status) {
            (true, _) => {
                let device = running.on.as_deref().unwrap_or("the library");
                let limit = humantime::format_duration(self.launch.limits.hang);
                format!("a call on {device} did not return within {limit}")
            }
            (false, Ok(status)) => format!("the helper process for {library} ended: {status}"),
            (false, Err(error)) => format!("the helper process for {library} ended: {error}"),
        };
        if now.saturating_sub(running.since) >= HEALTHY_NANOS {
            self.pause = self.launch.limits.first_pause;
        }
        let longest = self.launch.limits.longest_pause;
        self.not_before = later(now, if running.failed { longest } else { self.pause });
        self.pause = self.pause.saturating_mul(2).min(longest);
        Event::Gone { why, hung_on, failed: running.failed }
    }
}

impl Running {
    fn hear(&mut self, line: &Line) {
        self.heard = library::now();
        match line {
            Line::Begin { device } => {
                self.on = Some(device.clone());
                self.working = true;
            }
            Line::Device(_) => self.on = None,
            Line::End => {
                self.on = None;
                self.asked = false;
                self.working = false;
            }
            Line::Devices { .. } => self.on = None,
            Line::Failed { .. } => self.failed = true,
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            // Not waited for where it could hang: the kernel reaps it when the agent ends.
            let _ = running.child.try_wait();
        }
    }
}

/// The instant that lies so much later.
pub(super) fn later(now: u64, by: Duration) -> u64 {
    now.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

fn pass_lines(mut from: BufReader<std::process::ChildStdout>, to: &SyncSender<Line>) {
    let mut text = String::new();
    loop {
        text.clear();
        match from.read_line(&mut text) {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        // A line that is cut or not ours is what a dying process leaves behind.
        let Ok(line) = serde_json::from_str(&text) else { continue };
        if to.send(line).is_err() {
            return;
        }
    }
}
