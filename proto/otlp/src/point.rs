//! Points of metrics, and the messages that they make: one resource after the other, in messages of a bounded size.

use crate::name::{Name, attribute};
use crate::signal::Message;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Points of one message: far below the 4 MiB that receivers take.
const POINTS: usize = 2_000;

/// How a value adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A gauge.
    Gauge,
    /// A sum since its start, which never falls.
    Sum,
    /// What there is, which may become less.
    Level,
}

/// What a value says: its name, unit and meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The name.
    pub name: Cow<'static, str>,
    /// The unit (UCUM).
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
}

impl From<Name> for Said {
    fn from(name: Name) -> Self {
        Self { name: Cow::Borrowed(name.name), unit: name.unit, help: name.help.trim_start() }
    }
}

/// A point and what it is of.
#[derive(Debug, Clone)]
pub struct Told {
    /// What it says.
    pub said: Said,
    /// How it adds.
    pub how: How,
    /// The point.
    pub point: NumberDataPoint,
}

impl Told {
    /// A value of a time, in ns since 1970.
    pub fn new(
        said: impl Into<Said>,
        how: How,
        attributes: Vec<KeyValue>,
        (start, end): (u64, u64),
        value: f64,
    ) -> Self {
        let point = NumberDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: end,
            value: Some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        };
        Self { said: said.into(), how, point }
    }
}

/// An attribute.
pub fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Who tells: a service in a version, of a host if it is one's, which is a node of a cluster if that is named.
pub fn resource(service: (&str, &str), host: Option<&str>, cluster: Option<&str>) -> Resource {
    let mut attributes = vec![text(attribute::SERVICE_NAME, service.0), text(attribute::SERVICE_VERSION, service.1)];
    attributes.extend(host.map(|host| text(attribute::HOST_NAME, host)));
    if let Some(cluster) = cluster {
        attributes.push(text(attribute::K8S_CLUSTER_NAME, cluster));
        attributes.extend(host.map(|host| text(attribute::K8S_NODE_NAME, host)));
    }
    Resource { attributes, ..Resource::default() }
}

/// Our scope.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "joulebook".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Points gathered into messages of a bounded size.
#[derive(Debug, Default)]
pub struct Messages {
    done: Vec<Message>,
    open: Vec<ResourceMetrics>,
    points: usize,
}

impl Messages {
    /// Adds the points of a resource.
    pub fn add(&mut self, resource: &Resource, points: Vec<Told>) {
        let mut points = points.into_iter().peekable();
        while points.peek().is_some() {
            let part: Vec<Told> = points.by_ref().take(POINTS - self.points).collect();
            self.points += part.len();
            self.open.push(resource_metrics(resource.clone(), part));
            if self.points >= POINTS {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let request = ExportMetricsServiceRequest { resource_metrics: std::mem::take(&mut self.open) };
        self.done.push(Message::of(&request, std::mem::take(&mut self.points)));
    }

    /// The messages.
    pub fn finish(mut self) -> Vec<Message> {
        if self.points > 0 {
            self.close();
        }
        self.done
    }
}

fn resource_metrics(resource: Resource, points: Vec<Told>) -> ResourceMetrics {
    let mut by_name: BTreeMap<Cow<'static, str>, (Said, How, Vec<NumberDataPoint>)> = BTreeMap::new();
    for Told { said, how, point } in points {
        by_name.entry(said.name.clone()).or_insert_with(|| (said, how, vec![])).2.push(point);
    }
    let metrics = by_name.into_values().map(|(said, how, data_points)| {
        let sum = |is_monotonic, data_points| {
            Data::Sum(Sum {
                data_points,
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic,
            })
        };
        let data = match how {
            How::Gauge => Data::Gauge(Gauge { data_points }),
            How::Sum => sum(true, data_points),
            How::Level => sum(false, data_points),
        };
        Metric {
            name: said.name.into_owned(),
            description: said.help.to_owned(),
            unit: said.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    });
    let scoped = ScopeMetrics { scope: Some(scope()), metrics: metrics.collect(), ..ScopeMetrics::default() };
    ResourceMetrics { resource: Some(resource), scope_metrics: vec![scoped], ..ResourceMetrics::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::HW_ENERGY;
    use prost::Message as _;

    #[test]
    fn many_points_are_several_messages_and_none_is_lost() {
        let points = |count: usize| (0..count).map(|_| Told::new(HW_ENERGY, How::Sum, vec![], (0, 1), 1.0)).collect();
        let mut messages = Messages::default();
        let host = resource(("joulebook-agent", "1"), Some("n1"), Some("prod"));
        messages.add(&host, points(1_500));
        messages.add(&host, points(3_100));
        let messages = messages.finish();
        assert_eq!(messages.iter().map(|message| message.items).collect::<Vec<_>>(), [2_000, 2_000, 600]);
        for message in &messages {
            let read = ExportMetricsServiceRequest::decode(message.body.clone()).expect("a request");
            let metrics = read.resource_metrics.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
            let held: usize = metrics
                .map(|metric| match &metric.data {
                    Some(Data::Sum(sum)) => sum.data_points.len(),
                    other => panic!("{other:?}"),
                })
                .sum();
            assert_eq!(held, message.items);
            assert!(message.body.len() < 1 << 20, "{}", message.body.len());
        }
    }
}
