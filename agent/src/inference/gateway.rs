//! What consumers had of a gateway's upstreams: counts of their own, which are never a service's.

use super::CountSample;
use super::reader::{Consumer, Upstream};
use super::socket::ProcessId;
use super::tally::Counts;
use super::target::Target;
use joulebook_units::{BootNanos, Consumer as Named, Consumption, CountKind, Service, VersionSource};
use std::collections::BTreeMap;

/// Consumers × upstreams of one gateway; what comes then is booked on one that is called `other`.
const MOST: usize = 200;
/// The name for consumers beyond the limit.
pub const OTHER: &str = "other";
/// Before the hash of a name.
const HASHED: &str = "h:";
/// Hexadecimal digits of a hash that are told: names of one installation do not meet.
const HASH_DIGITS: usize = 16;

/// How consumers are named beyond their node.
#[derive(Debug, Clone)]
pub enum Names {
    /// As they are.
    Raw,
    /// By a hash under a secret that does not leave the node: the same name gives the same hash wherever the secret is the
    /// same, and nobody without it can tell whose hash it is.
    Hashed([u8; 32]),
}

impl Names {
    /// The name under which a consumer is told.
    pub fn of(&self, kind: &str, name: &str) -> String {
        match self {
            Self::Raw => name.to_owned(),
            Self::Hashed(secret) => {
                let mut hasher = blake3::Hasher::new_keyed(secret);
                hasher.update(kind.as_bytes()).update(&[0]).update(name.as_bytes());
                let digits = hasher.finalize().to_hex();
                format!("{HASHED}{}", digits.as_str().chars().take(HASH_DIGITS).collect::<String>())
            }
        }
    }
}

/// The counts of one gateway's consumers so far.
#[derive(Debug, Default)]
pub struct Gateway {
    totals: BTreeMap<Consumption, BTreeMap<CountKind, u64>>,
}

/// The instants around a page.
#[derive(Debug, Clone, Copy)]
pub struct Instants {
    /// When it was complete.
    pub at: BootNanos,
    /// When all counts were 0, if that is known.
    pub zero: Option<BootNanos>,
}

impl Gateway {
    /// Takes in what a page added, and tells where each consumer stands.
    pub fn samples(
        &mut self,
        target: &Target,
        names: &Names,
        (consumers, upstreams): (Vec<(Consumer, Counts)>, &BTreeMap<String, Upstream>),
        times: Instants,
        process: Option<ProcessId>,
    ) -> Vec<CountSample> {
        let mut sums: BTreeMap<Consumption, Counts> = BTreeMap::new();
        for (consumer, counts) in consumers {
            let mut of = consumption(target, names, consumer, upstreams);
            let known = self.totals.len() + sums.keys().filter(|new| !self.totals.contains_key(*new)).count();
            if known >= MOST && !self.totals.contains_key(&of) && !sums.contains_key(&of) {
                of.consumer.name = OTHER.to_owned();
                (of.endpoint, of.model) = (None, None);
            }
            let sum = sums.entry(of).or_default();
            add(&mut sum.added, &counts.added);
            add(&mut sum.shown, &counts.shown);
        }
        let sample = |(of, counts): (Consumption, Counts)| {
            let origin = times.zero.filter(|_| !self.totals.contains_key(&of));
            let total = self.totals.entry(of.clone()).or_default();
            add(total, &counts.added);
            let now = total.iter().filter(|(kind, _)| counts.added.contains_key(kind));
            CountSample {
                service: place(target),
                of: Some(of),
                at: times.at,
                counts: now.map(|(kind, count)| (*kind, *count)).collect(),
                origin,
                shown: counts.shown,
                process,
                part: None,
            }
        };
        sums.into_iter().map(sample).collect()
    }
}

/// The gateway itself, which serves nothing.
fn place(target: &Target) -> Service {
    Service {
        model: None,
        version: None,
        version_source: VersionSource::Unresolved,
        fingerprint: None,
        adapter: None,
        engine: target.preset.id.clone(),
        target: target.name.clone(),
        workload: None,
        tokenizer: None,
        serving: joulebook_units::Serving::default(),
    }
}

fn consumption(
    target: &Target,
    names: &Names,
    consumer: Consumer,
    upstreams: &BTreeMap<String, Upstream>,
) -> Consumption {
    let Consumer { key, value, upstream } = consumer;
    let told = upstream.deployment.as_ref().and_then(|name| upstreams.get(name)).cloned();
    let Upstream { deployment, endpoint, model } = told.unwrap_or(upstream);
    Consumption {
        consumer: Named { name: names.of(&key, &value), kind: key },
        engine: target.preset.id.clone(),
        gateway: target.name.clone(),
        endpoint,
        // A name of the gateway's own is better than none: it tells remote services apart.
        model: model.or(deployment),
        version: None,
    }
}

fn add(sum: &mut BTreeMap<CountKind, u64>, more: &BTreeMap<CountKind, u64>) {
    for (kind, count) in more {
        let total = sum.entry(*kind).or_insert(0);
        *total = total.saturating_add(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::preset::Presets;

    #[test]
    fn a_hashed_name_is_the_same_under_one_secret_only_and_does_not_hold_the_name() {
        let (one, other) = (Names::Hashed([1; 32]), Names::Hashed([2; 32]));
        let name = one.of("team", "risk");
        assert_eq!((name.len(), name.starts_with("h:"), name.contains("risk")), (18, true, false));
        assert_eq!(name, one.of("team", "risk"));
        assert_ne!(name, other.of("team", "risk"));
        assert_ne!(name, one.of("user", "risk"), "a team and a user of one name are two consumers");
        assert_eq!(Names::Raw.of("team", "risk"), "risk");
    }

    #[test]
    fn consumers_beyond_the_limit_are_one_that_is_called_other() {
        let config = toml::from_str("url = \"http://127.0.0.1:1\"\npreset = \"litellm\"").expect("legal");
        let target = Target::new(0, config, &Presets::built_in().expect("valid")).expect("a target");
        let mut gateway = Gateway::default();
        let page = |consumers: std::ops::Range<usize>| {
            let counts = Counts { added: BTreeMap::from([(CountKind::RequestsOk, 1)]), ..Counts::default() };
            let consumer = |value: usize| Consumer {
                key: "team".to_owned(),
                value: value.to_string(),
                upstream: Upstream { deployment: Some("d".to_owned()), ..Upstream::default() },
            };
            consumers.map(|value| (consumer(value), counts.clone())).collect::<Vec<_>>()
        };
        let upstream = Upstream { endpoint: Some("http://e:1".to_owned()), ..Upstream::default() };
        let upstreams = BTreeMap::from([("d".to_owned(), upstream)]);
        let times = Instants { at: BootNanos(9), zero: Some(BootNanos(1)) };
        let samples = gateway.samples(&target, &Names::Raw, (page(0..300), &upstreams), times, None);
        assert_eq!(samples.len(), MOST + 1);
        let count = |sample: &CountSample| sample.counts[&CountKind::RequestsOk];
        assert_eq!(samples.iter().map(count).sum::<u64>(), 300, "none is lost");
        let other = |sample: &&CountSample| sample.of.as_ref().is_some_and(|of| of.consumer.name == OTHER);
        assert_eq!(samples.iter().find(other).map(count), Some(100));
        let again = gateway.samples(&target, &Names::Raw, (page(0..300), &upstreams), times, None);
        assert_eq!(again.iter().map(count).sum::<u64>(), 600);
        assert!(again.iter().all(|sample| sample.origin.is_none()));
        let of = samples[0].of.clone().expect("a consumer");
        assert_eq!((of.endpoint.as_deref(), of.engine.as_str()), (Some("http://e:1"), "litellm"));
    }
}
