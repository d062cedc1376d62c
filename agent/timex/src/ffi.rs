//! The one call that tells it.
//!
//! Unsafe code is needed here and only here: the call fills a structure that it is given by a pointer. Question: why not a
//! library, or what an NTP client tells? Because the kept wrappers of the call set clocks and tell no state, and because each
//! client tells it in a place of its own, while all of them tell the kernel.

#![allow(unsafe_code, reason = "one call with a pointer; see above")]

use nix::libc;
use std::io;
use std::time::Duration;

/// How well the wall clock is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Whether something corrects the clock (NTP, PTP, a hypervisor's clock): the kernel forgets it within a day of silence.
    pub synchronised: bool,
    /// Most that the clock may be off by the kernel's reckoning: it grows by 0.5 ms each second in which nothing corrects the
    /// clock, and no further than 16 s.
    pub most_error: Duration,
}

impl Kept {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The call is not allowed here (seccomp).
    pub fn now() -> io::Result<Self> {
        // SAFETY: integers only, for all of which zero is a value; a `modes` of zero sets nothing.
        let mut clock: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is of the layout that this call fills, and lives until it returns.
        if unsafe { libc::adjtimex(&raw mut clock) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let most_error = Duration::from_micros(u64::try_from(clock.maxerror).unwrap_or(0));
        Ok(Self { synchronised: clock.status & libc::STA_UNSYNC == 0, most_error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_well_its_clock_is_kept() {
        let kept = Kept::now().expect("nothing forbids it here");
        // Beyond 16 s the kernel calls no clock synchronised (NTP_PHASE_LIMIT).
        assert!(kept.most_error > Duration::ZERO && kept.most_error <= Duration::from_secs(17), "{kept:?}");
        assert!(!kept.synchronised || kept.most_error <= Duration::from_secs(16), "{kept:?}");
    }
}
