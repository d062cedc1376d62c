//! What the uplink needs of its surroundings: connections and chance. Simulations bring their own, in which both repeat.

use std::pin::Pin;
use tonic::transport::{Channel, Endpoint, Error};

/// A connection under way.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send + 'a>>;

/// Connections and chance.
pub trait Network: Send + Sync {
    /// Connects to an endpoint.
    fn connect(&self, endpoint: Endpoint) -> Connecting<'_>;

    /// A random number; none if there is no source of them.
    fn random(&self) -> Option<u32>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNetwork;

impl Network for SystemNetwork {
    fn connect(&self, endpoint: Endpoint) -> Connecting<'_> {
        Box::pin(async move { endpoint.connect().await })
    }

    fn random(&self) -> Option<u32> {
        getrandom::u32().ok()
    }
}
