//! Unsafe code stands in the C interface of the simulator's NVML library and nowhere else.

use crate::sources::{Source, all};

/// The crate that does not take the workspace's lints, which forbid unsafe code.
const CRATE: &str = "tests/hwsim-nvml/Cargo.toml";
/// Its file with the reasons at the head.
const FILE: &str = "tests/hwsim-nvml/src/ffi.rs";

/// Crates without the workspace's lints and files that allow unsafe code, but for the ones above.
fn broken(sources: &[Source]) -> Vec<String> {
    let loose = |source: &Source| {
        let is_crate = source.path.ends_with("/Cargo.toml") && source.path != CRATE;
        is_crate && !source.text.contains("[lints]\nworkspace = true")
    };
    let allows = |source: &Source| {
        let code = source.path.ends_with(".rs") && source.path != FILE && source.path != "tests/tests/tidy/safety.rs";
        code && source.text.contains("allow(unsafe_code")
    };
    sources.iter().filter(|source| loose(source) || allows(source)).map(|source| source.path.clone()).collect()
}

#[test]
fn unsafe_code_stands_in_one_file_only() {
    let sources = all();
    assert!(sources.iter().any(|source| source.path == FILE && source.text.contains("#![allow(unsafe_code")));
    assert_eq!(broken(&sources), Vec::<String>::new());
}

#[test]
fn a_crate_without_the_lints_and_a_file_that_allows_unsafe_code_are_caught() {
    let loose = Source::sample("cli/Cargo.toml", "[lints.rust]\nunsafe_code = \"allow\"\n");
    let allows = Source::sample("agent/src/uplink.rs", "#![allow(unsafe_code)]\n");
    assert_eq!(broken(&[loose, allows]).len(), 2);
}
