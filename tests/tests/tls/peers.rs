//! Who is let in: before that, nothing of a peer is understood and nothing of it stays.

use super::{PATIENCE, until};
use joulebook_aggregator::certificate::{Issued, Subject};
use joulebook_tests::raw::{PREFACE, shake_hands};
use joulebook_tests::tls::{Ca, Serving, agent, config, operator, status, write};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{SupportedProtocolVersion, version};

/// First byte of a TLS alert.
const ALERT: u8 = 0x15;
const WITHIN: Duration = Duration::from_secs(10);

async fn serving(ca: &Ca) -> (Serving, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    (Serving::start(config(folder.path().join("db"), &files)).await, folder)
}

/// Whether a client's first bytes are answered by bytes of HTTP/2.
async fn is_answered(
    address: SocketAddr,
    ca: &Ca,
    pair: Option<&Issued>,
    version: &'static SupportedProtocolVersion,
) -> bool {
    let asked = async {
        let mut stream = shake_hands(address, ca.certificate(), pair, version).await?;
        stream.write_all(PREFACE).await?;
        stream.read(&mut [0; 64]).await
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await.expect("an answer or an end");
    answer.is_ok_and(|bytes| bytes > 0)
}

/// What a server says to these bytes until it closes.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await.expect("closed in time");
    answer
}

/// ClientHello of a client that knows no TLS above this version: one cipher suite, no extension.
fn hello_of(version: u8) -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 0, 0x2d, 1, 0, 0, 0x29, 3, version];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    hello
}

#[tokio::test]
async fn b50_no_certificate_another_ca_old_tls_and_plaintext_are_refused_before_any_byte_is_understood() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (serving, _folder) = serving(&ca).await;
    let address = serving.address;
    let (good, strange) = (ca.operator(), other.operator());
    assert!(is_answered(address, &ca, Some(&good), &version::TLS13).await, "an operator of the CA is let in");
    assert!(!is_answered(address, &ca, None, &version::TLS13).await);
    assert!(!is_answered(address, &ca, Some(&strange), &version::TLS13).await);
    assert!(!is_answered(address, &ca, Some(&good), &version::TLS12).await);
    for (what, bytes) in [
        ("TLS 1.0", hello_of(1)),
        ("TLS 1.1", hello_of(2)),
        ("plaintext HTTP/2", PREFACE.to_vec()),
        ("plaintext HTTP/1", b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
    ] {
        let answer = answer_to(address, &bytes).await;
        assert!(answer.is_empty() || answer[0] == ALERT, "{what} was answered: {answer:02x?}");
    }
    let channel = serving.connect(&good, ca.certificate()).await.unwrap();
    let (counters, _) = status(channel).await.expect("the others did not hurt");
    assert_eq!(counters.get("tls_handshake_failures_total"), Some(&7), "{counters:?}");
    serving.stop().await;
}

#[tokio::test]
async fn b89_a_certificate_that_is_a_ca_may_sign_lacks_the_purpose_or_does_not_name_one_peer_is_refused() {
    let ca = Ca::new();
    let (serving, _folder) = serving(&ca).await;
    let good = operator();
    let uris = |uris: &[&str]| Subject { uris: uris.iter().map(|uri| (*uri).to_owned()).collect(), ..good.clone() };
    let second = good.uris[0].replace("ann", "bob");
    let refused = [
        ("CA:TRUE", Subject { ca: true, ..good.clone() }),
        ("keyCertSign", Subject { may_sign: true, ..good.clone() }),
        ("no purpose", Subject { client: false, ..good.clone() }),
        ("serverAuth only", Subject { client: false, server: true, ..good.clone() }),
        ("two URIs", uris(&[&good.uris[0], &second])),
        ("the same URI twice", uris(&[&good.uris[0], &good.uris[0]])),
        ("no URI", uris(&[])),
        ("no name at all but the common one", Subject { name: "operator/ann".to_owned(), ..uris(&[]) }),
        ("a URI of another form", uris(&["https://joulebook.local/operator/ann"])),
        ("a path that climbs", uris(&["spiffe://joulebook.local/agent/node/../operator/ann"])),
    ];
    for (what, subject) in refused {
        assert!(!serving.admits(&ca.issue(&subject), ca.certificate()).await, "{what} was let in");
    }
    let named = Subject { hosts: vec!["laptop.example.org".to_owned()], ..good.clone() };
    for (what, subject) in [("an operator", good), ("further names that are no URIs", named), ("an agent", agent("n"))]
    {
        assert!(serving.admits(&ca.issue(&subject), ca.certificate()).await, "{what} was refused");
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_peer_that_falls_silent_before_or_after_the_handshake_is_gone_within_ten_seconds() {
    let ca = Ca::new();
    let (serving, _folder) = serving(&ca).await;
    let address = serving.address;
    let pair = ca.operator();
    let before = async { answer_to(address, b"").await };
    let within = async { answer_to(address, &[0x16, 3, 1]).await };
    let after = async {
        let mut stream = shake_hands(address, ca.certificate(), Some(&pair), &version::TLS13).await.unwrap();
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut heard)).await.expect("closed in time");
    };
    tokio::join!(before, within, after);
    serving.stop().await;
}

#[tokio::test]
async fn silent_peers_keep_nobody_else_out() {
    let ca = Ca::new();
    let (serving, _folder) = serving(&ca).await;
    let mut silent = Vec::new();
    // More than there are places for handshakes.
    for _ in 0..400 {
        silent.push(TcpStream::connect(serving.address).await.unwrap());
    }
    // Sooner than any of them is given up.
    let operator = ca.operator();
    let admitted = tokio::time::timeout(Duration::from_secs(4), serving.admits(&operator, ca.certificate())).await;
    assert_eq!(admitted, Ok(true));
    drop(silent);
    serving.stop().await;
}

#[tokio::test]
async fn one_identity_has_four_connections_and_others_have_theirs() {
    let ca = Ca::new();
    let (serving, _folder) = serving(&ca).await;
    let (ann, node) = (ca.operator(), ca.agent("n"));
    let mut open = Vec::new();
    for _ in 0..4 {
        let channel = serving.connect(&ann, ca.certificate()).await.unwrap();
        status(channel.clone()).await.unwrap();
        open.push(channel);
    }
    assert!(!serving.admits(&ann, ca.certificate()).await, "a fifth connection");
    assert!(!serving.admits(&ca.operator(), ca.certificate()).await, "another certificate of the same operator");
    assert!(serving.admits(&node, ca.certificate()).await, "another peer");
    open.pop();
    until("a place is given back", async || serving.admits(&ann, ca.certificate()).await).await;
    serving.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let mut config = config(folder.path().join("db"), &files);
    config.connections.total = 2;
    let serving = Serving::start(config).await;
    let channel = serving.connect(&ca.operator(), ca.certificate()).await.unwrap();
    status(channel.clone()).await.unwrap();
    let other = serving.connect(&ca.agent("n"), ca.certificate()).await.unwrap();
    let _ = status(other.clone()).await;
    assert_eq!(answer_to(serving.address, b"").await, b"");
    let (counters, _) = status(channel).await.expect("those who are in stay in");
    assert_eq!(counters.get("connections_refused_total"), Some(&1), "{counters:?}");
    serving.stop().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_age_and_with_its_certificate() {
    let ca = Ca::new();
    let folder = tempfile::tempdir().unwrap();
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let mut config = config(folder.path().join("db"), &files);
    config.connections.age = Duration::from_millis(600);
    let serving = Serving::start(config).await;
    let mut stream =
        shake_hands(serving.address, ca.certificate(), Some(&ca.operator()), &version::TLS13).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let mut heard = Vec::new();
    // Earlier than a silent peer would be closed: it has spoken.
    let _ = tokio::time::timeout(Duration::from_secs(4), stream.read_to_end(&mut heard)).await.expect("ended");
    assert!(!heard.is_empty(), "it was served before");
    serving.stop().await;

    let (serving, _folder) = self::serving(&ca).await;
    let now = joulebook_aggregator::clock::Clock::unix(&joulebook_aggregator::clock::SystemClock);
    let short = ca.issue_at(&operator(), now.plus_seconds(-60), Duration::from_secs(63));
    let channel = serving.connect(&short, ca.certificate()).await.unwrap();
    status(channel.clone()).await.expect("valid for two more seconds");
    until("it ends with its certificate", async || status(channel.clone()).await.is_err()).await;
    serving.stop().await;
}
