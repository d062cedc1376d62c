//! Every element of the contract has a comment right above it.

use regex::Regex;

use crate::sources::{Source, all};

/// Elements of a .proto file without a comment, as `path:line: element`.
fn uncommented(source: &Source) -> Vec<String> {
    let element = Regex::new(
        r"^\s*(service|message|enum|oneof|rpc)\s+\w+|^\s*((optional|repeated)\s+)?(map<[^>]*>|[\w.]+)\s+\w+\s*=\s*\d+|^\s*[A-Z][A-Z0-9_]*\s*=\s*\d+",
    )
    .unwrap();
    let mut found = Vec::new();
    let mut commented = false;
    for (index, line) in source.text.lines().enumerate() {
        let text = line.trim();
        if text.starts_with("//") {
            // An empty comment says nothing.
            commented |= text.trim_start_matches('/').trim().len() > 2;
            continue;
        }
        let named = element.is_match(line) && !text.starts_with("option ") && !text.starts_with("reserved ");
        if named && !commented {
            found.push(format!("{}:{}: {text}", source.path, index + 1));
        }
        commented = false;
    }
    found
}

#[test]
fn every_element_of_the_contract_is_commented() {
    let contract: Vec<_> = all().into_iter().filter(|source| source.path.ends_with(".proto")).collect();
    assert!(contract.len() >= 3, "the contract has three subjects at least");
    let found: Vec<_> = contract.iter().flat_map(uncommented).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_element_without_a_comment_is_caught() {
    let sample = "syntax = \"proto3\";\n// A node.\nmessage Node {\n  // Name.\n  string name = 1;\n  uint64 seq = 2;\n\n  \
                  // About the next.\n\n  map<string, uint64> parts = 3;\n  oneof body {\n    //\n    bytes row = 4;\n  }\n}\nenum \
                  Kind {\n  KIND_UNSPECIFIED = 0;\n}\nservice S {\n  rpc Get(A) returns (B);\n}\n";
    let found = uncommented(&Source::sample("a.proto", sample));
    let lines: Vec<_> = found.iter().filter_map(|line| line.split(": ").nth(1)).collect();
    let expected = [
        "uint64 seq = 2;",
        "map<string, uint64> parts = 3;",
        "oneof body {",
        "bytes row = 4;",
        "enum Kind {",
        "KIND_UNSPECIFIED = 0;",
        "service S {",
        "rpc Get(A) returns (B);",
    ];
    assert_eq!(lines, expected);
}
