//! Sessions against a store that can be stopped: what one of them may have waiting, and when no credit is granted.

use super::*;
use crate::clock::SystemClock;
use crate::peer::{Caller, Ending};
use crate::store::memory::MemoryStore;
use crate::store::space::Least;
use crate::store::{Book, Direction, Durability, Store, Table, Visit, Writes};
use joulebook_proto::SCHEMA_VERSION;
use joulebook_proto::convert::{encode_batch, inventory_to_hello};
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Credit, Hello, OpenStream, Record, StreamRequest, StreamResponse};
use joulebook_units::{Batch, BootId, BootNanos, Hardware, Inventory, Placement, UnixNanos};
use std::ops::Range;
use std::path::Path;
use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Status, Streaming};

/// Far more than anything here needs on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store whose commits wait while it is stopped.
#[derive(Default)]
struct Gated {
    memory: MemoryStore,
    stopped: Mutex<bool>,
    changed: Condvar,
    held: AtomicBool,
}

impl Gated {
    fn stop(&self, stop: bool) {
        *self.stopped.lock().expect("whole") = stop;
        self.changed.notify_all();
    }
}

impl Store for Gated {
    fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError> {
        let held = |stopped: &mut bool| {
            self.held.store(*stopped, Ordering::Relaxed);
            *stopped
        };
        drop(self.changed.wait_while(self.stopped.lock().expect("whole"), held).expect("whole"));
        self.memory.commit(writes, durability)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.memory.scan(table, range, direction, visit)
    }
}

struct Rig {
    store: Arc<Gated>,
    url: String,
    pressure: Pressure,
    waiting: Waiting,
    counters: Arc<Counters>,
    _stop: watch::Sender<bool>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A commit that waits would keep the runtime of a test that failed for ever.
        self.store.stop(false);
    }
}

struct Agent {
    stream: [u8; 16],
    sequence: u64,
    up: mpsc::Sender<StreamRequest>,
    down: Streaming<StreamResponse>,
    first: Credit,
}

impl Rig {
    async fn new() -> Self {
        let store = Arc::new(Gated::default());
        let book = Arc::new(Book::open(store.clone()).expect("an empty store opens"));
        let counters = Arc::new(Counters::default());
        let (stop, stopping) = watch::channel(false);
        let intake = Intake::new(book, Arc::clone(&counters));
        let space = Space::new(Path::new("/"), Least { percent: 0.0, bytes: 0 });
        let (service, committer) = telemetry(intake, Arc::new(space), Arc::new(SystemClock), stopping.clone());
        let (pressure, waiting) = (committer.pressure(), committer.waiting.clone());
        tokio::spawn(committer.run(Arc::new(SystemClock)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let service = InterceptedService::new(service.server(), move |mut request: tonic::Request<()>| {
            request.extensions_mut().insert(Caller(None));
            request.extensions_mut().insert(Ending(stopping.clone()));
            Ok::<_, Status>(request)
        });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        Self { store, url, pressure, waiting, counters, _stop: stop }
    }

    fn waits(&self) -> usize {
        self.waiting.0.upgrade().map_or(0, |jobs| QUEUE - jobs.capacity())
    }

    async fn agent(&self, number: u8) -> Agent {
        self.agent_that_heard(number, 0).await
    }

    /// An agent to which records up to a number were acknowledged.
    async fn agent_that_heard(&self, number: u8, acked_sequence: u64) -> Agent {
        let inventory = Inventory {
            node: format!("node-{number}").parse().expect("a name"),
            agent_version: "0".to_owned(),
            sources: Vec::new(),
            hardware: Hardware::default(),
            placement: Placement::default(),
        };
        let stream = [number; 16];
        let hello = Hello {
            streams: vec![OpenStream { stream_id: stream.to_vec(), highest_sequence: acked_sequence, acked_sequence }],
            session_epoch: 1,
            boot_id: stream.to_vec(),
            boot_time_nanos: 1_000,
            wall_time_unix_nanos: 0,
            schema_version: SCHEMA_VERSION,
            ..inventory_to_hello(&inventory)
        };
        let (up, requests) = mpsc::channel(4_096);
        up.send(StreamRequest { message: Some(Up::Hello(hello)) }).await.expect("room");
        let mut client = TelemetryServiceClient::connect(self.url.clone()).await.expect("connect");
        let mut down = client.stream(ReceiverStream::new(requests)).await.expect("a session").into_inner();
        let first = down.message().await.expect("an answer").and_then(|first| first.message);
        let Some(Down::HelloReply(reply)) = first else { panic!("{first:?}") };
        Agent { stream, sequence: 0, up, down, first: reply.credit.expect("a grant") }
    }
}

impl Agent {
    async fn say(&self, message: Up) {
        self.up.send(StreamRequest { message: Some(message) }).await.expect("room");
    }

    async fn record(&mut self) {
        self.sequence += 1;
        let (boot, at) = (BootId(self.stream), BootNanos(1_000 + self.sequence));
        let batch = Batch { boot, wall: UnixNanos(0), rows: vec![at], columns: Vec::new(), gaps: Vec::new() };
        let payload = encode_batch(&batch).expect("a batch");
        let (stream_id, payload_hash) = (self.stream.to_vec(), payload.hash.to_vec());
        let payload = payload.bytes.to_vec().into();
        self.say(Up::Record(Record { stream_id, sequence: self.sequence, payload_hash, payload })).await;
    }

    async fn hear(&mut self) -> Down {
        let heard = timeout(PATIENCE, self.down.message()).await.expect("an answer");
        heard.expect("no end").and_then(|heard| heard.message).expect("a message")
    }

    /// Waits until this many are acknowledged; the credit that was granted meanwhile.
    async fn acked(&mut self, sequence: u64) -> u32 {
        let mut granted = 0;
        loop {
            match self.hear().await {
                Down::Ack(ack) if ack.acked_sequence >= sequence => return granted,
                Down::Credit(credit) => granted += credit.records,
                _ => {}
            }
        }
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let asking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, asking).await.is_ok(), "never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_has_a_bounded_number_of_requests_waiting_whatever_they_are() {
    let rig = Rig::new().await;
    let (agent, mut other) = (rig.agent(1).await, rig.agent(2).await);
    rig.store.stop(true);
    // A first group is under way: what comes now is not part of it, however fast it comes.
    other.record().await;
    until("a commit is held", || rig.store.held.load(Ordering::Relaxed)).await;
    for _ in 0..2_000 {
        agent
            .say(Up::OpenStream(OpenStream {
                stream_id: agent.stream.to_vec(),
                highest_sequence: 0,
                acked_sequence: 0,
            }))
            .await;
    }
    until("they wait", || rig.waits() > 0).await;
    let bound = session::REQUESTS as usize;
    let more = until("more than may be", || rig.waits() > bound);
    assert!(timeout(Duration::from_millis(700), more).await.is_err(), "{} wait", rig.waits());
    rig.store.stop(false);
    let mut agent = agent;
    for _ in 0..10 {
        assert!(matches!(agent.hear().await, Down::Ack(_)), "it goes on when the store does");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_pressure_records_are_taken_and_no_further_ones_asked_for() {
    let rig = Rig::new().await;
    let mut agent = rig.agent(1).await;
    assert_eq!((agent.first.records, agent.first.retry_after_milliseconds), (session::WINDOW, None));
    rig.pressure.set(Cause::Disk, true);
    // What was granted for the first ones would be heard before the second ones are acknowledged.
    for acked in [10, 20] {
        for _ in 0..10 {
            agent.record().await;
        }
        assert_eq!(agent.acked(acked).await, 0, "acknowledged, and nothing granted");
    }
    let away = rig.agent(2).await.first;
    assert_eq!(away.records, 0);
    assert!(away.retry_after_milliseconds.is_some_and(|away| (2_000..=10_000).contains(&away)), "{away:?}");
    rig.pressure.set(Cause::Disk, false);
    assert_eq!(agent.hear().await, Down::Credit(Credit { records: 20, retry_after_milliseconds: None }));
    for _ in 0..u64::from(session::WINDOW) {
        agent.record().await;
    }
    agent.acked(20 + u64::from(session::WINDOW)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_half_full_presses_until_it_is_nearly_empty() {
    let rig = Rig::new().await;
    let mut agents = Vec::new();
    // One commit's worth is taken out of the queue before the store stops: more than that and half of it.
    for number in 0..20 {
        agents.push(rig.agent(number).await);
    }
    rig.store.stop(true);
    for agent in &mut agents {
        for _ in 0..session::WINDOW {
            agent.record().await;
        }
    }
    until("it presses", || rig.pressure.is(Cause::Queue)).await;
    assert_eq!(rig.counters.all().get("pressure_queue_total"), Some(&1));
    rig.store.stop(false);
    for agent in &mut agents {
        agent.acked(u64::from(session::WINDOW)).await;
    }
    until("it is over", || !rig.pressure.is(Cause::Queue)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_behind_what_an_agent_heard_counts_it() {
    let rig = Rig::new().await;
    let mut agent = rig.agent_that_heard(1, 0).await;
    agent.record().await;
    agent.acked(1).await;
    let count = || rig.counters.all().get("ack_regression_total").copied();
    rig.agent_that_heard(1, 1).await;
    assert_eq!(count(), None, "it has what the agent heard of");
    rig.agent_that_heard(1, 2).await;
    assert_eq!(count(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_moment_are_synced_together_and_acknowledged_once_a_stream() {
    let rig = Rig::new().await;
    let (mut agents, each) = (vec![rig.agent(1).await, rig.agent(2).await, rig.agent(3).await], 10u64);
    let mut other = rig.agent(4).await;
    rig.store.stop(true);
    other.record().await;
    until("a commit is held", || rig.store.held.load(Ordering::Relaxed)).await;
    for agent in &mut agents {
        for _ in 0..each {
            agent.record().await;
        }
    }
    until("all of them wait", || rig.waits() == 3 * usize::try_from(each).expect("few")).await;
    rig.store.stop(false);
    for agent in &mut agents {
        agent.acked(each).await;
    }
    other.acked(1).await;
    let counted = |name| rig.counters.all().get(name).copied().unwrap_or_default();
    assert_eq!((counted("records_applied_total"), counted("record_commits_total")), (31, 2));
    // A session that looks while the replies of a commit are given out sees some of them.
    let acks = counted("acknowledgements_total");
    assert!((4..20).contains(&acks), "{acks} acknowledgements of 31 records");
    assert!(counted("record_bytes_total") > 31 * 10);
}
