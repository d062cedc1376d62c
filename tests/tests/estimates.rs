//! Estimates against the tools whose formulas they are: EcoLogits and CodeCarbon as they come from their registry, and figures
//! that Green Algorithms' formula gives.
//!
//! `JOULEBOOK_ECOLOGITS` and `JOULEBOOK_CODECARBON` are Pythons that have the packages (`.ci/setup ecologits codecarbon`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use joulebook_sci::impact::{Declared, Impact, ImpactFactors, ImpactPart, Impacts};
use joulebook_sci::{Cell, ModelVersion, NodeSlot, Rate, SiteFactors, SlotTerm};
use joulebook_tests::program::binary;
use joulebook_units::{GramsCo2ePerKwh, Joules, Microjoules, Pue};
use serde_json::{Value, json};

const JOULES_PER_KWH: f64 = 3.6e6;

/// What a tool says of cases.
fn tool(python: &str, script: &str, cases: &Value) -> Vec<Value> {
    let python = std::env::var_os(python).unwrap_or_else(|| panic!("{python} is set by `make test`: see .ci/setup"));
    let mut child = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/estimates").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(cases.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} ended with {}", output.status);
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

/// What the operator's tool says.
fn estimate(words: &[String]) -> Value {
    let output =
        Command::new(binary("joulebook").unwrap()).arg("estimate").args(words).args(["-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["label"], "estimated");
    let energy = &answer["energy_j"];
    assert!(
        number(&energy["low"]) < number(&energy["value"]) && number(&energy["value"]) < number(&energy["high"]),
        "{energy}"
    );
    answer
}

fn words(method: &str, inputs: &[(&str, Value)]) -> Vec<String> {
    let flags = inputs.iter().filter(|(_, value)| !value.is_null());
    let flags = flags.flat_map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        [format!("--{name}"), value]
    });
    ["--method".to_owned(), method.to_owned()].into_iter().chain(flags).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn close(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 1e-9
}

/// Sizes of models: small, of many experts, one that needs many GPUs; with the latency that was measured, or none.
const REQUESTS: [(f64, f64, f64, Option<f64>, f64); 5] = [
    (7.3, 7.3, 200.0, Some(5.0), 64.0),
    (33.0, 33.0, 50.0, Some(2.0), 64.0),
    (70.0, 70.0, 100.0, Some(60.0), 16.0),
    (17.0, 400.0, 1_000.0, None, 64.0),
    (405.0, 405.0, 350.0, None, 8.0),
];
const PUE: f64 = 1.2;
/// kg CO2e, kg Sb eq, MJ and litres per kWh of electricity, litres per kWh of the site.
const MIX: [f64; 5] = [0.59, 7.4e-8, 9.9, 3.7, 0.6];

#[test]
fn ecologits_own_figures_are_reproduced_from_the_same_inputs() {
    let [gwp, adpe, pe, source, site] = MIX;
    let case = |(active, total, tokens, latency, batch): (f64, f64, f64, Option<f64>, f64)| {
        json!({
            "model_active_parameter_count": active, "model_total_parameter_count": total, "output_token_count": tokens,
            // As long as any.
            "request_latency": latency.unwrap_or(1e9), "batch_size": batch, "datacenter_pue": PUE, "datacenter_wue": site,
            "if_electricity_mix_gwp": gwp, "if_electricity_mix_adpe": adpe, "if_electricity_mix_pe": pe,
            "if_electricity_mix_wue": source, "gpu_embodied_gwp": 164.0, "server_embodied_gwp": 5700.0,
        })
    };
    let theirs = tool("JOULEBOOK_ECOLOGITS", "requests_of.py", &Value::from(REQUESTS.map(case).to_vec()));
    assert_eq!(theirs.len(), REQUESTS.len());
    for ((active, total, tokens, latency, batch), theirs) in REQUESTS.into_iter().zip(&theirs) {
        let inputs = [
            ("active-billions", json!(active)),
            ("total-billions", json!(total)),
            ("tokens", json!(tokens)),
            ("latency", latency.map_or(Value::Null, |seconds| json!(format!("{seconds}s")))),
            ("batch", json!(batch)),
            ("pue", json!(PUE)),
            ("grams-per-kwh", json!(gwp * 1e3)),
            ("gpu-kg", json!(164)),
            ("server-kg", json!(5700)),
            ("lifespan-hours", json!(3 * 365 * 24)),
        ];
        let ours = estimate(&words("ecologits", &inputs));
        let kwh = number(&theirs["request_energy"]);
        assert!(close(number(&ours["energy_j"]["value"]), kwh * JOULES_PER_KWH), "{ours} and {theirs}");
        assert!(
            close(number(&ours["operational_g"]), number(&theirs["request_usage_gwp"]) * 1e3),
            "{ours} and {theirs}"
        );
        assert!(
            close(number(&ours["embodied_g"]), number(&theirs["request_embodied_gwp"]) * 1e3),
            "{ours} and {theirs}"
        );
        // Their water applies the PUE once since their 0.10, as ours of measured energy does.
        let it = Joules::from_kwh(number(&theirs["request_it_energy"]) * 1e6);
        let found = impacts(it, [source, site, adpe, pe]);
        let fields = ["request_usage_wcf", "request_usage_adpe", "request_usage_pe"];
        for (found, field) in found.into_iter().zip(fields) {
            assert!((found / (number(&theirs[field]) * 1e6) - 1.0).abs() < 1e-6, "{field}: {found} of {theirs}");
        }
    }
}

/// Water, abiotic depletion and primary energy of electricity that the product gives of measured energy.
fn impacts(it: Joules, [source, site, adpe, pe]: [f64; 4]) -> [f64; 3] {
    let places = [
        (Impact::Water, ImpactPart::Electricity, source),
        (Impact::Water, ImpactPart::Site, site),
        (Impact::AbioticDepletion, ImpactPart::Electricity, adpe),
        (Impact::PrimaryEnergy, ImpactPart::Electricity, pe),
    ];
    let declared = |value| Declared { value, half_width: 0.3, source: "mix".to_owned() };
    let factors = ImpactFactors(places.map(|(impact, part, value)| ((impact, part), declared(value))).into());
    let place = SiteFactors {
        intensity: Rate::Known(GramsCo2ePerKwh::new(0.0).unwrap()),
        intensity_origin: 0,
        intensity_half_width: 0.0,
        intensity_source: String::new(),
        pue: Pue::new(PUE).unwrap(),
        pue_half_width: 0.0,
        pue_source: String::new(),
        embodied_half_width: 0.0,
        embodied_source: String::new(),
    };
    let node = NodeSlot {
        node: String::new(),
        pool: String::new(),
        simulated: false,
        support: Vec::new(),
        cell: Cell::default(),
        embodied_g: 0.0,
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some megajoules")]
    let energy = Microjoules((it.0 * 1e6) as u64);
    let none = Microjoules(0);
    let term = SlotTerm {
        node: 0,
        energy,
        operational_g: 0.0,
        embodied_g: 0.0,
        joint_share: 1.0,
        dedicated_idle: none,
        pool_idle: none,
    };
    let (mut sums, version) = (Impacts::default(), ModelVersion::default());
    sums.add(&version, &term, (&node, &place, &factors));
    Impact::ALL.map(|impact| sums.get(&version, impact).unwrap().parts().map(|(_, amount)| amount).sum())
}

#[test]
fn codecarbons_fallback_is_reproduced_from_the_same_inputs() {
    let machines = [
        (85.0, None, 8.0),
        (280.0, Some(0.0), 64.0),
        (280.0, Some(0.35), 256.0),
        (400.0, Some(1.0), 1536.0),
        (65.0, Some(0.8), 6000.0),
    ];
    let case = |(tdp, load, memory): (f64, Option<f64>, f64)| json!({ "tdp_watts": tdp, "load": load, "memory_gigabytes": memory });
    let theirs = tool("JOULEBOOK_CODECARBON", "machines.py", &Value::from(machines.map(case).to_vec()));
    for ((tdp, load, memory), theirs) in machines.into_iter().zip(&theirs) {
        let inputs = [
            ("unit-watts", json!(tdp)),
            ("utilisation", load.map_or(Value::Null, |load| json!(load))),
            ("memory-gigabytes", json!(memory)),
            ("duration", json!("1h")),
            ("pue", json!(1)),
        ];
        let ours = estimate(&words("codecarbon-fallback", &inputs));
        let watts = |name: &str| {
            let parts = ours["components"].as_array().unwrap();
            number(&parts.iter().find(|part| part["name"] == name).unwrap()["energy_j"]) / 3600.0
        };
        assert!(
            close(watts("cpu"), number(&theirs[0])) && close(watts("memory"), number(&theirs[1])),
            "{ours} and {theirs}"
        );
        assert!(ours["carbon_g"].is_null() && ours["not_available"]["carbon_g"].is_string(), "no intensity, no grams");
    }
}

#[test]
fn formulas_whose_inputs_are_stated_give_the_figures_that_follow_from_them() {
    // Green Algorithms' tool: 12 cores of a Xeon E5-2683 v4, 64 GB, 12 h.
    let inputs = [
        ("units", json!(12)),
        ("unit-watts", json!(7.5)),
        ("memory-gigabytes", json!(64)),
        ("duration", json!("12h")),
        ("pue", json!(1.67)),
        ("grams-per-kwh", json!(475)),
    ];
    let green = estimate(&words("green-algorithms", &inputs));
    assert!(close(number(&green["energy_j"]["value"]), 2.2813536 * JOULES_PER_KWH), "{green}");
    assert!(close(number(&green["carbon_g"]["value"]), 1083.64296), "{green}");
    let repeated = estimate(&words("green-algorithms", &[&inputs[..], &[("times", json!(3))]].concat()));
    assert!(close(number(&repeated["carbon_g"]["value"]), 3.0 * 1083.64296), "{repeated}");
    // ML CO2 Impact: 8 GPUs of 400 W for 100 h at 400 g/kWh, without a PUE.
    let inputs =
        [("units", json!(8)), ("unit-watts", json!(400)), ("duration", json!("100h")), ("grams-per-kwh", json!(400))];
    let ml = estimate(&words("ml-co2", &inputs));
    assert!(close(number(&ml["carbon_g"]["value"]), 8.0 * 0.4 * 100.0 * 400.0), "{ml}");
    // Networks are outside the site, storage is in it.
    let network = [("network-gigabytes", json!(500)), ("storage-terabyte-hours", json!(1000)), ("pue", json!(1.5))];
    let tdp = [("unit-watts", json!(100)), ("utilisation", json!(0.5)), ("duration", json!("10h"))];
    let tdp = estimate(&words("tdp", &[&tdp[..], &network[..]].concat()));
    let parts: Vec<f64> = tdp["components"].as_array().unwrap().iter().map(|part| number(&part["energy_j"])).collect();
    assert!(
        close(parts[0], 0.75 * JOULES_PER_KWH)
            && close(parts[1], 0.5 * JOULES_PER_KWH)
            && close(parts[2], 1.8 * JOULES_PER_KWH),
        "{tdp}"
    );
    assert!(tdp["components"].as_array().unwrap().iter().all(|part| part["method"] == "modeled"));
}

#[test]
fn an_input_that_cannot_be_is_refused_and_one_that_is_needed_is_named() {
    for (refused, said) in [
        (vec!["--method", "tdp", "--unit-watts", "100"], "--duration"),
        (vec!["--method", "ecologits", "--tokens", "5"], "--active-billions"),
        (vec!["--method", "tdp", "--unit-watts=-1", "--duration", "1h"], "unit-watts"),
        (vec!["--method", "teads", "--unit-watts", "1", "--duration", "1h", "--utilisation", "1.5"], "0 to 1"),
        (vec!["--method", "tdp", "--unit-watts", "1", "--duration", "1h", "--pue", "0.9"], "--pue"),
        (vec!["--method", "tdp", "--unit-watts", "1", "--duration", "1h", "--grams-per-kwh", "50000"], "grams-per-kwh"),
        (vec!["--method", "eco2ai", "--unit-watts", "NaN", "--duration", "1h"], "unit-watts"),
        (vec![], "--method"),
    ] {
        let output = Command::new(binary("joulebook").unwrap()).arg("estimate").args(&refused).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(64), true), "{refused:?}: {error}");
        assert!(error.contains(said), "{refused:?}: {error}");
    }
}
