//! Clients that mean harm, or are broken: each does one thing as long as it may, and begins again when it is hung up on.

use super::plan::{Plan, RigClock};
use super::secure::Keys;
use crate::raw::{
    CONTINUATION, DATA, PREFACE, RST_STREAM, STREAM, call, call_to_be_continued, client, field, frame, message, over,
    prefix,
};
use anyhow::Result;
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_proto::convert;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::{Hello, OpenStream, Record, StreamRequest};
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, version};

/// Wait of a client that was hung up on.
const PAUSE: Duration = Duration::from_secs(5);
/// Time between two pings of a client that never reads.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Wait of a slow client between two bytes.
const SLOW: Duration = Duration::from_secs(10);
/// Connections of one identity: fewer than it may have.
const PER_IDENTITY: usize = 3;
/// Bytes that a client may send before the server says that it may send more.
const WINDOW: usize = 65_535;
/// Data of one frame.
const PIECE: usize = 16 << 10;
/// Buffer of a client that never reads.
const SMALL_BUFFER: u32 = 4_096;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Connects and says nothing.
    Silent,
    /// Shakes hands and then sends a byte each ten seconds.
    Slow,
    /// Opens a session, asks and asks, and reads no answer.
    Unread,
    /// Begins calls and takes them back, hundreds a second.
    Resetter,
    /// Announces a message of 64 MiB, and sends as much of it as it may.
    Large,
    /// Sends records that are small and hold 64 MiB when they are decompressed, and a call that claims to be gzip.
    Bomb,
    /// Sends headers without end.
    Headers,
}

/// The crowd of PROC-P10.
pub const CROWD: [(Kind, usize); 7] = [
    (Kind::Silent, 500),
    (Kind::Slow, 200),
    (Kind::Unread, 100),
    (Kind::Resetter, 50),
    (Kind::Large, 20),
    (Kind::Bomb, 20),
    (Kind::Headers, 20),
];

/// What came of the connections of each kind.
#[derive(Debug, Clone, Default)]
pub struct Lasted(Arc<Mutex<BTreeMap<Kind, Fate>>>);

/// What came of the connections of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    /// Those that were let in.
    pub entered: u64,
    /// Those that were hung up on, let in or not.
    pub ended: u64,
    /// The longest that one of these lasted.
    pub longest: Duration,
}

impl Lasted {
    fn note(&self, kind: Kind, change: impl FnOnce(&mut Fate)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default());
    }

    /// What came of a kind.
    pub fn of(&self, kind: Kind) -> Fate {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&kind).copied().unwrap_or_default()
    }
}

impl fmt::Display for Lasted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, _) in CROWD {
            let Fate { entered, ended, longest } = self.of(kind);
            write!(f, "{kind:?}: {entered} let in, {ended} hung up on, longest {:.1} s; ", longest.as_secs_f64())?;
        }
        Ok(())
    }
}

/// What they all know.
struct Target {
    address: SocketAddr,
    lasted: Lasted,
    /// The record that is larger than it looks.
    bomb: Vec<u8>,
}

/// Attacks a server with a crowd for some time, from this thread's network namespace. `plan` tells the time.
pub async fn attack(
    address: SocketAddr,
    keys: &Keys,
    plan: Plan,
    crowd: &[(Kind, usize)],
    lasts: Duration,
) -> Result<Lasted> {
    let lasted = Lasted::default();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3)?;
    let target = Arc::new(Target { address, lasted: lasted.clone(), bomb });
    let mut tasks = JoinSet::new();
    let mut shown: Option<(String, Arc<ClientConfig>)> = None;
    for (number, kind) in crowd.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).enumerate() {
        if number % PER_IDENTITY == 0 || shown.is_none() {
            let node = format!("hostile-{}", number / PER_IDENTITY);
            let config = client(keys.ca(), Some(&keys.pair(&node)), &version::TLS13);
            shown = Some((node, config));
        }
        let Some((node, config)) = shown.clone() else { continue };
        let target = Arc::clone(&target);
        tasks.spawn(async move {
            loop {
                let begin = SystemClock.boot();
                // However it ended, it ended.
                let _ = live(kind, &target, &node, Arc::clone(&config), plan).await;
                let lasted = SystemClock.boot().since(begin);
                target.lasted.note(kind, |fate| {
                    fate.ended += 1;
                    fate.longest = fate.longest.max(lasted);
                });
                sleep(PAUSE).await;
            }
        });
    }
    sleep(lasts).await;
    tasks.shutdown().await;
    Ok(lasted)
}

/// One connection of a client, to its end.
async fn live(kind: Kind, target: &Target, node: &str, config: Arc<ClientConfig>, plan: Plan) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    if kind == Kind::Unread {
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
    }
    let mut tcp: TcpStream = socket.connect(target.address).await?;
    if kind == Kind::Silent {
        let _end = tcp.read(&mut [0]).await?;
        return Ok(());
    }
    let mut stream = over(tcp, target.address, config).await?;
    target.lasted.note(kind, |fate| fate.entered += 1);
    if kind == Kind::Slow {
        for byte in PREFACE.iter().cycle() {
            stream.write_all(&[*byte]).await?;
            // Whatever is heard meanwhile, it goes on until it is hung up on.
            if let Ok(heard) = timeout(SLOW, drain(&mut stream)).await {
                return heard;
            }
        }
    }
    stream.write_all(PREFACE).await?;
    match kind {
        Kind::Unread => unread(&mut stream, node, plan).await,
        Kind::Resetter => resets(&mut stream).await,
        Kind::Large => {
            let first = [&prefix(64 << 20)[..], &vec![0; WINDOW - 5]].concat();
            stream.write_all(&call(1, STREAM, &[])).await?;
            for part in first.chunks(PIECE) {
                stream.write_all(&frame(DATA, 0, 1, part)).await?;
            }
            drain(&mut stream).await
        }
        Kind::Bomb => {
            let record = Record {
                stream_id: vec![1; 16],
                sequence: 1,
                payload_hash: convert::payload_hash(&target.bomb).to_vec(),
                payload: target.bomb.clone().into(),
            };
            let record = StreamRequest { message: Some(Up::Record(record)) };
            stream.write_all(&call(1, STREAM, &[])).await?;
            stream.write_all(&message(1, &hello(node, plan).encode_to_vec())).await?;
            stream.write_all(&message(1, &record.encode_to_vec())).await?;
            stream.write_all(&call(3, STREAM, &[("grpc-encoding", "gzip")])).await?;
            let claims = [&[1, 0, 0, 0, 8][..], &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]].concat();
            stream.write_all(&frame(DATA, 0, 3, &claims)).await?;
            drain(&mut stream).await
        }
        Kind::Headers => {
            let more: Vec<u8> = (0..60).flat_map(|n| field(&format!("x-{n}"), &"y".repeat(100))).collect();
            stream.write_all(&call_to_be_continued(1, STREAM, &[])).await?;
            loop {
                stream.write_all(&frame(CONTINUATION, 0, 1, &more)).await?;
            }
        }
        Kind::Silent | Kind::Slow => Ok(()),
    }
}

/// Reads until the end.
async fn drain(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let mut bytes = vec![0; 16 << 10];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

async fn unread(stream: &mut TlsStream<TcpStream>, node: &str, plan: Plan) -> Result<()> {
    let open = OpenStream { stream_id: identity(node), highest_sequence: 0, acked_sequence: 0 };
    let open = StreamRequest { message: Some(Up::OpenStream(open)) }.encode_to_vec();
    stream.write_all(&call(1, STREAM, &[])).await?;
    stream.write_all(&message(1, &hello(node, plan).encode_to_vec())).await?;
    // Hundreds of questions in each frame: small frames would be a fault of another kind.
    let many = [&prefix(open.len() as u32)[..], &open].concat();
    for _ in 0..WINDOW / 2 / PIECE {
        stream.write_all(&frame(DATA, 0, 1, &many.repeat(PIECE / many.len()))).await?;
    }
    // Still there, and still not reading.
    loop {
        sleep(PING_EVERY).await;
        stream.write_all(&frame(crate::raw::PING, 0, 0, &[0; 8])).await?;
    }
}

async fn resets(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    let mut number = 1;
    loop {
        let mut burst = Vec::new();
        for _ in 0..40 {
            burst.extend(call(number, STREAM, &[]));
            burst.extend(frame(RST_STREAM, 0, number, &8_u32.to_be_bytes()));
            number += 2;
        }
        stream.write_all(&burst).await?;
        // What is said is read, so that it is no fault of the other kind.
        if let Ok(ended) = timeout(Duration::from_millis(50), drain(stream)).await {
            return ended;
        }
    }
}

/// A stream of a node's own.
fn identity(node: &str) -> Vec<u8> {
    convert::payload_hash(node.as_bytes()).to_vec()
}

fn hello(node: &str, plan: Plan) -> StreamRequest {
    let inventory = Plan::inventory(0).map(|inventory| convert::inventory_to_hello(&inventory)).unwrap_or_default();
    let hello = Hello {
        node: node.to_owned(),
        streams: vec![OpenStream { stream_id: identity(node), highest_sequence: 0, acked_sequence: 0 }],
        session_epoch: 1,
        boot_id: plan.boot_id(0).0.to_vec(),
        boot_time_nanos: RigClock.boot().0,
        wall_time_unix_nanos: RigClock.wall().0,
        ..inventory
    };
    StreamRequest { message: Some(Up::Hello(hello)) }
}
