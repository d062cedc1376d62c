//! Connections of the simulated network, as tonic takes them.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use joulebook_agent::uplink::{Connecting, Network};
use joulebook_aggregator::peer::{Caller, Ending};
use joulebook_tests::chaos::Random;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tower::ServiceExt;
use turmoil::net::{TcpListener, TcpStream};

/// Name of the aggregator's host.
pub const AGGREGATOR: &str = "aggregator";
const PORT: u16 = 7443;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// The way from agents to the aggregator, and their chance.
#[derive(Debug)]
pub struct SimulatedNetwork(Mutex<Random>);

impl SimulatedNetwork {
    /// A network whose chance begins with `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Random::new(seed)))
    }
}

impl Network for SimulatedNetwork {
    fn connect(&self, endpoint: Endpoint) -> Connecting<'_> {
        // The address of an endpoint must be a loopback one where nothing is encrypted; there is but one aggregator.
        let connector = tower::service_fn(|_| async {
            let stream = TcpStream::connect((AGGREGATOR, PORT)).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        });
        Box::pin(async move { endpoint.connect_with_connector(connector).await })
    }

    fn random(&self) -> Option<u32> {
        u32::try_from(self.0.lock().unwrap_or_else(PoisonError::into_inner).next() >> 32).ok()
    }
}

/// Serves agents on the aggregator's port, for ever. Not with tonic's server: it chooses by chance which of two ready
/// things comes first, and a seed would not repeat.
pub async fn serve(routes: Routes) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(PATIENCE);
    // All in this task: a crash drops them in this order, and what each then says takes its chance from the seed. Tasks
    // are dropped in the order of numbers that all simulations of a process share.
    // No connection is told to end.
    let (_never, ending) = watch::channel(false);
    let ending = Ending(ending);
    let mut connections = FuturesUnordered::new();
    loop {
        let stream = tokio::select! {
            biased;
            // A connection that ends badly is one of the faults.
            Some(_) = connections.next() => continue,
            accepted = listener.accept() => accepted?.0,
        };
        let ending = ending.clone();
        let service = routes.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Caller(None));
            request.extensions_mut().insert(ending.clone());
            request
        });
        connections.push(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    }
}
