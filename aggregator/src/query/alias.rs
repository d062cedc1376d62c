//! What a name stood for: the weights and set-ups behind a served name, from when to when.
//!
//! It is read from the cells, so it is known as long as they are held, and no counts have to be told twice. Within the time
//! for which rows are held a question about an instant is answered to the second, else to the slot.

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
/// Most slots of one node that are looked at for one answer.
const MOST_SLOTS: usize = 10_000;

/// The epochs of a name in the window of `gathered`.
pub fn history(gathered: &Gathered<'_>, alias: &str) -> Result<GetAliasHistoryResponse, QueryError> {
    let window = gathered.window;
    let seconds = if window.nanos() <= 60_000_000_000 { 1 } else { 60 };
    let seconds = seconds.max(gathered.resolution_seconds);
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
        let mut open: BTreeMap<Arc<Service>, Window> = BTreeMap::new();
        for slot in slots {
            let earlier = open.clone();
            for service in gathered.counted(&member.record, slot, alias)? {
                let before = earlier.get(&service).copied();
                let joined = before.filter(|before| slot.start() <= before.end().plus_seconds(APART_SECONDS));
                // Another one in between ends it: the name came back to what it stood for before.
                let between = before.is_some_and(|before| {
                    earlier.iter().any(|(other, span)| {
                        *other != service && other.target == service.target && span.end() > before.end()
                    })
                });
                let span = joined.filter(|_| !between).and_then(|before| Window::new(before.start(), slot.end()));
                if span.is_none() {
                    epochs.extend(before.map(|before| epoch(&service, before, member.record.inventory.node.as_str())));
                }
                open.insert(service, span.unwrap_or(slot));
            }
        }
        let node = member.record.inventory.node.as_str();
        epochs.extend(open.iter().map(|(service, span)| epoch(service, *span, node)));
    }
    if !seen {
        return Err(QueryError::NotFound(format!("no model was ever served as `{alias}`")));
    }
    epochs.sort_by(|a, b| (a.start_unix_nanos, &a.node, &a.target).cmp(&(b.start_unix_nanos, &b.node, &b.target)));
    Ok(GetAliasHistoryResponse { epochs, resolution_seconds: u64::try_from(seconds).unwrap_or(1) })
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
