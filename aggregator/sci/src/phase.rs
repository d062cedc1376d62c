//! What reading a prompt token and generating a token take (inference.md 6).
//!
//! Where the engine measures the time of both, the energy of each slot is split by it, exactly. Where it does not, joules
//! per token of both are fitted to the slots: energy = a × prompt tokens read anew + b × tokens generated, by least squares
//! through the origin, since idle power is no part of the energy. The interval is that of the fit; a fit that cannot tell
//! the two apart says so instead of giving a number.

use crate::allocate::VersionCost;
use crate::operational::CompensatedSum;
use crate::share::{largest_remainder, portion};
use joulebook_units::{CountKind, Microjoules};

/// Fewest slots of a fit.
const LEAST_SLOTS: u64 = 8;
/// With less of its variance left, a kind of tokens cannot be told from the other: their numbers rise and fall together.
const LEAST_INDEPENDENT: f64 = 0.01;

/// Joules per token with the 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerToken {
    /// The value.
    pub joules: f64,
    /// Lower end; at least 0. The value itself where it is measured.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How the two were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseMethod {
    /// By the time that the engine measured for both.
    Measured,
    /// Fitted to the slots.
    Fitted,
}

/// Joules per token of both phases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhaseCosts {
    /// Per prompt token that was read anew.
    pub prefill: PerToken,
    /// Per generated token.
    pub decode: PerToken,
    /// How.
    pub method: PhaseMethod,
    /// Slots that they stand on.
    pub slots: u64,
}

/// Why there is no figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPhases {
    /// The engine does not tell tokens.
    NoTokens,
    /// Fewer slots with work than a fit needs.
    FewSlots,
    /// Prompt and generated tokens rise and fall together.
    NotIndependent,
    /// The best fit has a negative cost: energy follows something else.
    Negative,
}

impl core::fmt::Display for NoPhases {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoTokens => "the engine does not tell prompt and generated tokens",
            Self::FewSlots => "fewer than 8 slots with work: ask for a longer window",
            Self::NotIndependent => "prompt and generated tokens rise and fall together, so they cannot be told apart",
            Self::Negative => "energy does not follow the tokens: the best fit has a negative cost",
        })
    }
}

/// What the slots of a version add up to. Nothing but sums is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phases {
    slots: u64,
    /// Σ of squares and products of prompt tokens p, generated tokens d and joules e.
    pp: CompensatedSum,
    pd: CompensatedSum,
    dd: CompensatedSum,
    pe: CompensatedSum,
    de: CompensatedSum,
    ee: CompensatedSum,
    timed_slots: u64,
    prefill_microjoules: u64,
    decode_microjoules: u64,
    prefill_tokens: u64,
    decode_tokens: u64,
}

impl Phases {
    /// Takes a slot in, if some tokens are known in it: with the part of its energy in the time in which they are.
    #[allow(clippy::cast_precision_loss, reason = "least squares are floating point")]
    pub fn add(&mut self, cost: &VersionCost) {
        let count = |kind: CountKind| cost.used.counts.get(&kind).copied();
        let (Some(input), Some(decode)) = (count(CountKind::InputTokens), count(CountKind::OutputTokens)) else {
            return;
        };
        let prefill = input.saturating_sub(count(CountKind::CachedTokens).unwrap_or(0));
        if prefill + decode == 0 || cost.direct == 0 {
            return;
        }
        let energy = portion(cost.active(), cost.used.joint_microjoules, cost.direct);
        let (p, d, e) = (prefill as f64, decode as f64, Microjoules(energy).to_joules().0);
        self.slots += 1;
        self.pp.add(p * p);
        self.pd.add(p * d);
        self.dd.add(d * d);
        self.pe.add(p * e);
        self.de.add(d * e);
        self.ee.add(e * e);
        let (Some(reading), Some(generating)) = (count(CountKind::PrefillNanos), count(CountKind::DecodeNanos)) else {
            return;
        };
        let Some(parts) = largest_remainder(energy, &[u128::from(reading), u128::from(generating)]) else {
            return;
        };
        let [reading, generating] = *parts.as_slice() else { return };
        self.timed_slots += 1;
        self.prefill_microjoules = self.prefill_microjoules.saturating_add(reading);
        self.decode_microjoules = self.decode_microjoules.saturating_add(generating);
        self.prefill_tokens = self.prefill_tokens.saturating_add(prefill);
        self.decode_tokens = self.decode_tokens.saturating_add(decode);
    }

    /// Adds the slots of `other`.
    pub fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.pp, other.pp),
            (&mut self.pd, other.pd),
            (&mut self.dd, other.dd),
            (&mut self.pe, other.pe),
            (&mut self.de, other.de),
            (&mut self.ee, other.ee),
        ];
        sums.into_iter().for_each(|(mine, other)| mine.merge(other));
        let counts = [
            (&mut self.slots, other.slots),
            (&mut self.timed_slots, other.timed_slots),
            (&mut self.prefill_microjoules, other.prefill_microjoules),
            (&mut self.decode_microjoules, other.decode_microjoules),
            (&mut self.prefill_tokens, other.prefill_tokens),
            (&mut self.decode_tokens, other.decode_tokens),
        ];
        counts.into_iter().for_each(|(mine, other)| *mine = mine.saturating_add(other));
    }

    /// Joules per token of both phases.
    ///
    /// # Errors
    /// See [`NoPhases`].
    pub fn costs(&self) -> Result<PhaseCosts, NoPhases> {
        if self.slots == 0 {
            return Err(NoPhases::NoTokens);
        }
        if self.timed_slots == self.slots && self.prefill_tokens > 0 && self.decode_tokens > 0 {
            return Ok(self.measured());
        }
        self.fitted()
    }

    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    fn measured(&self) -> PhaseCosts {
        let exact = |microjoules: u64, tokens: u64| {
            let joules = Microjoules(microjoules).to_joules().0 / tokens as f64;
            PerToken { joules, low: joules, high: joules }
        };
        PhaseCosts {
            prefill: exact(self.prefill_microjoules, self.prefill_tokens),
            decode: exact(self.decode_microjoules, self.decode_tokens),
            method: PhaseMethod::Measured,
            slots: self.timed_slots,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "least squares are floating point")]
    fn fitted(&self) -> Result<PhaseCosts, NoPhases> {
        if self.slots < LEAST_SLOTS {
            return Err(NoPhases::FewSlots);
        }
        let [pp, pd, dd] = [self.pp, self.pd, self.dd].map(CompensatedSum::get);
        let [pe, de, ee] = [self.pe, self.de, self.ee].map(CompensatedSum::get);
        let determinant = pp * dd - pd * pd;
        if determinant <= LEAST_INDEPENDENT * pp * dd {
            return Err(NoPhases::NotIndependent);
        }
        let prefill = (pe * dd - de * pd) / determinant;
        let decode = (de * pp - pe * pd) / determinant;
        if prefill < 0.0 || decode < 0.0 {
            return Err(NoPhases::Negative);
        }
        let freedom = self.slots as f64 - 2.0;
        let squares = (ee - prefill * pe - decode * de).max(0.0);
        let variance = squares / freedom;
        let width = student(freedom);
        let around = |joules: f64, own: f64| {
            let half = width * libm::sqrt(variance * own / determinant);
            PerToken { joules, low: (joules - half).max(0.0), high: joules + half }
        };
        Ok(PhaseCosts {
            prefill: around(prefill, dd),
            decode: around(decode, pp),
            method: PhaseMethod::Fitted,
            slots: self.slots,
        })
    }
}

/// The two-sided 95 % quantile of Student's distribution: Cornish and Fisher's expansion, within 0.1 % from 6 degrees on.
fn student(freedom: f64) -> f64 {
    const Z: f64 = 1.959_963_985;
    let first = libm::pow(Z, 3.0) + Z;
    let second = 5.0 * libm::pow(Z, 5.0) + 16.0 * libm::pow(Z, 3.0) + 3.0 * Z;
    let third = 3.0 * libm::pow(Z, 7.0) + 19.0 * libm::pow(Z, 5.0) + 17.0 * libm::pow(Z, 3.0) - 15.0 * Z;
    Z + first / (4.0 * freedom) + second / (96.0 * freedom * freedom) + third / (384.0 * freedom * freedom * freedom)
}

#[cfg(test)]
mod tests;
