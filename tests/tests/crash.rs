//! The aggregator is killed with records on their way; what it acknowledged is there, once, and so is everything else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "functions that tests call may fail the test")]

use std::collections::BTreeMap;

use joulebook_agent::spool::{Spool, SpoolConfig, StoredRecord, read_all};
use joulebook_tests::engine::{ALIAS, Engine, Usage, exposition, free_ports};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::timestamp::now;
use joulebook_units::Subject;
use serde_json::Value;

const KILLS: usize = 3;
/// Questions until a record must have come: each takes some 50 ms, a record comes every 5 s.
const MOST_QUESTIONS: usize = 2_000;

/// Last − first cumulative value of every energy source in the log of a spool.
fn energy_in(log: &[StoredRecord], dictionary: &BTreeMap<u32, Subject>) -> BTreeMap<String, u64> {
    let mut ends: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for column in log.iter().flat_map(|record| &record.batch.columns) {
        let Some(Subject::Energy(source)) = dictionary.get(&column.series) else { continue };
        for point in column.previous.iter().chain(&column.points) {
            ends.entry(source.id.clone()).or_insert((point.value, point.value)).1 = point.value;
        }
    }
    ends.into_iter().map(|(source, (first, last))| (source, last - first)).collect()
}

/// Energy by source as the operator's tool prints it.
fn energy_of(answer: &Value) -> BTreeMap<String, u64> {
    let rows = answer["rows"].as_array().expect("an energy answer has rows");
    let source = |row: &Value| {
        let key = row["key"].as_array().expect("a row has a key").iter().find(|part| part["name"] == "source");
        key.and_then(|part| part["value"].as_str()).expect("a source row names its source").to_owned()
    };
    rows.iter().map(|row| (source(row), row["microjoules"].as_u64().expect("a known energy"))).collect()
}

#[test]
fn killed_aggregators_lose_and_double_nothing() {
    let (mut installation, mut aggregator) = Installation::start().unwrap();
    let [port] = free_ports().unwrap();
    let begin = now().unwrap();
    let settings = AgentSettings { targets: vec![exposition(port)], keep_spool: true, ..AgentSettings::default() };
    let mut agent = installation.start_agent(&settings).unwrap();
    let engine = Engine::start(installation.folder(), "1.0", port).unwrap();
    let mut client = Usage::default();
    let mut asked = 0;
    let mut ask = |client: &mut Usage| {
        asked += 1;
        engine.ask(&format!("question {asked:04} of many"), 60, client).unwrap();
    };
    let newest =
        |installation: &Installation| read_all(&installation.spool()).unwrap().last().map_or(0, |r| r.sequence);

    for _ in 0..KILLS {
        let before = newest(&installation);
        // What is written to the spool now is sent to a process that can neither store nor acknowledge it.
        aggregator.freeze();
        let grown = (0..MOST_QUESTIONS).any(|_| {
            ask(&mut client);
            newest(&installation) > before
        });
        assert!(grown, "no record was on its way at the kill; the agent said:\n{}", agent.said());
        aggregator.kill().unwrap();
        ask(&mut client);
        aggregator = installation.start_aggregator().unwrap();
        (0..20).for_each(|_| ask(&mut client));
    }
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let log = read_all(&installation.spool()).unwrap();
    let (spool, recovery) = Spool::open(&SpoolConfig::new(installation.spool())).unwrap();
    drop(spool);
    let numbers: Vec<u64> = log.iter().map(|record| record.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "the log holds every record");

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let by_source = installation.ask(&[&["energy", "--by", "source"], &window[..]].concat()).unwrap();
    let sent = energy_in(&log, &recovery.dictionary);
    assert!(sent.values().sum::<u64>() > 0, "{sent:?}");
    assert_eq!(energy_of(&by_source), sent, "stored energy is what was sent, to the microjoule");

    let scores = installation.ask(&[&["sci", "--model", ALIAS], &window[..]].concat()).unwrap();
    let tokens = &scores["answers"][0]["tokens"];
    let stored = (tokens["input"].as_u64(), tokens["output"].as_u64());
    assert_eq!(stored, (Some(client.input), Some(client.output)), "stored counts are the client's: {scores}");
}
