//! Collector `redfish`.

pub mod chassis;
pub mod document;
pub mod outcome;
pub mod report;
pub mod route;
pub mod sensor;
pub mod survey;
pub mod value;
