//! Why a spool cannot do what it is asked, and what an agent makes of it.

use joulebook_proto::convert::ConvertError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why the spool cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another agent uses the folder.
    #[error("another agent uses the spool {}: stop it, or give this one a folder of its own", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder may not be used.
    #[error("the spool needs {} to be writable and owned by this user: {why}", path.display())]
    Permission {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        why: String,
    },
    /// The folder cannot be as configured.
    #[error("spool {}: {why}", path.display())]
    Configuration {
        /// The folder.
        path: PathBuf,
        /// What to change.
        why: &'static str,
    },
    /// A file operation failed.
    #[error("{what} {} failed", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it was.
    #[error("spool file {} cannot be used: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The file system takes no more. Nothing was written.
    #[error("no space for {}: free some; records wait in memory until then", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// A batch that breaks a rule of the contract. It was not taken.
    #[error("the batch cannot be recorded")]
    Refused(#[from] ConvertError),
    /// A record over 1 MiB. It was not taken.
    #[error("the record is larger than 1 MiB")]
    TooLarge,
    /// The spool stopped after an earlier error, or was closed.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// The exit code of an agent that cannot go on because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked { .. } | Self::NoSpace { .. } => 75,
            Self::Permission { .. } => 77,
            Self::Configuration { .. } => 78,
            Self::Io { .. } | Self::Damaged { .. } | Self::Refused(_) | Self::TooLarge | Self::Closed => 74,
        }
    }

    /// Whether the spool can take nothing more after this.
    pub(super) fn is_fatal(&self) -> bool {
        !matches!(self, Self::NoSpace { .. } | Self::Refused(_) | Self::TooLarge)
    }
}

/// What an operation on a file that failed means.
pub(super) fn io_error(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> SpoolError {
    move |source| match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            SpoolError::Permission { path: path.into(), why: format!("{what} it failed: {source}") }
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SpoolError::NoSpace { path: path.into() },
        _ => SpoolError::Io { what, path: path.into(), source },
    }
}

/// What a failed sync means: that the file can no longer be trusted, whatever the reason was. It is never tried again.
pub(super) fn sync_error(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> SpoolError {
    move |source| SpoolError::Io { what, path: path.into(), source }
}
