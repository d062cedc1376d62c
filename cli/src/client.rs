//! Asking the aggregator, within the deadline.

use crate::arguments::Connection;
use crate::failure::Failure;
use joulebook_proto::query::query_service_client::QueryServiceClient;
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
    if url.starts_with("https:") {
        return Err(Failure::Unavailable(format!("connecting to {url} failed: this build has no TLS; use http://")));
    }
    let address = if url.contains("://") { url.clone() } else { format!("http://{url}") };
    let endpoint = Endpoint::from_shared(address)
        .map_err(|error| Failure::Usage(format!("--aggregator `{url}` is not a URL: {error}")))?;
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
