//! Values of a Redfish document, read as they come: a number that is text, `null`, absent, `nan`, stale or of 1970 is
//! told apart and is none of it a power.

use joulebook_units::{Joules, Milliwatts};
use serde_json::Value;

/// Highest power that is believed of one node. The largest that are built draw 15 kW.
pub const NODE_CEILING: Milliwatts = Milliwatts(30_000_000);
/// The same of an enclosure or a rack.
pub const ENCLOSURE_CEILING: Milliwatts = Milliwatts(1_000_000_000);
/// What sixteen bits show for "not known", in watts.
const NOT_KNOWN: f64 = 65_535.0;

/// Why a document gives no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// Absent or `null`.
    Missing,
    /// Not a number.
    Type,
    /// A number that is no power of a running node.
    Implausible,
    /// Older than the resource says is good.
    Stale,
}

impl Skip {
    /// The word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Type => "type",
            Self::Implausible => "implausible",
            Self::Stale => "stale",
        }
    }
}

/// A cumulative energy as the resource shows it, in its own unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Energy {
    /// In kWh: steps of 1 Wh and more, good for days, not for seconds.
    KilowattHours(Joules),
    /// In joules.
    Joules(Joules),
}

impl Energy {
    /// The energy.
    pub fn joules(self) -> Joules {
        match self {
            Self::KilowattHours(energy) | Self::Joules(energy) => energy,
        }
    }

    /// The same in whole µJ; none above 2⁶³ of them (292 years at 1 kW).
    pub fn microjoules(self) -> Option<u64> {
        const LARGEST: f64 = 9.2e12;
        let joules = self.joules().0;
        if !(0.0..LARGEST).contains(&joules) {
            return None;
        }
        // In range by the test above.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked above")]
        return Some((joules * 1e6).round() as u64);
    }
}

/// A member that must be a number. Text is none, whatever it says: that is another schema's.
fn number(value: Option<&Value>) -> Result<f64, Skip> {
    match value {
        None | Some(Value::Null) => Err(Skip::Missing),
        Some(Value::Number(number)) => number.as_f64().ok_or(Skip::Type),
        Some(_) => Err(Skip::Type),
    }
}

/// A power in watts that a running node, or a part of it, can draw.
pub fn watts(value: Option<&Value>, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    plausible(number(value)?, ceiling)
}

/// The same where the schema has a text, as metric reports do.
pub fn text_watts(value: Option<&Value>, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    let Some(Value::String(text)) = value else { return watts(value, ceiling) };
    plausible(text.trim().parse().map_err(|_| Skip::Type)?, ceiling)
}

fn plausible(watts: f64, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    let power = Milliwatts::from_watts(watts).map_err(|_| Skip::Implausible)?;
    // A node that is read is on: 0 W is a sensor that was not ready.
    let possible = power.0 > 0 && power <= ceiling && (watts - NOT_KNOWN).abs() > 0.5;
    possible.then_some(power).ok_or(Skip::Implausible)
}

/// A cumulative energy in kWh.
pub fn kilowatt_hours(value: Option<&Value>) -> Option<Energy> {
    positive(value).map(|kwh| Energy::KilowattHours(Joules::from_kwh(kwh)))
}

/// A cumulative energy in J.
pub fn joules(value: Option<&Value>) -> Option<Energy> {
    positive(value).map(|joules| Energy::Joules(Joules(joules)))
}

fn positive(value: Option<&Value>) -> Option<f64> {
    number(value).ok().filter(|number| number.is_finite() && *number > 0.0)
}

/// A time span in minutes, as `IntervalInMin` has it: whole or not.
pub fn minutes(value: Option<&Value>) -> Option<std::time::Duration> {
    let minutes = positive(value)?;
    std::time::Duration::try_from_secs_f64(minutes * 60.0).ok()
}

/// Whether a time is that of a clock which was never set.
pub fn is_unset(time: &str) -> bool {
    time.starts_with("1970-") || time.starts_with("0000-")
}

/// Text of a member.
pub fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// The resource that a link names.
pub fn link<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    text(value.get(key)?, "@odata.id")
}

/// The resources that a list of links names; none where it is `null` or not there.
pub fn links<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    let list = value.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|entry| text(entry, "@odata.id")).collect()
}

/// Whether the resource says that it is not there.
pub fn is_absent(value: &Value) -> bool {
    let state = value.get("Status").and_then(|status| text(status, "State"));
    matches!(state, Some("Absent" | "Disabled"))
}

/// A link without fragment and closing slash: two of them name one resource if these are equal.
pub fn canonical(uri: &str) -> &str {
    let uri = uri.split_once('#').map_or(uri, |(path, _)| path);
    uri.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_number_that_a_node_can_draw_is_a_power() {
        let read = |value: Value| watts(Some(&value), NODE_CEILING);
        assert_eq!(read(json!(372)), Ok(Milliwatts(372_000)));
        assert_eq!(read(json!(428.5)), Ok(Milliwatts(428_500)));
        for refused in [json!(-1), json!(65_535), json!(1e308), json!(0), json!(0.0)] {
            assert_eq!(read(refused.clone()), Err(Skip::Implausible), "{refused}");
        }
        for refused in [json!("372"), json!(true), json!([372]), json!({"Reading": 372})] {
            assert_eq!(read(refused.clone()), Err(Skip::Type), "{refused}");
        }
        assert_eq!((read(Value::Null), watts(None, NODE_CEILING)), (Err(Skip::Missing), Err(Skip::Missing)));
    }

    #[test]
    fn a_report_s_text_is_a_number_and_nan_is_none() {
        let read = |text: &str| text_watts(Some(&json!(text)), NODE_CEILING);
        assert_eq!(read("68.500000"), Ok(Milliwatts(68_500)));
        assert_eq!((read("nan"), read("inf")), (Err(Skip::Implausible), Err(Skip::Implausible)));
        assert_eq!(read("n/a"), Err(Skip::Type));
    }

    #[test]
    fn links_are_compared_without_slash_and_fragment() {
        assert_eq!(canonical("/redfish/v1/Chassis/1/Power/"), canonical("/redfish/v1/Chassis/1/Power#/PowerControl/0"));
    }
}
