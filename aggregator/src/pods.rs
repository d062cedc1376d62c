//! The cluster's pods, listed and watched at the API server: each agent is told those of its own node, as a file of nodes
//! would tell them ([`crate::directory`]).
//!
//! Question: the library `kube`, or the two calls of the API that are needed here? `kube` 5.0 brings 55 crates, among them
//! a licence that `deny.toml` does not allow (`ar_archive_writer`, by way of its queries of JSON) and a second `base64`.
//! List and watch are two calls whose form has been stable since 2015, so they are made with the client that asks for
//! factors. A release of `kube` whose tree passes `deny.toml` would change that.
//!
//! Rights: `get`, `list` and `watch` of pods and nodes, nothing else. While the API server cannot be asked, what was told
//! last stays in force. A pod that is gone is told on for a while: agents see its work after the cluster forgot it.

mod book;
mod config;
mod object;
mod watch;

pub use config::{PodsError, PodsSection};

use crate::clock::Clock;
use crate::directory::Directories;
use crate::ingest::Counters;
use book::Book;
use object::Change;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as told_watch};
use tokio::time::{Instant, sleep_until};
use watch::{Resource, Watcher};

/// Times that everything was listed anew.
pub const LISTS: &str = "pod_lists_total";
/// Questions to the API server that failed; what was told before stays in force.
pub const FAILURES: &str = "pod_watch_failures_total";
/// Objects that could not be read or were too large.
pub const REFUSED: &str = "pods_refused_total";
/// Pods that were left out because there are too many.
pub const LEFT_OUT: &str = "pods_left_out_total";
/// Pods that are known, those that are gone and told on included.
pub const KNOWN: &str = "pods_known";
/// Whether the API server is being watched, 0 or 1.
pub const CONNECTED: &str = "pod_watch_connected";

/// Changes that wait for the book.
const WAITING: usize = 1024;
/// How long changes are gathered before agents are told.
const GATHER: Duration = Duration::from_millis(200);
/// How often pods that are gone are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Watches until it is dropped.
pub async fn follow(
    section: PodsSection,
    clock: Arc<dyn Clock>,
    told: told_watch::Sender<Arc<Directories>>,
    counters: Arc<Counters>,
) {
    for name in [LISTS, FAILURES, REFUSED, LEFT_OUT, KNOWN, CONNECTED] {
        counters.add(name, 0);
    }
    let (changes, waiting) = mpsc::channel(WAITING);
    let watcher = |resource| Watcher::new(&section, resource, Arc::clone(&clock), Arc::clone(&counters));
    let pods = watcher(Resource::Pods).run(changes.clone());
    let nodes = async {
        match section.node_labels {
            true => watcher(Resource::Nodes).run(changes.clone()).await,
            false => std::future::pending().await,
        }
    };
    let book = Book::new(section.most_pods, section.grace);
    let keep = keep(book, waiting, Arc::clone(&clock), told, Arc::clone(&counters));
    // None of them ends by itself.
    tokio::join!(pods, nodes, keep);
}

/// Takes changes into the book and tells what came of them.
async fn keep(
    mut book: Book,
    mut waiting: mpsc::Receiver<Change>,
    clock: Arc<dyn Clock>,
    told: told_watch::Sender<Arc<Directories>>,
    counters: Arc<Counters>,
) {
    let mut tell_at: Option<Instant> = None;
    let mut look_at = Instant::now() + LOOK;
    loop {
        tokio::select! {
            change = waiting.recv() => {
                let Some(change) = change else { return };
                counters.add(LEFT_OUT, book.take(change, clock.unix()));
            }
            () = sleep_until(tell_at.unwrap_or(look_at)) => {}
        }
        let now = Instant::now();
        if now >= look_at {
            book.forget(clock.unix());
            look_at = now + LOOK;
        }
        if !book.is_changed() {
            tell_at = None;
            continue;
        }
        let at = *tell_at.get_or_insert(now + GATHER);
        if now >= at {
            tell_at = None;
            counters.set(KNOWN, book.len() as u64);
            if let Some(directories) = book.directories(clock.unix()) {
                told.send_replace(Arc::new(directories));
            }
        }
    }
}
