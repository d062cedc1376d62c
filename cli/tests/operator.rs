//! The tool against a fake aggregator, in-process.
#![allow(clippy::expect_used, reason = "a failed expectation is a failed test")]

use joulebook_proto::query::query_service_server::{QueryService, QueryServiceServer};
use joulebook_proto::query::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Write};
use tonic::{Request, Response, Status};

/// Serves one filled and one minimal version of `chat`.
struct Fake;

fn filled(level: i32) -> SciAnswer {
    let name = match Level::try_from(level) {
        Ok(Level::Accelerator) => "accelerator",
        Ok(Level::Host) => "host",
        Ok(Level::Idle) => "idle",
        _ => "facility",
    };
    let joules = if name == "facility" { 156.0 } else { 100.0 };
    SciAnswer {
        schema_version: "joulebook-answer/1".into(),
        subject: Some(Subject { model: Some("chat".into()), model_version: Some("v1".into()), ..Subject::default() }),
        boundary: Some(Boundary { level: name.into(), label: "SCI".into(), ..Boundary::default() }),
        r: Some(FunctionalUnitValue {
            kind: "total_token".into(),
            value: Some(1000.0),
            statistic: "mean".into(),
            ..FunctionalUnitValue::default()
        }),
        energy: Some(Energy { total_j: Some(joules), ..Energy::default() }),
        sci: Some(Sci { value: Some(2.5e-5), low: Some(2e-5), high: Some(3e-5), ..Sci::default() }),
        hardware: vec![
            HardwareUse { component: "cpu".into(), count: Some(1.0), ..HardwareUse::default() },
            HardwareUse {
                component: "accelerator".into(),
                model: Some("NVIDIA H100 80GB HBM3".into()),
                count: Some(8.0),
                driver: Some("570.86.15".into()),
                memory_bytes: Some(80 << 30),
            },
        ],
        reconciliation: Some(Reconciliation {
            trust: "wall".into(),
            platform_method: "measured".into(),
            walls: vec!["n1: redfish/wall".into()],
            measured_fraction: Some(1.0),
            platform_uj: 20_000_000,
            platform_bound_uj: 5_000_000,
            overcount_uj: 2_000_000,
            overcount_fraction: Some(0.02),
            ..Reconciliation::default()
        }),
        not_available: BTreeMap::from([("energy.accelerator_j".into(), "no metered accelerator".into())]),
        ..SciAnswer::default()
    }
}

fn minimal(level: i32) -> SciAnswer {
    let mut answer = SciAnswer {
        sci: Some(Sci { null_reason: Some("no tokens were counted".into()), ..Sci::default() }),
        energy: None,
        simulated: true,
        simulated_share: Some(0.25),
        ..filled(level)
    };
    answer.subject = Some(Subject { model: Some("chat".into()), ..Subject::default() });
    answer.r = Some(FunctionalUnitValue { statistic: "mean".into(), ..FunctionalUnitValue::default() });
    answer
}

#[tonic::async_trait]
impl QueryService for Fake {
    async fn get_sci(&self, request: Request<GetSciRequest>) -> Result<Response<GetSciResponse>, Status> {
        let request = request.into_inner();
        match request.selector.and_then(|selector| selector.model).as_deref() {
            Some("missing") => Err(Status::not_found("no model `missing` in the window")),
            Some("old") => Err(Status::out_of_range("the window lies before retention")),
            Some("slow") => std::future::pending().await,
            // Versions of one model that may be compared, and one that may not.
            Some(name @ ("half" | "marginal")) => {
                let mut answer = filled(request.level);
                answer.sci = Some(Sci { value: Some(5e-5), low: Some(4e-5), high: Some(6e-5), ..Sci::default() });
                if name == "marginal" {
                    answer.intensity = Some(Intensity { kind: "marginal_short_run".into(), ..Intensity::default() });
                }
                Ok(Response::new(GetSciResponse { answers: vec![answer] }))
            }
            Some("single") => Ok(Response::new(GetSciResponse { answers: vec![filled(request.level)] })),
            _ => Ok(Response::new(GetSciResponse { answers: vec![filled(request.level), minimal(request.level)] })),
        }
    }

    async fn get_energy(&self, request: Request<GetEnergyRequest>) -> Result<Response<GetEnergyResponse>, Status> {
        let request = request.into_inner();
        if request.by == i32::from(EnergyBy::Consumer) {
            let part = |name: &str, value: &str| KeyPart { name: name.into(), value: value.into() };
            let key =
                vec![part("account", "remote"), part("consumer", "red"), part("kind", "team"), part("model", "far")];
            let counted = request.functional_unit == Some(FunctionalUnit::OutputToken.into());
            let row = EnergyRow { key, units: counted.then_some(4_000.0), ..EnergyRow::default() };
            return Ok(Response::new(GetEnergyResponse { rows: vec![row], ..GetEnergyResponse::default() }));
        }
        let row = |name: &str, microjoules| EnergyRow {
            key: vec![KeyPart { name: "name".into(), value: name.into() }],
            microjoules,
            ..EnergyRow::default()
        };
        let mut rows = vec![row("a,\"b\"", Some(1_500_001)), row("dark", None), row("gpu-node", Some(4_000_000))];
        rows[2].component_microjoules.insert("accelerator".into(), 3_000_000);
        (rows[2].simulated, rows[2].simulated_microjoules) = (true, 1_000_000);
        Ok(Response::new(GetEnergyResponse {
            rows,
            total_microjoules: 5_500_001,
            simulated: true,
            simulated_microjoules: 1_000_000,
            own_microjoules: [("aggregator".to_owned(), 550_000), ("agent".to_owned(), 1_100_000)].into(),
            ..GetEnergyResponse::default()
        }))
    }

    async fn get_idle(&self, request: Request<GetIdleRequest>) -> Result<Response<GetIdleResponse>, Status> {
        let request = request.into_inner();
        let cluster = request.idle_scope == i32::from(IdleScope::Cluster);
        let pool = IdleCapacity {
            class: "IDLE-I3".into(),
            node: "n1".into(),
            holder_kind: "nobody".into(),
            microjoules: 5_000_000,
            charged_uj: if cluster { 5_000_000 } else { 0 },
            null_reason: "no intensity".into(),
            since_unix_nanos: 1_764_064_800_000_000_000,
            since_before: true,
            ..IdleCapacity::default()
        };
        let figure = |microjoules, g_per_unit| IdleFigure { microjoules, g_per_unit, ..IdleFigure::default() };
        let version = IdleVersion {
            label: "chat@v1".into(),
            r_kind: "total_token".into(),
            marginal: Some(figure(2_000_000, Some(0.25))),
            provisioned: Some(figure(7_000_000, None)),
            ..IdleVersion::default()
        };
        Ok(Response::new(GetIdleResponse {
            policy: "equal".into(),
            scope: if cluster { "cluster" } else { "node" }.into(),
            capacities: vec![pool],
            versions: vec![version],
            ..GetIdleResponse::default()
        }))
    }

    async fn get_alias_history(
        &self,
        request: Request<GetAliasHistoryRequest>,
    ) -> Result<Response<GetAliasHistoryResponse>, Status> {
        let request = request.into_inner();
        if request.alias != "chat" {
            return Err(Status::not_found(format!("no model was ever served as `{}`", request.alias)));
        }
        let window = request.window.expect("a window");
        let middle = 1_764_064_800_000_000_000;
        let epoch = |weights: &str, start_unix_nanos, end_unix_nanos| AliasEpoch {
            start_unix_nanos,
            end_unix_nanos,
            weights: Some(format!("gguf-blake3:{weights}")),
            version_source: "config".into(),
            target: "http://t/".into(),
            engine: "llamacpp".into(),
            node: "n1".into(),
            ..AliasEpoch::default()
        };
        let epochs =
            [epoch("aa11", middle - 7_200_000_000_000, middle), epoch("bb22", middle, middle + 60_000_000_000)];
        let inside = |epoch: &AliasEpoch| {
            epoch.start_unix_nanos < window.end_unix_nanos && epoch.end_unix_nanos > window.start_unix_nanos
        };
        Ok(Response::new(GetAliasHistoryResponse {
            epochs: epochs.into_iter().filter(inside).collect(),
            resolution_seconds: 60,
        }))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let account = |account: &str, microjoules| AccountBalance {
            account: account.into(),
            microjoules,
            ..AccountBalance::default()
        };
        let balance = NodeBalance {
            node: "n1".into(),
            input_microjoules: 10,
            accounts: vec![account("model", 7), account("system", 3)],
            simulated: true,
            platform_method: "measured".into(),
            platform_bound_microjoules: 3,
            meters: vec![MeterUse {
                source_id: "redfish/wall".into(),
                layer: "node".into(),
                microjoules: 12,
                wall_seconds: 60.0,
                lag: Some(MeterLag {
                    method: "cross_correlation".into(),
                    least_seconds: Some(6.0),
                    most_seconds: Some(7.0),
                    known_fraction: 0.5,
                }),
            }],
            ..NodeBalance::default()
        };
        let term =
            Term {
                name: "O".into(), formula: "Σ E·U·I".into(), value: Some(0.5), unit: "g".into(), ..Term::default()
            };
        Ok(Response::new(ExplainResponse { answer: Some(filled(4)), terms: vec![term], balances: vec![balance] }))
    }
}

async fn aggregator() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(QueryServiceServer::new(Fake));
    tokio::spawn(server.serve_with_incoming(incoming));
    format!("http://{address}")
}

async fn tool(url: &str, words: &str) -> (u8, String, String) {
    let words = ["joulebook", "--aggregator", url].into_iter().chain(words.split_whitespace());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = joulebook::run(words.map(Into::into).collect(), &mut out, &mut err).await;
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

fn nulls(value: &Value, path: &str, found: &mut Vec<String>) {
    let below = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    match value {
        Value::Null => found.push(path.to_owned()),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| nulls(value, &below(name), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| nulls(value, &below(&at.to_string()), found))
        }
        _ => {}
    }
}

#[tokio::test]
async fn json_follows_the_schema_and_every_null_has_its_reason() {
    let url = aggregator().await;
    let (code, out, err) = tool(&url, "sci --last 10m -o json").await;
    assert_eq!((code, err.as_str()), (0, ""));
    let schema: Value = serde_json::from_str(include_str!("../schema/answer.schema.json")).expect("a schema");
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let value: Value = serde_json::from_str(&out).expect("json");
    let errors: Vec<String> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path)).collect();
    assert!(errors.is_empty(), "{errors:?}");
    for answer in value["answers"].as_array().expect("answers") {
        let mut found = Vec::new();
        nulls(answer, "", &mut found);
        assert!(found.contains(&"hardware.0.driver".to_owned()));
        for path in found {
            assert!(answer["not_available"][&path].is_string(), "{path} is null without a reason");
        }
    }
    assert_eq!(value["answers"][0]["not_available"]["energy.accelerator_j"], "no metered accelerator");
    assert_eq!(value["answers"][1]["not_available"]["sci.value"], "no tokens were counted");
    let mut broken = value.clone();
    broken["answers"][0]["energy"].as_object_mut().expect("energy").remove("host_j");
    assert!(!validator.is_valid(&broken), "a missing field is refused");
}

#[tokio::test]
async fn tables_name_units_and_show_what_is_unknown() {
    let url = aggregator().await;
    let (code, out, _) = tool(&url, "sci").await;
    assert_eq!(code, 0);
    assert!(out.contains("µg") && out.contains("chat@v1") && out.contains("chat@unknown"), "{out}");
    assert!(out.contains("score unknown: no tokens were counted"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 120), "{out}");
    let (_, out, _) = tool(&url, "sci --level all").await;
    assert!(out.contains("L3/L0 = 1.56") && out.contains("accelerator"), "{out}");
    let (_, out, _) = tool(&url, "energy --by workload").await;
    assert!(out.contains("1.500001") && out.contains("unknown"), "{out}");
    assert!(out.contains("accelerator (J)") && out.contains(" 3 "), "{out}");
    assert!(!out.contains("CPU time"), "no row has any: {out}");
}

/// Cells of a CSV column without quotes in it.
fn column<'a>(csv: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let place = lines.next().and_then(|header| header.iter().position(|column| *column == name));
    let place = place.expect("a column of this name");
    lines.map(|cells| cells[place]).collect()
}

#[tokio::test]
async fn a_wall_its_platform_and_what_goes_beyond_it_are_in_every_form() {
    let url = aggregator().await;
    let (_, out, _) = tool(&url, "sci --trust wall").await;
    for line in [
        "  platform of its nodes 20 ± 5 J, measured\n",
        "  wall n1: redfish/wall, for 100.0 % of their components' energy\n",
        "  overcount 2 J (2.0 % of it), trust wall\n",
    ] {
        assert!(out.contains(line), "{line} is not in {out}");
    }
    let (_, out, _) = tool(&url, "sci -o csv").await;
    assert_eq!(column(&out, "walls"), ["n1: redfish/wall"; 2]);
    assert_eq!(column(&out, "overcount_uj"), ["2000000"; 2]);
    let (_, out, _) = tool(&url, "explain --model chat@v1").await;
    assert!(out.contains("platform: measured, ± 3 µJ"), "{out}");
    assert!(
        out.contains("beside them: redfish/wall (node, the wall for 60 s, late by 6 to 7 s for 50.0 %) 12 µJ"),
        "{out}"
    );
}

#[tokio::test]
async fn what_stands_on_simulated_hardware_is_marked_in_every_form() {
    let url = aggregator().await;
    let (_, out, _) = tool(&url, "sci").await;
    assert!(out.contains("chat@unknown (simulated to 25.0 %)") && !out.contains("chat@v1 (sim"), "{out}");
    assert!(out.contains("8 × NVIDIA H100 80GB HBM3, 80 GiB, driver 570.86.15"), "{out}");
    let (_, out, _) = tool(&url, "energy --by workload").await;
    assert!(out.contains("simulated") && out.contains("total 5.500001 J (simulated to 18.2 %)"), "{out}");
    let own = "\nof it Joulebook itself: agent 1.100000 J, aggregator 0.550000 J (30.0 %)\n";
    assert!(out.contains(own), "{out}");
    let (_, out, _) = tool(&url, "explain --model chat@v1").await;
    assert!(out.contains("node n1 (simulated)"), "{out}");
    let (_, out, _) = tool(&url, "sci -o csv").await;
    assert_eq!(column(&out, "simulated_share"), ["", "0.25"]);
    let (_, out, _) = tool(&url, "sci -o json").await;
    let value: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(value["answers"][1]["simulated"], true);
}

#[tokio::test]
async fn idle_capacity_is_shown_with_its_holder_and_both_figures_side_by_side() {
    let url = aggregator().await;
    let (code, out, err) = tool(&url, "idle --last 10m --idle equal --idle-scope cluster").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("idle by equal from the cluster"), "{out}");
    let line = |of: &str| out.lines().find(|line| line.contains(of)).unwrap_or_default().to_owned();
    let pool = line("IDLE-I3");
    assert!(pool.contains("nobody") && pool.contains("n1") && pool.contains("unknown"), "{out}");
    assert!(out.contains("IDLE-I3 on n1: no intensity"), "{out}");
    assert!(line("marginal").contains("250") && line("provisioned").contains("unknown"), "{out}");
    let (_, out, _) = tool(&url, "idle -o json").await;
    let value: Value = serde_json::from_str(&out).expect("json");
    assert_eq!((&value["capacities"][0]["charged_uj"], &value["scope"]), (&0.into(), &"node".into()));
    assert!(value["versions"][0]["provisioned"]["g_per_unit"].is_null(), "{value}");
}

#[tokio::test]
async fn an_estimate_is_called_one_and_stands_beside_what_was_measured() {
    let url = aggregator().await;
    let words = "estimate --method tdp --unit-watts 100 --utilisation 0.5 --duration 2s --pue 1.56 --model single@v1";
    let (code, out, err) = tool(&url, words).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let line = |of: &str| out.lines().find(|line| line.trim_start().starts_with(of)).unwrap_or_default().to_owned();
    assert!(line("estimated").contains("156") && line("measured").contains("156"), "{out}");
    assert!(out.contains("the estimate is 1 × what was measured of chat@v1, which lies inside its interval"), "{out}");
    assert!(out.contains("carbon_g unknown: no carbon intensity is given"), "{out}");
    let (_, out, _) = tool(&url, &format!("{words} -o json")).await;
    let value: Value = serde_json::from_str(&out).expect("json");
    assert!(value["label"] == "estimated" && value["carbon_g"].is_null(), "{value}");
    assert!(
        value["not_available"]["carbon_g"].is_string() && value["energy_j"]["low"].as_f64() < Some(156.0),
        "{value}"
    );
    let (code, out, err) = tool(&url, "estimate --method tdp --unit-watts 1 --model chat").await;
    assert!(code == 64 && out.is_empty() && err.contains("several rows"), "{err}");
}

#[tokio::test]
async fn embodied_carbon_of_gpus_goes_by_the_area_of_their_chips_where_that_is_stated() {
    let url = aggregator().await;
    let words = "estimate --method llmcarbon --active-billions 1 --tokens 1e9 --units 8 --unit-watts 300 \
                 --peak-teraflops 125 --efficiency 0.5 --server-kg 0 --lifespan-hours 43800 -o json";
    let embodied = async |more: &str| {
        let (code, out, err) = tool(&url, &format!("{words} {more}")).await;
        assert_eq!((code, err.as_str()), (0, ""));
        let value: Value = serde_json::from_str(&out).expect("json");
        (value["embodied_g"].as_f64(), value["inputs"].to_string())
    };
    // LLMCarbon's V100: 8.15 cm² at 1.2 kg; eight of them for 4000 s of five years.
    let (by_area, inputs) = embodied("--chip-cm2 8.15 --chip-kg-per-cm2 1.2").await;
    let expected = 8.0 * 9_780.0 * 4_000.0 / (43_800.0 * 3_600.0);
    assert!(by_area.is_some_and(|grams| (grams / expected - 1.0).abs() < 1e-9), "{by_area:?} of {expected}");
    assert!(inputs.contains("chip-kg-per-cm2") && !inputs.contains("gpu-kg"), "{inputs}");
    let (whole, _) = embodied("--gpu-kg 9.78").await;
    assert!(whole.zip(by_area).is_some_and(|(whole, by_area)| (whole / by_area - 1.0).abs() < 1e-9));
    let (code, out, err) = tool(&url, &format!("{words} --chip-cm2 8.15")).await;
    assert!(code == 64 && out.is_empty() && err.contains("--chip-kg-per-cm2"), "{err}");
}

#[tokio::test]
async fn what_a_remote_model_delivered_is_rated_by_a_file_and_never_called_measured() {
    let url = aggregator().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rates.json");
    let rate = |document: &str| {
        format!(
            "[{{\"model\": \"far\", \"unit\": \"output_token\", \"grams_per_unit\": 0.001, \"half_width\": 0.5, \
             \"kind\": \"provider_published\", \"document\": \"{document}\"}}]"
        )
    };
    std::fs::write(&path, rate("report 2026")).expect("written");
    let words = format!("estimate --rates {} --last 1h", path.display());
    let (code, out, err) = tool(&url, &words).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("team red") && out.contains("4000 output_token") && out.contains("report 2026"), "{out}");
    assert!(out.contains("estimated: together 4 g (2 … 6); no part of what is measured"), "{out}");
    std::fs::write(&path, rate(" ")).expect("written");
    let (code, out, err) = tool(&url, &words).await;
    assert!(code == 64 && out.is_empty() && err.contains("document"), "{err}");
}

#[tokio::test]
async fn explain_prints_the_conservation_line_of_every_node() {
    let url = aggregator().await;
    let (code, out, _) = tool(&url, "explain --model chat@v1").await;
    assert_eq!(code, 0);
    assert!(out.contains("wall 10 µJ = Σ model 7 + system 3\nresidual 0 µJ"), "{out}");
}

#[tokio::test]
async fn csv_quotes_what_needs_it_and_leaves_the_unknown_empty() {
    let url = aggregator().await;
    let (_, out, _) = tool(&url, "energy --by workload -o csv").await;
    let lines: Vec<&str> = out.split("\r\n").collect();
    let header = "name,microjoules,method,cpu_seconds,units,joules_per_unit,per_unit_null_reason,simulated,\
                  simulated_microjoules,content_microjoules,layer_residual_microjoules,pue,lag_method,\
                  lag_least_seconds,lag_most_seconds,accelerator_microjoules";
    assert_eq!(lines[0], header);
    assert_eq!((lines[1], lines[2]), ("\"a,\"\"b\"\"\",1500001,,,,,,false,0,,,,,,,", "dark,,,,,,,false,0,,,,,,,"));
}

#[tokio::test]
async fn a_name_is_explained_by_what_it_stood_for_at_a_time() {
    let url = aggregator().await;
    let at = |time: &str| format!("explain --alias chat --at {time}");
    let (code, out, err) = tool(&url, &at("2025-11-25T09:59:59Z")).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with("at 2025-11-25T09:59:59Z chat was version unknown (by config), weights gguf-blake3:aa11"),
        "{out}"
    );
    assert!(out.contains("2 epochs of chat"), "the day around it: {out}");
    let (_, out, _) = tool(&url, &at("2025-11-25T10:00:00Z")).await;
    assert!(out.contains("weights gguf-blake3:bb22 at http://t/ (llamacpp) on n1"), "{out}");
    let (_, out, _) = tool(&url, &(at("2025-11-26T09:00:00Z") + " -o json")).await;
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answer["at"][0]["weights"], "gguf-blake3:bb22", "what was counted last before");
    assert_eq!(answer["at"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["history"]["epochs"].as_array().map(Vec::len), Some(2));
    let (_, out, _) = tool(&url, "explain --alias chat --from 2025-11-25 --to 2025-11-26 -o csv").await;
    assert_eq!(out.lines().count(), 3, "{out}");
    let (code, _, err) = tool(&url, "explain --alias other").await;
    assert!(code == 1 && err.contains("`other`"), "{err}");
}

#[tokio::test]
async fn b65_bad_questions_exit_64_with_nothing_on_stdout() {
    let url = aggregator().await;
    for words in [
        "sci --from 2026-13-40",
        "sci --from 2026-02-01 --to 2026-01-01",
        "sci --last 0s",
        "sci --nonsense",
        "sci --last 10m --from 2026-01-01",
        "sci --model old",
        "sci --model @v1",
        "energy --level facility",
        "energy --by node --per request",
        "explain",
        "explain --alias chat --model chat",
        "explain --at 2026-01-01",
        "explain --alias chat --at noon",
        "",
    ] {
        let (code, out, err) = tool(&url, words).await;
        assert_eq!((code, out.as_str()), (64, ""), "{words}");
        assert!(!err.is_empty(), "{words}");
    }
    let (code, out, err) = tool(&url, "sci --from 2026-13-40 --output json").await;
    assert_eq!((code, out.as_str()), (64, ""));
    let error: Value = serde_json::from_str(&err).expect("the error is JSON");
    assert_eq!(error["error"]["exit_code"], 64);
}

#[tokio::test]
async fn a_model_that_is_not_there_is_answered_with_those_that_are() {
    let (code, out, err) = tool(&aggregator().await, "sci --model missing").await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no model `missing`") && err.contains("chat@v1"), "{err}");
}

#[tokio::test]
async fn a_server_that_is_down_or_late_exits_69() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let (code, out, err) = tool(&url, "sci").await;
    assert_eq!((code, out.as_str()), (69, ""), "{err}");
    let (code, _, err) = tool(&aggregator().await, "sci --model slow --timeout 50ms").await;
    assert_eq!(code, 69);
    assert!(err.contains("did not answer within 50ms"), "{err}");
}

struct Gone(ErrorKind);

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> Result<usize, Error> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
    let url = aggregator().await;
    for (kind, expected) in [(ErrorKind::BrokenPipe, 0), (ErrorKind::StorageFull, 74)] {
        let words = ["joulebook", "--aggregator", &url, "sci"].map(Into::into).to_vec();
        let mut err = Vec::new();
        assert_eq!(joulebook::run(words, &mut Gone(kind), &mut err).await, expected);
        assert_eq!(err.is_empty(), expected == 0);
    }
}

/// `JOULEBOOK_REWRITE_GOLDENS=1` writes `tests/help.txt` anew; the difference is then read as code.
#[tokio::test]
async fn help_is_what_the_golden_file_says() {
    let mut text = String::new();
    for command in [
        "",
        "sci ",
        "energy ",
        "explain ",
        "compare ",
        "idle ",
        "estimate ",
        "factors ",
        "factors list ",
        "factors push ",
        "training ",
        "training set ",
        "training list ",
        "training show ",
        "training revise ",
        "training retire ",
        "training export ",
        "training import ",
        "doctor ",
        "admin ",
        "admin status ",
        "admin backup ",
        "admin backups ",
        "admin verify ",
        "admin dump ",
    ] {
        let (code, out, _) = tool("http://127.0.0.1:7443", &format!("{command}--help")).await;
        assert_eq!(code, 0);
        text += &format!("$ joulebook {command}--help\n{out}\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
    if std::env::var_os("JOULEBOOK_REWRITE_GOLDENS").is_some() {
        std::fs::write(path, &text).expect("the golden file is written");
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).expect("the golden file"),
        "rewrite with JOULEBOOK_REWRITE_GOLDENS=1"
    );
}

#[tokio::test]
async fn two_scores_are_compared_if_they_may_be_and_else_the_difference_is_named() {
    let url = aggregator().await;
    let (code, out, err) = tool(&url, "compare single@v1 half@v1").await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("chat@v1 is 2 × chat@v1\n") && !out.contains("overlap"), "{out}");
    let (code, out, err) = tool(&url, "compare single@v1 marginal@v1").await;
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(
        err.contains("not comparable") && err.contains("kind of intensity") && err.contains("marginal_short_run"),
        "{err}"
    );
    let (code, _, err) = tool(&url, "compare single@v1 chat").await;
    assert!(code == 64 && err.contains("several rows"), "{err}");
    let (_, out, _) = tool(&url, "compare single@v1 half@v1 -o json").await;
    let value: Value = serde_json::from_str(&out).expect("json");
    assert_eq!(value["within_intervals"], false);
}
