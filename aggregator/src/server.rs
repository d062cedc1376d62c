//! The gRPC server: every service on one port.

pub mod accept;
mod connection;
mod frames;
mod handshakes;
mod pieces;
mod serve;
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
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tonic_health::server::HealthReporter;

/// Who may call a service.
type Rule = fn(Request<()>) -> Result<Request<()>, Status>;

/// Why serving ends badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The contract's descriptors cannot be read: a fault of this build.
    #[error("preparing gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Every service: health, reflection, telemetry, queries and administration; and who tells how healthy they are.
pub async fn services(
    telemetry: Telemetry,
    admin: Admin,
    query: Arc<Query>,
) -> Result<(Routes, HealthReporter), ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<TelemetryServiceServer<Telemetry>>().await;
    reporter.set_serving::<AdminServiceServer<Admin>>().await;
    reporter.set_serving::<QueryServiceServer<Answering>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = Routes::new(health)
        .add_service(reflection)
        .add_service(InterceptedService::new(telemetry.server(), agents_only as Rule))
        .add_service(InterceptedService::new(query.server(), operators_only as Rule))
        .add_service(InterceptedService::new(AdminServiceServer::new(admin), operators_only as Rule))
        .prepare();
    Ok((routes, reporter))
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
pub async fn serve(routes: Routes, gate: Gate, listener: TcpListener, shutdown: watch::Receiver<bool>) {
    gate.run(listener, routes, shutdown).await;
}
