//! Inputs of a formula, and the formula over them.

use super::Input;
use crate::arguments::{EstimateInputs, MethodName};
use crate::failure::Failure;
use clap::ValueEnum;
use jiff::Timestamp;
use joulebook_proto::query::SciAnswer;
use joulebook_sci::embodied::{DEFAULT_LIFESPAN_HOURS, accrued};
use joulebook_sci::estimate::figure::{
    AssumedPue, Figure, Modeled, NETWORK_KWH_PER_GIGABYTE, STORAGE_WH_PER_TERABYTE_HOUR, network, storage,
};
use joulebook_sci::estimate::tool::{Machine, Operations, Parts, ml_co2};
use joulebook_sci::estimate::{Job, LlmRequest, part, tdp, tdp_factor};
use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Pue};

/// Mean PUE of data centres (Uptime Institute Global Survey 2024).
const DEFAULT_PUE: f64 = 1.56;
/// Requests that run together in EcoLogits' own figures.
const DEFAULT_BATCH: f64 = 64.0;
const GRAMS_PER_KG: f64 = 1e3;
const NANOS_PER_SECOND: f64 = 1e9;
const SECONDS_PER_HOUR: f64 = 3600.0;
/// GPUs of the server whose embodied carbon is stated.
const SERVER_GPUS: f64 = 8.0;

/// Inputs as a formula takes them, each noted with where it comes from.
pub(super) struct Taken<'a> {
    given: &'a EstimateInputs,
    beside: Option<&'a SciAnswer>,
    /// What was taken, in its order.
    pub(super) inputs: Vec<Input>,
}

impl<'a> Taken<'a> {
    pub(super) fn new(given: &'a EstimateInputs, beside: Option<&'a SciAnswer>) -> Self {
        Self { given, beside, inputs: Vec::new() }
    }

    /// What is given, else what was measured, else a default; noted.
    fn optional(
        &mut self,
        name: &'static str,
        given: Option<f64>,
        measured: Option<f64>,
        default: Option<f64>,
    ) -> Option<f64> {
        let found = [(given, "given"), (measured, "measured"), (default, "default")];
        let (value, from) = found.into_iter().find_map(|(value, from)| Some((value?, from)))?;
        self.inputs.push(Input { name, value, from });
        Some(value)
    }

    fn needed(&mut self, name: &'static str, given: Option<f64>, measured: Option<f64>) -> Result<f64, Failure> {
        self.optional(name, given, measured, None)
            .ok_or_else(|| Failure::Usage(format!("this method needs --{name}; see `joulebook estimate --help`")))
    }

    fn or(&mut self, name: &'static str, given: Option<f64>, default: f64) -> f64 {
        self.optional(name, given, None, Some(default)).unwrap_or(default)
    }

    fn seconds(&mut self) -> Result<f64, Failure> {
        let window = self.beside.and_then(|answer| answer.window.as_ref());
        let measured = window.and_then(|window| {
            let (start, end): (Timestamp, Timestamp) = (window.start.parse().ok()?, window.end.parse().ok()?);
            Some(end.duration_since(start).as_secs_f64())
        });
        self.needed("duration", self.given.duration.map(|duration| duration.as_secs_f64()), measured)
    }

    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn tokens(&mut self, prompt_too: bool) -> Result<f64, Failure> {
        let counted = self.beside.and_then(|answer| answer.tokens.as_ref()).and_then(|tokens| {
            let read = if prompt_too { tokens.input? } else { 0 };
            Some(tokens.output?.saturating_add(read) as f64)
        });
        self.needed("tokens", self.given.tokens, counted)
    }

    fn pue(&mut self) -> Result<AssumedPue, Failure> {
        let measured = self.beside.and_then(|answer| answer.pue.as_ref()).and_then(|pue| pue.effective);
        let given = self.given.pue;
        let value = self.optional("pue", given, measured, Some(DEFAULT_PUE)).unwrap_or(DEFAULT_PUE);
        let value = Pue::new(value).map_err(|error| Failure::Usage(format!("--pue {value}: {error}")))?;
        Ok(AssumedPue { value, stated: given.or(measured).is_some() })
    }

    fn intensity(&mut self) -> Result<Option<GramsCo2ePerKwh>, Failure> {
        let known = self.beside.and_then(|answer| answer.intensity.as_ref());
        let measured = known.and_then(|intensity| intensity.effective_g_per_kwh);
        let value = self.optional("grams-per-kwh", self.given.grams_per_kwh, measured, None);
        let checked = value.map(|value| {
            GramsCo2ePerKwh::new(value).map_err(|error| Failure::Usage(format!("--grams-per-kwh {value}: {error}")))
        });
        checked.transpose()
    }

    /// Embodied kilograms of a GPU and of a server, and their life in hours, if both are stated. A GPU is stated whole or by
    /// the area of its chips.
    fn hardware(&mut self) -> Option<(f64, f64, f64)> {
        let given = self.given;
        let server = given.server_kg?;
        let gpu = match (given.gpu_kg, given.chip_cm2.zip(given.chip_kg_per_cm2)) {
            (Some(gpu), _) => self.or("gpu-kg", Some(gpu), gpu),
            (None, Some((area, each))) => {
                self.or("chip-cm2", Some(area), area) * self.or("chip-kg-per-cm2", Some(each), each)
            }
            (None, None) => return None,
        };
        self.inputs.push(Input { name: "server-kg", value: server, from: "given" });
        let life = self.or("lifespan-hours", self.given.lifespan_hours, DEFAULT_LIFESPAN_HOURS);
        Some((gpu, server, life))
    }

    /// Embodied carbon of GPUs that are held for some seconds.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration is above 0")]
    fn held(&mut self, gpus: f64, seconds: f64) -> Option<GramsCo2e> {
        let (gpu, server, life) = self.hardware()?;
        let total = GramsCo2e((gpu + server / SERVER_GPUS) * gpus * GRAMS_PER_KG);
        accrued(total, (seconds * NANOS_PER_SECOND) as u64, life)
    }
}

/// The name of a method, as its flag has it.
pub(super) fn name(method: MethodName) -> String {
    method.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The formula with names of inputs.
pub(super) fn text(method: MethodName) -> &'static str {
    match method {
        MethodName::EcoLogits => {
            "pue × (server power × latency × gpus ÷ 8 ÷ batch + gpus × tokens × energy of a token by active parameters)"
        }
        MethodName::GreenAlgorithms => "pue × duration × (units × unit-watts × utilisation + memory × 0.3725 W)",
        MethodName::LlmCarbon => "pue × unit-watts × 2 × active parameters × tokens ÷ (peak × efficiency)",
        MethodName::Teads => "pue × units × unit-watts × curve(utilisation) × duration × share",
        MethodName::Tdp => "pue × units × unit-watts × utilisation × duration × share",
        MethodName::MlCo2 => "units × unit-watts × duration",
        MethodName::Eco2Ai => {
            "pue × duration × (units × unit-watts × utilisation + memory × 0.375 W + accelerator-watts)"
        }
        MethodName::CodeCarbonFallback => {
            "pue × duration × (units × unit-watts × (0.1 + 0.9 × utilisation³, or 0.5) + modules × 5 W + accelerator-watts)"
        }
    }
}

/// The formula over its inputs, with networks and storage as components of their own.
pub(super) fn figure(method: MethodName, taken: &mut Taken<'_>) -> Result<Figure, Failure> {
    let given = taken.given;
    let machines = |energy: Joules| vec![Modeled { name: "machines", energy, at_site: true }];
    let (mut components, embodied) = match method {
        MethodName::EcoLogits => ecologits(taken)?,
        MethodName::LlmCarbon => llmcarbon(taken)?,
        MethodName::GreenAlgorithms => {
            let job = Job {
                units: taken.or("units", given.units, 1.0),
                unit_watts: taken.needed("unit-watts", given.unit_watts, None)?,
                utilisation: taken.or("utilisation", given.utilisation, 1.0),
                memory_gigabytes: taken.or("memory-gigabytes", given.memory_gigabytes, 0.0),
                memory_watts_per_gigabyte: None,
                seconds: taken.seconds()?,
            };
            (machines(job.machines()), taken.held(job.units, job.seconds))
        }
        MethodName::Teads | MethodName::Tdp => {
            let units = taken.or("units", given.units, 1.0);
            let watts = taken.needed("unit-watts", given.unit_watts, None)?;
            let used = taken.or("utilisation", given.utilisation, 1.0);
            let factor = if method == MethodName::Teads { tdp_factor(used) } else { Some(used) };
            let factor = factor.ok_or_else(|| Failure::Usage("--utilisation must be 0 to 1".to_owned()))?;
            let share = taken.or("share", given.share, 1.0);
            (machines(part(tdp(units * watts, factor, taken.seconds()?), share)), None)
        }
        MethodName::MlCo2 => {
            let units = taken.or("units", given.units, 1.0);
            let watts = taken.needed("unit-watts", given.unit_watts, None)?;
            let seconds = taken.seconds()?;
            (machines(ml_co2(units, watts, seconds)), taken.held(units, seconds))
        }
        MethodName::Eco2Ai | MethodName::CodeCarbonFallback => {
            let machine = Machine {
                processors: taken.or("units", given.units, 1.0),
                tdp_watts: taken.needed("unit-watts", given.unit_watts, None)?,
                load: taken.optional("utilisation", given.utilisation, None, None),
                memory_gigabytes: taken.or("memory-gigabytes", given.memory_gigabytes, 0.0),
                accelerator_watts: taken.or("accelerator-watts", given.accelerator_watts, 0.0),
                seconds: taken.seconds()?,
            };
            let parts = if method == MethodName::Eco2Ai { machine.eco2ai() } else { machine.codecarbon() };
            (by_part(parts), None)
        }
    };
    if let Some(gigabytes) = given.network_gigabytes {
        taken.inputs.push(Input { name: "network-gigabytes", value: gigabytes, from: "given" });
        let each = taken.or("network-kwh-per-gigabyte", given.network_kwh_per_gigabyte, NETWORK_KWH_PER_GIGABYTE);
        components.push(network(gigabytes, each));
    }
    if let Some(kept) = given.storage_terabyte_hours {
        taken.inputs.push(Input { name: "storage-terabyte-hours", value: kept, from: "given" });
        let each =
            taken.or("storage-wh-per-terabyte-hour", given.storage_wh_per_terabyte_hour, STORAGE_WH_PER_TERABYTE_HOUR);
        components.push(storage(kept, each));
    }
    // ML CO2 Impact has none: with one, the figure would not be that tool's.
    let pue = if method == MethodName::MlCo2 { None } else { Some(taken.pue()?) };
    let intensity = taken.intensity()?;
    let times = taken.or("times", given.times, 1.0);
    Ok(Figure::new(&components, pue, intensity, embodied).times(times))
}

fn by_part(parts: Parts) -> Vec<Modeled> {
    let named = [("cpu", parts.cpu), ("memory", parts.memory), ("accelerators", parts.accelerators)];
    named.map(|(name, energy)| Modeled { name, energy, at_site: true }).to_vec()
}

type Parted = (Vec<Modeled>, Option<GramsCo2e>);

fn ecologits(taken: &mut Taken<'_>) -> Result<Parted, Failure> {
    let given = taken.given;
    let active = taken.needed("active-billions", given.active_billions, None)?;
    let latency = taken.optional("latency", given.latency.map(|latency| latency.as_secs_f64()), None, None);
    let request = LlmRequest {
        active_billions: active,
        total_billions: taken.or("total-billions", given.total_billions, active),
        output_tokens: taken.tokens(false)?,
        latency_seconds: latency.unwrap_or(f64::INFINITY),
        batch: taken.or("batch", given.batch, DEFAULT_BATCH),
    };
    if request.batch < 1.0 {
        return Err(Failure::Usage("--batch must be at least 1".to_owned()));
    }
    let embodied = taken.hardware().and_then(|(gpu, server, life)| {
        let grams = |kg: f64| GramsCo2e(kg * GRAMS_PER_KG);
        request.embodied(grams(gpu), grams(server), life * SECONDS_PER_HOUR)
    });
    Ok((vec![Modeled { name: "machines", energy: request.machines(), at_site: true }], embodied))
}

fn llmcarbon(taken: &mut Taken<'_>) -> Result<Parted, Failure> {
    let given = taken.given;
    let operations = Operations {
        active_billions: taken.needed("active-billions", given.active_billions, None)?,
        tokens: taken.tokens(true)?,
        devices: taken.or("units", given.units, 1.0),
        device_watts: taken.needed("unit-watts", given.unit_watts, None)?,
        peak_teraflops: taken.needed("peak-teraflops", given.peak_teraflops, None)?,
        efficiency: taken.needed("efficiency", given.efficiency, None)?,
    };
    let nothing = || Failure::Usage("--units, --peak-teraflops and --efficiency must be above 0".to_owned());
    let (energy, seconds) = operations.energy().zip(operations.seconds()).ok_or_else(nothing)?;
    let embodied = taken.held(operations.devices, seconds);
    Ok((vec![Modeled { name: "machines", energy, at_site: true }], embodied))
}
