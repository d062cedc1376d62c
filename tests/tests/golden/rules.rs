//! From a rule's name to the product's function.

#[path = "rules/attribution.rs"]
mod attribution;
#[path = "rules/carbon.rs"]
mod carbon;
#[path = "rules/embodied.rs"]
mod embodied;
#[path = "rules/energy.rs"]
mod energy;
#[path = "rules/estimate.rs"]
mod estimate;
#[path = "rules/ledger.rs"]
mod ledger;
#[path = "rules/training.rs"]
mod training;

use crate::inputs::{Inputs, Run, Stop};
use crate::outputs::Outputs;

/// Runs one rule; `None` if it is not built yet.
pub fn run(rule: &str, inputs: &Inputs) -> Option<Run<Outputs>> {
    let run: fn(&Inputs) -> Run<Outputs> = match rule {
        "counter.delta" => energy::delta,
        "counter.domains" => energy::domains,
        "counter.bridge" => energy::bridge,
        "power.integrate" => energy::integrate,
        "power.gap" => energy::gap,
        "energy.from_power" => energy::from_power,
        "energy.per_unit" => energy::per_unit,
        "energy.from_carbon" => energy::from_carbon,
        "boundary.levels" => energy::levels,
        "boundary.compare" => energy::compare,
        "boundary.proxy_double" => energy::proxy,
        "join.cells" => energy::cells,
        "join.counts" => energy::counts,
        "carbon.market_based" => carbon::market_based,
        "intensity.resolve" => carbon::resolve,
        "intensity.mix" => carbon::mix,
        "operational.join" => carbon::join,
        "sci.ratio" => carbon::ratio,
        "sci.score" => carbon::score,
        "uncertainty.product" => carbon::product,
        "uncertainty.combine" => carbon::combine,
        "embodied.share" => embodied::share,
        "embodied.age" => embodied::age,
        "embodied.host" => embodied::host,
        "embodied.fleet" => embodied::fleet,
        "embodied.node" => embodied::node,
        "embodied.mig" => embodied::mig,
        "split.remainder" => attribution::remainder,
        "attribute.base_dynamic" => attribution::base_dynamic,
        "attribute.cpu_ratio" => attribution::cpu_ratio,
        "attribute.cpu" => attribution::cpu,
        "attribute.gpu_activity" => attribution::gpu_activity,
        "attribute.gpu_shared" => attribution::gpu_shared,
        "attribute.mig" => attribution::mig,
        "idle.dedicated" => attribution::dedicated,
        "idle.allocate" => ledger::idle,
        "reconcile.platform" => ledger::platform,
        "reconcile.psu" => ledger::psu,
        "settle.node" => ledger::node,
        "estimate.tdp" => estimate::tdp,
        "estimate.linear" => estimate::linear,
        "estimate.teads" => estimate::teads,
        "estimate.green_algorithms" => estimate::green_algorithms,
        "estimate.ecologits" => estimate::ecologits,
        "training.total" => training::total,
        "training.bottom_up" => training::bottom_up,
        "training.share" => training::share,
        "training.cap" => training::cap,
        "training.revise" => training::revise,
        "training.retire" => training::retire,
        "training.lineage" => training::lineage,
        "training.gate" => training::gate,
        "training.trace" => training::trace,
        "training.pools" => training::pools,
        _ => return Some(Err(Stop::Wrong(format!("no such rule: `{rule}`")))),
    };
    Some(run(inputs))
}

/// A policy that the table lists and the adapter does not know is a failure.
fn unknown(inputs: &Inputs, name: &str) -> Stop {
    Stop::Wrong(format!("policy `{}` of `{name}` is not understood", inputs.policy(name).unwrap_or("none")))
}

/// Exactly one of two inputs is given: says whether it is the first.
fn first_of(inputs: &Inputs, first: &str, second: &str) -> Run<bool> {
    match (inputs.has(first), inputs.has(second)) {
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        _ => Err(Stop::Wrong(format!("exactly one of `{first}` and `{second}` must be given"))),
    }
}
