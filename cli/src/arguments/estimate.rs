//! Arguments of `estimate`.

use super::{AdminForm, PeriodArguments, duration, selector};
use clap::{Args, ValueEnum};
use joulebook_proto::query::ModelSelector;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `estimate`.
#[derive(Debug, Args)]
pub struct EstimateArguments {
    /// When, with --model or --rates.
    #[command(flatten)]
    pub period: PeriodArguments,
    /// The formula
    #[arg(long, value_enum, required_unless_present = "rates")]
    pub method: Option<MethodName>,
    /// Put beside what was measured of this model version; inputs that are not given are taken from there
    #[arg(long, value_name = "NAME@VERSION", value_parser = selector, conflicts_with = "rates")]
    pub model: Option<ModelSelector>,
    /// Instead of a formula: grams per unit of remote models (JSON), for what gateways had from them
    #[arg(long, value_name = "FILE", conflicts_with = "method")]
    pub rates: Option<PathBuf>,
    /// What the formula takes.
    #[command(flatten)]
    pub inputs: EstimateInputs,
    /// How the estimate is printed
    #[arg(short, long, value_enum, default_value_t = AdminForm::Table)]
    pub output: AdminForm,
}

/// A formula, by the tool that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Regressions on the sizes of a model: --active-billions, --tokens
    #[value(name = "ecologits")]
    EcoLogits,
    /// Cores or GPUs and memory: --units, --unit-watts, --memory-gigabytes, --duration
    GreenAlgorithms,
    /// Operations of inference: --active-billions, --tokens, --peak-teraflops, --efficiency, --unit-watts
    #[value(name = "llmcarbon")]
    LlmCarbon,
    /// A curve of power by utilisation: --unit-watts, --utilisation, --duration
    Teads,
    /// A part of thermal design power: --unit-watts, --utilisation, --duration
    Tdp,
    /// GPUs at thermal design power, without PUE: --units, --unit-watts, --duration
    MlCo2,
    /// Processors by load, memory in use, accelerators: --unit-watts, --memory-gigabytes, --duration
    #[value(name = "eco2ai")]
    Eco2Ai,
    /// What CodeCarbon does without a sensor: --unit-watts, --memory-gigabytes, --duration
    #[value(name = "codecarbon-fallback")]
    CodeCarbonFallback,
}

/// What formulas take.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Inputs")]
pub struct EstimateInputs {
    /// For how long, for example 12h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Cores, processors or GPUs [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = amount)]
    pub units: Option<f64>,
    /// Power of each in watts
    #[arg(long, value_name = "WATTS", value_parser = amount)]
    pub unit_watts: Option<f64>,
    /// Their utilisation, 0 to 1 [default: 1; codecarbon-fallback: not known]
    #[arg(long, value_name = "PART", value_parser = part)]
    pub utilisation: Option<f64>,
    /// Part of the machine, 0 to 1 [default: 1]
    #[arg(long, value_name = "PART", value_parser = part)]
    pub share: Option<f64>,
    /// Memory in 10⁹ bytes [default: 0]
    #[arg(long, value_name = "GIGABYTES", value_parser = amount)]
    pub memory_gigabytes: Option<f64>,
    /// Power of accelerators beside the units, in watts [default: 0]
    #[arg(long, value_name = "WATTS", value_parser = amount)]
    pub accelerator_watts: Option<f64>,
    /// Active parameters in 10⁹
    #[arg(long, value_name = "BILLIONS", value_parser = amount)]
    pub active_billions: Option<f64>,
    /// All parameters in 10⁹ [default: the active ones]
    #[arg(long, value_name = "BILLIONS", value_parser = amount)]
    pub total_billions: Option<f64>,
    /// Tokens: ecologits generated ones, llmcarbon all
    #[arg(long, value_name = "COUNT", value_parser = amount)]
    pub tokens: Option<f64>,
    /// Measured latency of the request, which bounds the modelled one
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub latency: Option<Duration>,
    /// Requests that run together [default: 64]
    #[arg(long, value_name = "COUNT", value_parser = amount)]
    pub batch: Option<f64>,
    /// Peak of each unit in 10¹² operations a second
    #[arg(long, value_name = "TERAFLOPS", value_parser = amount)]
    pub peak_teraflops: Option<f64>,
    /// Part of the peak that is reached, 0 to 1
    #[arg(long, value_name = "PART", value_parser = part)]
    pub efficiency: Option<f64>,
    /// Runs or requests of this kind [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = amount)]
    pub times: Option<f64>,
    /// PUE of the site; none for ml-co2 [default: that of --model, else 1.56, the mean of a survey]
    #[arg(long, value_name = "PUE", value_parser = amount)]
    pub pue: Option<f64>,
    /// Carbon intensity of the grid in g/kWh [default: that of --model; without one there are no grams]
    #[arg(long, value_name = "GRAMS", value_parser = amount)]
    pub grams_per_kwh: Option<f64>,
    /// Embodied carbon of each GPU in kg
    #[arg(long, value_name = "KG", value_parser = amount)]
    pub gpu_kg: Option<f64>,
    /// Area of the chips of each GPU in cm², where its embodied carbon is that of making them (as LLMCarbon has it)
    #[arg(long, value_name = "CM2", value_parser = amount, requires = "chip_kg_per_cm2", conflicts_with = "gpu_kg")]
    pub chip_cm2: Option<f64>,
    /// Carbon of making a cm² of them, in kg
    #[arg(long, value_name = "KG", value_parser = amount, requires = "chip_cm2")]
    pub chip_kg_per_cm2: Option<f64>,
    /// Embodied carbon of a server of eight GPUs without them, in kg
    #[arg(long, value_name = "KG", value_parser = amount)]
    pub server_kg: Option<f64>,
    /// Expected life of the hardware in hours [default: 35040]
    #[arg(long, value_name = "HOURS", value_parser = amount)]
    pub lifespan_hours: Option<f64>,
    /// 10⁹ bytes that networks moved, as a component of its own
    #[arg(long, value_name = "GIGABYTES", value_parser = amount)]
    pub network_gigabytes: Option<f64>,
    /// Energy of moving them [default: 0.001, Cloud Carbon Footprint]
    #[arg(long, value_name = "KWH", value_parser = amount, requires = "network_gigabytes")]
    pub network_kwh_per_gigabyte: Option<f64>,
    /// 10¹² bytes × hours that were kept, as a component of its own
    #[arg(long, value_name = "TBH", value_parser = amount)]
    pub storage_terabyte_hours: Option<f64>,
    /// Energy of keeping them [default: 1.2, solid state, Cloud Carbon Footprint]
    #[arg(long, value_name = "WH", value_parser = amount, requires = "storage_terabyte_hours")]
    pub storage_wh_per_terabyte_hour: Option<f64>,
}

fn amount(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("it must be 0 or more".to_owned()) }
}

fn part(text: &str) -> Result<f64, String> {
    amount(text).ok().filter(|value| *value <= 1.0).ok_or_else(|| "it must be 0 to 1".to_owned())
}
