//! Exit codes: 64 usage, 65 a page that cannot be read, 69 unavailable, 74 I/O or damage, 75 temporary, 77 permission, 78 configuration.

use crate::run::RunError;
use std::process::ExitCode;

/// Wrong use of the command line.
pub const USAGE: u8 = 64;
/// What was given to be read is not what it should be.
pub const DATA: u8 = 65;
/// Something that is needed is not there.
pub const UNAVAILABLE: u8 = 69;
/// A peer or the machine failed for now: start again.
pub const TEMPORARY: u8 = 75;
/// A permission is missing.
pub const PERMISSION: u8 = 77;
/// The configuration cannot be used.
pub const CONFIGURATION: u8 = 78;
/// Input or output failed.
pub const IO: u8 = 74;

/// The exit code of an agent that ended with this error.
pub fn code(error: &RunError) -> u8 {
    match error {
        RunError::Config(error) if error.is_permission() => PERMISSION,
        RunError::Config(_) | RunError::Target(_) | RunError::Export(_) => CONFIGURATION,
        RunError::Tls(error) if error.is_permission() => PERMISSION,
        RunError::Tls(_) => CONFIGURATION,
        RunError::Listen(error) => error.exit_code(),
        RunError::Page(_) => UNAVAILABLE,
        RunError::Spool(error) => error.exit_code(),
        RunError::Uplink(error) => error.exit_code(),
        RunError::NoSource { .. } => PERMISSION,
        RunError::Boot { .. } => CONFIGURATION,
        RunError::Ended(_) | RunError::Start { .. } => IO,
    }
}

/// The same for `main`.
pub fn exit(error: &RunError) -> ExitCode {
    ExitCode::from(code(error))
}
