//! Asking the aggregator, within the deadline.

use crate::arguments::Connection;
use crate::failure::Failure;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::credentials::{CredentialError, CredentialFiles};
use joulebook_proto::query::query_service_client::QueryServiceClient;
use std::net::IpAddr;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// Answers larger than this are refused: a million rows fit.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A connected client.
pub(crate) type Client = QueryServiceClient<Channel>;
/// A connected client of administration.
pub(crate) type AdminClient = AdminServiceClient<Channel>;

/// Connects and asks once; connecting and answering together take at most the configured time.
pub(crate) async fn ask<T, F>(connection: &Connection, question: F) -> Result<T, Failure>
where
    F: AsyncFnOnce(Client) -> Result<Response<T>, Status>,
{
    let url = &connection.aggregator;
    let whole = async {
        let client = QueryServiceClient::new(connect(connection).await?).max_decoding_message_size(MAX_ANSWER_BYTES);
        question(client).await.map(Response::into_inner).map_err(|status| Failure::from_status(&status, url))
    };
    in_time(connection, whole).await
}

/// The same of administration.
pub(crate) async fn ask_admin<T, F>(connection: &Connection, question: F) -> Result<T, Failure>
where
    F: AsyncFnOnce(AdminClient) -> Result<Response<T>, Status>,
{
    let url = &connection.aggregator;
    let whole = async {
        let client = AdminServiceClient::new(connect(connection).await?).max_decoding_message_size(MAX_ANSWER_BYTES);
        question(client).await.map(Response::into_inner).map_err(|status| Failure::from_status(&status, url))
    };
    in_time(connection, whole).await
}

/// The next message of an answer that comes piece by piece; none at its end. The configured time counts anew for each.
pub(crate) async fn next<T>(connection: &Connection, answer: &mut Streaming<T>) -> Result<Option<T>, Failure> {
    let message =
        async { answer.message().await.map_err(|status| Failure::from_status(&status, &connection.aggregator)) };
    in_time(connection, message).await
}

async fn in_time<T>(connection: &Connection, whole: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(connection.timeout, whole).await {
        Ok(outcome) => outcome,
        Err(_) => Err(late(&connection.aggregator, connection.timeout)),
    }
}

async fn connect(connection: &Connection) -> Result<Channel, Failure> {
    let (endpoint, url) = (endpoint(connection)?, &connection.aggregator);
    endpoint.connect().await.map_err(|error| {
        Failure::Unavailable(format!("connecting to {url} failed: {}; is the aggregator running?", root(&error)))
    })
}

/// Where and how to connect: mutual TLS, or plaintext where the address says so and is this machine's.
fn endpoint(connection: &Connection) -> Result<Endpoint, Failure> {
    let url = &connection.aggregator;
    let usage = |why: &str| Failure::Usage(format!("--aggregator `{url}`: {why}"));
    let address = if url.contains("://") { url.clone() } else { format!("https://{url}") };
    let endpoint = Endpoint::from_shared(address).map_err(|error| usage(&format!("it is not a URL: {error}")))?;
    let host = endpoint.uri().host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    match endpoint.uri().scheme_str() {
        Some("http") if host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) => Ok(endpoint),
        Some("http") => Err(usage("plaintext goes to 127.0.0.1 and [::1] only; use https://")),
        Some("https") => {
            let files = credential_files(connection)?;
            let refuse = |error: CredentialError| {
                let text = error.to_string();
                if error.is_permission() { Failure::Refused(text) } else { Failure::Usage(text) }
            };
            let tls = files.read().and_then(|credentials| credentials.client(&host, connection.timeout));
            let unusable = |error| Failure::Usage(format!("--tls-cert and --tls-key cannot be used: {}", root(&error)));
            endpoint.tls_config(tls.map_err(refuse)?).map_err(unusable)
        }
        _ => Err(usage("use https://host:port")),
    }
}

fn credential_files(connection: &Connection) -> Result<CredentialFiles, Failure> {
    let Connection { tls_ca, tls_cert, tls_key, tls_key_group_readable: key_group_readable, .. } = connection;
    match (tls_ca.clone(), tls_cert.clone(), tls_key.clone()) {
        (Some(ca), Some(certificate), Some(key)) => {
            Ok(CredentialFiles { certificate, key, ca, key_group_readable: *key_group_readable })
        }
        _ => Err(Failure::Usage(format!(
            "{} needs --tls-ca, --tls-cert and --tls-key (`joulebook-aggregator dev-certs FOLDER` makes them for one \
             machine); an aggregator on this machine that runs with --insecure-loopback is asked at http://127.0.0.1:7443",
            connection.aggregator
        ))),
    }
}

fn late(url: &str, timeout: Duration) -> Failure {
    let timeout = humantime::format_duration(timeout);
    Failure::Unavailable(format!("{url} did not answer within {timeout}; raise --timeout or ask for less"))
}

/// The innermost cause: the outer ones only say "transport error".
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
