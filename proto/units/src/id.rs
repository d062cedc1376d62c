//! Identifiers. A constructor refuses what it cannot be; after that the value is trusted.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

/// A text that is not an identifier of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind}: {rule}")]
pub struct InvalidId {
    /// Kind of identifier.
    pub kind: &'static str,
    /// The refused text (cut to 128 characters).
    pub text: String,
    /// What it must satisfy.
    pub rule: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.chars().take(128).filter(|c| !c.is_control()).collect(), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $most:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                if (1..=$most).contains(&text.len()) && text.bytes().all(allowed) {
                    return Ok(Self(text.to_string()));
                }
                Err(InvalidId::new($kind, text, $rule))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Name of a node: 1 … 253 characters of a–z, A–Z, 0–9, `.`, `-` and `_` (a Kubernetes node name is one).
    NodeName, "node name", 253, "1 to 253 of letters, digits, '.', '-' and '_'"
}

name! {
    /// Name of a poller, which reads meters of nodes from outside: 1 … 128 characters of those of a node's name.
    PollerName, "poller name", 128, "1 to 128 of letters, digits, '.', '-' and '_'"
}

macro_rules! bytes16 {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                <[u8; 16]>::try_from(bytes)
                    .map(Self)
                    .map_err(|_| InvalidId::new($kind, "", "exactly 16 bytes"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            /// Reads 32 hexadecimal digits; dashes (as in a UUID) are skipped.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let rule = "32 hexadecimal digits, dashes allowed";
                let mut bytes = [0u8; 16];
                let mut digits = 0usize;
                for c in text.trim().chars().filter(|c| *c != '-') {
                    let digit = c.to_digit(16).ok_or_else(|| InvalidId::new($kind, text, rule))?;
                    let slot = bytes.get_mut(digits / 2).ok_or_else(|| InvalidId::new($kind, text, rule))?;
                    // A hexadecimal digit fits a byte.
                    #[allow(clippy::cast_possible_truncation, reason = "to_digit(16) is below 16")]
                    let digit = digit as u8;
                    *slot = *slot << 4 | digit;
                    digits += 1;
                }
                if digits == 32 { Ok(Self(bytes)) } else { Err(InvalidId::new($kind, text, rule)) }
            }
        }
    };
}

bytes16! {
    /// Identity of one boot of a machine (`/proc/sys/kernel/random/boot_id`).
    BootId, "boot id"
}

bytes16! {
    /// Identity of one stream of records: 128 random bits, made when a spool is initialised.
    StreamId, "stream id"
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_boot_id_reads_as_the_kernel_prints_it() {
        let id: BootId = "6f1c2f3e-0a1b-4c5d-8e9f-001122334455\n".parse().expect("a uuid");
        assert_eq!(format!("{id}"), "6f1c2f3e0a1b4c5d8e9f001122334455");
        assert!("6f1c".parse::<BootId>().is_err());
        assert!("6f1c2f3e-0a1b-4c5d-8e9f-00112233445566".parse::<BootId>().is_err());
    }

    #[test]
    fn a_node_name_with_a_slash_or_nothing_is_refused() {
        assert!("gpu-node-1.rack_2".parse::<NodeName>().is_ok());
        assert!("".parse::<NodeName>().is_err());
        assert!("a/b".parse::<NodeName>().is_err());
    }
}
