//! What is true of the fleet, worked out from the script alone: no cell, no ledger, no factor of the aggregator.

use super::grid::{intensity, pue};
use super::node::{DEVICE_IDLE_MILLIWATTS, DEVICE_MEMORY, HELD};
use super::script::{DAY_HOURS, MODELS, Minute, Model, NODES, SECONDS, Script};
use serde::Serialize;
use std::collections::BTreeMap;

const SECONDS_AN_HOUR: u64 = 3600;
/// Input of a node over what its parts draw, where no meter stands: 1 ÷ 0.94.
const EFFICIENCY_PERCENT: u64 = 94;
const JOULES_A_KWH: f64 = 3.6e6;
/// Embodied carbon of a host of [`super::grid::CONFIGURATION`] with 64 GiB and one disk, of its accelerator, in grams.
const HOST_G: f64 = (800.0 + 48.0 * 1.5 + 50.0) * 1e3;
const DEVICE_G: f64 = 160.0 * 1e3;
const LIFE_HOURS: f64 = 35_040.0;

/// What a version used and served, the idle capacity of its pool included, by the default policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Served {
    /// Requests that it finished.
    pub requests: u64,
    /// Tokens that it read.
    pub input_tokens: u64,
    /// Tokens that it wrote.
    pub output_tokens: u64,
    /// Operational grams of what is charged to it.
    pub operational_g: f64,
    /// Whether a part of its grams is a share of what two used: then it is known to a millionth.
    pub shared: bool,
}

/// The fleet's truth.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Truth {
    /// Energy at the input of each node in µJ.
    pub input_microjoules: BTreeMap<&'static str, u64>,
    /// By version.
    pub versions: BTreeMap<String, Served>,
    /// Operational grams of all nodes.
    pub operational_g: f64,
    /// Of them, those of the tuning: nobody's inference.
    pub tuning_g: f64,
    /// Energy of the tuning at the input in joules.
    pub tuning_j: f64,
    /// Embodied grams that each node accrued.
    pub embodied_g: BTreeMap<&'static str, f64>,
    /// Operational grams by hour of each site.
    #[serde(skip)]
    pub hours: BTreeMap<(&'static str, i64), f64>,
}

impl Truth {
    /// Of a script.
    pub fn of(script: &Script) -> Self {
        let mut truth = Self::default();
        let mut versions: BTreeMap<Model, Served> = BTreeMap::new();
        for hour in script.hours() {
            for (node, known) in NODES.iter().enumerate() {
                let minute = script.minute(node, hour);
                let microjoules = input(&minute);
                let rate = pue(known.site, hour) * intensity(known.site, hour) / JOULES_A_KWH;
                let grams = microjoules as f64 / 1e6 * rate;
                let tuning = grams * tuned_share(&minute);
                *truth.input_microjoules.entry(known.name).or_default() += microjoules;
                *truth.hours.entry((known.site, hour)).or_default() += grams;
                truth.operational_g += grams;
                truth.tuning_g += tuning;
                truth.tuning_j += microjoules as f64 / 1e6 * tuned_share(&minute);
                let served = versions.entry(charged(script, node, hour)).or_default();
                served.operational_g += grams - tuning;
                served.shared |= minute.tuned;
                if let Some(model) = minute.serves {
                    let served = versions.entry(model).or_default();
                    served.requests += 60 * minute.requests;
                    served.input_tokens += 60 * minute.input_tokens;
                    served.output_tokens += 60 * minute.output_tokens;
                }
            }
        }
        // By the wall clock from the first row on, whether a node is on or not.
        let hours = script.days * DAY_HOURS - script.hours().next().unwrap_or_default();
        for known in &NODES {
            let made = HOST_G + if known.accelerator { DEVICE_G } else { 0.0 };
            truth.embodied_g.insert(known.name, made * hours as f64 / LIFE_HOURS);
        }
        truth.versions = versions.into_iter().map(|(model, served)| (model.to_string(), served)).collect();
        truth
    }
}

/// Energy at the input of a node in an hour in µJ: that of a second is a whole number.
fn input(minute: &Minute) -> u64 {
    let components = minute.components() / SECONDS;
    (components * 100 + EFFICIENCY_PERCENT / 2) / EFFICIENCY_PERCENT * SECONDS_AN_HOUR
}

/// Who carries what a node draws: who is on it, else who is in its pool, else who holds an accelerator anywhere.
fn charged(script: &Script, node: usize, hour: i64) -> Model {
    let own = script.minute(node, hour).serves;
    let pool = (0..NODES.len()).filter(|other| NODES[*other].pool == NODES[node].pool);
    let anywhere = (0..NODES.len()).filter(|other| NODES[*other].accelerator);
    let found = own.or_else(|| pool.chain(anywhere).find_map(|other| script.minute(other, hour).serves));
    found.unwrap_or(MODELS[4])
}

/// Part of a node's energy that goes to what is tuned on it: half of processor and memory, half of what the accelerator
/// draws beyond its rest, and of its rest by the memory that it holds.
fn tuned_share(minute: &Minute) -> f64 {
    if !minute.tuned {
        return 0.0;
    }
    let rest = (DEVICE_IDLE_MILLIWATTS * 60 * 1000).min(minute.gpu) as f64;
    let held = HELD[1] as f64 / DEVICE_MEMORY as f64;
    let tuned = (minute.cpu + minute.dram) as f64 / 2.0 + rest * held + (minute.gpu as f64 - rest) / 2.0;
    tuned / minute.components() as f64
}
