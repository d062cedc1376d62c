//! Who may use what: the way of a joule has one direction, pure parts stay pure, byte layouts stay in their files.

use regex::Regex;

use crate::sources::{Source, all};

/// A rule: files under `folders` may not match `forbidden`, but for the `except`ed ones.
struct Rule {
    why: &'static str,
    folders: &'static [&'static str],
    forbidden: &'static str,
    except: &'static [&'static str],
}

const BYTE_ORDER: &str = r"\b(to|from)_(be|le|ne)_bytes\b";

const RULES: &[Rule] = &[
    Rule {
        why: "the agent knows nothing of the aggregator",
        folders: &["agent/"],
        forbidden: r"\bjoulebook_(aggregator|sci)\b",
        except: &[],
    },
    Rule {
        why: "the aggregator knows nothing of the agent",
        folders: &["aggregator/"],
        forbidden: r"\bjoulebook_agent\b",
        except: &[],
    },
    Rule {
        why: "the operator's tool needs neither the store nor a vendor's library",
        folders: &["cli/"],
        forbidden: r"\b(joulebook_(agent|aggregator)|rocksdb|nvml\w*)\b",
        except: &[],
    },
    Rule {
        why: "units and sci are pure: no std, no runtime, no log",
        folders: &["proto/units/src/", "aggregator/sci/src/"],
        forbidden: r"\b(std|tokio|tracing|joulebook_proto|prost)::|\bextern crate std\b",
        except: &[],
    },
    Rule {
        why: "the counter is pure: no I/O, no clock, no log",
        folders: &["agent/src/counter.rs", "agent/src/counter/"],
        forbidden: r"\b(std|tokio|tracing|nix|procfs)::|\b(SystemTime|Instant|Clock)\b",
        except: &[],
    },
    Rule {
        why: "the aggregator's byte layouts live in store/key.rs and store/block.rs; factor.rs and query/gather/digest.rs \
              only hash, store/rocks/log.rs reads RocksDB's format",
        folders: &["aggregator/src/"],
        forbidden: BYTE_ORDER,
        except: &[
            "aggregator/src/store/key.rs",
            "aggregator/src/store/block.rs",
            "aggregator/src/store/block/",
            "aggregator/src/store/rocks/log.rs",
            "aggregator/src/query/gather/digest.rs",
            "aggregator/src/factor.rs",
        ],
    },
    Rule {
        why: "the agent's byte layout lives in spool/record.rs; gguf.rs, socket.rs and dcmi.rs read formats of \
              others",
        folders: &["agent/src/"],
        forbidden: BYTE_ORDER,
        except: &[
            "agent/src/spool/record.rs",
            "agent/src/inference/gguf.rs",
            "agent/src/inference/socket.rs",
            "agent/src/collector/ipmi/dcmi.rs",
        ],
    },
];

/// Every place where a rule is broken.
fn broken(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for rule in RULES {
        let forbidden = Regex::new(rule.forbidden).unwrap();
        let inside = |list: &[&str], path: &str| list.iter().any(|prefix| path.starts_with(prefix));
        for source in sources.iter().filter(|source| source.path.ends_with(".rs")) {
            if !inside(rule.folders, &source.path) || inside(rule.except, &source.path) {
                continue;
            }
            for (number, line) in source.code().filter(|(_, line)| forbidden.is_match(line)) {
                found.push(format!("{}:{number}: {}: {}", source.path, rule.why, line.trim()));
            }
        }
    }
    found
}

#[test]
fn nothing_is_imported_against_the_direction() {
    let found = broken(&all());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn pure_crates_say_that_they_have_no_std() {
    for path in ["proto/units/src/lib.rs", "aggregator/sci/src/lib.rs"] {
        let source = all().into_iter().find(|source| source.path == path).expect("the crate's root");
        assert!(source.text.contains("no_std"), "{path} does not say no_std");
    }
}

#[test]
fn an_import_against_the_direction_is_caught() {
    for (path, line) in [
        ("agent/src/uplink.rs", "use joulebook_aggregator::store::Store;"),
        ("agent/src/uplink.rs", "use joulebook_sci::cell::CellKey;"),
        ("aggregator/src/ingest.rs", "let spool = joulebook_agent::spool::open();"),
        ("cli/src/command/sci.rs", "use rocksdb::DB;"),
        ("cli/src/command/sci.rs", "use nvml_wrapper::Nvml;"),
        ("proto/units/src/time.rs", "use std::time::Duration;"),
        ("aggregator/sci/src/join.rs", "tracing::info!(\"joined\");"),
        ("agent/src/counter.rs", "let at = Instant::now();"),
        ("aggregator/src/ledger.rs", "let key = node.to_be_bytes();"),
        ("agent/src/spool/segment.rs", "u32::from_le_bytes(head)"),
    ] {
        assert_eq!(broken(&[Source::sample(path, line)]).len(), 1, "{path}: {line}");
    }
}

#[test]
fn tests_comments_and_the_layouts_own_files_are_free() {
    for (path, line) in [
        ("aggregator/sci/src/join.rs", "#[cfg(test)]\nmod tests { use std::fmt; }"),
        ("aggregator/sci/src/join.rs", "// like std::collections, but ordered"),
        ("agent/src/spool/record.rs", "seq.to_le_bytes()"),
        ("aggregator/src/store/key.rs", "seq.to_be_bytes()"),
    ] {
        assert_eq!(broken(&[Source::sample(path, line)]), Vec::<String>::new());
    }
}
