//! Accepting: TCP → caps → handshake → serving.
//!
//! A peer that says nothing costs one of a bounded number of places for a bounded time, and nothing of it reaches the
//! parts that understand requests before its certificate was found good.

use super::connection::{Bytes, Connection, End, Stream};
use super::handshakes::{Handshakes, Turn};
use super::serve::{Times, serve};
use super::tls::Tls;
use crate::clock::Clock;
use crate::ingest::Counters;
use crate::peer::{Peer, Role};
use crate::poller::Pollers;
use joulebook_proto::credentials::validity;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::service::Routes;

/// Wait after the system could give no further connection (no file descriptors, say).
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// Refusals are logged at most this often; they are counted always.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Bounds of what peers may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one identity; a poller has one more for each of its nodes.
    pub per_identity: usize,
    /// The pollers and their nodes.
    pub pollers: Pollers,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Handshakes at once with one address: its oldest gives way to its newest.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long the first byte may take after it.
    pub first_byte: Duration,
    /// How long a connection may last; some end up to a sixth earlier, so that a fleet does not come back all at once.
    pub age: Duration,
    /// How long it may last without a call.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            per_identity: 4,
            pollers: Pollers::default(),
            handshakes: 256,
            handshakes_per_address: 64,
            handshake: Duration::from_secs(5),
            first_byte: Duration::from_secs(5),
            age: Duration::from_secs(3_600),
            idle: Duration::from_secs(60),
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
    #[error("{0} newer handshakes with its address are under way")]
    GaveWay(usize),
    #[error("the aggregator stops")]
    Stopping,
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
            Self::Late(_) | Self::GaveWay(_) | Self::Stopping | Self::Handshake(_) | Self::Nobody => {
                "tls_handshake_failures_total"
            }
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

    /// Accepts until `stopping` turns true, and then waits until every connection has ended. They end with the future.
    pub(super) async fn run(self, listener: TcpListener, routes: Routes, mut stopping: watch::Receiver<bool>) {
        let gate = Arc::new(self);
        let slots = Arc::new(Semaphore::new(gate.limits.handshakes));
        let handshakes = Arc::new(Handshakes::new(gate.limits.handshakes_per_address));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                // An error means that the other end is gone: time to stop, too.
                _ = stopping.wait_for(|stop| *stop) => break,
            };
            while tasks.try_join_next().is_some() {}
            match accepted {
                Ok((stream, address, slot)) => {
                    let turn = Arc::clone(&handshakes).begin(address);
                    let times = Times { age: gate.age(), idle: gate.limits.idle };
                    let (gate, routes, mut stopping) = (Arc::clone(&gate), routes.clone(), stopping.clone());
                    tasks.spawn(async move {
                        let admitted = tokio::select! {
                            admitted = gate.admit(stream) => admitted,
                            () = turn.over() => Err(Refused::GaveWay(gate.limits.handshakes_per_address)),
                            _ = stopping.wait_for(|stop| *stop) => Err(Refused::Stopping),
                        };
                        drop::<(OwnedSemaphorePermit, Turn)>((slot, turn));
                        match admitted {
                            Ok(connection) => serve(connection, routes, times, stopping).await,
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
        // The port closes at once; calls under way go on.
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    async fn admit(&self, stream: TcpStream) -> Result<Connection, Refused> {
        let full = || Refused::Full(self.limits.connections);
        let place = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| full())?;
        // Both only make a good connection better.
        let _ = stream.set_nodelay(true);
        let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
        match &self.transport {
            Transport::Plain => {
                let bytes = Bytes::new(Stream::Plain(stream), sleep(self.limits.first_byte));
                let end: End = Box::pin(std::future::pending());
                Ok(Connection { bytes, peer: None, end, places: Box::new(place) })
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
        let clock = Arc::clone(&self.clock);
        let end: End = Box::pin(async move {
            tokio::select! {
                () = sleep(left) => "its certificate has ended",
                why = distrusted(current, chain, clock) => why,
            }
        });
        let bytes = Bytes::new(Stream::Tls(Box::new(stream)), sleep(self.limits.first_byte));
        Ok(Connection { bytes, peer: Some(peer), end, places: Box::new((place, own)) })
    }

    /// A place among the peer's own connections.
    fn place(&self, peer: &Arc<Peer>) -> Result<Place, Refused> {
        let identity = peer.to_string();
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        let open = identities.entry(identity.clone()).or_default();
        let further = match peer.role() {
            Role::Poller(name) => self.limits.pollers.nodes(name),
            Role::Agent(_) | Role::Operator(_) => 0,
        };
        if *open >= self.limits.per_identity.saturating_add(further) {
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

/// The next peer. It waits in the system's queue while all places for handshakes are taken.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address.ip(), slot))
}

/// Whether the system has no room for a further connection.
fn is_exhausted(error: &io::Error) -> bool {
    use nix::errno::Errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    error.raw_os_error().is_some_and(|code| [EMFILE, ENFILE, ENOBUFS, ENOMEM].iter().any(|known| *known as i32 == code))
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
