//! One session: Hello, the aggregator's mark, then records up and acknowledgements down until either side ends it.

use super::lane::{Lane, LaneSet};
use super::{Uplink, UplinkConfig};
use crate::clock::Clock;
use crate::spool::{Item, MAX_LANES, SpoolError, StreamState};
use joulebook_proto::convert;
use joulebook_proto::credentials::CredentialError;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{
    Ack, Credit, Dictionary, Hello, HelloReply, NodeDirectory, OpenStream, Record, StreamRequest, StreamResponse,
    stream_request, stream_response,
};
use joulebook_units::{BootNanos, Inventory, StreamId, Subject};
use prost::Message;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Most records sent and not acknowledged.
pub const WINDOW: usize = 64;
/// Messages that wait between this task and the connection.
const WAITING_MESSAGES: usize = 4;
/// Most bytes of definitions in one message, unless one alone is larger: what the other side once took in, its buffer
/// keeps room for as long as the call lasts, and records are no larger.
const DEFINITION_BYTES_A_MESSAGE: usize = 2 << 10;
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// Rejections are logged at most this often; they are counted always.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// No connection.
    #[error("no connection ({}): is the aggregator running there?", causes(.0))]
    Unreachable(tonic::transport::Error),
    /// The files of TLS cannot be used just now; they are read again at the next attempt.
    #[error("{0}")]
    Credential(#[from] CredentialError),
    /// The aggregator ended it.
    #[error("the aggregator answered {:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// The aggregator hung up.
    #[error("the aggregator closed the session")]
    Closed,
    /// The aggregator broke the contract.
    #[error("the aggregator broke the contract: {0}")]
    Contract(&'static str),
    /// It did not answer Hello.
    #[error("the aggregator did not answer within 30 s")]
    NoAnswer,
    /// The aggregator asks to come again later.
    #[error("the aggregator asks to come again in {0:?}")]
    RetryAfter(Duration),
    /// What the agent says of itself changed, or it has more streams than one session may: it says so in a new one.
    #[error("what the agent says of itself changed")]
    HelloChanged,
    /// The spool ended.
    #[error("the spool ended: {0}")]
    Spool(#[from] SpoolError),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// An error with what caused it, which tonic's own message leaves out.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The first message, with the streams of the session, oldest first.
pub fn hello(
    inventory: &Inventory,
    streams: &[StreamState],
    epoch: u64,
    config: &UplinkConfig,
    clock: &dyn Clock,
) -> Hello {
    Hello {
        streams: streams.iter().map(open_stream).collect(),
        session_epoch: epoch,
        boot_id: config.boot.0.to_vec(),
        boot_time_nanos: clock.boot().0,
        wall_time_unix_nanos: clock.wall().0,
        ..convert::inventory_to_hello(inventory)
    }
}

fn open_stream(state: &StreamState) -> OpenStream {
    OpenStream { stream_id: state.stream.0.to_vec(), highest_sequence: state.highest, acked_sequence: state.acked }
}

/// An open session.
pub struct Session<'a> {
    uplink: &'a Uplink,
    outbound: mpsc::Sender<StreamRequest>,
    inbound: Streaming<StreamResponse>,
    /// Messages to be sent next.
    pending: VecDeque<StreamRequest>,
    lanes: LaneSet,
    /// Records that may be sent.
    credits: u64,
    logged: Option<BootNanos>,
}

impl<'a> Session<'a> {
    /// Says Hello and takes the marks. `away` is how long there was no session before; none if there never was one.
    pub async fn open(
        channel: Channel,
        hello: Hello,
        streams: &[StreamState],
        away: Option<Duration>,
        uplink: &'a Uplink,
    ) -> Result<Self, End> {
        let (outbound, requests) = mpsc::channel(WAITING_MESSAGES);
        let hello = StreamRequest { message: Some(stream_request::Message::Hello(hello)) };
        outbound.try_send(hello).map_err(|_| End::Closed)?;
        let mut client = TelemetryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answer = async {
            let mut inbound = client.stream(ReceiverStream::new(requests)).await?.into_inner();
            Ok::<_, End>((inbound.message().await?.ok_or(End::Closed)?, inbound))
        };
        let (first, inbound) = tokio::time::timeout(HELLO_TIMEOUT, answer).await.map_err(|_| End::NoAnswer)??;
        let Some(stream_response::Message::HelloReply(reply)) = first.message else {
            return Err(End::Contract("its first message is not HelloReply"));
        };
        let lanes = LaneSet::new(streams).ok_or(SpoolError::Closed)?;
        let (pending, credits) = (VecDeque::new(), 0);
        let mut session = Self { uplink, outbound, inbound, pending, lanes, credits, logged: None };
        session.begin(&reply, streams, away).await?;
        Ok(session)
    }

    async fn begin(&mut self, reply: &HelloReply, streams: &[StreamState], away: Option<Duration>) -> Result<(), End> {
        let mut regressions = 0;
        for (lane, state) in self.lanes.iter_mut().zip(streams) {
            let mark = reply.marks.iter().find(|mark| mark.stream_id == lane.stream.0);
            let mark = mark.ok_or(End::Contract("HelloReply has no mark for a stream"))?.acked_sequence;
            if mark >= 1 << 63 {
                return Err(End::Contract("a mark is 2^63 or above"));
            }
            if mark < state.acked {
                regressions += 1;
                let (stream, acked) = (lane.stream, state.acked);
                tracing::error!(%stream, mark, acked, "the aggregator lost acknowledged records: what is still held is sent again");
            }
            lane.position = mark;
            self.uplink.spool.acked(lane.stream, mark).await?;
        }
        self.uplink.counters.send_modify(|counters| {
            counters.sessions += 1;
            counters.connected = true;
            counters.ack_regressions += regressions;
        });
        if let Some(credit) = &reply.credit {
            self.grant(credit)?;
        }
        let live = self.lanes.live_mut();
        let behind = live.highest.saturating_sub(live.position);
        self.uplink.ask_for_a_stream(behind, streams, away);
        let waiting = self.uplink.spool.counters().waiting;
        tracing::info!(aggregator = %self.uplink.config.endpoint, waiting, credits = self.credits, "session open");
        Ok(())
    }

    /// Runs until the session ends.
    pub async fn run(mut self, mut inventory: watch::Receiver<Inventory>) -> End {
        let mut appended = self.uplink.spool.watch();
        let mut inventory_lives = true;
        loop {
            appended.mark_unchanged();
            if let Err(end) = self.fill().await {
                return end;
            }
            let received = tokio::select! {
                // In this order, so that a simulation repeats; credits end what goes out before it keeps the rest waiting.
                biased;
                permit = self.outbound.reserve(), if !self.pending.is_empty() => {
                    match (permit, self.pending.pop_front()) {
                        (Ok(permit), Some(message)) => permit.send(message),
                        // The connection is gone; the other direction tells why.
                        _ => return self.inbound.message().await.map_or_else(End::from, |_| End::Closed),
                    }
                    None
                }
                received = self.inbound.message() => Some(received),
                changed = appended.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return SpoolError::Closed.into(),
                },
                changed = inventory.changed(), if inventory_lives => match changed {
                    Ok(()) => return End::HelloChanged,
                    Err(_) => {
                        inventory_lives = false;
                        None
                    }
                },
            };
            let handled = match received {
                None => continue,
                Some(Ok(Some(message))) => self.receive(message).await,
                Some(Ok(None)) => Err(End::Closed),
                Some(Err(status)) => Err(status.into()),
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    /// Makes the next message, if one may be sent and none waits.
    async fn fill(&mut self) -> Result<(), End> {
        if !self.pending.is_empty() {
            return Ok(());
        }
        self.follow_the_live_stream().await?;
        // Known without asking the spool's thread: nothing has a number above the highest.
        let credits = usize::try_from(self.credits).unwrap_or(WINDOW);
        let allowed = if credits == 0 { 0 } else { WINDOW.min(credits + self.lanes.under_way()) };
        while let Some(lane) = self.lanes.turn(allowed) {
            let stream = lane.stream;
            match self.uplink.spool.next_after(stream, lane.position).await? {
                // It was given up since: another one's turn.
                Item::None => {
                    lane.position = lane.highest;
                    continue;
                }
                Item::Gap(gap) => {
                    tracing::warn!(%stream, from = gap.from, to = gap.to, reason = ?gap.reason, "declaring lost records");
                    lane.position = gap.to;
                    self.push(stream_request::Message::Gap(convert::stream_gap_to_wire(stream, &gap)));
                }
                Item::Record { sequence, payload, hash, dictionary_upto, .. } => {
                    let unsent = lane.defined;
                    lane.defined = lane.defined.max(dictionary_upto);
                    lane.position = sequence;
                    lane.unacknowledged.push_back(sequence);
                    if unsent < dictionary_upto {
                        self.define(stream, unsent).await?;
                    }
                    self.credits -= 1;
                    let (stream_id, payload_hash) = (stream.0.to_vec(), hash.to_vec());
                    self.push(stream_request::Message::Record(Record { stream_id, sequence, payload_hash, payload }));
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// Takes over how far the live stream is, and announces it if it is a new one.
    async fn follow_the_live_stream(&mut self) -> Result<(), End> {
        let now = self.uplink.spool.counters();
        let live = self.lanes.live_mut();
        if live.stream == now.stream {
            live.highest = now.highest;
            return Ok(());
        }
        let streams = self.uplink.spool.streams().await?;
        // Those behind the one that was live: one, unless the agent began several between two looks.
        let known = streams.iter().position(|state| state.stream == live.stream);
        let new = streams.get(known.map_or(0, |index| index + 1)..).unwrap_or_default();
        if let Some(state) = known.and_then(|index| streams.get(index)) {
            live.highest = state.highest;
        }
        if known.is_none() || self.lanes.len() + new.len() > MAX_LANES {
            return Err(End::HelloChanged);
        }
        for state in new {
            self.push(stream_request::Message::OpenStream(open_stream(state)));
            self.lanes.push(Lane::new(state));
        }
        Ok(())
    }

    fn push(&mut self, message: stream_request::Message) {
        self.pending.push_back(StreamRequest { message: Some(message) });
    }

    /// Queues the definitions of a stream that were not sent yet.
    async fn define(&mut self, stream: StreamId, unsent: u64) -> Result<(), End> {
        let new = self.uplink.spool.definitions_from(stream, unsent).await?;
        for message in dictionaries(stream, &new) {
            self.push(stream_request::Message::Dictionary(message));
        }
        Ok(())
    }

    async fn receive(&mut self, response: StreamResponse) -> Result<(), End> {
        match response.message {
            Some(stream_response::Message::Ack(ack)) => self.acknowledge(&ack).await,
            Some(stream_response::Message::Credit(credit)) => self.grant(&credit),
            Some(stream_response::Message::NodeDirectory(directory)) => {
                self.uplink.directory.send_if_modified(|known| replace_directory(known, directory));
                Ok(())
            }
            Some(stream_response::Message::HelloReply(_)) => Err(End::Contract("a second HelloReply")),
            // Later versions may say more.
            None => Ok(()),
        }
    }

    async fn acknowledge(&mut self, ack: &Ack) -> Result<(), End> {
        let Some(lane) = self.lanes.get_mut(&ack.stream_id) else {
            return Err(End::Contract("an acknowledgement of a stream that was not opened"));
        };
        if ack.acked_sequence > lane.position {
            return Err(End::Contract("an acknowledgement of records that were not sent"));
        }
        while lane.unacknowledged.front().is_some_and(|sequence| *sequence <= ack.acked_sequence) {
            lane.unacknowledged.pop_front();
        }
        self.uplink.spool.acked(lane.stream, ack.acked_sequence).await?;
        if !ack.rejections.is_empty() {
            self.count_rejections(ack);
        }
        Ok(())
    }

    fn count_rejections(&mut self, ack: &Ack) {
        self.uplink.counters.send_modify(|counters| {
            for rejection in &ack.rejections {
                let reason = convert::reject_reason_from_wire(rejection.reason).ok();
                let count = counters.rejected.entry(reason).or_default();
                *count = count.saturating_add(rejection.count);
            }
        });
        let now = self.uplink.clock.boot();
        if self.logged.is_none_or(|logged| now.since(logged) >= LOG_EVERY) {
            self.logged = Some(now);
            let rejected = &self.uplink.counters.borrow().rejected;
            tracing::error!(?rejected, "the aggregator refused values (counted since start, by reason)");
        }
    }

    fn grant(&mut self, credit: &Credit) -> Result<(), End> {
        match credit.retry_after_milliseconds {
            Some(wait) if credit.records == 0 => Err(End::RetryAfter(Duration::from_millis(wait.into()))),
            _ => {
                self.credits = self.credits.saturating_add(credit.records.into());
                Ok(())
            }
        }
    }
}

/// Takes a newer directory; true if it was taken.
fn replace_directory(known: &mut Option<NodeDirectory>, directory: NodeDirectory) -> bool {
    let newer = known.as_ref().is_none_or(|known| known.revision <= directory.revision);
    if newer {
        *known = Some(directory);
    }
    newer
}

/// The messages that carry definitions of a stream: of each series its number and what it measures.
pub fn dictionaries(stream: StreamId, definitions: &[(u32, Subject)]) -> Vec<Dictionary> {
    let mut messages: Vec<Dictionary> = Vec::new();
    let mut bytes = 0;
    for (number, subject) in definitions {
        let series = convert::series_to_wire(*number, subject);
        bytes += series.encoded_len() + 8;
        match messages.last_mut() {
            Some(last) if bytes <= DEFINITION_BYTES_A_MESSAGE => last.series.push(series),
            _ => {
                bytes = series.encoded_len() + 8;
                messages.push(Dictionary { stream_id: stream.0.to_vec(), series: vec![series] });
            }
        }
    }
    messages
}
