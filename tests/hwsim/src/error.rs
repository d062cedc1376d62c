//! What can go wrong while simulating.

use std::io;
use std::path::{Path, PathBuf};

/// Why a request or a start failed.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A file of the tree.
    #[error("writing {path} failed: {source}; is the root on a writable file system?")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile cannot be used.
    #[error("profile {name}: {why}")]
    Profile {
        /// Its name or path.
        name: String,
        /// Why.
        why: String,
    },
    /// A request names what is not there or cannot be.
    #[error("{0}")]
    Request(String),
}

/// Result of the simulator.
pub type Result<T> = std::result::Result<T, SimError>;

/// Names the file of an I/O error.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> SimError {
    let path = path.to_path_buf();
    move |source| SimError::Io { path, source }
}
