//! Accepting: TCP → caps → handshake → the server.
//!
//! A peer that says nothing costs one of a bounded number of places for a bounded time, and nothing of it reaches the
//! parts that understand requests before its certificate was found good.

use super::connection::{Connection, End, Stream};
use super::tls::Tls;
use crate::clock::Clock;
use crate::ingest::Counters;
use crate::peer::Peer;
use joulebook_proto::credentials::validity;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// Wait after the system could give no further connection (no file descriptors, say).
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// Refusals are logged at most this often; they are counted always.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Bounds of what peers may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one identity.
    pub per_identity: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long the first byte may take after it.
    pub first_byte: Duration,
    /// How long a connection may last; some end up to a sixth earlier, so that a fleet does not come back all at once.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            per_identity: 4,
            handshakes: 256,
            handshake: Duration::from_secs(5),
            first_byte: Duration::from_secs(5),
            age: Duration::from_secs(3_600),
        }
    }
}

/// How peers are spoken with.
#[derive(Clone)]
pub enum Transport {
    /// Plaintext, on a loopback address.
    Plain,
    /// Mutual TLS with what is current.
    Tls(watch::Receiver<Arc<Tls>>),
}

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0} connections are open already")]
    Full(usize),
    #[error("the handshake took longer than {0:?}")]
    Late(Duration),
    #[error("the handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the certificate names nobody")]
    Nobody,
    #[error("{0} has {1} connections already")]
    IdentityFull(Arc<Peer>, usize),
}

impl Refused {
    fn counter(&self) -> &'static str {
        match self {
            Self::Full(_) | Self::IdentityFull(..) => "connections_refused_total",
            Self::Late(_) | Self::Handshake(_) | Self::Nobody => "tls_handshake_failures_total",
        }
    }
}

/// The task that accepts.
pub struct Gate {
    transport: Transport,
    limits: Limits,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    connections: Arc<Semaphore>,
    identities: Arc<Mutex<BTreeMap<String, usize>>>,
    logged: Mutex<Option<Instant>>,
}

/// A place among one identity's connections.
struct Place {
    identity: String,
    identities: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = identities.get_mut(&self.identity) {
            *open -= 1;
            if *open == 0 {
                identities.remove(&self.identity);
            }
        }
    }
}

impl Gate {
    /// A gate that is closed until it is run.
    pub fn new(transport: Transport, limits: Limits, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Self {
        let connections = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        Self { transport, limits, clock, counters, connections, identities: Arc::default(), logged: Mutex::new(None) }
    }

    /// Accepts until `out` is closed or the future is dropped; handshakes under way end with it.
    pub(super) async fn run(self, listener: TcpListener, out: mpsc::Sender<io::Result<Connection>>) {
        let gate = Arc::new(self);
        let handshakes = Arc::new(Semaphore::new(gate.limits.handshakes));
        let mut tasks = JoinSet::new();
        loop {
            // The next peer waits in the system's queue while all places for handshakes are taken.
            let Ok(slot) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = out.closed() => return,
            };
            while tasks.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let (gate, out) = (Arc::clone(&gate), out.clone());
                    tasks.spawn(async move {
                        let admitted = gate.admit(stream).await;
                        drop(slot);
                        match admitted {
                            // The server is gone: so is the connection.
                            Ok(connection) => drop(out.send(Ok(connection)).await),
                            Err(refused) => gate.refuse(&refused),
                        }
                    });
                }
                Err(error) if is_exhausted(&error) => {
                    tracing::error!(%error, "no further connection can be accepted; raise the limit of open files");
                    sleep(EXHAUSTED_WAIT).await;
                }
                // The peer went away before it was accepted.
                Err(_) => {}
            }
        }
    }

    async fn admit(&self, stream: TcpStream) -> Result<Connection, Refused> {
        let full = || Refused::Full(self.limits.connections);
        let place = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| full())?;
        // Both only make a good connection better.
        let _ = stream.set_nodelay(true);
        let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
        match &self.transport {
            Transport::Plain => {
                let end: End = Box::pin(ends(Instant::now() + self.age()));
                Ok(Connection::new(Stream::Plain(stream), None, end, sleep(self.limits.first_byte), place))
            }
            Transport::Tls(current) => self.shake_hands(stream, current.clone(), place).await,
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        mut current: watch::Receiver<Arc<Tls>>,
        place: OwnedSemaphorePermit,
    ) -> Result<Connection, Refused> {
        let config = Arc::clone(&current.borrow_and_update().config);
        let handshake = timeout(self.limits.handshake, TlsAcceptor::from(config).accept(stream)).await;
        let stream = handshake.map_err(|_| Refused::Late(self.limits.handshake))?.map_err(Refused::Handshake)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let leaf = chain.first().ok_or(Refused::Nobody)?;
        let peer = Arc::new(Peer::of(leaf).map_err(|_| Refused::Nobody)?);
        let own = self.place(&peer)?;
        let (_, expires) = validity(leaf).ok_or(Refused::Nobody)?;
        let left = Duration::from_nanos(u64::try_from(expires.0 - self.clock.unix().0).unwrap_or_default());
        let (deadline, clock) = (Instant::now() + self.age().min(left), Arc::clone(&self.clock));
        let end: End = Box::pin(async move {
            tokio::select! {
                why = ends(deadline) => why,
                why = distrusted(current, chain, clock) => why,
            }
        });
        let stream = Stream::Tls(Box::new(stream));
        Ok(Connection::new(stream, Some(peer), end, sleep(self.limits.first_byte), (place, own)))
    }

    /// A place among the peer's own connections.
    fn place(&self, peer: &Arc<Peer>) -> Result<Place, Refused> {
        let identity = peer.to_string();
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        let open = identities.entry(identity.clone()).or_default();
        if *open >= self.limits.per_identity {
            return Err(Refused::IdentityFull(Arc::clone(peer), *open));
        }
        *open += 1;
        Ok(Place { identity, identities: Arc::clone(&self.identities) })
    }

    /// The age at which a connection ends: five to six sixths of the most, at random.
    fn age(&self) -> Duration {
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        self.limits.age.mul_f64(1.0 - share / 6.0)
    }

    fn refuse(&self, refused: &Refused) {
        self.counters.add(refused.counter(), 1);
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|logged| now.duration_since(logged) >= LOG_EVERY) {
            *logged = Some(now);
            tracing::warn!(target: "audit", reason = %refused, "a connection was refused");
        }
    }
}

/// Whether the system has no room for a further connection.
fn is_exhausted(error: &io::Error) -> bool {
    use nix::errno::Errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    error.raw_os_error().is_some_and(|code| [EMFILE, ENFILE, ENOBUFS, ENOMEM].iter().any(|known| *known as i32 == code))
}

async fn ends(deadline: Instant) -> &'static str {
    tokio::time::sleep_until(deadline).await;
    "its time is over"
}

/// Completes when a renewed set of files would not let the peer in again.
async fn distrusted(
    mut current: watch::Receiver<Arc<Tls>>,
    chain: Vec<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
) -> &'static str {
    while current.changed().await.is_ok() {
        if !current.borrow_and_update().admits(&chain, clock.unix()) {
            return "its certificate is no longer trusted";
        }
    }
    // The aggregator stops: what is open ends by itself.
    std::future::pending().await
}
