//! Several streams in one spool: the live one, and older ones that are still to be delivered.

use super::*;

fn begin(queue: &mut Lanes, n: u64) {
    assert_eq!(queue.append(&batch(n), &local(n), vec![series(1)], true).expect("appended"), 1);
}

fn append_as(queue: &mut Lanes, n: u64, sequence: u64) {
    assert_eq!(queue.append(&batch(n), &local(n), Vec::new(), false).expect("appended"), sequence);
}

/// Contents of the records of a stream behind `sequence`, and its losses.
fn contents(queue: &mut Lanes, stream: StreamId, mut sequence: u64) -> (Vec<Batch>, Vec<StreamGap>) {
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match queue.next_after(stream, sequence).expect("readable") {
            Item::None => return (records, gaps),
            Item::Gap(gap) => {
                sequence = gap.to;
                gaps.push(gap);
            }
            Item::Record { sequence: next, payload, .. } => {
                records.push(joulebook_proto::convert::decode_batch(&payload).expect("whole"));
                sequence = next;
            }
        }
    }
}

#[test]
fn streams_are_told_oldest_first_and_each_keeps_its_records_over_a_restart() {
    let dir = folder();
    let (mut queue, first) = Lanes::open(&config(dir.path())).expect("opened");
    (1..=10).for_each(|n| append(&mut queue, n));
    begin(&mut queue, 11);
    append_as(&mut queue, 12, 2);
    let told = queue.streams();
    assert_eq!(told.iter().map(|state| (state.highest, state.acked)).collect::<Vec<_>>(), [(10, 0), (2, 0)]);
    assert_eq!((told[0].stream, told[1].stream), (first.stream, queue.counters().stream));
    assert_eq!((queue.counters().waiting, queue.counters().streams), (12, 2));
    drop(queue);
    let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!(queue.streams(), told);
    assert_eq!((again.stream, again.session_epoch), (told[1].stream, first.session_epoch + 1));
    assert_eq!(again.last.as_ref().map(|last| (last.sequence, last.batch.clone())), Some((2, batch(12))));
    let older: Vec<_> = (1..=10).map(batch).collect();
    assert_eq!(contents(&mut queue, told[0].stream, 0), (older, Vec::new()));
    assert_eq!(contents(&mut queue, told[1].stream, 0), (vec![batch(11), batch(12)], Vec::new()));
    let all: Vec<_> = read_all(&dir.path().join("spool")).expect("read").into_iter().map(|one| one.batch).collect();
    assert_eq!(all, (1..=12).map(batch).collect::<Vec<_>>());
}

#[test]
fn a_delivered_stream_goes_and_its_losses_stay_counted() {
    let dir = folder();
    let small = SpoolConfig { max_bytes: 5 * SEGMENT + 2 * LossFile::bytes(), ..config(dir.path()) };
    let (mut queue, first) = Lanes::open(&small).expect("opened");
    (1..=60).for_each(|n| append(&mut queue, n));
    begin(&mut queue, 61);
    let lost = queue.counters().lost_records;
    assert!(lost > 0);
    queue.acked(first.stream, 60).expect("acked");
    assert_eq!((queue.counters().streams, queue.counters().waiting), (1, 1));
    assert_eq!(queue.counters().lost_records, lost);
    assert!(segments(dir.path()).is_empty(), "the first stream's segments are gone");
    drop(queue);
    let (queue, again) = Lanes::open(&small).expect("opened");
    assert_eq!((again.highest_sequence, queue.counters().lost_records), (1, lost));
    assert!(again.session_epoch > first.session_epoch);
}

#[test]
fn a_kill_while_a_delivered_stream_goes_counts_its_losses_once() {
    let dir = folder();
    let small = SpoolConfig { max_bytes: 5 * SEGMENT + 2 * LossFile::bytes(), ..config(dir.path()) };
    let (mut queue, first) = Lanes::open(&small).expect("opened");
    (1..=60).for_each(|n| append(&mut queue, n));
    begin(&mut queue, 61);
    let lost = queue.counters().lost_records;
    let spool = dir.path().join("spool");
    let held = ["loss.bin", "epoch"].map(|name| (name, fs::read(spool.join(name)).expect("read")));
    queue.acked(first.stream, 60).expect("acked");
    drop(queue);
    for (name, bytes) in held {
        fs::write(spool.join(name), bytes).expect("written");
    }
    let (queue, _) = Lanes::open(&small).expect("opened");
    assert_eq!((queue.counters().streams, queue.counters().lost_records), (1, lost));
    assert!(!spool.join("loss.bin").exists(), "its removal is finished");
}

#[test]
fn at_the_cap_the_oldest_stream_loses_first_and_says_so_to_its_last_number() {
    let dir = folder();
    let small = SpoolConfig { max_bytes: 8 * SEGMENT + 2 * LossFile::bytes(), ..config(dir.path()) };
    let (mut queue, first) = Lanes::open(&small).expect("opened");
    (1..=16).for_each(|n| append(&mut queue, n));
    begin(&mut queue, 17);
    let mut made = 1;
    while queue.counters().lost_records < 16 + 3 {
        made += 1;
        append_as(&mut queue, 16 + made, made);
    }
    let live = queue.counters().stream;
    for _ in 0..2 {
        let (records, gaps) = contents(&mut queue, first.stream, 0);
        assert!(records.is_empty());
        assert_eq!(gaps.iter().map(|gap| gap.to - gap.from + 1).sum::<u64>(), 16);
        assert_eq!(gaps.iter().map(|gap| gap.samples).sum::<u64>(), 16);
        let (records, gaps) = contents(&mut queue, live, 0);
        let lost: u64 = gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
        assert_eq!((records.len() as u64 + lost, queue.counters().lost_records), (made, 16 + lost));
        drop(queue);
        queue = Lanes::open(&small).expect("opened").0;
    }
    queue.acked(first.stream, 16).expect("acked");
    assert_eq!(queue.counters().streams, 1);
}

#[test]
fn a_stream_that_was_begun_and_never_used_is_gone_after_a_restart() {
    let dir = folder();
    let (mut queue, first) = Lanes::open(&config(dir.path())).expect("opened");
    (1..=3).for_each(|n| append(&mut queue, n));
    begin(&mut queue, 4);
    let lane = queue.live_queue().dir().to_owned();
    drop(queue);
    let path = segment::path(&lane, 1);
    let (bytes, places) = batches_of(&path);
    for end in [0, 10, places[0].offset as usize, bytes.len() - 1] {
        fs::create_dir_all(&lane).expect("made");
        fs::write(&path, &bytes[..end]).expect("cut");
        let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
        assert_eq!((again.stream, again.highest_sequence), (first.stream, 3), "cut at {end}");
        assert!(!lane.exists());
        assert_eq!(delivered(&mut queue, 0).0, [1, 2, 3]);
    }
}

#[test]
fn no_more_than_eight_streams_are_told_and_the_live_one_is_among_them() {
    let dir = folder();
    let (mut queue, _) = Lanes::open(&config(dir.path())).expect("opened");
    append(&mut queue, 1);
    (2..=12).for_each(|n| begin(&mut queue, n));
    assert_eq!(queue.counters().streams, 12);
    let told = queue.streams();
    assert_eq!((told.len(), told[7].stream), (MAX_LANES, queue.counters().stream));
    for state in &told[..7] {
        queue.acked(state.stream, 1).expect("acked");
    }
    assert_eq!(queue.streams().len(), 5);
}

#[test]
fn a_folder_of_which_nothing_can_be_read_is_left_alone_and_its_number_is_not_used_again() {
    let dir = folder();
    let (mut queue, first) = Lanes::open(&config(dir.path())).expect("opened");
    append(&mut queue, 1);
    begin(&mut queue, 2);
    let lane = queue.live_queue().dir().to_owned();
    drop(queue);
    fs::remove_file(lane.join("epoch")).expect("removed");
    let path = segment::path(&lane, 1);
    let mut bytes = fs::read(&path).expect("read");
    bytes[0] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let (mut queue, again) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!((again.highest_sequence, again.last), (0, None), "another stream, which begins anew");
    assert_ne!(queue.live_queue().dir(), lane);
    append(&mut queue, 1);
    drop(queue);
    let (queue, once_more) = Lanes::open(&config(dir.path())).expect("opened");
    assert_eq!((once_more.stream, once_more.highest_sequence), (again.stream, 1), "and goes on");
    assert_eq!((queue.counters().streams, queue.streams()[0].stream), (2, first.stream));
    assert_eq!(fs::read(path).expect("kept"), bytes);
}
