//! Nodes out of service (IDLE-I4): drained, in repair, burnt in. Their idle capacity is kept for nobody, under any policy.

use super::FactorError;
use joulebook_units::{UnixNanos, Window};
use serde::Deserialize;

/// `[[out_of_service]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutOfServiceConfig {
    /// The node.
    pub node: String,
    /// Since when, RFC 3339.
    pub from: String,
    /// Until when, not included, RFC 3339. Unset: until further notice.
    pub to: Option<String>,
    /// Why: drain, repair, burn-in, in the operator's words.
    pub reason: String,
}

/// A time in which a node is out of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfService {
    /// The node.
    pub node: String,
    /// When.
    pub window: Window,
    /// Why.
    pub reason: String,
}

/// Checks what is declared.
///
/// # Errors
/// [`FactorError::Contradiction`] where a time cannot be read, or ends before it begins.
pub(super) fn parse(declared: &[OutOfServiceConfig]) -> Result<Vec<OutOfService>, FactorError> {
    declared.iter().map(checked).collect()
}

fn checked(one: &OutOfServiceConfig) -> Result<OutOfService, FactorError> {
    let refused = |rule: String| FactorError::Contradiction { key: format!("out_of_service.{}", one.node), rule };
    let instant = |text: &str| -> Result<UnixNanos, FactorError> {
        let at: jiff::Timestamp =
            text.parse().map_err(|error| refused(format!("`{text}` is no time in RFC 3339: {error}")))?;
        let nanos = i64::try_from(at.as_nanosecond());
        nanos.map(UnixNanos).map_err(|_| refused(format!("`{text}` lies outside 1678 to 2262")))
    };
    let from = instant(&one.from)?;
    let to = one.to.as_deref().map_or(Ok(UnixNanos(i64::MAX)), instant)?;
    let window = Window::new(from, to).filter(|window| !window.is_empty());
    let window = window.ok_or_else(|| refused("it ends before it begins".to_owned()))?;
    Ok(OutOfService { node: one.node.clone(), window, reason: one.reason.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(from: &str, to: Option<&str>) -> OutOfServiceConfig {
        OutOfServiceConfig {
            node: "gpu-7".to_owned(),
            from: from.to_owned(),
            to: to.map(str::to_owned),
            reason: "repair".to_owned(),
        }
    }

    #[test]
    fn a_time_that_is_none_is_refused_and_one_without_an_end_lasts() {
        for (from, to) in [
            ("yesterday", None),
            ("2026-11-20T08:00:00Z", Some("2026-11-20T08:00:00Z")),
            ("2026-11-20T08:00:00Z", Some("2026-11-20T07:00:00Z")),
            ("2026-11-20T08:00:00", None),
        ] {
            assert!(parse(&[declared(from, to)]).is_err(), "{from} to {to:?}");
        }
        let lasting = parse(&[declared("2026-11-20T09:00:00+01:00", None)]).expect("a time");
        let eight = UnixNanos(1_795_161_600 * UnixNanos::PER_SECOND);
        assert_eq!(lasting[0].window, Window::new(eight, UnixNanos(i64::MAX)).expect("ordered"));
    }
}
