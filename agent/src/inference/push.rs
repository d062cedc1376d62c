//! Counts that a server tells itself, over a unix stream socket: one JSON object a line, one answer a line. Meters and spans
//! are told there too.
//!
//! Who tells is what the kernel says of the other end (SO_PEERPIDFD, before Linux 6.5 SO_PEERCRED), never what it claims.
//! A report is `{"seq": 1, "cumulative": true, "model": "m", "model_version": "2", "requests": 5, …}`, see [`Report`]; the
//! answer is `{"ok": true, "seq": 1}`, or `{"ok": false, "reason": …, "why": …}` and nothing was counted. An answer says that
//! the report is taken, not that it is on disk: cumulative reports heal what a crash of the agent loses, deltas do not.

use super::CountSample;
use super::listening::{self, ListenError, SocketFile};
use super::scrape::{Outputs, Surroundings};
use super::socket::ProcessId;
use super::told::{Refusal, Way};
use joulebook_units::BootNanos;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

mod ledger;
mod meter;
pub(super) mod peer;
mod report;
mod span;

pub use meter::MeterDesk;
pub use report::{Report, version};
pub use span::SpanDesk;

use ledger::{Ledger, Outcome};
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
/// Name of this way.
pub(super) const NAME: &str = "push";
/// Key of the socket in the configuration.
pub const KEY: &str = "push.socket";

/// What is told at the socket besides counts.
#[derive(Debug, Clone, Default)]
pub struct Desks {
    /// What meters show.
    pub meters: Option<MeterDesk>,
    /// Energy between two instants.
    pub spans: Option<SpanDesk>,
}

/// Makes the socket and takes reports on the current runtime until nobody takes the samples any more.
pub(super) fn listen(path: &Path, around: Surroundings, out: Outputs, desks: Desks) -> Result<SocketFile, ListenError> {
    let (listener, file) = listening::bind(KEY, path)?;
    tokio::spawn(Task { ledger: Ledger::default(), way: Way::new(NAME, around, out), desks }.run(listener));
    Ok(file)
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
    way: Way,
    desks: Desks,
}

impl Task {
    async fn run(mut self, listener: UnixListener) {
        let (events, mut told) = mpsc::channel(MOST_CONNECTIONS);
        let samples = self.way.out.samples.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = samples.closed() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let connection = Connection {
                            around: self.way.around.clone(),
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
                    Event::Refused(refusal) => self.way.refused(&refusal, 1),
                    Event::Report(delivery) => {
                        let Delivery { process, connected, report, answer } = *delivery;
                        let (taken, told) = self.take(process, connected, &report);
                        if !self.way.pass(told).await {
                            return;
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
        let (at, zero) = (self.way.around.clock.boot(), self.way.zero(process));
        let names = self.way.out.names.borrow().clone();
        let alive = |process| self.way.alive(process);
        match self.ledger.take(process, report, ledger::Times { at, connected, zero }, names.as_ref(), alive) {
            Ok((outcome, samples)) => {
                self.way.publish(self.ledger.processes());
                if outcome == Outcome::Reset {
                    let why = "a cumulative count fell".to_owned();
                    self.way.refused(&Refusal { reason: "counter_reset", why }, 1);
                }
                (Ok(outcome), samples)
            }
            Err(refusal) => {
                self.way.refused(&refusal, 1);
                (Err(refusal), Vec::new())
            }
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
                    let text = report::refused(&refusal);
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
            Ok(Err(refusal)) => Some(report::refused(&refusal)),
            Err(_) => None,
        })
    }
}
