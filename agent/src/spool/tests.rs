use super::lanes::Lanes;
use super::loss::LossFile;
use super::record::Kind;
use super::segment::{self, Place};
use super::*;
use joulebook_units::{Column, Point};
use std::fs;
use tempfile::TempDir;

mod corruption;
mod losses;
mod model;
mod streams;

const SEGMENT: u64 = 4096;

fn config(dir: &Path) -> SpoolConfig {
    let (dir, segment_bytes, min_free_bytes) = (dir.join("spool"), SEGMENT, 0);
    SpoolConfig { dir, max_bytes: 1 << 20, min_free_bytes, segment_bytes, rewind_bytes: 0, keep_acked: false }
}

/// Batch number `n`: one row, one value, and the subject that explains it.
fn batch(n: u64) -> Batch {
    let at = BootNanos(n * 1_000_000_000);
    let previous = (n > 1).then(|| Point { at: BootNanos((n - 1) * 1_000_000_000), value: (n - 1) * 7 });
    let column = Column { series: 1, previous, points: vec![Point { at, value: n * 7 }] };
    Batch { boot: BootId([3; 16]), wall: UnixNanos(5), rows: vec![at], columns: vec![column], gaps: Vec::new() }
}

fn local(n: u64) -> LocalState {
    let at = BootNanos(n * 1_000_000_000);
    // Many baselines: segments of 4 KiB fill after a few records.
    let baselines = (1..=20).map(|series| Baseline { series, raw: n, value: n * 7, at, epoch: 1 }).collect();
    LocalState { boot: BootId([3; 16]), at, wall: UnixNanos(5), baselines }
}

fn series(number: u32) -> (u32, Subject) {
    (number, Subject::Memory { workload: format!("process/{number}@1") })
}

fn append(queue: &mut Lanes, n: u64) {
    let new = if n == 1 { vec![series(1)] } else { Vec::new() };
    assert_eq!(queue.append(&batch(n), &local(n), new, false).expect("appended"), n);
}

fn ack(queue: &mut Lanes, sequence: u64) {
    let stream = queue.counters().stream;
    queue.acked(stream, sequence).expect("acked");
}

fn filled(dir: &Path, count: u64) -> Recovery {
    let (mut queue, recovery) = Lanes::open(&config(dir)).expect("opened");
    (1..=count).for_each(|n| append(&mut queue, n));
    recovery
}

/// Everything after `sequence`: numbers of records and gaps, in order.
fn delivered(queue: &mut Lanes, mut sequence: u64) -> (Vec<u64>, Vec<StreamGap>) {
    let stream = queue.counters().stream;
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match queue.next_after(stream, sequence).expect("readable") {
            Item::None => return (records, gaps),
            Item::Gap(gap) => {
                assert_eq!(gap.from, sequence + 1, "a gap begins with the next number");
                sequence = gap.to;
                gaps.push(gap);
            }
            Item::Record { sequence: next, payload, hash, samples, .. } => {
                assert_eq!(next, sequence + 1, "numbers are in order");
                assert_eq!(joulebook_proto::convert::decode_batch(&payload).expect("whole"), batch(next));
                assert_eq!((hash, samples), (joulebook_proto::convert::payload_hash(&payload), 1));
                sequence = next;
                records.push(next);
            }
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("spool")).expect("listed").map(|entry| entry.expect("listed").path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "spl")).collect();
    found.sort();
    found
}

fn batches_of(path: &Path) -> (Vec<u8>, Vec<Place>) {
    let bytes = fs::read(path).expect("read");
    let first = segment::sequence_of(path.file_name().expect("named").to_str().expect("text")).expect("a segment");
    let frames = segment::scan(&bytes, first).frames;
    (bytes, frames.into_iter().filter(|place| place.kind == Kind::Batch).collect())
}

/// A folder in memory where there is one: what is tested here is what is written, not how long a disk takes.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

#[test]
fn records_come_back_in_order_after_a_restart() {
    let dir = folder();
    let first = filled(dir.path(), 30);
    assert!(segments(dir.path()).len() > 3);
    let (mut queue, recovery) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!((recovery.stream, recovery.session_epoch), (first.stream, first.session_epoch + 1));
    assert_eq!(recovery.highest_sequence, 30);
    assert_eq!(recovery.dictionary, BTreeMap::from([series(1)]));
    assert_eq!(recovery.last, Some(LastRecord { sequence: 30, batch: batch(30), local: local(30) }));
    assert_eq!(delivered(&mut queue, 0), ((1..=30).collect(), Vec::new()));
    append(&mut queue, 31);
    assert_eq!(delivered(&mut queue, 30).0, [31]);
    let stored = read_all(&dir.path().join("spool")).expect("read");
    assert_eq!(stored.len(), 31);
    assert!(stored.iter().zip(1..).all(|(record, n)| record.batch == batch(n) && record.local == local(n)));
}

#[test]
fn b71_the_last_record_cut_at_any_byte_is_removed_and_nothing_else() {
    let dir = folder();
    filled(dir.path(), 12);
    let last = segments(dir.path()).pop().expect("one");
    let (bytes, places) = batches_of(&last);
    let start = places.last().expect("one").offset as usize;
    assert_eq!(places.last().expect("one").sequence, 12);
    for end in start..bytes.len() {
        fs::write(&last, &bytes[..end]).expect("written");
        let (mut queue, recovery) = Lanes::open(&config(dir.path())).expect("opened");
        assert_eq!(recovery.highest_sequence, 11, "cut at {end}");
        assert_eq!(delivered(&mut queue, 0), ((1..=11).collect(), Vec::new()));
        append(&mut queue, 12);
        assert_eq!(delivered(&mut queue, 0), ((1..=12).collect(), Vec::new()));
    }
}

/// A copy of a spool's folder in a fresh one.
fn copied(from: &Path) -> TempDir {
    let to = folder();
    fs::create_dir(to.path().join("spool")).expect("made");
    for entry in fs::read_dir(from.join("spool")).expect("listed") {
        let path = entry.expect("listed").path();
        fs::copy(&path, to.path().join("spool").join(path.file_name().expect("named"))).expect("copied");
    }
    to
}

#[test]
fn b72_a_flipped_bit_makes_a_gap_of_that_record_only() {
    let whole = folder();
    filled(whole.path(), 12);
    for k in [1, 4, 9, 12] {
        let holds = |path: &PathBuf| batches_of(path).1.iter().any(|place| place.sequence == k);
        let index = segments(whole.path()).iter().position(holds).expect("held");
        let (bytes, places) = batches_of(&segments(whole.path())[index]);
        let place = places.into_iter().find(|place| place.sequence == k).expect("held");
        for bit in (0..place.size * 8).step_by(397).chain([0, 7, 24, 33, 70]) {
            let dir = copied(whole.path());
            let mut bytes = bytes.clone();
            bytes[(place.offset + bit / 8) as usize] ^= 1 << (bit % 8);
            fs::write(&segments(dir.path())[index], &bytes).expect("written");
            let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
            let (records, gaps) = delivered(&mut queue, 0);
            assert_eq!(records, (1..=12).filter(|n| *n != k).collect::<Vec<_>>(), "bit {bit} of record {k}");
            assert_eq!(gaps.len(), 1);
            assert_eq!((gaps[0].from, gaps[0].to, gaps[0].reason), (k, k, LossReason::Corrupt));
            // Asked again, also after a restart, nothing is counted twice; the number is never used again.
            assert_eq!((queue.counters().lost_records, queue.counters().lost_by_reason.corrupt), (1, 1));
            append(&mut queue, 13);
            drop(queue);
            let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
            assert_eq!(delivered(&mut queue, 0).1, gaps);
            assert_eq!(delivered(&mut queue, 12).0, [13]);
            assert_eq!(queue.counters().lost_records, 1);
        }
    }
}

#[test]
fn zeros_after_the_last_record_end_a_segment() {
    let dir = folder();
    filled(dir.path(), 3);
    let last = segments(dir.path()).pop().expect("one");
    let mut bytes = fs::read(&last).expect("read");
    bytes.extend([0; 5000]);
    fs::write(&last, bytes).expect("written");
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    append(&mut queue, 4);
    assert_eq!(delivered(&mut queue, 0), ((1..=4).collect(), Vec::new()));
}

#[test]
fn b73_foreign_files_are_left_alone_and_empty_segments_removed() {
    let dir = folder();
    filled(dir.path(), 5);
    let spool = dir.path().join("spool");
    fs::write(spool.join("core"), b"dump").expect("written");
    fs::write(spool.join("seg-zz.spl"), b"text").expect("written");
    fs::create_dir(spool.join("seg-00000000000000aa.spl")).expect("made");
    fs::write(spool.join("seg-00000000000000bb.spl"), b"").expect("written");
    fs::write(spool.join("seg-00000000000000cc.spl"), [0; 8192]).expect("written");
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!(delivered(&mut queue, 0).0, [1, 2, 3, 4, 5]);
    append(&mut queue, 6);
    assert_eq!(queue.counters().foreign, 1);
    for (name, kept) in [("core", true), ("seg-zz.spl", true), ("seg-00000000000000aa.spl", true)] {
        assert_eq!(spool.join(name).exists(), kept, "{name}");
    }
    assert!(!spool.join("seg-00000000000000bb.spl").exists());
    assert!(!spool.join("seg-00000000000000cc.spl").exists());
}

#[test]
fn b74_a_missing_damaged_or_hasty_cursor_loses_nothing() {
    for damage in [None, Some(b"garbage".to_vec())] {
        let dir = folder();
        let recovery = filled(dir.path(), 6);
        let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
        ack(&mut queue, 6);
        drop(queue);
        let cursor = dir.path().join("spool/cursor");
        fs::remove_file(&cursor).expect("it was saved");
        if let Some(bytes) = damage {
            fs::write(&cursor, bytes).expect("written");
        }
        let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
        assert_eq!((again.stream, queue.counters().acked), (recovery.stream, 0));
        let (records, _) = delivered(&mut queue, 0);
        assert_eq!(records.last(), Some(&6));
    }
    let dir = folder();
    let recovery = filled(dir.path(), 6);
    let bytes = record::encode_mark(record::CURSOR_MAGIC, recovery.stream, 40);
    fs::write(dir.path().join("spool/cursor"), bytes).expect("written");
    let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
    // Numbers up to 40 were used once: they are not used again.
    assert_eq!(again.highest_sequence, 40);
    assert_eq!(queue.append(&batch(41), &local(41), Vec::new(), false).expect("appended"), 41);
    assert_eq!(delivered(&mut queue, 40).0, [41]);
    drop(queue);
    let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!(again.highest_sequence, 41);
    assert_eq!(delivered(&mut queue, 40).0, [41]);
}

#[test]
fn b75_a_folder_without_parent_or_that_is_none_is_refused() {
    let dir = folder();
    let missing = SpoolConfig { dir: dir.path().join("a/b"), ..config(dir.path()) };
    assert_eq!(Lanes::open(&missing).expect_err("refused").exit_code(), 78);
    fs::write(dir.path().join("file"), b"").expect("written");
    let file = SpoolConfig { dir: dir.path().join("file"), ..config(dir.path()) };
    assert_eq!(Lanes::open(&file).expect_err("refused").exit_code(), 78);
    assert!(!dir.path().join("spool").exists(), "nothing was written");
}

#[test]
fn b62_a_cap_below_two_segments_or_above_the_file_system_is_refused() {
    let dir = folder();
    for max_bytes in [0, SEGMENT, 2 * SEGMENT - 1, 1 << 62] {
        let wrong = SpoolConfig { max_bytes, ..config(dir.path()) };
        assert_eq!(Lanes::open(&wrong).expect_err("refused").exit_code(), 78, "{max_bytes}");
    }
    assert!(Lanes::open(&SpoolConfig { max_bytes: 2 * SEGMENT, ..config(dir.path()) }).is_ok());
}

#[test]
fn b77_a_segment_of_a_newer_format_is_kept_and_the_agent_runs() {
    let dir = folder();
    let before = filled(dir.path(), 2);
    let path = segments(dir.path()).pop().expect("one");
    let mut bytes = fs::read(&path).expect("read");
    record::set_version(&mut bytes, 2);
    fs::write(&path, &bytes).expect("written");
    let (mut queue, recovery) = Lanes::open(&config(dir.path())).expect("opened");
    assert_ne!(recovery.stream, before.stream, "its numbers are unknown: another stream is begun");
    assert_eq!((queue.counters().newer, recovery.highest_sequence), (1, 0));
    append(&mut queue, 1);
    drop(queue);
    let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!((again.stream, queue.counters().newer), (recovery.stream, 1), "the other stream goes on");
    assert_eq!(delivered(&mut queue, 0).0, [1]);
    assert_eq!(fs::read(&path).expect("kept"), bytes);
}

#[test]
fn b78_a_second_agent_is_refused_and_the_first_goes_on() {
    let dir = folder();
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    let refused = Lanes::open(&config(dir.path())).expect_err("locked");
    assert!(matches!(refused, SpoolError::Locked { .. }));
    assert_eq!(refused.exit_code(), 75);
    append(&mut queue, 1);
}

#[test]
fn acknowledged_segments_go_and_the_newest_record_stays() {
    let dir = folder();
    filled(dir.path(), 30);
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    ack(&mut queue, 30);
    assert_eq!(segments(dir.path()).len(), 1);
    drop(queue);
    let (queue, recovery) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!(recovery.last.map(|last| last.sequence), Some(30));
    assert_eq!((queue.counters().acked, queue.counters().highest), (30, 30));
}

#[test]
fn a_full_spool_drops_the_oldest_and_counts_it_exactly_across_restarts() {
    let dir = folder();
    let small = SpoolConfig { max_bytes: 4 * SEGMENT + LossFile::bytes(), ..config(dir.path()) };
    let (mut queue, _) = Lanes::open(&small).expect("opened");
    (1..=60).for_each(|n| append(&mut queue, n));
    assert!(queue.counters().bytes <= small.max_bytes);
    for _ in 0..2 {
        let (records, gaps) = delivered(&mut queue, 0);
        let gap = gaps.first().expect("declared");
        assert_eq!((gaps.len(), gap.from, gap.reason), (1, 1, LossReason::SpoolFull));
        assert_eq!(records, (gap.to + 1..=60).collect::<Vec<_>>());
        assert_eq!((gap.samples, queue.counters().lost_samples), (gap.to, gap.to));
        assert_eq!(queue.counters().lost_records, gap.to);
        let span = gap.span.expect("one boot");
        assert_eq!((span.first, span.last), (batch(1).rows[0], batch(gap.to).rows[0]));
        drop(queue);
        queue = Lanes::open(&small).expect("opened").0;
    }
}

#[test]
fn acknowledged_segments_are_kept_for_audits_up_to_the_cap_without_loss() {
    let dir = folder();
    let kept = SpoolConfig { max_bytes: 4 * SEGMENT + LossFile::bytes(), keep_acked: true, ..config(dir.path()) };
    let (mut queue, _) = Lanes::open(&kept).expect("opened");
    for n in 1..=60 {
        append(&mut queue, n);
        ack(&mut queue, n);
    }
    assert!(segments(dir.path()).len() >= 3);
    assert_eq!(queue.counters().lost_records, 0);
    assert_eq!(delivered(&mut queue, 60), (Vec::new(), Vec::new()));
}

#[test]
fn a_mark_below_what_was_acknowledged_gets_what_is_held_and_a_rewind_gap() {
    let dir = folder();
    filled(dir.path(), 30);
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    ack(&mut queue, 20);
    let (records, gaps) = delivered(&mut queue, 3);
    assert_eq!((gaps.len(), gaps[0].from, gaps[0].reason), (1, 4, LossReason::Rewind));
    assert_eq!(records, (gaps[0].to + 1..=30).collect::<Vec<_>>());
    assert_eq!(queue.counters().lost_records, 0);
}

#[test]
fn a_record_too_odd_to_send_is_refused_and_its_number_declared_lost() {
    let dir = folder();
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    append(&mut queue, 1);
    let odd = Batch { rows: Vec::new(), ..batch(2) };
    assert!(matches!(queue.append(&odd, &local(2), Vec::new(), false), Err(SpoolError::Refused(_))));
    append(&mut queue, 3);
    let (records, gaps) = delivered(&mut queue, 0);
    assert_eq!((records, gaps.len()), (vec![1, 3], 1));
    assert_eq!((gaps[0].from, gaps[0].to, gaps[0].samples), (2, 2, 1));
    assert_eq!((queue.counters().lost_records, queue.counters().lost_samples), (1, 1));
}

#[tokio::test]
async fn a_handle_appends_tells_and_drains() {
    let dir = folder();
    let (handle, _) = Spool::open(&config(dir.path())).expect("opened");
    assert!(handle.drained(Duration::ZERO).await);
    assert_eq!(handle.append(batch(1), local(1), vec![series(1), series(2)]).await.expect("appended"), 1);
    let stream = handle.stream();
    assert_eq!(handle.definitions_from(stream, 0).await.expect("told"), [series(1), series(2)]);
    assert_eq!(handle.definitions_from(stream, 1).await.expect("told"), [series(2)]);
    assert!(!handle.drained(Duration::ZERO).await);
    assert!(matches!(handle.next_after(stream, 0).await, Ok(Item::Record { sequence: 1, dictionary_upto: 2, .. })));
    let (drained, acked) = tokio::join!(handle.drained(Duration::from_secs(60)), handle.acked(stream, 1));
    assert!(drained && acked.is_ok());
    handle.close().await.expect("closed");
    assert!(matches!(handle.append(batch(2), local(2), Vec::new()).await, Err(SpoolError::Closed)));
    let (again, recovery) = Spool::open(&config(dir.path())).expect("opened");
    assert_eq!((recovery.highest_sequence, again.counters().acked), (1, 1));
}

#[tokio::test]
async fn a_question_that_changes_nothing_wakes_nobody() {
    let dir = folder();
    let (spool, _) = Spool::open(&config(dir.path())).expect("opened");
    let mut watched = spool.watch();
    watched.mark_unchanged();
    assert_eq!(spool.next_after(spool.stream(), 0).await.expect("answered"), Item::None);
    assert!(!watched.has_changed().expect("open"), "who waits for records would ask again for ever");
}
