use super::*;
use crate::clock::SystemClock;
use crate::dev_certs;
use crate::store::memory::MemoryStore;
use crate::store::space::Least;
use joulebook_sci::series::best;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// 2026-11-24T09:00:00Z.
const NOW: i64 = 1_795_510_800;

fn at(second: i64) -> UnixNanos {
    UnixNanos::from_seconds(NOW + second)
}

struct Stands(UnixNanos);

impl Clock for Stands {
    fn unix(&self) -> UnixNanos {
        self.0
    }
}

/// What a server answers: status, further header lines, body.
type Reply = (u16, String, String);

/// A server of one source: each request (its head) gets what `answer` says.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn new(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, answer).await
    }

    /// The same behind a certificate of the authority `ca.crt` in a new folder.
    async fn secure(folder: &Path, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        dev_certs::write(folder, &[], &[], SystemClock.unix()).expect("written");
        let read = |name: &str| std::fs::read(folder.join(name)).expect("written");
        let chain = vec![CertificateDer::from_pem_slice(&read("server.crt")).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        Self::start(Some(TlsAcceptor::from(Arc::new(config.expect("a pair")))), answer).await
    }

    async fn start(tls: Option<TlsAcceptor>, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => serve(stream, &answer, &noted).await,
                    Some(tls) => {
                        // A client that does not trust us ends here.
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, &answer, &noted).await;
                        }
                    }
                }
            }
        });
        Self { url, asked, task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .expect("no panic")
            .iter()
            .map(|head| head.lines().next().unwrap_or_default().to_owned())
            .collect()
    }

    fn heads(&self) -> String {
        self.asked.lock().expect("no panic").join("\n")
    }
}

/// Answers one request of a connection.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answer: &(impl Fn(&str) -> Reply + Send + Sync),
    noted: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            break;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (code, headers, body) = answer(&head);
    noted.lock().expect("no panic").push(head);
    let length = body.len();
    let text = format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    // A client that is gone has its reasons.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn ok(body: &str) -> Reply {
    (200, String::new(), body.to_owned())
}

struct Bench {
    desk: Desk,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let least = Least { percent: 0.0, bytes: 0 };
        let desk = Desk {
            space: Arc::new(Space::new(folder.path(), least)),
            book: Arc::new(Book::open(Arc::new(MemoryStore::new())).expect("open")),
            clock: Arc::new(Stands(at(0))),
            states: FeedStates::default(),
            counters: Arc::new(Counters::default()),
        };
        Self { desk, folder }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        path.display().to_string()
    }

    fn poller(&self, toml: &str) -> Poller {
        let config = toml::from_str(&format!("name = \"grid\"\n{toml}")).expect("syntax");
        Poller::new(self.desk.clone(), Feed::new(&config).expect("valid"))
    }

    fn failure(&self) -> String {
        self.desk.states.lock().expect("no panic").get("grid").expect("polled").failure.clone()
    }

    /// Second from now, length, value, status.
    fn cells(&self, from: i64, to: i64) -> Vec<(i64, i64, f64, &'static str)> {
        let window = Window::new(at(from), at(to)).expect("ordered");
        let known = self.desk.book.factors("grid", window, None).expect("read").cells;
        let seconds = |at: UnixNanos| at.0 / UnixNanos::PER_SECOND - NOW;
        let shown = |(part, cell): (Window, joulebook_sci::series::SeriesCell)| {
            let (start, end) = (seconds(part.start()), seconds(part.end()));
            (start, end - start, (cell.value * 1e3).round() / 1e3, cell.status.name())
        };
        best(window, &known).into_iter().filter_map(|(part, cell)| Some(shown((part, cell?)))).collect()
    }
}

#[tokio::test]
async fn electricity_maps_fills_what_is_missing_and_an_actual_value_replaces_its_forecast() {
    let bench = Bench::new();
    let later = Arc::new(Mutex::new(false));
    let is_later = Arc::clone(&later);
    let server = Server::new(move |head| {
        if head.contains("/forecast?") {
            return ok(r#"{"zone":"FR","forecast":[{"carbonIntensity":60,"datetime":"2026-11-24T08:00:00.000Z"},
                {"carbonIntensity":61.5,"datetime":"2026-11-24T09:00:00.000Z"}],"updatedAt":"2026-11-24T08:50:00.000Z"}"#);
        }
        let newest = if *is_later.lock().expect("no panic") { "55" } else { "null" };
        ok(&format!(
            r#"{{"zone":"FR","data":[{{"zone":"FR","carbonIntensity":50,"datetime":"2026-11-24T06:00:00.000Z","isEstimated":false}},
            {{"zone":"FR","carbonIntensity":52,"datetime":"2026-11-24T07:00:00.000Z","isEstimated":true}},
            {{"zone":"FR","carbonIntensity":{newest},"datetime":"2026-11-24T08:00:00.000Z","isEstimated":false}}]}}"#
        ))
    })
    .await;
    let secret = bench.file("token", "t0ken\n");
    let mut poller = bench.poller(&format!(
        "provider = \"electricity_maps\"\nzone = \"FR\"\nurl = \"{}\"\nsecret_file = \"{secret}\"\nbackfill = \"20days\"",
        server.url
    ));
    poller.poll().await;
    assert_eq!(bench.failure(), "");
    let hours = |third: (f64, &'static str)| {
        [
            (-10_800, 3600, 50.0, "measured"),
            (-7200, 3600, 52.0, "estimated"),
            (-3600, 3600, third.0, third.1),
            (0, 3600, 61.5, "forecast"),
        ]
    };
    assert_eq!(bench.cells(-90_000, 90_000), hours((60.0, "forecast")));
    let asked = server.asked();
    assert_eq!(asked.len(), 3, "twenty days are two questions and a forecast: {asked:?}");
    assert!(asked[0].contains("past-range?zone=FR&start=2026-11-04T09:00:00Z&end=2026-11-14T09:00:00Z"), "{asked:?}");
    assert!(server.heads().contains("auth-token: t0ken"));
    *later.lock().expect("no panic") = true;
    poller.poll().await;
    assert_eq!(bench.cells(-90_000, 90_000), hours((55.0, "measured")));
    assert_eq!(bench.desk.counters.all()[POLLS], 2);
}

#[tokio::test]
async fn b70_a_source_that_refuses_is_left_alone_as_long_as_it_asks_and_what_is_known_stays() {
    let bench = Bench::new();
    let turn = Arc::new(Mutex::new(0usize));
    let turns = Arc::clone(&turn);
    let good = r#"{"data":[{"from":"2026-11-24T08:00Z","to":"2026-11-24T08:30Z","intensity":{"forecast":266,"actual":263,"index":"moderate"}}]}"#;
    let server = Server::new(move |_| match *turns.lock().expect("no panic") {
        0 => ok(good),
        1 => (429, "Retry-After: 1800\r\n".to_owned(), "slow down".to_owned()),
        2 => (503, String::new(), "down".to_owned()),
        3 => ok(r#"{"error":{"code":"400 Bad Request","message":"wrong dates"}}"#),
        4 => ok("<html>log in</html>"),
        5 => (302, "Location: http://127.0.0.1:1/\r\n".to_owned(), String::new()),
        _ => ok(r#"{"data":[{"from":"2026-11-24T08:00Z","to":"2026-11-24T08:30Z","intensity":{"actual":-5}}]}"#),
    })
    .await;
    let mut poller = bench.poller(&format!("provider = \"neso\"\nurl = \"{}\"\nevery = \"30s\"", server.url));
    let mut pauses = Vec::new();
    let mut said = Vec::new();
    for next in 1..=7 {
        pauses.push(poller.poll().await.as_secs());
        said.push(bench.failure());
        *turn.lock().expect("no panic") = next;
    }
    assert_eq!(pauses, [30, 1800, 60, 120, 240, 480, 960], "{said:?}");
    for (failure, part) in said.iter().zip(["", "429", "503", "wrong dates", "cannot be read", "302", "no intensity"]) {
        assert!(failure.contains(part) && failure.is_empty() == part.is_empty(), "{failure} lacks {part}");
    }
    assert_eq!(bench.cells(-90_000, 0), [(-3600, 1800, 263.0, "measured")], "the last good value stays");
    assert_eq!(bench.desk.counters.all()[FAILURES], 6);
}

#[tokio::test]
async fn b70_a_source_that_is_silent_or_not_there_is_a_failure_within_the_limit() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = listener.local_addr().expect("bound");
    let limit = Duration::from_millis(200);
    let mut poller = bench.poller(&format!("provider = \"neso\"\nurl = \"http://{silent}\"")).within(limit);
    poller.poll().await;
    assert!(bench.failure().contains("did not answer within 200ms"), "{}", bench.failure());
    drop(listener);
    poller.poll().await;
    assert!(bench.failure().contains("connecting to 127.0.0.1 failed"), "{}", bench.failure());
}

#[tokio::test]
async fn b70_a_server_without_a_certificate_that_is_trusted_gets_nothing() {
    let bench = Bench::new();
    let server = Server::new(|_| ok("{}")).await;
    let ca = bench.file("ca.pem", "-----BEGIN CERTIFICATE-----\nnot one\n-----END CERTIFICATE-----\n");
    let url = server.url.replace("http://", "https://");
    let mut poller = bench.poller(&format!("provider = \"neso\"\nurl = \"{url}\"\nca_file = \"{ca}\""));
    poller.poll().await;
    assert!(bench.failure().contains("CA certificates"), "{}", bench.failure());
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn b70_a_server_whose_certificate_is_trusted_is_read_and_another_authority_s_is_not() {
    let bench = Bench::new();
    let good = r#"{"data":[{"from":"2026-11-24T08:00Z","to":"2026-11-24T08:30Z","intensity":{"actual":263}}]}"#;
    let server = Server::secure(&bench.folder.path().join("ours"), |_| ok(good)).await;
    let _other = Server::secure(&bench.folder.path().join("theirs"), |_| ok(good)).await;
    let ask = |authority: &str| {
        let ca = bench.folder.path().join(authority).join("ca.crt");
        bench.poller(&format!("provider = \"neso\"\nurl = \"{}\"\nca_file = \"{}\"", server.url, ca.display()))
    };
    ask("theirs").poll().await;
    assert!(!bench.failure().is_empty() && server.asked().is_empty(), "{}", bench.failure());
    ask("ours").poll().await;
    assert_eq!(bench.failure(), "");
    assert_eq!(bench.cells(-90_000, 0), [(-3600, 1800, 263.0, "measured")]);
}

#[tokio::test]
async fn a_quota_that_is_gone_and_a_wrong_zone_are_failures_in_the_sources_words_and_no_value() {
    let bench = Bench::new();
    let secret = bench.file("token", "s3cret");
    let server = Server::new(|head| match head.contains("zone=NOWHERE") {
        true => (404, String::new(), r#"{"status":"error","message":"Zone \"NOWHERE\" does not exist."}"#.to_owned()),
        false => (429, "Retry-After: 86400\r\n".to_owned(), r#"{"message":"quota exceeded"}"#.to_owned()),
    })
    .await;
    let poller = |zone: &str| {
        let (url, secret) = (&server.url, &secret);
        bench.poller(&format!(
            "provider = \"electricity_maps\"\nzone = \"{zone}\"\nurl = \"{url}\"\nsecret_file = \"{secret}\""
        ))
    };
    poller("NOWHERE").poll().await;
    assert!(bench.failure().contains("404"), "{}", bench.failure());
    let pause = poller("FR").poll().await;
    assert!(bench.failure().contains("429"), "{}", bench.failure());
    assert_eq!(pause.as_secs(), 86_400, "it is left alone until its quota is back");
    assert!(bench.cells(-90_000, 0).is_empty() && !bench.failure().contains("s3cret"));
}

#[tokio::test]
async fn watttime_logs_in_and_its_pounds_become_grams() {
    let bench = Bench::new();
    let server = Server::new(|head| {
        if head.starts_with("GET /login") {
            let good = head.contains("authorization: Basic dXNlcjpwYXNz");
            return if good { ok(r#"{"token":"abc"}"#) } else { (403, String::new(), "no".to_owned()) };
        }
        let meta = |more: &str| {
            format!(r#""meta":{{"region":"CAISO_NORTH","signal_type":"co2_moer","units":"lbs_co2_per_mwh"{more}}}"#)
        };
        match head.starts_with("GET /v3/historical") {
            true => ok(&format!(
                r#"{{"data":[{{"point_time":"2026-11-24T08:50:00+00:00","value":1000.0}},
                {{"point_time":"2026-11-24T08:55:00+00:00","value":870.0}}],{}}}"#,
                meta("")
            )),
            false => ok(&format!(
                r#"{{"data":[{{"point_time":"2026-11-24T09:00:00+00:00","value":500.0}}],{}}}"#,
                meta(r#","generated_at":"2026-11-24T09:00:00+00:00""#)
            )),
        }
    })
    .await;
    let secret = bench.file("account", "user\npass\n");
    let of = |zone: &str| {
        format!("provider = \"watttime\"\nzone = \"{zone}\"\nurl = \"{}\"\nsecret_file = \"{secret}\"", server.url)
    };
    bench.poller(&of("CAISO_NORTH")).poll().await;
    assert_eq!(bench.failure(), "");
    assert!(server.heads().contains("authorization: Bearer abc"));
    let found = bench.cells(-3600, 3600);
    assert_eq!(
        found,
        [(-600, 300, 453.592, "measured"), (-300, 300, 394.625, "measured"), (0, 300, 226.796, "forecast")]
    );
    let elsewhere = Bench::new();
    elsewhere.poller(&of("PJM_DC")).poll().await;
    assert!(elsewhere.failure().contains("region `CAISO_NORTH`, not of `PJM_DC`"), "{}", elsewhere.failure());
    assert!(elsewhere.cells(-3600, 3600).is_empty(), "a value of another zone is none of this one");
}

#[tokio::test]
async fn entsoe_makes_an_intensity_of_what_generated() {
    let bench = Bench::new();
    let series = |direction: &str, source: &str, points: &str| {
        format!(
            "<TimeSeries><{direction}_Domain.mRID codingScheme=\"A01\">10YFR-RTE------C</{direction}_Domain.mRID>\
             <MktPSRType><psrType>{source}</psrType></MktPSRType><Period><timeInterval><start>2026-11-24T06:00Z</start>\
             <end>2026-11-24T08:00Z</end></timeInterval><resolution>PT60M</resolution>{points}</Period></TimeSeries>"
        )
    };
    let point = |position: u32, quantity: u32| {
        format!("<Point><position>{position}</position><quantity>{quantity}</quantity></Point>")
    };
    let document = format!(
        "<?xml version=\"1.0\"?><GL_MarketDocument xmlns=\"urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0\">\
         <type>A75</type>{}{}{}</GL_MarketDocument>",
        // The second hour is left out: as the first.
        series("inBiddingZone", "B14", &point(1, 300)),
        series("inBiddingZone", "B04", &(point(1, 100) + &point(2, 0))),
        series("outBiddingZone", "B10", &point(1, 5000)),
    );
    let nothing = "<Acknowledgement_MarketDocument><Reason><code>999</code><text>No matching data found</text></Reason>\
                   </Acknowledgement_MarketDocument>";
    let server =
        Server::new(move |head| ok(if head.contains("periodStart=202611240900") { nothing } else { &document })).await;
    let secret = bench.file("token", "s3cret");
    let text = format!(
        "provider = \"entsoe\"\nzone = \"10YFR-RTE------C\"\nurl = \"{}\"\nsecret_file = \"{secret}\"\nbackfill = \"1day\"",
        server.url
    );
    bench.poller(&text).poll().await;
    assert_eq!(bench.failure(), "");
    let found = bench.cells(-90_000, 0);
    assert_eq!(
        found,
        [(-10_800, 3600, (300.0 * 12.0 + 100.0 * 490.0) / 400.0, "measured"), (-7200, 3600, 12.0, "measured")]
    );
    assert!(
        server.asked()[0].contains("securityToken=s3cret&documentType=A75&processType=A16&in_Domain=10YFR-RTE------C")
    );
    let unknown = Bench::new();
    let refused = "<Acknowledgement_MarketDocument><Reason><code>998</code><text>Unauthorized</text></Reason>\
                   </Acknowledgement_MarketDocument>";
    let server = Server::new(move |_| ok(refused)).await;
    let secret = unknown.file("token", "s3cret");
    let text = format!("provider = \"entsoe\"\nzone = \"X\"\nurl = \"{}\"\nsecret_file = \"{secret}\"", server.url);
    unknown.poller(&text).poll().await;
    assert!(unknown.failure().contains("Unauthorized"), "{}", unknown.failure());
}

#[tokio::test]
async fn a_prometheus_query_fills_a_pue_and_more_than_one_series_is_refused() {
    let bench = Bench::new();
    let series = r#"{"metric":{},"values":[[1795509900,"1.31"],[1795510200,"1.29"],[1795510500,"1.3"]]}"#;
    let server = Server::new(move |head| {
        let result = if head.contains("both") { format!("{series},{series}") } else { series.to_owned() };
        ok(&format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{result}]}}}}"#))
    })
    .await;
    let of = |query: &str| {
        format!(
            "provider = \"prometheus\"\nquantity = \"pue\"\nquery = \"{query}\"\nurl = \"{}/\"\nbackfill = \"1h\"",
            server.url
        )
    };
    bench.poller(&of("site_pue{hall=\\\"1\\\"}")).poll().await;
    assert_eq!(bench.failure(), "");
    let found = bench.cells(-3600, 3600);
    assert_eq!(found, [(-900, 300, 1.31, "measured"), (-600, 300, 1.29, "measured"), (-300, 300, 1.3, "measured")]);
    let asked = &server.asked()[0];
    assert!(asked.contains("query=site_pue%7Bhall%3D%221%22%7D&start=1795507200&end=1795510500&step=300"), "{asked}");
    bench.poller(&of("both")).poll().await;
    assert!(bench.failure().contains("2 series, not one"), "{}", bench.failure());
}

#[tokio::test]
async fn any_json_is_read_by_a_mapping() {
    let bench = Bench::new();
    let server = Server::new(|_| {
        ok(r#"{"result":{"rows":[{"t":1795507200,"co2":{"kg":0.05},"state":"estimated"},{"t":1795510800,"co2":{"kg":0.07},"state":"forecast"}]}}"#)
    })
    .await;
    let mapping = |value: &str| {
        format!(
            "provider = \"json\"\nkind = \"average_production\"\nurl = \"{}/of?from={{start}}\"\n[mapping]\nitems = \"/result/rows\"\n\
             start = \"t\"\nvalue = \"{value}\"\nstatus = \"state\"\nunit = \"kg/kWh\"",
            server.url
        )
    };
    bench.poller(&mapping("/co2/kg")).poll().await;
    assert_eq!(bench.failure(), "");
    assert_eq!(bench.cells(-3600, 7200), [(-3600, 3600, 50.0, "estimated"), (0, 3600, 70.0, "forecast")]);
    assert!(server.asked()[0].contains("/of?from=2026-11-17T09:00:00Z"));
    bench.poller(&mapping("carbon")).poll().await;
    assert!(bench.failure().contains("there is no `carbon`; it has co2, state, t"), "{}", bench.failure());
}

#[tokio::test]
async fn b67_a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let bench = Bench::new();
    let path = bench.file("grid.csv", "start,value\n2026-11-24T07:00:00Z,100\n2026-11-24T08:00:00Z,110\n");
    let mut poller = bench.poller(&format!("provider = \"csv\"\nkind = \"average_consumption\"\npath = \"{path}\""));
    poller.poll().await;
    let good = [(-7200, 3600, 100.0, "measured"), (-3600, 3600, 110.0, "measured")];
    assert_eq!(bench.cells(-9000, 0), good);
    for (text, why) in [
        ("", "no value"),
        ("start,value\n", "no value"),
        ("time,value\n2026-11-24T07:00:00Z,1\n", "there is no `start`; it has time, value"),
        ("start,value\n2026-11-24T07:00:00Z,50000\n2026-11-24T08:00:00Z,120\n", "line 2: 50000 is no intensity"),
        ("start,value\n2026-11-24T07:00:00Z,0.1\n2026-11-24T08:00:00Z,0.2\n", "kg/kWh"),
        ("start,value\n2026-11-24T07:00:00Z,100\n2026-11-24T07:00:00Z,200\n", "lines 2 and 3"),
    ] {
        bench.file("grid.csv", text);
        poller.poll().await;
        assert!(bench.failure().contains(why), "{text:?}: {}", bench.failure());
        assert_eq!(bench.cells(-9000, 0), good, "{text:?}");
    }
    bench.file("grid.csv", "start,value\n2026-11-24T08:00:00Z,115\n2026-11-24T07:00:00Z,100\n");
    poller.poll().await;
    assert_eq!((bench.failure().as_str(), bench.cells(-9000, 0)[1].2), ("", 115.0));
    std::fs::remove_file(&path).expect("remove");
    poller.poll().await;
    assert!(bench.failure().contains("reading"), "{}", bench.failure());
}

#[test]
fn a_file_of_ten_million_rows_is_refused_before_it_is_read_to_its_end() {
    struct Endless(u64);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(self.0 < 20_000_000, "read on and on");
            let line: &[u8] = if self.0 == 0 { b"start,value\n" } else { b"1795507200,100\n" };
            let length = line.len().min(buffer.len());
            buffer[..length].copy_from_slice(&line[..length]);
            self.0 += length as u64;
            Ok(length)
        }
    }
    let config = toml::from_str("name = \"grid\"\nprovider = \"csv\"\nkind = \"average_consumption\"\npath = \"x\"");
    let feed = Feed::new(&config.expect("syntax")).expect("valid");
    let refused = read_csv(&feed, Endless(0)).expect_err("refused").to_string();
    assert!(refused.contains("more than 250000 rows"), "{refused}");
}

#[tokio::test]
async fn a_secret_that_others_may_read_is_shown_to_nobody() {
    let bench = Bench::new();
    let server = Server::new(|_| ok("{}")).await;
    let secret = bench.file("token", "t0ken");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("mode");
    let text =
        format!("provider = \"electricity_maps\"\nzone = \"FR\"\nurl = \"{}\"\nsecret_file = \"{secret}\"", server.url);
    bench.poller(&text).poll().await;
    assert!(bench.failure().contains("chmod 600") && !bench.failure().contains("t0ken"), "{}", bench.failure());
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let plain = text.replace(&server.url, "http://192.0.2.1");
    bench.poller(&plain).poll().await;
    assert!(bench.failure().contains("plain text"), "{}", bench.failure());
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn the_group_may_read_a_secret_where_the_configuration_says_so() {
    let bench = Bench::new();
    let server = Server::new(|_| ok("{}")).await;
    let secret = bench.file("token", "t0ken");
    let mode = |mode| std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).expect("mode");
    let text =
        format!("provider = \"electricity_maps\"\nzone = \"FR\"\nurl = \"{}\"\nsecret_file = \"{secret}\"", server.url);
    let grouped = format!("{text}\nsecret_group_readable = true");
    mode(0o644);
    bench.poller(&grouped).poll().await;
    assert!(server.asked().is_empty(), "others may read it: {}", bench.failure());
    mode(0o440);
    bench.poller(&text).poll().await;
    assert!(server.asked().is_empty(), "the group may read it: {}", bench.failure());
    bench.poller(&grouped).poll().await;
    assert!(!server.asked().is_empty(), "{}", bench.failure());
}
