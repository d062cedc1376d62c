//! List and watch of one kind of object, for ever: pages of a list, then its changes from where the list stood, and
//! anew from a list where the API server does not know that place any more (410 Gone).

use super::config::PodsSection;
use super::object::{Any, Change, Event, NodeObject, Object, Page, PodObject};
use super::{CONNECTED, FAILURES, LISTS, REFUSED};
use crate::clock::Clock;
use crate::factor::http::{FetchError, Fetcher};
use crate::factor::provider::Ask;
use crate::ingest::Counters;
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Objects of a page: of the largest that are usual, a page stays below what an answer may hold.
const PAGE: u32 = 250;
/// How long the API server is asked to keep one watch open. A connection that is dead is noticed soon after.
const WATCH: Duration = Duration::from_secs(120);
/// How much longer than that is waited.
const LATE: Duration = Duration::from_secs(20);
/// Longest line of a watch. Objects of a cluster are at most 1.5 MiB.
const MAX_LINE: usize = 4 << 20;
/// First and longest pause after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Longest pause that the API server may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Pages of one list; more is no end.
const MAX_PAGES: usize = 10_000;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// Pods of all namespaces.
    Pods,
    /// Nodes, of which the labels are of use.
    Nodes,
}

impl Resource {
    fn path(self) -> &'static str {
        match self {
            Self::Pods => "/api/v1/pods",
            Self::Nodes => "/api/v1/nodes",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Nodes => "nodes",
        }
    }
}

/// Why a watch or a list ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The place is too old: everything is listed anew.
    #[error("the place of the watch is gone")]
    Gone,
    /// The API server cannot be asked, or does not answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The token cannot be read.
    #[error("reading the token {path}: {source}; mount a projected token of the service account there")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What it answers is no list.
    #[error("the answer is no list of {what}: {source}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A list without end.
    #[error("the list of {0} has no end")]
    Endless(&'static str),
    /// The watch was cut.
    #[error("the watch was cut: {0}")]
    Cut(#[from] hyper::Error),
    /// The API server says that something is wrong.
    #[error("the API server ended the watch with {code}: {message}")]
    Told {
        /// Its code.
        code: u16,
        /// What it says.
        message: String,
    },
    /// Nobody takes the changes.
    #[error("the aggregator stops")]
    Stopped,
}

/// One watch.
pub(super) struct Watcher {
    resource: Resource,
    server: String,
    token: PathBuf,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl Watcher {
    /// One that watches what the section says.
    pub(super) fn new(
        section: &PodsSection,
        resource: Resource,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            resource,
            server: section.api_server.trim_end_matches('/').to_owned(),
            token: section.token_file.clone(),
            fetcher: Fetcher::new(Some(section.ca_file.clone())),
            clock,
            counters,
        }
    }

    /// Runs until nobody takes the changes.
    pub(super) async fn run(self, to: mpsc::Sender<Change>) {
        match self.resource {
            Resource::Pods => self.follow::<PodObject>(&to, Change::Pods).await,
            Resource::Nodes => {
                let nodes = |names: BTreeSet<String>| {
                    Change::Nodes(names.iter().filter_map(|name| name.parse().ok()).collect())
                };
                self.follow::<NodeObject>(&to, nodes).await;
            }
        }
    }

    async fn follow<T: Object>(&self, to: &mpsc::Sender<Change>, listed: fn(BTreeSet<String>) -> Change) {
        let what = self.resource.name();
        let mut place: Option<String> = None;
        let mut pause = BACK_OFF.0;
        let mut was_well = true;
        loop {
            let began = Instant::now();
            let ended = match &mut place {
                None => match self.list::<T>(to, listed).await {
                    Ok(found) => {
                        self.counters.add(LISTS, 1);
                        place = Some(found);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Some(place) => self.watch::<T>(place, to, &mut was_well, &mut pause).await,
            };
            let error = match ended {
                // A watch that ends at once, over and over, must not become a flood.
                Ok(()) if began.elapsed() >= Duration::from_secs(1) => continue,
                Ok(()) => {
                    sleep(BACK_OFF.0).await;
                    continue;
                }
                Err(Broken::Stopped) => return,
                Err(error) => error,
            };
            if self.resource == Resource::Pods {
                self.counters.set(CONNECTED, 0);
            }
            if matches!(error, Broken::Gone) {
                tracing::info!(what, "the API server has forgotten the place of the watch: everything is listed anew");
                place = None;
            } else if was_well {
                tracing::warn!(what, %error, "the API server is not watched: what it told last stays in force");
                was_well = false;
                self.counters.add(FAILURES, 1);
            } else {
                self.counters.add(FAILURES, 1);
                tracing::debug!(what, %error, "the API server is still not watched");
            }
            let asked = match &error {
                Broken::Fetch(FetchError::Status { retry_after, .. }) => retry_after.map(|asked| asked.min(MAX_PAUSE)),
                _ => None,
            };
            sleep(asked.unwrap_or_else(|| jittered(pause))).await;
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Lists everything, and gives the place from which a watch goes on.
    async fn list<T: Object>(
        &self,
        to: &mpsc::Sender<Change>,
        listed: fn(BTreeSet<String>) -> Change,
    ) -> Result<String, Broken> {
        let what = self.resource.name();
        let (mut pods, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        let mut next = String::new();
        for _ in 0..MAX_PAGES {
            let mut query = format!("?limit={PAGE}");
            if !next.is_empty() {
                query.push_str("&continue=");
                query.push_str(&escaped(&next));
            }
            let ask = self.ask(&query)?;
            let bytes = self.fetcher.get(&ask, self.clock.unix()).await.map_err(gone)?;
            let page: Page<Box<RawValue>> =
                serde_json::from_slice(&bytes).map_err(|source| Broken::List { what, source })?;
            for item in page.items {
                let Some(change) = self.object::<T>(&item, false) else { continue };
                change.listed(&mut pods, &mut nodes);
                to.send(change).await.map_err(|_| Broken::Stopped)?;
            }
            if page.metadata.next.is_empty() {
                pods.extend(nodes.iter().map(ToString::to_string));
                to.send(listed(pods)).await.map_err(|_| Broken::Stopped)?;
                return Ok(page.metadata.resource_version);
            }
            next = page.metadata.next;
        }
        Err(Broken::Endless(what))
    }

    /// Watches from a place, which moves on, until the watch ends.
    async fn watch<T: Object>(
        &self,
        place: &mut String,
        to: &mpsc::Sender<Change>,
        was_well: &mut bool,
        pause: &mut Duration,
    ) -> Result<(), Broken> {
        let seconds = WATCH.as_secs();
        let from = escaped(place);
        let query = format!("?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={from}");
        let mut answer = self.fetcher.open(&self.ask(&query)?, self.clock.unix()).await.map_err(gone)?;
        if self.resource == Resource::Pods {
            self.counters.set(CONNECTED, 1);
        }
        if !std::mem::replace(was_well, true) {
            tracing::info!(what = self.resource.name(), "the API server is watched again");
        }
        let until = Instant::now() + WATCH + LATE;
        let mut lines = Lines::default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(frame) = timeout(left, answer.body.frame()).await else {
                // It was to end long ago: the connection is dead.
                return Ok(());
            };
            let Some(frame) = frame else { return Ok(()) };
            let Ok(part) = frame?.into_data() else { continue };
            // Something came, so the way is free again.
            *pause = BACK_OFF.0;
            self.counters.add(REFUSED, lines.push(&part));
            while let Some(line) = lines.next() {
                self.line::<T>(&line, place, to).await?;
            }
        }
    }

    /// Takes one line of a watch.
    async fn line<T: Object>(&self, line: &[u8], place: &mut String, to: &mpsc::Sender<Change>) -> Result<(), Broken> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(line) else {
            self.counters.add(REFUSED, 1);
            return Ok(());
        };
        let any: Option<Any> = serde_json::from_str(event.object.get()).ok();
        let is_gone = match event.kind.as_str() {
            "ERROR" => {
                let any = any.ok_or_else(|| Broken::Told { code: 0, message: String::new() })?;
                return Err(match any.code {
                    410 => Broken::Gone,
                    code => Broken::Told { code, message: any.message.chars().take(200).collect() },
                });
            }
            "ADDED" | "MODIFIED" => Some(false),
            "DELETED" => Some(true),
            // A bookmark, or what a later server may tell.
            _ => None,
        };
        if let Some(change) = is_gone.and_then(|is_gone| self.object::<T>(event.object, is_gone)) {
            to.send(change).await.map_err(|_| Broken::Stopped)?;
        }
        // After the change: a watch that breaks off in between tells it again.
        if let Some(any) = any.filter(|any| !any.metadata.resource_version.is_empty()) {
            *place = any.metadata.resource_version;
        }
        Ok(())
    }

    /// What an object means; one that cannot be read is counted and left out.
    fn object<T: Object>(&self, object: &RawValue, is_gone: bool) -> Option<Change> {
        match serde_json::from_str::<T>(object.get()) {
            Ok(object) => object.change(is_gone),
            Err(error) => {
                self.counters.add(REFUSED, 1);
                tracing::debug!(what = self.resource.name(), %error, "an object cannot be read and is left out");
                None
            }
        }
    }

    /// The token is read each time: it is renewed under the same name. (A small file in memory: that does not wait.)
    fn ask(&self, query: &str) -> Result<Ask, Broken> {
        let token = std::fs::read_to_string(&self.token);
        let token = token.map_err(|source| Broken::Token { path: self.token.clone(), source })?;
        let url = format!("{}{}{query}", self.server, self.resource.path());
        Ok(Ask { url, headers: vec![("authorization".into(), format!("Bearer {}", token.trim()))], secret: true })
    }
}

/// 410 is the answer to a place, or a page, that is too old.
fn gone(error: FetchError) -> Broken {
    match error {
        FetchError::Status { code: 410, .. } => Broken::Gone,
        error => Broken::Fetch(error),
    }
}

/// A pause of a half to the whole of what is given, so that nobody asks in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0u8];
    // Without randomness it is the whole.
    let part = getrandom::fill(&mut byte).map_or(255, |()| u32::from(byte[0]));
    pause / 2 + pause * part / 510
}

/// A text as it may stand in a query.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Cuts what comes into lines, within bounds.
#[derive(Default)]
struct Lines {
    waiting: Vec<u8>,
    /// How far it was looked at for a line's end.
    seen: usize,
    /// Whether the rest of a line that is too long is passed over.
    passes: bool,
}

impl Lines {
    /// Takes more in; gives how many lines were too long.
    fn push(&mut self, part: &[u8]) -> u64 {
        let mut part = part;
        if self.passes {
            let Some(end) = part.iter().position(|byte| *byte == b'\n') else { return 0 };
            self.passes = false;
            part = part.get(end + 1..).unwrap_or_default();
        }
        self.waiting.extend_from_slice(part);
        // What a frame holds is bounded by the client: only the line that is not over can grow.
        let open = self.waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if self.waiting.len() - open <= MAX_LINE {
            return 0;
        }
        self.waiting.truncate(open);
        self.passes = true;
        1
    }

    /// The next whole line.
    fn next(&mut self) -> Option<Vec<u8>> {
        let from = self.seen.min(self.waiting.len());
        let Some(end) = self.waiting.get(from..)?.iter().position(|byte| *byte == b'\n') else {
            self.seen = self.waiting.len();
            return None;
        };
        let mut line: Vec<u8> = self.waiting.drain(..=from + end).collect();
        line.pop();
        self.seen = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_frames_are_and_one_without_end_is_passed_over() {
        let mut lines = Lines::default();
        let mut found: Vec<String> = Vec::new();
        let mut too_long = 0;
        let long = "x".repeat(MAX_LINE);
        for part in ["{\"a\"", ":1}\n{}", "\n", &long, "y", "z\n{\"b\":2}\n"] {
            too_long += lines.push(part.as_bytes());
            while let Some(line) = lines.next() {
                found.push(String::from_utf8(line).expect("text"));
            }
        }
        assert_eq!((found, too_long), (vec!["{\"a\":1}".to_owned(), "{}".to_owned(), "{\"b\":2}".to_owned()], 1));
    }

    #[test]
    fn what_stands_in_a_query_is_escaped() {
        assert_eq!(escaped("12"), "12");
        assert_eq!(escaped("a b&c=/é"), "a%20b%26c%3D%2F%C3%A9");
    }

    #[test]
    fn pauses_differ_and_stay_within_half_and_whole() {
        let pause = Duration::from_secs(8);
        let all: BTreeSet<Duration> = (0..100).map(|_| jittered(pause)).collect();
        assert!(all.len() > 1 && all.iter().all(|one| *one >= pause / 2 && *one <= pause));
    }
}
