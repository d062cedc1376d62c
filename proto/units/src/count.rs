//! What is counted of inference: by a server that serves, and by a gateway of those it asks for.

use crate::series::Service;
use alloc::string::String;

/// What a count counts. All are cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CountKind {
    /// Requests that the engine accepted and finished successfully.
    RequestsOk,
    /// Requests that failed.
    RequestsFailed,
    /// Requests that the client gave up or the engine aborted.
    RequestsAborted,
    /// Model evaluations (a batch of k is k).
    Items,
    /// Prompt tokens, cached ones included.
    InputTokens,
    /// Prompt tokens reused from a cache (part of the input tokens).
    CachedTokens,
    /// Generated tokens, hidden reasoning included.
    OutputTokens,
    /// Generated tokens that were hidden reasoning (part of the output tokens).
    ReasoningTokens,
    /// Time spent on inference in nanoseconds; may exceed wall time when requests run side by side.
    BusyNanos,
    /// Of it, time spent on prompts in nanoseconds.
    PrefillNanos,
    /// Of it, time spent on generating in nanoseconds.
    DecodeNanos,
    /// Images made or looked at.
    Images,
    /// Sound made or listened to, in nanoseconds of it.
    AudioNanos,
    /// Video made or looked at, in nanoseconds of it.
    VideoNanos,
    /// Sessions of several requests.
    Sessions,
    /// Requests that are being worked on × time in nanoseconds, each number held from when it was read until the next one.
    RunningNanos,
    /// Requests that wait × time in nanoseconds, in the same way.
    WaitingNanos,
    /// Runs of a workflow: different roots of requests.
    Workflows,
    /// Requests that a gateway answered from its own cache (part of the requests): no engine worked for them.
    StoredRequests,
    /// Tokens of answers from a gateway's own cache (part of the input and output tokens).
    StoredTokens,
    /// Memory that the model holds in its server × time in byte-seconds, each size held from when it was read until the next one.
    ResidentByteSeconds,
    /// Requests that took at most so many nanoseconds from their arrival to their end; `u64::MAX` is all of them.
    LatencyWithin(u64),
    /// Requests whose prompt holds at most so many tokens; `u64::MAX` is all of them.
    PromptWithin(u64),
}

impl CountKind {
    /// Every kind without a bound, in the order of the store.
    pub const ALL: [Self; 21] = [
        Self::RequestsOk,
        Self::RequestsFailed,
        Self::RequestsAborted,
        Self::Items,
        Self::InputTokens,
        Self::CachedTokens,
        Self::OutputTokens,
        Self::ReasoningTokens,
        Self::BusyNanos,
        Self::PrefillNanos,
        Self::DecodeNanos,
        Self::Images,
        Self::AudioNanos,
        Self::VideoNanos,
        Self::Sessions,
        Self::RunningNanos,
        Self::WaitingNanos,
        Self::Workflows,
        Self::StoredRequests,
        Self::StoredTokens,
        Self::ResidentByteSeconds,
    ];

    /// Whether it is a bucket of a distribution: of one service there are as many as the engine has bounds.
    pub fn is_bucket(self) -> bool {
        matches!(self, Self::LatencyWithin(_) | Self::PromptWithin(_))
    }

    /// Whether it is the integral of what holds at an instant: at its source it is no sum.
    pub fn is_held(self) -> bool {
        matches!(self, Self::RunningNanos | Self::WaitingNanos | Self::ResidentByteSeconds)
    }

    /// Whether it counts work: what holds memory works no more for that.
    pub fn is_work(self) -> bool {
        self != Self::ResidentByteSeconds
    }

    /// Whether its unit is the nanosecond.
    pub fn is_time(self) -> bool {
        use CountKind as K;
        let of_work =
            matches!(self, K::BusyNanos | K::PrefillNanos | K::DecodeNanos | K::RunningNanos | K::WaitingNanos);
        of_work || matches!(self, K::AudioNanos | K::VideoNanos)
    }
}

/// Who inference is for, as one place names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Consumer {
    /// What the name is of: `team`, `user`, `hashed_api_key`, `workflow`, …
    pub kind: String,
    /// The name; `h:` and 16 hexadecimal digits where only a keyed hash of it leaves its node.
    pub name: String,
}

/// What one consumer had from one upstream of a gateway: its share of what an engine did, never added to it. A server that
/// tells itself who its requests are for is its own gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Consumption {
    /// Who.
    pub consumer: Consumer,
    /// Preset that reads the gateway, or `push`.
    pub engine: String,
    /// The target it is counted at.
    pub gateway: String,
    /// Address of the upstream as the gateway calls it; absent if it does not tell.
    pub endpoint: Option<String>,
    /// Model as the upstream is asked for it; absent if the gateway does not tell.
    pub model: Option<String>,
    /// Version that the gateway names; absent if it names none.
    pub version: Option<String>,
}

impl Consumption {
    /// What a server tells itself of one who asked it: it is its own gateway.
    pub fn told_by(service: &Service, consumer: Consumer) -> Self {
        Self {
            consumer,
            engine: service.engine.clone(),
            gateway: service.target.clone(),
            endpoint: Some(service.target.clone()),
            model: service.model.clone(),
            version: service.version.clone(),
        }
    }
}
