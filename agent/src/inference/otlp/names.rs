//! The metrics that are counted: OpenTelemetry's conventions for generative AI, and names of our own for the rest.
//!
//! Of `gen_ai.*` the server's request durations and the token usage are taken. The client's durations are not: they are the
//! same requests once more. A metric that stands nowhere here is nobody's business and neither counted nor refused.
//!
//! | name | instrument | attributes | counts |
//! | --- | --- | --- | --- |
//! | `gen_ai.server.request.duration` | histogram, time | `error.type` | requests ok or failed; busy time |
//! | `gen_ai.client.token.usage` | histogram | `gen_ai.token.type` = `input`, `output` | tokens |
//! | `inference.requests` | monotonic sum | `inference.outcome` = `ok` (unset), `failed`, `aborted` | requests |
//! | `inference.tokens` | monotonic sum | `inference.token.type` = `input`, `cached`, `output`, `reasoning` | tokens |
//! | `inference.items`, `.images`, `.sessions` | monotonic sum | | model evaluations, images, sessions |
//! | `inference.busy_time`, `.audio_time`, `.video_time` | monotonic sum, time | | time |
//!
//! Cached tokens are a part of the input, reasoning a part of the output. Times have the unit `s`, `ms`, `us` or `ns`.
//! The model is `gen_ai.response.model`, of a request that did not fail else `gen_ai.request.model`; of our own metrics it is
//! `inference.model`. The version is `inference.model_version`, of the data point or else of the resource.
//!
//! Whom it was for is told by attributes of any of them: `inference.consumer` (else `enduser.id`) and `inference.workflow`
//! (else `gen_ai.workflow.name`), of the data point or else of the resource, and `inference.root`, what of the workflow
//! started the requests, of data points with delta temporality. Model versions have the counts of all of them. The histograms'
//! buckets are the distributions of how long requests took that succeeded, and of how long prompts were.

use joulebook_units::CountKind;

/// How a metric adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instrument {
    /// A monotonic sum.
    Sum,
    /// A histogram, exponential or not.
    Histogram,
}

/// What becomes of one part of a data point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is not taken.
    Unused,
    /// A count.
    Count(CountKind),
    /// A time in the metric's unit.
    Time(CountKind),
}

/// Of a data point: how often something was recorded (of a histogram), and the sum.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// How often.
    pub times: Part,
    /// The sum.
    pub sum: Part,
    /// What the buckets of a histogram count that are kept.
    pub buckets: Option<Bucket>,
}

/// A bucket of a distribution, by its bound.
pub type Bucket = fn(u64) -> CountKind;

impl Parts {
    fn sum(part: Part) -> Option<Self> {
        Some(Self { times: Part::Unused, sum: part, buckets: None })
    }
}

/// A metric that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Requests of a server as OpenTelemetry names them.
    GenAiRequests,
    /// Tokens as OpenTelemetry names them.
    GenAiTokens,
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
    /// Anything else that needs no attribute.
    Plain(Part),
}

impl Known {
    /// The metric of this name.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |part| Some(Self::Plain(part));
        match name {
            "gen_ai.server.request.duration" => Some(Self::GenAiRequests),
            "gen_ai.client.token.usage" => Some(Self::GenAiTokens),
            "inference.requests" => Some(Self::Requests),
            "inference.tokens" => Some(Self::Tokens),
            "inference.items" => plain(Part::Count(CountKind::Items)),
            "inference.images" => plain(Part::Count(CountKind::Images)),
            "inference.sessions" => plain(Part::Count(CountKind::Sessions)),
            "inference.busy_time" => plain(Part::Time(CountKind::BusyNanos)),
            "inference.audio_time" => plain(Part::Time(CountKind::AudioNanos)),
            "inference.video_time" => plain(Part::Time(CountKind::VideoNanos)),
            _ => None,
        }
    }

    /// What it has to be.
    pub fn instrument(self) -> Instrument {
        match self {
            Self::GenAiRequests | Self::GenAiTokens => Instrument::Histogram,
            Self::Requests | Self::Tokens | Self::Plain(_) => Instrument::Sum,
        }
    }

    /// What a data point with these attributes counts; `None` if an attribute holds another word than those above.
    pub fn parts<'a>(self, attribute: impl Fn(&str) -> &'a str) -> Option<Parts> {
        let tokens = |word| match word {
            "input" => Some(CountKind::InputTokens),
            "output" => Some(CountKind::OutputTokens),
            _ => None,
        };
        match self {
            Self::GenAiRequests => {
                let ok = attribute("error.type").is_empty();
                let kind = if ok { CountKind::RequestsOk } else { CountKind::RequestsFailed };
                let buckets = ok.then_some(CountKind::LatencyWithin as Bucket);
                Some(Parts { times: Part::Count(kind), sum: Part::Time(CountKind::BusyNanos), buckets })
            }
            Self::GenAiTokens => {
                let kind = tokens(attribute("gen_ai.token.type"))?;
                let buckets = (kind == CountKind::InputTokens).then_some(CountKind::PromptWithin as Bucket);
                Some(Parts { times: Part::Unused, sum: Part::Count(kind), buckets })
            }
            Self::Requests => Parts::sum(Part::Count(match attribute("inference.outcome") {
                "" | "ok" => CountKind::RequestsOk,
                "failed" => CountKind::RequestsFailed,
                "aborted" => CountKind::RequestsAborted,
                _ => return None,
            })),
            Self::Tokens => Parts::sum(Part::Count(match attribute("inference.token.type") {
                "cached" => CountKind::CachedTokens,
                "reasoning" => CountKind::ReasoningTokens,
                word => tokens(word)?,
            })),
            Self::Plain(part) => Parts::sum(part),
        }
    }

    /// The model that a data point is of; empty if it does not tell.
    pub fn model<'a>(self, attribute: impl Fn(&str) -> &'a str) -> &'a str {
        match self {
            Self::GenAiRequests | Self::GenAiTokens => match attribute("gen_ai.response.model") {
                // What a client asked for and did not get may be any name.
                "" if attribute("error.type").is_empty() => attribute("gen_ai.request.model"),
                answered => answered,
            },
            _ => attribute("inference.model"),
        }
    }
}

/// Nanoseconds in a metric's unit of time; seconds where it has none.
pub(super) fn nanos_per(unit: &str) -> Option<f64> {
    match unit {
        "" | "s" => Some(1e9),
        "ms" => Some(1e6),
        "us" => Some(1e3),
        "ns" => Some(1.0),
        _ => None,
    }
}

/// Attribute with the version, of a data point or a resource.
pub const VERSION: &str = "inference.model_version";
