//! An API server as far as list and watch of pods and nodes go, as the Kubernetes API documents them: pages with `limit`
//! and `continue`, watches by `resourceVersion`, bookmarks, 410 Gone. With faults.

use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use joulebook_tests::tls::{Ca, replace};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What was asked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Pages of pods that were listed.
    pub pages: usize,
    /// Lists of pods that were begun.
    pub lists: usize,
    /// Watches of pods.
    pub watches: usize,
    /// Questions that were refused for their token.
    pub strangers: usize,
    /// Questions that a fault answered.
    pub faults: usize,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Places before this one are forgotten.
    oldest: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    log: Vec<(u64, &'static str, String)>,
    faults: VecDeque<(u16, Option<u64>)>,
    away: bool,
    /// Whether a place that is forgotten is answered by 410 at once, else by an event.
    gone_at_once: bool,
    /// Counts the cuts.
    cuts: u64,
    token: String,
    seen: Seen,
}

/// The server.
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
}

impl ApiServer {
    /// One on a free port; its CA and the token lie in the folder.
    pub async fn start(folder: &Path) -> Self {
        let ca = Ca::new();
        let pair = ca.server();
        std::fs::write(folder.join("api-ca.crt"), ca.certificate()).expect("written");
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let config = builder.with_single_cert(chain, key).expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (state, changed) = (Arc::new(Mutex::new(State { version: 1, ..State::default() })), watch::Sender::new(0));
        let server = Self { state: Arc::clone(&state), changed: changed.clone(), address, folder: folder.to_owned() };
        server.renew_token("first");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if lock(&state).away {
                    continue;
                }
                let (acceptor, state, changed) = (acceptor.clone(), Arc::clone(&state), changed.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let answer = answer(&request, &state, &changed);
                        async move { Ok::<_, io::Error>(answer) }
                    });
                    // A cut is what some tests are about.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        server
    }

    /// The file of the token that it takes.
    pub fn token(&self) -> PathBuf {
        self.folder.join("token")
    }

    /// The file of its CA.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("api-ca.crt")
    }

    /// Takes another token from now on, which lies in the file.
    pub fn renew_token(&self, token: &str) {
        replace(&self.token(), token);
        token.clone_into(&mut lock(&self.state).token);
    }

    /// What was asked so far.
    pub fn seen(&self) -> Seen {
        lock(&self.state).seen.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.send_modify(|count| *count += 1);
    }

    /// A pod is there, or is another than before.
    pub fn put(&self, uid: &str, pod: Value) {
        self.change(|state| state.put("pods", uid, pod));
    }

    /// A node is there, or is another than before.
    pub fn put_node(&self, name: &str, labels: Value) {
        self.change(|state| state.put("nodes", name, json!({ "metadata": { "name": name, "labels": labels } })));
    }

    /// A pod is gone.
    pub fn delete(&self, uid: &str) {
        self.change(|state| {
            let Some(pod) = state.objects.remove(&("pods", uid.to_owned())) else { return };
            state.log("pods", "DELETED", pod);
        });
    }

    /// A line that is no object of the API.
    pub fn say(&self, line: &str) {
        self.change(|state| {
            state.version += 1;
            let version = state.version;
            state.log.push((version, "pods", format!("{line}\n")));
        });
    }

    /// Tells watches where they stand.
    pub fn bookmark(&self) {
        self.change(|state| state.log("pods", "BOOKMARK", json!({ "metadata": {} })));
    }

    /// Cuts every watch in the middle of a line.
    pub fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// Forgets every place up to now, and cuts every watch. The next to come with an old one is told so by 410 or by an event.
    pub fn forget(&self, at_once: bool) {
        self.change(|state| {
            state.version += 1;
            (state.oldest, state.gone_at_once) = (state.version, at_once);
            state.log.clear();
            state.cuts += 1;
        });
    }

    /// Takes no connection, and cuts those that there are; or is there again.
    pub fn away(&self, away: bool) {
        self.change(|state| {
            state.away = away;
            state.cuts += u64::from(away);
        });
    }

    /// The next questions are answered so: status, and how long to wait.
    pub fn refuse(&self, faults: &[(u16, Option<u64>)]) {
        self.change(|state| state.faults.extend(faults));
    }
}

impl State {
    fn put(&mut self, kind: &'static str, name: &str, object: Value) {
        let was = self.objects.insert((kind, name.to_owned()), object.clone());
        self.log(kind, if was.is_some() { "MODIFIED" } else { "ADDED" }, object);
    }

    fn log(&mut self, kind: &'static str, event: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let line = json!({ "type": event, "object": object }).to_string();
        self.log.push((self.version, kind, line + "\n"));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panicked")
}

fn whole(status: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).expect("a response")
}

fn failure(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "status": "Failure", "code": code, "message": message })
}

fn answer(request: &Request<Incoming>, state: &Arc<Mutex<State>>, changed: &watch::Sender<u64>) -> Response<Body> {
    let query: BTreeMap<String, String> =
        request.uri().query().unwrap_or_default().split('&').filter_map(pair).collect();
    let mut held = lock(state);
    let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if shown != Some(&format!("Bearer {}", held.token)) {
        held.seen.strangers += 1;
        return whole(401, &failure(401, "Unauthorized"));
    }
    if let Some((status, pause)) = held.faults.pop_front() {
        held.seen.faults += 1;
        let mut answer = whole(status, &failure(status, "made up"));
        if let Some(pause) = pause {
            answer.headers_mut().insert("retry-after", pause.into());
        }
        return answer;
    }
    let kind = match request.uri().path() {
        "/api/v1/pods" => "pods",
        "/api/v1/nodes" => "nodes",
        _ => return whole(403, &failure(403, "forbidden")),
    };
    let is_pods = usize::from(kind == "pods");
    if query.contains_key("watch") {
        held.seen.watches += is_pods;
        let place: u64 = query["resourceVersion"].parse().expect("a place");
        assert_eq!(query["allowWatchBookmarks"], "true");
        if place < held.oldest && held.gone_at_once {
            return whole(410, &failure(410, "too old resource version"));
        }
        let watch = (place, held.cuts, Arc::clone(state), changed.subscribe(), false);
        return streamed(kind, watch);
    }
    list(&mut held, kind, &query)
}

fn pair(part: &str) -> Option<(String, String)> {
    let (key, value) = part.split_once('=')?;
    Some((key.to_owned(), value.replace("%2F", "/")))
}

fn list(held: &mut State, kind: &'static str, query: &BTreeMap<String, String>) -> Response<Body> {
    let limit: usize = query["limit"].parse().expect("a limit");
    let is_pods = usize::from(kind == "pods");
    held.seen.pages += is_pods;
    let (version, after) = match query.get("continue").and_then(|token| token.split_once('/')) {
        Some((version, after)) => (version.parse().expect("its own"), after.to_owned()),
        None => {
            held.seen.lists += is_pods;
            (held.version, String::new())
        }
    };
    if version < held.oldest {
        return whole(410, &failure(410, "the provided continue parameter is too old"));
    }
    let names: Vec<&String> =
        held.objects.keys().filter(|(of, name)| *of == kind && *name > after).map(|(_, name)| name).collect();
    let items: Vec<Value> =
        names.iter().take(limit).map(|name| held.objects[&(kind, (*name).clone())].clone()).collect();
    let next = if names.len() > limit { format!("{version}/{}", names[limit - 1]) } else { String::new() };
    whole(200, &json!({ "metadata": { "resourceVersion": version.to_string(), "continue": next }, "items": items }))
}

fn streamed(kind: &'static str, watch: (u64, u64, Arc<Mutex<State>>, watch::Receiver<u64>, bool)) -> Response<Body> {
    let lines = futures_util::stream::unfold(watch, move |(place, cuts, state, mut changed, over)| async move {
        loop {
            if over {
                return None;
            }
            let found = {
                let held = lock(&state);
                if held.cuts != cuts {
                    Err(io::Error::other("cut"))
                } else if place < held.oldest {
                    let object = failure(410, "too old resource version");
                    Ok(Some((u64::MAX, json!({ "type": "ERROR", "object": object }).to_string() + "\n")))
                } else {
                    let mut news = held.log.iter().filter(|(at, of, _)| *at > place && *of == kind);
                    Ok(news.next().map(|(at, _, line)| (*at, line.clone())))
                }
            };
            match found {
                Ok(Some((at, line))) => {
                    return Some((Ok(Frame::data(Bytes::from(line))), (at, cuts, state, changed, at == u64::MAX)));
                }
                Ok(None) => {
                    changed.changed().await.ok()?;
                }
                Err(error) => return Some((Err(error), (place, cuts, state, changed, true))),
            }
        }
    });
    // Half a line comes first where a watch is cut.
    let lines = lines.flat_map(|line| match line {
        Err(error) => {
            let half = Ok(Frame::data(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"obj")));
            futures_util::stream::iter(vec![half, Err(error)])
        }
        line => futures_util::stream::iter(vec![line]),
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
}
