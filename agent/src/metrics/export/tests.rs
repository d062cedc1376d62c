use super::*;
use crate::sampler::status::DeviceStatus;
use joulebook_proto::metrics::Points;
use joulebook_units::{Component, Method, Microjoules, Milliwatts, Scope, Source, SourceState};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, metric::Data, number_data_point};
use prost::Message as _;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
const WALL: u64 = 1_700_000_000 * SECOND;

fn source(id: &str, component: Component, energy: u64, second: u64) -> SourceStatus {
    let (device, scope) = match component {
        Component::Accelerator => (Some("GPU-1".to_owned()), None),
        Component::Wall => (None, Some(Scope { layer: Layer::Node, name: String::new(), members: vec![] })),
        _ => (None, None),
    };
    let source = Source {
        id: id.to_owned(),
        component,
        socket: None,
        device,
        collector: id.split('/').next().unwrap_or_default().to_owned(),
        method: Method::Counter,
        unit_nanojoules: None,
        ceiling: Milliwatts(1),
        uncertainty_permille: 1,
        contained_in: None,
        scope,
        basis: String::new(),
    };
    let state = SourceState { source: source.into(), unavailable: None };
    SourceStatus { state, last: Some(BootNanos(second * SECOND)), gaps: 0, energy: Microjoules(energy), stuck: false }
}

/// A node whose parts draw 100, 300 and 500 W, with a GPU that works a quarter of the time, `second` seconds after boot; the
/// samplers are asked half a second later.
fn status(second: u64) -> Status {
    let joule = 1_000_000;
    Status {
        rows: second,
        last_row: Some(BootNanos(second * SECOND)),
        now: (
            BootNanos(second * SECOND + SECOND / 2),
            UnixNanos(i64::try_from(WALL + second * SECOND + SECOND / 2).expect("in range")),
        ),
        sources: vec![
            source("rapl/package-0", Component::Cpu, 7 + second * 100 * joule, second),
            source("nvml/GPU-1", Component::Accelerator, second * 300 * joule, second),
            source("meter/outlet", Component::Wall, second * 500 * joule, second),
        ],
        refused: BTreeMap::new(),
        turns: BTreeMap::new(),
        cpu: None,
        helper: None,
        devices: vec![DeviceStatus {
            device: "GPU-1".to_owned(),
            model: Some("H100".to_owned()),
            at: BootNanos(second * SECOND),
            busy_nanos: second * SECOND / 4,
            memory_bytes: Some(5 << 30),
            memory_limit_bytes: Some(80 << 30),
        }],
        unresolved: 0,
    }
}

/// Name, host and attributes of a point, and the point.
type Found = (String, Vec<String>, NumberDataPoint);

fn found(messages: &[Message]) -> Vec<Found> {
    let mut found = vec![];
    let said = |attributes: &[KeyValue]| -> Vec<String> {
        let value = |one: &KeyValue| match one.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::StringValue(text)) => format!("{}={text}", one.key),
            other => panic!("{other:?}"),
        };
        attributes.iter().map(value).collect()
    };
    for message in messages {
        let request = ExportMetricsServiceRequest::decode(message.body.clone()).expect("a request");
        for resource in request.resource_metrics {
            let host = said(&resource.resource.expect("one").attributes);
            for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                let points = match metric.data {
                    Some(Data::Sum(sum)) => sum.data_points,
                    Some(Data::Gauge(gauge)) => gauge.data_points,
                    other => panic!("{other:?}"),
                };
                let all = |point: &NumberDataPoint| [host.clone(), said(&point.attributes)].concat();
                found.extend(points.into_iter().map(|point| (metric.name.clone(), all(&point), point)));
            }
        }
    }
    found
}

fn value<'a>(found: &'a [Found], name: &str, attribute: &str) -> Option<(f64, &'a NumberDataPoint)> {
    let matches = |one: &&Found| one.0 == name && one.1.iter().any(|own| own == attribute);
    let mut all = found.iter().filter(matches);
    let (_, _, point) = all.next()?;
    assert!(all.next().is_none(), "{name} is there twice");
    match point.value {
        Some(number_data_point::Value::AsDouble(value)) => Some((value, point)),
        other => panic!("{other:?}"),
    }
}

fn node() -> NodeName {
    "n1".parse().expect("a name")
}

#[test]
fn energy_is_what_was_seen_since_the_first_look_and_power_its_mean_over_a_step() {
    let mut teller = Teller { cluster: Some("prod".to_owned()), ..Teller::default() };
    let first = found(&teller.messages(&[], &[(node(), Some(status(100)))]));
    assert_eq!(value(&first, "hw.energy", "hw.id=rapl/package-0").map(|found| found.0), Some(0.0));
    assert!(value(&first, "hw.power", "hw.id=rapl/package-0").is_none(), "a mean needs two looks");
    let second = found(&teller.messages(&[], &[(node(), Some(status(160)))]));
    for (name, attribute, expected) in [
        ("hw.energy", "hw.id=rapl/package-0", 6_000.0),
        ("hw.power", "hw.id=rapl/package-0", 100.0),
        ("hw.energy", "hw.model=H100", 18_000.0),
        ("hw.power", "hw.type=gpu", 300.0),
        ("hw.host.energy", "hw.id=n1", 30_000.0),
        ("hw.host.power", "joulebook.collector=meter", 500.0),
        ("hw.gpu.utilization", "hw.id=nvml/GPU-1", 0.25),
        ("hw.gpu.memory.usage", "hw.parent=n1", f64::from(5 << 10) * 1024.0 * 1024.0),
        ("hw.gpu.memory.limit", "k8s.node.name=n1", f64::from(80 << 10) * 1024.0 * 1024.0),
    ] {
        let (found, point) = value(&second, name, attribute).unwrap_or_else(|| panic!("{name} {attribute}"));
        assert!((found - expected).abs() < 1e-6, "{name} {attribute}: {found}");
        assert_eq!(point.time_unix_nano, WALL + 160 * SECOND, "the instant of its row, not of the look");
    }
    let (_, point) = value(&second, "hw.energy", "hw.id=rapl/package-0").expect("told");
    assert_eq!(point.start_time_unix_nano, WALL + 100 * SECOND);
    // A third look without a new row has no mean to tell.
    let third = found(&teller.messages(&[], &[(node(), Some(status(160)))]));
    assert!(value(&third, "hw.power", "hw.id=rapl/package-0").is_none());
    assert_eq!(value(&third, "hw.energy", "hw.id=rapl/package-0").map(|found| found.0), Some(6_000.0));
}

#[test]
fn what_has_no_reading_or_is_contained_in_another_is_not_told() {
    let mut now = status(100);
    now.sources[0].last = None;
    Arc::make_mut(&mut now.sources[1].state.source).contained_in = Some("rapl/package-0".to_owned());
    now.sources.pop();
    let told = found(&Teller::default().messages(&[], &[(node(), Some(now))]));
    assert!(told.iter().all(|(name, ..)| name.starts_with("hw.gpu.")), "{told:?}");
    assert!(found(&Teller::default().messages(&[], &[(node(), None)])).is_empty());
}

#[test]
fn health_has_dots_and_units_and_hostile_names_stay_values() {
    let mut points = Points::default();
    points.add(&super::super::ROW_AGE, &["n1"], 0.5);
    points.count(&super::super::SPOOL_BYTES, &["n1"], 7);
    points.count(&super::super::RELOADS, &[], 3);
    points.add(&super::super::ENERGY, &[], 2.5);
    points.count(&super::super::TARGET_SCRAPES, &["http://x/\"\n{evil=\"1\"}"], 2);
    let told = found(&Teller::default().messages(&points.into_vec(), &[(node(), Some(status(100)))]));
    let known = |name: &str, attribute: &str| value(&told, name, attribute).map(|found| found.0);
    assert_eq!(known("joulebook.agent.row.age", "host.name=n1"), Some(0.5));
    assert_eq!(known("joulebook.agent.spool", "host.name=n1"), Some(7.0));
    assert_eq!(known("joulebook.agent.config.reloads", "service.name=joulebook-agent"), Some(3.0));
    // What the agent itself costs, in J.
    assert_eq!(known("joulebook.agent.process.energy", "service.name=joulebook-agent"), Some(2.5));
    let target = "joulebook.target=http://x/\"\n{evil=\"1\"}";
    assert_eq!(known("joulebook.agent.target.scrapes", target), Some(2.0));
    assert!(told.iter().all(|(name, ..)| !name.contains('_')), "{told:?}");
}
