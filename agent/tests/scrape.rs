//! Scrapes of a server made for the test, with a process table made for the test.

#![expect(clippy::expect_used, reason = "a test ends at what it did not expect")]

use joulebook_agent::clock::Clock;
use joulebook_agent::inference::preset::Presets;
use joulebook_agent::inference::{CountSample, Inference, TargetConfig, start};
use joulebook_units::{BootNanos, CountKind, UnixNanos, VersionSource};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[path = "scrape/bad_inputs.rs"]
mod bad_inputs;
#[path = "scrape/gateways.rs"]
mod gateways;
#[path = "scrape/identity.rs"]
mod identity;
#[path = "scrape/services.rs"]
mod services;

/// A clock that moves one second with each look.
struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn boot(&self) -> BootNanos {
        BootNanos(self.0.fetch_add(1_000_000_000, Ordering::Relaxed))
    }
    fn wall(&self) -> UnixNanos {
        UnixNanos(0)
    }
}

/// What a path answers.
#[derive(Clone)]
enum Answer {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// The first bytes, then the second ones again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// The first bytes, then a blank each second for ever.
    Drip(Vec<u8>),
}

/// Answers per path; everything else is 404.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<BTreeMap<&'static str, Answer>>>,
    /// Paths asked for.
    asked: Arc<Mutex<Vec<String>>>,
    /// Bytes sent of endless answers.
    sent: Arc<AtomicU64>,
}

impl Server {
    async fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        request.push(byte);
                    }
                    let request = String::from_utf8(request).expect("text");
                    // Questions that are put by POST hold an empty object.
                    let mut body = vec![0; if request.starts_with("POST ") { 2 } else { 0 }];
                    let Ok(_) = stream.read_exact(&mut body).await else { return };
                    let path = request.split(' ').nth(1).expect("a path");
                    server.asked.lock().expect("lock").push(path.to_owned());
                    let absent = Answer::Bytes(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec());
                    let answer = server.answers.lock().expect("lock").get(path).cloned().unwrap_or(absent);
                    // The other side may hang up first: that is what some tests are about.
                    let _ = server.send(stream, answer).await;
                });
            }
        });
        port
    }

    async fn send(&self, mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
        match answer {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await,
            Answer::Endless(first, again) => {
                stream.write_all(&first).await?;
                loop {
                    stream.write_all(&again).await?;
                    self.sent.fetch_add(again.len() as u64, Ordering::Relaxed);
                }
            }
            Answer::Drip(first) => {
                stream.write_all(&first).await?;
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    stream.write_all(b" ").await?;
                }
            }
        }
    }

    fn answer(&self, path: &'static str, answer: Answer) {
        self.answers.lock().expect("lock").insert(path, answer);
    }

    fn raw(&self, path: &'static str, answer: impl Into<Vec<u8>>) {
        self.answer(path, Answer::Bytes(answer.into()));
    }

    fn says(&self, path: &'static str, body: &str) {
        self.raw(path, format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }

    fn llamacpp(&self, prompt: u64, cached: u64, output: u64) {
        let line = |name: &str, value: u64| format!("# TYPE llamacpp:{name} counter\nllamacpp:{name} {value}\n");
        let counters = [
            ("prompt_tokens_total", prompt),
            ("prompt_tokens_cached_total", cached),
            ("tokens_predicted_total", output),
        ];
        self.says("/metrics", &counters.map(|(name, value)| line(name, value)).concat());
        self.says("/v1/models", r#"{"data":[{"id":"tiny-chat"}]}"#);
        self.says("/props", r#"{"model_path":"w.gguf"}"#);
    }
}

/// A process table with one process that listens at `port` and maps a weights file.
struct Table(tempfile::TempDir);

impl Table {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("folder");
        fs::create_dir(root.path().join("net")).expect("folder");
        fs::create_dir(root.path().join("weights")).expect("folder");
        Self(root)
    }

    fn listens(&self, port: u16, pid: i32, start_seconds: u64, version: &str) {
        let root = self.0.path();
        let table = format!("head\n 0: 0100007F:{port:04X} 00000000:0000 0A 0:0 0:0 0 0 0 {pid}000 1\n");
        fs::write(root.join("net/tcp"), table).expect("table");
        let folder = root.join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).expect("folder");
        let ticks = start_seconds * 100;
        fs::write(folder.join("stat"), format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {ticks} 0 0"))
            .expect("stat");
        symlink(format!("socket:[{pid}000]"), folder.join("fd/3")).expect("fd");
        symlink("../weights", folder.join("root")).expect("root");
        let name = format!("{version}.gguf");
        fs::write(root.join("weights").join(&name), gguf(version)).expect("weights");
        let inode = fs::metadata(root.join("weights").join(&name)).expect("weights").ino();
        fs::write(folder.join("maps"), format!("1-2 r--s 0 fe:00 {inode}   /{name}\n")).expect("maps");
    }
}

fn gguf(version: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let head = [&b"GGUF"[..], &3_u32.to_le_bytes(), &0_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
    [head, text("general.version"), 8_u32.to_le_bytes().to_vec(), text(version)].concat()
}

fn presets() -> Presets {
    Presets::built_in().expect("valid")
}

fn run(urls: &[String], procfs: &Path) -> Inference {
    run_as("llamacpp", urls, procfs)
}

fn run_as(preset: &str, urls: &[String], procfs: &Path) -> Inference {
    let config = |url: &String| -> TargetConfig {
        toml::from_str(&format!("url = \"{url}\"\npreset = \"{preset}\"\nreserved_cores = 0.5\ninterval = \"1h\""))
            .expect("legal")
    };
    // The agent starts in second 1,000 of the boot.
    let clock = Arc::new(StepClock(AtomicU64::new(1_000_000_000_000)));
    start(urls.iter().map(config).collect(), &presets(), procfs.to_owned(), clock).expect("legal")
}

/// The newest sample after one more scrape.
async fn scraped(inference: &mut Inference) -> Option<CountSample> {
    inference.scraper().scrape_now().await;
    let mut last = None;
    while let Ok(sample) = inference.samples.try_recv() {
        last = Some(sample);
    }
    last
}

fn tokens(sample: &CountSample) -> [Option<u64>; 3] {
    [CountKind::InputTokens, CountKind::CachedTokens, CountKind::OutputTokens]
        .map(|kind| sample.counts.get(&kind).copied())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn failures(inference: &Inference) -> Vec<&'static str> {
    inference.failures.borrow().keys().map(|failure| failure.reason).collect()
}

#[tokio::test]
async fn a_server_that_started_after_the_agent_counts_from_zero_with_its_start_as_origin() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.llamacpp(17, 23, 58);
    let mut inference = run(&[url(port)], table.0.path());
    let first = inference.samples.recv().await.expect("a sample");
    assert_eq!(tokens(&first), [Some(40), Some(23), Some(58)]);
    assert_eq!(first.origin, Some(BootNanos(1_001_000_000_000)));
    assert!(!first.counts.contains_key(&CountKind::RequestsOk), "requests are unknown, not 0");
    let service = &first.service;
    assert_eq!((service.model.as_deref(), service.version.as_deref()), (Some("tiny-chat"), Some("1.0")));
    assert_eq!((service.version_source, service.engine.as_str()), (VersionSource::Process, "llamacpp"));
    assert!(service.fingerprint.as_ref().is_some_and(|print| print.starts_with("gguf-blake3:")));
    let groups = inference.groups.borrow().clone();
    assert_eq!((groups[0].pid, groups[0].start_ticks, groups[0].reserved_millicores), (41, 100_100, Some(500)));
    server.llamacpp(20, 23, 60);
    let second = scraped(&mut inference).await.expect("a sample");
    assert_eq!((tokens(&second), second.origin), ([Some(43), Some(23), Some(60)], None));
}

#[tokio::test]
async fn a_server_that_was_there_before_the_agent_is_a_baseline() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 999, "1.0");
    server.llamacpp(17, 23, 58);
    let mut inference = run(&[url(port)], table.0.path());
    let first = inference.samples.recv().await.expect("a sample");
    assert_eq!((tokens(&first), first.origin), ([Some(0), Some(0), Some(0)], None));
    assert_eq!(first.shown.get(&CountKind::OutputTokens), Some(&58));
    server.llamacpp(17, 23, 59);
    assert_eq!(scraped(&mut inference).await.map(|sample| tokens(&sample)), Some([Some(0), Some(0), Some(1)]));
}

#[tokio::test]
async fn another_process_at_the_port_is_another_version_and_counts_from_zero() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 999, "1.0");
    server.llamacpp(17, 23, 58);
    let mut inference = run(&[url(port)], table.0.path());
    let before = inference.samples.recv().await.expect("a sample");
    fs::remove_dir_all(table.0.path().join("41")).expect("the old process ends");
    table.listens(port, 42, 1_010, "2.0");
    // Higher than the old values: only the process tells that these count from 0.
    server.llamacpp(100, 200, 300);
    let after = scraped(&mut inference).await.expect("a sample");
    assert_eq!(after.service.version.as_deref(), Some("2.0"));
    assert_ne!(after.service.fingerprint, before.service.fingerprint);
    assert_eq!((tokens(&after), after.origin), ([Some(300), Some(200), Some(300)], Some(BootNanos(1_010_000_000_000))));
    assert_eq!(inference.groups.borrow().iter().map(|group| group.pid).collect::<Vec<_>>(), [42]);
}

#[tokio::test]
async fn a_failed_scrape_loses_no_count() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.llamacpp(1, 0, 1);
    let mut inference = run(&[url(port)], table.0.path());
    inference.samples.recv().await.expect("a sample");
    let redirect = "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n";
    server.says("/other", "# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total 9\n");
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'\n'; (16 << 20) + 1]].concat();
    let login = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>";
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n# TYPE a counter\n";
    for (answer, reason) in [
        (redirect.as_bytes().to_vec(), "redirect"),
        (endless, "scrape_too_large"),
        (login.into(), "form"),
        (short.into(), "http"),
        (b"HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n".to_vec(), "status"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n".to_vec(), "signature"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n<h1>".to_vec(), "parse"),
    ] {
        server.raw("/metrics", answer);
        assert_eq!(scraped(&mut inference).await, None, "{reason}");
        assert!(failures(&inference).contains(&reason), "{reason}: {:?}", failures(&inference));
    }
    server.llamacpp(5, 1, 7);
    assert_eq!(scraped(&mut inference).await.map(|sample| tokens(&sample)), Some([Some(6), Some(1), Some(7)]));
}

#[tokio::test]
async fn one_unreachable_target_does_not_concern_the_others() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    // Bound but not listening: it refuses, and no other test can get the port.
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind("127.0.0.1:0".parse().expect("address")).expect("a port");
    let closed = url(closed.local_addr().expect("bound").port());
    server.llamacpp(1, 1, 1);
    let mut inference = run(&[closed.clone(), url(port)], table.0.path());
    assert_eq!(scraped(&mut inference).await.map(|sample| sample.service.target), Some(url(port)));
    let failures = inference.failures.borrow().clone();
    let of = |target: &str| {
        failures.keys().filter(|failure| failure.target == target).map(|failure| failure.reason).collect()
    };
    let (unreachable, reached): (Vec<_>, Vec<_>) = (of(&closed), of(&url(port)));
    assert_eq!((unreachable, reached), (vec!["connect"], vec!["process_unknown"]));
}

#[tokio::test]
async fn counts_wait_for_an_engine_that_cannot_yet_say_what_it_serves() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.llamacpp(1, 2, 3);
    server.raw("/v1/models", "HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n");
    let mut inference = run(&[url(port)], table.0.path());
    assert_eq!(scraped(&mut inference).await, None);
    assert!(failures(&inference).contains(&"identity"));
    server.llamacpp(1, 2, 4);
    let sample = scraped(&mut inference).await.expect("a sample");
    assert_eq!((sample.service.model.as_deref(), tokens(&sample)), (Some("tiny-chat"), [Some(3), Some(2), Some(4)]));
}

#[tokio::test]
async fn a_process_that_was_out_of_sight_is_not_counted_twice() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.llamacpp(0, 0, 100);
    let mut inference = run(&[url(port)], table.0.path());
    inference.samples.recv().await.expect("a sample");
    fs::remove_dir_all(table.0.path().join("41")).expect("the old process ends");
    // The new process counts 10 while nobody can see it, and 5 more after that.
    server.llamacpp(0, 0, 10);
    scraped(&mut inference).await.expect("a sample");
    table.listens(port, 42, 1_010, "2.0");
    server.llamacpp(0, 0, 15);
    let sample = scraped(&mut inference).await.expect("a sample");
    assert_eq!((sample.service.version.as_deref(), tokens(&sample)[2]), (Some("2.0"), Some(5)));
}

#[tokio::test]
async fn the_same_target_twice_is_refused() {
    let config =
        || toml::from_str::<TargetConfig>("url = \"http://127.0.0.1:1\"\npreset = \"llamacpp\"").expect("legal");
    let clock = Arc::new(StepClock(AtomicU64::new(0)));
    let error = start(vec![config(), config()], &presets(), "/proc".into(), clock).expect_err("refused").to_string();
    assert!(error.contains("target[1].url"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_fails_after_the_total_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut inference = run(&[url(port)], Table::new().0.path());
    assert_eq!(scraped(&mut inference).await, None);
    assert!(failures(&inference).contains(&"timeout"));
}
