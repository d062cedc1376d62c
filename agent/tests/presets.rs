//! `joulebook-agent presets`, the real program: what it prints and how it ends.

#![expect(clippy::expect_used, reason = "a test ends at what it did not expect")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const PAGE: &str = "# TYPE mine_requests counter\n\
    mine_requests_total{model=\"a\",code=\"200\"} 7\n\
    mine_requests_total{model=\"a\",code=\"500\"} 2\n\
    # TYPE mine_tokens histogram\nmine_tokens_sum{model=\"a\"} 90\nmine_tokens_count{model=\"a\"} 9\n\
    # TYPE mine_seconds counter\nmine_seconds_total{model=\"a\"} 1.5\n\
    # TYPE mine_old_seconds counter\nmine_old_seconds_total{model=\"a\"} 3\n\
    # TYPE mine_odd counter\nmine_odd_total{model=\"a\"} NaN\n\
    # TYPE process_open_fds gauge\nprocess_open_fds 7\n";

const PRESET: &str = "id = \"mine\"\npath = \"/metrics\"\nsignature = [\"mine_requests\"]\n\
    [mapping]\nlabels.model = \"model\"\n\
    [mapping.values]\n\
    requests_ok = { metric = \"mine_requests_total\", type = \"counter\", where.code = { match = \"2..\" } }\n\
    output_tokens = { metric = \"mine_tokens_sum\", type = \"counter\" }\n\
    items = { metric = \"mine_odd_total\", type = \"counter\" }\n\
    busy_seconds = { first = [{ metric = \"mine_seconds_total\", type = \"counter\" }, { metric = \"mine_old_seconds_total\", type = \"counter\" }] }\n";

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(arguments: &[&str], page: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_joulebook-agent"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // A program that refuses before it reads closes the pipe.
    let _ = child.stdin.take().expect("piped").write_all(page.as_bytes());
    let ended = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
}

fn file(folder: &Path, text: &str) -> String {
    let path = folder.join("mine.toml");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("text").to_owned()
}

#[test]
fn a_page_is_told_by_service_and_kind_with_what_is_left_out_and_why() {
    let folder = tempfile::tempdir().expect("folder");
    let file = file(folder.path(), PRESET);
    let ended = run(&["presets", "test", &file], PAGE);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    let lines: Vec<String> =
        ended.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "service model=a (label) version=unknown to the page",
        "requests_ok 7",
        "items 0",
        "output_tokens unknown: the page does not tell it",
        "busy_seconds 1.500",
        "1 series left out: the value is negative, not finite, beyond 2^53 or part of a count",
        "mine_requests: 1 of 2 series do not meet the preset's conditions",
        "mine_tokens: its TYPE is histogram, not counter",
        "mine_old_seconds: an alternate that stands before it is on the page, or a part of its sum is not",
        "process_open_fds: no expression reads it",
    ] {
        assert!(lines.iter().any(|known| known == line), "{line}: {}", ended.out);
    }
    assert!(!lines.iter().any(|line| line.starts_with("mine_seconds:")), "what is counted is not left out");
}

#[test]
fn a_page_that_cannot_be_read_ends_with_65_and_a_wrong_preset_with_78() {
    let folder = tempfile::tempdir().expect("folder");
    let good = file(folder.path(), PRESET);
    for (arguments, page, code, word) in [
        (["presets", "test", &good], "<html>\n", 65, "line 1"),
        (["presets", "test", &good], "up 1\n", 65, "mine_requests"),
        (["presets", "test", "vllm"], PAGE, 65, "vllm:generation_tokens_total"),
        (["presets", "test", "custom"], PAGE, 78, "no mapping"),
        (["presets", "test", "/nowhere.toml"], PAGE, 78, "/nowhere.toml"),
        (["presets", "show", "nothing"], "", 78, "does not exist"),
    ] {
        let ended = run(&arguments, page);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}{}", ended.out, ended.err);
        assert!(ended.err.contains(word) && ended.out.is_empty(), "{arguments:?}: {}", ended.err);
    }
    let wrong = file(folder.path(), &PRESET.replace("labels.model", "lables.model"));
    let ended = run(&["presets", "test", &wrong], PAGE);
    assert_eq!(ended.code, Some(78));
    assert!(ended.err.contains("mine.toml:5: ") && ended.err.contains("did you mean `labels`?"), "{}", ended.err);
    assert_eq!(run(&["presets", "tset"], "").code, Some(64));
    let ended = run(&["presets", "test"], "up 1\n");
    assert_eq!(ended.code, Some(65), "no preset recognises it");
    assert!(ended.err.contains("nim"), "{}", ended.err);
}

#[test]
fn what_show_prints_is_a_preset_and_a_page_is_recognised_without_one() {
    let folder = tempfile::tempdir().expect("folder");
    let page = "# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total 58\n";
    let recognised = run(&["presets", "test"], page);
    assert_eq!(recognised.code, Some(0), "{}", recognised.err);
    assert!(recognised.out.starts_with("preset llamacpp: 1 series\n"), "{}", recognised.out);
    let shown = run(&["presets", "show", "llamacpp"], "");
    let again = run(&["presets", "test", &file(folder.path(), &shown.out)], page);
    assert_eq!(again.out, recognised.out);
}

#[test]
fn presets_of_the_operator_are_listed_beside_those_of_the_build() {
    let folder = tempfile::tempdir().expect("folder");
    file(folder.path(), PRESET);
    let config = folder.path().join("agent.conf");
    std::fs::write(&config, format!("preset_dir = \"{}\"\n", folder.path().display())).expect("a file");
    let config = config.to_str().expect("text");
    let listed = run(&["presets", "list", "--config", config], "");
    assert_eq!(listed.code, Some(0), "{}", listed.err);
    assert_eq!(listed.out.lines().count(), 21, "{}", listed.out);
    for start in ["vllm ", "envoy-aigw ", "mine "] {
        assert!(listed.out.lines().any(|line| line.starts_with(start)), "{start}: {}", listed.out);
    }
    assert_eq!(run(&["presets", "test", "--config", config], PAGE).code, Some(0), "its page is recognised too");
    assert_eq!(run(&["presets", "show", "mine", "--config", config], "").code, Some(78), "its text is in its own file");
}
