//! Many nodes that send as fast as it is acknowledged, to us or to a peer.

use crate::ours::{Ours, Session};
use crate::peer::Peer;
use crate::workload::Node;
use anyhow::Result;
use joulebook_units::UnixNanos;
use std::net::TcpStream;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Sessions that are begun at once: a node whose handshake had to wait for more would be cut off.
const BEGINNING: usize = 32;
/// Connections of a peer that are written on at once.
const WRITING: u32 = 32;

/// Tells our aggregator what `told` nodes tell from `begin` on, in turn until there are so many streams. Their sessions, which
/// are still open.
pub async fn ours(ours: &Arc<Ours>, told: &Arc<Vec<Node>>, streams: u32, begin: UnixNanos) -> Result<Vec<Session>> {
    let (mut tasks, beginning) = (JoinSet::new(), Arc::new(Semaphore::new(BEGINNING)));
    for number in 0..streams {
        let (ours, told, beginning) = (Arc::clone(ours), Arc::clone(told), Arc::clone(&beginning));
        tasks.spawn(async move {
            let node = &told[number as usize % told.len()];
            let permit = beginning.acquire().await?;
            let mut session = ours.connect(number, node).await?;
            drop(permit);
            session.send(node, begin).await?;
            anyhow::Ok(session)
        });
    }
    let mut sessions = Vec::new();
    while let Some(done) = tasks.join_next().await {
        sessions.push(done??);
    }
    Ok(sessions)
}

/// The same told to a peer, so many rows in a request. Its connections, one for each node, which are still open.
pub fn peer(peer: &Peer, told: &[Node], streams: u32, begin: i64, rows: usize) -> Result<Vec<TcpStream>> {
    let some = |first: u32| {
        let numbers = (first..streams).step_by(WRITING as usize);
        numbers.map(|number| peer.send(number, &told[number as usize % told.len()], begin, rows, None))
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (0..WRITING).map(|first| scope.spawn(move || some(first).collect::<Result<Vec<_>>>())).collect();
        let mut connections = Vec::new();
        for writer in writers {
            connections.extend(writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(connections)
    })
}
