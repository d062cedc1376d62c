//! What Joulebook itself costs: the processes of its agent and its aggregator, as the agent of their node measures them, and
//! nothing where no agent does.

use super::{key, same, section};
use joulebook_tests::export::Exported;
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::powercap::Powercap;
use joulebook_tests::prometheus::get;
use joulebook_tests::wait::{Moment, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The shortest step that there is, and time for the rows of its end.
const PAGE: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n[export]\nstep = \"1m\"\ndelay = \"12s\"\nwindows = []\n";
/// What the processor draws at rest, and at work.
const WATTS: (u32, u32) = (50, 300);

/// Values of a page by series.
fn values(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| Some((line.rsplit_once(' ')?.0.to_owned(), line.rsplit_once(' ')?.1.parse().ok()?));
    lines.filter_map(split).collect()
}

#[test]
fn the_agent_and_the_aggregator_are_seen_by_their_nodes_agent_as_what_joulebook_itself_costs() {
    let (installation, aggregator) = Installation::start_with(|_| PAGE.to_owned()).expect("an aggregator");
    let page_at = aggregator.wait_for(r"metrics are read at (\S+)$").expect("a page");
    let sysfs = installation.folder().join("sys");
    let mut zone = Powercap::new(&sysfs).expect("a tree").zone("intel-rapl:0", "package-0", 7).expect("a zone");
    let more = format!("[rapl]\nidle_watts = {}.0\n", WATTS.0);
    let settings = AgentSettings { sysfs: Some(sysfs), more, ..AgentSettings::default() };
    let agent = installation.start_agent(&settings).expect("an agent");
    let runtime = Runtime::new().expect("a runtime");
    let page = || values(&runtime.block_on(get(&page_at, "/metrics", "*/*")).expect("a page").1);
    let series =
        |part: &str| format!("joulebook_self_energy_joules{{node=\"under-test\",part=\"{part}\",window=\"1m\"}}");
    let (ended, mut told) = (AtomicBool::new(false), BTreeMap::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = Moment::now();
            // Bounded, so that a test that fails ends.
            for _ in 0..1_500 {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
                let now = Moment::now();
                zone.flow(WATTS.1, last.elapsed()).expect("written");
                last = now;
            }
        });
        // Each look at its page is work for the aggregator.
        until("a step of both is told", || {
            told = page();
            [series("agent"), series("aggregator")].iter().all(|series| told.contains_key(series))
        });
        ended.store(true, Ordering::SeqCst);
    });

    let edge = |which: &str| {
        let at = told[&format!("joulebook_window_{which}_timestamp_seconds{{window=\"1m\"}}")] as i64;
        jiff::Timestamp::from_second(at).expect("a time").to_string()
    };
    let (start, end) = (edge("start"), edge("end"));
    let question = ["energy", "--by", "workload", "--from", &start, "--to", &end];
    let answer = installation.ask(&question).expect("an answer");
    let rows: Vec<&Value> = answer["rows"].as_array().expect("rows").iter().collect();
    let energy = |row: &Value| row["microjoules"].as_u64().expect("known");
    assert_eq!(rows.iter().map(|row| energy(row)).sum::<u64>(), answer["total_microjoules"].as_u64().expect("a sum"));
    for (part, program) in [("agent", &agent), ("aggregator", &aggregator)] {
        let own = |row: &&&Value| key(row, "kind") == "joulebook" && key(row, "name") == format!("joulebook-{part}");
        let all: u64 = rows.iter().filter(own).map(|row| energy(row)).sum();
        assert_eq!(answer["own_microjoules"][part].as_u64(), Some(all), "{answer}");
        assert!(same(told[&series(part)], all as f64 / 1e6), "{told:?}");
        // Others of this machine may be Joulebook's, too; this one is among them.
        let id = format!("process/{}@", program.pid());
        let found: Vec<_> = rows.iter().filter(own).filter(|row| key(row, "id").starts_with(&id)).collect();
        assert!(found.len() == 1 && energy(found[0]) > 0, "{id}: {answer}");
        assert!(found[0]["cpu_seconds"].as_f64().expect("CPU time") > 0.0);
    }
    let text = installation.text(&question).expect("an answer");
    assert!(text.contains("of it Joulebook itself: agent "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_agent_sees_them_nothing_is_said_of_what_they_cost() {
    let exported = Exported::start(section()).await;
    let page = get(&exported.page.to_string(), "/metrics", "*/*").await.expect("a page").1;
    assert!(
        page.contains("\njoulebook_node_energy_joules{") && !page.contains("joulebook_self_energy_joules"),
        "{page}"
    );
}
