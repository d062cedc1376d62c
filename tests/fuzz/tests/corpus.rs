//! Every fuzz target over its corpus, and over mutations of it that come from a seed: what `make fuzz` found stays
//! mended. `FUZZ_RUNS=` makes more of them; `SEED=` repeats one run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions that tests call may fail the test")]
#![allow(clippy::print_stdout, reason = "a run prints its seed first")]

use joulebook_fuzz::{TARGETS, Target};
use joulebook_tests::chaos::{Random, setting};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Mutations of each target.
const RUNS: u64 = 400;
/// Most changes of one mutation.
const CHANGES: u64 = 6;
/// Longest input.
const BYTES: usize = 64 << 10;
const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn index(random: &mut Random, length: usize) -> usize {
    usize::try_from(random.below(length.max(1) as u64)).unwrap()
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[index(random, corpus.len())].clone();
    for _ in 0..=random.below(CHANGES) {
        let at = index(random, bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next().to_le_bytes()[0],
            2 => bytes.truncate(at),
            3 => {
                let number = NUMBERS[index(random, NUMBERS.len())].to_le_bytes();
                let width = 1 << random.below(4);
                bytes.splice(at..at, number[..width].iter().copied());
            }
            4 => {
                let end = (at + index(random, 64)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let other = &corpus[index(random, corpus.len())];
                let from = index(random, other.len());
                let end = (from + index(random, 256)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
        }
    }
    bytes.truncate(BYTES);
    bytes
}

fn hold((name, target): &Target, bytes: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
        let path = std::env::temp_dir().join(format!("joulebook-fuzz-{name}"));
        fs::write(&path, bytes).unwrap();
        panic!("{name} breaks a promise on {what}: kept as {}", path.display());
    }
}

#[test]
fn no_target_breaks_a_promise_on_its_corpus_or_on_mutations_of_it() {
    let (seed, runs) = (setting("SEED", 1).unwrap(), setting("FUZZ_RUNS", RUNS).unwrap());
    println!("\n{runs} mutations a target, SEED={seed}");
    for target in TARGETS {
        let corpus = corpus(target.0);
        assert!(!corpus.is_empty(), "{} has no corpus", target.0);
        for (number, bytes) in corpus.iter().enumerate() {
            hold(target, bytes, &format!("file {number} of its corpus"));
        }
        let mut random = Random::new(seed);
        for run in 0..runs {
            hold(target, &mutate(&mut random, &corpus), &format!("mutation {run} of SEED={seed}"));
        }
    }
}
