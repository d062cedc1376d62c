//! A whole change of the CA while a fleet sends: nothing is lost, nothing is started again, and what was replaced is worth
//! nothing any more.

use super::{PATIENCE, until};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::spool::{LocalState, Spool, SpoolConfig, SpoolHandle};
use joulebook_agent::uplink::{Security, Uplink, UplinkConfig, UplinkCounters, UplinkError};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_proto::credentials::CredentialFiles;
use joulebook_tests::tls::{Ca, Serving, config, replace, status, write};
use joulebook_units::{Batch, BootId, Column, Hardware, Inventory, Placement, Point, Subject, UnixNanos, Window};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const NODES: u8 = 5;
const SERIES: u32 = 1;
/// Records that each node still sends after the change.
const AFTERWARDS: u64 = 20;

/// One node that appends a row of its own every few milliseconds.
struct Node {
    name: String,
    files: CredentialFiles,
    spool: SpoolHandle,
    counters: watch::Receiver<UplinkCounters>,
    stop_rows: watch::Sender<bool>,
    stop_sending: watch::Sender<bool>,
    rows: JoinHandle<u64>,
    sending: JoinHandle<Result<(), UplinkError>>,
    _told: watch::Sender<Inventory>,
}

impl Node {
    fn start(folder: &Path, number: u8, url: &str, ca: &Ca) -> Self {
        let name = format!("node-{number}");
        let files = write(folder, &name, &ca.agent(&name), ca.certificate());
        let (spool, _) =
            Spool::open(&SpoolConfig { min_free_bytes: 0, ..SpoolConfig::new(folder.join(format!("spool-{number}"))) })
                .unwrap();
        let inventory = Inventory {
            node: name.parse().unwrap(),
            agent_version: "0".to_owned(),
            sources: Vec::new(),
            hardware: Hardware::default(),
            placement: Placement::default(),
        };
        let (told, inventory) = watch::channel(inventory);
        let boot = BootId([number; 16]);
        let settings = UplinkConfig { endpoint: url.to_owned(), security: Security::Tls(files.clone()), boot };
        let uplink = Uplink::new(settings, spool.clone(), inventory, Arc::new(SystemClock));
        let counters = uplink.counters();
        let (stop_sending, stopped) = watch::channel(false);
        let sending = tokio::spawn(uplink.run(stopped));
        let (stop_rows, stopped) = watch::channel(false);
        let rows = tokio::spawn(append(spool.clone(), boot, stopped));
        Self { name, files, spool, counters, stop_rows, stop_sending, rows, sending, _told: told }
    }

    fn sessions(&self) -> u64 {
        self.counters.borrow().sessions
    }

    /// Ends it and returns how many rows it appended; all of them must be acknowledged, none refused.
    async fn finish(self) -> (String, u64) {
        self.stop_rows.send_replace(true);
        let rows = self.rows.await.unwrap();
        assert!(self.spool.drained(PATIENCE).await, "{}: {:?}", self.name, self.spool.counters());
        let counters = self.counters.borrow().clone();
        assert_eq!((counters.rejected.len(), counters.ack_regressions), (0, 0), "{}: {counters:?}", self.name);
        self.stop_sending.send_replace(true);
        self.sending.await.unwrap().unwrap();
        (self.name, rows)
    }
}

async fn append(spool: SpoolHandle, boot: BootId, stopped: watch::Receiver<bool>) -> u64 {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let (mut rows, mut previous) = (0, None);
    while !*stopped.borrow() {
        ticks.tick().await;
        let at = SystemClock.boot();
        if previous.is_some_and(|(before, _)| at <= before) {
            continue;
        }
        let wall = Clock::wall(&SystemClock);
        let points = vec![Point { at, value: rows }];
        let column = Column { series: SERIES, previous: previous.map(|(at, value)| Point { at, value }), points };
        let batch = Batch { boot, wall, rows: vec![at], columns: vec![column], gaps: Vec::new() };
        let local = LocalState { boot, at, wall, baselines: Vec::new() };
        let new = vec![(SERIES, Subject::Memory { workload: "unit/llm.service".to_owned() })];
        let new = if rows == 0 { new } else { Vec::new() };
        spool.append(batch, local, new).await.unwrap();
        previous = Some((at, rows));
        rows += 1;
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_five_loses_nothing_while_every_certificate_and_the_ca_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (old, new) = (Ca::new(), Ca::new());
    let both = format!("{}{}", old.certificate(), new.certificate());
    let server = write(path, "server", &old.server(), old.certificate());
    let serving = Serving::start(config(path.join("db"), &server)).await;
    let nodes: Vec<Node> = (1..=NODES).map(|number| Node::start(path, number, &serving.url(), &old)).collect();
    let acked = |node: &Node| node.spool.counters().acked;
    until("all of them are acknowledged", async || nodes.iter().all(|node| acked(node) > 3)).await;

    // Everybody trusts both, then everybody shows the new, then nobody trusts the old.
    replace(&server.ca, &both);
    nodes.iter().for_each(|node| replace(&node.files.ca, &both));
    until("the new CA is trusted", async || serving.admits(&new.operator(), &both).await).await;
    for node in &nodes {
        let pair = new.agent(&node.name);
        replace(&node.files.key, &pair.key);
        replace(&node.files.certificate, &pair.certificate);
    }
    let pair = new.server();
    replace(&server.key, &pair.key);
    replace(&server.certificate, &pair.certificate);
    until("the new leaf is shown", async || serving.admits(&new.operator(), new.certificate()).await).await;
    assert!(serving.connect(&old.operator(), old.certificate()).await.is_err(), "the old leaf is shown no more");
    assert_eq!(nodes.iter().map(Node::sessions).collect::<Vec<_>>(), [1; NODES as usize], "no session was cut so far");
    replace(&server.ca, new.certificate());
    until("all of them show the new", async || nodes.iter().all(|node| node.sessions() >= 2)).await;
    assert!(!serving.admits(&old.operator(), &both).await && !serving.admits(&old.agent("node-1"), &both).await);

    let reached: Vec<u64> = nodes.iter().map(|node| node.spool.counters().highest + AFTERWARDS).collect();
    until("they go on", async || nodes.iter().zip(&reached).all(|(node, reached)| acked(node) >= *reached)).await;
    let mut sent = Vec::new();
    for node in nodes {
        sent.push(node.finish().await);
    }
    serving.stop().await;
    let book = Book::open(Arc::new(RocksStore::open(&path.join("db")).unwrap())).unwrap();
    let all = Window::new(UnixNanos(0), UnixNanos(i64::MAX)).unwrap();
    for (name, rows) in sent {
        let node = book.node(&name.parse().unwrap()).expect("a node");
        assert_eq!(book.rows(node, all).unwrap().len() as u64, rows, "{name}");
        assert!(book.gaps(node, all).unwrap().1.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_volume_whose_link_is_turned_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (old, new) = (Ca::new(), Ca::new());
    // As the kubelet writes them: files are links into `..data`, which is a link to a folder that is never changed.
    for (name, ca) in [("..1", &old), ("..2", &new)] {
        std::fs::create_dir(path.join(name)).unwrap();
        write(&path.join(name), "server", &ca.server(), ca.certificate());
    }
    symlink("..1", path.join("..data")).unwrap();
    let file = |name: &str| {
        symlink(Path::new("..data").join(name), path.join(name)).unwrap();
        path.join(name)
    };
    let (certificate, key, ca) = (file("server.crt"), file("server.key"), file("server.ca"));
    let files = CredentialFiles { certificate, key, ca, key_group_readable: false };
    let serving = Serving::start(config(path.join("db"), &files)).await;
    let channel = serving.connect(&old.operator(), old.certificate()).await.unwrap();
    status(channel.clone()).await.unwrap();
    symlink("..2", path.join("..next")).unwrap();
    std::fs::rename(path.join("..next"), path.join("..data")).unwrap();
    until("the new is shown", async || serving.admits(&new.operator(), new.certificate()).await).await;
    until("the old ends", async || status(channel.clone()).await.is_err()).await;
    serving.stop().await;
}
