//! Counters, power, levels and joins.

use joulebook_agent::counter::interval::{Bridge, Verdict, difference, is_counted, judge, unambiguous_nanos};
use joulebook_agent::counter::power::{Sampled, integrate as integrated};
use joulebook_sci::VersionCost;
use joulebook_sci::boundary::{Levels, Overhead, compare as compared, proxy as proxied};
use joulebook_sci::join::{on_cells, with_counts};
use joulebook_sci::operational::energy_of;
use joulebook_sci::power::{GapPolicy, Gapped, constant, per_unit as each};
use joulebook_units::{BootNanos, Joules, Microjoules, Milliwatts, UnixNanos};

use super::{first_of, unknown};
use crate::inputs::{Inputs, Run, Stop};
use crate::outputs::Outputs;

#[allow(clippy::cast_precision_loss, reason = "a conversion of units")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

pub fn delta(inputs: &Inputs) -> Run<Outputs> {
    let (from, to) = (inputs.energy("previous")?.0, inputs.energy("current")?.0);
    let range = inputs.known_energy("counter_range")?.map(|range| range.0);
    let (elapsed, ceiling) = (inputs.known_nanos("elapsed")?, inputs.known_power("power_max")?);
    let interval = judge(from, to, range, elapsed.zip(ceiling));
    let (energy, candidates) = match interval.verdict {
        Verdict::Known(energy) => (Some(energy), Some(1)),
        Verdict::Ambiguous(candidates) => (None, Some(candidates)),
        Verdict::Reset | Verdict::Implausible => (None, None),
    };
    let unambiguous = range.zip(ceiling).and_then(|(range, ceiling)| unambiguous_nanos(range, ceiling));
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    let candidates = candidates.map(|count| count as f64);
    Ok(inputs
        .outputs()
        .energy("energy", energy)
        .energy("energy_low", interval.low)
        .energy("energy_high", interval.high)
        .flag("reset", interval.verdict == Verdict::Reset)
        .flag("implausible", interval.verdict == Verdict::Implausible)
        .flag("wrap_ambiguous", matches!(interval.verdict, Verdict::Ambiguous(_)))
        .set("wrap_candidates", candidates, "1")
        .set("unambiguous_elapsed", unambiguous.map(seconds), "s"))
}

pub fn domains(inputs: &Inputs) -> Run<Outputs> {
    let (previous, current) = (inputs.energies("previous")?, inputs.energies("current")?);
    let range = inputs.known_energy("counter_range")?.map(|range| range.0);
    if !previous.keys().eq(current.keys()) {
        return Err(Stop::Undefined);
    }
    let counted = previous.into_iter().filter(|(domain, _)| is_counted(domain));
    let risen: Option<Vec<Microjoules>> = counted
        .map(|(domain, from)| difference(from, current[&domain], range).map(|risen| Microjoules(risen.microjoules)))
        .collect();
    Ok(inputs.outputs().energy("energy", risen.map(|risen| risen.into_iter().sum::<Microjoules>())))
}

pub fn bridge(inputs: &Inputs) -> Run<Outputs> {
    let points = inputs.points("readings", "uJ")?;
    let (Some((start, from)), Some((end, to))) = (points.first(), points.last()) else { return Err(Stop::Undefined) };
    let nanos = UnixNanos(*end).nanos_since(UnixNanos(*start));
    let bridge = Bridge::new(*from, *to, nanos, inputs.nanos("gap")?).ok_or(Stop::Undefined)?;
    Ok(inputs
        .outputs()
        .energy("energy", bridge.energy)
        .power("mean_power", bridge.mean_power)
        .set("coverage", f64::from(Bridge::COVERAGE), "1")
        .flag("coarse", bridge.coarse))
}

pub fn integrate(inputs: &Inputs) -> Run<Outputs> {
    let points = inputs.points("samples", "W")?;
    let start = points.first().map_or(0, |(at, _)| *at);
    let since = |at: i64| BootNanos(UnixNanos(at).nanos_since(UnixNanos(start)));
    let samples: Vec<_> = points.iter().map(|(at, power)| (since(*at), Milliwatts(*power))).collect();
    Ok(inputs
        .outputs()
        .energy("energy_trapezoid", integrated(&samples, Sampled::Point))
        .energy("energy_rectangle", integrated(&samples, Sampled::Average)))
}

pub fn gap(inputs: &Inputs) -> Run<Outputs> {
    let policy = match inputs.policy("gap_policy") {
        Some("hold_last") => GapPolicy::HoldLast,
        Some("linear") => GapPolicy::Linear,
        Some("window_mean") => GapPolicy::WindowMean,
        Some("unknown") => GapPolicy::Unknown,
        _ => return Err(unknown(inputs, "gap_policy")),
    };
    let gapped = Gapped {
        measured: inputs.energy("energy_measured")?,
        gap_nanos: inputs.nanos("gap")?,
        window_nanos: inputs.nanos("window")?,
        before: inputs.known_power("power_before")?,
        after: inputs.known_power("power_after")?,
    };
    Ok(inputs
        .outputs()
        .energy("energy", gapped.energy(policy))
        .energy("energy_low", gapped.bound(inputs.power("power_idle")?))
        .energy("energy_high", gapped.bound(inputs.power("power_max")?))
        .set("coverage", gapped.coverage(), "1"))
}

pub fn from_power(inputs: &Inputs) -> Run<Outputs> {
    let powers = inputs.powers("power")?.into_values().map(Milliwatts);
    let energy = constant(powers, inputs.nanos("duration")?);
    let units = inputs.known("functional_units", "unit")?;
    let per_unit = units.and_then(|units| each(energy.to_joules(), units)).map(Joules);
    Ok(per(inputs.outputs().energy("energy", energy), "energy_per_unit", per_unit, true))
}

pub fn per_unit(inputs: &Inputs) -> Run<Outputs> {
    let (energy, units) = (inputs.known_map("energy", "uJ")?, inputs.known_map("functional_units", "unit")?);
    // Windows of which only one side is known are not joint.
    let joint = |key: &String| energy.get(key).copied().flatten().zip(units.get(key).copied().flatten()).is_some();
    let counted = inputs.counted_known("energy")?;
    let energy: Microjoules =
        counted.iter().filter(|(key, _)| joint(key)).map(|(_, energy)| Microjoules(*energy)).sum();
    let units: f64 = units.iter().filter(|(key, _)| joint(key)).filter_map(|(_, units)| *units).sum();
    Ok(per(inputs.outputs(), "energy_per_unit", each(energy.to_joules(), units).map(Joules), true))
}

pub fn from_carbon(inputs: &Inputs) -> Run<Outputs> {
    let energy = energy_of(inputs.grams("carbon")?, inputs.intensity("intensity")?);
    let units = inputs.known("functional_units", "unit")?;
    let per_unit = energy.zip(units).and_then(|(energy, units)| each(energy, units)).map(Joules);
    Ok(per(inputs.outputs().joules("energy", energy), "energy_per_unit", per_unit, false))
}

/// Joules per functional unit, of counted energy or not.
fn per(outputs: Outputs, name: &'static str, value: Option<Joules>, counted: bool) -> Outputs {
    if counted { outputs.counted_joules_per_unit(name, value) } else { outputs.set(name, value.map(|j| j.0), "J/unit") }
}

pub fn levels(inputs: &Inputs) -> Run<Outputs> {
    let platform = if inputs.has("platform_energy") { inputs.energy("platform_energy")?.0 } else { 0 };
    let cost = VersionCost {
        accelerator_dynamic: inputs.energy("accelerator_energy")?.0,
        host: inputs.energy("host_energy")?.0,
        pool_idle: inputs.energy("idle_energy")?.0,
        platform,
        ..VersionCost::default()
    };
    let overhead = if first_of(inputs, "pue", "overhead_energy")? {
        Overhead::Pue(inputs.pue("pue")?)
    } else {
        Overhead::Energy(inputs.counted_joules("overhead_energy")?)
    };
    let levels = Levels::of(&cost, overhead);
    let share = |index: usize| levels.shares().map(|shares| shares[index]);
    Ok(inputs
        .outputs()
        .counted_joules("energy_l0", levels.accelerator)
        .counted_joules("energy_l1", levels.host)
        .counted_joules("energy_l2", levels.idle)
        .counted_joules("energy_l3", levels.facility)
        .set("share_accelerator", share(0), "1")
        .set("share_host", share(1), "1")
        .set("share_idle", share(2), "1")
        .set("share_overhead", share(3), "1")
        .set("pue_effective", levels.pue_effective(), "1"))
}

pub fn compare(inputs: &Inputs) -> Run<Outputs> {
    let [narrow, accelerator, whole] =
        ["energy_narrow", "accelerator_energy", "energy_comprehensive"].map(|name| inputs.joules(name));
    let ratios = compared(narrow?, accelerator?, whole?);
    Ok(inputs.outputs().set("ratio_total", ratios.total, "1").set("ratio_sampling", ratios.sampling, "1").set(
        "ratio_boundary",
        ratios.boundary,
        "1",
    ))
}

pub fn proxy(inputs: &Inputs) -> Run<Outputs> {
    let energy = proxied(inputs.energy("accelerator_energy")?);
    Ok(inputs.outputs().energy("energy", energy).flag("modeled", true))
}

pub fn cells(inputs: &Inputs) -> Run<Outputs> {
    let series = inputs.energy_series("energy")?;
    let cell = inputs.nanos("cell")?;
    let cells = on_cells(&series, cell).ok_or_else(|| Stop::Wrong(format!("a cell of {cell} ns is refused")))?;
    let missing = u32::try_from(cells.iter().filter(|cell| cell.is_none()).count()).unwrap_or(u32::MAX);
    let total: Microjoules = series.iter().filter_map(|(_, energy)| energy.map(Microjoules)).sum();
    Ok(inputs
        .outputs()
        .energy_list("energy_by_cell", cells)
        .set("cells_missing", f64::from(missing), "1")
        .energy("energy_total", total))
}

pub fn counts(inputs: &Inputs) -> Run<Outputs> {
    let known = |(window, energy): (_, Option<u64>)| energy.map(|energy| (window, Microjoules(energy)));
    let energy: Vec<_> = inputs.energy_series("energy")?.into_iter().filter_map(known).collect();
    let units = inputs.series("functional_units", "unit")?.into_iter();
    let units: Vec<_> = units.filter_map(|(window, units)| units.map(|units| (window, units))).collect();
    let joint = with_counts(&energy, &units);
    let per_unit = each(joint.joint_energy.to_joules(), joint.joint_units).map(Joules);
    let outputs = inputs
        .outputs()
        .energy("energy_joint", joint.joint_energy)
        .set("functional_units_joint", joint.joint_units, "unit")
        .energy("energy_total", joint.energy)
        .set("joint_coverage", joint.coverage(), "1")
        .flag("quality_low", joint.is_low());
    Ok(per(outputs, "energy_per_unit", per_unit, true))
}
