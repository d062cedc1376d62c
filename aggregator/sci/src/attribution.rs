//! Who used the energy of one slot: dynamic energy by activity, base energy by reservation, memory by residence.
//!
//! Every function splits an integer exactly; what nobody can be named for is named so.

use crate::share::largest_remainder;
use alloc::vec::Vec;
use joulebook_units::{CountKind, Microjoules, Milliwatts, Share};

/// Base (idle power × time, at most everything) and dynamic energy (the rest) of a device over `nanos` nanoseconds.
pub fn base_and_dynamic(energy: Microjoules, idle: Milliwatts, nanos: u64) -> (Microjoules, Microjoules) {
    let base = energy.min(idle.over_nanos(nanos));
    (base, Microjoules(energy.0 - base.0))
}

/// What a split gave: a part for each asked, and what is left for nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Parts in the order asked.
    pub parts: Vec<u64>,
    /// The rest: Σ parts + rest = the energy.
    pub rest: u64,
}

/// What two splits among the same holders give each of them.
pub fn together(one: &Split, other: &Split) -> Vec<u64> {
    one.parts.iter().zip(&other.parts).map(|(one, other)| one.saturating_add(*other)).collect()
}

/// Splits dynamic energy by CPU time. With no CPU time at all nothing can be named: everything is rest.
pub fn by_activity(energy: u64, cpu_nanos: &[u64]) -> Split {
    let weights: Vec<u128> = cpu_nanos.iter().map(|nanos| u128::from(*nanos)).collect();
    largest_remainder(energy, &weights).map_or_else(
        || Split { parts: alloc::vec![0; cpu_nanos.len()], rest: energy },
        |parts| Split { parts, rest: 0 },
    )
}

/// Power above and at idle where no idle power is known: `usage` of it is active, the rest idle (Kepler's ratio).
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a power is at most that power"
)]
pub fn active_and_idle(power: Milliwatts, usage: Share) -> (Milliwatts, Milliwatts) {
    let active = Milliwatts(((power.0 as f64 * usage.get() + 0.5) as u64).min(power.0));
    (active, Milliwatts(power.0 - active.0))
}

/// A device that several workloads share, over one stretch of time.
#[derive(Debug, Clone)]
pub struct SharedDevice {
    /// Idle part of its energy.
    pub base: Microjoules,
    /// The rest.
    pub dynamic: Microjoules,
    /// Base energy by holder; its rest is that of what nobody holds.
    pub by_holding: Split,
    /// Dynamic energy by holder; its rest has nobody that it could be given to.
    pub by_use: Split,
}

impl SharedDevice {
    /// What each holder is charged with, in the order asked.
    pub fn parts(&self) -> Vec<u64> {
        together(&self.by_holding, &self.by_use)
    }

    /// Base energy of what nobody holds, and energy that nobody can be named for.
    pub fn unreserved(&self) -> u64 {
        self.by_holding.rest.saturating_add(self.by_use.rest)
    }
}

/// Shares a device (an accelerator) of `capacity` among its holders: base energy by what each holds (`held`, in the unit
/// of `capacity`: bytes, slices), dynamic energy by activity, or by what is held where nothing was active.
pub fn shared_device(
    energy: Microjoules,
    idle: Milliwatts,
    nanos: u64,
    held: &[u128],
    capacity: u128,
    activity: &[u64],
) -> SharedDevice {
    let (base, dynamic) = base_and_dynamic(energy, idle, nanos);
    let by_holding = by_reservation(base.0, held, capacity);
    let mut by_use = by_activity(dynamic.0, activity);
    if by_use.rest > 0 {
        by_use = by_reservation(dynamic.0, held, 0);
    }
    SharedDevice { base, dynamic, by_holding, by_use }
}

/// Splits energy of a capacity (base energy of cores, energy of memory) by what is held of it, and energy of a time
/// (dynamic energy of a CPU whose total is known) by what is used of it. `held` and `capacity` share a unit; what is not held
/// is the rest. Holders of more than there is share it all in proportion.
pub fn by_reservation(energy: u64, held: &[u128], capacity: u128) -> Split {
    let sum = held.iter().fold(0u128, |sum, part| sum.saturating_add(*part));
    let mut weights = held.to_vec();
    weights.push(capacity.saturating_sub(sum));
    largest_remainder(energy, &weights).map_or_else(
        || Split { parts: alloc::vec![0; held.len()], rest: energy },
        |mut parts| {
            let rest = parts.pop().unwrap_or(0);
            Split { parts, rest }
        },
    )
}

/// Activity of one service in a slot, for sharing a process group among several. Weights are comparable within one kind.
#[derive(Debug, Clone, Default)]
pub struct Activity {
    /// Weight by kind of count; a kind that is absent is not known.
    pub weights: alloc::collections::BTreeMap<CountKind, u128>,
}

/// How the parts of several services in what they use together were found. Bits add by OR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Measures(pub u8);

impl Measures {
    /// Processes that work for one version alone.
    pub const PROCESS: Self = Self(1);
    /// Busy time.
    pub const BUSY_TIME: Self = Self(1 << 1);
    /// Tokens that were read anew or generated.
    pub const TOKENS: Self = Self(1 << 2);
    /// Requests.
    pub const REQUESTS: Self = Self(1 << 3);
    /// Nothing tells them apart: equal parts.
    pub const EQUAL: Self = Self(1 << 4);
    /// What servers of its group did that count nothing themselves.
    pub const GROUP: Self = Self(1 << 5);
    /// What each of them holds of the server's memory: of what is held whether they work or not.
    pub const MEMORY: Self = Self(1 << 6);
    /// Not a way to share: another place counts the same requests, and counts told here were left out.
    pub const LEFT_OUT: Self = Self(1 << 7);

    const NAMES: [(Self, &'static str); 7] = [
        (Self::PROCESS, "process"),
        (Self::BUSY_TIME, "busy_time"),
        (Self::TOKENS, "tokens"),
        (Self::REQUESTS, "requests"),
        (Self::MEMORY, "memory"),
        (Self::EQUAL, "equal"),
        (Self::GROUP, "group"),
    ];

    /// Sets the bits of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether every bit of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Names in answers, best first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.0 & bit.0 != 0).map(|(_, name)| name)
    }
}

/// What a generated token weighs beside one of the prompt that was read anew, where energy is shared by tokens, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputWeight(pub u64);

impl Default for OutputWeight {
    fn default() -> Self {
        Self(1000)
    }
}

/// Shares of several services of one process group: by busy time, else tokens (uncached input + weighted output), else
/// requests, else in equal parts; the first measure that every service knows and that is not 0 for all. One service takes all.
pub fn among_services(energy: u64, services: &[Activity], output: OutputWeight) -> Vec<u64> {
    if services.len() == 1 {
        return alloc::vec![energy];
    }
    let (weights, _) = weights_among(services, output);
    largest_remainder(energy, &weights).unwrap_or_default()
}

/// Shares of several services in what their process group holds whether they work or not, and by what: models that are
/// loaded hold it by the memory that each one has in the server, where that is known of all of them, else in equal parts.
/// Where a version has processes of its own, what those hold is theirs alone.
pub fn among_residents(amount: u64, services: &[Activity]) -> (Vec<u64>, Measures) {
    if services.len() == 1 {
        return (alloc::vec![amount], Measures::EQUAL);
    }
    let held =
        |service: &Activity| service.weights.get(&CountKind::ResidentByteSeconds).copied().filter(|held| *held > 0);
    let (weights, measure) = match services.iter().map(held).collect::<Option<Vec<u128>>>() {
        Some(weights) => (weights, Measures::MEMORY),
        None => (alloc::vec![1; services.len()], Measures::EQUAL),
    };
    (largest_remainder(amount, &weights).unwrap_or_default(), measure)
}

/// What a service weighs by one measure; `None` if that is not known.
type Weight<'a> = &'a dyn Fn(&Activity) -> Option<u128>;

/// The weights of [`among_services`], and the measure that gives them.
pub fn weights_among(services: &[Activity], output: OutputWeight) -> (Vec<u128>, Measures) {
    let known = |kind: CountKind| move |service: &Activity| service.weights.get(&kind).copied();
    let tokens = |service: &Activity| {
        let input = service.weights.get(&CountKind::InputTokens)?;
        let cached = service.weights.get(&CountKind::CachedTokens).copied().unwrap_or(0);
        let generated = service.weights.get(&CountKind::OutputTokens)?.saturating_mul(u128::from(output.0));
        Some(input.saturating_sub(cached).saturating_mul(1000).saturating_add(generated))
    };
    let measures: [(Weight<'_>, Measures); 3] = [
        (&known(CountKind::BusyNanos), Measures::BUSY_TIME),
        (&tokens, Measures::TOKENS),
        (&known(CountKind::RequestsOk), Measures::REQUESTS),
    ];
    let by_measure = measures.into_iter().find_map(|(measure, name)| {
        let weights: Option<Vec<u128>> = services.iter().map(measure).collect();
        weights.filter(|weights| weights.iter().any(|weight| *weight > 0)).map(|weights| (weights, name))
    });
    by_measure.unwrap_or_else(|| (alloc::vec![1; services.len()], Measures::EQUAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_split_makes_or_loses_a_microjoule(
            energy in any::<u64>(),
            held in prop::collection::vec(0u128..1 << 50, 0..9),
            capacity in 0u128..1 << 50,
        ) {
            let split = by_reservation(energy, &held, capacity);
            prop_assert_eq!(split.parts.iter().map(|p| u128::from(*p)).sum::<u128>() + u128::from(split.rest), u128::from(energy));
            let nanos: Vec<u64> = held.iter().map(|part| u64::try_from(*part).unwrap_or(0)).collect();
            let split = by_activity(energy, &nanos);
            prop_assert_eq!(split.parts.iter().map(|p| u128::from(*p)).sum::<u128>() + u128::from(split.rest), u128::from(energy));
        }
    }

    #[test]
    fn base_is_idle_power_and_never_more_than_the_energy() {
        let (base, dynamic) = base_and_dynamic(Microjoules(5_000_000), Milliwatts(2_000), 1_000_000_000);
        assert_eq!((base.0, dynamic.0), (2_000_000, 3_000_000));
        let (base, dynamic) = base_and_dynamic(Microjoules(1_000_000), Milliwatts(2_000), 1_000_000_000);
        assert_eq!((base.0, dynamic.0), (1_000_000, 0));
    }

    #[test]
    fn half_a_core_of_two_holds_a_quarter_of_the_base() {
        let split = by_reservation(1_000, &[500], 2_000);
        assert_eq!(split, Split { parts: alloc::vec![250], rest: 750 });
    }

    #[test]
    fn a_shared_device_is_shared_to_the_last_microjoule_and_by_holding_where_nothing_is_active() {
        let share = |activity: &[u64]| {
            shared_device(Microjoules(1_000_001), Milliwatts(300), 1_000_000_000, &[4, 2], 7, activity)
        };
        for activity in [[3, 1], [0, 0]] {
            let device = share(&activity);
            assert_eq!(device.parts().iter().sum::<u64>() + device.unreserved(), 1_000_001);
            assert_eq!((device.base.0, device.dynamic.0), (300_000, 700_001));
            assert_eq!(device.unreserved(), 42_857);
        }
        assert_eq!(share(&[0, 0]).parts(), [171_429 + 466_667, 85_714 + 233_334]);
        let nobody = shared_device(Microjoules(5), Milliwatts(0), 1, &[], 7, &[]);
        assert_eq!((nobody.parts().len(), nobody.unreserved()), (0, 5));
    }

    #[test]
    fn active_and_idle_power_are_the_whole() {
        let (active, idle) = active_and_idle(Milliwatts(60_000), Share::new(1.0 / 3.0).expect("a share"));
        assert_eq!((active.0, idle.0), (20_000, 40_000));
    }

    #[test]
    fn a_generated_token_weighs_what_it_is_said_to() {
        let tokens = |input: u128, cached: u128, output: u128| Activity {
            weights: [
                (CountKind::InputTokens, input),
                (CountKind::CachedTokens, cached),
                (CountKind::OutputTokens, output),
            ]
            .into(),
        };
        let services = [tokens(500, 200, 0), tokens(0, 0, 100)];
        for (weight, parts) in [(1000, [300, 100]), (3000, [200, 200]), (500, [343, 57]), (0, [400, 0])] {
            assert_eq!(among_services(400, &services, OutputWeight(weight)), parts, "{weight}");
        }
    }

    #[test]
    fn loaded_models_hold_by_memory_where_it_is_known_of_all_of_them_else_equally() {
        let holds = |bytes: u128| Activity { weights: [(CountKind::ResidentByteSeconds, bytes)].into() };
        let (nothing, unknown) = (holds(0), Activity::default());
        assert_eq!(among_residents(100, &[holds(3 << 40), holds(1 << 40)]), (alloc::vec![75, 25], Measures::MEMORY));
        for other in [nothing, unknown.clone()] {
            assert_eq!(among_residents(101, &[holds(3), other]), (alloc::vec![51, 50], Measures::EQUAL));
        }
        assert!(among_residents(101, &[]).0.is_empty());
        assert_eq!(weights_among(&[holds(3), holds(1)], OutputWeight::default()).1, Measures::EQUAL, "it is no work");
    }

    #[test]
    fn services_of_one_process_share_by_the_best_measure_all_of_them_know() {
        let busy = |nanos: u128, tokens: u128| Activity {
            weights: [(CountKind::BusyNanos, nanos), (CountKind::InputTokens, 0), (CountKind::OutputTokens, tokens)]
                .into(),
        };
        let shared = |energy, services: &[Activity]| among_services(energy, services, OutputWeight::default());
        assert_eq!(shared(100, &[busy(3, 1), busy(1, 1)]), [75, 25]);
        assert_eq!(shared(100, &[busy(0, 1), busy(0, 1)]), [50, 50]);
        assert_eq!(shared(101, &[Activity::default(), Activity::default()]), [51, 50]);
        let measure = |services: &[Activity]| weights_among(services, OutputWeight::default()).1;
        let requests = |requests: u128| Activity { weights: [(CountKind::RequestsOk, requests)].into() };
        assert_eq!(measure(&[busy(3, 1), busy(1, 1)]), Measures::BUSY_TIME);
        assert_eq!(measure(&[busy(0, 1), busy(0, 1)]), Measures::TOKENS);
        assert_eq!(measure(&[requests(1), requests(2)]), Measures::REQUESTS);
        assert_eq!(measure(&[requests(0), requests(0)]), Measures::EQUAL);
        let mut both = Measures::PROCESS;
        both.insert(Measures::TOKENS);
        assert_eq!(both.names().collect::<Vec<_>>(), ["process", "tokens"]);
    }
}
