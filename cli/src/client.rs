//! Asking the aggregator, within the deadline.

use crate::arguments::Connection;
use crate::failure::Failure;
use joulebook_proto::credentials::{CredentialError, CredentialFiles};
use joulebook_proto::query::query_service_client::QueryServiceClient;
use std::net::IpAddr;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// Answers larger than this are refused: a million rows fit.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A connected client.
pub(crate) type Client = QueryServiceClient<Channel>;

/// Connects and asks once; connecting and answering together take at most the configured time.
pub(crate) async fn ask<T, F>(connection: &Connection, question: F) -> Result<T, Failure>
where
    F: AsyncFnOnce(Client) -> Result<Response<T>, Status>,
{
    let url = &connection.aggregator;
    let endpoint = endpoint(connection)?;
    let whole = async {
        let channel = endpoint.connect().await.map_err(|error| {
            Failure::Unavailable(format!("connecting to {url} failed: {}; is the aggregator running?", root(&error)))
        })?;
        let client = QueryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        question(client).await.map(Response::into_inner).map_err(|status| Failure::from_status(&status, url))
    };
    match tokio::time::timeout(connection.timeout, whole).await {
        Ok(outcome) => outcome,
        Err(_) => Err(late(url, connection.timeout)),
    }
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
    let Connection { tls_ca, tls_cert, tls_key, .. } = connection;
    match (tls_ca.clone(), tls_cert.clone(), tls_key.clone()) {
        (Some(ca), Some(certificate), Some(key)) => {
            Ok(CredentialFiles { certificate, key, ca, key_group_readable: false })
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
