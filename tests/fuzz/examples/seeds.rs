//! Writes the first corpus: for each target a few inputs that the product itself makes. Run it from the repository's
//! root: `cargo run -p joulebook-fuzz --example seeds`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a tool for people that work on the project")]

use joulebook_agent::config::EXAMPLE;
use joulebook_agent::spool::record::{self, CURSOR_MAGIC, Extent, Header, Kind, Losses};
use joulebook_agent::spool::{Baseline, LocalState, Spool, SpoolConfig};
use joulebook_aggregator::certificate::{Authority, Subject as Holder};
use joulebook_aggregator::store::block::chunk;
use joulebook_aggregator::store::block::fact::{BridgesFact, Fact, GapFact, NodeFact, StreamFact};
use joulebook_aggregator::store::block::row::{RowRecord, StoredColumn};
use joulebook_aggregator::store::key::{self, Meta};
use joulebook_proto::convert::{encode_batch, encode_definitions, inventory_to_hello, series_to_wire};
use joulebook_proto::query::{ExplainRequest, GetEnergyRequest, GetSciRequest, TimeWindow};
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::{Dictionary, Record, StreamRequest};
use joulebook_tests::chaos::Random;
use joulebook_tests::chaos::plan::Plan;
use joulebook_units::{BootId, BootNanos, GapReason, LossReason, LostSpan, StreamGap, StreamId, UnixNanos};
use prost::Message;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Inputs by target.
type Seeds = Vec<(&'static str, Vec<Vec<u8>>)>;

const STREAM: StreamId = StreamId([1; 16]);
const WALL: i64 = 1_790_000_000 * UnixNanos::PER_SECOND;

fn local() -> LocalState {
    let baseline = Baseline { series: 1, raw: 5, value: 6, at: BootNanos(7), epoch: 8 };
    LocalState { boot: BootId([2; 16]), at: BootNanos(9), wall: UnixNanos(WALL), baselines: vec![baseline] }
}

fn gap() -> StreamGap {
    let span = LostSpan { boot: BootId([2; 16]), first: BootNanos(1), last: BootNanos(2) };
    StreamGap { from: 2, to: 4, reason: LossReason::SpoolFull, samples: 30, span: Some(span) }
}

fn spool() -> Seeds {
    let plan = Plan { seed: 1, boot: 1 << 40, wall: WALL };
    let wire = encode_batch(&plan.batch(1, 1, 1, &mut [0, 0])).unwrap().bytes;
    let extent = Extent { samples: 10, span: gap().span.unwrap() };
    let lost = Losses { records: 3, samples: 30 };
    let batch = record::encode_batch(&extent, &local(), &wire);
    let header = Header { stream: STREAM, first_sequence: 1, epoch: 1, lost };
    let records = vec![
        record::encode_header(&header),
        record::encode_frame(Kind::Batch, 1, &batch).unwrap(),
        batch,
        record::encode_gap(&gap(), lost),
        record::encode_mark(CURSOR_MAGIC, STREAM, 7),
        encode_definitions(Plan::dictionary().iter().map(|(number, subject)| (*number, subject))),
    ];
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig { min_free_bytes: 0, ..SpoolConfig::new(folder.path().join("spool")) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let segment = runtime.block_on(async {
        let (spool, _) = Spool::open(&config).unwrap();
        let mut values = [0, 0];
        for sequence in 1..=3 {
            spool.append(plan.batch(1, 1, sequence, &mut values), local(), Plan::dictionary()).await.unwrap();
        }
        spool.close().await.unwrap();
        fs::read(config.dir.join("seg-0000000000000001.spl")).unwrap()
    });
    vec![("spool_records", records), ("spool_segment", vec![segment, Vec::new(), vec![0; 256]])]
}

fn protocol() -> Seeds {
    let plan = Plan { seed: 1, boot: 1 << 40, wall: WALL };
    let payload = encode_batch(&plan.batch(1, 1, 1, &mut [0, 0])).unwrap().bytes;
    let plain = zstd::bulk::decompress(&payload, 1 << 20).unwrap();
    let dictionary = Plan::dictionary().iter().map(|(number, subject)| series_to_wire(*number, subject)).collect();
    let stream_id = STREAM.0.to_vec();
    let ups = [
        Up::Hello(inventory_to_hello(&Plan::inventory(1).unwrap())),
        Up::Dictionary(Dictionary { stream_id: stream_id.clone(), series: dictionary }),
        Up::Gap(joulebook_proto::convert::stream_gap_to_wire(STREAM, &gap())),
        Up::Record(Record { stream_id, sequence: 1, payload_hash: vec![0; 16], payload: payload.clone() }),
    ];
    let wire = ups.map(|up| StreamRequest { message: Some(up) }.encode_to_vec()).to_vec();
    let window = Some(TimeWindow { start_unix_nanos: WALL, end_unix_nanos: WALL + 3_600 * UnixNanos::PER_SECOND });
    let sci = GetSciRequest { window, ..GetSciRequest::default() };
    let questions = vec![
        GetEnergyRequest { window, by: 1, ..GetEnergyRequest::default() }.encode_to_vec(),
        ExplainRequest { question: Some(sci.clone()) }.encode_to_vec(),
        sci.encode_to_vec(),
    ];
    vec![("batch", vec![payload.to_vec(), plain]), ("wire", wire), ("question", questions)]
}

fn store() -> Seeds {
    let keys = vec![
        Meta::Schema.encode(),
        Meta::Hash(1, 2).encode(),
        Meta::Boot(1, BootId([2; 16])).encode(),
        key::cell(1, UnixNanos(WALL)).to_vec(),
        vec![1; 24],
        vec![1; 28],
    ];
    let node =
        NodeFact { inventory: Plan::inventory(1).unwrap(), epoch: 1, first_row: Some(UnixNanos(1)), skew_nanos: -1 };
    let stream = StreamFact {
        poller: None,
        id: STREAM,
        node: 1,
        acked: 7,
        lost: 1,
        rejected: 2,
        last: None,
        clock: Some((BootId([2; 16]), 5)),
    };
    let lost = GapFact::Lost { to: UnixNanos(5), reason: LossReason::SpoolFull, last_sequence: 9, samples: 3 };
    let energy = GapFact::Energy { series: 1, to: UnixNanos(5), reason: GapReason::CounterReset, low: 1, high: 2 };
    let points = vec![(UnixNanos(0), 4), (UnixNanos(2), 9)];
    let column = StoredColumn { series: 1, previous: Some((UnixNanos(-1), 3)), points };
    let rows = RowRecord { rows: vec![UnixNanos(0), UnixNanos(1), UnixNanos(2)], columns: vec![column] };
    let sealed = [
        node.encode(b"fuzz"),
        stream.encode(b"fuzz"),
        lost.encode(b"fuzz"),
        energy.encode(b"fuzz"),
        BridgesFact(vec![(1, UnixNanos(2), 3)]).encode(b"fuzz"),
        Plan::dictionary()[0].1.encode(b"fuzz"),
        rows.encode(b"fuzz"),
        chunk::encode(b"fuzz", UnixNanos(0), &[(1, rows.clone()), (2, rows)]).unwrap(),
    ];
    // With their checksum, and without it and the version: the target seals what has none.
    let bare = sealed.iter().map(|value| value[1..value.len() - 4].to_vec());
    vec![("store_keys", keys), ("store_blocks", bare.chain(sealed.iter().cloned()).collect())]
}

fn agent() -> Seeds {
    let fixtures = Path::new("tests/fixtures/expositions");
    let page = |name: &str| fs::read(fixtures.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let small = b"# TYPE a counter\na_total{b=\"c\\n\\\"\\\\\",d=\"\"} 1e3 1700000000\na_total 0x\n# EOF\n".to_vec();
    let proc =
        b"4711 (a (b) c) S 1 2 3 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 4 0 98765 1000 25 1\ncpu  1 2 3 4 5 6 7 8\n\
        MemTotal: 16 kB\n4:cpu,cpuacct:/kubepods/besteffort/pod1/0123\n0::/system.slice/a.service\n"
            .to_vec();
    let mut gguf = b"GGUF\x03\0\0\0".to_vec();
    gguf.extend([0u64, 1].iter().flat_map(|number| number.to_le_bytes()));
    gguf.extend(12u64.to_le_bytes());
    gguf.extend(b"general.name\x08\0\0\0");
    gguf.extend(1u64.to_le_bytes());
    gguf.extend(b"m");
    let authority = Authority::new("seed", UnixNanos(WALL), Duration::from_secs(3_600)).unwrap();
    let holder = Holder::client("a", "spiffe://joulebook/agent/node/a".to_owned());
    let issued = authority.issue(&holder, UnixNanos(WALL), Duration::from_secs(3_600)).unwrap();
    let pem = format!("{}{}{}", issued.certificate, issued.key, authority.certificate());
    let config = "listen = \"127.0.0.1:1\"\ninsecure_loopback = true\n[site.a]\npue = 1.2\n".to_owned();
    vec![
        ("exposition", vec![page("triton-2.51.0.scrape2.prom"), small]),
        ("proc", vec![proc]),
        ("gguf", vec![gguf]),
        ("config", vec![EXAMPLE.as_bytes().to_vec(), config.into_bytes()]),
        ("certificate", vec![pem.into_bytes(), b"spiffe://joulebook/operator/ann".to_vec()]),
    ]
}

/// Bytes of which a target takes its choices.
fn choices() -> Seeds {
    let mut random = Random::new(1);
    let mut bytes = |length: usize| -> Vec<u8> {
        std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect()
    };
    ["spool_damage", "session", "counter"].map(|name| (name, vec![bytes(48), bytes(300), bytes(900)])).to_vec()
}

fn main() {
    let corpus = Path::new("tests/fuzz/corpus");
    for (target, inputs) in [spool(), protocol(), store(), agent(), choices()].concat() {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).unwrap();
        for (number, bytes) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), bytes).unwrap();
        }
    }
}
