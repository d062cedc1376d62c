//! llama.cpp: a server for each version, told apart by its process.

use std::collections::BTreeMap;

use joulebook_tests::cpu_time::process_ticks;
use joulebook_tests::engine::{ALIAS, Engine, Usage, exposition, free_ports};
use joulebook_tests::installation::{AgentSettings, Installation};
use joulebook_tests::program::Program;
use joulebook_tests::timestamp::now;
use serde_json::Value;

use crate::energy::{alone, cpu_energy, key, only};

/// Rounds of three questions to 1.0 and one to 2.0: some 20 s of CPU time, so that a clock tick is far below a percent.
const ROUNDS: u32 = 80;
const ANSWER_TOKENS: u32 = 160;

#[test]
fn tokens_and_energy_of_two_versions_agree_with_the_client_and_the_kernel() {
    let _alone = alone();
    let (installation, _aggregator) = Installation::start().unwrap();
    let [first, second] = free_ports().unwrap();
    let begin = now().unwrap();
    let targets = vec![exposition(first), exposition(second)];
    let mut agent = installation.start_agent(&AgentSettings { targets, ..AgentSettings::default() }).unwrap();
    let one = Engine::start(installation.folder(), "1.0", first).unwrap();
    let two = Engine::start(installation.folder(), "2.0", second).unwrap();
    let busy = Program::start("sh", &["-c", "echo busy; while :; do :; done"]).unwrap();
    busy.wait_for("busy").unwrap();

    let mut client = [Usage::default(); 2];
    for round in 0..ROUNDS {
        for _ in 0..3 {
            one.ask(&format!("question {round:04} of many"), ANSWER_TOKENS, &mut client[0]).unwrap();
        }
        two.ask(&format!("question {round:04} of many"), ANSWER_TOKENS, &mut client[1]).unwrap();
    }
    assert_eq!(client[0].output, 3 * client[1].output, "three times the tokens go to 1.0");
    busy.freeze();
    let ticks = [one.pid(), two.pid(), busy.pid()].map(|pid| process_ticks(pid).unwrap());
    assert!(agent.stop().unwrap().success(), "{}", agent.said());
    let end = now().unwrap();

    let window = ["--from", begin.as_str(), "--to", end.as_str()];
    let scores = installation.ask(&[&["sci", "--per", "total-token"], &window[..]].concat()).unwrap();
    let schema = include_str!("../../../cli/schema/answer.schema.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let faults: Vec<String> =
        schema.iter_errors(&scores).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let mut grams = BTreeMap::new();
    for (version, sums) in ["1.0", "2.0"].into_iter().zip(client) {
        let answers = scores["answers"].as_array().unwrap();
        let of_version =
            |answer: &&Value| answer["subject"]["model"] == ALIAS && answer["subject"]["model_version"] == version;
        let answer = answers.iter().find(of_version).unwrap_or_else(|| panic!("no answer for {version}: {scores}"));
        let count = |kind: &str| answer["tokens"][kind].as_u64();
        let book = (count("input"), count("cached"), count("output"));
        assert_eq!(book, (Some(sums.input), Some(sums.cached), Some(sums.output)), "tokens of {version}");
        assert!(answer["sci"]["value"].as_f64().is_some_and(|value| value > 0.0), "{answer}");
        grams.insert(version, answer["carbon"]["total_g"].as_f64().unwrap());
    }
    assert!(grams["1.0"] > grams["2.0"], "three times the tokens cost more: {grams:?}");

    let model = format!("{ALIAS}@1.0");
    let explained =
        installation.ask(&[&["explain", "--per", "total-token", "--model", &model], &window[..]].concat()).unwrap();
    let energy = cpu_energy(&explained, &["cpu_dynamic"]);
    let pid = format!("process/{}@", busy.pid());
    let names = [model.as_str(), &format!("{ALIAS}@2.0"), &pid];
    let joules = names.map(|name| only(&energy, name));
    let (all_ticks, all_joules): (u64, u64) = (ticks.iter().sum(), joules.iter().sum());
    for ((name, ticks), joules) in names.iter().zip(ticks).zip(joules) {
        let by_time = ticks as f64 / all_ticks as f64;
        let by_energy = joules as f64 / all_joules as f64;
        assert!(
            (by_energy / by_time - 1.0).abs() < 0.02,
            "{name}: {by_energy:.4} of the energy, {by_time:.4} of the time"
        );
    }
    assert!(joules[0] > joules[1], "{joules:?}");

    let rows = installation.ask(&[&["energy", "--by", "workload"], &window[..]].concat()).unwrap();
    let rows_of = rows["rows"].as_array().expect("an energy answer has rows");
    let sum: u64 = rows_of.iter().filter_map(|row| row["microjoules"].as_u64()).sum();
    assert_eq!(Some(sum), rows["total_microjoules"].as_u64(), "the rows add up to the total");
    let own =
        |row: &&Value| ["name", "workload", "id"].iter().any(|name| key(row, name).is_some_and(|id| id.contains(&pid)));
    assert_eq!(rows_of.iter().filter(own).count(), 1, "the busy process has a row of its own: {rows}");
}
