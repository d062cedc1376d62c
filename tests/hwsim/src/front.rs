//! An inference server's metrics from the workload table, shaped as vLLM's, over HTTP on loopback.

use crate::node::Node;
use crate::workload::Served;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

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

/// Serves `/metrics` until the task is dropped.
pub async fn serve(listener: TcpListener, node: Arc<Mutex<Node>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let node = node.clone();
        let answer = move |request: Request<Incoming>| {
            let node = node.clone();
            async move {
                let (code, text) = if request.uri().path() == "/metrics" {
                    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
                    (StatusCode::OK, exposition(&node.table().served(node.now_ns())))
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
