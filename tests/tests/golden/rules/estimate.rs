//! Models where nothing is measured.

use joulebook_sci::embodied::resource_share;
use joulebook_sci::estimate::{Extra, Job, LlmRequest, linear as at_utilisation, tdp as of_tdp, tdp_factor};
use joulebook_sci::operational::{facility, operational};
use joulebook_units::Joules;

use crate::inputs::{Inputs, Run, Stop, keys};
use crate::outputs::Outputs;

pub fn tdp(inputs: &Inputs) -> Run<Outputs> {
    let (tdp, factor) = (inputs.number("tdp", "W")?, inputs.number("tdp_factor", "1")?);
    Ok(inputs.outputs().joules("energy", of_tdp(tdp, factor, inputs.number("duration", "s")?)))
}

pub fn linear(inputs: &Inputs) -> Run<Outputs> {
    let [low, high] = ["power_min", "power_max"].map(|name| inputs.number(name, "W/vCPU"));
    let power = at_utilisation(low?, high?, inputs.number("utilisation", "1")?);
    let energy = facility(of_tdp(power, 1.0, inputs.number("vcpu_time", "vCPU*s")?), inputs.pue("pue")?);
    Ok(inputs
        .outputs()
        .set("power", power, "W/vCPU")
        .joules("energy", energy)
        .grams("operational", operational(energy, inputs.intensity("intensity")?)))
}

pub fn teads(inputs: &Inputs) -> Run<Outputs> {
    let utilisation = inputs.map("utilisation", "1")?;
    let (tdp, seconds) = (inputs.number("tdp", "W")?, inputs.number("duration", "s")?);
    let reserved = inputs.number("vcpu_reserved", "vCPU")?;
    let share = resource_share(reserved, inputs.number("vcpu_total", "vCPU")?).ok_or(Stop::Undefined)?;
    let keys = keys(&[&utilisation]);
    let factors: Vec<_> = utilisation.values().map(|utilisation| tdp_factor(*utilisation)).collect();
    let energy = |factor: &Option<f64>| {
        factor.map(|factor| joulebook_sci::estimate::part(of_tdp(tdp, factor, seconds), share).0)
    };
    Ok(inputs.outputs().set_map("energy", &keys, factors.iter().map(energy), "J").set_map(
        "tdp_factor",
        &keys,
        factors.clone(),
        "1",
    ))
}

pub fn green_algorithms(inputs: &Inputs) -> Run<Outputs> {
    let job = Job {
        units: inputs.number("unit_count", "1")?,
        unit_watts: inputs.number("unit_power", "W")?,
        utilisation: inputs.number("utilisation", "1")?,
        memory_gigabytes: inputs.number("memory", "GB")?,
        memory_watts_per_gigabyte: inputs.optional("memory_power", "W/GB")?,
        seconds: inputs.number("duration", "s")?,
    };
    let factor = |name| inputs.optional(name, "1").map(Option::unwrap_or_default);
    let extra = Extra {
        research: factor("rd_factor")?,
        retraining: factor("retrain_factor")?,
        retrainings: factor("retrains")?,
    };
    let pue = inputs.pue("pue")?;
    Ok(inputs
        .outputs()
        .joules("energy", job.energy(pue))
        .grams("carbon", job.carbon(pue, inputs.intensity("intensity")?, extra)))
}

pub fn ecologits(inputs: &Inputs) -> Run<Outputs> {
    let request = LlmRequest {
        active_billions: inputs.number("active_parameters", "1e9 parameter")?,
        total_billions: inputs.number("total_parameters", "1e9 parameter")?,
        output_tokens: inputs.number("output_tokens", "token")?,
        latency_seconds: inputs.number("request_latency", "s")?,
        batch: inputs.number("batch", "1")?,
    };
    let energy: Joules = request.energy(inputs.pue("pue")?);
    let [gpu, server] = ["gpu_embodied", "server_embodied"].map(|name| inputs.grams(name));
    Ok(inputs
        .outputs()
        .set("gpus", request.gpus(), "1")
        .set("latency", request.latency(), "s")
        .joules("energy", energy)
        .grams("operational", operational(energy, inputs.intensity("intensity")?))
        .grams("embodied", request.embodied(gpu?, server?, inputs.number("lifespan", "s")?)))
}
