//! Metric reports of HGX baseboards: everything of the baseboard in one document, values as text.

use super::chassis::last_segment;
use super::value::{ENCLOSURE_CEILING, NODE_CEILING, is_unset, text, text_watts};
use joulebook_units::Milliwatts;
use serde_json::Value;
use std::collections::BTreeMap;

/// The report of a baseboard's power.
pub const PLATFORM: &str = "HGX_PlatformEnvironmentMetrics_0";

/// What a report tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Power by the BMC's own number of the GPU, which is not NVML's index; none where it is not known.
    pub gpus: BTreeMap<String, Option<Milliwatts>>,
    /// Power of the baseboard and other parts by chassis.
    pub inside: BTreeMap<String, Milliwatts>,
}

/// Reads a report.
pub fn read(report: &Value) -> Report {
    let mut found = Report::default();
    let of_report = text(report, "Timestamp");
    for metric in report.get("MetricValues").and_then(Value::as_array).into_iter().flatten() {
        let property = text(metric, "MetricProperty").unwrap_or_default();
        let id = text(metric, "MetricId").unwrap_or_else(|| last_segment(property));
        let name = if property.contains("/Sensors/") { last_segment(property) } else { id };
        if let Some(gpu) = gpu_of(name) {
            let power = value(metric, of_report, NODE_CEILING);
            let known = found.gpus.entry(gpu.to_owned()).or_default();
            *known = power.or(*known);
        } else if let Some(chassis) = part_of(name)
            && let Some(power) = value(metric, of_report, ENCLOSURE_CEILING)
        {
            found.inside.insert(chassis.to_owned(), power);
        }
    }
    found
}

/// The value, unless it is none: stale, `nan`, or of a clock that was never set.
fn value(metric: &Value, of_report: Option<&str>, ceiling: Milliwatts) -> Option<Milliwatts> {
    let stale = metric.get("Oem").and_then(Value::as_object).is_some_and(|makers| {
        makers.values().any(|oem| oem.get("MetricValueStale").and_then(Value::as_bool) == Some(true))
    });
    let unset = text(metric, "Timestamp").or(of_report).is_some_and(is_unset);
    if stale || unset {
        return None;
    }
    text_watts(metric.get("MetricValue"), ceiling).ok()
}

/// The number in `HGX_GPU_SXM_3_Power_0` or `HGX_GPU_3_Power_0`; memory is a part of its GPU and has another name.
fn gpu_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("HGX_GPU_")?;
    let number = rest.strip_prefix("SXM_").unwrap_or(rest).strip_suffix("_Power_0")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(number).filter(|number| !number.is_empty())
}

/// The chassis of a sensor that is the whole of it: `HGX_Chassis_0_TotalHSC_Power_0`, `HGX_ProcessorModule_0_Power_0`.
fn part_of(name: &str) -> Option<&str> {
    let whole = name.strip_suffix("_TotalHSC_Power_0");
    whole.or_else(|| {
        name.strip_suffix("_Power_0")
            .filter(|chassis| chassis.starts_with("HGX_ProcessorModule_") && is_numbered(chassis))
    })
}

fn is_numbered(chassis: &str) -> bool {
    chassis.rsplit('_').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metric(name: &str, value: &str, stale: bool, time: &str) -> Value {
        let property = format!("/redfish/v1/Chassis/C/Sensors/{name}");
        let oem = json!({"Nvidia": {"MetricValueStale": stale}});
        json!({"MetricProperty": property, "MetricValue": value, "Timestamp": time, "Oem": oem})
    }

    #[test]
    fn what_is_stale_or_of_1970_or_no_number_is_unknown_and_memory_is_no_gpu() {
        let now = "2026-06-29T08:05:10+00:00";
        let values = [
            metric("HGX_GPU_SXM_1_Power_0", "68.5", false, now),
            metric("HGX_GPU_SXM_1_DRAM_0_Power_0", "20.0", false, now),
            metric("HGX_GPU_SXM_2_Power_0", "nan", false, now),
            metric("HGX_GPU_SXM_3_Power_0", "0.0", true, "1970-01-01T00:00:00+00:00"),
            metric("HGX_GPU_0_Power_0", "300", false, now),
            metric("HGX_GPU_4_Power_0", "300", false, "1970-01-01T00:00:00+00:00"),
            metric("HGX_Chassis_0_TotalHSC_Power_0", "1042.0", false, now),
            metric("HGX_Chassis_0_TotalGPU_Power_0", "553.4", false, now),
        ];
        let report = read(&json!({"MetricValues": values}));
        let gpus = [("0", Some(300_000)), ("1", Some(68_500)), ("2", None), ("3", None), ("4", None)];
        let gpus = gpus.map(|(gpu, power)| (gpu.to_owned(), power.map(Milliwatts)));
        assert_eq!(report.gpus, BTreeMap::from(gpus));
        assert_eq!(report.inside, BTreeMap::from([("HGX_Chassis_0".to_owned(), Milliwatts(1_042_000))]));
    }
}
