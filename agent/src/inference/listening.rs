//! The unix sockets at which servers tell: their files, and why one could not be made.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Why a place at which servers tell could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another agent listens there.
    #[error("{key} {place} is taken: another process answers there; stop it or choose another")]
    Taken {
        /// Key of the configuration.
        key: &'static str,
        /// The path or address.
        place: String,
    },
    /// Something else is at the path.
    #[error("{key} {path} exists and is no socket; choose another path")]
    NoSocket {
        /// Key of the configuration.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The folder does not exist.
    #[error("{key} {path} cannot be made: its folder does not exist; make it or choose another path")]
    Folder {
        /// Key of the configuration.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Not allowed.
    #[error("making {key} {place} failed: {source}; the agent needs to write into its folder, or a port above 1023")]
    Permission {
        /// Key of the configuration.
        key: &'static str,
        /// The path or address.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("making {key} {place} failed: {source}")]
    Io {
        /// Key of the configuration.
        key: &'static str,
        /// The path or address.
        place: String,
        /// Why.
        source: io::Error,
    },
}

impl ListenError {
    /// The agent's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Taken { .. } => 69,
            Self::Io { .. } => 74,
            Self::Permission { .. } => 77,
            Self::NoSocket { .. } | Self::Folder { .. } => 78,
        }
    }

    /// Why binding an address failed.
    pub(super) fn of(key: &'static str, place: String, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { key, place, source },
            io::ErrorKind::AddrInUse => Self::Taken { key, place },
            _ => Self::Io { key, place, source },
        }
    }

    fn of_path(key: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Folder { key, path: path.to_owned() },
            _ => Self::of(key, path.display().to_string(), source),
        }
    }
}

/// A socket's file; it goes with this value.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already needs no removal.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Refuses a path that can never be the socket of this key, and changes nothing.
///
/// # Errors
/// Its folder does not exist, or it is something else.
pub fn check(key: &'static str, path: &Path) -> Result<(), ListenError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(ListenError::Folder { key, path: path.to_owned() });
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => Err(ListenError::NoSocket { key, path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// Makes the socket, in place of that of an agent that was killed.
pub(super) fn bind(key: &'static str, path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    remove_stale(key, path)?;
    let failed = |source| ListenError::of_path(key, path, source);
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned() };
    // Whoever reaches the folder may tell: who it is says the kernel.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).map_err(failed)?;
    Ok((listener, file))
}

/// Removes the socket of an agent that was killed.
fn remove_stale(key: &'static str, path: &Path) -> Result<(), ListenError> {
    check(key, path)?;
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::Taken { key, place: path.display().to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ListenError::of_path(key, path, source))
        }
        Err(source) => Err(ListenError::of_path(key, path, source)),
    }
}
