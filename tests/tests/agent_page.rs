//! The agent's page of metrics, as a running agent serves it to whoever scrapes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use joulebook_tests::installation::{AGENT_READY, AgentSettings, Installation};
use joulebook_tests::powercap::Powercap;
use joulebook_tests::program::{Program, binary};
use joulebook_tests::wait::until;
use regex::Regex;

const LISTENS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
const SERVED: &str = r"metrics are served.*address=(127\.0\.0\.1:\d+)";

/// Where an agent says that it serves its page: as it said last.
fn address(agent: &Program) -> String {
    agent.wait_for(SERVED).unwrap();
    let said = agent.said();
    let found = Regex::new(SERVED).unwrap().captures_iter(&said).last().map(|found| found[1].to_owned());
    found.unwrap()
}

fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The page's values by name and labels, without the beginning that all names have.
fn page(address: &str) -> BTreeMap<String, f64> {
    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let samples = body.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
    let name = |series: &str| series.strip_prefix("joulebook_agent_").unwrap().to_owned();
    samples.map(|(series, value)| (name(series), value.parse().unwrap())).collect()
}

fn of_node(page: &BTreeMap<String, f64>, name: &str) -> Option<f64> {
    page.get(&format!("{name}{{node=\"under-test\"}}")).copied()
}

#[test]
fn the_page_tells_of_sources_and_delivery_through_an_outage() {
    let (mut installation, aggregator) = Installation::start().unwrap();
    let sysfs = installation.folder().join("sys");
    let _zone = Powercap::new(&sysfs).unwrap().zone("intel-rapl:0", "package-0", 7).unwrap();
    let settings = AgentSettings { sysfs: Some(sysfs), more: LISTENS.to_owned(), ..AgentSettings::default() };
    let agent = installation.start_agent(&settings).unwrap();
    let address = address(&agent);
    until("rows are delivered", || {
        let page = page(&address);
        of_node(&page, "session_open") == Some(1.0) && of_node(&page, "acknowledged_sequence") >= Some(1.0)
    });
    let before = page(&address);
    let source = r#"node="under-test",source="rapl/intel-rapl:0""#;
    let up = before.iter().find(|(name, _)| name.starts_with("source_up{") && name.contains(r#"collector="rapl""#));
    assert_eq!(up.map(|(_, value)| *value), Some(1.0), "{source} in {before:?}");
    assert!(of_node(&before, "rows_total") > Some(4.0) && of_node(&before, "row_age_seconds") < Some(60.0));
    assert!(before["process_cpu_seconds_total{process=\"main\"}"] > 0.0);
    assert_eq!(get(&address, "/readyz").0.split(' ').nth(1), Some("200"));

    drop(aggregator);
    until("records wait", || {
        let page = page(&address);
        of_node(&page, "session_open") == Some(0.0)
            && of_node(&page, "spool_waiting_records") >= Some(2.0)
            && of_node(&page, "spool_behind_seconds") > Some(1.0)
    });
    assert_eq!(get(&address, "/readyz").0.split(' ').nth(1), Some("200"), "it goes on measuring");
    let _aggregator = installation.start_aggregator().unwrap();
    let mut after = BTreeMap::new();
    until("they are delivered", || {
        after = page(&address);
        of_node(&after, "spool_waiting_records") == Some(0.0)
    });
    assert!(of_node(&after, "sessions_total") >= Some(2.0), "{after:?}");
    assert_eq!(
        (of_node(&after, "lost_records_total"), of_node(&after, "ack_regressions_total")),
        (Some(0.0), Some(0.0))
    );
    assert_eq!(of_node(&after, "spool_behind_seconds"), Some(0.0));
    assert!(after["cert_expiry_seconds{node=\"under-test\"}"] > 86_400.0);
}

#[test]
fn b64_configurations_that_are_taken_over_and_refused_are_counted_on_the_page() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let settings = AgentSettings { more: LISTENS.to_owned(), ..AgentSettings::default() };
    let path = installation.agent_config(&settings).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let agent = Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.clone().into_os_string()])
        .unwrap();
    let first = address(&agent);
    agent.wait_for(AGENT_READY).unwrap();
    let change = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    };
    change(&format!("colour = 1\n{good}"));
    agent.hang_up();
    agent.wait_for(r"config_reload_failures_total 1").unwrap();
    assert_eq!(page(&first).get("config_reload_failures_total"), Some(&1.0));
    change(&good.replace("batch_rows = 5", "batch_rows = 4"));
    agent.hang_up();
    agent.wait_for(r"config_reloads_total 1").unwrap();
    let second = address(&agent);
    let page = page(&second);
    assert_eq!((page["config_reload_failures_total"], page["config_reloads_total"]), (1.0, 1.0));
}

#[test]
fn b30_the_danger_option_is_a_metric() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let account = installation.folder().join("bmc.toml");
    fs::write(&account, "user = \"u\"\npassword = \"p\"\n").unwrap();
    fs::set_permissions(&account, Permissions::from_mode(0o600)).unwrap();
    let pinned = format!("fingerprint = \"{}\"", "ab".repeat(32));
    for (trust, expected) in [("danger_accept_any_certificate = true", 1.0), (pinned.as_str(), 0.0)] {
        // Nobody listens there: what counts is what the agent would accept.
        let more = format!("{LISTENS}[redfish]\nurl = \"https://127.0.0.1:1\"\ncredentials = {account:?}\n{trust}\n");
        let agent = installation.start_agent(&AgentSettings { more, ..AgentSettings::default() }).unwrap();
        let page = page(&address(&agent));
        assert_eq!(of_node(&page, "redfish_accepts_any_certificate"), Some(expected), "{trust}");
    }
}

#[test]
fn an_address_that_others_reach_is_refused_unless_it_is_asked_for_and_a_taken_one_ends_with_69() {
    let (installation, _aggregator) = Installation::start().unwrap();
    let run = |more: &str| {
        let path =
            installation.agent_config(&AgentSettings { more: more.to_owned(), ..AgentSettings::default() }).unwrap();
        let mut agent =
            Program::start(binary("joulebook-agent").unwrap(), &["--config".into(), path.into_os_string()]).unwrap();
        let status = agent.wait().unwrap();
        (status.code(), agent.said())
    };
    let (code, said) = run("[metrics]\nlisten = \"0.0.0.0:0\"\n");
    assert!(code == Some(78) && said.contains("metrics.plaintext"), "{code:?}: {said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = run(&format!("[metrics]\nlisten = \"{}\"\n", taken.local_addr().unwrap()));
    assert!(code == Some(69) && said.contains("set metrics.listen"), "{code:?}: {said}");
    assert!(!installation.spool().exists(), "a refusal changes nothing");
}
