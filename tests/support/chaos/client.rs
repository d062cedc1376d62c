//! A client of the telemetry service that speaks message by message, for rigs that say what no agent would.

use super::plan::{Plan, RigClock};
use anyhow::{Context, Result, bail};
use joulebook_agent::clock::Clock;
use joulebook_proto::convert;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Credit, Dictionary, Hello, OpenStream, StreamRequest, StreamResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Messages that wait between the rig and the connection.
const WAITING: usize = 128;

/// Who speaks. It has one stream, whose identity is that of its boot.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it measures.
    pub plan: Plan,
    /// Name of its node.
    pub node: String,
    /// Number of its node in the plan.
    pub number: u32,
    /// Which start of the agent it is.
    pub epoch: u64,
}

/// An open session.
pub struct Session {
    up: mpsc::Sender<StreamRequest>,
    down: Streaming<StreamResponse>,
    /// How far the stream is stored.
    pub mark: u64,
    /// The first grant.
    pub credit: Option<Credit>,
}

impl Client {
    /// Says Hello, takes the mark, and describes the plan's series.
    pub async fn open(&self, channel: Channel, highest: u64) -> Result<Session> {
        let stream_id = self.plan.boot_id(self.number).0.to_vec();
        let (up, requests) = mpsc::channel(WAITING);
        let hello = Hello {
            node: self.node.clone(),
            streams: vec![OpenStream { stream_id: stream_id.clone(), highest_sequence: highest, acked_sequence: 0 }],
            session_epoch: self.epoch,
            boot_id: stream_id.clone(),
            boot_time_nanos: RigClock.boot().0,
            wall_time_unix_nanos: RigClock.wall().0,
            ..convert::inventory_to_hello(&Plan::inventory(self.number)?)
        };
        up.send(StreamRequest { message: Some(Up::Hello(hello)) }).await?;
        let mut client = TelemetryServiceClient::new(channel);
        let mut down = client.stream(ReceiverStream::new(requests)).await?.into_inner();
        let Some(Down::HelloReply(reply)) = down.message().await?.and_then(|first| first.message) else {
            bail!("no HelloReply");
        };
        let mark = reply.marks.first().context("a mark")?.acked_sequence;
        let session = Session { up, down, mark, credit: reply.credit };
        let series = Plan::dictionary().into_iter().map(|(number, subject)| convert::series_to_wire(number, &subject));
        session.say(Up::Dictionary(Dictionary { stream_id, series: series.collect() })).await?;
        Ok(session)
    }
}

impl Session {
    /// Sends a message; waits while too many wait.
    pub async fn say(&self, message: Up) -> Result<()> {
        self.up.send(StreamRequest { message: Some(message) }).await.context("the session is over")
    }

    /// The next message.
    pub async fn hear(&mut self) -> Result<Down> {
        let heard = self.down.message().await?.context("the session is over")?;
        heard.message.context("a message without content")
    }
}
