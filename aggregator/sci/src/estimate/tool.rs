//! Formulas of further tools that estimate: LLMCarbon, ML CO2 Impact, Eco2AI, and what CodeCarbon does where no sensor is.

use super::{over, tdp};
use joulebook_units::Joules;

/// Operations for each active parameter and token of inference (LLMCarbon: Faiz et al. 2023).
const OPERATIONS_PER_PARAMETER: f64 = 2.0;
const BILLION: f64 = 1e9;
const TERA: f64 = 1e12;
/// Watts for each 10⁹ bytes of memory in use (Eco2AI: Budennyy et al. 2022).
const USED_MEMORY_WATTS: f64 = 0.375;
/// Part of thermal design power where the load is not known (CodeCarbon 3).
const UNKNOWN_LOAD: f64 = 0.5;
/// Part of thermal design power at rest, the rest going by the cube of the load (CodeCarbon 3).
const RESTING: f64 = 0.1;
/// Watts of a memory module (CodeCarbon 3).
const MODULE_WATTS: f64 = 5.0;
/// Fewest modules of a machine (CodeCarbon 3).
const LEAST_MODULES: u32 = 2;
/// Modules up to which each takes this part of a module's watts: a machine's later ones take less (CodeCarbon 3).
const MODULE_PARTS: [(u32, f64); 4] = [(4, 1.0), (8, 0.9), (16, 0.8), (u32::MAX, 0.7)];
/// Memory in 10⁹ bytes up to which a machine has so many modules (CodeCarbon 3).
const SMALL_MACHINES: [(f64, u32); 4] = [(2.0, 1), (16.0, 2), (64.0, 4), (128.0, 8)];
/// Sizes of modules of larger machines in 10⁹ bytes, the largest first: at least eight of a size are there, and at most 32.
const MODULE_SIZES: [f64; 6] = [128.0, 64.0, 32.0, 16.0, 8.0, 4.0];
const LEAST_LARGE: f64 = 8.0;
const MOST_MODULES: f64 = 32.0;

/// Inference by its operations (LLMCarbon).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operations {
    /// Active parameters in 10⁹.
    pub active_billions: f64,
    /// Tokens.
    pub tokens: f64,
    /// Devices.
    pub devices: f64,
    /// Power of each with its part of the system, in watts.
    pub device_watts: f64,
    /// Peak of each in 10¹² operations a second.
    pub peak_teraflops: f64,
    /// Part of the peak that is reached, above 0.
    pub efficiency: f64,
}

impl Operations {
    /// Duration in seconds; `None` for devices that do nothing.
    pub fn seconds(&self) -> Option<f64> {
        let rate = self.devices * self.peak_teraflops * TERA * self.efficiency;
        (rate > 0.0).then(|| OPERATIONS_PER_PARAMETER * self.active_billions * BILLION * self.tokens / rate)
    }

    /// Energy of the devices; `None` as [`Self::seconds`].
    pub fn energy(&self) -> Option<Joules> {
        self.seconds().map(|seconds| over(self.devices * self.device_watts, seconds))
    }
}

/// Devices at their thermal design power (ML CO2 Impact: Lacoste et al. 2019).
pub fn ml_co2(devices: f64, tdp_watts: f64, seconds: f64) -> Joules {
    tdp(devices * tdp_watts, 1.0, seconds)
}

/// What Eco2AI and CodeCarbon take of a machine without sensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Processors.
    pub processors: f64,
    /// Thermal design power of each in watts.
    pub tdp_watts: f64,
    /// Their load, 0 … 1; absent where it is not known.
    pub load: Option<f64>,
    /// Memory in 10⁹ bytes: Eco2AI takes what is used, CodeCarbon what is there.
    pub memory_gigabytes: f64,
    /// Power of accelerators in watts, as they tell it.
    pub accelerator_watts: f64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Energy of the parts of a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// Processors.
    pub cpu: Joules,
    /// Memory.
    pub memory: Joules,
    /// Accelerators.
    pub accelerators: Joules,
}

impl Parts {
    /// All.
    pub fn total(&self) -> Joules {
        self.cpu + self.memory + self.accelerators
    }
}

impl Machine {
    /// By Eco2AI; a load that is not known is full.
    pub fn eco2ai(&self) -> Parts {
        Parts {
            cpu: tdp(self.processors * self.tdp_watts, self.load.unwrap_or(1.0), self.seconds),
            memory: over(USED_MEMORY_WATTS * self.memory_gigabytes, self.seconds),
            accelerators: over(self.accelerator_watts, self.seconds),
        }
    }

    /// By CodeCarbon's fallback.
    pub fn codecarbon(&self) -> Parts {
        let factor = self.load.map_or(UNKNOWN_LOAD, |load| RESTING + (1.0 - RESTING) * load * load * load);
        Parts {
            cpu: tdp(self.processors * self.tdp_watts, factor, self.seconds),
            memory: over(module_watts(modules(self.memory_gigabytes)), self.seconds),
            accelerators: over(self.accelerator_watts, self.seconds),
        }
    }
}

/// Memory modules that a machine is taken to have.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 32")]
fn modules(gigabytes: f64) -> u32 {
    if let Some((_, count)) = SMALL_MACHINES.into_iter().find(|(most, _)| gigabytes <= *most) {
        return count;
    }
    let size = MODULE_SIZES.into_iter().find(|size| *size <= gigabytes / LEAST_LARGE);
    size.map_or(LEAST_LARGE, |size| libm::ceil(gigabytes / size).min(MOST_MODULES)) as u32
}

/// Power of so many modules.
fn module_watts(count: u32) -> f64 {
    let mut before = 0;
    let watts = MODULE_PARTS.into_iter().map(|(up_to, part)| {
        let here = count.min(up_to).saturating_sub(before);
        before = before.max(count.min(up_to));
        f64::from(here) * part * MODULE_WATTS
    });
    let sum: f64 = watts.sum();
    sum.max(f64::from(LEAST_MODULES) * MODULE_WATTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_take_the_time_and_energy_of_the_devices_that_do_them() {
        let devices = |devices| Operations {
            active_billions: 70.0,
            tokens: 1e6,
            devices,
            device_watts: 700.0,
            peak_teraflops: 1000.0,
            efficiency: 0.35,
        };
        // 1.4e17 operations at 3.5e14 a second.
        assert!(devices(1.0).seconds().is_some_and(|seconds| (seconds - 400.0).abs() < 1e-9));
        for many in [1.0, 8.0] {
            assert!(devices(many).energy().is_some_and(|energy| (energy.0 - 280_000.0).abs() < 1e-6));
        }
        assert_eq!(Operations { efficiency: 0.0, ..devices(1.0) }.energy(), None);
    }

    #[test]
    fn memory_goes_by_modules_of_which_later_ones_take_less() {
        for (gigabytes, count) in
            [(2.0, 1), (8.0, 2), (16.0, 2), (32.0, 4), (64.0, 4), (128.0, 8), (256.0, 8), (1536.0, 12)]
        {
            assert_eq!(modules(gigabytes), count, "{gigabytes}");
        }
        assert_eq!(modules(1e5), 32);
        for (count, watts) in [(1, 10.0), (4, 20.0), (8, 38.0), (12, 54.0), (16, 70.0), (32, 126.0)] {
            assert!((module_watts(count) - watts).abs() < 1e-9, "{count}");
        }
    }

    #[test]
    fn an_unknown_load_is_full_for_one_tool_and_half_for_the_other() {
        let machine = Machine {
            processors: 2.0,
            tdp_watts: 100.0,
            load: None,
            memory_gigabytes: 64.0,
            accelerator_watts: 300.0,
            seconds: 10.0,
        };
        let joules = |parts: Parts| [parts.cpu.0, parts.memory.0, parts.accelerators.0];
        assert_eq!(joules(machine.eco2ai()), [2000.0, 240.0, 3000.0]);
        assert_eq!(joules(machine.codecarbon()), [1000.0, 200.0, 3000.0]);
        let half = Machine { load: Some(0.5), ..machine };
        assert!((half.codecarbon().cpu.0 - 2000.0 * 0.2125).abs() < 1e-9);
        assert!((half.eco2ai().total().0 - 4240.0).abs() < 1e-9);
        assert!((ml_co2(8.0, 400.0, 3600.0).0 - 11_520_000.0).abs() < 1e-6);
    }
}
