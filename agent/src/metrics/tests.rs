use super::listener::{bind, serve};
use super::*;
use crate::sampler::status::{SourceStatus, Status};
use crate::spool::{Spool, SpoolConfig};
use joulebook_proto::metrics::{Format, Kind, Metric, write};
use joulebook_units::{Component, Method, Microjoules, Milliwatts, Source, SourceState};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECOND: u64 = 1_000_000_000;

fn source(id: &str, unavailable: Option<&str>, stuck: bool) -> SourceStatus {
    let source = Source {
        id: id.to_owned(),
        component: Component::Cpu,
        socket: None,
        device: None,
        collector: "rapl".to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1),
        uncertainty_permille: 1,
        contained_in: None,
        scope: None,
        basis: String::new(),
    };
    let state = SourceState { source: source.into(), unavailable: unavailable.map(str::to_owned) };
    SourceStatus { state, last: Some(BootNanos(95 * SECOND)), gaps: 2, energy: Microjoules(0), stuck }
}

fn status(sources: Vec<SourceStatus>, last_row: Option<u64>) -> Status {
    Status {
        rows: 7,
        last_row: last_row.map(|second| BootNanos(second * SECOND)),
        now: (BootNanos(100 * SECOND), UnixNanos(1_700_000_000 * UnixNanos::PER_SECOND)),
        sources,
        refused: BTreeMap::from([(("a".to_owned(), "parse"), 3), (("a".to_owned(), "stuck"), 1)]),
        turns: BTreeMap::from([(("a".to_owned(), "wrap"), 4)]),
        cpu: None,
        helper: None,
        devices: vec![],
        unresolved: 2,
    }
}

/// A board of one node whose sampler is always in this state; the spool lives in the folder.
async fn board(folder: &tempfile::TempDir, status: Status) -> Arc<Board> {
    let (spool, _) = Spool::open(&SpoolConfig::new(folder.path().join("spool"))).expect("a spool");
    let node = "n".parse().expect("a name");
    let uplink = watch::channel(UplinkCounters { connected: true, sessions: 2, ..UplinkCounters::default() }).1;
    let (stream, mut asked) = Stream::new((node, Duration::from_secs(1)), (spool.watch(), 1 << 30), uplink, Some(true));
    tokio::spawn(async move {
        while let Some(who) = asked.recv().await {
            let _ = who.send(Sampled { status: status.clone(), cycles: Cycles::default() });
        }
        drop(spool);
    });
    Arc::new(Board::new(Arc::default(), vec![stream], None))
}

#[test]
fn names_are_unique_and_say_type_and_unit() {
    let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), ALL.len());
    for metric in ALL {
        let Metric { name, kind, unit, .. } = metric;
        assert!(name.starts_with("joulebook_agent_"), "{name}");
        assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(metric.family().ends_with(unit), "{name} does not name its unit {unit}");
        assert!(metric.text().ends_with('.') && !metric.text().contains(['\n', '\\', '"']), "{name}");
        assert!(!metric.labels.contains(&"pid") && !metric.labels.contains(&"workload"), "no series of processes");
    }
}

/// Reads a page as strictly as Prometheus does: value by series.
pub(super) fn parse(page: &str) -> BTreeMap<String, f64> {
    let name = regex::Regex::new(r"^[a-z_]+$").expect("a pattern");
    let line = regex::Regex::new(
        r#"^(?<name>[a-z_]+)(?:\{(?<labels>[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*)\})? (?<value>-?[0-9.e+-]+)$"#,
    )
    .expect("a pattern");
    let (mut series, mut families, mut open) = (BTreeMap::new(), BTreeSet::new(), String::new());
    for text in page.lines() {
        if let Some(rest) = text.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (Some(what), Some(of), Some(said)) = (words.next(), words.next(), words.next()) else {
                panic!("{text}")
            };
            assert!(name.is_match(of) && !said.is_empty(), "{text}");
            match what {
                "HELP" => assert!(families.insert(of.to_owned()), "{of} twice"),
                "TYPE" => open = of.to_owned(),
                other => panic!("{other}: {text}"),
            }
            continue;
        }
        let found = line.captures(text).unwrap_or_else(|| panic!("not a sample: {text:?}"));
        assert_eq!(&found["name"], open, "a sample outside of its family");
        let value = found["value"].parse().expect("a number");
        assert!(series.insert(text.rsplit_once(' ').expect("a value").0.to_owned(), value).is_none(), "twice: {text}");
    }
    series
}

#[tokio::test]
async fn the_page_tells_how_sources_spool_and_session_are() {
    let folder = tempfile::tempdir().expect("folder");
    let hostile = "a\"}\n# HELP x\\";
    let sources = vec![source("a", None, true), source("b", Some("permission"), false), source(hostile, None, false)];
    let board = board(&folder, status(sources, Some(99))).await;
    let page = write(ALL, &board.points().await, Format::Text);
    let shown = parse(&page);
    let of = |name: &str| shown.get(&format!("joulebook_agent_{name}")).copied();
    assert_eq!(of(r#"source_up{node="n",source="a",component="cpu",collector="rapl"}"#), Some(0.0), "stuck");
    assert_eq!(of(r#"source_stuck{node="n",source="a"}"#), Some(1.0));
    assert_eq!(of(r#"source_up{node="n",source="b",component="cpu",collector="rapl"}"#), Some(0.0));
    assert_eq!(of(r#"source_age_seconds{node="n",source="b"}"#), Some(5.0));
    assert_eq!(of(r#"source_rejected_total{node="n",source="a",reason="parse"}"#), Some(3.0));
    assert_eq!(of(r#"source_wraps_total{node="n",source="a"}"#), Some(4.0));
    assert_eq!(of(r#"source_gaps_total{node="n",source="b"}"#), Some(2.0));
    assert_eq!(of(r#"row_age_seconds{node="n"}"#), Some(1.0));
    assert_eq!(of(r#"kubelet_unresolved_devices{node="n"}"#), Some(2.0));
    assert_eq!(of(r#"redfish_accepts_any_certificate{node="n"}"#), Some(1.0), "B30");
    assert_eq!((of(r#"sessions_total{node="n"}"#), of(r#"session_open{node="n"}"#)), (Some(2.0), Some(1.0)));
    assert_eq!(of(r#"spool_waiting_records{node="n"}"#), Some(0.0));
    assert_eq!(of(r#"spool_limit_bytes{node="n"}"#), Some(1_073_741_824.0));
    for reason in ["spool_full", "no_space", "corrupt"] {
        let lost = format!("spool_lost_records_total{{node=\"n\",reason=\"{reason}\"}}");
        assert_eq!(of(&lost), Some(0.0), "what may be lost is there from the start, so that its first rise is seen");
    }
    assert!(of(r#"process_resident_bytes{process="main"}"#).is_some_and(|bytes| bytes > 1e6));
    let clock = ["clock_synchronised", "clock_error_seconds"].map(|name| of(name).expect("the kernel says it here"));
    assert!([0.0, 1.0].contains(&clock[0]) && clock[1] > 0.0 && clock[1] <= 17.0, "{clock:?}");
    assert!(!page.contains("microjoules") && !page.contains("watts"), "no energy of the node is told");
    let open = write(ALL, &board.points().await, Format::OpenMetrics);
    assert!(open.ends_with("# EOF\n") && open.contains("# UNIT joulebook_agent_spool_bytes bytes\n"));
}

#[tokio::test]
async fn a_page_is_bounded_and_says_what_it_leaves_out() {
    let folder = tempfile::tempdir().expect("folder");
    let sources = (0..1000).map(|number| source(&format!("zone-{number}"), None, false)).collect();
    let board = board(&folder, status(sources, Some(99))).await;
    let points = board.points().await;
    let up = points.iter().filter(|point| point.metric.name == SOURCE_UP.name).count();
    let left_out = points.iter().find(|point| point.metric.name == LEFT_OUT.name).map(|point| point.value);
    assert_eq!((up, left_out), (512, Some(488.0)));
}

async fn get(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn it_is_served_over_http_and_ready_only_while_rows_are_taken() {
    let folder = tempfile::tempdir().expect("folder");
    let board = board(&folder, status(vec![source("a", None, false)], Some(99))).await;
    let listener = bind(Some(([127, 0, 0, 1], 0).into())).await.expect("a port").expect("it is configured");
    let address = listener.local_addr().expect("an address");
    let taken = bind(Some(address)).await.expect_err("it is taken");
    assert!(taken.to_string().contains("set metrics.listen"), "{taken}");
    let served = tokio::spawn(serve(listener, board));
    let page = get(address, "GET /metrics HTTP/1.1").await;
    let (head, body) = page.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(parse(body).contains_key(r#"joulebook_agent_rows_total{node="n"}"#));
    let open = get(address, "GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0").await;
    assert!(open.contains("content-type: application/openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
    assert!(get(address, "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "GET /readyz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "POST /metrics HTTP/1.1").await.starts_with("HTTP/1.1 405"));
    assert!(get(address, "GET /elsewhere HTTP/1.1").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, &format!("GET /{} HTTP/1.1", "x".repeat(20_000))).await.starts_with("HTTP/1.1 4"), "bounded");
    served.abort();
    for (last_row, why) in [(None, "no row"), (Some(60), "no row")] {
        let folder = tempfile::tempdir().expect("folder");
        let unready = self::board(&folder, status(Vec::new(), last_row)).await.unready().await;
        assert!(unready.is_some_and(|said| said.contains(why)), "{last_row:?}");
    }
}
