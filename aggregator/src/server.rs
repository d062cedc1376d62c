//! The gRPC server: every service on one port.

pub mod accept;
mod connection;
pub mod tls;

use crate::admin::Admin;
use crate::ingest::Telemetry;
use crate::peer::{agents_only, operators_only};
use crate::query::{Answering, Query};
use accept::Gate;
use joulebook_proto::DESCRIPTORS;
use joulebook_proto::admin::admin_service_server::AdminServiceServer;
use joulebook_proto::query::query_service_server::QueryServiceServer;
use joulebook_proto::telemetry::telemetry_service_server::TelemetryServiceServer;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Status};
use tonic_health::server::HealthReporter;

/// A peer that does not answer within the second is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAMS_PER_CONNECTION: u32 = 8;
const HEADER_BYTES: u32 = 8 * 1024;
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 128;
/// How long one question may take. A stream of telemetry is none: its call has answered once it is open.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections that wait between the gate and the server.
const WAITING_CONNECTIONS: usize = 16;

/// Who may call a service.
type Rule = fn(Request<()>) -> Result<Request<()>, Status>;

/// Why serving ends badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The contract's descriptors cannot be read: a fault of this build.
    #[error("preparing gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Every service: health, reflection, telemetry, queries and administration; and who tells how healthy they are.
pub async fn services(
    telemetry: Telemetry,
    admin: Admin,
    query: Query,
) -> Result<(Router, HealthReporter), ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<TelemetryServiceServer<Telemetry>>().await;
    reporter.set_serving::<AdminServiceServer<Admin>>().await;
    reporter.set_serving::<QueryServiceServer<Answering>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION))
        .http2_max_header_list_size(Some(HEADER_BYTES))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS))
        .timeout(CALL_TIMEOUT)
        .add_service(health)
        .add_service(reflection)
        .add_service(InterceptedService::new(telemetry.server(), agents_only as Rule))
        .add_service(InterceptedService::new(query.into_server(), operators_only as Rule))
        .add_service(InterceptedService::new(AdminServiceServer::new(admin), operators_only as Rule));
    Ok((router, reporter))
}

/// Says whether telemetry is taken.
pub async fn tell_intake(reporter: &HealthReporter, open: bool) {
    if open {
        reporter.set_serving::<TelemetryServiceServer<Telemetry>>().await;
    } else {
        reporter.set_not_serving::<TelemetryServiceServer<Telemetry>>().await;
    }
}

/// Serves what `gate` lets in until `shutdown` turns true and every call has ended.
pub async fn serve(
    router: Router,
    gate: Gate,
    listener: TcpListener,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let (out, incoming) = mpsc::channel(WAITING_CONNECTIONS);
    let mut closed = shutdown.clone();
    // An error means that the other end is gone: time to stop, too.
    let stopped = async move {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    let accepting = async {
        tokio::select! {
            () = gate.run(listener, out) => {}
            // The port closes at once; calls under way go on.
            _ = closed.wait_for(|stop| *stop) => {}
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped) => Ok(served?),
        () = accepting => Ok(()),
    }
}
