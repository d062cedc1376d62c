//! How a service is set up to serve: what two set-ups of one model version are told apart by.

use alloc::string::String;

/// What a service does of the work on a request where several servers share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceRole {
    /// Takes requests in and passes them on: it is where they are counted.
    Router,
    /// Reads prompts.
    Prefill,
    /// Generates; where there is no router, it is where requests are counted.
    Decode,
}

impl ServiceRole {
    /// All of them, in the order of the wire.
    pub const ALL: [Self; 3] = [Self::Router, Self::Prefill, Self::Decode];

    /// Its name in configuration and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// The set-up that bears on energy per token. What is not known is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServingConfiguration {
    /// Version of the engine.
    pub engine_version: Option<String>,
    /// Quantisation of the weights (`Q4_K_M`, `awq`, …).
    pub quantisation: Option<String>,
    /// Most requests that it works on at once.
    pub max_batch: Option<u32>,
    /// Accelerators that each layer is cut over.
    pub tensor_parallel: Option<u32>,
    /// Stages that the layers are cut into.
    pub pipeline_parallel: Option<u32>,
    /// Replicas behind one page.
    pub data_parallel: Option<u32>,
    /// Power limit of its accelerators in mW, each.
    pub power_limit_milliwatts: Option<u64>,
}

impl ServingConfiguration {
    /// Whether nothing of it is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// What is served behind a name, and as part of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serving {
    /// The weights behind the served name as the server was told: a repository, a file.
    pub base: Option<String>,
    /// Revision of the weights in that repository (40 hexadecimal digits).
    pub revision: Option<String>,
    /// Its part of the work; absent for a server that does all of it.
    pub role: Option<ServiceRole>,
    /// Whether what counts it is around an engine and may count what a page of that engine, in the same process, counts too.
    pub wraps: bool,
    /// The service group: servers, on whatever nodes, that work on the same requests.
    pub group: Option<String>,
    /// The set-up.
    pub configuration: ServingConfiguration,
}
