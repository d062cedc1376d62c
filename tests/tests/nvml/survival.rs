//! The helper process dies a hundred times, hangs, or has no library: rows and other sources go on in time (REL-R12).

use super::{hurried, load, source};
use joulebook_hwsim::fault::Kind;
use joulebook_hwsim::node::Options;
use joulebook_tests::simulated::{Rig, SECOND};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
/// µJ of a step of 100 ms of the counter, at most 600 W.
const COUNTER_STEP: i128 = 60_000_000;
/// Most that a row may take, of 99 in 100: what it takes is the jitter of the next one and of every source in it.
const MOST_ROW: Duration = Duration::from_millis(100);

/// Rows at 20 Hz of a real clock until `done` says so (or 60 s), with what happens before each. How long each took.
#[allow(clippy::disallowed_methods, reason = "a test's own pace")]
fn rows(rig: &mut Rig, mut before: impl FnMut(&mut Rig), done: impl Fn(&Rig) -> bool) -> Vec<Duration> {
    let begin = Instant::now();
    let mut took = Vec::new();
    for tick in 1..=1_200u32 {
        let next = begin + TICK * tick;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        before(rig);
        rig.node.publish().unwrap();
        let begin = Instant::now();
        rig.row();
        took.push(begin.elapsed());
        if done(rig) {
            return took;
        }
    }
    panic!("not done after 60 s");
}

/// The package's energy is the truth, and 99 in 100 rows are not held up.
fn other_sources_are_untouched(rig: &mut Rig, mut took: Vec<Duration>) {
    let (_, report) = rig.energy("rapl").remove("rapl/package-0").unwrap();
    let truth = rig.zone_truth("intel-rapl:0");
    assert!(report.agrees(truth), "{} of {truth} µJ", report.value);
    assert!(report.gaps.is_empty(), "{:?}", report.gaps);
    assert!(report.points.len() >= took.len(), "a point in every row");
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    println!("{} rows, each takes p50 {:?}, p99 {p99:?}", took.len(), took[took.len() / 2]);
    assert!(p99 <= MOST_ROW, "p99 is {p99:?}");
}

fn real(name: &str) -> Rig {
    hurried(name, Options { manual: false, ..Options::default() })
}

#[test]
fn a_helper_that_is_killed_by_a_bad_pointer_a_hundred_times_touches_no_other_source() {
    let mut rig = real("dgx-h100");
    load(&mut rig, 8, 300);
    rig.start().unwrap();
    let count = std::cell::Cell::new(0);
    let some = |rig: &mut Rig, count_of_rows: u32| {
        count.set(0);
        rows(rig, |_| count.set(count.get() + 1), |_| count.get() >= count_of_rows)
    };
    let mut took = some(&mut rig, 80);
    let mut killed = std::collections::BTreeSet::new();
    count.set(0);
    took.extend(rows(
        &mut rig,
        |rig| {
            // Rust's runtime takes the first such signal for an overflow of the stack to look at: the second one kills.
            if let Some(pid) = rig.sampler().sources().helper_pid() {
                let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGSEGV);
                killed.insert(pid);
                count.set(u32::try_from(killed.len() - 1).unwrap());
            }
        },
        |_| count.get() >= 100,
    ));
    // Then it is left alone, and every GPU is read on from where it was known.
    took.extend(some(&mut rig, 120));
    other_sources_are_untouched(&mut rig, took);
    let energy = rig.energy("nvml");
    for slot in 0..8 {
        let (_, report) = &energy[&source(slot)];
        let truth = super::truth(&rig, slot, report);
        // The helper that dated the last value has lived for seconds: it may be one step of the counter off.
        assert!((report.value - truth).abs() <= COUNTER_STEP, "GPU {slot}: {} of {truth} µJ", report.value);
        assert!(rig.agent_now() - report.points.last().unwrap().0 <= SECOND, "GPU {slot} is read again");
    }
}

#[test]
fn a_call_that_never_returns_touches_no_other_source_and_the_other_gpus_go_on() {
    let mut rig = real("dgx-h100");
    load(&mut rig, 8, 300);
    rig.config.nvml.limits.hang = Duration::from_secs(2);
    rig.config.nvml.limits.skip = Duration::from_secs(600);
    rig.start().unwrap();
    let mut tick = 0;
    let ticks = std::cell::Cell::new(0);
    let took = rows(
        &mut rig,
        |rig| {
            tick += 1;
            ticks.set(tick);
            if tick == 40 {
                rig.fault("gpu3", Kind::Hang, None, None).unwrap();
            }
        },
        |_| ticks.get() >= 240,
    );
    other_sources_are_untouched(&mut rig, took);
    let energy = rig.energy("nvml");
    let now = rig.agent_now();
    for slot in 0..8 {
        let silent = now - energy[&source(slot)].1.points.last().unwrap().0;
        assert_eq!(silent > 7 * SECOND, slot == 3, "GPU {slot} was silent for {silent} ns");
    }
    let stuck = rig.sampler().refused().get(&(source(3), "stuck")).copied().unwrap_or(0);
    assert!(stuck >= 1, "{:?}", rig.sampler().refused());
    let state = rig.inventory().sources.into_iter().find(|state| state.source.id == source(3)).unwrap();
    assert!(state.unavailable.is_some_and(|why| why.contains("did not return")));
}

#[test]
fn a_library_that_is_missing_or_is_none_touches_no_other_source() {
    for text in [None, Some("not a library\n")] {
        let mut rig = real("dgx-h100");
        let library = rig.node.root().join("lib/libnvidia-ml.so.1");
        std::fs::remove_file(&library).unwrap();
        if let Some(text) = text {
            std::fs::write(&library, text).unwrap();
        }
        rig.start().unwrap();
        let ticks = std::cell::Cell::new(0);
        let took = rows(&mut rig, |_| ticks.set(ticks.get() + 1), |_| ticks.get() >= 50);
        other_sources_are_untouched(&mut rig, took);
        assert!(rig.energy("nvml").is_empty());
    }
}

/// A zone whose counter is a pipe: whoever read it would wait for ever.
fn add_pipe(rig: &Rig, zone: &str, name: &str) {
    let folder = rig.node.root().join("sys/class/powercap").join(zone);
    std::fs::create_dir(&folder).unwrap();
    for (file, text) in [("name", name), ("enabled", "1"), ("max_energy_range_uj", "262143328850")] {
        std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
    }
    nix::unistd::mkfifo(&folder.join("energy_uj"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn b12_a_pipe_a_call_that_never_returns_and_one_that_kills_at_once_touch_no_other_source() {
    let mut rig = real("dgx-h100");
    load(&mut rig, 8, 300);
    add_pipe(&rig, "intel-rapl:9", "package-9");
    rig.start().unwrap();
    let (mut tick, mut helpers) = (0, std::collections::BTreeSet::new());
    let ticks = std::cell::Cell::new(0);
    let took = rows(
        &mut rig,
        |rig| {
            tick += 1;
            ticks.set(tick);
            helpers.extend(rig.sampler().sources().helper_pid());
            if tick == 40 {
                rig.fault("gpu3", Kind::Hang, None, None).unwrap();
                rig.fault("gpu5", Kind::Crash, None, None).unwrap();
            }
        },
        |_| ticks.get() >= 240,
    );
    other_sources_are_untouched(&mut rig, took);
    let state = rig.inventory().sources.into_iter().find(|state| state.source.id == "rapl/package-9").unwrap();
    assert!(state.unavailable.is_some_and(|why| why.contains("not a regular file")));
    assert!(helpers.len() > 1, "void: the helper never fell");
    // At most one process is stuck: those before it are gone.
    let now = rig.sampler().sources().helper_pid();
    let stays = |pid: &u32| Some(*pid) != now && std::path::Path::new(&format!("/proc/{pid}")).exists();
    let left: Vec<u32> = helpers.into_iter().filter(stays).collect();
    assert!(left.len() <= 1, "helpers that stay behind: {left:?}");
}
