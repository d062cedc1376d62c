//! Calls of `hlml.h`.
//!
//! Unsafe code is needed here and only here: a shared library is loaded, its functions are called by the signatures of the
//! vendor's header, and they write through pointers to values of ours. Every function is looked up at its call, so that a
//! library without one of them is still good for the others.

#![allow(unsafe_code, reason = "a C interface; see above")]

use crate::CallError;
use std::ffi::{CStr, OsStr, c_char, c_uint, c_ulonglong, c_void};
use std::marker::PhantomData;

/// Longest name and identity that is read, with its end.
const NAME_BYTES: usize = 256;

/// The library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there, or is no such library.
    #[error("{0}")]
    File(#[from] libloading::Error),
    /// It does not start.
    #[error("it does not start: {0}")]
    Start(CallError),
}

/// The started library; dropping it shuts it down.
pub struct Library(libloading::Library);

/// A device, as long as its library runs.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    handle: *mut c_void,
    library: PhantomData<&'a Library>,
}

impl Library {
    /// Loads and starts the library.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn start(file: &OsStr) -> Result<Self, LoadError> {
        // SAFETY: loading runs the library's initialisers. It is the vendor's, or the one that the configuration names,
        // and this is called in a process that holds nothing but it.
        let library = unsafe { libloading::Library::new(file)? };
        // SAFETY: the signature is that of the vendor's header.
        let init = unsafe { library.get::<unsafe extern "C" fn() -> c_uint>(b"hlml_init\0")? };
        // SAFETY: called once, before any other call.
        CallError::of(unsafe { init() }).map_err(LoadError::Start)?;
        Ok(Self(library))
    }

    /// Number of devices.
    ///
    /// # Errors
    /// The library's.
    pub fn device_count(&self) -> Result<u32, CallError> {
        // SAFETY: the signature is that of the vendor's header.
        let call = unsafe { self.0.get::<unsafe extern "C" fn(*mut c_uint) -> c_uint>(b"hlml_device_get_count\0") };
        let mut count = 0;
        // SAFETY: the library writes one number to a place of ours.
        CallError::of(unsafe { call.map_err(|_| CallError::NotSupported)?(&raw mut count) })?;
        Ok(count)
    }

    /// A device by its index.
    ///
    /// # Errors
    /// The library's.
    pub fn device(&self, index: u32) -> Result<Device<'_>, CallError> {
        type Call = unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_uint;
        // SAFETY: the signature is that of the vendor's header.
        let call = unsafe { self.0.get::<Call>(b"hlml_device_get_handle_by_index\0") };
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library writes one handle to a place of ours.
        CallError::of(unsafe { call.map_err(|_| CallError::NotSupported)?(index, &raw mut handle) })?;
        Ok(Device { handle, library: PhantomData })
    }

    /// Identity of a device.
    ///
    /// # Errors
    /// The library's, or a text that is none.
    pub fn uuid(&self, device: Device<'_>) -> Result<String, CallError> {
        self.text(device, b"hlml_device_get_uuid\0")
    }

    /// Model of a device.
    ///
    /// # Errors
    /// The library's, or a text that is none.
    pub fn name(&self, device: Device<'_>) -> Result<String, CallError> {
        self.text(device, b"hlml_device_get_name\0")
    }

    /// Power of a device in mW, now.
    ///
    /// # Errors
    /// The library's.
    pub fn power_milliwatts(&self, device: Device<'_>) -> Result<u32, CallError> {
        type Call = unsafe extern "C" fn(*mut c_void, *mut c_uint) -> c_uint;
        // SAFETY: the signature is that of the vendor's header.
        let call = unsafe { self.0.get::<Call>(b"hlml_device_get_power_usage\0") };
        let mut power = 0;
        // SAFETY: the handle is the library's own and it runs; it writes one number to a place of ours.
        CallError::of(unsafe { call.map_err(|_| CallError::NotSupported)?(device.handle, &raw mut power) })?;
        Ok(power)
    }

    /// Energy of a device in mJ since the driver was loaded.
    ///
    /// # Errors
    /// The library's; some versions have no counter.
    pub fn energy_millijoules(&self, device: Device<'_>) -> Result<u64, CallError> {
        type Call = unsafe extern "C" fn(*mut c_void, *mut c_ulonglong) -> c_uint;
        // SAFETY: the signature is that of the vendor's header.
        let call = unsafe { self.0.get::<Call>(b"hlml_device_get_total_energy_consumption\0") };
        let mut energy = 0;
        // SAFETY: the handle is the library's own and it runs; it writes one number to a place of ours.
        CallError::of(unsafe { call.map_err(|_| CallError::NotSupported)?(device.handle, &raw mut energy) })?;
        Ok(energy)
    }

    fn text(&self, device: Device<'_>, symbol: &[u8]) -> Result<String, CallError> {
        type Call = unsafe extern "C" fn(*mut c_void, *mut c_char, c_uint) -> c_uint;
        // SAFETY: the signature is that of the vendor's header.
        let call = unsafe { self.0.get::<Call>(symbol) };
        let mut text: [c_char; NAME_BYTES] = [0; NAME_BYTES];
        let room = c_uint::try_from(NAME_BYTES).unwrap_or(0);
        // SAFETY: the library writes at most as many bytes as it is told that there are.
        CallError::of(unsafe { call.map_err(|_| CallError::NotSupported)?(device.handle, text.as_mut_ptr(), room) })?;
        let bytes: Vec<u8> = text.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        let text = CStr::from_bytes_until_nul(&bytes).map_err(|_| CallError::Name)?;
        text.to_str().map(str::to_owned).map_err(|_| CallError::Name)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the signature is that of the vendor's header; nothing of the library is used after it.
        if let Ok(shutdown) = unsafe { self.0.get::<unsafe extern "C" fn() -> c_uint>(b"hlml_shutdown\0") } {
            // SAFETY: as above. What it says changes nothing: the process ends.
            let _code = unsafe { shutdown() };
        }
    }
}
