//! What comes over gRPC: batches, messages, sessions, questions.

use arbitrary::{Result, Unstructured};
use joulebook_aggregator::clock::Clock;
use joulebook_aggregator::config::Config;
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::query::Query;
use joulebook_aggregator::store::Book;
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_proto::convert::{
    decode_batch, encode_batch, hello_to_inventory, inventory_to_hello, payload_hash, series_from_wire, series_to_wire,
    stream_gap_from_wire, stream_gap_to_wire,
};
use joulebook_proto::query::{ExplainRequest, GetEnergyRequest, GetSciRequest};
use joulebook_proto::telemetry::StreamRequest;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_units::{
    Batch, BootId, BootNanos, Column, Component, Hardware, Inventory, LossReason, LostSpan, Method, Milliwatts,
    Placement, Point, Source, StreamGap, StreamId, Subject, UnixNanos,
};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

const NOW: UnixNanos = UnixNanos(1_790_000_000 * UnixNanos::PER_SECOND);

/// A payload, and what would be in it: a batch that is taken comes back as it is.
pub fn batch(data: &[u8]) {
    let packed = zstd::bulk::compress(data, 1).expect("compression");
    for payload in [data, &packed] {
        if let Ok(batch) = decode_batch(payload) {
            let again = encode_batch(&batch).expect("what was decoded can be encoded");
            assert_eq!(decode_batch(&again.bytes).ok(), Some(batch), "a batch comes back");
        }
    }
}

/// A message of an agent: what is understood comes back as it is.
pub fn wire(data: &[u8]) {
    let Ok(StreamRequest { message: Some(message) }) = StreamRequest::decode(data) else { return };
    match message {
        Up::Hello(hello) => {
            if let Ok(inventory) = hello_to_inventory(&hello) {
                let again = hello_to_inventory(&inventory_to_hello(&inventory));
                assert_eq!(again.ok(), Some(inventory), "an inventory comes back");
            }
        }
        Up::Dictionary(dictionary) => {
            for series in dictionary.series {
                if let Ok((number, subject)) = series_from_wire(series) {
                    let again = series_from_wire(series_to_wire(number, &subject));
                    assert_eq!(again.ok(), Some((number, subject)), "a series comes back");
                }
            }
        }
        Up::Gap(gap) => {
            if let Ok((stream, gap)) = stream_gap_from_wire(&gap) {
                let again = stream_gap_from_wire(&stream_gap_to_wire(stream, &gap));
                assert_eq!(again.ok(), Some((stream, gap)), "a gap comes back");
            }
        }
        Up::Record(record) => batch(&record.payload),
        Up::OpenStream(_) => {}
    }
}

/// Requests of several sessions in any order: marks never fall, each request is answered, and what is stored, refused
/// or lost is what was sent.
pub fn session(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let book = Arc::new(Book::open(Arc::new(MemoryStore::new())).expect("an empty store"));
    let mut intake = Intake::new(Arc::clone(&book), Arc::new(Counters::default()));
    let mut marks: BTreeMap<StreamId, u64> = BTreeMap::new();
    let mut now = NOW;
    while !input.is_empty() {
        let Ok(requests) = group(&mut input) else { break };
        now = now.plus_seconds(i64::from(input.int_in_range(0..=90u8).unwrap_or(0)));
        let expected = requests.len();
        let replies = intake.apply(now, requests).expect("a store in memory does not fail");
        assert_eq!(replies.len(), expected, "each request is answered");
        for stream in book.status().streams {
            let mark = marks.entry(stream.id).or_default();
            assert!(stream.acked >= *mark, "the mark of {} falls from {mark} to {}", stream.id, stream.acked);
            assert!(stream.lost_records <= stream.acked, "more is lost than there was");
            *mark = stream.acked;
        }
        for reply in replies {
            if let Reply::Ack { stream, sequence, .. } = reply {
                assert!(marks.get(&stream).is_some_and(|mark| sequence <= *mark), "acknowledged above the mark");
            }
        }
    }
    for node in book.status().nodes {
        let (Some(first), Some(last)) = (node.first_row, node.last_row) else { continue };
        let window = joulebook_units::Window::new(first, last).expect("rows ascend");
        let runs = book.runs(node.number, window).expect("what was stored can be read");
        for run in runs.iter().filter(|run| run.subject.is_cumulative()) {
            assert!(run.points.windows(2).all(|pair| pair[0].1 <= pair[1].1), "a sum falls: {run:?}");
        }
    }
}

fn group(input: &mut Unstructured<'_>) -> Result<Vec<Request>> {
    let count = input.int_in_range(1..=6u8)?;
    (0..count).map(|_| request(input)).collect()
}

fn stream(input: &mut Unstructured<'_>) -> Result<StreamId> {
    Ok(StreamId([input.int_in_range(1..=3u8)?; 16]))
}

fn request(input: &mut Unstructured<'_>) -> Result<Request> {
    let session = u64::from(input.int_in_range(1..=3u8)?);
    Ok(match input.int_in_range(0..=9u8)? {
        0 | 1 => Request::Open(session, Box::new(opening(input)?)),
        2 => Request::OpenStream(session, stream(input)?),
        3 => Request::Define(session, stream(input)?, series(input)?),
        4 => {
            let from = u64::from(input.int_in_range(1..=20u8)?);
            let to = from.saturating_add(if input.ratio(1, 8)? {
                input.arbitrary()?
            } else {
                u64::from(input.int_in_range(0..=4u8)?)
            });
            let span = LostSpan {
                boot: BootId([4; 16]),
                first: BootNanos(input.arbitrary()?),
                last: BootNanos(input.arbitrary()?),
            };
            let span = input.arbitrary::<bool>()?.then_some(span);
            let gap = StreamGap { from, to, reason: LossReason::SpoolFull, samples: input.arbitrary()?, span };
            Request::Lost(session, stream(input)?, gap)
        }
        5 => Request::Close(session),
        _ => {
            let payload = vec![input.int_in_range(0..=3u8)?; 2];
            let batch = if input.ratio(1, 10)? { None } else { Some(Box::new(a_batch(input)?)) };
            let sequence =
                if input.ratio(1, 16)? { input.arbitrary()? } else { u64::from(input.int_in_range(1..=20u8)?) };
            Request::Record { session, stream: stream(input)?, sequence, hash: payload_hash(&payload), payload, batch }
        }
    })
}

fn opening(input: &mut Unstructured<'_>) -> Result<Opening> {
    let node = format!("node-{}", input.int_in_range(1..=2u8)?);
    let count = input.int_in_range(1..=3u8)?;
    Ok(Opening {
        inventory: Inventory {
            node: node.parse().expect("a name"),
            agent_version: "1.0.0".to_owned(),
            sources: Vec::new(),
            hardware: Hardware::default(),
            placement: Placement::default(),
        },
        poller: if input.ratio(1, 4)? { Some("outside".parse().expect("a name")) } else { None },
        epoch: u64::from(input.int_in_range(0..=4u8)?),
        boot: BootId([input.int_in_range(4..=5u8)?; 16]),
        boot_time: BootNanos(if input.ratio(1, 8)? { input.arbitrary()? } else { 1_000_000_000_000 }),
        wall: UnixNanos(if input.ratio(1, 8)? { input.arbitrary()? } else { NOW.0 }),
        received: NOW,
        streams: (0..count).map(|_| stream(input)).collect::<Result<_>>()?,
    })
}

fn series(input: &mut Unstructured<'_>) -> Result<Vec<(u32, Subject)>> {
    let count = input.int_in_range(1..=3u8)?;
    (0..count).map(|_| Ok((u32::from(input.int_in_range(1..=4u8)?), subject(input)?))).collect()
}

fn subject(input: &mut Unstructured<'_>) -> Result<Subject> {
    Ok(match input.int_in_range(0..=2u8)? {
        0 => Subject::NodeMemoryUsed,
        number => Subject::Energy(
            Source {
                id: format!("rapl/package-{number}"),
                component: Component::Cpu,
                socket: None,
                device: None,
                collector: "rapl".to_owned(),
                method: Method::Counter,
                unit_nanojoules: None,
                ceiling: Milliwatts(u64::from(input.int_in_range(1..=3u8)?) * 200_000),
                uncertainty_permille: 50,
                contained_in: None,
                scope: None,
                basis: String::new(),
            }
            .into(),
        ),
    })
}

/// Mostly a batch that follows the rules; sometimes with a number that does not.
fn a_batch(input: &mut Unstructured<'_>) -> Result<Batch> {
    let number = |input: &mut Unstructured<'_>| -> Result<u64> {
        if input.ratio(1, 12)? { input.arbitrary() } else { Ok(u64::from(input.arbitrary::<u16>()?) * 1_000_000) }
    };
    let base = 1_000_000_000_000 + number(input)?.min(1 << 50);
    let rows: Vec<BootNanos> =
        (0..u64::from(input.int_in_range(1..=4u8)?)).map(|row| BootNanos(base + row * 1_000_000_000)).collect();
    let mut columns = Vec::new();
    for _ in 0..input.int_in_range(0..=3u8)? {
        let mut value = number(input)?;
        let previous = if input.arbitrary()? {
            Some(Point { at: BootNanos(base - 1_000_000_000), value: number(input)? })
        } else {
            None
        };
        let mut points = Vec::new();
        for row in &rows {
            value = value.wrapping_add(number(input)?);
            points.push(Point { at: *row, value });
        }
        columns.push(Column { series: u32::from(input.int_in_range(1..=4u8)?), previous, points });
    }
    Ok(Batch { boot: BootId([input.int_in_range(4..=5u8)?; 16]), wall: NOW, rows, columns, gaps: Vec::new() })
}

struct StillClock;

impl Clock for StillClock {
    fn unix(&self) -> UnixNanos {
        NOW
    }
}

/// A question of any form to an empty aggregator.
pub fn question(data: &[u8]) {
    thread_local! {
        static QUERY: Query = {
            let book = Arc::new(Book::open(Arc::new(MemoryStore::new())).expect("an empty store"));
            let config = Config { insecure_loopback: true, ..Config::default() };
            Query::new(book, watch::channel(Arc::new(config.check().expect("the defaults"))).1, Arc::new(StillClock))
        };
    }
    QUERY.with(|query| {
        if let Ok(request) = GetSciRequest::decode(data) {
            let _ = query.sci(&request);
        }
        if let Ok(request) = GetEnergyRequest::decode(data) {
            let _ = query.energy(&request);
        }
        if let Ok(request) = ExplainRequest::decode(data) {
            let _ = query.explain(&request);
        }
    });
}
