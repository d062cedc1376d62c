//! The least that taking the same batches in costs: a bare server of tonic, as a process of its own, that is told them by the
//! same nodes over mutual TLS, appends each to one file, syncs those that wait together, and acknowledges. It looks into no
//! batch, and has no store and no accounts.

use anyhow::{Context, Result, bail};
use joulebook_benches::meter;
use joulebook_benches::ours::Entrance;
use joulebook_benches::workload::Node;
use joulebook_proto::telemetry::stream_request::Message as Up;
use joulebook_proto::telemetry::stream_response::Message as Down;
use joulebook_proto::telemetry::telemetry_service_server::{TelemetryService, TelemetryServiceServer};
use joulebook_proto::telemetry::{Ack, HelloReply, StreamRequest, StreamResponse};
use joulebook_tests::chaos::secure::Keys;
use joulebook_tests::program::Program;
use pco::standalone::simple_compress;
use pco::{ChunkConfig, DeltaSpec, ModeSpec};
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use tokio::sync::mpsc::UnboundedSender;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// The first word of the program's arguments where it is the server.
pub const SERVER: &str = "least-server";
/// Bytes that a node may send ahead, in one call and in all, as our aggregator allows them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// CPU seconds per million samples of the server.
#[derive(Debug, Clone, Copy)]
pub struct Least {
    /// As fast as batches are taken, and every series packed once.
    pub backfill: f64,
    pub live: f64,
}

/// The server as a process, its file and its keys below `folder`.
pub fn start(folder: &Path) -> Result<(Program, Entrance)> {
    let keys = Keys::new(folder, &[IpAddr::V4(Ipv4Addr::LOCALHOST)])?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVER).args([&keys.server.certificate, &keys.server.key, &keys.server.ca]).arg(folder.join("batches"));
    let program = Program::spawn(command)?;
    let address = program.wait_for(r"listening on (\S+)$")?;
    Ok((program, Entrance::new(keys, address)))
}

/// Is the server, until it is killed; its arguments are certificate, key, CA and file.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [certificate, key, ca, file] = arguments else { bail!("{SERVER}: certificate, key, CA and file") };
    let read = |path: &String| std::fs::read_to_string(path).with_context(|| path.clone());
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read(certificate)?, read(key)?))
        .client_ca_root(Certificate::from_pem(read(ca)?));
    let file = File::create_new(file)?;
    let (batches, waiting) = mpsc::channel();
    let writer = std::thread::spawn(move || write(file, &waiting));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())?.with_nodelay(Some(true));
        meter::say(&format!("listening on {}", incoming.local_addr()?));
        let server = Server::builder()
            .tls_config(tls)?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(TelemetryServiceServer::new(Sessions { batches }));
        anyhow::Ok(server.serve_with_incoming(incoming).await?)
    })?;
    writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A batch that waits to be synced.
struct Waiting {
    bytes: prost::bytes::Bytes,
    acked: Ack,
    down: UnboundedSender<Result<StreamResponse, Status>>,
}

/// Appends what waits, syncs it together, and acknowledges it.
fn write(mut file: File, waiting: &mpsc::Receiver<Waiting>) -> Result<()> {
    while let Ok(first) = waiting.recv() {
        let together: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
        let bytes: Vec<&[u8]> = together.iter().map(|batch| batch.bytes.as_ref()).collect();
        file.write_all(&bytes.concat())?;
        file.sync_data()?;
        for batch in together {
            // A node that is gone needs none.
            let _gone = batch.down.send(Ok(StreamResponse { message: Some(Down::Ack(batch.acked)) }));
        }
    }
    Ok(())
}

struct Sessions {
    batches: mpsc::Sender<Waiting>,
}

#[tonic::async_trait]
impl TelemetryService for Sessions {
    type StreamStream = UnboundedReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(&self, request: Request<Streaming<StreamRequest>>) -> Result<Response<Self::StreamStream>, Status> {
        let (mut up, batches) = (request.into_inner(), self.batches.clone());
        let (down, answers) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                let said = match message.message {
                    Some(Up::Hello(_)) => {
                        let reply = Down::HelloReply(HelloReply::default());
                        down.send(Ok(StreamResponse { message: Some(reply) })).is_ok()
                    }
                    Some(Up::Record(record)) => {
                        let acked = Ack {
                            stream_id: record.stream_id,
                            acked_sequence: record.sequence,
                            rejections: Vec::new(),
                        };
                        batches.send(Waiting { bytes: record.payload, acked, down: down.clone() }).is_ok()
                    }
                    _ => true,
                };
                if !said {
                    break;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(answers)))
    }
}

/// CPU seconds that packing each series of some nodes once takes, at the level at which the product packs: counters as what
/// they grow by, all others as they are, times once a node.
pub fn pack(told: &[Node]) -> Result<f64> {
    let own = i32::try_from(std::process::id())?;
    let order = |order| ChunkConfig::default().with_mode_spec(ModeSpec::Classic).with_delta_spec(order);
    let (grown, plain) = (order(DeltaSpec::TryConsecutive(1)), order(DeltaSpec::NoOp));
    let before = meter::cpu_millis(own)?;
    let mut bytes = 0;
    for node in told {
        bytes += simple_compress(&node.rows, &grown)?.len();
        for (kind, _, values) in &node.series {
            bytes += simple_compress(values, if kind.is_counter() { &grown } else { &plain })?.len();
        }
    }
    let took = (meter::cpu_millis(own)? - before) / 1e3;
    meter::say(&format!("floor: {bytes} bytes packed in {took:.3} CPU s"));
    Ok(took)
}
