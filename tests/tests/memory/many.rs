//! Nodes with as many series as the goal of memory is stated for.

use anyhow::{Context, Result, ensure};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_proto::convert;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_client::TelemetryServiceClient;
use joulebook_proto::telemetry::{Dictionary, Hello, OpenStream, Record, StreamRequest};
use joulebook_units::{
    Batch, BootId, BootNanos, Column, CpuTimeMethod, Hardware, Inventory, Placement, Point, Subject, UnixNanos,
    Workload, WorkloadKind,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// Nodes, series of each, and records that each sends.
pub const NODES: u32 = 100;
pub const SERIES: u32 = 610;
pub const RECORDS: u64 = 4;
const ROWS: u64 = 5;
/// A row a second, on a clock that began long before.
const SECOND: u64 = 1_000_000_000;
const BEGAN: u64 = 1_000_000 * SECOND;

/// Every node tells everything, all at once, each record when the one before is acknowledged.
pub async fn tell(endpoint: &str) -> Result<()> {
    let mut nodes = JoinSet::new();
    for number in 0..NODES {
        let endpoint = endpoint.to_owned();
        nodes.spawn(async move { node(&endpoint, number).await.with_context(|| format!("node {number}")) });
    }
    while let Some(told) = nodes.join_next().await {
        told??;
    }
    Ok(())
}

async fn node(endpoint: &str, number: u32) -> Result<()> {
    let boot = BootId(u128::from(number).to_be_bytes());
    let stream_id = boot.0.to_vec();
    let wall = SystemClock.wall();
    let hello = Hello {
        streams: vec![OpenStream { stream_id: stream_id.clone(), highest_sequence: 0, acked_sequence: 0 }],
        session_epoch: 1,
        boot_id: boot.0.to_vec(),
        boot_time_nanos: BEGAN + RECORDS * ROWS * SECOND,
        wall_time_unix_nanos: wall.0,
        ..convert::inventory_to_hello(&inventory(number)?)
    };
    let (up, requests) = mpsc::channel(4);
    let say = async |message| up.send(StreamRequest { message: Some(message) }).await.context("the session is over");
    let mut client = TelemetryServiceClient::connect(endpoint.to_owned()).await?;
    say(Up::Hello(hello)).await?;
    let mut down = client.stream(ReceiverStream::new(requests)).await?.into_inner();
    let reply = down.message().await?.and_then(|first| first.message);
    ensure!(matches!(reply, Some(Down::HelloReply(_))), "no reply");
    let series = (1..=SERIES).map(|series| convert::series_to_wire(series, &subject(series))).collect();
    say(Up::Dictionary(Dictionary { stream_id: stream_id.clone(), series })).await?;
    for sequence in 1..=RECORDS {
        let payload = convert::encode_batch(&batch(boot, wall, sequence))?;
        let (payload_hash, payload) = (payload.hash.to_vec(), payload.bytes);
        say(Up::Record(Record { stream_id: stream_id.clone(), sequence, payload_hash, payload })).await?;
        loop {
            let heard = down.message().await?.context("the session is over")?;
            if let Some(Down::Ack(ack)) = heard.message {
                ensure!(ack.rejections.is_empty(), "{:?}", ack.rejections);
                if ack.acked_sequence >= sequence {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The rows of a record: each workload uses some time in each.
fn batch(boot: BootId, wall: UnixNanos, sequence: u64) -> Batch {
    let first = (sequence - 1) * ROWS;
    let at = |row: u64| BootNanos(BEGAN + row * SECOND);
    let point = |series: u32, row: u64| Point { at: at(row), value: row * 1_000_000 * u64::from(series) };
    let column = |series: u32| Column {
        series,
        previous: first.checked_sub(1).map(|row| point(series, row)),
        points: (first..first + ROWS).map(|row| point(series, row)).collect(),
    };
    Batch {
        boot,
        wall: wall.plus_seconds(-i64::try_from(RECORDS * ROWS - first).unwrap_or(0)),
        rows: (first..first + ROWS).map(at).collect(),
        columns: (1..=SERIES).map(column).collect(),
        gaps: Vec::new(),
    }
}

fn subject(series: u32) -> Subject {
    let id = format!("{series:064x}");
    Subject::CpuTime(
        Workload {
            container_id: Some(id.clone()),
            cpu_time_method: CpuTimeMethod::Cgroup,
            ..Workload::bare(format!("container/{id}"), WorkloadKind::Container, format!("{series:012x}"))
        }
        .into(),
    )
}

fn inventory(number: u32) -> Result<Inventory> {
    Ok(Inventory {
        node: format!("many-{number}").parse()?,
        agent_version: "0.1.0".to_owned(),
        sources: Vec::new(),
        hardware: Hardware { threads: Some(64), memory_bytes: Some(1 << 38), ..Hardware::default() },
        placement: Placement::default(),
    })
}
