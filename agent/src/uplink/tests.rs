//! The uplink against a server that keeps the aggregator's rules and misbehaves on request.

use super::*;
use crate::clock::SystemClock;
use crate::spool::{Baseline, LocalState, Spool, SpoolConfig};
use joulebook_proto::convert;
use joulebook_proto::telemetry::telemetry_service_server::{TelemetryService, TelemetryServiceServer};
use joulebook_proto::telemetry::{
    Ack, Credit, HelloReply, Rejection, StreamMark, StreamRequest, StreamResponse, stream_request, stream_response,
};
use joulebook_units::{
    Batch, BootNanos, Column, Hardware, LossReason, Placement, Point, StreamGap, Subject, UnixNanos,
};
use std::collections::BTreeSet;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

struct StillClock;

impl Clock for StillClock {
    fn boot(&self) -> BootNanos {
        BootNanos(9)
    }

    fn wall(&self) -> UnixNanos {
        UnixNanos(8)
    }
}

/// What the server stored, and what it saw.
#[derive(Default)]
struct Stored {
    mark: u64,
    /// Numbers applied, in order of arrival.
    applied: Vec<u64>,
    duplicates: u64,
    gaps: Vec<StreamGap>,
    defined: BTreeSet<u32>,
    epochs: Vec<u64>,
    sessions: usize,
    violations: Vec<String>,
    most_unacknowledged: u64,
}

/// How one session goes.
#[derive(Clone, Copy)]
struct Plan {
    /// Mark told in HelloReply instead of the stored one.
    pretend: Option<u64>,
    credits: u32,
    /// Granted again after each acknowledgement.
    regrant: bool,
    /// Acknowledge only every so many records.
    ack_every: u64,
    /// Cut after so many records, stored but not acknowledged.
    cut_after: Option<u64>,
    /// Grant credit only when told to.
    wait_for_credit: bool,
    /// Grant nothing, and ask to come again after so many milliseconds.
    turn_away: Option<u32>,
}

const GOOD: Plan = Plan {
    pretend: None,
    credits: 64,
    regrant: true,
    ack_every: 1,
    cut_after: None,
    wait_for_credit: false,
    turn_away: None,
};

#[derive(Clone)]
struct Server {
    stored: Arc<Mutex<Stored>>,
    plans: Arc<Mutex<Vec<Plan>>>,
    progress: watch::Sender<u64>,
    credit: watch::Sender<bool>,
}

type Outbound = mpsc::Sender<Result<StreamResponse, Status>>;

fn response(message: stream_response::Message) -> Result<StreamResponse, Status> {
    Ok(StreamResponse { message: Some(message) })
}

impl Server {
    async fn session(self, mut inbound: Streaming<StreamRequest>, out: Outbound) -> Result<(), Status> {
        let plan = {
            let mut plans = self.plans.lock().expect("unpoisoned");
            if plans.is_empty() { GOOD } else { plans.remove(0) }
        };
        let Some(StreamRequest { message: Some(stream_request::Message::Hello(hello)) }) = inbound.message().await?
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        let stream = hello.streams[0].stream_id.clone();
        convert::hello_to_inventory(&hello).expect("a good hello");
        let mark = {
            let mut stored = self.stored.lock().expect("unpoisoned");
            stored.sessions += 1;
            stored.epochs.push(hello.session_epoch);
            // The dictionary of an earlier session does not count: each session tells it again.
            stored.defined.clear();
            if let Some(mark) = plan.pretend {
                stored.mark = mark;
                stored.applied.retain(|n| *n <= mark);
            }
            stored.mark
        };
        let grants = !plan.wait_for_credit && plan.turn_away.is_none();
        let credit =
            Credit { records: if grants { plan.credits } else { 0 }, retry_after_milliseconds: plan.turn_away };
        let marks = vec![StreamMark { stream_id: stream.clone(), acked_sequence: mark }];
        let reply = HelloReply { marks, credit: Some(credit), ..Default::default() };
        let _ = out.send(response(stream_response::Message::HelloReply(reply))).await;
        if plan.wait_for_credit {
            let _ = self.credit.subscribe().wait_for(|granted| *granted).await;
            let credit = Credit { records: plan.credits, retry_after_milliseconds: None };
            let _ = out.send(response(stream_response::Message::Credit(credit))).await;
        }
        let (mut received, mut granted, mut acked) = (0, u64::from(plan.credits), mark);
        while let Some(request) = inbound.message().await? {
            match request.message {
                Some(stream_request::Message::Dictionary(dictionary)) => {
                    let numbers = dictionary.series.iter().map(|series| series.series_id);
                    self.stored.lock().expect("unpoisoned").defined.extend(numbers);
                    continue;
                }
                Some(stream_request::Message::Record(record)) => {
                    received += 1;
                    self.take(&record, received > granted);
                    let mut stored = self.stored.lock().expect("unpoisoned");
                    stored.most_unacknowledged = stored.most_unacknowledged.max(record.sequence - acked);
                }
                Some(stream_request::Message::Gap(gap)) => self.take_gap(&gap),
                other => return Err(Status::invalid_argument(format!("{other:?}"))),
            }
            if plan.cut_after == Some(received) {
                return Err(Status::unavailable("cut"));
            }
            if received.is_multiple_of(plan.ack_every) {
                acked = self.stored.lock().expect("unpoisoned").mark;
                let ack = Ack { stream_id: stream.clone(), acked_sequence: acked, rejections: rejections(acked) };
                let _ = out.send(response(stream_response::Message::Ack(ack))).await;
                if plan.regrant {
                    granted += plan.ack_every;
                    let records = u32::try_from(plan.ack_every).expect("few");
                    let credit = Credit { records, retry_after_milliseconds: None };
                    let _ = out.send(response(stream_response::Message::Credit(credit))).await;
                }
            }
        }
        Ok(())
    }

    fn take(&self, record: &joulebook_proto::telemetry::Record, over_credit: bool) {
        let mut stored = self.stored.lock().expect("unpoisoned");
        if over_credit {
            stored.violations.push(format!("record {} without credit", record.sequence));
        }
        let batch = convert::decode_batch(&record.payload).expect("a good payload");
        if record.payload_hash != convert::payload_hash(&record.payload) {
            stored.violations.push(format!("hash of {}", record.sequence));
        }
        if batch.columns.iter().any(|column| !stored.defined.contains(&column.series)) {
            stored.violations.push(format!("record {} before its dictionary", record.sequence));
        }
        if record.sequence <= stored.mark {
            stored.duplicates += 1;
        } else if record.sequence == stored.mark + 1 {
            stored.mark = record.sequence;
            stored.applied.push(record.sequence);
        } else {
            let mark = stored.mark;
            stored.violations.push(format!("{} after {mark}", record.sequence));
        }
        self.progress.send_replace(stored.mark);
    }

    fn take_gap(&self, gap: &joulebook_proto::telemetry::StreamGap) {
        let (_, gap) = convert::stream_gap_from_wire(gap).expect("a good gap");
        let mut stored = self.stored.lock().expect("unpoisoned");
        if gap.from != stored.mark + 1 {
            stored.violations.push(format!("{gap:?}"));
        }
        stored.mark = gap.to;
        stored.gaps.push(gap);
        self.progress.send_replace(stored.mark);
    }
}

/// Record 5 has a refused value.
fn rejections(acked: u64) -> Vec<Rejection> {
    let rejection = Rejection { sequence: 5, reason: 1, count: 2 };
    if acked == 5 { vec![rejection] } else { Vec::new() }
}

#[tonic::async_trait]
impl TelemetryService for Server {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(&self, request: Request<Streaming<StreamRequest>>) -> Result<Response<Self::StreamStream>, Status> {
        let (out, responses) = mpsc::channel(4);
        let server = self.clone();
        tokio::spawn(async move {
            if let Err(status) = server.session(request.into_inner(), out.clone()).await {
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// An agent's spool and uplink, and the server they speak to.
struct Rig {
    server: Server,
    spool: SpoolHandle,
    stop: watch::Sender<bool>,
    counters: watch::Receiver<UplinkCounters>,
    running: tokio::task::JoinHandle<Result<(), UplinkError>>,
    _dir: TempDir,
    _inventory: watch::Sender<Inventory>,
}

fn inventory() -> Inventory {
    Inventory {
        node: "node-1".parse().expect("a name"),
        agent_version: "0.1.0".into(),
        sources: Vec::new(),
        hardware: Hardware::default(),
        placement: Placement::default(),
    }
}

async fn append(spool: &SpoolHandle, n: u64) {
    let at = BootNanos(n * 1_000_000_000);
    // A new series every tenth record, so that the dictionary grows while the session is open.
    let series = u32::try_from(n / 10 + 1).expect("few");
    let column = Column { series, previous: None, points: vec![Point { at, value: n }] };
    let boot = BootId([1; 16]);
    let batch = Batch { boot, wall: UnixNanos(1), rows: vec![at], columns: vec![column], gaps: Vec::new() };
    let baselines = vec![Baseline { series, raw: n, value: n, at, epoch: 1 }; 30];
    let local = LocalState { boot, at, wall: UnixNanos(1), baselines };
    let new = vec![(series, Subject::Memory { workload: format!("process/{series}@1") })];
    assert_eq!(spool.append(batch, local, new).await.expect("appended"), n);
}

async fn rig(plans: Vec<Plan>, records: u64, prepare: impl AsyncFnOnce(&SpoolHandle)) -> Rig {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = Server {
        stored: Arc::default(),
        plans: Arc::new(Mutex::new(plans)),
        progress: watch::Sender::default(),
        credit: watch::Sender::default(),
    };
    let service = TelemetryServiceServer::new(server.clone());
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    let dir = tempfile::tempdir().expect("a folder");
    let config = SpoolConfig {
        segment_bytes: 4096,
        min_free_bytes: 0,
        rewind_bytes: 0,
        ..SpoolConfig::new(dir.path().join("spool"))
    };
    let (spool, _) = Spool::open(&config).expect("opened");
    for n in 1..=records {
        append(&spool, n).await;
    }
    prepare(&spool).await;
    let (known, inventory) = watch::channel(inventory());
    let config = UplinkConfig {
        endpoint: format!("http://{address}"),
        security: Security::PlaintextOnLoopback,
        boot: BootId([1; 16]),
    };
    let uplink = Uplink::new(config, spool.clone(), inventory, Arc::new(StillClock));
    let (stop, stopped) = watch::channel(false);
    let counters = uplink.counters();
    let running = tokio::spawn(uplink.run(stopped));
    Rig { server, spool, stop, counters, running, _dir: dir, _inventory: known }
}

impl Rig {
    /// Waits until the server holds everything up to `mark`, stops the uplink, and returns what the server stored.
    async fn finish(self, mark: u64) -> (Stored, Arc<Mutex<UplinkCounters>>, SpoolHandle) {
        let done = async {
            self.server.progress.subscribe().wait_for(|held| *held >= mark).await.expect("open");
            self.stop.send_replace(true);
            self.running.await.expect("no panic").expect("drained");
        };
        tokio::time::timeout(Duration::from_secs(60), done).await.expect("in time");
        let counters = Arc::new(Mutex::new(self.counters.borrow().clone()));
        let stored = std::mem::take(&mut *self.server.stored.lock().expect("unpoisoned"));
        assert_eq!(stored.violations, Vec::<String>::new());
        assert!(stored.most_unacknowledged <= 64);
        assert_eq!((self.spool.counters().acked, self.spool.counters().highest), (mark, mark), "drained");
        (stored, counters, self.spool)
    }
}

fn in_order(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

#[tokio::test]
async fn every_record_arrives_once_and_in_order_and_is_freed() {
    let rig = rig(vec![GOOD], 200, async |_| {}).await;
    for n in 201..=230 {
        append(&rig.spool, n).await;
    }
    let (stored, counters, spool) = rig.finish(230).await;
    assert_eq!((stored.applied, stored.duplicates), (in_order(230), 0));
    assert_eq!(spool.counters().segments, 1);
    let rejected = counters.lock().expect("unpoisoned").rejected.clone();
    assert_eq!(rejected, BTreeMap::from([(Some(RejectReason::Value), 2)]));
}

#[tokio::test]
async fn late_acknowledgements_hold_the_window_but_not_the_order() {
    let rig = rig(vec![Plan { ack_every: 64, ..GOOD }], 192, async |_| {}).await;
    let (stored, _, _) = rig.finish(192).await;
    assert_eq!((stored.applied, stored.duplicates), (in_order(192), 0));
    assert_eq!(stored.most_unacknowledged, 64);
}

#[tokio::test]
async fn a_cut_session_is_taken_up_where_the_server_stands() {
    let cut = |after| Plan { cut_after: Some(after), ack_every: 1000, ..GOOD };
    let rig = rig(vec![cut(7), cut(1), GOOD], 40, async |_| {}).await;
    let (stored, counters, _) = rig.finish(40).await;
    assert_eq!((stored.applied, stored.sessions), (in_order(40), 3));
    assert_eq!(stored.epochs, [1, 1, 1]);
    assert_eq!(counters.lock().expect("unpoisoned").ack_regressions, 0);
}

#[tokio::test]
async fn without_credit_nothing_is_sent() {
    let plan = Plan { wait_for_credit: true, credits: 10, ..GOOD };
    let rig = rig(vec![plan], 30, async |_| {}).await;
    rig.counters.clone().wait_for(|counters| counters.connected).await.expect("open");
    assert_eq!(rig.server.stored.lock().expect("unpoisoned").mark, 0);
    rig.server.credit.send_replace(true);
    let (stored, _, _) = rig.finish(30).await;
    assert_eq!(stored.applied, in_order(30));
}

#[tokio::test]
async fn who_is_asked_to_come_again_waits_even_if_no_time_is_named() {
    let away = |wait| Plan { turn_away: Some(wait), ..GOOD };
    let begin = SystemClock.boot();
    let rig = rig(vec![away(0), away(1), away(0), GOOD], 30, async |_| {}).await;
    let (stored, _, _) = rig.finish(30).await;
    assert_eq!((stored.applied, stored.sessions), (in_order(30), 4));
    let waited = SystemClock.boot().since(begin);
    assert!(waited >= 3 * FIRST_WAIT, "three waits of half a second at least: {waited:?}");
}

#[tokio::test]
async fn an_aggregator_that_lost_data_gets_what_is_held_and_a_rewind_gap() {
    let rig = rig(vec![GOOD], 60, async |spool: &SpoolHandle| {
        spool.acked(spool.stream(), 50).await.expect("acked");
    })
    .await;
    let (stored, counters, _) = rig.finish(60).await;
    let gap = stored.gaps.first().expect("declared");
    assert_eq!((stored.gaps.len(), gap.from, gap.reason), (1, 1, LossReason::Rewind));
    assert_eq!(stored.applied, (gap.to + 1..=60).collect::<Vec<_>>());
    assert_eq!(counters.lock().expect("unpoisoned").ack_regressions, 1);
}

#[tokio::test]
async fn a_server_that_falls_back_between_sessions_gets_the_records_again() {
    let first = Plan { cut_after: Some(12), ack_every: 4, ..GOOD };
    let rig = rig(vec![first, Plan { pretend: Some(11), ..GOOD }], 20, async |_| {}).await;
    let (stored, _, _) = rig.finish(20).await;
    assert_eq!(stored.applied, in_order(20));
}

#[test]
fn plaintext_goes_to_a_loopback_address_only_and_only_when_allowed() {
    let endpoint = |endpoint: &str, security: &Security| {
        let boot = BootId([1; 16]);
        super::endpoint(&UplinkConfig { endpoint: endpoint.into(), security: security.clone(), boot })
    };
    let (certificate, key, ca) = ("n.crt".into(), "n.key".into(), "ca.crt".into());
    let tls = Security::Tls(CredentialFiles { certificate, key, ca, key_group_readable: false });
    let plain = Security::PlaintextOnLoopback;
    assert!(endpoint("http://127.0.0.1:7443", &plain).is_ok());
    assert!(endpoint("http://[::1]:7443", &plain).is_ok());
    assert!(endpoint("https://aggregator.example.org:7443", &tls).is_ok());
    for (address, security) in [
        ("http://127.0.0.1:7443", &tls),
        ("https://127.0.0.1:7443", &plain),
        ("http://10.0.0.1:7443", &plain),
        ("http://localhost.example.org:7443", &plain),
        ("not a url", &plain),
    ] {
        assert_eq!(endpoint(address, security).expect_err("refused").exit_code(), 78, "{address}");
    }
}

#[test]
fn waits_are_random_below_the_limit() {
    let waits: Vec<_> = (0..50).map(|_| jittered(&SystemNetwork, LONGEST_WAIT)).collect();
    assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT));
    assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
}

#[tokio::test]
async fn the_end_of_the_spool_ends_the_uplink() {
    let rig = rig(Vec::new(), 1, async |_| {}).await;
    rig.server.progress.subscribe().wait_for(|held| *held >= 1).await.expect("open");
    rig.spool.close().await.expect("closed");
    let ended = tokio::time::timeout(Duration::from_secs(60), rig.running).await.expect("in time");
    assert!(matches!(ended.expect("no panic"), Err(UplinkError::Spool(_))));
}
