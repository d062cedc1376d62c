//! Inference servers' metrics from the workload table, shaped as vLLM's, over HTTP on loopback: one page of all that
//! is served, and one page of its own for each workload that has a port.

use crate::node::Node;
use crate::workload::Served;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The exposition.
pub fn exposition(served: &[Served]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, pick: fn(&Served) -> u64, extra: &str| {
        text.push_str(&format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"));
        for one in served {
            let model = one.model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text.push_str(&format!("{name}_total{{engine=\"0\",{extra}model_name=\"{model}\"}} {}.0\n", pick(one)));
        }
    };
    family("vllm:prompt_tokens", "Number of prefill tokens processed.", |one| one.prompt_tokens, "");
    family("vllm:generation_tokens", "Number of generation tokens processed.", |one| one.generated_tokens, "");
    let stop = "finished_reason=\"stop\",";
    family("vllm:request_success", "Count of successfully processed requests.", |one| one.requests, stop);
    text
}

/// Pages of workloads that have a port of their own.
#[derive(Debug, Default)]
pub struct Fronts(BTreeMap<(String, u16), JoinHandle<()>>);

impl Fronts {
    /// Begins to serve the pages that the table has now, and ends those that it has no more.
    ///
    /// # Errors
    /// A port cannot be taken.
    pub fn follow(&mut self, node: &Arc<Mutex<Node>>) -> io::Result<()> {
        let wanted = node.lock().unwrap_or_else(PoisonError::into_inner).table().fronts();
        self.0.retain(|(name, port), page| {
            let stays = wanted.get(name) == Some(port);
            if !stays {
                page.abort();
            }
            stays
        });
        for (name, port) in wanted {
            if !self.0.contains_key(&(name.clone(), port)) {
                let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
                listener.set_nonblocking(true)?;
                let page = serve(TcpListener::from_std(listener)?, node.clone(), Some(name.clone()));
                self.0.insert((name, port), tokio::spawn(page));
            }
        }
        Ok(())
    }
}

/// Serves `/metrics`, of one workload or of all, until the task is dropped.
pub async fn serve(listener: TcpListener, node: Arc<Mutex<Node>>, workload: Option<String>) {
    let workload = workload.as_deref();
    while let Ok((stream, _)) = listener.accept().await {
        let (node, workload) = (node.clone(), workload.map(str::to_owned));
        let answer = move |request: Request<Incoming>| {
            let (node, workload) = (node.clone(), workload.clone());
            async move {
                let (code, text) = if request.uri().path() == "/metrics" {
                    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
                    let (table, now) = (node.table(), node.now_ns());
                    let served = workload.map_or_else(|| table.served(now), |name| table.served_by(&name, now));
                    (StatusCode::OK, exposition(&served))
                } else {
                    (StatusCode::NOT_FOUND, String::new())
                };
                let mut response = Response::new(Full::new(Bytes::from(text)));
                *response.status_mut() = code;
                let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
                Ok::<_, Infallible>(response)
            }
        };
        tokio::spawn(async move {
            // A client that goes away is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}
