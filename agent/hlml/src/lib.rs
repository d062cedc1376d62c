//! Habana's management library (`libhlml.so`) as far as energy is concerned: devices, their names, power and energy.

mod ffi;

pub use ffi::{Device, Library, LoadError};

/// Why a call gave no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The library, or the device, cannot tell this.
    #[error("not supported")]
    NotSupported,
    /// The device is not there any more.
    #[error("the device is lost")]
    Lost,
    /// The kernel's driver is not loaded.
    #[error("the driver habanalabs is not loaded")]
    NoDriver,
    /// Another code of the library, which may pass.
    #[error("code {0} of the library")]
    Code(u32),
    /// A name without an end, or that is no text.
    #[error("a name that cannot be read")]
    Name,
}

impl CallError {
    /// What a return code of the library means. Old versions number some of them otherwise.
    pub(crate) fn of(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            3 => Err(Self::NotSupported),
            9 => Err(Self::NoDriver),
            11 | 15 => Err(Self::Lost),
            other => Err(Self::Code(other)),
        }
    }
}
