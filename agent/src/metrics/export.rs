//! What the agent tells a receiver of OpenTelemetry, where one is configured: energy and power of the node's parts, use of its
//! accelerators, and what stands on the page of the agent's health.
//!
//! Nothing finer than a minute and nothing of a single process leaves the agent this way. The samplers are asked once a step,
//! like for the page, so that it costs nothing where nobody is told. Energy is what this agent saw since it began to tell: the
//! ledger's figures, with model versions and grams, are the aggregator's.

use super::{Board, STEP_WAIT};
use crate::sampler::status::{SourceStatus, Status};
use joulebook_otlp::name::{
    HW_ENERGY, HW_GPU_MEMORY_LIMIT, HW_GPU_MEMORY_USAGE, HW_GPU_UTILIZATION, HW_HOST_ENERGY, HW_HOST_POWER, HW_POWER,
    Name, attribute, kind,
};
use joulebook_otlp::point::{How, Messages, Said, Told, resource, text};
use joulebook_otlp::{Message, OtlpError, OtlpSection, Queue, Sender, Signal, UnixClock};
use joulebook_proto::metrics::{Kind, Point};
use joulebook_units::{BootNanos, Layer, NodeName, UnixNanos};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Time from one message to the next: energy that is finer shows what a machine computes.
pub(crate) const STEP: Duration = Duration::from_secs(60);
/// Points that may wait where the configuration says nothing: an hour of a node of eight GPUs is some 10,000.
const ROOM: usize = 20_000;
/// Who tells.
const SERVICE: (&str, &str) = ("joulebook-agent", env!("CARGO_PKG_VERSION"));

/// A sender for the receiver of the configuration; none where none is told.
pub(crate) fn sender(section: &OtlpSection, clock: UnixClock) -> Result<Option<Sender>, OtlpError> {
    section.tells(Signal::Metrics).then(|| Sender::new(section, Signal::Metrics, ROOM, clock)).transpose()
}

/// Tells once a step until it is dropped; the first time when the first rows are there.
pub(crate) async fn tell(
    board: Arc<Board>,
    (mut sender, queue): (Sender, Arc<Queue>),
    (cluster, step): (Option<String>, Duration),
) {
    let mut teller = Teller { cluster, ..Teller::default() };
    let tells = async {
        let mut ticks = interval_at(Instant::now() + STEP_WAIT.min(step), step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (health, nodes) = board.look().await;
            teller.messages(&health, &nodes).into_iter().for_each(|message| queue.add(message));
        }
    };
    tokio::select! {
        () = sender.run() => {}
        () = tells => {}
    }
}

/// Turns what is looked at into messages, and remembers where sums began.
#[derive(Debug, Default)]
pub(super) struct Teller {
    cluster: Option<String>,
    sums: BTreeMap<(NodeName, String), Sum>,
    /// When each process' counters began to be told.
    began: Option<u64>,
}

/// A value that only grows.
#[derive(Debug, Clone, Copy)]
struct Sum {
    /// When and with what it began to be told.
    began: (u64, u64),
    /// As of the step before: wall clock, boot clock, value.
    last: (u64, BootNanos, u64),
}

/// What a sum did since it began, and since the step before: its time in ns and what it grew by.
struct Grown {
    since: (u64, u64),
    step: Option<((u64, u64), u64, u64)>,
    all: u64,
}

impl Teller {
    /// The messages of one look.
    pub(super) fn messages(&mut self, health: &[Point], nodes: &[(NodeName, Option<Status>)]) -> Vec<Message> {
        let mut messages = Messages::default();
        let wall = nodes.iter().find_map(|(_, status)| status.as_ref().map(|status| unix(status.now.1)));
        for (node, status) in nodes {
            let mut points = Vec::new();
            if let Some(status) = status {
                self.energy(node, status, &mut points);
                self.devices(node, status, &mut points);
            }
            if let Some(now) = wall {
                self.health(health, Some(node), now, &mut points);
            }
            messages.add(&resource(SERVICE, Some(node.as_str()), self.cluster.as_deref()), points);
        }
        if let Some(now) = wall {
            // What is the process' own. With one node it is that node's agent.
            let host = nodes.first().filter(|_| nodes.len() == 1).map(|(node, _)| node.as_str());
            let mut points = Vec::new();
            self.health(health, None, now, &mut points);
            messages.add(&resource(SERVICE, host, self.cluster.as_deref()), points);
        }
        messages.finish()
    }

    fn grown(&mut self, node: &NodeName, id: String, (wall, boot): (u64, BootNanos), value: u64) -> Grown {
        let begins = Sum { began: (wall, value), last: (wall, boot, value) };
        let sum = self.sums.entry((node.clone(), id)).or_insert(begins);
        if value < sum.began.1 {
            *sum = begins;
        }
        let (last_wall, last_boot, last) = sum.last;
        let nanos = boot.0.saturating_sub(last_boot.0);
        let step = (nanos > 0).then_some(((last_wall, wall), nanos, value.saturating_sub(last)));
        sum.last = (wall, boot, value);
        Grown { since: (sum.began.0, wall), step, all: value.saturating_sub(sum.began.1) }
    }

    /// Energy and power: of parts that no other source contains, and of the host where something meters its input.
    fn energy(&mut self, node: &NodeName, status: &Status, points: &mut Vec<Told>) {
        let mut has_input = false;
        for source in &status.sources {
            let (of, Some(last)) = (&source.state.source, source.last) else { continue };
            let is_input = of.layer() == Some(Layer::Node) && !has_input;
            has_input |= is_input;
            let names = match (of.is_part(), is_input) {
                (true, _) => (HW_ENERGY, HW_POWER),
                (_, true) => (HW_HOST_ENERGY, HW_HOST_POWER),
                _ => continue,
            };
            let at = (wall_of(status, last), last);
            let grown = self.grown(node, of.id.clone(), at, source.energy.0);
            let attributes = || part(node, source, status, is_input);
            points.push(Told::new(names.0, How::Sum, attributes(), grown.since, joules(grown.all)));
            if let Some((times, nanos, microjoules)) = grown.step {
                points.push(Told::new(names.1, How::Gauge, attributes(), times, joules(microjoules) / seconds(nanos)));
            }
        }
    }

    /// Use of accelerators.
    fn devices(&mut self, node: &NodeName, status: &Status, points: &mut Vec<Told>) {
        for device in &status.devices {
            let source =
                status.sources.iter().find(|source| source.state.source.device.as_ref() == Some(&device.device));
            let attributes = || match source {
                Some(source) => part(node, source, status, false),
                None => vec![text(attribute::HW_ID, &device.device), text(attribute::HW_TYPE, "gpu")],
            };
            let wall = wall_of(status, device.at);
            let grown = self.grown(node, format!("busy {}", device.device), (wall, device.at), device.busy_nanos);
            if let Some((times, nanos, busy)) = grown.step {
                let used = (seconds(busy) / seconds(nanos)).min(1.0);
                points.push(Told::new(HW_GPU_UTILIZATION, How::Gauge, attributes(), times, used));
            }
            let known = |name: Name, bytes: Option<u64>| {
                bytes.map(|bytes| Told::new(name, How::Level, attributes(), (wall, wall), float(bytes)))
            };
            points.extend(known(HW_GPU_MEMORY_USAGE, device.memory_bytes));
            points.extend(known(HW_GPU_MEMORY_LIMIT, device.memory_limit_bytes));
        }
    }

    /// The page's points of a node, or those of none.
    fn health(&mut self, health: &[Point], node: Option<&NodeName>, now: u64, points: &mut Vec<Told>) {
        let began = *self.began.get_or_insert(now);
        for point in health {
            let labels = point.metric.labels.iter().zip(&point.labels);
            let (of, labels): (Vec<_>, Vec<_>) = labels.partition(|(name, _)| **name == "node");
            if of.first().map(|(_, value)| value.as_str()) != node.map(NodeName::as_str) {
                continue;
            }
            let attributes = labels.iter().map(|(name, value)| text(&format!("{}{name}", attribute::PREFIX), value));
            let how = if point.metric.kind == Kind::Counter { How::Sum } else { How::Gauge };
            points.push(Told::new(said(point), how, attributes.collect(), (began, now), point.value));
        }
    }
}

/// A name of the page in OpenTelemetry's way: dots, and no unit at its end, so that who makes Prometheus' name of it again gets
/// the page's.
fn said(point: &Point) -> Said {
    let metric = point.metric;
    let (unit, ending) = match metric.unit {
        "seconds" => ("s", "_seconds"),
        "bytes" => ("By", "_bytes"),
        "joules" => ("J", "_joules"),
        _ => ("1", ""),
    };
    let unit = if metric.kind == Kind::Counter && unit == "1" { "" } else { unit };
    let family = metric.family();
    let name = family.strip_suffix(ending).unwrap_or(family).replace('_', ".");
    Said { name: Cow::Owned(name), unit, help: metric.text() }
}

/// Attributes of a part, or of the host as a whole.
fn part(node: &NodeName, source: &SourceStatus, status: &Status, is_host: bool) -> Vec<KeyValue> {
    let of = &source.state.source;
    let own = format!("{}collector", attribute::PREFIX);
    if is_host {
        return vec![text(attribute::HW_ID, node.as_str()), text(&own, &of.collector)];
    }
    let mut attributes = vec![
        text(attribute::HW_ID, &of.id),
        text(attribute::HW_TYPE, kind(of.component)),
        text(attribute::HW_PARENT, node.as_str()),
        text(&own, &of.collector),
    ];
    let device = of.device.as_ref().and_then(|id| status.devices.iter().find(|device| &device.device == id));
    attributes.extend(device.and_then(|device| device.model.as_ref()).map(|model| text(attribute::HW_MODEL, model)));
    attributes
}

/// The wall clock at an instant of the boot clock.
fn wall_of(status: &Status, at: BootNanos) -> u64 {
    let (boot, wall) = status.now;
    unix(wall).saturating_sub(boot.0.saturating_sub(at.0))
}

fn unix(at: UnixNanos) -> u64 {
    u64::try_from(at.0).unwrap_or_default()
}

fn joules(microjoules: u64) -> f64 {
    joulebook_units::Microjoules(microjoules).to_joules().0
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "bytes below 2^53")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests;
