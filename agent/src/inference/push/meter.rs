//! One line of a meter: `{"meter": "outlet-7", "seq": 1, "energy_microjoules": 5}`, or `energy_watt_hours`, or `watts`.

use super::super::told::Refusal;
use crate::collector::meter::{Shown, Told};
use crate::config::MeterSection;
use joulebook_units::{BootNanos, Joules, Milliwatts};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};

/// Highest energy that is taken, in Wh: 9 × 10¹⁸ µJ.
const MOST_WATT_HOURS: f64 = 2.5e9;

/// What a meter shows, as it is told. Exactly one of the three quantities is there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// Name of the meter, one of those that are configured.
    meter: String,
    /// Number of the report, rising; one that is not above the last of its meter is a repetition and changes nothing.
    seq: u64,
    /// Energy in µJ since any instant of the past.
    energy_microjoules: Option<u64>,
    /// The same in Wh.
    energy_watt_hours: Option<f64>,
    /// Power now in W.
    watts: Option<f64>,
}

impl Line {
    fn shown(&self) -> Result<Shown, Refusal> {
        let shown = match (self.energy_microjoules, self.energy_watt_hours, self.watts) {
            (Some(energy), None, None) => Some(Shown::Energy(energy)),
            (None, Some(hours), None) if (0.0..=MOST_WATT_HOURS).contains(&hours) => {
                // In range by the test above.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked above")]
                let energy = (Joules::from_kwh(hours / 1e3).0 * 1e6).round() as u64;
                Some(Shown::Energy(energy))
            }
            (None, None, Some(watts)) => Milliwatts::from_watts(watts).ok().map(Shown::Power),
            _ => None,
        };
        shown.ok_or_else(|| {
            Refusal::value("a meter tells one of `energy_microjoules`, `energy_watt_hours` and `watts`, at least 0")
        })
    }
}

/// The meters of which may be told, by whom, and the way to their collector.
#[derive(Debug, Clone)]
pub struct MeterDesk {
    /// User by meter.
    users: Arc<BTreeMap<String, u32>>,
    last: Arc<Mutex<BTreeMap<String, u64>>>,
    out: SyncSender<Told>,
}

impl MeterDesk {
    /// The desk of the configured meters.
    pub fn new(sections: &[MeterSection], out: SyncSender<Told>) -> Self {
        let users = sections.iter().map(|section| (section.name.clone(), section.uid)).collect();
        Self { users: Arc::new(users), last: Arc::default(), out }
    }

    /// Takes a line from a user, as the kernel names it; gives the answer.
    ///
    /// # Errors
    /// Another form, a meter that is not configured, or one that this user may not tell.
    pub fn take(&self, line: &[u8], uid: Option<u32>, at: BootNanos) -> Result<String, Refusal> {
        let line: Line = serde_json::from_slice(line).map_err(|error| Refusal::form(error.to_string()))?;
        let user = self.users.get(&line.meter).ok_or_else(|| Refusal::value("no such meter is configured"))?;
        if uid != Some(*user) {
            return Err(Refusal { reason: "peer", why: "this user may not tell of this meter".to_owned() });
        }
        let shown = line.shown()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = last.get(&line.meter).is_some_and(|last| line.seq <= *last);
        if !repeated {
            let told = Told { meter: line.meter.clone(), at, shown };
            self.out.try_send(told).map_err(|error| match error {
                TrySendError::Full(_) => Refusal { reason: "rate", why: "too many reports in one row".to_owned() },
                TrySendError::Disconnected(_) => Refusal { reason: "limit", why: "the agent stops".to_owned() },
            })?;
            last.insert(line.meter, line.seq);
        }
        Ok(format!("{}\n", serde_json::json!({"ok": true, "seq": line.seq, "repeated": repeated})))
    }
}

/// Whether a line is of a meter.
pub fn is_meter(line: &[u8]) -> bool {
    let object: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(line).ok();
    object.is_some_and(|object| object.contains_key("meter"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::meter::channel;

    #[test]
    fn a_line_is_taken_once_and_only_from_its_user() {
        let (out, told) = channel();
        let section = MeterSection { name: "outlet".to_owned(), uid: 7, ..MeterSection::default() };
        let desk = MeterDesk::new(&[section], out);
        let take = |line: &str, uid| desk.take(line.as_bytes(), uid, BootNanos(1)).map_err(|refusal| refusal.reason);
        let good = r#"{"meter": "outlet", "seq": 1, "energy_watt_hours": 0.5}"#;
        assert_eq!(take(good, Some(0)), Err("peer"));
        assert_eq!(take(good, None), Err("peer"));
        assert!(take(good, Some(7)).is_ok_and(|answer| answer.contains("\"repeated\":false")));
        assert!(take(good, Some(7)).is_ok_and(|answer| answer.contains("\"repeated\":true")));
        assert!(take(r#"{"meter": "outlet", "seq": 2, "watts": 0.25}"#, Some(7)).is_ok());
        for (bad, reason) in [
            (r#"{"meter": "another", "seq": 3, "watts": 1}"#, "value"),
            (r#"{"meter": "outlet", "seq": 3}"#, "value"),
            (r#"{"meter": "outlet", "seq": 3, "watts": 1, "energy_microjoules": 1}"#, "value"),
            (r#"{"meter": "outlet", "seq": 3, "watts": -1}"#, "value"),
            (r#"{"meter": "outlet", "seq": 3, "energy_watt_hours": 1e300}"#, "value"),
            (r#"{"meter": "outlet", "seq": 3, "watts": "1"}"#, "form"),
            (r#"{"meter": "outlet", "seq": 3, "watts": 1, "node": "x"}"#, "form"),
        ] {
            assert_eq!(take(bad, Some(7)), Err(reason), "{bad}");
        }
        let shown: Vec<_> = told.try_iter().map(|told| told.shown).collect();
        assert_eq!(shown, [Shown::Energy(1_800_000_000), Shown::Power(Milliwatts(250))]);
    }
}
