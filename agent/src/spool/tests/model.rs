//! Random actions against a simple model: every durable record is delivered once and in order or declared lost, whatever
//! happens, and the count of losses is exact.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Debug, Clone)]
enum Action {
    Append,
    /// The first batch of a new stream.
    Begin,
    Ack(Index, Index),
    Reopen,
    /// An append that is cut at any byte.
    Crash(Index, bool),
    /// The aggregator asks for what was acknowledged long ago.
    Rewind(Index),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let index = any::<Index>;
    let action = prop_oneof![
        12 => Just(Action::Append),
        1 => Just(Action::Begin),
        3 => (index(), index()).prop_map(|(stream, to)| Action::Ack(stream, to)),
        1 => Just(Action::Reopen),
        1 => (index(), prop::bool::weighted(0.2)).prop_map(|(cut, begins)| Action::Crash(cut, begins)),
        1 => index().prop_map(Action::Rewind),
    ];
    vec(action, 1..160)
}

/// A stream as it has to be.
#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// What was appended, by number from 1.
    made: Vec<u64>,
    acked: u64,
}

struct Rig {
    dir: TempDir,
    config: SpoolConfig,
    spool: Lanes,
    streams: Vec<Stream>,
    /// Batches made so far.
    made: u64,
    /// Records that readers were told are lost and that are acknowledged.
    lost: u64,
}

impl Rig {
    fn new(cap: u64, rewind: u64) -> Self {
        let dir = folder();
        let max_bytes = cap * SEGMENT + LossFile::bytes();
        let config = SpoolConfig { max_bytes, rewind_bytes: rewind * SEGMENT, ..config(dir.path()) };
        let spool = Lanes::open(&config).expect("opened").0;
        let first = Stream { id: spool.counters().stream, made: Vec::new(), acked: 0 };
        Self { dir, config, spool, streams: vec![first], made: 0, lost: 0 }
    }

    fn append(&mut self, begins: bool) -> u64 {
        let n = self.made + 1;
        self.spool.append(&batch(n), &local(n), vec![series(1)], begins).expect("appended")
    }

    /// Makes an append part of the model.
    fn keep(&mut self, begins: bool) {
        self.made += 1;
        if begins {
            self.streams.push(Stream { id: self.spool.counters().stream, made: Vec::new(), acked: 0 });
        }
        self.streams.last_mut().expect("one").made.push(self.made);
    }

    /// Reads a stream behind `from`, at most to `to`; gives the numbers of records and of losses with their reason.
    fn read(&mut self, index: usize, from: u64, to: u64) -> (Vec<u64>, Vec<(u64, LossReason)>) {
        let (id, made) = (self.streams[index].id, self.streams[index].made.clone());
        let (mut at, mut records, mut lost) = (from, Vec::new(), Vec::new());
        while at < to {
            match self.spool.next_after(id, at).expect("readable") {
                Item::None => break,
                Item::Gap(gap) => {
                    assert_eq!(gap.from, at + 1, "a gap begins with the next number");
                    lost.extend((gap.from..=gap.to.min(to)).map(|number| (number, gap.reason)));
                    at = gap.to;
                }
                Item::Record { sequence, payload, .. } => {
                    assert_eq!(sequence, at + 1, "numbers are in order");
                    let content = joulebook_proto::convert::decode_batch(&payload).expect("whole");
                    assert_eq!(content, batch(made[sequence as usize - 1]), "what was appended");
                    records.push(sequence);
                    at = sequence;
                }
            }
        }
        (records, lost)
    }

    fn ack(&mut self, index: usize, to: u64) {
        let from = self.streams[index].acked;
        let (_, lost) = self.read(index, from, to);
        self.lost += lost.len() as u64;
        self.streams[index].acked = to;
        self.spool.acked(self.streams[index].id, to).expect("acked");
    }

    /// Closes the spool and opens it again.
    fn reopen(&mut self, between: impl FnOnce()) {
        // The spool's lock has to go before it is opened again.
        let spare = folder();
        let other = Lanes::open(&config(spare.path())).expect("opened").0;
        drop(std::mem::replace(&mut self.spool, other));
        between();
        self.spool = Lanes::open(&self.config).expect("opened").0;
    }

    /// The newest segment of the live stream.
    fn newest(&mut self) -> Option<PathBuf> {
        let dir = self.spool.live_queue().dir().to_owned();
        let entries = fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("listed").path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "spl")).max()
    }

    /// An append that is cut: it never returned, so the model does not know it. What it synced before its own record (a
    /// new segment, the loss of a segment that it dropped) is on the disk by then.
    fn crash(&mut self, cut: Index, begins: bool) {
        let before = (self.newest(), self.spool.counters().lost_records);
        let length = before.0.as_ref().map_or(0, |path| fs::read(path).expect("read").len());
        self.spool.save_cursors().expect("saved");
        self.append(begins);
        let after = (self.newest(), self.spool.counters().lost_records);
        let path = after.0.clone().expect("one");
        let (bytes, places) = batches_of(&path);
        let start = places.last().map_or(0, |place| place.offset as usize);
        let first = if before == after { length } else { start };
        self.reopen(|| fs::write(&path, &bytes[..first + cut.index(bytes.len() - first)]).expect("cut"));
    }

    fn act(&mut self, action: Action) {
        let fresh = self.streams.last().expect("one").made.is_empty();
        match action {
            Action::Append => {
                let number = self.append(false);
                self.keep(false);
                assert_eq!(number, self.streams.last().expect("one").made.len() as u64);
            }
            Action::Begin if fresh => {}
            Action::Begin => {
                assert_eq!(self.append(true), 1);
                self.keep(true);
            }
            Action::Ack(stream, to) => {
                let index = stream.index(self.streams.len());
                let made = self.streams[index].made.len();
                if made > 0 {
                    self.ack(index, self.streams[index].acked.max(to.index(made) as u64 + 1));
                }
            }
            Action::Reopen => {
                self.spool.save_cursors().expect("saved");
                self.reopen(|| {});
            }
            Action::Crash(cut, begins) => self.crash(cut, begins && !fresh),
            Action::Rewind(stream) => {
                let index = stream.index(self.streams.len());
                let (id, acked) = (self.streams[index].id, self.streams[index].acked);
                if self.spool.streams().iter().any(|state| state.stream == id) {
                    let (records, lost) = self.read(index, 0, acked);
                    assert_eq!(records.len() + lost.len(), acked as usize, "what is no longer held is declared");
                    assert!(lost.iter().all(|(_, reason)| *reason == LossReason::Rewind));
                }
            }
        }
    }

    fn check(&self) {
        let (counters, live) = (self.spool.counters(), self.streams.last().expect("one"));
        assert_eq!((counters.stream, counters.highest, counters.acked), (live.id, live.made.len() as u64, live.acked));
        let waiting: u64 = self.streams.iter().map(|stream| stream.made.len() as u64 - stream.acked).sum();
        assert_eq!(counters.waiting, waiting, "a stream that is not delivered is not forgotten");
        // A stream of which nothing is left but its losses still has a place to say so.
        assert!(counters.bytes <= self.config.max_bytes + (counters.streams - 1) * (SEGMENT / 2 + LossFile::bytes()));
        assert!(counters.lost_records >= self.lost, "loss counters never fall");
    }
}

/// 48 cases, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_actions_lose_nothing_silently(actions in actions(), cap in 4u64..40, rewind in 0u64..4) {
        let mut rig = Rig::new(cap, rewind);
        for action in actions {
            rig.act(action);
            rig.check();
        }
        for index in 0..rig.streams.len() {
            let (acked, highest) = (rig.streams[index].acked, rig.streams[index].made.len() as u64);
            let (records, lost) = rig.read(index, acked, highest);
            prop_assert_eq!(records.len() as u64 + lost.len() as u64, highest - acked);
            prop_assert!(lost.iter().all(|(_, reason)| *reason == LossReason::SpoolFull));
            rig.lost += lost.len() as u64;
        }
        prop_assert_eq!(rig.spool.counters().lost_records, rig.lost, "counted exactly, whatever fell in between");
        prop_assert!(rig.dir.path().exists());
    }
}
