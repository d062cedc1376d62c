//! Losses: on the disk before what is lost goes, and counted exactly whatever happens next.

use super::*;

fn small(dir: &Path) -> SpoolConfig {
    SpoolConfig { max_bytes: 4 * SEGMENT + LossFile::bytes(), ..config(dir) }
}

/// Numbers of the batches that lie in the folder, whatever is declared of them.
fn lying(dir: &Path) -> Vec<u64> {
    segments(dir).iter().flat_map(|path| batches_of(path).1).map(|place| place.sequence).collect()
}

/// Appends until `done`; gives the number of the last one.
fn fill(queue: &mut Lanes, done: impl Fn(&Counters) -> bool) -> u64 {
    while !done(&queue.counters()) {
        let n = queue.counters().highest + 1;
        append(queue, n);
    }
    queue.counters().highest
}

#[test]
fn nothing_is_removed_if_its_loss_cannot_be_declared() {
    let dir = folder();
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    let mut n = fill(&mut queue, |counters| counters.segments == 3);
    queue.live_queue().loss_file().expect("made").break_it();
    let mut refused = None;
    while refused.is_none() && n < 1000 {
        n += 1;
        refused = queue.append(&batch(n), &local(n), Vec::new(), false).err();
    }
    assert_eq!(refused.expect("the file of losses is broken").exit_code(), 74);
    assert_eq!(lying(dir.path()), (1..n).collect::<Vec<_>>(), "every record is still there");
}

#[test]
fn a_kill_between_the_loss_and_the_removal_counts_it_once() {
    let dir = folder();
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    fill(&mut queue, |counters| counters.segments == 3);
    let oldest = segments(dir.path()).remove(0);
    let bytes = fs::read(&oldest).expect("read");
    let n = fill(&mut queue, |counters| counters.lost_records > 0);
    let lost = queue.counters();
    let by_reason = LostByReason { spool_full: lost.lost_records, ..LostByReason::default() };
    assert_eq!(lost.lost_by_reason, by_reason);
    drop(queue);
    // As if the removal had not come to the disk any more.
    fs::write(&oldest, &bytes).expect("written");
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    assert!(!oldest.exists());
    assert_eq!((queue.counters().lost_records, queue.counters().lost_samples), (lost.lost_records, lost.lost_samples));
    assert_eq!(queue.counters().lost_by_reason, LostByReason::default(), "none of them is of this run");
    let (records, gaps) = delivered(&mut queue, 0);
    assert_eq!((gaps.len(), gaps[0].to, gaps[0].samples), (1, lost.lost_records, lost.lost_samples));
    assert_eq!(records, (lost.lost_records + 1..=n).collect::<Vec<_>>());
}

#[test]
fn the_count_survives_without_either_of_its_two_copies() {
    let dir = folder();
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    (1..=60).for_each(|n| append(&mut queue, n));
    let lost = queue.counters().lost_records;
    assert!(lost > 0);
    drop(queue);
    let file = dir.path().join("spool/loss.bin");
    let whole = fs::read(&file).expect("read");
    for damage in [Vec::new(), b"garbage".to_vec(), vec![0; whole.len()], vec![0xff; whole.len()]] {
        fs::write(&file, damage).expect("written");
        let queue = Lanes::open(&small(dir.path())).expect("opened").0;
        assert_eq!(queue.counters().lost_records, lost, "from the segments");
    }
    fs::write(&file, &whole).expect("written");
    segments(dir.path()).iter().for_each(|path| fs::remove_file(path).expect("removed"));
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    assert_eq!(queue.counters().lost_records, lost, "from the file of losses");
    assert_eq!(delivered(&mut queue, 0).1[0].to, lost);
}

#[test]
fn a_write_of_the_file_of_losses_that_did_not_finish_leaves_the_one_before() {
    let dir = folder();
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    let file = dir.path().join("spool/loss.bin");
    let mut states = Vec::new();
    for _ in 0..3 {
        let before = queue.counters().lost_records;
        fill(&mut queue, |counters| counters.lost_records > before);
        states.push((queue.counters().lost_records, fs::read(&file).expect("read")));
    }
    let (older, newer) = (&states[1], &states[2]);
    let stream = queue.counters().stream;
    let changed: Vec<usize> = (0..newer.1.len()).filter(|at| older.1[*at] != newer.1[*at]).collect();
    for end in changed[0]..=changed[changed.len() - 1] {
        let mut torn = newer.1.clone();
        torn[end..].copy_from_slice(&older.1[end..]);
        fs::write(&file, &torn).expect("written");
        let slot = loss::read(&dir.path().join("spool"), stream).expect("read").0.slot.expect("one slot is whole");
        assert_eq!(slot.lost.records, older.0, "cut at {end}");
    }
}

#[test]
fn a_loss_that_was_given_out_is_not_joined_with_a_later_one() {
    let dir = folder();
    let mut queue = Lanes::open(&small(dir.path())).expect("opened").0;
    fill(&mut queue, |counters| counters.lost_records > 0);
    let stream = queue.counters().stream;
    let Item::Gap(first) = queue.next_after(stream, 0).expect("read") else { panic!("a loss") };
    fill(&mut queue, |counters| counters.lost_records > first.to);
    let Item::Gap(second) = queue.next_after(stream, first.to).expect("read") else { panic!("a loss") };
    assert_eq!(first.samples + second.samples, queue.counters().lost_samples, "each value is declared once");
}

#[test]
fn definitions_that_no_held_record_needs_do_not_go_on_for_ever() {
    let dir = folder();
    let mut queue = Lanes::open(&config(dir.path())).expect("opened").0;
    // Each record is the first and last to use a series.
    for n in 1..=1500u32 {
        let (mut batch, mut local) = (batch(n.into()), local(n.into()));
        batch.columns[0] = Column { series: n, previous: None, ..batch.columns[0].clone() };
        local.baselines.clear();
        queue.append(&batch, &local, vec![series(n)], false).expect("appended");
        ack(&mut queue, n.into());
    }
    let known = queue.definitions_from(queue.counters().stream, 0);
    assert!(known.len() < 600, "{} of 1500", known.len());
    assert!(known.contains(&series(1500)));
    drop(queue);
    let recovery = Lanes::open(&config(dir.path())).expect("opened").1;
    assert_eq!(recovery.dictionary.keys().next_back(), Some(&1500), "the next number is a new one");
}

#[test]
fn acknowledged_segments_are_kept_for_a_rewind_up_to_their_share_and_yield_to_new_data() {
    let dir = folder();
    let config = SpoolConfig { rewind_bytes: 4 * SEGMENT, ..config(dir.path()) };
    let mut queue = Lanes::open(&config).expect("opened").0;
    for n in 1..=100 {
        append(&mut queue, n);
        ack(&mut queue, n);
    }
    let kept = queue.counters().bytes;
    assert!((4 * SEGMENT..7 * SEGMENT).contains(&kept), "{kept}");
    let (records, gaps) = delivered(&mut queue, 0);
    assert_eq!((gaps.len(), gaps[0].reason), (1, LossReason::Rewind));
    assert_eq!(records, (gaps[0].to + 1..=100).collect::<Vec<_>>());
    drop(queue);
    let tight = SpoolConfig { max_bytes: 6 * SEGMENT, ..config };
    let mut queue = Lanes::open(&tight).expect("opened").0;
    (101..=110).for_each(|n| append(&mut queue, n));
    assert_eq!(queue.counters().lost_records, 0, "what is acknowledged goes first");
    assert!(queue.counters().bytes <= tight.max_bytes);
}
