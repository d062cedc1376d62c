//! Spool → aggregator: one session after another, for ever. Acknowledgements move the spool's cursor.
//!
//! The aggregator's marks decide where a session begins. Records go in order, at most 64 unacknowledged and only while
//! credits last; a number that the spool does not have goes as a declared gap. After an outage the uplink asks for a new
//! stream, so that live data need not wait for what is old.

mod lane;
mod network;
mod session;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::spool::{MAX_LANES, SpoolError, SpoolHandle, StreamState};
use joulebook_proto::credentials::CredentialFiles;
use joulebook_proto::telemetry::NodeDirectory;
use joulebook_units::{BootId, BootNanos, Inventory, PollerName, RejectReason, UnixNanos};
pub use network::{Connecting, Network, SystemNetwork};
pub use session::dictionaries;
use session::{End, Session, WINDOW};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Uri};

/// The end of a session is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Longest first wait before connecting again.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait before connecting again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// After a longer time without a session live data gets a stream of its own, if more waits than one window.
const OUTAGE: Duration = Duration::from_secs(60);
/// How long the uplink goes on sending after it was told to stop.
const DRAIN: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after both of these.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkConfig {
    /// URL of the aggregator, for example `https://127.0.0.1:7443`.
    pub endpoint: String,
    /// How it is spoken with.
    pub security: Security,
    /// The boot the agent runs in.
    pub boot: BootId,
}

/// How the aggregator is spoken with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Plaintext, which is allowed to a loopback address only.
    PlaintextOnLoopback,
    /// Mutual TLS with files that are read anew at each connection.
    Tls(CredentialFiles),
}

/// Why the uplink cannot go on. A peer that is not there is no reason.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The configured address cannot be used.
    #[error("aggregator `{endpoint}` cannot be used: {why}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What to change.
        why: &'static str,
    },
    /// The spool stopped.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl UplinkError {
    /// The exit code of an agent that cannot go on because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Endpoint { .. } => 78,
            Self::Spool(error) => error.exit_code(),
        }
    }
}

/// What the uplink met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkCounters {
    /// Sessions that the aggregator answered.
    pub sessions: u64,
    /// Sessions that began below what was acknowledged: the aggregator lost data.
    pub ack_regressions: u64,
    /// Values refused by the aggregator, by reason; `None` is a reason this build does not know.
    pub rejected: BTreeMap<Option<RejectReason>, u64>,
    /// Whether a session is open.
    pub connected: bool,
    /// When the agent's own certificate ends, as last read; `None` on plaintext or while it cannot be read.
    pub certificate_ends: Option<UnixNanos>,
}

/// The task that sends.
pub struct Uplink {
    config: UplinkConfig,
    /// The poller that speaks; none where it is the node's own agent.
    poller: Option<PollerName>,
    spool: SpoolHandle,
    inventory: watch::Receiver<Inventory>,
    clock: Arc<dyn Clock>,
    network: Arc<dyn Network>,
    counters: watch::Sender<UplinkCounters>,
    directory: watch::Sender<Option<NodeDirectory>>,
    /// Counts the wishes for a new stream.
    wishes: watch::Sender<u64>,
}

impl Uplink {
    /// An uplink that does nothing until it is run.
    pub fn new(
        config: UplinkConfig,
        spool: SpoolHandle,
        inventory: watch::Receiver<Inventory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (counters, directory, wishes) =
            (watch::Sender::default(), watch::Sender::default(), watch::Sender::default());
        let network = Arc::new(SystemNetwork);
        Self { config, poller: None, spool, inventory, clock, network, counters, directory, wishes }
    }

    /// The same for a poller, which speaks for the node from outside.
    #[must_use]
    pub fn of_poller(self, poller: PollerName) -> Self {
        Self { poller: Some(poller), ..self }
    }

    /// The same over another network than the machine's.
    #[must_use]
    pub fn over(self, network: Arc<dyn Network>) -> Self {
        Self { network, ..self }
    }

    /// Changes whenever live data should go to a new stream from now on. Who makes the batches may heed it.
    pub fn wishes_for_a_stream(&self) -> watch::Receiver<u64> {
        self.wishes.subscribe()
    }

    /// Asks for a new stream if the live one is far `behind` because there was no session for long.
    fn ask_for_a_stream(&self, behind: u64, streams: &[StreamState], away: Option<Duration>) {
        let long = away.is_none_or(|away| away > OUTAGE);
        let waiting = streams.iter().filter(|state| state.acked < state.highest).count();
        if long && behind > WINDOW as u64 && waiting < MAX_LANES {
            self.wishes.send_modify(|wishes| *wishes += 1);
        }
    }

    /// The uplink's counters, whenever they change.
    pub fn counters(&self) -> watch::Receiver<UplinkCounters> {
        self.counters.subscribe()
    }

    /// The pods of the node as the aggregator last told them; none before it did.
    pub fn node_directory(&self) -> watch::Receiver<Option<NodeDirectory>> {
        self.directory.subscribe()
    }

    /// Sends until `shutdown` turns true (or its sender is gone), then until everything is acknowledged, at most 10 s.
    ///
    /// # Errors
    /// An address that cannot be used (at once, nothing is sent), or the spool's end.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), UplinkError> {
        let endpoint = endpoint(&self.config)?;
        let mut stop = shutdown.clone();
        let stopped = async {
            let _ = stop.wait_for(|stop| *stop).await;
            self.spool.drained(DRAIN).await
        };
        tokio::select! {
            biased;
            result = self.sessions(&endpoint, shutdown) => result,
            drained = stopped => {
                if !drained {
                    tracing::warn!("stopping with records unacknowledged: they stay in the spool and are sent later");
                }
                Ok(())
            }
        }
    }

    /// One session after another. Returns only when the spool has ended.
    async fn sessions(&self, endpoint: &Endpoint, mut shutdown: watch::Receiver<bool>) -> Result<(), UplinkError> {
        let mut longest = FIRST_WAIT;
        let mut logged: Option<BootNanos> = None;
        let mut ended: Option<BootNanos> = None;
        loop {
            let answered = self.counters.borrow().sessions;
            let end = match self.connect(endpoint).await {
                Ok(channel) => self.session(channel, ended).await,
                Err(end) => end,
            };
            self.counters.send_if_modified(|counters| std::mem::take(&mut counters.connected));
            if self.counters.borrow().sessions > answered {
                longest = FIRST_WAIT;
                ended = Some(self.clock.boot());
            }
            let wait = match end {
                End::Spool(error) => return Err(error.into()),
                End::HelloChanged => continue,
                // Jittered as well: all that are told so at once must not come back at once, and never at once again.
                End::RetryAfter(wait) => {
                    wait.clamp(FIRST_WAIT, LONGEST_WAIT) + jittered(self.network.as_ref(), FIRST_WAIT)
                }
                end => {
                    let wait = jittered(self.network.as_ref(), longest);
                    let now = self.clock.boot();
                    if logged.is_none_or(|logged| now.since(logged) >= LOG_EVERY) {
                        logged = Some(now);
                        let endpoint = self.config.endpoint.as_str();
                        tracing::warn!(endpoint, reason = %end, retry_in = ?wait, "the session ended; records stay in the spool");
                        self.tell_of_an_ended_certificate();
                    }
                    longest = (longest * 2).min(LONGEST_WAIT);
                    wait
                }
            };
            let stopping = *shutdown.borrow();
            tokio::select! {
                biased;
                () = tokio::time::sleep(if stopping { wait.min(FIRST_WAIT) } else { wait }) => {}
                // Ten seconds are left then: too short for a long wait.
                _ = shutdown.wait_for(|stop| *stop), if !stopping => {}
            }
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, End> {
        let endpoint = match &self.config.security {
            Security::PlaintextOnLoopback => endpoint.clone(),
            Security::Tls(files) => {
                let credentials = files.read().and_then(|credentials| Ok((credentials.validity()?.1, credentials)));
                let ends = credentials.as_ref().ok().map(|(ends, _)| *ends);
                self.counters
                    .send_if_modified(|counters| std::mem::replace(&mut counters.certificate_ends, ends) != ends);
                let host = endpoint.uri().host().unwrap_or_default();
                let tls = credentials?.1.client(host, HANDSHAKE_TIMEOUT)?;
                endpoint.clone().tls_config(tls).map_err(End::Unreachable)?
            }
        };
        self.network.connect(endpoint).await.map_err(End::Unreachable)
    }

    /// A server says little to a client whose certificate has ended: the agent says it itself.
    fn tell_of_an_ended_certificate(&self) {
        let ends = self.counters.borrow().certificate_ends;
        if let (Some(ends), Security::Tls(files)) = (ends, &self.config.security)
            && ends <= self.clock.wall()
        {
            let (certificate, ended) = (files.certificate.display(), rfc3339(ends));
            tracing::error!(%certificate, %ended, "the agent's own certificate has ended: renew it, it is read at each attempt");
        }
    }

    #[tracing::instrument(name = "uplink.session", skip_all)]
    async fn session(&self, channel: Channel, ended: Option<BootNanos>) -> End {
        let mut inventory = self.inventory.clone();
        let streams = match self.spool.streams().await {
            Ok(streams) => streams,
            Err(error) => return error.into(),
        };
        let epoch = self.spool.session_epoch();
        let mut hello =
            session::hello(&inventory.borrow_and_update(), &streams, epoch, &self.config, self.clock.as_ref());
        hello.poller = self.poller.as_ref().map(ToString::to_string);
        let away = ended.map(|ended| self.clock.boot().since(ended));
        match Session::open(channel, hello, &streams, away, self).await {
            Ok(session) => session.run(inventory).await,
            Err(end) => end,
        }
    }
}

/// A random wait up to `longest`: full jitter, so that a fleet does not come back all at once.
fn jittered(network: &dyn Network, longest: Duration) -> Duration {
    // Without randomness the longest wait is the safe one.
    network.random().map_or(longest, |random| longest.mul_f64(f64::from(random) / f64::from(u32::MAX)))
}

/// A time for people.
fn rfc3339(at: UnixNanos) -> impl std::fmt::Display {
    let since_epoch = Duration::from_nanos(u64::try_from(at.0).unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since_epoch)
}

/// The address, if it may be spoken with in the configured way.
fn endpoint(config: &UplinkConfig) -> Result<Endpoint, UplinkError> {
    let refuse = |why| UplinkError::Endpoint { endpoint: config.endpoint.clone(), why };
    let uri: Uri = config.endpoint.parse().map_err(|_| refuse("it is not a URL: use https://host:port"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match (uri.scheme_str(), &config.security) {
        (Some("https"), Security::Tls(_)) => {}
        (Some("http"), Security::PlaintextOnLoopback) if is_loopback => {}
        (_, Security::Tls(_)) => return Err(refuse("with TLS it must be https://host:port")),
        (_, Security::PlaintextOnLoopback) => {
            return Err(refuse("plaintext goes to http:// addresses of 127.0.0.1 or [::1] only"));
        }
    }
    let endpoint = Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE_ANSWER).keep_alive_while_idle(true))
}
