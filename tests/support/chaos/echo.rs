//! A node that forgets what was acknowledged and sends it again, for ever: nothing of it may count twice.
//!
//! Real agents begin where the aggregator's mark says, so that they seldom repeat anything. This one does not listen.

use super::oracle::Oracle;
use super::plan::{Plan, RigClock};
use anyhow::{Context, Result, bail};
use joulebook_agent::clock::Clock;
use joulebook_proto::convert;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Dictionary, Hello, OpenStream, Record, StreamRequest, StreamResponse};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Records sent again each time.
const AGAIN: u64 = 16;
/// Wait before connecting again.
const PAUSE: Duration = Duration::from_millis(50);

/// The node.
pub struct Echo {
    plan: Plan,
    node: u32,
    oracle: Oracle,
    endpoint: String,
    replays: Arc<AtomicU64>,
    epoch: u64,
    values: [u64; 2],
    /// Every record it made, as it is sent.
    records: Vec<Record>,
}

/// An open session.
struct Session {
    up: mpsc::Sender<StreamRequest>,
    down: Streaming<StreamResponse>,
    mark: u64,
}

impl Echo {
    /// A node with a number of its own.
    pub fn new(plan: Plan, node: u32, oracle: Oracle, endpoint: &str, replays: Arc<AtomicU64>) -> Self {
        oracle.opened(node, 1, 0);
        Self { plan, node, oracle, endpoint: endpoint.to_owned(), replays, epoch: 0, values: [0, 0], records: vec![] }
    }

    /// Sends new records and old ones until the contract is broken.
    pub async fn run(&mut self) -> Result<()> {
        loop {
            if let Ok(mut session) = self.open().await {
                while self.exchange(&mut session, 1).await? {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends until everything is acknowledged.
    pub async fn finish(&mut self) -> Result<()> {
        loop {
            if let Ok(mut session) = self.open().await
                && self.exchange(&mut session, 0).await?
            {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open(&mut self) -> Result<Session> {
        self.epoch += 1;
        let stream_id = self.stream();
        let (up, requests) = mpsc::channel(128);
        let hello = Hello {
            streams: vec![OpenStream { stream_id: stream_id.clone(), highest_sequence: self.records.len() as u64 }],
            session_epoch: self.epoch,
            boot_id: self.plan.boot_id(self.node).0.to_vec(),
            boot_time_nanos: RigClock.boot().0,
            wall_time_unix_nanos: RigClock.wall().0,
            ..convert::inventory_to_hello(&Plan::inventory(self.node)?)
        };
        up.send(StreamRequest { message: Some(Up::Hello(hello)) }).await?;
        let mut client = TelemetryServiceClient::connect(self.endpoint.clone()).await?;
        let mut down = client.stream(ReceiverStream::new(requests)).await?.into_inner();
        let Some(Down::HelloReply(reply)) = down.message().await?.and_then(|first| first.message) else {
            bail!("no HelloReply");
        };
        let mark = reply.marks.first().context("a mark")?.acked_sequence;
        let series = Plan::dictionary().into_iter().map(|(number, subject)| convert::series_to_wire(number, &subject));
        let dictionary = Dictionary { stream_id, series: series.collect() };
        up.send(StreamRequest { message: Some(Up::Dictionary(dictionary)) }).await?;
        Ok(Session { up, down, mark })
    }

    /// Sends old records, what is not acknowledged, and `fresh` new ones, and waits for all of them. False if the session
    /// ended before; an error if the aggregator broke a promise.
    async fn exchange(&mut self, session: &mut Session, fresh: u64) -> Result<bool> {
        for _ in 0..fresh {
            self.make()?;
        }
        let again = AGAIN.min(session.mark);
        let made = self.records.len() as u64;
        // A session takes no more than its window at once.
        let last = made.min(session.mark + 40);
        let first = (session.mark - again) as usize;
        for record in &self.records[first..last as usize] {
            if session.up.send(StreamRequest { message: Some(Up::Record(record.clone())) }).await.is_err() {
                return Ok(false);
            }
        }
        let mut waiting = last - first as u64;
        while waiting > 0 {
            let Ok(Some(message)) = session.down.message().await else { return Ok(false) };
            match message.message {
                Some(Down::Ack(ack)) if !ack.rejections.is_empty() => bail!("a repeated record was refused: {ack:?}"),
                Some(Down::Ack(ack)) => self.oracle.acked(self.node, ack.acked_sequence),
                Some(Down::Credit(credit)) => waiting = waiting.saturating_sub(credit.records.into()),
                _ => {}
            }
        }
        self.replays.fetch_add(again, Ordering::Relaxed);
        session.mark = last;
        Ok(last == made)
    }

    fn make(&mut self) -> Result<()> {
        let sequence = self.records.len() as u64 + 1;
        let payload = convert::encode_batch(&self.plan.batch(self.node, 1, sequence, &mut self.values))?;
        let (stream_id, payload_hash) = (self.stream(), payload.hash.to_vec());
        self.records.push(Record { stream_id, sequence, payload_hash, payload: payload.bytes.to_vec().into() });
        self.oracle.durable(self.node, sequence);
        Ok(())
    }

    fn stream(&self) -> Vec<u8> {
        // Its own for each plan and node, like the boot.
        self.plan.boot_id(self.node).0.to_vec()
    }
}
