//! The program with its page, as it is configured: on this machine, and with mutual TLS for the network.

use joulebook_tests::installation::Installation;
use joulebook_tests::prometheus::{Prometheus, get};
use joulebook_tests::wait::until_async;

const READ_AT: &str = r"metrics are read at (\S+)$";

#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_its_page_on_this_machine_when_it_is_asked_to() {
    let (_installation, aggregator) =
        Installation::start_with(|_| "[metrics]\nlisten = \"127.0.0.1:0\"\n".to_owned()).expect("an aggregator");
    let address = aggregator.wait_for(READ_AT).expect("a page");
    until_async("it is ready", async || get(&address, "/readyz", "*/*").await.is_ok_and(|(status, _)| status == 200))
        .await;
    let page = get(&address, "/metrics", "*/*").await.expect("a page").1;
    for line in ["joulebook_ingest_open 1.0\n", "joulebook_store_dirty_cells 0.0\n", "joulebook_build_info{version=\""]
    {
        assert!(page.contains(line), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_the_page_is_for_operators_over_tls() {
    let (installation, aggregator) =
        Installation::start_with(|_| "[metrics]\nlisten = \"0.0.0.0:0\"\n".to_owned()).expect("an aggregator");
    let address = aggregator.wait_for(READ_AT).expect("a page").replace("0.0.0.0", "127.0.0.1");
    assert!(get(&address, "/metrics", "*/*").await.is_err(), "plaintext is not answered");
    let reader = |pair: &str| {
        let file = |name: &str| installation.certificate(name).display().to_string();
        let tls = format!(
            "  scheme: https\n  tls_config: {{ca_file: {}, cert_file: {}, key_file: {}}}\n",
            file("ca.crt"),
            file(&format!("{pair}.crt")),
            file(&format!("{pair}.key")),
        );
        Prometheus::start(std::slice::from_ref(&address), &tls, &[]).expect("a Prometheus")
    };
    let (operator, agent) = (reader("operator"), reader("node-simulated"));
    let up = async |prometheus: &Prometheus| prometheus.query("up").await.ok()?.first().map(|(_, value)| *value > 0.5);
    until_async("an operator's Prometheus reads it", async || up(&operator).await == Some(true)).await;
    until_async("an agent's tries", async || up(&agent).await.is_some()).await;
    assert_eq!(up(&agent).await, Some(false), "an agent's certificate reads nothing");
}
