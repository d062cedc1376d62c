//! Records that can never be stored whole (PROC-P9): what is bad is refused and acknowledged, and what is behind it goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]

use std::time::Duration;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_proto::convert::{encode_batch, payload_hash, series_to_wire};
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::{Dictionary, Record, RejectReason, Rejection};
use joulebook_tests::chaos::client::{Client, Session};
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::tls::{Ca, Serving, config, status, write};
use joulebook_units::{Batch, BootNanos, Column, Point, Subject};
use tempfile::TempDir;

/// Series of the large record, and its rows: 915 values.
const SERIES: u32 = 183;
const ROWS: u64 = 5;
const GOOD: u64 = 1_000;
/// Series that a node may have at once.
const ACTIVE_SERIES: u32 = 2_048;
const SECOND: u64 = 1_000_000_000;
/// Far more than anything here needs on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most that may be on its way.
const WINDOW: u64 = 64;

struct Rig {
    ca: Ca,
    serving: Serving,
    plan: Plan,
    client: Client,
    session: Session,
    sequence: u64,
    _folder: TempDir,
}

/// What came of a record and of those sent behind it.
struct Outcome {
    rejections: Vec<Rejection>,
    /// From sending it to its acknowledgement.
    acked: Duration,
    /// The same for each record before it, at most.
    usual: Duration,
}

impl Rig {
    async fn new() -> Self {
        let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
        let files = write(folder.path(), "server", &ca.server(), ca.certificate());
        let serving = Serving::start(config(folder.path().join("db"), &files)).await;
        let client = Client { plan: Plan::new(7), node: Plan::node(1), number: 1, epoch: 1 };
        let channel = serving.connect(&ca.agent(&client.node), ca.certificate()).await.unwrap();
        let session = client.open(channel, 0).await.unwrap();
        let mut rig = Self { ca, serving, plan: client.plan, client, session, sequence: 0, _folder: folder };
        rig.define(1..ACTIVE_SERIES + 2).await;
        rig
    }

    async fn define(&mut self, series: std::ops::Range<u32>) {
        let subject = |number: u32| Subject::Memory { workload: format!("unit/{number}") };
        for part in series.collect::<Vec<_>>().chunks(500) {
            // The plan's own two are described already; these stand behind them.
            let series = part.iter().map(|number| series_to_wire(number + 2, &subject(*number))).collect();
            let stream_id = self.plan.boot_id(self.client.number).0.to_vec();
            self.session.say(Up::Dictionary(Dictionary { stream_id, series })).await.unwrap();
        }
    }

    /// A record of `series` series and `rows` rows, right behind the last one.
    fn batch(&self, series: u32, rows: u64) -> Batch {
        let first = self.plan.boot + (self.sequence + 1) * 10 * SECOND;
        let at = |row: u64| BootNanos(first + row * SECOND);
        let column = |number: u32| Column {
            series: number + 2,
            previous: None,
            points: (0..rows).map(|row| Point { at: at(row), value: 1_000 + row }).collect(),
        };
        Batch {
            boot: self.plan.boot_id(self.client.number),
            wall: self.plan.at(0),
            rows: (0..rows).map(at).collect(),
            columns: (1..=series).map(column).collect(),
            gaps: Vec::new(),
        }
    }

    fn record(&mut self, payload: Vec<u8>) -> Record {
        self.sequence += 1;
        let stream_id = self.plan.boot_id(self.client.number).0.to_vec();
        Record {
            stream_id,
            sequence: self.sequence,
            payload_hash: payload_hash(&payload).to_vec(),
            payload: payload.into(),
        }
    }

    fn good(&mut self) -> Record {
        let payload = encode_batch(&self.batch(2, ROWS)).unwrap().bytes.to_vec();
        self.record(payload)
    }

    /// Sends these records in their order, as many at once as may be, and notes when each is acknowledged.
    async fn send(&mut self, records: Vec<Record>) -> (Vec<Rejection>, Vec<Duration>) {
        let first = records.first().unwrap().sequence;
        let (mut sent, mut acked, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
        let mut records = records.into_iter().peekable();
        let mut waiting = 0;
        while records.peek().is_some() || acked.len() < sent.len() || waiting > 0 {
            while waiting < WINDOW
                && let Some(record) = records.next()
            {
                sent.push(SystemClock.boot());
                self.session.say(Up::Record(record)).await.unwrap();
                waiting += 1;
            }
            match tokio::time::timeout(PATIENCE, self.session.hear()).await.unwrap().unwrap() {
                Down::Ack(ack) => {
                    rejections.extend(ack.rejections);
                    while first + acked.len() as u64 <= ack.acked_sequence {
                        acked.push(SystemClock.boot().since(sent[acked.len()]));
                    }
                }
                Down::Credit(credit) => waiting -= u64::from(credit.records),
                other => panic!("{other:?}"),
            }
        }
        (rejections, acked)
    }

    /// Sends good records, the bad one, and 1,000 good ones behind it, without waiting between them.
    async fn poison(&mut self, bad: impl FnOnce(&Self) -> Vec<u8>) -> Outcome {
        let before: Vec<_> = (0..WINDOW * 4).map(|_| self.good()).collect();
        let (none, usual) = self.send(before).await;
        assert_eq!(none, []);
        let bad = bad(self);
        let bad = self.record(bad);
        let number = bad.sequence;
        let mut records = vec![bad];
        records.extend((0..GOOD).map(|_| self.good()));
        let (rejections, acked) = self.send(records).await;
        assert!(rejections.iter().all(|rejection| rejection.sequence == number), "only the bad one: {rejections:?}");
        assert_eq!(acked.len() as u64, GOOD + 1, "everything behind it is acknowledged");
        Outcome { rejections, acked: acked[0], usual: usual.into_iter().max().unwrap() }
    }

    async fn counted(&self, name: &str) -> u64 {
        let channel = self.serving.connect(&self.ca.operator(), self.ca.certificate()).await.unwrap();
        status(channel).await.unwrap().0.get(name).copied().unwrap_or(0)
    }
}

/// What is refused of a record: the reason and the number of values.
fn refused(rejections: &[Rejection]) -> Vec<(RejectReason, u64)> {
    rejections.iter().map(|rejection| (rejection.reason(), rejection.count)).collect()
}

/// One round trip: as long as any record before took, with room for a machine that is busy with other things.
fn in_a_round_trip(outcome: &Outcome) {
    let most = outcome.usual * 2 + Duration::from_millis(200);
    assert!(outcome.acked <= most, "{:?}, before {:?}", outcome.acked, outcome.usual);
}

#[tokio::test(flavor = "multi_thread")]
async fn b55_one_bad_value_in_915_is_refused_and_914_are_stored_without_a_delay_for_those_behind() {
    let mut rig = Rig::new().await;
    let bad = |rig: &Rig| {
        let mut batch = rig.batch(SERIES, ROWS);
        // The wire holds differences: one beyond what may be counted, and one back.
        batch.columns[100].points[2].value = 1 << 63;
        encode_batch(&batch).unwrap().bytes.to_vec()
    };
    let outcome = rig.poison(bad).await;
    assert_eq!(refused(&outcome.rejections), [(RejectReason::Value, 1)]);
    assert_eq!(rig.counted("rejected_value_total").await, 1);
    in_a_round_trip(&outcome);
    rig.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b56_times_that_cannot_be_are_refused_alone() {
    let mut rig = Rig::new().await;
    let bad = |rig: &Rig| {
        let mut batch = rig.batch(SERIES, ROWS);
        // One value of the next year, beside 914 of today.
        batch.columns[7].points[4].at = BootNanos(batch.rows[4].0 + 365 * 86_400 * SECOND);
        encode_batch(&batch).unwrap().bytes.to_vec()
    };
    let outcome = rig.poison(bad).await;
    assert_eq!(refused(&outcome.rejections), [(RejectReason::Time, 1)]);
    in_a_round_trip(&outcome);
    rig.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_or_is_larger_than_it_may_be_is_refused_alone() {
    let mut rig = Rig::new().await;
    let bombs = [b"no frame at all".to_vec(), zstd::bulk::compress(&vec![0; 8 << 20], 3).unwrap()];
    for (number, bad) in (1..).zip(bombs) {
        let outcome = rig.poison(|_| bad).await;
        assert_eq!(refused(&outcome.rejections), [(RejectReason::Malformed, 1)]);
        assert_eq!(rig.counted("rejected_malformed_total").await, number);
        in_a_round_trip(&outcome);
    }
    rig.serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b57_a_series_above_the_cap_is_refused_alone() {
    let mut rig = Rig::new().await;
    let bad = |rig: &Rig| encode_batch(&rig.batch(ACTIVE_SERIES + 1, 1)).unwrap().bytes.to_vec();
    let outcome = rig.poison(bad).await;
    assert_eq!(refused(&outcome.rejections), [(RejectReason::Cardinality, 1)]);
    in_a_round_trip(&outcome);
    rig.serving.stop().await;
}
