//! Counts that a server exports as OpenTelemetry metrics: OTLP over gRPC or plain HTTP, on one unix socket or one port of
//! loopback. What is counted says [`names`].
//!
//! Who exports is what the kernel says of the other end, as at the push socket; resource attributes that say otherwise
//! (`process.pid`, `k8s.pod.uid`, `host.name`) are nobody's proof and are not looked at. So servers export here themselves: behind a
//! collector all counts would be the collector's.
//!
//! A request is refused as a whole, or data point by data point; then the answer holds how many (`partial_success`). Data points
//! of metrics that are not counted are neither taken nor refused.

use super::CountSample;
use super::listening::{self, ListenError, SocketFile};
use super::push::peer;
use super::scrape::{Outputs, Surroundings};
use super::socket::{self, ProcessId};
use super::told::{Refusal, Way};
use book::{Book, Times};
use bytes::Bytes;
use joulebook_units::BootNanos;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use transport::{Connection, MOST_READING};

mod answer;
mod book;
mod bucket;
mod head;
pub mod names;
mod party;
pub mod request;
mod transport;
pub mod wire;

/// Connections at a time, and of one process.
const MOST_CONNECTIONS: usize = 64;
const MOST_OF_ONE: usize = 2;
/// Name of this way.
pub(super) const NAME: &str = "otlp";
/// Keys of the configuration.
pub const SOCKET: &str = "otlp.socket";
/// The same for the port.
pub const LISTEN: &str = "otlp.listen";

/// A place at which exports are taken; it goes with this value.
#[derive(Debug)]
pub struct Receiver {
    task: JoinHandle<()>,
    /// The port's address, if it is one.
    address: Option<SocketAddr>,
    _file: Option<SocketFile>,
}

impl Receiver {
    /// Its address, if it is a port.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Closes it; when this returns another may listen there.
    pub async fn close(mut self) {
        self.task.abort();
        // It ends as it was told to.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where exporters connect.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// An exporter that has connected.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
        }
    }
}

/// Takes exports at a unix socket until nobody takes the samples any more.
pub(super) fn listen_at(path: &Path, around: Surroundings, out: Outputs) -> Result<Receiver, ListenError> {
    let (listener, file) = listening::bind(SOCKET, path)?;
    let task = Task::new(around, out);
    Ok(Receiver { task: tokio::spawn(task.run(Listener::Unix(listener))), address: None, _file: Some(file) })
}

/// The same at a port.
pub(super) async fn listen_on(
    address: SocketAddr,
    around: Surroundings,
    out: Outputs,
) -> Result<Receiver, ListenError> {
    let failed = |source| ListenError::of(LISTEN, address.to_string(), source);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let task = Task::new(around, out);
    Ok(Receiver { task: tokio::spawn(task.run(Listener::Tcp(listener))), address: Some(address), _file: None })
}

/// An export on its way from a connection to the owner of the counts.
struct Delivery {
    process: ProcessId,
    connected: BootNanos,
    body: Bytes,
    answer: oneshot::Sender<Result<Vec<Refusal>, Refusal>>,
}

/// What connections send to the owner.
enum Event {
    Export(Delivery),
    /// A request that was none, or was not taken.
    Refused(Refusal),
}

/// The owner of what was exported.
struct Task {
    book: Book,
    way: Way,
    reading: Arc<Semaphore>,
    /// Connections by process.
    open: BTreeMap<(i32, u64), usize>,
}

impl Task {
    fn new(around: Surroundings, out: Outputs) -> Self {
        let reading = Arc::new(Semaphore::new(MOST_READING));
        Self { book: Book::default(), way: Way::new(NAME, around, out), reading, open: BTreeMap::new() }
    }

    async fn run(mut self, listener: Listener) {
        let (events, mut told) = mpsc::channel(MOST_READING);
        let samples = self.way.out.samples.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = samples.closed() => return,
                Some(ended) = connections.join_next() => self.closed(ended.ok().flatten()),
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok(stream) => {
                        if let Some((process, connection)) = self.connection(&stream, &events).await {
                            connections.spawn(async move {
                                match stream {
                                    Stream::Unix(stream) => connection.serve(stream).await,
                                    Stream::Tcp(stream) => connection.serve(stream).await,
                                }
                                process
                            });
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection of an exporter failed");
                        // Out of descriptors, most likely: others must be closed first.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(event) = told.recv() => match event {
                    Event::Refused(refusal) => self.way.refused(&refusal, 1),
                    Event::Export(delivery) => {
                        let Delivery { process, connected, body, answer } = delivery;
                        let taken = self.take(process, connected, &body);
                        let (told, taken) = match taken {
                            Ok((samples, refused)) => (samples, Ok(refused)),
                            Err(refusal) => (Vec::new(), Err(refusal)),
                        };
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

    /// A connection of whoever is at the other end; `None` if it has enough of them.
    async fn connection(
        &mut self,
        stream: &Stream,
        events: &mpsc::Sender<Event>,
    ) -> Option<(Option<(i32, u64)>, Connection)> {
        let process = self.identify(stream).await;
        let key = process.as_ref().ok().map(|process| (process.pid, process.start_ticks));
        if let Some(key) = key {
            let open = self.open.entry(key).or_insert(0);
            if *open >= MOST_OF_ONE {
                self.way.refused(&Refusal::limit("a process has two connections at a time"), 1);
                return None;
            }
            *open += 1;
        }
        let (clock, events) = (Arc::clone(&self.way.around.clock), events.clone());
        let (connected, reading) = (clock.boot(), Arc::clone(&self.reading));
        Some((key, Connection { process, connected, clock, events, reading }))
    }

    async fn identify(&self, stream: &Stream) -> Result<ProcessId, Refusal> {
        let procfs = self.way.around.procfs.clone();
        let unseen = |why: String| Refusal { reason: "peer", why };
        match stream {
            Stream::Unix(stream) => peer::identify(stream, &procfs, 0),
            Stream::Tcp(stream) => {
                let ends = stream.peer_addr().and_then(|peer| Ok((peer, stream.local_addr()?)));
                let (peer, own) = ends.map_err(|error| unseen(error.to_string()))?;
                let lookup = tokio::task::spawn_blocking(move || socket::connected(&procfs, peer, own));
                let found = lookup.await.map_err(|error| unseen(error.to_string()))?;
                found.map_err(|error| unseen(error.to_string()))
            }
        }
    }

    fn closed(&mut self, process: Option<(i32, u64)>) {
        let Some(key) = process else { return };
        if let Some(open) = self.open.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&key);
            }
        }
    }

    fn take(
        &mut self,
        process: ProcessId,
        connected: BootNanos,
        body: &[u8],
    ) -> Result<(Vec<CountSample>, Vec<Refusal>), Refusal> {
        let export = request::read(body)?;
        let around = &self.way.around;
        let (at, wall) = (around.clock.boot(), u64::try_from(around.clock.wall().0).unwrap_or_default());
        let times = Times { at, wall, connected, watching: around.started, zero: self.way.zero(process) };
        let names = self.way.out.names.borrow().clone();
        let taken = self.book.take(process, export, times, names.as_ref(), |process| self.way.alive(process))?;
        self.way.publish(self.book.processes());
        let mut by_reason: BTreeMap<&'static str, (&Refusal, u64)> = BTreeMap::new();
        for refusal in &taken.refused {
            by_reason.entry(refusal.reason).or_insert((refusal, 0)).1 += 1;
        }
        for (refusal, times) in by_reason.into_values() {
            self.way.refused(refusal, times);
        }
        if taken.resets > 0 {
            let why = "a cumulative series began again".to_owned();
            self.way.refused(&Refusal { reason: "counter_reset", why }, taken.resets);
        }
        Ok((taken.samples, taken.refused))
    }
}
