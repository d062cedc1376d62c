//! Damage of every kind at seeded places (PROC-P8): nothing panics, nothing altered is delivered, and what is lost is
//! counted. `CORRUPTIONS=10000` is the long form, `SEED=` repeats one.

use super::*;

const RECORDS: u64 = 40;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    FlippedBit,
    ZeroedSector,
    Cut,
    Garbage,
    SwappedBlocks,
}

const KINDS: [Damage; 5] =
    [Damage::FlippedBit, Damage::ZeroedSector, Damage::Cut, Damage::Garbage, Damage::SwappedBlocks];

fn damage(bytes: &mut Vec<u8>, kind: Damage, random: &mut Random) {
    const SECTOR: usize = 512;
    let at = random.below(bytes.len());
    match kind {
        Damage::FlippedBit => bytes[at] ^= 1 << random.below(8),
        Damage::ZeroedSector => {
            let start = at / SECTOR * SECTOR;
            let end = (start + SECTOR).min(bytes.len());
            bytes[start..end].fill(0);
        }
        Damage::Cut => bytes.truncate(at),
        Damage::Garbage => bytes.extend((0..=random.below(2000)).map(|_| random.next() as u8).collect::<Vec<_>>()),
        Damage::SwappedBlocks => {
            let blocks = bytes.len() / SECTOR;
            let (a, b) = (random.below(blocks), random.below(blocks));
            if blocks > 0 {
                (0..SECTOR).for_each(|offset| bytes.swap(a * SECTOR + offset, b * SECTOR + offset));
            }
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn damage_of_any_kind_alters_nothing_and_is_counted() {
    let whole = folder();
    filled(whole.path(), RECORDS);
    let spool = whole.path().join("spool");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&spool).expect("listed").map(|entry| entry.expect("listed").path()).collect();
    files.retain(|path| fs::metadata(path).expect("examined").len() > 0);
    files.sort();
    let last = segments(whole.path()).pop().expect("one");
    let (seed, count) = (setting("SEED", 1), setting("CORRUPTIONS", 1000));
    let (mut lost_in_all, mut cut_off) = (0, 0);
    for number in seed..seed + count {
        let mut random = Random(number);
        let kind = KINDS[random.below(KINDS.len())];
        let path = &files[random.below(files.len())];
        let what = format!("SEED={number} CORRUPTIONS=1: {kind:?} in {}", path.display());
        let dir = copied(whole.path());
        let target = dir.path().join("spool").join(path.file_name().expect("named"));
        let mut bytes = fs::read(&target).expect("read");
        damage(&mut bytes, kind, &mut random);
        fs::write(&target, &bytes).expect("written");

        let (mut queue, recovery) = Lanes::open(&config(dir.path())).unwrap_or_else(|error| panic!("{what}: {error}"));
        let highest = recovery.highest_sequence;
        assert!(highest <= RECORDS + 1, "{what}");
        // A tail that is gone looks like one that was never written; elsewhere the numbers that follow tell.
        if *path != last {
            assert_eq!(highest, RECORDS, "{what}");
        }
        // Whether a record is as it was written is looked at here.
        let (records, gaps) = delivered(&mut queue, 0);
        let lost: u64 = gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
        assert_eq!(records.len() as u64 + lost, highest, "{what}");
        assert_eq!(queue.counters().lost_records, lost, "{what}");
        if kind == Damage::FlippedBit {
            assert!(records.len() as u64 >= RECORDS - 1, "{what}: one bit costs one record at most, not {lost}");
            assert!(recovery.dictionary.contains_key(&1), "{what}");
        }
        let n = highest + 1;
        assert_eq!(queue.append(&batch(n), &local(n), vec![series(1)], false).expect("appended"), n, "{what}");
        drop(queue);
        let (mut queue, _) = Lanes::open(&config(dir.path())).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(delivered(&mut queue, highest), (vec![n], Vec::new()), "{what}: it goes on behind the damage");
        assert_eq!(queue.counters().lost_records, lost, "{what}");
        lost_in_all += lost;
        cut_off += RECORDS.saturating_sub(highest);
    }
    assert!(count < 100 || (lost_in_all > count / 20 && cut_off > 0), "too little was hit: {lost_in_all} {cut_off}");
}
