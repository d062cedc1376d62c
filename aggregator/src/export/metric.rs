//! Every name that leaves the aggregator: its type, unit, labels, help and how stable it is. The reference that
//! `joulebook-aggregator metrics list` prints is made from this file, so that it cannot differ from what is served.
//!
//! Names that begin with `joulebook_` are ours. Those of OpenTelemetry are in [`joulebook_otlp::name`].

use joulebook_proto::metrics;

/// What tells a row of a model from every other.
macro_rules! of_version {
    ($($more:literal),*) => { &["model", "version", "weights", "serving_config", $($more),*] };
}

metrics! {
    /// 1; its label is the version of the aggregator.
    BUILD = "joulebook_build_info", Gauge, "", &["version"], Stable;
    /// Whether telemetry is stored: 0 while the disk is nearly full.
    INTAKE_OPEN = "joulebook_ingest_open", Gauge, "", &[], Stable;
    /// Records that were stored.
    RECORDS = "joulebook_ingest_records_total", Counter, "", &[], Stable;
    /// Commits that held records: those of all agents that came within a moment are synced together.
    COMMITS = "joulebook_ingest_commits_total", Counter, "", &[], Stable;
    /// Acknowledgements that were sent: one tells all records of a stream that were committed since the one before.
    ACKS = "joulebook_ingest_acknowledgements_total", Counter, "", &[], Stable;
    /// Bytes of the records that were committed, as they came.
    RECEIVED = "joulebook_ingest_received_bytes_total", Counter, "bytes", &[], Stable;
    /// Series that agents described: once a stream and session, and records name them by number.
    DESCRIBED = "joulebook_ingest_described_series_total", Counter, "", &[], Stable;
    /// Records that had been stored already: agents send again what was not acknowledged.
    DUPLICATES = "joulebook_ingest_duplicates_total", Counter, "", &[], Stable;
    /// Sessions of agents and pollers that were opened.
    SESSIONS = "joulebook_ingest_sessions_total", Counter, "", &[], Stable;
    /// What was refused, by who offered it and why.
    REJECTED = "joulebook_ingest_rejected_total", Counter, "", &["interface", "reason"], Stable;
    /// Records that agents declared lost: their energy is bridged, their detail is gone.
    LOST = "joulebook_ingest_lost_records_total", Counter, "", &[], Stable;
    /// How often agents were held back, by cause.
    PRESSURE = "joulebook_ingest_pressure_total", Counter, "", &["cause"], Stable;
    /// How often storing stopped because the disk was nearly full.
    INTAKE_STOPS = "joulebook_ingest_stops_total", Counter, "", &[], Stable;
    /// Sessions that opened with a clock too far from the aggregator's.
    SKEW_EVENTS = "joulebook_ingest_clock_skew_events_total", Counter, "", &[], Stable;
    /// Agents that knew of acknowledgements that this database does not: it was restored from a backup.
    ACK_REGRESSIONS = "joulebook_ingest_ack_regression_records_total", Counter, "", &[], Stable;
    /// Changes that were taken over: of the configuration, the certificates, the list of nodes.
    RELOADS = "joulebook_reloads_total", Counter, "", &["what"], Stable;
    /// Changes that were refused; what was before stays in force.
    RELOAD_FAILURES = "joulebook_reload_failures_total", Counter, "", &["what"], Stable;
    /// Time until the aggregator's own certificate ends.
    CERTIFICATE = "joulebook_certificate_expiry_seconds", Gauge, "seconds", &[], Stable;
    /// Questions that sources of factors answered.
    POLLS = "joulebook_factor_polls_total", Counter, "", &[], Stable;
    /// Questions that they did not.
    POLL_FAILURES = "joulebook_factor_poll_failures_total", Counter, "", &[], Stable;
    /// End of the last value of a series of factors.
    FACTOR_LAST = "joulebook_factor_last_timestamp_seconds", Gauge, "seconds", &["series", "quantity"], Stable;
    /// Whether the last question to the source of a series failed.
    FACTOR_FAILING = "joulebook_factor_source_failing", Gauge, "", &["series"], Stable;
    /// Cells that are still to be worked out.
    DIRTY = "joulebook_store_dirty_cells", Gauge, "", &[], Stable;
    /// Size of the database.
    STORE_BYTES = "joulebook_store_bytes", Gauge, "bytes", &[], Stable;
    /// Room on its disk.
    STORE_FREE = "joulebook_store_disk_free_bytes", Gauge, "bytes", &[], Stable;
    /// Size of its disk.
    STORE_DISK = "joulebook_store_disk_size_bytes", Gauge, "bytes", &[], Stable;
    /// How often the oldest of a level went for the database's budget of the disk.
    BUDGET_DROPS = "joulebook_store_budget_drops_total", Counter, "", &["level"], Stable;
    /// How often the budget was exceeded by what never goes for it.
    BUDGET_MISSED = "joulebook_store_budget_missed_total", Counter, "", &[], Stable;
    /// Whether the agent of a node is connected.
    NODE_CONNECTED = "joulebook_node_connected", Gauge, "", &["node"], Stable;
    /// The last instant of which something of a node is stored.
    NODE_LAST = "joulebook_node_last_row_timestamp_seconds", Gauge, "seconds", &["node"], Stable;
    /// A node's wall clock less the aggregator's, at their last meeting.
    NODE_SKEW = "joulebook_node_clock_skew_seconds", Gauge, "seconds", &["node"], Stable;
    /// Records of a node that are lost, ever.
    NODE_LOST = "joulebook_node_lost_records_total", Counter, "", &["node"], Stable;
    /// Values of a node that were refused, ever.
    NODE_REJECTED = "joulebook_node_rejected_values_total", Counter, "", &["node"], Stable;
    /// Energy sources of a node by what becomes of them: read, or unavailable.
    NODE_SOURCES = "joulebook_node_sources", Gauge, "", &["node", "state"], Stable;
    /// Start of a window: ask the command line for exactly it and it gives exactly these values.
    WINDOW_START = "joulebook_window_start_timestamp_seconds", Gauge, "seconds", &["window"], Stable;
    /// End of a window.
    WINDOW_END = "joulebook_window_end_timestamp_seconds", Gauge, "seconds", &["window"], Stable;
    /// Energy of a model version in the window: accelerator, host and idle at the IT boundary, facility with PUE.
    MODEL_ENERGY = "joulebook_model_energy_joules", Gauge, "joules", of_version!("level", "policy", "window"), Stable;
    /// Parts of a model version's facility energy in the window.
    MODEL_PART = "joulebook_model_energy_part_joules", Gauge, "joules", of_version!("part", "policy", "window"), Stable;
    /// Grams of CO2e of a model version in the window, operational and embodied.
    MODEL_CARBON = "joulebook_model_carbon_grams", Gauge, "grams", of_version!("part", "level", "policy", "window"), Stable;
    /// Grams of CO2e per functional unit of a model version: its SCI, unless boundary says what it is instead.
    MODEL_SCI = "joulebook_model_sci_grams", Gauge, "grams", of_version!("boundary", "level", "policy", "unit", "window"), Stable;
    /// Lower end of the 95 % interval of the SCI.
    MODEL_SCI_LOW = "joulebook_model_sci_low_grams", Gauge, "grams", of_version!("boundary", "level", "policy", "unit", "window"), Stable;
    /// Upper end of the 95 % interval of the SCI.
    MODEL_SCI_HIGH = "joulebook_model_sci_high_grams", Gauge, "grams", of_version!("boundary", "level", "policy", "unit", "window"), Stable;
    /// Functional units that the SCI is per.
    MODEL_UNITS = "joulebook_model_units", Gauge, "", of_version!("unit", "window"), Stable;
    /// Tokens of a model version in the window: input (cached ones too), cached, output, reasoning.
    MODEL_TOKENS = "joulebook_model_tokens", Gauge, "", of_version!("kind", "window"), Stable;
    /// Requests of a model version that failed or were aborted in the window.
    MODEL_FAILED = "joulebook_model_failed_requests", Gauge, "", of_version!("outcome", "window"), Stable;
    /// Part of what an answer needs that is known, 0 to 1: energy (of window and nodes), joint (of the energy with counts), counts (of the window).
    MODEL_COVERAGE = "joulebook_model_coverage_ratio", Gauge, "ratio", of_version!("of", "window"), Stable;
    /// 1 for each thing to know of an answer, as `quality.flags` of the command line's answer names them.
    MODEL_FLAG = "joulebook_model_quality_flag", Gauge, "", of_version!("flag", "window"), Experimental;
    /// Mean grid carbon intensity that an answer rests on, in grams of CO2e per kWh.
    MODEL_INTENSITY = "joulebook_model_intensity_grams", Gauge, "grams", of_version!("kind", "window"), Experimental;
    /// 1; what is known of a model version besides its identity.
    MODEL_INFO = "joulebook_model_info", Gauge, "", of_version!("engine", "version_source", "set_up"), Experimental;
    /// Model versions that were left out because there are more than the limit.
    LEFT_OUT = "joulebook_export_left_out_model_versions", Gauge, "", &["window"], Stable;
    /// Energy of the nodes by account in the window: their sum is the energy of all nodes, exact to the microjoule.
    ACCOUNT = "joulebook_account_energy_joules", Gauge, "joules", &["account", "window"], Stable;
    /// Energy of a node by account in the last step, before idle is charged: model, dedicated_idle, workloads, system, pool_idle, platform, unattributed.
    NODE_ENERGY = "joulebook_node_energy_joules", Gauge, "joules", &["node", "pool", "site", "account", "window"], Stable;
    /// Energy of a node's parts beyond the meter at its input, in the last step.
    NODE_OVERCOUNT = "joulebook_node_overcount_joules", Gauge, "joules", &["node", "window"], Stable;
    /// Part of the step in which the energy of a node is known, 0 to 1.
    NODE_COVERAGE = "joulebook_node_coverage_ratio", Gauge, "ratio", &["node", "window"], Stable;
    /// Part of the time of a node's accelerators that something held, in the last step.
    NODE_HELD = "joulebook_node_accelerators_held_ratio", Gauge, "ratio", &["node", "window"], Experimental;
    /// Energy of Joulebook's own processes on a node in the last step, by part: agent, aggregator. Its overhead, as the node's agent measures it.
    SELF_ENERGY = "joulebook_self_energy_joules", Gauge, "joules", &["node", "part", "window"], Stable;
    /// Energy of an accelerator in the last step.
    GPU_ENERGY = "joulebook_gpu_energy_joules", Gauge, "joules", &["node", "gpu", "model", "window"], Stable;
    /// Energy of a node since the aggregator began to export.
    NODE_ENERGY_TOTAL = "joulebook_node_energy_joules_total", Counter, "joules", &["node"], Stable;
    /// Energy of Joulebook's own processes on a node since the aggregator began to export.
    SELF_ENERGY_TOTAL = "joulebook_self_energy_joules_total", Counter, "joules", &["node", "part"], Stable;
    /// Facility energy of a model version since the aggregator began to export.
    MODEL_ENERGY_TOTAL = "joulebook_model_energy_joules_total", Counter, "joules", of_version!("level", "policy"), Stable;
    /// Grams of CO2e of a model version since the aggregator began to export.
    MODEL_CARBON_TOTAL = "joulebook_model_carbon_grams_total", Counter, "grams", of_version!("part", "level", "policy"), Stable;
    /// How long the figures of the last step took to work out.
    EXPORT_DURATION = "joulebook_export_duration_seconds", Gauge, "seconds", &[], Stable;
    /// Steps whose figures could not be worked out; they are tried again.
    EXPORT_FAILURES = "joulebook_export_failures_total", Counter, "", &[], Stable;
    /// What was delivered by OTLP, by signal: points of metrics; spans of traces and records of logs where they are told.
    OTLP_SENT = "joulebook_otlp_sent_points_total", Counter, "", &["signal"], Stable;
    /// What was not delivered by OTLP, by signal and reason: overflow (the receiver was away too long), refused.
    OTLP_LOST = "joulebook_otlp_lost_points_total", Counter, "", &["signal", "reason"], Stable;
    /// Deliveries by OTLP that failed and are tried again, by signal.
    OTLP_RETRIES = "joulebook_otlp_retries_total", Counter, "", &["signal"], Stable;
    /// What waits to be delivered by OTLP, by signal.
    OTLP_WAITING = "joulebook_otlp_waiting_points", Gauge, "", &["signal"], Stable;
    /// Pages that were served.
    SCRAPES = "joulebook_metrics_pages_total", Counter, "", &[], Stable;
    /// CPU time of the aggregator.
    CPU = "process_cpu_seconds_total", Counter, "seconds", &[], Stable;
    /// Resident memory of the aggregator.
    MEMORY = "process_resident_memory_bytes", Gauge, "bytes", &[], Stable;
    /// When the aggregator began.
    STARTED = "process_start_time_seconds", Gauge, "seconds", &[], Stable;
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_proto::metrics::{Kind, Metric};
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_type_and_unit() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let Metric { name, kind, unit, .. } = metric;
            assert!(name.starts_with("joulebook_") || name.starts_with("process_"), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(metric.family().ends_with(unit), "{name} does not name its unit {unit}");
            assert!(metric.text().ends_with('.') && !metric.text().contains(['\n', '\\', '"']), "{name}");
            let labels: BTreeSet<_> = metric.labels.iter().collect();
            assert_eq!(labels.len(), metric.labels.len(), "{name}");
        }
    }
}
