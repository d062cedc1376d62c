//! The spool: bytes that may be anything, and a spool that was written whole and then damaged.

use arbitrary::Unstructured;
use joulebook_agent::spool::record::{self, CURSOR_MAGIC, HEADER_BYTES, Kind};
use joulebook_agent::spool::{Item, LocalState, Spool, SpoolConfig, SpoolError, SpoolHandle, read_all};
use joulebook_proto::convert::{decode_batch, encode_batch};
use joulebook_units::{Batch, BootId, BootNanos, Column, Point, UnixNanos};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Most records of a spool that is damaged, and most places of damage.
const RECORDS: u64 = 12;
const PLACES: u64 = 4;

/// Headers, frames, payloads and marks: what reads back is what was read.
pub fn records(data: &[u8]) {
    if let Ok(header) = record::decode_header(data) {
        assert_eq!(record::encode_header(&header), data[..HEADER_BYTES], "a header reads back");
    }
    if let Ok(frame) = record::decode_frame(data) {
        assert!(frame.size() <= data.len(), "a frame lies within its bytes");
        let again = record::encode_frame(frame.kind, frame.sequence, frame.payload);
        assert_eq!(again.as_deref(), data.get(..frame.size()), "a frame reads back");
    }
    if let Some(parts) = record::decode_batch(data) {
        let again = record::encode_batch(&parts.extent, &parts.local, parts.wire);
        assert_eq!(record::decode_batch(&again), Some(parts), "a batch reads back");
    }
    if let Some((gap, lost)) = record::decode_gap(data) {
        assert_eq!(record::decode_gap(&record::encode_gap(&gap, lost)), Some((gap, lost)), "a gap reads back");
    }
    if let Some((stream, value)) = record::decode_mark(CURSOR_MAGIC, data) {
        assert_eq!(record::encode_mark(CURSOR_MAGIC, stream, value), data, "a mark reads back");
    }
    if let Some(slot) = record::decode_loss_slot(data) {
        let again = record::encode_loss_slot(&slot).and_then(|bytes| record::decode_loss_slot(&bytes));
        assert_eq!(again, Some(slot), "a slot of losses reads back");
    }
    // The same behind a right checksum: what only a fault of ours could have written.
    for kind in [Kind::Batch, Kind::Dictionary, Kind::Gap] {
        if let Some(bytes) = record::encode_frame(kind, 1, data) {
            let frame = record::decode_frame(&bytes).expect("a frame that was just made");
            assert_eq!((frame.kind, frame.sequence, frame.payload), (kind, 1, data));
        }
    }
}

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
}

/// An empty folder in memory where there is one, the same for each call of a thread.
fn with_folder(run: impl FnOnce(&Path)) {
    FOLDER.with_borrow_mut(|folder| {
        let parent = folder.get_or_insert_with(|| {
            let memory = Path::new("/dev/shm");
            let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            made.expect("a temporary folder")
        });
        let inner = parent.path().join("spool");
        let _ = fs::remove_dir_all(&inner);
        run(&inner);
    });
}

/// A folder whose only segment is these bytes: whatever is read, the spool opens and goes on.
pub fn segment(data: &[u8]) {
    with_folder(|folder| {
        make_folder(folder);
        fs::write(folder.join("seg-0000000000000001.spl"), data).expect("writing");
        let read = read_all(folder).expect("a folder that can be read");
        RUNTIME.with(|runtime| {
            runtime.block_on(async {
                let Ok((spool, recovery)) = Spool::open(&config(folder)) else { return };
                let delivered = deliver(&spool).await;
                assert!(recovery.highest_sequence >= read.last().map_or(0, |record| record.sequence));
                for record in &read {
                    let made = encode_batch(&record.batch).expect("a batch that was read");
                    let same = |(sequence, payload): &(u64, Vec<u8>)| {
                        *sequence == record.sequence && decode_batch(payload).ok() == decode_batch(&made.bytes).ok()
                    };
                    assert!(delivered.iter().any(same), "record {} is read and not delivered", record.sequence);
                }
                close(spool).await;
            });
        });
    });
}

fn make_folder(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder).expect("a new folder");
}

fn config(folder: &Path) -> SpoolConfig {
    SpoolConfig { min_free_bytes: 0, segment_bytes: 4 << 10, ..SpoolConfig::new(folder.to_owned()) }
}

/// Closed and gone, so that its folder can be used again.
async fn close(spool: SpoolHandle) {
    match spool.close().await {
        Ok(()) | Err(SpoolError::Closed) => {}
        Err(error) => panic!("closing: {error}"),
    }
}

/// Everything the spool gives, with every number up to its highest either delivered or declared lost, once.
async fn deliver(spool: &SpoolHandle) -> Vec<(u64, Vec<u8>)> {
    let (stream, mut position, mut delivered) = (spool.stream(), spool.counters().acked, Vec::new());
    loop {
        match spool.next_after(stream, position).await.expect("a spool that was opened") {
            Item::Record { sequence, payload, .. } => {
                assert_eq!(sequence, position + 1, "records come in order");
                delivered.push((sequence, payload.to_vec()));
                position = sequence;
            }
            Item::Gap(gap) => {
                assert!(gap.from == position + 1 && gap.to >= gap.from, "a gap begins where the records end: {gap:?}");
                position = gap.to;
            }
            Item::None => break,
        }
    }
    assert_eq!(position, spool.counters().highest, "every number is accounted for");
    delivered
}

fn batch(sequence: u64, size: u64) -> Batch {
    let rows: Vec<BootNanos> = (0..2).map(|row| BootNanos((2 * sequence + row) * 1_000_000_000)).collect();
    let column = |series: u64| Column {
        series: u32::try_from(series).unwrap_or(u32::MAX),
        previous: None,
        points: rows.iter().map(|at| Point { at: *at, value: sequence * 7 + series + at.0 % 11 }).collect(),
    };
    let columns = (1..=size).map(column).collect();
    Batch { boot: BootId([3; 16]), wall: UnixNanos(1), rows, columns, gaps: Vec::new() }
}

/// A spool of a few records, damaged in a few places while it is closed: what is delivered is as it was written, the
/// rest is declared, and it takes new records.
pub fn damage(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let count = input.int_in_range(1..=RECORDS).unwrap_or(1);
    let size = input.int_in_range(1..=60).unwrap_or(1);
    with_folder(|folder| {
        RUNTIME.with(|runtime| runtime.block_on(damaged(folder, count, size, &mut input)));
    });
}

async fn damaged(folder: &Path, count: u64, size: u64, input: &mut Unstructured<'_>) {
    let (spool, _) = Spool::open(&config(folder)).expect("a new spool");
    for sequence in 1..=count {
        append(&spool, sequence, size).await;
    }
    close(spool).await;
    for _ in 0..input.int_in_range(0..=PLACES).unwrap_or(1) {
        hit(folder, input);
    }
    let (spool, _) = match Spool::open(&config(folder)) {
        Ok(opened) => opened,
        Err(error) => panic!("a damaged spool opens: {error}"),
    };
    for (sequence, payload) in deliver(&spool).await {
        let made = encode_batch(&batch(sequence, size)).expect("a good batch");
        assert_eq!(payload, made.bytes, "record {sequence} is as it was written");
    }
    let next = spool.counters().highest + 1;
    append(&spool, next, size).await;
    assert!(deliver(&spool).await.iter().any(|(sequence, _)| *sequence == next), "it goes on");
    close(spool).await;
}

async fn append(spool: &SpoolHandle, sequence: u64, size: u64) {
    let batch = batch(sequence, size);
    let local = LocalState { boot: batch.boot, at: batch.rows[0], wall: batch.wall, baselines: Vec::new() };
    assert_eq!(spool.append(batch, local, Vec::new()).await.expect("room"), sequence);
}

/// Damages one place of one segment.
fn hit(folder: &Path, input: &mut Unstructured<'_>) {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "spl"));
    files.sort();
    let Ok(path) = input.choose(&files) else { return };
    let mut bytes = fs::read(path).expect("a segment");
    if bytes.is_empty() {
        return;
    }
    let at = input.int_in_range(0..=bytes.len() - 1).unwrap_or(0);
    let end = bytes.len().min(at + 512);
    match input.int_in_range(0..=3).unwrap_or(0u8) {
        0 => bytes[at] ^= 1 << input.int_in_range(0..=7).unwrap_or(0u8),
        1 => bytes[at..end].fill(0),
        2 => bytes.truncate(at),
        _ => bytes.extend_from_slice(input.bytes(input.len().min(64)).unwrap_or_default()),
    }
    fs::write(path, bytes).expect("writing");
}
