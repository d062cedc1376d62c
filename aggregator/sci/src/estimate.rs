//! Models of energy and carbon where nothing is measured (methodology C). Every figure of them is labelled with its method.

pub mod figure;
pub mod tool;

use crate::operational::{facility, operational};
use joulebook_units::{DRAM_TENTH_MILLIWATTS_PER_GIGABYTE, GramsCo2e, GramsCo2ePerKwh, Joules, Pue};

/// Power as a part of thermal design power by utilisation (Teads' curve: Davy 2021, as Impact Framework uses it).
const TEADS_CURVE: [(f64, f64); 4] = [(0.0, 0.12), (0.1, 0.32), (0.5, 0.75), (1.0, 1.02)];

/// Energy of `watts` over `seconds`.
fn over(watts: f64, seconds: f64) -> Joules {
    Joules(watts * seconds)
}

/// Energy of a part that draws `factor` of its thermal design power in watts.
pub fn tdp(tdp_watts: f64, factor: f64, seconds: f64) -> Joules {
    over(tdp_watts * factor, seconds)
}

/// The part of a machine's energy that a share of it is charged with.
pub fn part(energy: Joules, share: f64) -> Joules {
    Joules(energy.0 * share)
}

/// Power in watts between rest and full load by utilisation, 0 … 1.
pub fn linear(min_watts: f64, max_watts: f64, utilisation: f64) -> f64 {
    min_watts + utilisation * (max_watts - min_watts)
}

/// Part of thermal design power at a utilisation of 0 … 1; `None` outside.
pub fn tdp_factor(utilisation: f64) -> Option<f64> {
    let piece = TEADS_CURVE.windows(2).find_map(|pair| match pair {
        [(low, at_low), (high, at_high)] if (*low..=*high).contains(&utilisation) => {
            Some(at_low + (utilisation - low) / (high - low) * (at_high - at_low))
        }
        _ => None,
    });
    piece.filter(|factor| factor.is_finite())
}

/// Cores or GPUs and memory that run for some time (Green Algorithms, Lannelongue et al. 2021).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Cores or GPUs.
    pub units: f64,
    /// Power of each in watts.
    pub unit_watts: f64,
    /// Their utilisation, 0 … 1.
    pub utilisation: f64,
    /// Memory in 10⁹ bytes.
    pub memory_gigabytes: f64,
    /// Power of memory in watts per 10⁹ bytes; absent: 0.3725.
    pub memory_watts_per_gigabyte: Option<f64>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Job {
    /// Energy of the machines.
    pub fn machines(&self) -> Joules {
        let default = || f64::from(DRAM_TENTH_MILLIWATTS_PER_GIGABYTE) / 1e4;
        let memory = self.memory_gigabytes * self.memory_watts_per_gigabyte.unwrap_or_else(default);
        over(self.units * self.unit_watts * self.utilisation + memory, self.seconds)
    }

    /// Facility energy.
    pub fn energy(&self, pue: Pue) -> Joules {
        facility(self.machines(), pue)
    }

    /// Carbon of one run with its research and its retrainings, each as parts of a run.
    pub fn carbon(&self, pue: Pue, intensity: GramsCo2ePerKwh, extra: Extra) -> GramsCo2e {
        let grams = operational(self.energy(pue), intensity);
        GramsCo2e(grams.0 * (1.0 + extra.research + extra.retraining * extra.retrainings))
    }
}

/// Work around a run, in parts of the run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extra {
    /// Research and development before it.
    pub research: f64,
    /// Each retraining after it.
    pub retraining: f64,
    /// How many there are.
    pub retrainings: f64,
}

/// A request to a language model of which only sizes are known (EcoLogits' regressions on the ML.ENERGY leaderboard).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LlmRequest {
    /// Active parameters in 10⁹.
    pub active_billions: f64,
    /// All parameters in 10⁹.
    pub total_billions: f64,
    /// Generated tokens.
    pub output_tokens: f64,
    /// Measured latency in seconds.
    pub latency_seconds: f64,
    /// Requests that run together, at least 1.
    pub batch: f64,
}

/// What EcoLogits assumes and fits.
mod ecologits {
    pub const MEMORY_OVERHEAD: f64 = 1.2;
    pub const BITS_PER_PARAMETER: f64 = 16.0;
    pub const BITS_PER_BYTE: f64 = 8.0;
    pub const GPU_GIGABYTES: f64 = 80.0;
    pub const GPUS_PER_SERVER: f64 = 8.0;
    pub const SERVER_WATTS: f64 = 1_200.0;
    pub const LATENCY_PER_ACTIVE: f64 = 0.000_678_508_809_435_366_3;
    pub const LATENCY_PER_BATCH: f64 = 0.000_311_931_031_168_825_9;
    pub const LATENCY: f64 = 0.019_473_717_579_473_387;
    pub const TOKEN_KWH_PER_ACTIVE: f64 = 1.166_527_317_045_191_4e-9;
    pub const TOKEN_BATCH_DECAY: f64 = -0.011_205_921_025_579_175;
    pub const TOKEN_KWH: f64 = 4.052_928_146_734_005e-8;
}

impl LlmRequest {
    /// GPUs that hold the model: a power of two.
    pub fn gpus(&self) -> f64 {
        let bytes = self.total_billions * ecologits::BITS_PER_PARAMETER / ecologits::BITS_PER_BYTE;
        let least = libm::ceil(ecologits::MEMORY_OVERHEAD * bytes / ecologits::GPU_GIGABYTES).max(1.0);
        let mut gpus = 1.0;
        while gpus < least {
            gpus *= 2.0;
        }
        gpus
    }

    /// Time to generate the answer in seconds: at most what was measured.
    pub fn latency(&self) -> f64 {
        let per_token = ecologits::LATENCY_PER_ACTIVE * self.active_billions
            + ecologits::LATENCY_PER_BATCH * self.batch
            + ecologits::LATENCY;
        self.latency_seconds.min(self.output_tokens * per_token)
    }

    /// Energy of the machines.
    pub fn machines(&self) -> Joules {
        let server =
            over(ecologits::SERVER_WATTS, self.latency()).0 * self.gpus() / ecologits::GPUS_PER_SERVER / self.batch;
        let token_kwh = ecologits::TOKEN_KWH_PER_ACTIVE
            * libm::exp(ecologits::TOKEN_BATCH_DECAY * self.batch)
            * self.active_billions
            + ecologits::TOKEN_KWH;
        Joules(server) + Joules::from_kwh(self.gpus() * self.output_tokens * token_kwh)
    }

    /// Facility energy.
    pub fn energy(&self, pue: Pue) -> Joules {
        facility(self.machines(), pue)
    }

    /// Embodied carbon; `None` for a life that is not positive.
    pub fn embodied(&self, gpu: GramsCo2e, server: GramsCo2e, lifespan_seconds: f64) -> Option<GramsCo2e> {
        let devices = server.0 * self.gpus() / ecologits::GPUS_PER_SERVER + gpu.0 * self.gpus();
        (lifespan_seconds > 0.0 && self.batch > 0.0)
            .then(|| GramsCo2e(devices * self.latency() / (lifespan_seconds * self.batch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_meets_its_points_and_ends_at_its_ends() {
        for (utilisation, factor) in TEADS_CURVE {
            assert!((tdp_factor(utilisation).expect("on the curve") - factor).abs() < 1e-12);
        }
        assert!((tdp_factor(0.2).expect("on the curve") - 0.4275).abs() < 1e-12);
        assert!(tdp_factor(1.01).is_none() && tdp_factor(-0.01).is_none() && tdp_factor(f64::NAN).is_none());
    }

    #[test]
    fn a_model_takes_the_least_power_of_two_of_gpus_that_holds_it() {
        let gpus = |total_billions: f64| {
            let request = LlmRequest {
                active_billions: total_billions,
                total_billions,
                output_tokens: 1.0,
                latency_seconds: 1.0,
                batch: 1.0,
            };
            request.gpus()
        };
        for (billions, expected) in [(0.0, 1.0), (33.0, 1.0), (34.0, 2.0), (70.0, 4.0), (405.0, 16.0)] {
            assert!((gpus(billions) - expected).abs() < 1e-12, "{billions}");
        }
    }
}
