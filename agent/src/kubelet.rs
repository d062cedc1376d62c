//! Which container holds which device by allocation, as the kubelet of this node tells it: `List` of its pod-resources
//! socket (v1, gRPC, unset path `/var/lib/kubelet/pod-resources/kubelet.sock`).
//!
//! Needs the socket's folder, which root alone may enter, and no right at the cluster's API. What names stand for which
//! device is in `device`; what stands for none is counted, and the doctor names it. A node without a
//! kubelet has no such socket, which is no failure. An answer is bounded in time and bytes, and what it told stays in force
//! for a minute; then nobody knows who holds what.

use crate::config::KubeletSection;
use message::{ListPodResourcesRequest, ListPodResourcesResponse};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

mod allocation;
mod device;
mod message;

pub use allocation::{Allocations, Holding, Resolved};

/// Where every kubelet has its socket.
pub const SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
const LIST: &str = "/v1.PodResourcesLister/List";
/// Longest answer, as other readers of this socket have it: some ten thousands of pods.
const MOST_BYTES: usize = 16 << 20;
/// How long an answer may take, connection included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what was told holds while nothing more is heard.
const HOLDS: Duration = Duration::from_secs(60);

/// Why the kubelet told nothing.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// There is none, or its socket is not mounted.
    #[error("no socket of a kubelet is at {}", socket.display())]
    NotThere {
        /// Where it was looked for.
        socket: PathBuf,
    },
    /// The socket may not be looked at.
    #[error("looking for the kubelet's socket {} failed", socket.display())]
    Unreadable {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers at the socket.
    #[error("connecting to the kubelet at {} failed", socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It answered with an error, or with what is no answer.
    #[error("the kubelet at {} gave no list of pods: {status}", socket.display())]
    Refused {
        /// Where.
        socket: PathBuf,
        /// What it said.
        status: String,
    },
    /// It took too long.
    #[error("the kubelet at {} gave no list of pods within {} s", socket.display(), PATIENCE.as_secs())]
    Slow {
        /// Where.
        socket: PathBuf,
    },
}

/// Asks once.
///
/// # Errors
/// See [`KubeletError`].
pub async fn list(socket: &Path) -> Result<Allocations, KubeletError> {
    match std::fs::metadata(socket) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(KubeletError::NotThere { socket: socket.to_owned() });
        }
        Err(source) => return Err(KubeletError::Unreadable { socket: socket.to_owned(), source }),
    }
    let answer = timeout(PATIENCE, ask(socket)).await;
    let answer = answer.map_err(|_| KubeletError::Slow { socket: socket.to_owned() })??;
    Ok(Allocations::of(answer))
}

async fn ask(socket: &Path) -> Result<ListPodResourcesResponse, KubeletError> {
    let failed = |source| KubeletError::Connect { socket: socket.to_owned(), source };
    let refused = |status: String| KubeletError::Refused { socket: socket.to_owned(), status };
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(failed)?;
    let channel = endpoint.connect().await.map_err(failed)?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MOST_BYTES);
    client.ready().await.map_err(failed)?;
    let codec = ProstCodec::<ListPodResourcesRequest, ListPodResourcesResponse>::default();
    let request = Request::new(ListPodResourcesRequest {});
    let answer = client.unary(request, PathAndQuery::from_static(LIST), codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| refused(status.code().description().to_owned()))
}

/// Asks again and again and passes on what is told.
pub async fn follow(section: KubeletSection, told: watch::Sender<Arc<Allocations>>) {
    let (socket, mut heard, mut failing) = (section.socket().to_owned(), Instant::now(), false);
    loop {
        match list(&socket).await {
            Ok(allocations) => {
                if failing || told.borrow().is_empty() && !allocations.is_empty() {
                    let devices = allocations.len();
                    tracing::info!(devices, "the kubelet told who holds the devices of this node");
                }
                (heard, failing) = (Instant::now(), false);
                pass_on(&told, allocations);
            }
            Err(error) => {
                // A machine without a kubelet is told of by the doctor, not by every agent.
                let is_news = !std::mem::replace(&mut failing, true) && !matches!(error, KubeletError::NotThere { .. });
                if is_news {
                    let error = anyhow::Error::new(error);
                    tracing::warn!(
                        "{error:#}: an idle device that a pod holds will count as idle capacity of the pool"
                    );
                }
                if heard.elapsed() >= HOLDS {
                    pass_on(&told, Allocations::default());
                }
            }
        }
        sleep(section.interval).await;
    }
}

fn pass_on(told: &watch::Sender<Arc<Allocations>>, allocations: Allocations) {
    told.send_if_modified(|now| {
        let is_new = **now != allocations;
        if is_new {
            *now = Arc::new(allocations);
        }
        is_new
    });
}
