//! TLS to a receiver: its certificate is checked, ours is shown, and headers go over TLS only.

use super::away::Taking;
use super::{Telling, figures, points, section};
use joulebook_aggregator::clock::{Clock, SystemClock};
use joulebook_aggregator::dev_certs;
use joulebook_aggregator::export::config::{OtlpProtocol, OtlpSection};
use joulebook_tests::wait::until_async;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsServiceServer;
use std::fs;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
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
    let sent = |telling: &Telling| telling.count("otlp_sent_points_total");

    let stranger = Telling::start(OtlpSection { ca_file: Some(others.join("ca.crt")), ..good.clone() });
    stranger.tell(&snapshot);
    until_async("a stranger is not told", async || stranger.count("otlp_retries_total") > 1).await;
    let unknown = Telling::start(OtlpSection { certificate: None, key: None, ..good.clone() });
    unknown.tell(&snapshot);
    until_async("who shows nothing is not heard", async || unknown.count("otlp_retries_total") > 1).await;
    let without = Telling::start(OtlpSection { headers_file: None, ..good.clone() });
    without.tell(&snapshot);
    until_async("without the header it is refused", async || without.count("otlp_refused_points_total") > 0).await;
    assert_eq!((sent(&stranger), sent(&unknown), sent(&without)), (0, 0, 0));

    let telling = Telling::start(good);
    telling.tell(&snapshot);
    until_async("it is delivered", async || sent(&telling) == points(&snapshot)).await;
}

#[test]
fn secrets_and_figures_do_not_go_over_the_network_in_plaintext_unless_that_is_asked_for() {
    let refused = |section: OtlpSection| section.check().expect_err("refused").to_string();
    let far = || section("http://collector.example:4317".to_owned(), OtlpProtocol::Grpc);
    assert!(refused(far()).contains("plaintext"));
    assert!(OtlpSection { plaintext: true, ..far() }.check().is_ok());
    let secret = OtlpSection { plaintext: true, headers_file: Some("headers".into()), ..far() };
    assert!(refused(secret).contains("https:// only"));
    assert!(refused(section("collector:4317".to_owned(), OtlpProtocol::Grpc)).contains("otlp.endpoint"));
    assert!(
        refused(OtlpSection { key: Some("k".into()), ..section("https://c".to_owned(), OtlpProtocol::Http) })
            .contains("together")
    );
    let url = section("https://collector:4318".to_owned(), OtlpProtocol::Http).url().expect("an address");
    assert_eq!(url.path(), "/v1/metrics");
    let url = section("https://collector/opentelemetry/api/v1/push".to_owned(), OtlpProtocol::Http).url();
    assert_eq!(url.expect("an address").path(), "/opentelemetry/api/v1/push");
}
