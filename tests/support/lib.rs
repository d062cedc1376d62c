//! Harness of the tests: the programs as processes, a fake power meter, real inference servers, and the machine's own
//! accounts to hold results against.
//!
//! Nothing here waits a fixed time: a process is ready when it says so or answers, and everything that is started ends with its value.

pub mod aggregator;
pub mod chaos;
pub mod chart;
pub mod counted;
pub mod cpu_time;
pub mod engine;
pub mod export;
pub mod history;
pub mod installation;
pub mod otlp;
pub mod page;
pub mod powercap;
pub mod program;
pub mod prometheus;
pub mod raw;
pub mod scripted;
pub mod simulated;
pub mod simulator;
pub mod timestamp;
pub mod tls;
pub mod wait;
