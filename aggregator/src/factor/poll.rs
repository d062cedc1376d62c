//! Fills series from their sources: asks for what is missing, backs off where a source fails, and says how it is.
//!
//! Each source has a task of its own; a changed configuration starts all of them anew. What was recorded stays whatever
//! happens to a source: an answer of it is all or nothing.

use super::Factors;
use super::feed::{Feed, ProviderName};
use super::http::{FetchError, Fetcher};
use super::provider::{Ask, Cell, Provider, Unread, provider, read_csv};
use crate::admin::{FeedState, FeedStates};
use crate::clock::Clock;
use crate::ingest::Counters;
use crate::store::factors::{RecordError, Recorded};
use crate::store::space::Space;
use crate::store::{Book, StoreError};
use joulebook_sci::series::{Status, in_order, layer};
use joulebook_units::{UnixNanos, Window};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// First pause after a failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that is not asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Longest pause that a source may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(86_400);
/// What was measured is asked for again for so long: it may be corrected.
const AGAIN_SECONDS: i64 = 86_400;
/// Larger files are no secrets.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Successful looks at sources.
const POLLS: &str = "factor_polls_total";
/// Failed ones.
const FAILURES: &str = "factor_poll_failures_total";

/// Why a series was not filled.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An answer without values.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// The secret cannot be used. What is in it is not said.
    #[error("the secret {path} cannot be used: {why}")]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file cannot be read.
    #[error("reading {path} failed: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Answers contradict each other.
    #[error("two values for one instant, at {0} ns")]
    Conflict(i64),
    /// What it gave cannot be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What pollers share.
#[derive(Clone)]
pub struct Desk {
    /// Where cells are recorded.
    pub book: Arc<Book>,
    /// When it is.
    pub clock: Arc<dyn Clock>,
    /// How sources are.
    pub states: FeedStates,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The disk: while there is no room on it nothing is asked.
    pub space: Arc<Space>,
}

impl Desk {
    /// Fills the series of `factors` until it is dropped; a changed configuration is taken over.
    pub async fn run(self, mut factors: watch::Receiver<Arc<Factors>>) {
        loop {
            let current = Arc::clone(&factors.borrow_and_update());
            self.states.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let mut tasks = JoinSet::new();
            for feed in current.feeds().iter().filter(|feed| feed.provider.is_some()) {
                tasks.spawn(Poller::new(self.clone(), feed.clone()).run());
            }
            if factors.changed().await.is_err() {
                // Whoever could change it is gone: the aggregator stops, and this future with it.
                return std::future::pending().await;
            }
        }
    }
}

/// Fills one series.
pub struct Poller {
    desk: Desk,
    feed: Arc<Feed>,
    source: Option<Box<dyn Provider>>,
    fetcher: Fetcher,
    failures: u32,
    /// What the file was like that was read last.
    seen: Option<(u64, i64, i64, u64)>,
}

impl Poller {
    /// One that has asked nothing yet.
    pub fn new(desk: Desk, feed: Feed) -> Self {
        let (source, fetcher) = (provider(&feed), Fetcher::new(feed.config.ca_file.clone()));
        Self { desk, feed: Arc::new(feed), source, fetcher, failures: 0, seen: None }
    }

    /// The same with another limit of time for each answer.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self { fetcher: self.fetcher.within(limit), ..self }
    }

    async fn run(mut self) {
        loop {
            let pause = self.poll().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks once, notes how it went, and says how long to wait before the next time.
    #[tracing::instrument(name = "factor.fetch", skip_all, fields(series = %self.feed.name))]
    pub async fn poll(&mut self) -> Duration {
        let now = self.desk.clock.unix();
        let asked = self.fill(now).await;
        let pause = match &asked {
            Ok(_) => {
                self.failures = 0;
                self.desk.counters.add(POLLS, 1);
                self.feed.every
            }
            Err(error) => {
                self.desk.counters.add(FAILURES, 1);
                tracing::warn!(series = self.feed.name, %error, "a series of factors could not be filled");
                let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                match error {
                    PollError::Fetch(FetchError::Status { retry_after: Some(asked), .. }) => {
                        (*asked).clamp(doubled.min(self.feed.every), LONGEST_ASKED)
                    }
                    _ => doubled.max(self.feed.every.min(LONGEST_PAUSE)),
                }
            }
        };
        let next = UnixNanos(now.0.saturating_add(i64::try_from(pause.as_nanos()).unwrap_or(i64::MAX)));
        let state =
            FeedState { failure: asked.err().map(|error| error.to_string()).unwrap_or_default(), next: Some(next) };
        let mut states = self.desk.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(self.feed.name.clone(), state);
        pause
    }

    async fn fill(&mut self, now: UnixNanos) -> Result<Option<Recorded>, PollError> {
        if !self.desk.space.is_open() {
            return Ok(None);
        }
        if self.feed.provider == Some(ProviderName::Csv) {
            return self.read_file(now).await;
        }
        let Some(source) = &self.source else { return Ok(None) };
        let mut token = self.secret()?;
        if let Some(login) = source.login(&token)? {
            let body = self.fetcher.get(&login, now).await?;
            token = token_of(&body)?;
        }
        let Some(wanted) = self.wanted(now)? else { return Ok(None) };
        let (mut cells, mut failed) = (Vec::new(), None);
        for ask in source.asks(wanted, now, &token) {
            match self.answer(source.as_ref(), &ask, now).await {
                Ok(read) => cells.extend(read),
                // What came before it is good.
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let recorded = self.record(cells, now).await?;
        failed.map_or(Ok(Some(recorded)), Err)
    }

    async fn answer(&self, source: &dyn Provider, ask: &Ask, now: UnixNanos) -> Result<Vec<Cell>, PollError> {
        let body = self.fetcher.get(ask, now).await?;
        Ok(source.read(&body)?)
    }

    /// From the first time of which nothing but forecasts is known, or a day ago, to now.
    fn wanted(&self, now: UnixNanos) -> Result<Option<Window>, PollError> {
        let back = UnixNanos(now.0.saturating_sub(i64::try_from(self.feed.backfill.as_nanos()).unwrap_or(i64::MAX)));
        let Some(window) = Window::new(back, now) else { return Ok(None) };
        let known = self.desk.book.factors(&self.feed.name, window, None)?.cells;
        let settled: Vec<(Window, Status)> =
            known.iter().filter(|cell| cell.status > Status::Forecast).map(|cell| (cell.window, cell.status)).collect();
        let hole = layer(window, &settled).into_iter().find(|(_, known)| known.is_none()).map(|(part, _)| part.start());
        let again = now.plus_seconds(-AGAIN_SECONDS).max(back);
        let start = hole.map_or(again, |hole| hole.min(again));
        Ok(Window::new(start, now))
    }

    /// Answers may overlap: the better known value of a time counts.
    async fn record(&self, mut cells: Vec<Cell>, now: UnixNanos) -> Result<Recorded, PollError> {
        cells.sort_by_key(|(window, _, status)| (window.start(), window.end(), std::cmp::Reverse(*status)));
        cells.dedup_by(|later, kept| later.0 == kept.0 && later.2 < kept.2);
        let plain: Vec<(Window, f64)> = cells.iter().map(|(window, value, _)| (*window, *value)).collect();
        let order = in_order(&plain).map_err(|conflict| {
            PollError::Conflict(plain.get(conflict.second).map_or(0, |(window, _)| window.start().0))
        })?;
        let cells: Vec<Cell> = order.into_iter().filter_map(|place| cells.get(place).copied()).collect();
        let (book, feed) = (Arc::clone(&self.desk.book), Arc::clone(&self.feed));
        let recorded =
            tokio::task::spawn_blocking(move || book.record_factors(&feed.name, &feed.subject, &cells, now)).await;
        recorded.map_err(|error| io_error(&self.feed.name, &error.to_string()))?.map_err(PollError::from)
    }

    /// The secret, read anew each time; "" where the source needs none.
    fn secret(&self) -> Result<String, PollError> {
        let Some(path) = &self.feed.config.secret_file else { return Ok(String::new()) };
        let refused = |why: String| PollError::Secret { path: path.clone(), why };
        let file = File::open(path).map_err(|error| refused(error.to_string()))?;
        let mode = file.metadata().map_err(|error| refused(error.to_string()))?.mode();
        let exposed = if self.feed.config.secret_group_readable { 0o026 } else { 0o066 };
        if mode & exposed != 0 {
            return Err(refused(format!("others may read or write it: run `chmod 600 {}`", path.display())));
        }
        let mut text = String::new();
        file.take(MAX_SECRET_BYTES).read_to_string(&mut text).map_err(|error| refused(error.to_string()))?;
        let text = text.trim();
        if text.is_empty() { Err(refused("it is empty".to_owned())) } else { Ok(text.to_owned()) }
    }

    /// The file, if it has changed. What is wrong with it is said until it is right; the last good cells stay.
    async fn read_file(&mut self, now: UnixNanos) -> Result<Option<Recorded>, PollError> {
        let path = self.feed.config.path.clone().unwrap_or_default();
        let looked = look(&path)?;
        if self.seen == Some(looked) {
            return Ok(None);
        }
        let feed = Arc::clone(&self.feed);
        let read = tokio::task::spawn_blocking(move || {
            let file = File::open(&path).map_err(|source| PollError::File { path: path.clone(), source })?;
            Ok::<_, PollError>(read_csv(&feed, file)?)
        });
        let read = read.await.map_err(|error| io_error(&self.feed.name, &error.to_string()))??;
        if let Some(first) = read.refused.first() {
            tracing::warn!(
                series = self.feed.name,
                rows = read.refusals,
                first,
                "rows of a file of factors are refused"
            );
        }
        let recorded = self.record(read.cells, now).await?;
        self.seen = Some(looked);
        Ok(Some(recorded))
    }
}

/// Identity of a file's content: length, times, inode.
fn look(path: &Path) -> Result<(u64, i64, i64, u64), PollError> {
    let metadata: Metadata = path.metadata().map_err(|source| PollError::File { path: path.to_owned(), source })?;
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino()))
}

fn token_of(body: &[u8]) -> Result<String, Unread> {
    let document: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| Unread::Strange(error.to_string()))?;
    let token = document.get("token").and_then(serde_json::Value::as_str);
    token.map(str::to_owned).ok_or_else(|| Unread::Refused("the login gave no token".to_owned()))
}

fn io_error(name: &str, reason: &str) -> StoreError {
    StoreError::Io { what: format!("filling the series {name}"), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
