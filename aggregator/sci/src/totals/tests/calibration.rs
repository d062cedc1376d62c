//! Calibration: how often the truth lies in the 95 % interval of an answer, where errors are as they are declared to be.
//!
//! Errors are normal with σ = half-width ÷ 1.96, drawn from fixed seeds; what is measured is the truth times its errors.

use super::*;
use crate::allocate::{IdlePolicy, NodeSlot};
use crate::cell::{Account, EntryKey, Purpose, ServiceUse, SourceKey};
use crate::reconcile::estimate;
use alloc::string::ToString;
use joulebook_units::{Component, CountKind};

const TRIALS: u32 = 2_000;
/// Half-width of a 95 % interval over the standard deviation.
const HALF_WIDTHS: f64 = 1.96;
const SLOTS: usize = 4;
/// CPU and accelerator energy of a slot of each node in J, and the sensors' half-widths in thousandths.
const PARTS: [[f64; 2]; 3] = [[40_000.0, 150_000.0], [25_000.0, 90_000.0], [60_000.0, 0.0]];
const PERMILLE: [u32; 2] = [50, 100];
/// Intensity, its half-width, PUE, its half-width, by site.
const SITES: [(f64, f64, f64, f64); 2] = [(120.0, 0.10, 1.2, 0.02), (430.0, 0.30, 1.5, 0.08)];
const EMBODIED_G: f64 = 5.0;
const EMBODIED_HALF_WIDTH: f64 = 0.30;
/// Energy that a declared gap may hold at most in J: of it any part is true.
const GAP: f64 = 30_000.0;

/// Numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A relative error of a 95 % half-width (Box–Muller).
    fn error(&mut self, half_width: f64) -> f64 {
        let (radius, angle) = (self.uniform().max(1e-300), self.uniform());
        let normal = libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(core::f64::consts::TAU * angle);
        1.0 + normal * half_width / HALF_WIDTHS
    }
}

fn source(part: usize) -> SourceKey {
    let accelerator = part == 1;
    SourceKey {
        id: if accelerator { "nvml/0" } else { "rapl/package-0" }.to_string(),
        component: if accelerator { Component::Accelerator } else { Component::Cpu },
        method: Method::Counter,
        collector: if accelerator { "nvml" } else { "rapl" }.to_string(),
        uncertainty_permille: PERMILLE[part],
        contained: false,
        scope: None,
    }
}

/// A slot of a node as its sensors show it.
fn measured(node: usize, joules: [f64; 2], embodied_g: f64, gap_high: f64) -> NodeSlot {
    let mut cell = Cell { capacity_core_nanos: 100, ..Cell::default() };
    let service = service("1");
    let mut sum = 0;
    for (part, joules) in joules.into_iter().enumerate() {
        let microjoules = libm::round(joules.max(0.0) * 1e6) as u64;
        let key = source(part);
        let entry = EntryKey {
            account: Account::Service(Arc::clone(&service)),
            component: key.component,
            purpose: Purpose::Dynamic,
        };
        cell.add(entry, microjoules);
        let used = cell.sources.entry(key).or_default();
        used.microjoules = microjoules;
        used.gap_high_microjoules = if part == 0 { libm::round(gap_high * 1e6) as u64 } else { 0 };
        sum += microjoules;
    }
    let platform = EntryKey { account: Account::Platform, component: Component::Other, purpose: Purpose::Residual };
    cell.add(platform, crate::reconcile::psu_loss(sum, crate::reconcile::PSU_EFFICIENCY));
    cell.flags.insert(Flags::PSU_ESTIMATED);
    estimate(&mut cell, None);
    let used = ServiceUse {
        counts: [(CountKind::OutputTokens, 1000)].into(),
        reserved_core_nanos: 100,
        joint_microjoules: sum,
        ..ServiceUse::default()
    };
    cell.services.insert(service, used);
    NodeSlot {
        node: alloc::format!("n{node}"),
        pool: "p".to_string(),
        simulated: false,
        support: Vec::new(),
        cell,
        embodied_g,
    }
}

/// Whether the truth lies in the interval of an answer whose errors come from a seed.
fn covers(seed: u64, gaps: bool) -> bool {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    // A sensor's error is half its own and half that of its kind.
    let part = core::f64::consts::FRAC_1_SQRT_2;
    let kinds = PERMILLE.map(|permille| random.error(f64::from(permille) / 1e3 * part) - 1.0);
    let own: Vec<[f64; 2]> =
        PARTS.iter().map(|_| PERMILLE.map(|permille| random.error(f64::from(permille) / 1e3 * part) - 1.0)).collect();
    let psu = random.error(crate::uncertainty::PSU_EFFICIENCY);
    let sites: Vec<(f64, f64)> =
        SITES.iter().map(|(_, intensity, _, pue)| (random.error(*intensity), random.error(*pue))).collect();
    let (made, life) = (random.error(EMBODIED_HALF_WIDTH), random.error(LIFESPAN));

    let (mut totals, mut truth) = (Totals::new(Level::Facility, IdlePolicy::ReservedCapacityTime), 0.0);
    for _ in 0..SLOTS {
        let (mut nodes, mut factors) = (Vec::new(), Vec::new());
        for (node, joules) in PARTS.iter().enumerate() {
            let place = node % SITES.len();
            let (intensity, intensity_half_width, pue, pue_half_width) = SITES[place];
            let seen = [0, 1].map(|part| joules[part] * (1.0 + kinds[part] + own[node][part]));
            let gap = if gaps && node == 0 { GAP } else { 0.0 };
            nodes.push(measured(node, seen, EMBODIED_G * made * life, gap));
            let (intensity_error, pue_error) = sites[place];
            factors.push(SiteFactors {
                intensity: Rate::Known(GramsCo2ePerKwh::new(intensity * intensity_error).expect("far above 0")),
                intensity_origin: 0,
                intensity_half_width,
                intensity_source: alloc::format!("intensity:{place}"),
                pue: Pue::new(pue * pue_error).expect("far above 1"),
                pue_half_width,
                pue_source: alloc::format!("pue:{place}"),
                embodied_half_width: EMBODIED_HALF_WIDTH,
                embodied_source: "te".to_string(),
            });
            let hidden = gap * random.uniform();
            // The input that is assumed is the true one times the error of the efficiency.
            let input = (joules[0] + joules[1] + hidden) / 0.94 / psu;
            truth += input * pue * intensity / 3.6e6 + EMBODIED_G;
        }
        totals.add(&nodes, &factors);
    }
    let carbon = totals.versions.into_values().next().expect("one version").carbon;
    let (low, high) = carbon.deviations.interval(carbon.joint.get(), 0.0, carbon.gap_high.get());
    (low..=high).contains(&truth)
}

fn coverage(gaps: bool) -> f64 {
    let covered = (0..TRIALS).filter(|seed| covers(u64::from(*seed) + 1, gaps)).count();
    covered as f64 / f64::from(TRIALS)
}

#[test]
fn without_gaps_the_interval_holds_the_truth_95_times_in_100() {
    let coverage = coverage(false);
    assert!((0.93..=0.97).contains(&coverage), "{coverage}");
}

#[test]
fn with_gaps_whose_bounds_add_linearly_it_holds_the_truth_at_least_as_often() {
    let coverage = coverage(true);
    assert!(coverage >= 0.95, "{coverage}");
}
