//! The page itself: its formats, its health, and who wastes its time.

use super::section;
use joulebook_tests::export::Exported;
use joulebook_tests::prometheus::{get, promtool, request};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_object_to() {
    let exported = Exported::start(section()).await;
    let (status, page) = get(&exported.page.to_string(), "/metrics", "*/*").await.expect("a page");
    assert_eq!(status, 200);
    assert!(page.lines().count() > 250, "{page}");
    let checked = promtool(&["check", "metrics"], &page).expect("promtool");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.trim().is_empty(), "{said}");
    let broken = promtool(&["check", "metrics"], "joulebook_x{ 1\n").expect("promtool");
    assert!(!broken.status.success(), "promtool reads what it is given");
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_health_and_refusals() {
    let exported = Exported::start(section()).await;
    let page = exported.page.to_string();
    let open_metrics = get(&page, "/metrics", "application/openmetrics-text; version=1.0.0").await.expect("a page").1;
    assert!(
        open_metrics.ends_with("# EOF\n") && open_metrics.contains("# UNIT joulebook_model_energy_joules joules\n")
    );
    assert_eq!(get(&page, "/healthz", "*/*").await.expect("answered").0, 200);
    assert_eq!(get(&page, "/readyz", "*/*").await.expect("answered").0, 200);
    exported.counters.set("intake_open", 0);
    assert_eq!(get(&page, "/readyz", "*/*").await.expect("answered").0, 503);
    assert_eq!(
        get(&page, "/healthz", "*/*").await.expect("answered").0,
        200,
        "what cannot store is not restarted for it"
    );
    assert_eq!(get(&page, "/", "*/*").await.expect("answered").0, 404);
    assert_eq!(request("POST", &page, "/metrics", "*/*").await.expect("answered").0, 405);
    assert_eq!(exported.counters.all().get("metrics_pages_total"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_say_nothing_hold_the_page_up_for_seconds_only() {
    let exported = Exported::start(section()).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(exported.page).await.expect("a connection"));
    }
    let (status, _) = get(&exported.page.to_string(), "/metrics", "*/*").await.expect("a page");
    assert_eq!((status, silent.len()), (200, 100));
}
