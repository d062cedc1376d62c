//! The score: carbon per functional unit. Ratio of sums, never a mean of ratios.

use crate::cell::ServiceUse;
use crate::operational::{CompensatedSum, facility, operational};
use alloc::vec::Vec;
use joulebook_units::{CountKind, GramsCo2e, GramsCo2ePerKwh, Joules, Pue};

/// Functional unit R (methodology A.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionalUnit {
    /// Successful request.
    Request,
    /// Prompt token, cached ones included.
    InputToken,
    /// Generated token.
    OutputToken,
    /// Prompt and generated token.
    TotalToken,
    /// Model evaluation.
    Item,
    /// Second of inference.
    InferenceSecond,
    /// Image.
    Image,
    /// Second of sound.
    AudioSecond,
    /// Run of a workflow.
    Workflow,
    /// Second of an accelerator that is held, busy or not.
    GpuSecond,
    /// Turn of a user.
    Prompt,
}

impl FunctionalUnit {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::InputToken => "input_token",
            Self::OutputToken => "output_token",
            Self::TotalToken => "total_token",
            Self::Item => "item",
            Self::InferenceSecond => "inference_second",
            Self::Image => "image",
            Self::AudioSecond => "audio_second",
            Self::Workflow => "workflow",
            Self::GpuSecond => "gpu_second",
            Self::Prompt => "prompt",
        }
    }

    /// How it is made of what is counted.
    pub fn conversion(self) -> &'static str {
        match self {
            Self::TotalToken => "input_token + output_token",
            Self::InferenceSecond => "busy time in nanoseconds / 1e9",
            Self::AudioSecond => "sound in nanoseconds / 1e9",
            Self::GpuSecond => "held accelerator-nanoseconds / 1e9, over the time in which counts are known",
            _ => "as counted",
        }
    }

    /// How many of them a service delivered; `None` if the engine does not tell, or if no accelerator is held.
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn count(self, used: &ServiceUse) -> Option<f64> {
        let get = |kind| used.counts.get(&kind).copied();
        match self {
            Self::Request => get(CountKind::RequestsOk).map(|n| n as f64),
            Self::InputToken => get(CountKind::InputTokens).map(|n| n as f64),
            Self::OutputToken => get(CountKind::OutputTokens).map(|n| n as f64),
            Self::TotalToken => {
                let (input, output) = (get(CountKind::InputTokens)?, get(CountKind::OutputTokens)?);
                Some(input.saturating_add(output) as f64)
            }
            Self::Item => get(CountKind::Items).map(|n| n as f64),
            Self::InferenceSecond => get(CountKind::BusyNanos).map(|n| n as f64 / 1e9),
            Self::Image => get(CountKind::Images).map(|n| n as f64),
            Self::AudioSecond => get(CountKind::AudioNanos).map(|n| n as f64 / 1e9),
            Self::Workflow => get(CountKind::Workflows).map(|n| n as f64),
            // The carbon is that of the time in which counts are known: so is what was held.
            Self::GpuSecond if used.reserved_device_nanos > 0 && used.resident_nanos > 0 && used.counted_nanos > 0 => {
                let counted = (used.counted_nanos as f64 / used.resident_nanos as f64).min(1.0);
                Some(used.reserved_device_nanos as f64 / 1e9 * counted)
            }
            // A turn may take several requests (tools, retries), and a request may be nobody's turn: neither is told.
            Self::GpuSecond | Self::Prompt => None,
        }
    }
}

/// Why there is no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoScore {
    /// The engine does not tell this unit.
    #[error("the engine does not tell its number of units ({0})")]
    UnitUnknown(&'static str),
    /// No accelerator is held, or nothing tells when it worked.
    #[error("it holds no accelerator in a time in which its counts are known, so that there is no {0}")]
    NoDevice(&'static str),
    /// Nothing that is counted tells turns from requests.
    #[error("no server tells the turns of users apart from requests ({0}): ask per request")]
    NoTurns(&'static str),
    /// Nothing was delivered: the carbon stands in the ledger as overhead without output.
    #[error("no unit ({0}) was delivered; the carbon is overhead without output")]
    NoOutput(&'static str),
    /// It was delivered, and the processes that did it were not seen: what that took is not known, which is not nothing.
    #[error(
        "units ({0}) were delivered, and nothing of the energy behind them is known: no process of its servers was seen"
    )]
    Unmeasured(&'static str),
}

/// Carbon per functional unit in grams. R = 0 has no score: the carbon stands, the ratio does not exist. `carbon` is absent
/// where nothing of the energy behind it is known.
pub fn score(carbon: Option<GramsCo2e>, unit: FunctionalUnit, units: Option<f64>) -> Result<f64, NoScore> {
    match units {
        None if unit == FunctionalUnit::GpuSecond => Err(NoScore::NoDevice(unit.name())),
        None if unit == FunctionalUnit::Prompt => Err(NoScore::NoTurns(unit.name())),
        None => Err(NoScore::UnitUnknown(unit.name())),
        Some(units) if units > 0.0 => carbon.map(|carbon| carbon.0 / units).ok_or(NoScore::Unmeasured(unit.name())),
        Some(_) => Err(NoScore::NoOutput(unit.name())),
    }
}

/// Energy and embodied carbon of one component of a system.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Part {
    /// Energy: of the machine where a PUE is given, else of the facility.
    pub energy: Joules,
    /// Embodied carbon.
    pub embodied: GramsCo2e,
}

/// Carbon of a system and of each component, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// Operational carbon of all.
    pub operational: GramsCo2e,
    /// Operational and embodied carbon of all.
    pub carbon: GramsCo2e,
    /// Operational and embodied carbon of each.
    pub parts: Vec<GramsCo2e>,
}

impl System {
    /// Adds up components at one place. Without a PUE the energies are the facility's already.
    pub fn new(parts: &[Part], pue: Option<Pue>, intensity: GramsCo2ePerKwh) -> Self {
        let (mut operating, mut whole) = (CompensatedSum::default(), CompensatedSum::default());
        let grams = parts.iter().map(|part| {
            let energy = pue.map_or(part.energy, |pue| facility(part.energy, pue));
            let grams = operational(energy, intensity);
            operating.add(grams.0);
            whole.add(grams.0);
            whole.add(part.embodied.0);
            grams + part.embodied
        });
        let parts = grams.collect();
        Self { operational: GramsCo2e(operating.get()), carbon: GramsCo2e(whole.get()), parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_output_is_no_score_and_unknown_output_is_another_reason() {
        assert!(
            matches!(score(Some(GramsCo2e(4.0)), FunctionalUnit::Request, Some(2.0)), Ok(v) if (v - 2.0).abs() < 1e-12)
        );
        assert_eq!(score(Some(GramsCo2e(4.0)), FunctionalUnit::Request, Some(0.0)), Err(NoScore::NoOutput("request")));
        assert_eq!(score(Some(GramsCo2e(4.0)), FunctionalUnit::Request, None), Err(NoScore::UnitUnknown("request")));
        assert_eq!(
            score(None, FunctionalUnit::Request, Some(2.0)),
            Err(NoScore::Unmeasured("request")),
            "absent is not 0"
        );
        assert_eq!(score(None, FunctionalUnit::Request, Some(0.0)), Err(NoScore::NoOutput("request")));
    }

    #[test]
    fn total_tokens_are_unknown_when_either_half_is() {
        let mut used = ServiceUse::default();
        used.counts.insert(CountKind::InputTokens, 5);
        assert_eq!(FunctionalUnit::TotalToken.count(&used), None);
        used.counts.insert(CountKind::OutputTokens, 7);
        assert!(FunctionalUnit::TotalToken.count(&used).is_some_and(|n| (n - 12.0).abs() < 1e-12));
    }

    #[test]
    fn seconds_of_accelerators_are_those_held_while_counts_are_known() {
        let held = |counted_nanos: u64| ServiceUse {
            resident_nanos: 40_000_000_000,
            counted_nanos,
            reserved_device_nanos: 20_000_000_000,
            ..ServiceUse::default()
        };
        let count = |used: &ServiceUse| FunctionalUnit::GpuSecond.count(used);
        assert!(count(&held(40_000_000_000)).is_some_and(|n| (n - 20.0).abs() < 1e-12), "half a device for 40 s");
        assert!(count(&held(10_000_000_000)).is_some_and(|n| (n - 5.0).abs() < 1e-12));
        assert_eq!(count(&held(0)), None, "no carbon is joint with it");
        let cpu_only = ServiceUse { reserved_device_nanos: 0, ..held(40_000_000_000) };
        assert_eq!(count(&cpu_only), None);
        let none = score(Some(GramsCo2e(1.0)), FunctionalUnit::GpuSecond, None);
        assert_eq!(none, Err(NoScore::NoDevice("gpu_second")));
    }

    #[test]
    fn requests_are_not_taken_for_turns_of_users() {
        let mut used = ServiceUse::default();
        used.counts.insert(CountKind::RequestsOk, 5);
        let turns = FunctionalUnit::Prompt.count(&used);
        assert_eq!(turns, None);
        assert_eq!(score(Some(GramsCo2e(1.0)), FunctionalUnit::Prompt, turns), Err(NoScore::NoTurns("prompt")));
    }

    #[test]
    fn components_add_up_to_their_system() {
        let part = |kwh, grams| Part { energy: Joules::from_kwh(kwh), embodied: GramsCo2e(grams) };
        let intensity = GramsCo2ePerKwh::new(250.0).expect("an intensity");
        let system = System::new(&[part(8.0, 150.0), part(2.0, 50.0)], Pue::new(1.2).ok(), intensity);
        assert!((system.operational.0 - 3000.0).abs() < 1e-9 && (system.carbon.0 - 3200.0).abs() < 1e-9);
        assert!((system.parts.iter().map(|grams| grams.0).sum::<f64>() - system.carbon.0).abs() < 1e-9);
    }
}
