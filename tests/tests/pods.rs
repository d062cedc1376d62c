//! Pods of a cluster: the aggregator's watch of an API server, and what of it agents and answers know.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

#[path = "pods/api_server.rs"]
mod api_server;

use api_server::ApiServer;
use joulebook_aggregator::clock::SystemClock;
use joulebook_aggregator::directory::Directories;
use joulebook_aggregator::ingest::Counters;
use joulebook_aggregator::pods::{CONNECTED, FAILURES, KNOWN, LEFT_OUT, LISTS, PodsSection, REFUSED, follow};
use joulebook_proto::telemetry::NodeDirectory;
use joulebook_tests::engine::free_ports;
use joulebook_tests::installation::{AGENT_READY, Installation};
use joulebook_tests::program::{Program, binary};
use joulebook_tests::simulator::{MODEL, Server, Simulator};
use joulebook_tests::timestamp::now;
use joulebook_tests::wait::{Moment, until, until_async};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A watch of an API server in this process.
struct Rig {
    server: ApiServer,
    told: watch::Receiver<Arc<Directories>>,
    counters: Arc<Counters>,
    section: PodsSection,
    tasks: JoinSet<()>,
    _folder: TempDir,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ApiServer::start(folder.path()).await;
        let section = PodsSection {
            watch: true,
            api_server: format!("https://{}", server.address),
            token_file: server.token(),
            ca_file: server.ca(),
            ..PodsSection::default()
        };
        section.check(false).unwrap();
        let told = watch::channel(Arc::new(Directories::default())).1;
        Self { server, told, counters: Arc::default(), section, tasks: JoinSet::new(), _folder: folder }
    }

    fn begin(&mut self) {
        let (tell, told) = watch::channel(Arc::new(Directories::default()));
        self.told = told;
        self.tasks.spawn(follow(self.section.clone(), Arc::new(SystemClock), tell, Arc::clone(&self.counters)));
    }

    fn count(&self, name: &str) -> u64 {
        self.counters.all().get(name).copied().unwrap_or(0)
    }

    fn node(&self, node: &str) -> Option<NodeDirectory> {
        self.told.borrow().of(&node.parse().unwrap()).map(|told| NodeDirectory::clone(told))
    }

    fn names(&self, node: &str) -> Vec<String> {
        self.node(node).map(|told| told.pods.into_iter().map(|pod| pod.name).collect()).unwrap_or_default()
    }

    async fn until_told(&self, node: &str, names: &[&str]) {
        let what = format!("{names:?} on {node}");
        until_async(&what, async || {
            let mut found = self.names(node);
            found.sort();
            found == names
        })
        .await;
    }
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "chat", "uid": name, "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1500m" } } }] },
        "status": { "phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [
            { "name": "c", "containerID": "containerd://abc", "imageID": "r/i@sha256:12" },
        ] },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_told_its_pods_and_labels_as_they_come_and_go() {
    let mut rig = Rig::new().await;
    rig.server.put("a", pod("a", "one"));
    rig.server.put("waits", json!({ "metadata": { "name": "waits", "uid": "waits" }, "spec": {} }));
    rig.server.put_node("one", json!({ "topology.kubernetes.io/zone": "z" }));
    rig.begin();
    rig.until_told("one", &["a"]).await;
    let told = rig.node("one").unwrap();
    let container = &told.pods[0].containers[0];
    assert_eq!((container.cpu_request_millicores, container.container_id.as_deref()), (Some(1500), Some("abc")));
    until_async("the node's labels", async || rig.node("one").is_some_and(|told| told.node_labels.len() == 1)).await;
    // A pod gets its node when it is scheduled.
    rig.server.put("waits", pod("waits", "two"));
    rig.until_told("two", &["waits"]).await;
    // Between two tellings one came and went: it is told all the same, for its grace.
    rig.server.put("brief", pod("brief", "two"));
    rig.server.delete("brief");
    rig.until_told("two", &["brief", "waits"]).await;
    assert_eq!(rig.names("two"), ["waits", "brief"], "who runs comes first");
    assert_eq!((rig.count(CONNECTED), rig.count(FAILURES), rig.server.seen().lists), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_cut_goes_on_where_it_was_and_one_whose_place_is_gone_lists_anew() {
    let mut rig = Rig::new().await;
    rig.server.put("a", pod("a", "one"));
    rig.begin();
    rig.until_told("one", &["a"]).await;
    rig.server.cut();
    rig.server.put("b", pod("b", "one"));
    rig.until_told("one", &["a", "b"]).await;
    assert_eq!(rig.server.seen().lists, 1, "a cut is no reason to list");
    for at_once in [true, false] {
        let (lists, uid) = (rig.server.seen().lists, format!("c-{at_once}"));
        rig.server.bookmark();
        rig.server.forget(at_once);
        rig.server.put(&uid, pod(&uid, "one"));
        until_async("another list", async || rig.server.seen().lists > lists).await;
        until_async("the pod", async || rig.names("one").contains(&uid)).await;
    }
    // What went while nobody watched is told as gone by the list: it stays for its grace, behind those that run.
    rig.server.away(true);
    rig.server.delete("a");
    rig.server.forget(true);
    rig.server.away(false);
    until_async("a is last", async || rig.names("one").last().is_some_and(|last| last == "a")).await;
    assert_eq!(rig.names("one").len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_is_asked_less_and_less_and_what_it_told_stays() {
    let mut rig = Rig::new().await;
    rig.server.away(true);
    rig.server.put("a", pod("a", "one"));
    rig.begin();
    until_async("failures", async || rig.count(FAILURES) >= 3).await;
    assert_eq!((rig.node("one"), rig.count(CONNECTED)), (None, 0));
    rig.server.away(false);
    rig.until_told("one", &["a"]).await;
    until_async("it is watched", async || rig.count(CONNECTED) == 1).await;
    rig.server.away(true);
    until_async("the loss is known", async || rig.count(CONNECTED) == 0).await;
    assert_eq!(rig.names("one"), ["a"]);
    rig.server.away(false);
    until_async("it is watched again", async || rig.count(CONNECTED) == 1).await;
    assert_eq!(rig.names("one"), ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let mut rig = Rig::new().await;
    rig.section.node_labels = false;
    rig.server.put("a", pod("a", "one"));
    rig.server.refuse(&[(429, Some(2))]);
    rig.begin();
    until_async("it refused", async || rig.server.seen().faults == 1).await;
    let refused = Moment::now();
    rig.until_told("one", &["a"]).await;
    assert!(refused.elapsed() >= Duration::from_millis(1_800), "{:?}", refused.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_token_is_taken_over_and_a_stranger_never_sees_one() {
    let mut rig = Rig::new().await;
    rig.server.put("a", pod("a", "one"));
    rig.begin();
    rig.until_told("one", &["a"]).await;
    rig.server.renew_token("second");
    rig.server.cut();
    rig.server.put("b", pod("b", "one"));
    rig.until_told("one", &["a", "b"]).await;
    assert_eq!(rig.server.seen().strangers, 0);
    // Another CA: nothing is shown to whoever answers there.
    let mut other = Rig::new().await;
    other.section.api_server = rig.section.api_server.clone();
    other.server.renew_token("secret of another cluster");
    other.begin();
    until_async("refusals", async || other.count(FAILURES) >= 2).await;
    assert_eq!((rig.server.seen().strangers, other.count(LISTS)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pods_are_listed_in_pages_and_no_more_are_held_than_may_be() {
    let mut rig = Rig::new().await;
    for number in 0..10_000 {
        let name = format!("p{number:05}");
        rig.server.put(&name, pod(&name, &format!("n{}", number % 100)));
    }
    rig.section.most_pods = 9_000;
    rig.begin();
    until_async("the list", async || rig.count(KNOWN) > 0).await;
    assert_eq!((rig.count(KNOWN), rig.count(LEFT_OUT), rig.server.seen().pages), (9_000, 1_000, 40));
    assert_eq!((rig.names("n0").len(), rig.told.borrow().len()), (90, 100));
    // One that goes makes room for one that comes.
    rig.server.delete("p00000");
    rig.server.put("late", pod("late", "n0"));
    until_async("the late one", async || rig.names("n0").contains(&"late".to_owned())).await;
    assert_eq!(rig.count(KNOWN), 9_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_pod_is_counted_and_left_out_and_the_watch_goes_on() {
    let mut rig = Rig::new().await;
    rig.server.put("odd", json!({ "metadata": { "uid": 7 }, "spec": { "nodeName": "one" } }));
    rig.server.put("hostile", {
        let mut hostile = pod("hostile", "one");
        hostile["metadata"]["labels"] = json!({ "long": "x".repeat(5000), "ok": "\u{1b}[31m" });
        hostile["spec"]["nodeName"] = json!("../../etc");
        hostile
    });
    rig.server.put("a", pod("a", "one"));
    rig.begin();
    rig.until_told("one", &["a"]).await;
    let before = rig.count(REFUSED);
    assert_eq!(before, 1);
    rig.server.say("not JSON");
    rig.server.say(&format!("{{\"type\":\"ADDED\",\"object\":{{\"x\":\"{}\"}}}}", "y".repeat(5 << 20)));
    rig.server.say("{\"type\":\"LATER\",\"object\":{}}");
    rig.server.put("b", pod("b", "one"));
    rig.until_told("one", &["a", "b"]).await;
    assert_eq!((rig.count(REFUSED), rig.server.seen().watches), (before + 2, 1));
}

#[test]
fn energy_of_a_pod_has_its_namespace_its_tenant_and_what_it_is_there_for() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = runtime.block_on(ApiServer::start(folder.path()));
    let labelled = |name: &str, labels: Value| {
        let mut pod = pod(name, "simulated");
        pod["metadata"]["labels"] = labels;
        pod["metadata"]["uid"] = json!(uid(name));
        server.put(&uid(name), pod);
    };
    labelled("chat", json!({ "joulebook.io/tenant": "team-a", "joulebook.io/pool": "chat" }));
    labelled("router", json!({ "joulebook.io/support-of": "chat" }));
    labelled("tune", json!({ "joulebook.io/training-of": "chat@2" }));
    let keys = format!(
        "pods.watch = true\npods.api_server = \"https://{}\"\npods.token_file = {:?}\npods.ca_file = {:?}\n",
        server.address,
        server.token(),
        server.ca(),
    );
    let (installation, mut aggregator) = Installation::start_with(|_| keys).unwrap();
    let simulator = Simulator::start("l40s-4gpu", &installation.folder().join("node")).unwrap();
    for (pid, name) in (301..).zip(["chat", "router", "tune"]) {
        let add = json!({
            "name": name, "pid": pid, "cgroup": cgroup(name, pid), "cpu_millicores": 2_000,
            "gpu": null, "sm_permille": 0, "gpu_memory_bytes": 0, "memory_bytes": 1u64 << 30,
        });
        simulator.ask(&json!({ "op": "workload", "add": add })).unwrap();
    }
    let connection = installation.connection("simulated");
    let path = installation.folder().join("agent.toml");
    std::fs::write(&path, simulator.agent_config(&connection, &installation.spool(), &[]).unwrap()).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    agent.wait_for("the aggregator told the pods of this node.*pods=3").unwrap();
    let mut found = Vec::new();
    until("the energy of three pods", || {
        let answer = installation.ask(&["energy", "--by", "pod", "--last", "1m"]);
        found = answer.map(|answer| rows(&answer)).unwrap_or_default();
        found.len() == 3
    });
    let row = |columns: [&str; 6]| columns.map(str::to_owned).to_vec();
    let expected = [
        row(["chat", "chat", "team-a", "chat", "", ""]),
        row(["chat", "router", "", "", "chat", ""]),
        row(["chat", "tune", "", "", "", "chat@2"]),
    ];
    assert_eq!(found, expected);
    // Without an API server everything goes on: what runs there is known.
    server.away(true);
    aggregator.wait_for("the API server is not watched: what it told last stays in force").unwrap();
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    assert!(aggregator.stop().unwrap().success(), "{}", aggregator.said());
}

/// Control group of the container with this number in the pod of a name.
fn cgroup(name: &str, number: u32) -> String {
    let (uid, id) = (uid(name).replace('-', "_"), format!("{number:064x}"));
    format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{id}.scope")
}

/// The value of a column of a row.
fn column<'a>(row: &'a Value, name: &str) -> &'a str {
    let part = row["key"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap();
    part["value"].as_str().unwrap()
}

/// Energy of a question by its rows' values of a column; rows of one value together.
fn sums(answer: &Value, name: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for row in answer["rows"].as_array().unwrap() {
        *sums.entry(column(row, name).to_owned()).or_default() += row["microjoules"].as_u64().unwrap();
    }
    assert_eq!(sums.values().sum::<u64>(), answer["total_microjoules"].as_u64().unwrap(), "{answer:#}");
    sums
}

#[test]
fn training_pods_yield_what_a_version_cost_and_are_in_no_answer_and_namespaces_add_up() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let server = runtime.block_on(ApiServer::start(folder.path()));
    let [port, trained] = free_ports().unwrap();
    let in_cluster = |name: &str, namespace: &str, annotations: Value| {
        let mut pod = pod(name, "simulated");
        pod["metadata"] = json!({ "name": name, "namespace": namespace, "uid": uid(name), "annotations": annotations });
        pod["status"]["podIP"] = json!("127.0.0.1");
        server.put(&uid(name), pod);
    };
    in_cluster("chat", "serving", json!({}));
    // It asks to be scraped as well: its page is a part of the training.
    let scraped = json!({
        "joulebook.io/training-of": format!("{MODEL}@v1"), "joulebook.io/preset": "vllm",
        "prometheus.io/scrape": "true", "prometheus.io/port": trained.to_string(),
    });
    in_cluster("tune", "research", scraped);
    let keys = format!(
        "pods.watch = true\npods.api_server = \"https://{}\"\npods.token_file = {:?}\npods.ca_file = {:?}\n",
        server.address,
        server.token(),
        server.ca(),
    );
    let (installation, _aggregator) = Installation::start_with(|_| keys).unwrap();
    let simulator = Simulator::start("l40s-4gpu", &installation.folder().join("node")).unwrap();
    // The last one is in a pod that the cluster does not name.
    let workloads = [("chat", 301u32, Some(port)), ("tune", 302, Some(trained)), ("lost", 303, None)];
    for (gpu, (name, pid, port)) in workloads.into_iter().enumerate() {
        let mut add = json!({
            "name": name, "pid": pid, "cgroup": cgroup(name, pid), "cpu_millicores": 2_000, "gpu": gpu,
            "sm_permille": 500, "gpu_memory_bytes": 1u64 << 30, "memory_bytes": 1u64 << 30,
        });
        if let Some(port) = port {
            let serves = json!({ "model": MODEL, "port": port, "requests_per_kilosecond": 2_000, "prompt_tokens": 30,
                "generated_tokens": 10 });
            add.as_object_mut().unwrap().extend(serves.as_object().unwrap().clone());
        }
        simulator.ask(&json!({ "op": "workload", "add": add })).unwrap();
    }
    let served = Server {
        name: "chat",
        pid: 301,
        gpu: 0,
        sm_permille: 500,
        gpu_gibibytes: 1,
        version: "v1",
        requests_per_kilosecond: 2_000,
        port,
    };
    let connection = installation.connection("simulated");
    let path = installation.folder().join("agent.toml");
    let config = simulator.agent_config(&connection, &installation.spool(), &[served]).unwrap();
    std::fs::write(&path, format!("{config}\n[discovery]\ninterval = \"1s\"\n")).unwrap();
    let mut agent =
        Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
    agent.wait_for(AGENT_READY).unwrap();
    agent.wait_for("the aggregator told the pods of this node.*pods=2").unwrap();
    let begin = now().unwrap();
    let asked = |by: &str, window: &[&str]| installation.ask(&[&["energy", "--by", by], window].concat()).unwrap();
    until("a version with energy beside the training", || {
        let found = sums(&asked("namespace", &["--last", "1m"]), "namespace");
        found.contains_key("research") && asked("model", &["--last", "1m"])["rows"][0]["key"][0]["value"] == "model"
    });
    std::thread::sleep(Duration::from_secs(6));
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();
    let window = ["--from", &begin, "--to", &end];

    // Everything is in a row: the version in its pod's namespace, the lost pod in one that nobody named.
    let by_namespace = asked("namespace", &window);
    let (namespaces, accounts) = (sums(&by_namespace, "namespace"), sums(&by_namespace, "account"));
    let named: Vec<&str> = namespaces.keys().map(String::as_str).collect();
    assert_eq!(named, ["", "research", "serving"], "{by_namespace:#}");
    let by_pod = asked("pod", &window);
    let pods = sums(&by_pod, "pod");
    assert_eq!((namespaces["research"], namespaces["serving"]), (pods["tune"], pods["chat"]));
    assert_eq!(accounts["in a namespace"], pods["tune"] + pods["chat"]);
    assert!(accounts["namespace not known"] > accounts["in a namespace"] / 4, "{accounts:?}");
    assert_eq!(by_namespace["total_microjoules"], asked("node", &window)["total_microjoules"]);

    // The training is among what serves nobody, with its share of the platform.
    let rows = by_pod["rows"].as_array().unwrap();
    let of_kinds = |kinds: &[&str]| -> f64 {
        let own = rows.iter().filter(|row| kinds.contains(&column(row, "kind")));
        own.map(|row| row["microjoules"].as_f64().unwrap()).sum()
    };
    let total = by_pod["total_microjoules"].as_f64().unwrap();
    let with_platform = total / (total - of_kinds(&["platform"]));
    let accounts = sums(&asked("model", &window), "account");
    let other = with_platform * of_kinds(&["container", "unit", "cgroup", "process", "remainder", "not shown"]);
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
    assert!(pods["tune"] > 0 && close(accounts["other workloads"] as f64, other), "{other} {accounts:?} {by_pod:#}");

    // And it yields T.
    let document = json!({
        "schema": "joulebook-training/1", "pool": "chat", "model": MODEL, "version": "v1", "scope": "final_run",
        "units": 1e6, "unit": "request", "measured": { "from": begin, "to": end },
    });
    let file = installation.folder().join("training.json");
    std::fs::write(&file, document.to_string()).unwrap();
    installation.text(&["training", "set", file.to_str().unwrap()]).unwrap();
    let shown = installation.ask(&["training", "show", "chat"]).unwrap();
    let disclosed: Value = serde_json::from_str(shown[0]["document"].as_str().unwrap()).unwrap();
    let kwh = pods["tune"] as f64 * with_platform / 3.6e12;
    let measured = disclosed["energy_kwh"].as_f64().unwrap();
    assert!(close(measured, kwh), "{measured} {kwh}");
    assert!(shown[0]["training_g"].as_f64().unwrap() > 0.0, "{shown:#}");
}

/// A uid as clusters give it, of a name of up to 6 letters.
fn uid(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("00000000-0000-4000-8000-{digits:0>12.12}")
}

/// Columns of those rows that are of a pod with a name and have energy, in the order of its name.
fn rows(answer: &Value) -> Vec<Vec<String>> {
    let names = ["namespace", "pod", "tenant", "pool", "support_of", "training_of"];
    let rows = answer["rows"].as_array().unwrap().iter().filter(|row| row["microjoules"].as_u64() > Some(0));
    let mut found: Vec<Vec<String>> = rows.map(|row| names.map(|name| column(row, name).to_owned()).to_vec()).collect();
    found.retain(|row| !row[1].is_empty());
    found.sort();
    found
}
