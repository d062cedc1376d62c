//! Wire types to domain types and back, with every limit checked before memory is taken.
//!
//! What comes in is refused when it breaks a rule of the contract. What goes out is made to keep the rules: a text
//! that is too long or holds control characters is cut and cleaned here, so that one odd process name cannot make an
//! aggregator refuse the stream of a whole node.

mod batch;
mod count;
mod node;
mod series;

pub use batch::{MAX_PAYLOAD_BYTES, Payload, decode_batch, encode_batch, payload_hash};
pub use node::{hello_to_inventory, inventory_to_hello};
pub use series::{
    decode_definitions, encode_definitions, series_from_wire, series_to_wire, service_from_wire, service_to_wire,
    source_from_wire, source_to_wire, workload_from_wire, workload_to_wire,
};

use crate::telemetry;
use joulebook_units::{
    BootId, BootNanos, GapReason, InvalidId, LossReason, LostSpan, RejectReason, StreamGap, StreamId,
};

/// Most bytes of an identity within a node.
pub const MAX_ID_BYTES: usize = 256;
/// Most bytes of a workload's identity.
pub const MAX_WORKLOAD_ID_BYTES: usize = 512;
/// Most bytes of any other text.
pub const MAX_TEXT_BYTES: usize = 1024;

/// A message that breaks a rule of the contract.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// More than the contract allows.
    #[error("{what} holds more than {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A field that cannot be as it is.
    #[error("{field} is refused: {rule}")]
    Field {
        /// The field, as the contract names it.
        field: &'static str,
        /// What it must satisfy.
        rule: &'static str,
    },
    /// An identifier that is none.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// Bytes that are no message of the contract.
    #[error("the message cannot be decoded")]
    Message(#[from] prost::DecodeError),
    /// Bytes that are no Zstandard frame, or one that holds too much.
    #[error("the payload cannot be (de)compressed")]
    Compression(#[source] std::io::Error),
}

pub(crate) fn refuse(field: &'static str, rule: &'static str) -> ConvertError {
    ConvertError::Field { field, rule }
}

/// A message that the contract wants to be set.
pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, ConvertError> {
    value.ok_or_else(|| refuse(field, "must be set"))
}

/// Takes a text of at most `limit` bytes without control characters.
pub(crate) fn text(value: String, field: &'static str, limit: usize) -> Result<String, ConvertError> {
    if value.len() > limit {
        return Err(ConvertError::Limit { what: field, limit });
    }
    if value.chars().any(char::is_control) {
        return Err(refuse(field, "no control characters"));
    }
    Ok(value)
}

/// Takes a text that must say something.
pub(crate) fn identity(value: String, field: &'static str, limit: usize) -> Result<String, ConvertError> {
    if value.is_empty() {
        return Err(refuse(field, "not empty"));
    }
    text(value, field, limit)
}

pub(crate) fn optional_text(
    value: Option<String>,
    field: &'static str,
    limit: usize,
) -> Result<Option<String>, ConvertError> {
    value.map(|value| text(value, field, limit)).transpose()
}

/// The text as it may be sent: control characters replaced, cut at a character's edge.
pub(crate) fn clean(value: &str, limit: usize) -> String {
    let mut out = String::with_capacity(value.len().min(limit));
    for c in value.chars() {
        let c = if c.is_control() { '?' } else { c };
        if out.len() + c.len_utf8() > limit {
            break;
        }
        out.push(c);
    }
    out
}

pub(crate) fn optional_clean(value: Option<&String>, limit: usize) -> Option<String> {
    value.map(|value| clean(value, limit))
}

/// Maps a domain enum to its wire enum and back; an unspecified or unknown wire value is refused.
macro_rules! enum_both_ways {
    ($to:ident, $from:ident, $domain:ident, $field:literal, [$($variant:ident),+ $(,)?]) => {
        #[doc = concat!("The wire value of `", stringify!($domain), "`.")]
        pub fn $to(value: $domain) -> i32 {
            match value {
                $($domain::$variant => $crate::telemetry::$domain::$variant as i32,)+
            }
        }

        #[doc = concat!("`", stringify!($domain), "` from the wire. Fails on a value this build does not know.")]
        pub fn $from(value: i32) -> Result<$domain, $crate::convert::ConvertError> {
            match $crate::telemetry::$domain::try_from(value) {
                $(Ok($crate::telemetry::$domain::$variant) => Ok($domain::$variant),)+
                _ => Err($crate::convert::refuse($field, "a value of the contract, not the unspecified one")),
            }
        }
    };
}
pub(crate) use enum_both_ways;

enum_both_ways!(
    gap_reason_to_wire,
    gap_reason_from_wire,
    GapReason,
    "EnergyGap.reason",
    [CounterReset, AmbiguousWrap, WrapUnknownRange, SourceLost, Implausible, Reboot, UnstableCounter, CounterStuck]
);
enum_both_ways!(
    loss_reason_to_wire,
    loss_reason_from_wire,
    LossReason,
    "StreamGap.reason",
    [SpoolFull, Corrupt, NoSpace, Rewind]
);
enum_both_ways!(
    reject_reason_to_wire,
    reject_reason_from_wire,
    RejectReason,
    "Rejection.reason",
    [Value, Time, Cardinality, UnknownSeries, Malformed, SequenceConflict]
);

/// The message that declares records of `stream` lost.
pub fn stream_gap_to_wire(stream: StreamId, gap: &StreamGap) -> telemetry::StreamGap {
    telemetry::StreamGap {
        stream_id: stream.0.to_vec(),
        from_sequence: gap.from,
        to_sequence: gap.to,
        reason: loss_reason_to_wire(gap.reason),
        samples: gap.samples,
        boot_id: gap.span.map(|span| span.boot.0.to_vec()).unwrap_or_default(),
        first_boot_nanos: gap.span.map(|span| span.first.0),
        last_boot_nanos: gap.span.map(|span| span.last.0),
    }
}

/// The stream and what it lost. Fails on numbers outside 1 … 2⁶³ − 1, on `to` before `from` or 2³² above it, and on
/// times without a boot or in the wrong order.
pub fn stream_gap_from_wire(gap: &telemetry::StreamGap) -> Result<(StreamId, StreamGap), ConvertError> {
    let stream = StreamId::from_slice(&gap.stream_id)?;
    let (from, to) = (gap.from_sequence, gap.to_sequence);
    if from == 0 || to < from || to >= 1 << 63 || to - from >= 1 << 32 {
        return Err(refuse("StreamGap.from_sequence", "from 1, not after to_sequence, less than 2^32 before it"));
    }
    let span = match (gap.boot_id.is_empty(), gap.first_boot_nanos, gap.last_boot_nanos) {
        (true, None, None) => None,
        (false, Some(first), Some(last)) if first <= last => {
            Some(LostSpan { boot: BootId::from_slice(&gap.boot_id)?, first: BootNanos(first), last: BootNanos(last) })
        }
        _ => return Err(refuse("StreamGap.boot_id", "set together with ordered times, or none of them")),
    };
    let reason = loss_reason_from_wire(gap.reason)?;
    Ok((stream, StreamGap { from, to, reason, samples: gap.samples, span }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gap_comes_back_as_it_was_sent() {
        let stream = StreamId([7; 16]);
        let span = LostSpan { boot: BootId([1; 16]), first: BootNanos(5), last: BootNanos(9) };
        for span in [None, Some(span)] {
            let gap = StreamGap { from: 3, to: 8, reason: LossReason::Rewind, samples: 40, span };
            let back = stream_gap_from_wire(&stream_gap_to_wire(stream, &gap)).expect("valid");
            assert_eq!(back, (stream, gap));
        }
    }

    #[test]
    fn a_stream_gap_that_moves_backwards_or_too_far_is_refused() {
        let gap = StreamGap { from: 3, to: 8, reason: LossReason::Corrupt, samples: 0, span: None };
        let wire = stream_gap_to_wire(StreamId([7; 16]), &gap);
        let with = |from, to| telemetry::StreamGap { from_sequence: from, to_sequence: to, ..wire.clone() };
        for bad in [with(0, 8), with(9, 8), with(1, 1 << 32 | 1), with(1 << 63, 1 << 63)] {
            assert!(stream_gap_from_wire(&bad).is_err(), "{bad:?}");
        }
        let half = telemetry::StreamGap { first_boot_nanos: Some(1), ..wire };
        assert!(stream_gap_from_wire(&half).is_err());
    }

    #[test]
    fn every_reason_survives_the_wire_and_the_unspecified_one_is_refused() {
        for value in 1..=8 {
            assert_eq!(gap_reason_to_wire(gap_reason_from_wire(value).expect("known")), value);
        }
        for value in 1..=4 {
            assert_eq!(loss_reason_to_wire(loss_reason_from_wire(value).expect("known")), value);
        }
        for value in 1..=6 {
            assert_eq!(reject_reason_to_wire(reject_reason_from_wire(value).expect("known")), value);
        }
        assert!(gap_reason_from_wire(0).is_err());
        assert!(loss_reason_from_wire(5).is_err());
        assert!(reject_reason_from_wire(-1).is_err());
    }

    #[test]
    fn a_text_is_cut_at_a_character_and_cleaned_of_control_characters() {
        assert_eq!(clean("a\0b\nc", 8), "a?b?c");
        assert_eq!(clean("aäö", 4), "aä");
    }
}
