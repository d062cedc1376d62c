//! A data folder of much data, written by the product's own code without the network: records as sessions hand them on, hour by
//! hour, and the rows of each hour sealed. Cells are none: their marks are cleared as if they were settled.

use anyhow::{Result, ensure};
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_benches::ours;
use joulebook_benches::workload::Node;
use joulebook_proto::convert::encode_batch;
use joulebook_units::{BootId, BootNanos, StreamId, UnixNanos};
use std::path::Path;
use std::sync::Arc;

const HOUR_SECONDS: usize = 3600;
/// What the nodes' boot clock shows at the first row.
const BOOTED: u64 = 1_000_000_000;

/// So many nodes tell the same from `begin` on, as of `now`.
pub fn rows(data: &Path, node: &Node, nodes: u32, begin: UnixNanos, now: UnixNanos) -> Result<()> {
    let book = Arc::new(Book::open(Arc::new(RocksStore::open(data)?))?);
    let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
    let boot = BootId(1u128.to_be_bytes());
    let stream = |number: u32| StreamId((u128::from(number) + 1).to_be_bytes());
    for number in 0..nodes {
        let opening = Opening {
            inventory: ours::inventory(number, node)?,
            poller: None,
            epoch: 1,
            boot,
            boot_time: BootNanos(BOOTED),
            wall: begin,
            received: begin,
            streams: vec![stream(number)],
        };
        let series =
            (1u32..).zip(&node.series).map(|(place, (kind, of, _))| (place, ours::subject(number, *kind, *of)));
        let session = u64::from(number);
        let opened =
            [Request::Open(session, Box::new(opening)), Request::Define(session, stream(number), series.collect())];
        refused(&intake.apply(now, opened.into())?)?;
    }
    for (hour, first) in (0..node.rows.len()).step_by(HOUR_SECONDS).enumerate() {
        let starts = (first..node.rows.len().min(first + HOUR_SECONDS)).step_by(ours::ROWS);
        let batches = starts.map(|start| {
            let batch = ours::batch(node, boot, BOOTED, begin, start);
            Ok(((start / ours::ROWS) as u64 + 1, encode_batch(&batch)?, batch))
        });
        let batches = batches.collect::<Result<Vec<_>>>()?;
        for number in 0..nodes {
            let records = batches.iter().map(|(sequence, payload, batch)| Request::Record {
                session: u64::from(number),
                stream: stream(number),
                sequence: *sequence,
                hash: payload.hash,
                payload: payload.bytes.to_vec(),
                batch: Some(Box::new(batch.clone())),
            });
            refused(&intake.apply(now, records.collect())?)?;
        }
        let mut marks: Vec<_> = book.dirty(usize::MAX);
        marks.sort_unstable();
        for of_node in marks.chunk_by(|one, next| one.0 == next.0) {
            let cleared: Vec<_> = of_node.iter().map(|(_, start, generation)| (*start, *generation)).collect();
            book.settle(of_node[0].0, &[], &cleared)?;
        }
        // The hour before is over whatever this one still changes at its end.
        let over = begin.plus_seconds(i64::try_from((hour + 1) * HOUR_SECONDS)?);
        book.seal(over, &|| false)?;
    }
    book.seal(now, &|| false)?;
    Ok(())
}

/// Nothing may be refused.
fn refused(replies: &[Reply]) -> Result<()> {
    let refused = replies.iter().find(|reply| match reply {
        Reply::Refused(_) => true,
        Reply::Ack { rejects, .. } => !rejects.is_empty(),
        _ => false,
    });
    ensure!(refused.is_none(), "{refused:?}");
    Ok(())
}
