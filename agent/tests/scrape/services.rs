//! One page, several services: models and versions side by side in one server.

use super::*;

fn triton(series: &[(&str, &str, u64)]) -> String {
    let lines = series.iter().map(|(model, version, count)| {
        format!("nv_inference_request_success{{model=\"{model}\",version=\"{version}\"}} {count}\n")
    });
    format!("# TYPE nv_inference_request_success counter\n{}", lines.collect::<String>())
}

/// Requests by `model/version` after one more scrape, with each service's origin in seconds.
async fn requests(inference: &mut Inference) -> BTreeMap<String, (u64, Option<u64>)> {
    inference.scraper().scrape_now().await;
    let mut newest = BTreeMap::new();
    while let Ok(sample) = inference.samples.try_recv() {
        let CountSample { service, counts, origin, .. } = sample;
        let name = format!("{}/{}", service.model.expect("a model"), service.version.expect("a version"));
        newest.insert(name, (counts[&CountKind::RequestsOk], origin.map(|origin| origin.0 / 1_000_000_000)));
    }
    newest
}

#[tokio::test]
async fn every_version_on_a_page_is_a_service_and_a_reload_resets_it_alone() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.says("/metrics", &triton(&[("a", "1", 5), ("a", "2", 6)]));
    let mut inference = run_as("triton", &[url(port)], table.0.path());
    // The scrape at the start is over.
    inference.samples.recv().await.expect("a sample");
    let counted = requests(&mut inference).await;
    let sums = |counted: BTreeMap<String, (u64, Option<u64>)>| -> Vec<(String, u64)> {
        counted.into_iter().map(|(name, (count, _))| (name, count)).collect()
    };
    assert_eq!(sums(counted), [("a/1".to_owned(), 5), ("a/2".to_owned(), 6)]);
    // Version 1 was unloaded and loaded again, version 2 went on, and b is new.
    server.says("/metrics", &triton(&[("a", "1", 2), ("a", "2", 9), ("b", "1", 4)]));
    let counted = requests(&mut inference).await;
    assert!(counted["b/1"].1.is_some_and(|origin| origin > 1_001), "0 at the scrape before: {counted:?}");
    assert_eq!(sums(counted), [("a/1".to_owned(), 7), ("a/2".to_owned(), 9), ("b/1".to_owned(), 4)]);
    assert_eq!(failures(&inference), ["counter_reset"]);
    // One that is gone is not told, and takes nothing from the others.
    server.says("/metrics", &triton(&[("a", "2", 10)]));
    assert_eq!(sums(requests(&mut inference).await), [("a/2".to_owned(), 10)]);
    server.says("/metrics", &triton(&[("a", "1", 3), ("a", "2", 10)]));
    assert_eq!(sums(requests(&mut inference).await), [("a/1".to_owned(), 8), ("a/2".to_owned(), 10)]);
}

#[tokio::test]
async fn a_version_that_a_client_invented_opens_no_service() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    let families =
        "# TYPE model_infer_request_success_total counter\n# TYPE model_infer_request_failure_total counter\n";
    let invented = "model_infer_request_failure_total{model=\"a\",version=\"v9\"} 3\n";
    let real = "model_infer_request_success_total{model=\"a\",version=\"v1\"} 2\n";
    server.says("/metrics", &[families, invented, real].concat());
    let mut inference = run_as("mlserver", &[url(port)], table.0.path());
    assert_eq!(requests(&mut inference).await.keys().collect::<Vec<_>>(), ["a/v1"]);
}

#[tokio::test]
async fn a_version_keeps_the_engines_own_name_for_its_processes_whatever_the_configuration_calls_it() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    server.says("/metrics", &triton(&[("a", "1", 5), ("a", "2", 6)]));
    for (names, parts) in [
        ("model = \"mine\"", vec![Some(("a", "1")), Some(("a", "2"))]),
        // Both are one service now, which no process works for alone.
        ("model = \"mine\"\nversion = \"9\"", vec![None]),
    ] {
        let target = format!("url = \"{}\"\npreset = \"triton\"\n{names}", url(port));
        let targets: Vec<TargetConfig> = vec![toml::from_str(&target).expect("valid")];
        let clock = Arc::new(StepClock(AtomicU64::new(0)));
        let mut inference = start(targets, &presets(), table.0.path().to_owned(), clock).expect("valid");
        let mut samples = Vec::new();
        for _ in &parts {
            samples.push(inference.samples.recv().await.expect("a sample"));
        }
        let told =
            samples.iter().map(|sample| sample.part.as_ref().map(|part| (part.model.as_str(), part.version.as_str())));
        assert_eq!(told.collect::<Vec<_>>(), parts);
        assert!(samples.iter().all(|sample| sample.service.model.as_deref() == Some("mine")));
        let groups = inference.groups.borrow().clone();
        let rule = groups[0].parts.as_ref().expect("Triton has a process for each version");
        let name = rule.name(b"/opt/stub\0/repo/a/2/model.py\0").expect("a version");
        assert_eq!((name.model.as_str(), name.version.as_str()), ("a", "2"));
    }
}

#[tokio::test]
async fn versions_beyond_the_limit_of_a_target_are_one_that_is_called_other() {
    let (server, table) = (Server::default(), Table::new());
    let port = server.start().await;
    table.listens(port, 41, 1_001, "1.0");
    let names: Vec<String> = (0..230).map(|number| format!("{number:03}")).collect();
    let series = |count: u64| names.iter().map(|version| ("a", version.as_str(), count)).collect::<Vec<_>>();
    server.says("/metrics", &triton(&series(2)));
    let mut inference = run_as("triton", &[url(port)], table.0.path());
    inference.samples.recv().await.expect("a sample");
    server.says("/metrics", &triton(&series(3)));
    inference.scraper().scrape_now().await;
    let mut newest = BTreeMap::new();
    while let Ok(sample) = inference.samples.try_recv() {
        newest.insert((sample.service.model, sample.service.version), sample.counts[&CountKind::RequestsOk]);
    }
    let other = newest.remove(&(Some("other".to_owned()), None)).expect("an overflow");
    assert_eq!(newest.len(), 200);
    assert!(newest.values().all(|count| *count == 3), "{newest:?}");
    assert_eq!(other, 30 * 3, "nothing is lost");
}
