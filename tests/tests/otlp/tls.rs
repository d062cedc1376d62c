//! TLS to a receiver: its certificate is checked, ours is shown, and headers go over TLS only.

use super::away::Taking;
use super::{Telling, figures, points, section};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use joulebook_aggregator::clock::{Clock, SystemClock};
use joulebook_aggregator::dev_certs;
use joulebook_otlp::{OtlpSection, Protocol as OtlpProtocol, Signal};
use joulebook_tests::wait::until_async;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsServiceServer;
use prost::Message;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).expect("a file")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_known_by_its_certificate_and_sees_ours_and_the_headers() {
    let (_exported, snapshot) = figures().await;
    let (ours, others) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    for folder in [&ours, &others] {
        dev_certs::write(&folder.path().join("certs"), &[], &[], SystemClock.unix()).expect("certificates");
    }
    let (ours, others) = (ours.path().join("certs"), others.path().join("certs"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://{}", listener.local_addr().expect("bound"));
    let taking = Taking { wants: Some(("x-token", "s3cret")), ..Taking::default() };
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read(&ours, "server.crt"), read(&ours, "server.key")))
        .client_ca_root(Certificate::from_pem(read(&ours, "ca.crt")));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut server = Server::builder().tls_config(tls).expect("certificates");
        let server = server.add_service(MetricsServiceServer::new(taking));
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serving");
    });
    let headers = ours.join("headers");
    fs::write(&headers, "X-Token: s3cret\n").expect("a file");
    let good = OtlpSection {
        ca_file: Some(ours.join("ca.crt")),
        certificate: Some(ours.join("operator.crt")),
        key: Some(ours.join("operator.key")),
        headers_file: Some(headers),
        ..section(address, OtlpProtocol::Grpc)
    };
    let sent = |telling: &Telling| telling.counts().sent;

    let stranger = Telling::start(OtlpSection { ca_file: Some(others.join("ca.crt")), ..good.clone() });
    stranger.tell(&snapshot);
    until_async("a stranger is not told", async || stranger.counts().retries > 1).await;
    let unknown = Telling::start(OtlpSection { certificate: None, key: None, ..good.clone() });
    unknown.tell(&snapshot);
    until_async("who shows nothing is not heard", async || unknown.counts().retries > 1).await;
    let without = Telling::start(OtlpSection { headers_file: None, ..good.clone() });
    without.tell(&snapshot);
    until_async("without the header it is refused", async || without.counts().refused > 0).await;
    assert_eq!((sent(&stranger), sent(&unknown), sent(&without)), (0, 0, 0));

    let telling = Telling::start(good);
    telling.tell(&snapshot);
    until_async("it is delivered", async || sent(&telling) == points(&snapshot)).await;
}

/// Answers over HTTPS with its certificate, and counts the points of messages that come with the header.
async fn take_over_https(listener: TcpListener, certs: PathBuf, taken: Arc<AtomicU64>) {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certs.join("server.crt")).expect("a file").collect();
    let key = PrivateKeyDer::from_pem_file(certs.join("server.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let config = config.with_single_cert(chain.expect("certificates"), key).expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let taken = Arc::clone(&taken);
            async move {
                let (head, body) = request.into_parts();
                let known = head.headers.get("x-token").is_some_and(|value| value == "s3cret");
                let body = body.collect().await?.to_bytes();
                let message =
                    ExportMetricsServiceRequest::decode(body).ok().filter(|_| head.uri.path() == "/v1/metrics");
                let code = match message.filter(|_| known) {
                    Some(_) => {
                        taken.fetch_add(1, Ordering::SeqCst);
                        200
                    }
                    None => 401,
                };
                let mut answer = hyper::Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = hyper::StatusCode::from_u16(code).expect("a status");
                Ok::<_, hyper::Error>(answer)
            }
        });
        // Whoever does not trust the certificate ends it.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_a_receiver_is_known_by_its_certificate_and_sees_the_headers() {
    let (_exported, snapshot) = figures().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, others) = (folder.path().join("ours"), folder.path().join("others"));
    for certs in [&ours, &others] {
        dev_certs::write(certs, &[], &[], SystemClock.unix()).expect("certificates");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("https://{}", listener.local_addr().expect("bound"));
    let (taken, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    tasks.spawn(take_over_https(listener, ours.clone(), Arc::clone(&taken)));
    let headers = ours.join("headers");
    fs::write(&headers, "X-Token: s3cret\n").expect("a file");
    let good = OtlpSection {
        ca_file: Some(ours.join("ca.crt")),
        headers_file: Some(headers),
        ..section(address, OtlpProtocol::Http)
    };
    let stranger = Telling::start(OtlpSection { ca_file: Some(others.join("ca.crt")), ..good.clone() });
    stranger.tell(&snapshot);
    until_async("a stranger is not told", async || stranger.counts().retries > 1).await;
    let without = Telling::start(OtlpSection { headers_file: None, ..good.clone() });
    without.tell(&snapshot);
    until_async("without the header it is refused", async || without.counts().refused > 0).await;
    assert_eq!((taken.load(Ordering::SeqCst), stranger.counts().sent, without.counts().sent), (0, 0, 0));
    let telling = Telling::start(good);
    telling.tell(&snapshot);
    until_async("it is delivered", async || telling.counts().sent == points(&snapshot)).await;
    assert!(taken.load(Ordering::SeqCst) > 0);
}

#[test]
fn secrets_and_figures_do_not_go_over_the_network_in_plaintext_unless_that_is_asked_for() {
    let refused = |section: OtlpSection| section.check().expect_err("refused").to_string();
    let far = || section("http://collector.example:4317".to_owned(), OtlpProtocol::Grpc);
    assert!(refused(far()).contains("plaintext"));
    assert!(OtlpSection { plaintext: true, ..far() }.check().is_ok());
    let secret = OtlpSection { plaintext: true, headers_file: Some("headers".into()), ..far() };
    assert!(refused(secret).contains("https:// only"));
    assert!(refused(section("collector:4317".to_owned(), OtlpProtocol::Grpc)).contains("endpoint ="));
    assert!(
        refused(OtlpSection { key: Some("k".into()), ..section("https://c".to_owned(), OtlpProtocol::Http) })
            .contains("together")
    );
    let url =
        section("https://collector:4318".to_owned(), OtlpProtocol::Http).url(Signal::Metrics).expect("an address");
    assert_eq!(url.path(), "/v1/metrics");
    let url =
        section("https://collector/opentelemetry/api/v1/push".to_owned(), OtlpProtocol::Http).url(Signal::Metrics);
    assert_eq!(url.expect("an address").path(), "/opentelemetry/api/v1/push");
}
