//! Unsafe code stands in the C interfaces of the simulator's vendor libraries, in the ioctls of IPMI, in the calls of Habana's
//! library, in one call of NVML and in one that tells how the clock is kept, and nowhere else.

use crate::sources::{Source, all};

/// The crates that do not take the workspace's lints, which forbid unsafe code.
const CRATES: [&str; 6] = [
    "tests/hwsim-nvml/Cargo.toml",
    "tests/hwsim-hlml/Cargo.toml",
    "agent/ipmi/Cargo.toml",
    "agent/hlml/Cargo.toml",
    "agent/nvml-module/Cargo.toml",
    "agent/timex/Cargo.toml",
];
/// Their files with the reasons at the head, one each.
const FILES: [&str; 6] = [
    "tests/hwsim-nvml/src/ffi.rs",
    "tests/hwsim-hlml/src/ffi.rs",
    "agent/ipmi/src/ffi.rs",
    "agent/hlml/src/ffi.rs",
    "agent/nvml-module/src/ffi.rs",
    "agent/timex/src/ffi.rs",
];

/// Crates without the workspace's lints and files that allow unsafe code, but for the ones above.
fn broken(sources: &[Source]) -> Vec<String> {
    let loose = |source: &Source| {
        let is_crate = source.path.ends_with("/Cargo.toml") && !CRATES.contains(&source.path.as_str());
        is_crate && !source.text.contains("[lints]\nworkspace = true")
    };
    let allows = |source: &Source| {
        let code = source.path.ends_with(".rs")
            && !FILES.contains(&source.path.as_str())
            && source.path != "tests/tests/tidy/safety.rs";
        code && source.text.contains("allow(unsafe_code")
    };
    sources.iter().filter(|source| loose(source) || allows(source)).map(|source| source.path.clone()).collect()
}

#[test]
fn unsafe_code_stands_in_one_file_of_each_crate_that_needs_it() {
    let sources = all();
    for file in FILES {
        let is_that = |source: &&Source| source.path == file && source.text.contains("#![allow(unsafe_code");
        assert!(sources.iter().any(|source| is_that(&source)), "{file}");
    }
    assert_eq!(broken(&sources), Vec::<String>::new());
}

#[test]
fn a_crate_without_the_lints_and_a_file_that_allows_unsafe_code_are_caught() {
    let loose = Source::sample("cli/Cargo.toml", "[lints.rust]\nunsafe_code = \"allow\"\n");
    let allows = Source::sample("agent/src/uplink.rs", "#![allow(unsafe_code)]\n");
    assert_eq!(broken(&[loose, allows]).len(), 2);
}
