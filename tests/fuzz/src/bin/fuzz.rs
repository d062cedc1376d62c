//! The program that libFuzzer drives. `FUZZ_TARGET` names the target.

#![no_main]

use joulebook_fuzz::{TARGETS, target};
use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match target(&name) {
        Some(target) => target,
        None => {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            #[allow(clippy::panic, reason = "nothing else can be told to libFuzzer")]
            {
                panic!("FUZZ_TARGET must be one of {}", names.join(" "))
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
