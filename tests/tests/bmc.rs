//! BMCs: what their documents and replies mean, and how the agent behaves towards one that is slow, wrong or closed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::path::{Path, PathBuf};

#[path = "bmc/clients.rs"]
mod clients;
#[path = "fixtures/dcmi.rs"]
mod dcmi;
#[path = "bmc/inband.rs"]
mod inband;
#[path = "bmc/manners.rs"]
mod manners;
#[path = "fixtures/outcome.rs"]
mod outcome;
#[path = "bmc/program.rs"]
mod program;
#[path = "fixtures/redfish.rs"]
mod redfish;
#[path = "bmc/rig.rs"]
mod rig;
#[path = "bmc/values.rs"]
mod values;

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    [Some(own), std::env::var_os("JOULEBOOK_FIXTURES_DIR").map(PathBuf::from)].into_iter().flatten().collect()
}

fn all_right(cases: &[outcome::Case], least: usize) {
    let wrong: Vec<_> =
        cases.iter().filter_map(|case| Some(format!("{}: {}", case.name, case.wrong.as_ref()?))).collect();
    assert!(cases.len() >= least, "only {} cases", cases.len());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn every_redfish_set_is_read_as_expected() {
    let cases: Vec<_> = folders().iter().flat_map(|folder| redfish::run(folder)).collect();
    all_right(&cases, 9);
}

#[test]
fn every_dcmi_reply_is_read_as_expected() {
    let cases: Vec<_> = folders().iter().flat_map(|folder| dcmi::run(folder)).collect();
    all_right(&cases, 13);
}
