//! A kubelet as far as `List` of its pod-resources socket goes. Its answers are written field by field, by the numbers of
//! Kubernetes' `podresources/v1/api.proto`, and not with the agent's messages.

use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

const LIST: &str = "/v1.PodResourcesLister/List";

/// What it does when it is asked.
#[derive(Clone, Debug)]
pub enum Does {
    /// Answers with a list.
    Tells(Vec<u8>),
    /// Says that so many bytes will come.
    Announces(u32),
    /// Refuses, with this gRPC status.
    Refuses(u32),
    /// Never answers.
    Nothing,
}

/// The server.
pub struct Kubelet {
    does: Arc<Mutex<Does>>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// One at this path.
    pub fn start(socket: &Path, does: Does) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let does = Arc::new(Mutex::new(does));
        let shown = Arc::clone(&does);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let shown = Arc::clone(&shown);
                let service = service_fn(move |request: Request<Incoming>| {
                    let does = shown.lock().unwrap().clone();
                    async move { answer(&request, does).await }
                });
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { does, task }
    }

    /// From now on it does something else.
    pub fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Frames = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(request: &Request<Incoming>, does: Does) -> Result<Response<Frames>, Infallible> {
    let (length, list, status) = match does {
        // UNIMPLEMENTED, as real servers say it.
        _ if request.uri().path() != LIST => (0, Vec::new(), 12),
        Does::Tells(list) => (u32::try_from(list.len()).unwrap(), list, 0),
        Does::Announces(length) => (length, vec![0; 1024], 0),
        Does::Refuses(status) => (0, Vec::new(), status),
        Does::Nothing => std::future::pending().await,
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    let mut frames = vec![Ok(Frame::trailers(trailers))];
    if status == 0 {
        let head = [&[0][..], &length.to_be_bytes()].concat();
        frames.insert(0, Ok(Frame::data(Bytes::from([head, list].concat()))));
    }
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(tokio_stream::iter(frames))).unwrap())
}

/// A field that has a length: text, bytes or a message.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
    out.extend_from_slice(bytes);
    out
}

/// A pod of one container named `server`, as an entry of the list: what it holds by device plugin and by claims on NVIDIA's
/// driver. CPUs, memory and what else real kubelets tell stands between.
pub fn pod(namespace: &str, name: &str, plugged: &[&str], claimed: &[&str]) -> Vec<u8> {
    let topology = field(3, &field(1, &[0x08, 0x01]));
    let ids: Vec<u8> = plugged.iter().flat_map(|id| field(2, id.as_bytes())).collect();
    let devices = field(2, &[field(1, b"nvidia.com/gpu"), ids, topology].concat());
    let claim = |name: &&str| {
        let interface = format!("k8s.gpu.nvidia.com/claim=dab5ab50-d59a-42a6-af16-cfd4628c0f7a-{name}");
        let interface = field(1, &field(1, interface.as_bytes()));
        let device = [interface, field(2, b"gpu.nvidia.com"), field(3, b"node"), field(4, name.as_bytes())].concat();
        field(5, &[field(2, b"claim"), field(3, namespace.as_bytes()), field(4, &device)].concat())
    };
    let claims: Vec<u8> = claimed.iter().flat_map(claim).collect();
    let cpus = field(3, &[1, 2, 3]);
    let memory = field(4, &[&field(1, b"memory")[..], &[0x10, 0x20]].concat());
    let container = field(3, &[field(1, b"server"), devices, cpus, memory, claims].concat());
    field(1, &[field(1, name.as_bytes()), field(2, namespace.as_bytes()), container].concat())
}
