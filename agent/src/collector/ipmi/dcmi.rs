//! The response to DCMI's *Get Power Reading* (DCMI 1.5 §6.6.1, system power statistics).
//!
//! ```text
//! completion code | DC | current u16 | minimum u16 | maximum u16 | average u16 | time u32 | period u32 | state u8
//! ```
//! Little endian; watts, seconds since 1970, milliseconds; bit 6 of the state says that it is measuring. Bytes after these
//! are of later versions. BMCs answer 0 W where their sensor was not ready, and a state of 0 with a good value.

use joulebook_units::Milliwatts;
use std::time::Duration;

/// Network function, command and data of the request.
pub const REQUEST: (u8, u8, [u8; 4]) = (0x2c, 0x02, [0xdc, 0x01, 0x00, 0x00]);
/// Bytes of a response with its completion code.
const LENGTH: usize = 19;
/// What sixteen bits show for "not known".
const NOT_KNOWN: u16 = u16::MAX;
/// The bit of the state that says that it is measuring.
const MEASURING: u8 = 1 << 6;

/// What a BMC answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Power now; none where the BMC shows none.
    pub power: Option<Milliwatts>,
    /// Least power of the period.
    pub minimum: Milliwatts,
    /// Most power of the period.
    pub maximum: Milliwatts,
    /// Mean power of the period.
    pub average: Milliwatts,
    /// The period.
    pub period: Duration,
    /// Whether it says that it is measuring.
    pub active: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// C1.
    #[error("the BMC does not know DCMI power readings (completion code C1)")]
    Unsupported,
    /// C0.
    #[error("the BMC is busy (completion code C0)")]
    Busy,
    /// D4.
    #[error("the BMC does not let this interface read its power (completion code D4)")]
    Privilege,
    /// D5.
    #[error("the BMC does not answer in its present state (completion code D5)")]
    State,
    /// C7, C9, CC.
    #[error("the BMC does not take the request (completion code {0:02X})")]
    Request(u8),
    /// 80 to BE.
    #[error("the BMC refuses for a reason of its maker's own (completion code {0:02X})")]
    Oem(u8),
    /// Another completion code.
    #[error("the BMC refuses with completion code {0:02X}")]
    Other(u8),
    /// Too few bytes.
    #[error("the BMC's response has {0} bytes of {LENGTH}")]
    Truncated(usize),
    /// Not DCMI.
    #[error("the BMC's response is that of another group than DCMI")]
    Group,
}

impl Fault {
    /// Whether asking again is of no use.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::Unsupported | Self::Privilege | Self::Request(_))
    }

    /// The word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unsupported | Self::Request(_) => "not_supported",
            Self::Busy => "busy",
            Self::Privilege => "permission",
            Self::State | Self::Oem(_) | Self::Other(_) => "refused",
            Self::Truncated(_) => "length",
            Self::Group => "group",
        }
    }
}

/// Reads a response, completion code first.
///
/// # Errors
/// Why it is no answer.
pub fn parse(response: &[u8]) -> Result<Statistics, Fault> {
    match response.first() {
        None => return Err(Fault::Truncated(0)),
        Some(0) => {}
        Some(0xc1) => return Err(Fault::Unsupported),
        Some(0xc0) => return Err(Fault::Busy),
        Some(0xd4) => return Err(Fault::Privilege),
        Some(0xd5) => return Err(Fault::State),
        Some(code @ (0xc7 | 0xc9 | 0xcc)) => return Err(Fault::Request(*code)),
        Some(code @ 0x80..=0xbe) => return Err(Fault::Oem(*code)),
        Some(code) => return Err(Fault::Other(*code)),
    }
    if response.len() >= 2 && response[1] != 0xdc {
        return Err(Fault::Group);
    }
    let Some(bytes) = response.first_chunk::<LENGTH>() else { return Err(Fault::Truncated(response.len())) };
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let watts = |at: usize| Milliwatts(u64::from(word(at)) * 1_000);
    let period = u32::from_le_bytes([bytes[14], bytes[15], bytes[16], bytes[17]]);
    Ok(Statistics {
        // The machine that asks is on: 0 W is a sensor that was not ready, or a meter that does not measure.
        power: (word(2) != 0 && word(2) != NOT_KNOWN).then(|| watts(2)),
        minimum: watts(4),
        maximum: watts(6),
        average: watts(8),
        period: Duration::from_millis(u64::from(period)),
        active: bytes[18] & MEASURING != 0,
    })
}
