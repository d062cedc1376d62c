//! Exit codes: what a supervisor or a script can tell from the end of the process.

use crate::dev_certs::DevCertsError;
use crate::run::RunError;
use crate::store::StoreError;

/// Bad command line.
pub const USAGE: u8 = 64;
/// The port is taken.
pub const UNAVAILABLE: u8 = 69;
/// The disk failed, or stored data are damaged.
pub const IO: u8 = 74;
/// Temporary: start again (the database is open elsewhere, or latched an error).
pub const TEMPORARY: u8 = 75;
/// A file or folder may not be read or written.
pub const PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIGURATION: u8 = 78;

/// The code of `dev-certs` that failed.
pub fn dev_certs_code(error: &DevCertsError) -> u8 {
    match error {
        DevCertsError::Exists { .. } => USAGE,
        DevCertsError::Write { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => PERMISSION,
        DevCertsError::Write { .. } | DevCertsError::Issue(_) => IO,
    }
}

/// The code of an error.
pub fn code(error: &RunError) -> u8 {
    match error {
        RunError::Config(error) if error.is_permission() => PERMISSION,
        RunError::Tls(error) if error.is_permission() => PERMISSION,
        RunError::Config(_) | RunError::Tls(_) | RunError::Otlp(_) => CONFIGURATION,
        RunError::Listen { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => PERMISSION,
        RunError::Listen { .. } => UNAVAILABLE,
        RunError::Serve(_) => IO,
        RunError::Stuck => TEMPORARY,
        RunError::Store(error) => match error {
            StoreError::Locked { .. } | StoreError::Latched { .. } | StoreError::Full { .. } => TEMPORARY,
            StoreError::NotOurs { .. } | StoreError::Damaged { .. } | StoreError::Io { .. } => IO,
            StoreError::Permission { .. } => PERMISSION,
            StoreError::Newer { .. }
            | StoreError::Older { .. }
            | StoreError::Missing { .. }
            | StoreError::MissingParent { .. } => CONFIGURATION,
        },
    }
}
