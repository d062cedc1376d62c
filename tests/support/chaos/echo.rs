//! A node that forgets what was acknowledged and sends it again, for ever: nothing of it may count twice.
//!
//! Real agents begin where the aggregator's mark says, so that they seldom repeat anything. This one does not listen.

use super::client::{Client, Session};
use super::oracle::Oracle;
use super::plan::Plan;
use anyhow::{Result, bail};
use joulebook_proto::convert;
use joulebook_proto::telemetry::Record;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::transport::Channel;

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
        let channel = Channel::from_shared(self.endpoint.clone())?.connect().await?;
        let client = Client { plan: self.plan, node: Plan::node(self.node), number: self.node, epoch: self.epoch };
        client.open(channel, self.records.len() as u64).await
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
            if session.say(Up::Record(record.clone())).await.is_err() {
                return Ok(false);
            }
        }
        let mut waiting = last - first as u64;
        while waiting > 0 {
            let Ok(message) = session.hear().await else { return Ok(false) };
            match message {
                Down::Ack(ack) if !ack.rejections.is_empty() => bail!("a repeated record was refused: {ack:?}"),
                Down::Ack(ack) => self.oracle.acked(self.node, ack.acked_sequence),
                Down::Credit(credit) => waiting = waiting.saturating_sub(credit.records.into()),
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
        let (stream_id, payload_hash) = (self.plan.boot_id(self.node).0.to_vec(), payload.hash.to_vec());
        self.records.push(Record { stream_id, sequence, payload_hash, payload: payload.bytes.to_vec().into() });
        self.oracle.durable(self.node, sequence);
        Ok(())
    }
}
