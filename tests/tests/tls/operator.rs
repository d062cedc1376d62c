//! The operator's tool over TLS: exit 69 within the deadline where the connection is not secure, 64 and 77 before it.

use joulebook_aggregator::certificate::Issued;
use joulebook_tests::tls::{Ca, Serving, config, write};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Runs the tool with a pair and a bundle.
async fn ask(folder: &Path, url: &str, pair: &Issued, bundle: &str, words: &[&str]) -> (u8, String) {
    let files = write(folder, "operator", pair, bundle);
    let flags = [
        "joulebook".into(),
        "--aggregator".into(),
        url.into(),
        "--tls-ca".into(),
        files.ca.into_os_string(),
        "--tls-cert".into(),
        files.certificate.into_os_string(),
        "--tls-key".into(),
        files.key.into_os_string(),
    ];
    run(flags.into_iter().chain(words.iter().map(OsString::from)).collect()).await
}

async fn run(arguments: Vec<OsString>) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = joulebook::run(arguments, &mut out, &mut err).await;
    assert!(code == 0 || out.is_empty(), "a failure prints no answer");
    (code, String::from_utf8(err).unwrap())
}

const QUESTION: &[&str] = &["energy", "--last", "10m", "--timeout", "30s"];

#[tokio::test]
async fn b66_a_connection_that_is_not_secure_exits_69_and_says_why() {
    let (ca, other, folder) = (Ca::new(), Ca::new(), tempfile::tempdir().unwrap());
    let files = write(folder.path(), "server", &ca.server(), ca.certificate());
    let serving = Serving::start(config(folder.path().join("db"), &files)).await;
    let (url, folder) = (serving.url(), folder.path());
    let own = ca.operator();
    let (code, said) = ask(folder, &url, &own, ca.certificate(), QUESTION).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = ask(folder, &url, &own, other.certificate(), QUESTION).await;
    assert_eq!(code, 69, "the server is of a CA that is not trusted: {said}");
    assert!(said.contains("UnknownIssuer"), "{said}");
    let (code, said) = ask(folder, &url, &other.operator(), ca.certificate(), QUESTION).await;
    assert_eq!(code, 69, "the server does not trust this operator: {said}");
    let (code, said) = ask(folder, &url, &ca.agent("n"), ca.certificate(), QUESTION).await;
    assert_eq!(code, 77, "an agent may not ask: {said}");
    serving.stop().await;
}

#[tokio::test]
async fn b66_a_server_that_never_finishes_the_handshake_exits_69_within_the_deadline() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let words = ["energy", "--last", "10m", "--timeout", "200ms"];
    let pair = ca.operator();
    let asked = ask(folder.path(), &url, &pair, ca.certificate(), &words);
    // Nobody accepts: the connection stays in the system's queue, open and silent.
    let (code, said) = tokio::time::timeout(Duration::from_secs(30), asked).await.expect("within the deadline");
    assert_eq!(code, 69, "{said}");
}

#[tokio::test]
async fn files_that_are_missing_exposed_or_broken_are_told_before_anything_is_sent() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let words = ["joulebook", "--aggregator", "https://127.0.0.1:9", "energy"];
    let (code, said) = run(words.iter().map(OsString::from).collect()).await;
    assert_eq!(code, 64);
    assert!(said.contains("--tls-cert") && said.contains("dev-certs"), "{said}");
    let (code, said) = ask(folder.path(), "https://127.0.0.1:9", &ca.operator(), "", QUESTION).await;
    assert_eq!(code, 64);
    assert!(said.contains("operator.ca"), "{said}");
    let files = write(folder.path(), "operator", &ca.operator(), ca.certificate());
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    let words = ["joulebook", "--aggregator", "https://127.0.0.1:9"].map(OsString::from);
    let flags = ["--tls-ca".into(), files.ca.into(), "--tls-cert".into(), files.certificate.into()];
    let rest = ["--tls-key".into(), files.key.into(), "energy".into()];
    let (code, said) = run(words.into_iter().chain(flags).chain(rest).collect()).await;
    assert_eq!(code, 77);
    assert!(said.contains("chmod 600"), "{said}");
    let words = ["joulebook", "--aggregator", "http://192.0.2.1:7443", "energy"];
    let (code, said) = run(words.iter().map(OsString::from).collect()).await;
    assert_eq!(code, 64, "plaintext to another machine");
    assert!(said.contains("https://"), "{said}");
}
