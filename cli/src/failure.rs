//! Why there is no answer, and the exit code that says so.

use tonic::{Code, Status};

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The question is malformed.
    #[error("{0}")]
    Usage(String),
    /// Nothing of that name in the window.
    #[error("{0}")]
    NotFound(String),
    /// The aggregator is not there, or not in time.
    #[error("{0}")]
    Unavailable(String),
    /// The aggregator's data are damaged.
    #[error("{0}")]
    Damaged(String),
    /// The aggregator cannot answer just now.
    #[error("{0}")]
    Temporary(String),
    /// The aggregator refuses this caller.
    #[error("{0}")]
    Refused(String),
    /// The answer could not be written.
    #[error("writing the answer to stdout failed: {0}")]
    Output(std::io::Error),
}

impl Failure {
    /// The failure behind a status of `url`.
    pub(crate) fn from_status(status: &Status, url: &str) -> Self {
        let message = status.message();
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage(message.to_owned()),
            Code::NotFound => Self::NotFound(message.to_owned()),
            Code::DataLoss => Self::Damaged(format!("{url}: {message}")),
            Code::ResourceExhausted | Code::Aborted => Self::Temporary(format!("{url}: {message}; try again")),
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(format!("{url}: {message}")),
            code => Self::Unavailable(format!("asking {url} failed ({code:?}): {message}; check that it runs")),
        }
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 1,
            Self::Usage(_) => 64,
            Self::Unavailable(_) => 69,
            Self::Damaged(_) | Self::Output(_) => 74,
            Self::Temporary(_) => 75,
            Self::Refused(_) => 77,
        }
    }

    /// One line of JSON: `{"error":{"kind":…,"exit_code":…,"message":…}}`.
    pub(crate) fn to_json(&self) -> String {
        let kind = match self {
            Self::NotFound(_) => "not_found",
            Self::Usage(_) => "usage",
            Self::Unavailable(_) => "unavailable",
            Self::Damaged(_) => "damaged",
            Self::Output(_) => "output",
            Self::Temporary(_) => "temporary",
            Self::Refused(_) => "refused",
        };
        serde_json::json!({
            "error": {"kind": kind, "exit_code": self.exit_code(), "message": self.to_string()}
        })
        .to_string()
    }
}
