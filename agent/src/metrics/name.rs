//! Every name of the agent's page: its type, unit, labels, help and how stable it is. The reference that
//! `joulebook-agent metrics list` prints is made from this file, so that it cannot differ from what is served.
//!
//! `node` is the node that is told of: the agent's own, or a poller's subject.

use joulebook_proto::metrics;

metrics! {
    /// 1; its label is the version of the agent.
    BUILD = "joulebook_agent_build_info", Gauge, "", &["version"], Stable;
    /// Pages that were asked for.
    PAGES = "joulebook_agent_pages_total", Counter, "", &[], Experimental;
    /// Changed configurations that were taken over.
    RELOADS = "joulebook_agent_config_reloads_total", Counter, "", &[], Stable;
    /// Changed configurations that were refused: the one before stays in force.
    RELOAD_FAILURES = "joulebook_agent_config_reload_failures_total", Counter, "", &[], Stable;
    /// CPU time that the agent used; main is the agent, helper the process that holds a vendor's library.
    CPU = "joulebook_agent_process_cpu_seconds_total", Counter, "seconds", &["process"], Stable;
    /// Resident memory of the agent.
    RESIDENT = "joulebook_agent_process_resident_bytes", Gauge, "bytes", &["process"], Stable;
    /// Energy that the agent used: its part, by CPU time, of what the CPUs drew above rest. Worked out over 60 s or more,
    /// and absent where nothing tells what the CPUs draw at rest.
    ENERGY = "joulebook_agent_process_energy_joules_total", Counter, "joules", &[], Experimental;
    /// Rows that were taken.
    ROWS = "joulebook_agent_rows_total", Counter, "", &["node"], Stable;
    /// Time since the last row.
    ROW_AGE = "joulebook_agent_row_age_seconds", Gauge, "seconds", &["node"], Stable;
    /// Time that rows took, all together.
    CYCLE = "joulebook_agent_cycle_seconds_total", Counter, "seconds", &["node"], Stable;
    /// The longest time that a row took.
    LONGEST_CYCLE = "joulebook_agent_cycle_longest_seconds", Gauge, "seconds", &["node"], Stable;
    /// Rows that came half a tick or more too late.
    LATE = "joulebook_agent_rows_late_total", Counter, "", &["node"], Experimental;
    /// How far the wall clock was set or slewed against the boot clock since the first row.
    CLOCK_STEP = "joulebook_agent_clock_step_seconds", Gauge, "seconds", &["node"], Stable;
    /// 1 while something keeps the machine's wall clock (NTP, PTP), by the kernel's word, 0 while nothing does. Absent where the
    /// kernel does not say.
    CLOCK_SYNCHRONISED = "joulebook_agent_clock_synchronised", Gauge, "", &[], Stable;
    /// Most that the wall clock may be off, as the kernel reckons: it grows while nothing corrects the clock, up to 16 s.
    CLOCK_ERROR = "joulebook_agent_clock_error_seconds", Gauge, "seconds", &[], Stable;
    /// 1 while a source is read, 0 while it is found and cannot be.
    SOURCE_UP = "joulebook_agent_source_up", Gauge, "", &["node", "source", "component", "collector"], Stable;
    /// 1 while a read of a source does not return: no second one is begun.
    SOURCE_STUCK = "joulebook_agent_source_stuck", Gauge, "", &["node", "source"], Stable;
    /// Time since the last reading of a source that was taken.
    SOURCE_AGE = "joulebook_agent_source_age_seconds", Gauge, "seconds", &["node", "source"], Stable;
    /// Readings of a source that were refused or held back.
    REFUSED = "joulebook_agent_source_rejected_total", Counter, "", &["node", "source", "reason"], Stable;
    /// Wraps of a source's counter.
    WRAPS = "joulebook_agent_source_wraps_total", Counter, "", &["node", "source"], Stable;
    /// Resets of a source's counter: it counts from a new baseline.
    RESETS = "joulebook_agent_source_resets_total", Counter, "", &["node", "source"], Stable;
    /// Stretches of time in which a source's energy is not known, each declared with bounds.
    GAPS = "joulebook_agent_source_gaps_total", Counter, "", &["node", "source"], Stable;
    /// Sources that are not on this page: it has 512 of a node at most.
    LEFT_OUT = "joulebook_agent_sources_left_out", Gauge, "", &["node"], Experimental;
    /// Devices that the kubelet says are allocated, by names that stand for none that is known: who holds them is not
    /// known. `joulebook doctor` names them.
    UNRESOLVED = "joulebook_agent_kubelet_unresolved_devices", Gauge, "devices", &["node"], Experimental;
    /// 1 while any certificate of the node's BMC will do (danger_accept_any_certificate): whoever answers is shown its
    /// password.
    ANY_CERTIFICATE = "joulebook_agent_redfish_accepts_any_certificate", Gauge, "", &["node"], Stable;
    /// Bytes of the spool on the disk.
    SPOOL_BYTES = "joulebook_agent_spool_bytes", Gauge, "bytes", &["node"], Stable;
    /// Bytes that the spool may take: beyond them the oldest records are dropped, and counted as lost.
    SPOOL_LIMIT = "joulebook_agent_spool_limit_bytes", Gauge, "bytes", &["node"], Stable;
    /// Files of the spool.
    SPOOL_SEGMENTS = "joulebook_agent_spool_segments", Gauge, "", &["node"], Experimental;
    /// Streams that the spool holds.
    SPOOL_STREAMS = "joulebook_agent_spool_streams", Gauge, "", &["node"], Experimental;
    /// Records in the spool that are not acknowledged.
    SPOOL_WAITING = "joulebook_agent_spool_waiting_records", Gauge, "records", &["node"], Stable;
    /// Time since every record was acknowledged: what waits longest is no older, but for what an earlier run left.
    SPOOL_BEHIND = "joulebook_agent_spool_behind_seconds", Gauge, "seconds", &["node"], Stable;
    /// Batches that wait in memory, since the disk takes nothing.
    IN_MEMORY = "joulebook_agent_spool_memory_batches", Gauge, "batches", &["node"], Stable;
    /// Records that were written to the spool.
    APPENDED = "joulebook_agent_spool_records_total", Counter, "", &["node"], Stable;
    /// Records that were lost since the spool was initialised; each is declared to the aggregator.
    LOST_RECORDS = "joulebook_agent_lost_records_total", Counter, "records", &["node"], Stable;
    /// Of the lost records those that this run of the agent declared, by reason: spool_full (the oldest went), no_space (the
    /// disk took no more, nor did the memory), corrupt.
    LOST_BY_REASON = "joulebook_agent_spool_lost_records_total", Counter, "records", &["node", "reason"], Stable;
    /// Values in all that are lost, as far as they are known.
    LOST_VALUES = "joulebook_agent_lost_values_total", Counter, "values", &["node"], Stable;
    /// Damaged places that were found in the spool.
    DAMAGED = "joulebook_agent_spool_damaged_total", Counter, "", &["node"], Stable;
    /// Files in the spool's folder that are left alone: of another stream, or of a later format.
    FOREIGN = "joulebook_agent_spool_foreign_files", Gauge, "files", &["node"], Experimental;
    /// 1 while a session with the aggregator is open.
    SESSION = "joulebook_agent_session_open", Gauge, "", &["node"], Stable;
    /// Sessions that the aggregator answered: all but the first are reconnects.
    SESSIONS = "joulebook_agent_sessions_total", Counter, "", &["node"], Stable;
    /// Highest number of the live stream that the aggregator acknowledged.
    ACKED = "joulebook_agent_acknowledged_sequence", Gauge, "", &["node"], Experimental;
    /// Sessions that began below what was acknowledged: the aggregator lost data.
    ACK_REGRESSIONS = "joulebook_agent_ack_regressions_total", Counter, "", &["node"], Stable;
    /// Values that the aggregator refused.
    REJECTED = "joulebook_agent_rejected_values_total", Counter, "values", &["node", "reason"], Stable;
    /// Time until the agent's certificate ends; below 0 it has.
    CERTIFICATE = "joulebook_agent_cert_expiry_seconds", Gauge, "seconds", &["node"], Stable;
    /// 1 while the last scrape of an inference server was taken, 0 while it failed.
    TARGET_UP = "joulebook_agent_target_up", Gauge, "", &["target"], Stable;
    /// Scrapes of an inference server.
    TARGET_SCRAPES = "joulebook_agent_target_scrapes_total", Counter, "", &["target"], Stable;
    /// Samples of counts that its pages gave.
    TARGET_SAMPLES = "joulebook_agent_target_samples_total", Counter, "samples", &["target"], Stable;
    /// Pages, and values of them, that were refused, by reason; reports at the push socket have the target push.
    TARGET_FAILURES = "joulebook_agent_target_failures_total", Counter, "", &["target", "reason"], Stable;
    /// What was delivered by OTLP, by signal: points of metrics, spans of traces, records of logs.
    OTLP_SENT = "joulebook_agent_otlp_sent_points_total", Counter, "", &["signal"], Stable;
    /// What was not delivered by OTLP, by signal and reason: overflow (the receiver was away too long), refused.
    OTLP_LOST = "joulebook_agent_otlp_lost_points_total", Counter, "", &["signal", "reason"], Stable;
    /// Deliveries by OTLP that failed and are tried again, by signal.
    OTLP_RETRIES = "joulebook_agent_otlp_retries_total", Counter, "", &["signal"], Stable;
    /// What waits to be delivered by OTLP, by signal.
    OTLP_WAITING = "joulebook_agent_otlp_waiting_points", Gauge, "", &["signal"], Stable;
}
