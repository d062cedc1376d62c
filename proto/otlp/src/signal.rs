//! The kinds of message that a receiver takes. They differ in where they go; what a receiver answers is one message for all of
//! them: `partial_success` with a count of what it did not take.

use bytes::Bytes;

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Points of metrics.
    Metrics,
    /// Spans.
    Traces,
    /// Records of the log.
    Logs,
}

impl Signal {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Traces, Self::Logs];

    /// Its name, which is also the last part of its path over HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }

    /// Path over HTTP where the address has none.
    pub fn path(self) -> String {
        format!("/v1/{}", self.name())
    }

    /// The call of gRPC.
    pub(crate) fn call(self) -> &'static str {
        match self {
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }
}

/// A message as it goes over the wire, so that what waits takes no more room than it must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The encoded request.
    pub body: Bytes,
    /// Its points, spans or records.
    pub items: usize,
}

impl Message {
    /// Encodes a request of so many items.
    pub fn of(request: &impl prost::Message, items: usize) -> Self {
        Self { body: Bytes::from(request.encode_to_vec()), items }
    }
}
