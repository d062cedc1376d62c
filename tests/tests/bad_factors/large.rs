//! A file of ten million rows.

use super::*;
use joulebook_tests::scripted::grid;
use joulebook_tests::wait::Moment;
use std::fmt::Write;
use std::io::Write as _;

/// Rows of the file, and how many are written at once.
const ROWS: usize = 10_000_000;
const AT_ONCE: usize = 10_000;
/// What refusing it may take beyond what the aggregator holds (bad inputs, U5).
const MOST_KIB: u64 = 32 << 10;

/// Most memory that a process ever held, or what it holds now, in KiB.
fn memory(program: &Program, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_file_of_ten_million_rows_is_refused_in_bounded_memory_and_no_score_moves() {
    let script = Script::ending(midnight(), 2, 3);
    let mut path = PathBuf::new();
    let rig = Rig::start(script, |folder| {
        path = folder.join("years.csv");
        grid::CONFIGURATION.to_owned()
    });
    let mut rows = String::new();
    for minute in (0i64..).take(AT_ONCE) {
        writeln!(rows, "{},100", text(script.start.plus_seconds(minute * 60))).unwrap();
    }
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"start,value\n").unwrap();
    (0..ROWS / AT_ONCE).for_each(|_| file.write_all(rows.as_bytes()).unwrap());
    rig.is_as_scripted();
    // The memory of answers is there already when the file is read.
    let (before, since) = (memory(&rig.aggregator, "VmRSS"), Moment::now());
    let config = rig.installation.folder().join("aggregator.toml");
    let series = format!(
        "[[factor]]\nname = \"years\"\nprovider = \"csv\"\nkind = \"average_consumption\"\nsites = [\"fra\"]\npath = \"{}\"\n",
        path.display()
    );
    let kept = std::fs::read_to_string(&config).unwrap();
    let (head, tail) = kept.split_once("[site.fra]").unwrap();
    std::fs::write(&config, format!("{head}{series}[site.fra]{tail}")).unwrap();
    rig.aggregator.hang_up();
    let said = rig.failure("years");
    let (took, most) = (since.elapsed(), memory(&rig.aggregator, "VmHWM"));
    println!("refused within {took:?}; memory {before} KiB before, {most} KiB at most");
    assert!(said.contains("more than 250000 rows") && said.contains("split it"), "{said}");
    assert!(most < before + MOST_KIB, "{before} KiB before, {most} KiB at most");
    assert_eq!(rig.series("years").unwrap()["revisions"], 0);
    // The operator's tool does not send it either.
    let words = ["factors", "push", "--series", "fra-grid", "--kind", "average-consumption", "--basis", "lifecycle"];
    let said = rig.refused(&[&words[..], &[path.to_str().unwrap()]].concat());
    assert!(said.contains("more than 250000 cells") && said.contains("nothing was sent"), "{said}");
    rig.is_as_scripted();
}
