//! Counts that a server tells itself, over a unix stream socket: one JSON object a line, one answer a line. Meters and spans
//! are told there too.
//!
//! Who tells is what the kernel says of the other end (SO_PEERPIDFD, before Linux 6.5 SO_PEERCRED), never what it claims.
//! A report is `{"seq": 1, "cumulative": true, "model": "m", "model_version": "2", "requests": 5, …}`, see [`Report`]; the
//! answer is `{"ok": true, "seq": 1}`, or `{"ok": false, "reason": …, "why": …}` and nothing was counted. An answer says that
//! the report is taken, not that it is on disk: cumulative reports heal what a crash of the agent loses, deltas do not.

use super::scrape::{Outputs, Surroundings};
use super::socket::ProcessId;
use super::{CountSample, Failure};
use crate::process::InferenceGroup;
use joulebook_units::BootNanos;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

mod ledger;
mod meter;
mod peer;
mod report;
mod span;

pub use meter::MeterDesk;
pub use report::Report;
pub use span::SpanDesk;

use ledger::{Ledger, Outcome};
use report::Refusal;
use span::Spans;

/// Connections at a time.
const MOST_CONNECTIONS: usize = 64;
/// Bytes of a line.
const MOST_LINE_BYTES: u64 = 4096;
/// Lines of a connection in a second.
const MOST_LINES_A_SECOND: u32 = 20;
/// A connection that says nothing for so long is closed.
const SILENCE: Duration = Duration::from_secs(600);
/// A span is measured for so long at most.
const LONGEST_SPAN: Duration = Duration::from_secs(7 * 86_400);
/// From its first byte on, a line takes no longer: who sends byte by byte would hold one of the connections.
const SLOWEST_LINE: Duration = Duration::from_secs(5);
/// Name of this way in failures.
const TARGET: &str = "push";

/// What is told at the socket besides counts.
#[derive(Debug, Clone, Default)]
pub struct Desks {
    /// What meters show.
    pub meters: Option<MeterDesk>,
    /// Energy between two instants.
    pub spans: Option<SpanDesk>,
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Another agent listens there.
    #[error("push.socket {0} is taken: another process answers there; stop it or choose another path")]
    Taken(PathBuf),
    /// Something else is at the path.
    #[error("push.socket {0} exists and is no socket; choose another path")]
    NoSocket(PathBuf),
    /// The folder does not exist.
    #[error("push.socket {0} cannot be made: its folder does not exist; make it or choose another path")]
    Folder(PathBuf),
    /// Not allowed.
    #[error("making push.socket {path} failed: {source}; the agent needs to write into its folder")]
    Permission {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("making push.socket {path} failed: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PushError {
    /// The agent's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Taken(_) => 69,
            Self::Io { .. } => 74,
            Self::Permission { .. } => 77,
            Self::NoSocket(_) | Self::Folder(_) => 78,
        }
    }

    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Folder(path),
            io::ErrorKind::PermissionDenied => Self::Permission { path, source },
            io::ErrorKind::AddrInUse => Self::Taken(path),
            _ => Self::Io { path, source },
        }
    }
}

/// The socket's file; it goes with this value.
#[derive(Debug)]
pub struct PushSocket {
    path: PathBuf,
}

impl Drop for PushSocket {
    fn drop(&mut self) {
        // A file that is gone already needs no removal.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Refuses a path that can never be the socket, and changes nothing.
///
/// # Errors
/// Its folder does not exist, or it is something else.
pub fn check(path: &Path) -> Result<(), PushError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(PushError::Folder(path.to_owned()));
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(PushError::NoSocket(path.to_owned())),
        _ => Ok(()),
    }
}

/// Makes the socket and takes reports on the current runtime until nobody takes the samples any more.
pub(super) fn listen(path: &Path, around: Surroundings, out: Outputs, desks: Desks) -> Result<PushSocket, PushError> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|source| PushError::of(path, source))?;
    let socket = PushSocket { path: path.to_owned() };
    // Whoever reaches the folder may tell: who it is says the kernel.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).map_err(|source| PushError::of(path, source))?;
    tokio::spawn(Task { ledger: Ledger::default(), around, out, desks, logged: BTreeMap::new() }.run(listener));
    Ok(socket)
}

/// Removes the socket of an agent that was killed.
fn remove_stale(path: &Path) -> Result<(), PushError> {
    check(path)?;
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(PushError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| PushError::of(path, source))
        }
        Err(source) => Err(PushError::of(path, source)),
    }
}

/// A report on its way from a connection to the owner of the counts.
struct Delivery {
    process: ProcessId,
    connected: BootNanos,
    report: Report,
    answer: oneshot::Sender<Result<Outcome, Refusal>>,
}

/// What connections send to the owner.
enum Event {
    Report(Box<Delivery>),
    /// A line that was no report.
    Refused(Refusal),
}

/// The owner of what was told.
struct Task {
    ledger: Ledger,
    around: Surroundings,
    out: Outputs,
    desks: Desks,
    logged: BTreeMap<&'static str, BootNanos>,
}

impl Task {
    async fn run(mut self, listener: UnixListener) {
        let (events, mut told) = mpsc::channel(MOST_CONNECTIONS);
        let samples = self.out.samples.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = samples.closed() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let connection = Connection {
                            around: self.around.clone(),
                            events: events.clone(),
                            desks: self.desks.clone(),
                        };
                        connections.spawn(connection.serve(stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection at push.socket failed");
                        // Out of descriptors, most likely: others must be closed first.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(event) = told.recv() => match event {
                    Event::Refused(refusal) => self.refused(&refusal),
                    Event::Report(delivery) => {
                        let Delivery { process, connected, report, answer } = *delivery;
                        let (taken, told) = self.take(process, connected, &report);
                        for sample in told {
                            if samples.send(sample).await.is_err() {
                                return;
                            }
                        }
                        // Whoever asked may have gone.
                        let _ = answer.send(taken);
                    }
                },
            }
        }
    }

    fn take(
        &mut self,
        process: ProcessId,
        connected: BootNanos,
        report: &Report,
    ) -> (Result<Outcome, Refusal>, Vec<CountSample>) {
        let at = self.around.clock.boot();
        let started = process.started(self.around.ticks_per_second);
        let is_new = process.started_after(self.around.started, self.around.ticks_per_second);
        let zero = is_new.then_some(started);
        let alive = |process: ProcessId| ProcessId::read(&self.around.procfs, process.pid) == Some(process);
        let names = self.out.names.borrow().clone();
        match self.ledger.take(process, report, ledger::Times { at, connected, zero }, names.as_ref(), alive) {
            Ok((outcome, samples)) => {
                // Published before its samples, so that the counts find their workload.
                self.publish();
                if outcome == Outcome::Reset {
                    self.refused(&Refusal { reason: "counter_reset", why: "a cumulative count fell".to_owned() });
                }
                (Ok(outcome), samples)
            }
            Err(refusal) => {
                self.refused(&refusal);
                (Err(refusal), Vec::new())
            }
        }
    }

    fn publish(&self) {
        let own: Vec<InferenceGroup> = self
            .ledger
            .processes()
            .map(|process| InferenceGroup {
                target: ledger::target(process),
                pid: process.pid,
                start_ticks: process.start_ticks,
                reserved_millicores: None,
                parts: None,
            })
            .collect();
        self.out.groups.send_if_modified(|groups| {
            let before: Vec<_> = groups.iter().filter(|group| group.target.starts_with("push/")).cloned().collect();
            if before == own {
                return false;
            }
            groups.retain(|group| !group.target.starts_with("push/"));
            groups.extend(own);
            true
        });
    }

    fn refused(&mut self, refusal: &Refusal) {
        let failure = Failure { target: TARGET.to_owned(), reason: refusal.reason };
        self.out.failures.send_modify(|failures| *failures.entry(failure).or_insert(0) += 1);
        let now = self.around.clock.boot();
        if self.logged.get(refusal.reason).is_none_or(|last| now.since(*last) >= Duration::from_secs(10)) {
            self.logged.insert(refusal.reason, now);
            // The words may quote the line.
            let why: String = refusal.why.chars().take(200).collect();
            tracing::warn!(reason = refusal.reason, ?why, "a pushed report was refused or corrected");
        }
    }
}

/// One client.
struct Connection {
    around: Surroundings,
    events: mpsc::Sender<Event>,
    desks: Desks,
}

impl Connection {
    async fn serve(self, stream: UnixStream) {
        let connected = self.around.clock.boot();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read);
        let (mut second, mut of_second) = (connected, 0);
        let mut spans = Spans::default();
        loop {
            let patience = if spans.are_open() { LONGEST_SPAN } else { SILENCE };
            if !matches!(timeout(patience, lines.fill_buf()).await, Ok(Ok(begun)) if !begun.is_empty()) {
                return;
            }
            let mut line = Vec::new();
            let mut limited = (&mut lines).take(MOST_LINE_BYTES + 1);
            // What has come when the time is over is no whole line.
            let read = timeout(SLOWEST_LINE, limited.read_until(b'\n', &mut line)).await;
            if matches!(read, Ok(Err(_))) {
                return;
            }
            let whole = line.ends_with(b"\n") && line.len() as u64 <= MOST_LINE_BYTES;
            let now = self.around.clock.boot();
            if now.since(second) >= Duration::from_secs(1) {
                (second, of_second) = (now, 0);
            }
            of_second += 1;
            let answered = if !whole {
                Err(Refusal::form("a line must end within 5 s and hold at most 4096 bytes"))
            } else if of_second > MOST_LINES_A_SECOND {
                Err(Refusal { reason: "rate", why: "more than 20 reports in a second; add them up".to_owned() })
            } else if let Some(desk) = self.desks.spans.as_ref().filter(|_| span::is_span(&line)) {
                let user = write.as_ref().peer_cred().ok().map(|credentials| credentials.uid());
                spans.take(&line, user, desk).await.map(Some)
            } else if let Some(meters) = self.desks.meters.as_ref().filter(|_| meter::is_meter(&line)) {
                let user = write.as_ref().peer_cred().ok().map(|credentials| credentials.uid());
                meters.take(&line, user, now).map(Some)
            } else {
                match Report::parse(&line) {
                    Ok(report) => self.deliver(&write, report, connected).await,
                    Err(refusal) => Err(refusal),
                }
            };
            let text = match answered {
                Ok(Some(text)) => text,
                Ok(None) => return,
                Err(refusal) => {
                    let text = refusal.answer();
                    if self.events.send(Event::Refused(refusal)).await.is_err() {
                        return;
                    }
                    text
                }
            };
            // Who does not read its answers, or sent what is no line, is let go.
            let sent = timeout(Duration::from_secs(5), write.write_all(text.as_bytes())).await;
            if !matches!(sent, Ok(Ok(()))) || !whole {
                return;
            }
        }
    }

    /// The owner's answer as text; `None` if the agent stops.
    async fn deliver(
        &self,
        write: &tokio::net::unix::OwnedWriteHalf,
        report: Report,
        connected: BootNanos,
    ) -> Result<Option<String>, Refusal> {
        let process = peer::identify(write.as_ref(), &self.around.procfs, report.parents)?;
        let (answer, answered) = oneshot::channel();
        let seq = report.seq;
        let delivery = Delivery { process, connected, report, answer };
        if self.events.send(Event::Report(Box::new(delivery))).await.is_err() {
            return Ok(None);
        }
        Ok(match answered.await {
            Ok(Ok(outcome)) => Some(outcome.answer(seq)),
            // The owner has counted the refusal.
            Ok(Err(refusal)) => Some(refusal.answer()),
            Err(_) => None,
        })
    }
}
