//! The node simulator: one known truth, shown through the interfaces that hardware and kernel have.
//!
//! [`truth`] is energy by leaf in integer arithmetic; the views never feed back into it: [`powercap`] and [`hwmon`] (sysfs),
//! [`gpu`] (the state file of the fake NVML), [`workload`] (procfs and control groups), [`front`] (an inference
//! server's metrics), [`redfish`] (its BMC). [`node`] owns them all, [`fault`] breaks them, [`control`] is how other programs ask.

pub mod control;
mod dcmi;
pub mod error;
pub mod fault;
pub mod front;
pub mod gpu;
pub mod hwmon;
pub mod node;
pub mod powercap;
pub mod profile;
pub mod redfish;
pub mod truth;
pub mod workload;
