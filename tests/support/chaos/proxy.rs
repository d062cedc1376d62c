//! A TCP proxy that does what a network can do to a session: delay, reset at a byte, silence, bits that turn, and bytes
//! that arrive after the next session has begun.

use anyhow::{Context, Result};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

const PIECE: usize = 16 << 10;
/// Time that bytes have to arrive before what they came on is reset.
const ARRIVE: Duration = Duration::from_millis(2);

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the agent.
    Up,
    /// To the agent.
    Down,
}

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Both ends are reset once so many bytes went this way.
    Reset(Way, u64),
    /// A bit of the byte behind so many ones turns.
    Flip(Way, u64),
    /// Every piece waits, both ways.
    Delay(Duration),
    /// Once so many bytes went up, the agent is reset; what it had sent by then goes up so much later.
    Late(u64, Duration),
}

/// Ways on which nothing goes while nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Silence {
    /// From the agent.
    pub up: bool,
    /// To the agent.
    pub down: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    faults: AtomicU64,
}

/// A proxy. It and its connections end when it is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    silence: watch::Sender<Silence>,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What a connection is pumped with.
#[derive(Clone)]
struct Pump {
    fault: Fault,
    silence: watch::Receiver<Silence>,
    counts: Arc<Counts>,
}

/// Why a direction ended.
enum Ended {
    /// Its sender closed it, or it broke.
    Closed,
    /// The fault was due.
    Due,
}

impl Proxy {
    /// Starts one before a server; `faults` says what happens to the connection with a number, from 0.
    pub async fn start(server: SocketAddr, faults: impl Fn(u64) -> Fault + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listening for a proxy")?;
        let address = listener.local_addr()?;
        let (silence, silent) = watch::channel(Silence::default());
        let counts = Arc::new(Counts::default());
        let pump = Pump { fault: Fault::None, silence: silent, counts: Arc::clone(&counts) };
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let number = pump.counts.connections.fetch_add(1, Ordering::Relaxed);
                let pump = Pump { fault: faults(number), ..pump.clone() };
                connections.spawn(async move {
                    // A server that is not there closes the connection: the agent sees that.
                    if let Ok(server) = TcpStream::connect(server).await {
                        pump.run(client, server).await;
                    }
                });
            }
        });
        Ok(Self { address, silence, counts, accepting })
    }

    /// Lets nothing pass on these ways, from now on and without a word; what waits passes when it ends.
    pub fn silence(&self, silence: Silence) {
        self.silence.send_replace(silence);
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Faults that happened so far.
    pub fn faults(&self) -> u64 {
        self.counts.faults.load(Ordering::Relaxed)
    }
}

impl Pump {
    async fn run(self, client: TcpStream, server: TcpStream) {
        // Both only keep the proxy from adding delay of its own.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let ended = {
            let up = self.copy(Way::Up, &mut from_client, &mut to_server);
            let down = self.copy(Way::Down, &mut from_server, &mut to_client);
            let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
            // One end that closes ends both: HTTP/2 has no use for a half of a connection.
            tokio::select! {
                ended = &mut up => ended,
                ended = &mut down => ended,
            }
        };
        if matches!(ended, Ended::Closed) {
            return;
        }
        self.counts.faults.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Late(_, wait) => {
                let sent = drain(&mut from_client).await;
                reset(from_client, to_client);
                sleep(wait).await;
                // The server may have closed it meanwhile, which is as good.
                let _ = to_server.write_all(&sent).await;
                sleep(ARRIVE).await;
            }
            _ => {
                sleep(ARRIVE).await;
                reset(from_client, to_client);
                reset(from_server, to_server);
            }
        }
    }

    /// Passes bytes on until the fault of this way is due.
    async fn copy(&self, way: Way, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> Ended {
        let due = match self.fault {
            Fault::Reset(which, after) if which == way => Some(after),
            Fault::Late(after, _) if way == Way::Up => Some(after),
            _ => None,
        };
        let (mut passed, mut piece) = (0_u64, vec![0; PIECE]);
        loop {
            let room = due.map_or(PIECE, |due| usize::try_from(due - passed).map_or(PIECE, |left| left.min(PIECE)));
            if room == 0 {
                return Ended::Due;
            }
            let Ok(count @ 1..) = from.read(&mut piece[..room]).await else { return Ended::Closed };
            self.speaks(way).await;
            if let Fault::Delay(delay) = self.fault {
                sleep(delay).await;
            }
            if let Fault::Flip(which, at) = self.fault
                && which == way
                && (passed..passed + count as u64).contains(&at)
            {
                piece[(at - passed) as usize] ^= 0x10;
                self.counts.faults.fetch_add(1, Ordering::Relaxed);
            }
            if to.write_all(&piece[..count]).await.is_err() {
                return Ended::Closed;
            }
            passed += count as u64;
        }
    }

    /// Waits while the way is silent.
    async fn speaks(&self, way: Way) {
        let is_silent = |silence: &Silence| if way == Way::Up { silence.up } else { silence.down };
        // A proxy that is gone has no connections.
        let _ = self.silence.clone().wait_for(|silence| !is_silent(silence)).await;
    }
}

/// What has arrived already.
async fn drain(from: &mut OwnedReadHalf) -> Vec<u8> {
    let mut bytes = Vec::new();
    sleep(ARRIVE).await;
    while from.try_read_buf(&mut bytes).is_ok_and(|count| count > 0) {}
    bytes
}

/// Ends a connection with RST instead of FIN.
fn reset(from: OwnedReadHalf, to: OwnedWriteHalf) {
    let reset: io::Result<()> = match from.reunite(to) {
        Ok(stream) => stream.set_zero_linger(),
        Err(error) => Err(io::Error::other(error)),
    };
    // Then it ends with FIN: the same for those who wait.
    drop(reset);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    /// A server that answers each byte with the same one.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    /// What comes back of these bytes, and how it ends.
    async fn back(proxy: &Proxy, bytes: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut back = Vec::new();
        let mut byte = [0];
        while back.len() < bytes.len() {
            match stream.read_exact(&mut byte).await {
                Ok(_) => back.push(byte[0]),
                Err(error) => return (back, Some(error.kind())),
            }
        }
        (back, None)
    }

    #[tokio::test]
    async fn a_connection_is_reset_at_the_byte_and_the_next_one_is_not() {
        let faults = |number| match number {
            0 => Fault::Reset(Way::Up, 0),
            1 => Fault::Reset(Way::Up, 3),
            2 => Fault::Reset(Way::Down, 2),
            3 => Fault::Flip(Way::Up, 1),
            _ => Fault::None,
        };
        let proxy = Proxy::start(echo().await, faults).await.unwrap();
        assert_eq!(back(&proxy, b"abcdef").await, (vec![], Some(ErrorKind::ConnectionReset)));
        let (some, end) = back(&proxy, b"abcdef").await;
        assert!(b"abc".starts_with(&some) && end == Some(ErrorKind::ConnectionReset), "{some:?} {end:?}");
        assert_eq!(back(&proxy, b"abcdef").await.1, Some(ErrorKind::ConnectionReset));
        assert_eq!(back(&proxy, b"abc").await, (b"arc".to_vec(), None));
        assert_eq!(back(&proxy, b"abcdef").await, (b"abcdef".to_vec(), None));
        assert_eq!((proxy.connections(), proxy.faults()), (5, 4));
    }

    #[tokio::test]
    async fn silence_holds_bytes_back_and_lets_them_pass_when_it_ends() {
        let proxy = Proxy::start(echo().await, |_| Fault::None).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let mut byte = [0];
        for silence in [Silence { up: true, down: false }, Silence { up: false, down: true }] {
            proxy.silence(silence);
            stream.write_all(b"x").await.unwrap();
            let read = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut byte)).await;
            assert!(read.is_err(), "{silence:?}: something passed");
            proxy.silence(Silence::default());
            stream.read_exact(&mut byte).await.unwrap();
        }
    }
}
