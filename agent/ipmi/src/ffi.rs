//! The kernel's IPMI device, as `linux/ipmi.h` declares it: a command is sent by one ioctl, its response is waited for with
//! poll and taken by another.
//!
//! Unsafe code is needed here and only here: the two ioctls take structures that point to an address and to data, both of
//! which live on the caller's stack for the length of the call. Question: why not a library? `ipmi-rs` 0.6 refuses every
//! response to a group extension, which DCMI is, in its own interface. What would change it: a release that does not.

#![allow(unsafe_code, reason = "two ioctls with pointers, and poll; see above")]

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE`.
const SYSTEM_INTERFACE: libc::c_int = 0x0c;
/// `IPMI_BMC_CHANNEL`.
const BMC_CHANNEL: libc::c_short = 0x0f;
/// `IPMI_RESPONSE_RECV_TYPE`.
const RESPONSE: libc::c_int = 1;
/// `IPMI_MAX_MSG_LENGTH`.
const MAX_BYTES: usize = 272;

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct Address {
    kind: libc::c_int,
    channel: libc::c_short,
    lun: libc::c_uchar,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    netfn: libc::c_uchar,
    cmd: libc::c_uchar,
    data_len: libc::c_ushort,
    data: *mut libc::c_uchar,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut Address,
    address_len: libc::c_uint,
    id: libc::c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Received {
    kind: libc::c_int,
    address: *mut Address,
    address_len: libc::c_uint,
    id: libc::c_long,
    message: Message,
}

/// `_IOR('i', 13, struct ipmi_req)`.
const SEND_COMMAND: libc::c_ulong = ioctl_number(2, 13, size_of::<Request>());
/// `_IOWR('i', 11, struct ipmi_recv)`.
const RECEIVE_MSG_TRUNC: libc::c_ulong = ioctl_number(3, 11, size_of::<Received>());

/// `_IOC` of asm-generic: direction, type, number, size.
const fn ioctl_number(direction: libc::c_ulong, number: libc::c_ulong, size: usize) -> libc::c_ulong {
    direction << 30 | (size as libc::c_ulong) << 16 | (b'i' as libc::c_ulong) << 8 | number
}

/// The boot clock.
fn boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// The open device.
#[derive(Debug)]
pub struct Device {
    file: File,
    id: libc::c_long,
}

impl Device {
    /// Opens the device for reading and writing.
    ///
    /// # Errors
    /// Not there, not allowed, or busy.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Ok(Self { file, id: 0 })
    }

    /// Sends a command to the BMC and waits for its response: the completion code, then the data.
    ///
    /// # Errors
    /// `TimedOut` past `limit`; `InvalidData` for a response that is longer than its buffer; else the kernel's.
    pub fn raw(&mut self, netfn: u8, cmd: u8, data: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
        self.id = self.id.wrapping_add(1);
        self.send(netfn, cmd, data)?;
        let begin = boot()?;
        loop {
            let left = limit.saturating_sub(boot()?.saturating_sub(begin));
            self.wait(left)?;
            match self.receive()? {
                // A response that was given up before: what it says is not asked for any more.
                Some((id, _)) if id != self.id => {}
                Some((_, response)) => return Ok(response),
                None => {}
            }
        }
    }

    fn send(&self, netfn: u8, cmd: u8, data: &[u8]) -> io::Result<()> {
        let mut address = Address { kind: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun: 0 };
        let mut data = data.to_vec();
        let data_len = libc::c_ushort::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut request = Request {
            address: &raw mut address,
            address_len: size_of::<Address>() as libc::c_uint,
            id: self.id,
            message: Message { netfn, cmd, data_len, data: data.as_mut_ptr() },
        };
        // SAFETY: the descriptor is open; `request` has the layout that the kernel reads for this number, and the address
        // and data it points to live until the call returns, by when the kernel has copied both.
        let sent = unsafe { libc::ioctl(self.file.as_raw_fd(), SEND_COMMAND as _, &raw mut request) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn wait(&self, left: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one valid pollfd, and a count of one.
        match unsafe { libc::poll(&raw mut poll, 1, millis) } {
            0 => Err(io::ErrorKind::TimedOut.into()),
            ready if ready > 0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
    }

    /// What has come: the number of its request, and completion code and data. None for what is no response.
    fn receive(&self) -> io::Result<Option<(libc::c_long, Vec<u8>)>> {
        let mut address = Address { kind: 0, channel: 0, lun: 0 };
        let mut data = [0; MAX_BYTES];
        let mut received = Received {
            kind: 0,
            address: &raw mut address,
            address_len: size_of::<Address>() as libc::c_uint,
            id: 0,
            message: Message { netfn: 0, cmd: 0, data_len: MAX_BYTES as libc::c_ushort, data: data.as_mut_ptr() },
        };
        // SAFETY: the descriptor is open; `received` has the layout that the kernel fills for this number, with the true
        // lengths of the address and data it points to, both of which live until the call returns.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), RECEIVE_MSG_TRUNC as _, &raw mut received) };
        if done < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error if error.raw_os_error() == Some(libc::EMSGSIZE) => Err(io::ErrorKind::InvalidData.into()),
                error => Err(error),
            };
        }
        if received.kind != RESPONSE {
            return Ok(None);
        }
        let response = data.get(..usize::from(received.message.data_len)).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((received.id, response.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test ends at what it did not expect")]

    use super::*;

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        // As the C compiler makes them of linux/ipmi.h on x86-64 and aarch64.
        assert_eq!((SEND_COMMAND, RECEIVE_MSG_TRUNC), (0x8028_690d, 0xc030_690b));
        assert_eq!((size_of::<Address>(), std::mem::offset_of!(Received, message)), (8, 32));
    }

    #[test]
    fn what_is_no_ipmi_device_says_so() {
        let folder = tempfile::tempdir().expect("folder");
        let missing = Device::open(&folder.path().join("ipmi0")).expect_err("it is not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let path = folder.path().join("file");
        std::fs::write(&path, "").expect("written");
        let mut file = Device::open(&path).expect("a file can be opened");
        let refused = file.raw(0x2c, 2, &[0xdc, 1, 0, 0], Duration::from_millis(10)).expect_err("no ioctl");
        assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
    }
}
