//! Figures for other systems over a generated hour whose end is now: an exporter with its page, and the query service
//! that the command line asks.

#![allow(clippy::expect_used, reason = "functions that tests call may fail the test")]

use crate::aggregator::{Aggregator, At};
use crate::history::{DeviceStep, History, SECOND, Step, WallStep, dictionary, history};
use joulebook_aggregator::clock::Clock;
use joulebook_aggregator::export::config::ExportSection;
use joulebook_aggregator::export::listener::{Pages, serve};
use joulebook_aggregator::export::live::Live;
use joulebook_aggregator::export::{Exporter, Snapshot};
use joulebook_aggregator::factor::{FactorConfig, Factors};
use joulebook_aggregator::ingest::Counters;
use joulebook_aggregator::query::Query;
use joulebook_aggregator::store::block::factor::SeriesSubject;
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_aggregator::store::space::{Least, Space};
use joulebook_sci::quantity::Quantity;
use joulebook_sci::series::Status;
use joulebook_units::{Column, CountKind, OwnProgram, Service, Subject, UnixNanos, Window};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// Rows of 5 s of a generated history: an hour and a quarter.
const ROWS: usize = 900;

/// A clock that the test moves.
pub struct Hand(AtomicI64);

impl Hand {
    /// Stands at an instant.
    pub fn at(instant: UnixNanos) -> Self {
        Self(AtomicI64::new(instant.0))
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn unix(&self) -> UnixNanos {
        UnixNanos(self.0.load(Ordering::SeqCst))
    }
}

/// An aggregator's answers and figures. Everything ends with it.
pub struct Exported {
    /// Where the command line asks.
    pub answers: String,
    /// Where the page is.
    pub page: SocketAddr,
    /// The figures of the last step.
    pub figures: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Counters.
    pub counters: Arc<Counters>,
    clock: Arc<Hand>,
    _stop: watch::Sender<bool>,
    _tasks: JoinSet<()>,
    /// Goes when nothing writes into it any more.
    _folder: TempDir,
}

/// What a node does in an hour and a quarter: it serves two versions, and now and then nothing. `running` are the further
/// workloads that always run, one a bit.
fn steps(node: u64, running: u8) -> Vec<Step> {
    let device = |number: u64, place: u64| DeviceStep {
        microjoules: 900_000_000 + (number * 7 + place * 13 + node) % 50 * 10_000_000,
        integrated_microjoules: 900_000_000 + (number * 7 + place * 13 + node) % 50 * 10_000_000,
        busy_nanos: if (number / 60).is_multiple_of(3) { 0 } else { 2 * SECOND },
        held_bytes: (20 + place * 10) << 30,
        users: 1,
        listed: true,
    };
    let step = |number: u64| Step {
        nanos: 5 * SECOND,
        microjoules: 300_000_000 + (number * 11 + node) % 40 * 5_000_000,
        cpu_nanos: SECOND,
        tokens: if (number / 60).is_multiple_of(3) { 0 } else { 400 + node * 10 },
        scraped: true,
        gap: false,
        ends_batch: false,
        running: running | if number % 200 < 90 { 1 << 3 } else { 0 },
        devices: [device(number, 0), device(number, 1)],
        wall: WallStep { microjoules: 2_400_000_000, told: 0, broken: 0 },
    };
    (0..ROWS as u64).map(step).collect()
}

/// As many prompt tokens as generated ones, so that the score is per token. Returns what all series measure.
fn with_input_tokens(histories: &mut [History]) -> Vec<(u32, Subject)> {
    /// Far beyond the series that are there.
    const BEYOND: u32 = 1_000;
    let mut all = dictionary();
    let generated: Vec<(u32, Arc<Service>)> = all
        .iter()
        .filter_map(|(id, subject)| match subject {
            Subject::Count(service, CountKind::OutputTokens) => Some((*id, service.clone())),
            _ => None,
        })
        .collect();
    for batch in histories.iter_mut().flat_map(|history| &mut history.batches) {
        let counted = batch.columns.iter().filter(|column| generated.iter().any(|(id, _)| *id == column.series));
        let prompts: Vec<Column> =
            counted.map(|column| Column { series: column.series + BEYOND, ..column.clone() }).collect();
        batch.columns.extend(prompts);
    }
    all.extend(
        generated.into_iter().map(|(id, service)| (id + BEYOND, Subject::Count(service, CountKind::InputTokens))),
    );
    all
}

/// Model and version of both services that a history with hostile names serves: what would end a label, a line of the page, a
/// template or a selector, drives a terminal's direction, or is far longer than a label; all of it passes on the wire.
pub fn hostile_names() -> [[String; 2]; 2] {
    [
        ["\"} 1 # {{model}} $__all \\n joulebook_injected{a=\"".to_owned(), "é😀".repeat(150)],
        ["\u{202e}\u{feff}../../<b>\\".to_owned(), "\",window=\"1h\"} 7e9 or vector(1) \\".to_owned()],
    ]
}

/// Gives the services of a dictionary those names.
fn rename(dictionary: &mut [(u32, Subject)]) {
    let [first, second] = hostile_names();
    for (_, subject) in dictionary {
        if let Subject::Count(service, _) = subject {
            let [model, version] = if service.version.as_deref() == Some("1") { &first } else { &second };
            let service = Arc::make_mut(service);
            service.model = Some(model.clone());
            service.version = Some(version.clone());
        }
    }
}

/// The further workload that can be a node's agent, as a bit, and its identity.
const AGENT: (u8, &str) = (1 << 2, "process/9");

/// Makes it one.
fn with_agent(dictionary: &mut [(u32, Subject)]) {
    for (_, subject) in dictionary {
        if let Subject::CpuTime(workload) = subject
            && workload.id == AGENT.1
        {
            OwnProgram::Agent.name().clone_into(&mut Arc::make_mut(workload).name);
        }
    }
}

/// A series of factors of another site, whose age is shown.
fn push_factor(aggregator: &Aggregator) {
    let subject = SeriesSubject {
        quantity: Quantity::Pue,
        kind: None,
        basis: None,
        zone: "hall".to_owned(),
        source: "generated".to_owned(),
    };
    let end = aggregator.now.floor_to(3600);
    let hour = Window::new(end.plus_seconds(-3600), end).expect("ordered");
    let cells = [(hour, 1.25, Status::Measured)];
    aggregator.book.record_factors("hall", &subject, &cells, aggregator.now).expect("memory does not fail");
}

impl Exported {
    /// Two nodes, of which the second is simulated; the clock stands five minutes before the end of what they told.
    ///
    /// # Panics
    /// If one of its parts does not start.
    pub async fn start(section: ExportSection) -> Self {
        Self::named(section, 0, |_| ()).await
    }

    /// The same, and what they serve has the names of [`hostile_names`].
    ///
    /// # Panics
    /// If one of its parts does not start.
    pub async fn of_hostile_names(section: ExportSection) -> Self {
        Self::named(section, 0, rename).await
    }

    /// The same, and a process of each node is its agent.
    ///
    /// # Panics
    /// If one of its parts does not start.
    pub async fn with_agents(section: ExportSection) -> Self {
        Self::named(section, AGENT.0, with_agent).await
    }

    async fn named(section: ExportSection, running: u8, name: impl FnOnce(&mut [(u32, Subject)])) -> Self {
        let mut histories: Vec<History> =
            (0u8..2).map(|index| history(index, &steps(u64::from(index), running))).collect();
        let mut dictionary = with_input_tokens(&mut histories);
        name(&mut dictionary);
        let mut aggregator =
            Aggregator::of(Arc::new(MemoryStore::default()), &histories, &dictionary).expect("memory does not fail");
        for (index, history) in histories.iter().enumerate() {
            (0..history.batches.len()).for_each(|record| aggregator.send(index, history, record));
        }
        aggregator.settle();
        push_factor(&aggregator);
        Self::of(&aggregator, section).await
    }

    async fn of(aggregator: &Aggregator, section: ExportSection) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (book, now) = (Arc::clone(&aggregator.book), aggregator.now);
        // A step before the end of what they told, so that a test can let one more close.
        let clock = Arc::new(Hand::at(now.plus_seconds(-300)));
        let factors = Factors::new(&FactorConfig::default()).expect("the embedded tables");
        let factors = watch::channel(Arc::new(factors)).1;
        let counters = Arc::new(Counters::default());
        counters.set("intake_open", 1);
        let query = || Query::new(Arc::clone(&book), factors.clone(), Arc::new(At(now)));
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let answers = format!("http://{}", listener.local_addr().expect("bound"));
        let service = query().into_server();
        tasks.spawn(async move {
            let serving = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
            serving.await.expect("serving");
        });

        let (told, figures) = watch::channel(None);
        let exporter = Exporter {
            query: query(),
            section,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            counters: Arc::clone(&counters),
        };
        tasks.spawn(exporter.run(told));
        let live = Live {
            book: Arc::clone(&book),
            counters: Arc::clone(&counters),
            factors: factors.clone(),
            feeds: Arc::default(),
            space: Arc::new(Space::new(folder.path(), Least { percent: 0.0, bytes: 0 })),
            told: None,
            started: now,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let page = listener.local_addr().expect("bound");
        let pages = Pages { live, figures: figures.clone(), counters: Arc::clone(&counters), tls: None };
        tasks.spawn(serve(pages, listener, stopping));
        let mut this = Self { answers, page, figures, counters, clock, _stop: stop, _folder: folder, _tasks: tasks };
        this.figures.wait_for(Option::is_some).await.expect("figures");
        this
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// What the command line answers to words and a window.
    ///
    /// # Panics
    /// If it has no answer.
    pub async fn ask(&self, words: &[&str], window: (UnixNanos, UnixNanos)) -> Value {
        let at = |at: UnixNanos| jiff::Timestamp::from_nanosecond(i128::from(at.0)).expect("a time").to_string();
        let (from, to) = (at(window.0), at(window.1));
        let tail = ["-o", "json", "--from", &from, "--to", &to, "--aggregator", &self.answers, "--timeout", "60s"];
        let all = ["joulebook"].iter().chain(words).chain(&tail).map(|word| (*word).into()).collect();
        let (mut out, mut error) = (Vec::new(), Vec::new());
        let code = joulebook::run(all, &mut out, &mut error).await;
        assert_eq!(code, 0, "joulebook {words:?}: {}", String::from_utf8_lossy(&error));
        serde_json::from_slice(&out).expect("JSON")
    }
}
