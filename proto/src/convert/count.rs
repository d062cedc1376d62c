//! What is counted: kinds, their bounds, and what consumers had.

use super::{ConvertError, MAX_ID_BYTES, clean, identity, optional_clean, optional_text, refuse, required, text};
use crate::telemetry::{self, CountKind as Wire};
use joulebook_units::{Consumer, Consumption, CountKind};

/// Kinds without a bound.
const PLAIN: [(CountKind, Wire); 21] = [
    (CountKind::RequestsOk, Wire::RequestsOk),
    (CountKind::RequestsFailed, Wire::RequestsFailed),
    (CountKind::RequestsAborted, Wire::RequestsAborted),
    (CountKind::Items, Wire::Items),
    (CountKind::InputTokens, Wire::InputTokens),
    (CountKind::CachedTokens, Wire::CachedTokens),
    (CountKind::OutputTokens, Wire::OutputTokens),
    (CountKind::ReasoningTokens, Wire::ReasoningTokens),
    (CountKind::BusyNanos, Wire::BusyNanos),
    (CountKind::PrefillNanos, Wire::PrefillNanos),
    (CountKind::DecodeNanos, Wire::DecodeNanos),
    (CountKind::Images, Wire::Images),
    (CountKind::AudioNanos, Wire::AudioNanos),
    (CountKind::VideoNanos, Wire::VideoNanos),
    (CountKind::Sessions, Wire::Sessions),
    (CountKind::RunningNanos, Wire::RunningNanos),
    (CountKind::WaitingNanos, Wire::WaitingNanos),
    (CountKind::Workflows, Wire::Workflows),
    (CountKind::StoredRequests, Wire::StoredRequests),
    (CountKind::StoredTokens, Wire::StoredTokens),
    (CountKind::ResidentByteSeconds, Wire::ResidentByteSeconds),
];

/// The wire values of a kind and of its bound.
pub fn count_kind_to_wire(kind: CountKind) -> (i32, Option<u64>) {
    let bucket = |wire: Wire, bound: u64| (wire as i32, (bound != u64::MAX).then_some(bound));
    match kind {
        CountKind::LatencyWithin(nanos) => bucket(Wire::LatencyWithin, nanos),
        CountKind::PromptWithin(tokens) => bucket(Wire::PromptWithin, tokens),
        plain => {
            let wire = PLAIN.iter().find(|(kind, _)| *kind == plain);
            (wire.map_or(Wire::Unspecified, |(_, wire)| *wire) as i32, None)
        }
    }
}

/// A kind from the wire. Fails on a value this build does not know, and on a bound of a kind that has none.
pub fn count_kind_from_wire(kind: i32, at_most: Option<u64>) -> Result<CountKind, ConvertError> {
    match (Wire::try_from(kind), at_most) {
        (Ok(Wire::LatencyWithin), bound) => Ok(CountKind::LatencyWithin(bound.unwrap_or(u64::MAX))),
        (Ok(Wire::PromptWithin), bound) => Ok(CountKind::PromptWithin(bound.unwrap_or(u64::MAX))),
        (_, Some(_)) => Err(refuse("Count.at_most", "only a bucket's")),
        (wire, None) => {
            let plain = PLAIN.iter().find(|(_, plain)| wire == Ok(*plain)).map(|(kind, _)| *kind);
            plain.ok_or_else(|| refuse("Count.kind", "a value of the contract, not the unspecified one"))
        }
    }
}

/// The message of a consumer's count.
pub fn consumption_to_wire(of: &Consumption, kind: CountKind) -> telemetry::ConsumptionCount {
    let consumption = telemetry::Consumption {
        consumer_kind: clean(&of.consumer.kind, MAX_ID_BYTES),
        consumer: clean(&of.consumer.name, MAX_ID_BYTES),
        engine: clean(&of.engine, MAX_ID_BYTES),
        gateway: clean(&of.gateway, MAX_ID_BYTES),
        endpoint: optional_clean(of.endpoint.as_ref(), MAX_ID_BYTES),
        model: optional_clean(of.model.as_ref(), MAX_ID_BYTES),
        version: optional_clean(of.version.as_ref(), MAX_ID_BYTES),
    };
    telemetry::ConsumptionCount { consumption: Some(consumption), kind: count_kind_to_wire(kind).0 }
}

/// A consumer's count from the wire. Fails on an empty name, texts over their limit, and a kind with bounds.
pub fn consumption_from_wire(count: telemetry::ConsumptionCount) -> Result<(Consumption, CountKind), ConvertError> {
    let of = required(count.consumption, "ConsumptionCount.consumption")?;
    let kind = count_kind_from_wire(count.kind, None)?;
    if kind.is_bucket() {
        return Err(refuse("ConsumptionCount.kind", "a kind without bounds"));
    }
    let consumption = Consumption {
        consumer: Consumer {
            kind: identity(of.consumer_kind, "Consumption.consumer_kind", MAX_ID_BYTES)?,
            name: identity(of.consumer, "Consumption.consumer", MAX_ID_BYTES)?,
        },
        engine: text(of.engine, "Consumption.engine", MAX_ID_BYTES)?,
        gateway: identity(of.gateway, "Consumption.gateway", MAX_ID_BYTES)?,
        endpoint: optional_text(of.endpoint, "Consumption.endpoint", MAX_ID_BYTES)?,
        model: optional_text(of.model, "Consumption.model", MAX_ID_BYTES)?,
        version: optional_text(of.version, "Consumption.version", MAX_ID_BYTES)?,
    };
    Ok((consumption, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_wire_value_and_only_buckets_have_bounds() {
        for kind in CountKind::ALL {
            let (wire, bound) = count_kind_to_wire(kind);
            assert_eq!((count_kind_from_wire(wire, None).expect("known"), bound), (kind, None));
        }
        for (kind, wire, bound) in [
            (CountKind::RequestsOk, Wire::RequestsOk, None),
            (CountKind::BusyNanos, Wire::BusyNanos, None),
            (CountKind::DecodeNanos, Wire::DecodeNanos, None),
            (CountKind::StoredTokens, Wire::StoredTokens, None),
            (CountKind::LatencyWithin(7), Wire::LatencyWithin, Some(7)),
            (CountKind::PromptWithin(u64::MAX), Wire::PromptWithin, None),
        ] {
            assert_eq!(count_kind_to_wire(kind), (wire as i32, bound));
            assert_eq!(count_kind_from_wire(wire as i32, bound).expect("known"), kind);
        }
        for (kind, bound) in [(0, None), (21, None), (-1, None), (1, Some(1))] {
            assert!(count_kind_from_wire(kind, bound).is_err(), "{kind} {bound:?}");
        }
    }

    #[test]
    fn a_consumption_without_a_name_or_with_a_bucket_is_refused() {
        let of = Consumption {
            consumer: Consumer { kind: "team".into(), name: "risk".into() },
            engine: "litellm".into(),
            gateway: "http://g:1".into(),
            endpoint: None,
            model: None,
            version: None,
        };
        let good = consumption_to_wire(&of, CountKind::RequestsOk);
        assert_eq!(consumption_from_wire(good.clone()).expect("valid"), (of, CountKind::RequestsOk));
        let bucket = telemetry::ConsumptionCount { kind: Wire::LatencyWithin as i32, ..good.clone() };
        let nobody = telemetry::Consumption { consumer: String::new(), ..good.consumption.clone().expect("there") };
        let nobody = telemetry::ConsumptionCount { consumption: Some(nobody), ..good.clone() };
        let nothing = telemetry::ConsumptionCount { consumption: None, ..good };
        for wrong in [bucket, nobody, nothing] {
            assert!(consumption_from_wire(wrong).is_err());
        }
    }
}
