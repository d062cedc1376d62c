//! What a name stood for: the weights and set-ups behind a served name, from when to when.
//!
//! It is read from the cells, so it is known as long as they are held, and no counts have to be told twice. While rows are
//! held, starts and ends are known to the second, else to the slot.

use super::gather::Gathered;
use super::name::{describe, digest};
use super::{QueryError, answer};
use joulebook_proto::query::{AliasEpoch, GetAliasHistoryResponse};
use joulebook_units::{Service, Window};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stretches that are further apart are two, in seconds: a server that was gone for so long may have come back with
/// anything.
const APART_SECONDS: i64 = 3600;
/// Slots that are looked at first, in seconds.
const SLOT_SECONDS: i64 = 60;
/// Most slots of one node that are looked at for one answer.
const MOST_SLOTS: usize = 10_000;

/// The epochs of a name in the window of `gathered`.
pub fn history(gathered: &Gathered<'_>, alias: &str) -> Result<GetAliasHistoryResponse, QueryError> {
    let window = gathered.window;
    let seconds = SLOT_SECONDS.max(gathered.resolution_seconds);
    let mut epochs: Vec<AliasEpoch> = Vec::new();
    let mut seen = false;
    for member in gathered.members.iter().filter(|member| gathered.has_served(&member.record, alias)) {
        seen = true;
        let slots: Vec<Window> = window.slots(seconds).collect();
        if slots.len() > MOST_SLOTS {
            return Err(QueryError::Invalid(format!(
                "the window has more than {MOST_SLOTS} slots of {seconds} s; ask for parts of it"
            )));
        }
        let node = member.record.inventory.node.as_str();
        let mut open: BTreeMap<Arc<Service>, Window> = BTreeMap::new();
        let mut before = Vec::new();
        for slot in slots {
            let now = distinct(gathered.counted(&member.record, slot, alias)?);
            // Where something begins or ends, the rows say when, as long as they are held.
            if now != before && gathered.resolution_seconds < seconds {
                for part in slot.slots(gathered.resolution_seconds) {
                    let services = distinct(gathered.counted(&member.record, part, alias)?);
                    take(&mut open, services, part, |service, span| epochs.push(epoch(service, span, node)));
                }
            } else {
                take(&mut open, now.clone(), slot, |service, span| epochs.push(epoch(service, span, node)));
            }
            before = now;
        }
        epochs.extend(open.iter().map(|(service, span)| epoch(service, *span, node)));
    }
    if !seen {
        return Err(QueryError::NotFound(format!("no model was ever served as `{alias}`")));
    }
    epochs.sort_by(|a, b| (a.start_unix_nanos, &a.node, &a.target).cmp(&(b.start_unix_nanos, &b.node, &b.target)));
    let resolution_seconds = u64::try_from(gathered.resolution_seconds).unwrap_or(1);
    Ok(GetAliasHistoryResponse { epochs, resolution_seconds })
}

/// Services as an epoch tells them apart. The rest of one may become known while it serves: the process that does its work
/// is found later than its first counts.
fn distinct(services: Vec<Arc<Service>>) -> Vec<Arc<Service>> {
    let mut told: Vec<Arc<Service>> = Vec::new();
    for service in services {
        let mut told_apart = Arc::unwrap_or_clone(service);
        (told_apart.adapter, told_apart.workload, told_apart.tokenizer) = (None, None, None);
        (told_apart.serving.role, told_apart.serving.group) = (None, None);
        if !told.iter().any(|one| **one == told_apart) {
            told.push(Arc::new(told_apart));
        }
    }
    told
}

/// Goes on with the stretches of the services that are known in a slot; what ends is given to `ended`.
fn take(
    open: &mut BTreeMap<Arc<Service>, Window>,
    services: Vec<Arc<Service>>,
    slot: Window,
    mut ended: impl FnMut(&Service, Window),
) {
    let earlier = open.clone();
    for service in services {
        let before = earlier.get(&service).copied();
        let joined = before.filter(|before| slot.start() <= before.end().plus_seconds(APART_SECONDS));
        // Another one in between ends it: the name came back to what it stood for before.
        let between = before.is_some_and(|before| {
            earlier
                .iter()
                .any(|(other, span)| *other != service && other.target == service.target && span.end() > before.end())
        });
        let span = joined.filter(|_| !between).and_then(|before| Window::new(before.start(), slot.end()));
        if let (None, Some(before)) = (span, before) {
            ended(&service, before);
        }
        open.insert(service, span.unwrap_or(slot));
    }
}

fn epoch(service: &Service, span: Window, node: &str) -> AliasEpoch {
    AliasEpoch {
        start_unix_nanos: span.start().0,
        end_unix_nanos: span.end().0,
        version: service.version.clone(),
        version_source: answer::version_source(service.version_source).to_owned(),
        weights: service.fingerprint.clone(),
        base: service.serving.base.clone(),
        revision: service.serving.revision.clone(),
        serving_config: digest(&service.serving.configuration),
        serving_configuration: describe(&service.serving.configuration),
        engine: service.engine.clone(),
        target: service.target.clone(),
        node: node.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{Serving, UnixNanos, VersionSource};

    fn service(weights: &str, target: &str) -> Arc<Service> {
        Arc::new(Service {
            model: Some("m".to_owned()),
            version: None,
            version_source: VersionSource::Unresolved,
            fingerprint: Some(weights.to_owned()),
            adapter: None,
            engine: "e".to_owned(),
            target: target.to_owned(),
            workload: None,
            tokenizer: None,
            serving: Serving::default(),
        })
    }

    /// Letters of the weights that are counted in each slot of a minute, at one target or at several.
    fn epochs(slots: &[&[(&str, &str)]]) -> Vec<(String, i64, i64)> {
        let (mut open, mut found) = (BTreeMap::new(), Vec::new());
        let told = |service: &Service, span: Window| {
            let minutes = |at: UnixNanos| at.0 / 60_000_000_000;
            (service.fingerprint.clone().unwrap_or_default(), minutes(span.start()), minutes(span.end()))
        };
        for (place, services) in slots.iter().enumerate() {
            let start = UnixNanos(i64::try_from(place).expect("few") * 60_000_000_000);
            let slot = Window::new(start, start.plus_seconds(60)).expect("a window");
            let services = services.iter().map(|(weights, target)| service(weights, target)).collect();
            let services = distinct(services);
            take(&mut open, services, slot, |service, span| found.push(told(service, span)));
        }
        found.extend(open.iter().map(|(service, span)| told(service, *span)));
        found.sort_by_key(|(weights, start, _)| (*start, weights.clone()));
        found
    }

    #[test]
    fn a_name_that_comes_back_to_earlier_weights_has_three_epochs_and_one_that_pauses_has_one() {
        let one = |weights: &str, start, end| (weights.to_owned(), start, end);
        let (a, b) = (&[("a", "t")][..], &[("b", "t")][..]);
        assert_eq!(epochs(&[a, a, b, b, a]), [one("a", 0, 2), one("b", 2, 4), one("a", 4, 5)]);
        assert_eq!(epochs(&[a, &[], a]), [one("a", 0, 3)], "a server that was away for a minute");
        let both = &[("a", "t"), ("b", "t")][..];
        assert_eq!(epochs(&[both, both, a]), [one("a", 0, 3), one("b", 0, 2)], "two versions side by side");
        let apart = &[("a", "t"), ("b", "u")][..];
        assert_eq!(epochs(&[a, apart, apart]), [one("a", 0, 3), one("b", 1, 3)], "two targets");
        let long: Vec<&[(&str, &str)]> = std::iter::once(a).chain(vec![&[][..]; 61]).chain([a]).collect();
        assert_eq!(epochs(&long).len(), 2, "who knows what it was in between");
    }

    #[test]
    fn what_becomes_known_while_it_serves_and_is_not_told_begins_no_epoch() {
        let first = service("a", "t");
        let found = Service { workload: Some("pod:1".to_owned()), tokenizer: Some("k".to_owned()), ..(*first).clone() };
        let other = Service { fingerprint: Some("b".to_owned()), ..found.clone() };
        assert_eq!(distinct(vec![first.clone(), Arc::new(found.clone())]), std::slice::from_ref(&first));
        assert_eq!(distinct(vec![Arc::new(found)]), std::slice::from_ref(&first));
        assert_eq!(distinct(vec![first, Arc::new(other)]).len(), 2, "other weights are told");
    }
}
