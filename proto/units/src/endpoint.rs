//! Addresses as gateways tell them.

/// An address of HTTP taken apart, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Name or address of the host, one of IPv6 in its brackets. Never empty.
    pub host: &'a str,
    /// Its port, or that of the scheme.
    pub port: u16,
    /// What stands behind: path, query and fragment.
    pub rest: &'a str,
}

impl<'a> Endpoint<'a> {
    /// Takes an address apart; `None` for what is none of HTTP. Who is named before the host is left out.
    ///
    /// ```
    /// let endpoint = joulebook_units::Endpoint::of("https://me@h.example/v1?a=b").expect("an address");
    /// assert_eq!((endpoint.host, endpoint.port, endpoint.rest), ("h.example", 443, "/v1?a=b"));
    /// assert_eq!(joulebook_units::Endpoint::of("ftp://h"), None);
    /// ```
    pub fn of(address: &'a str) -> Option<Self> {
        let (scheme, after) = address.split_once("://")?;
        let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse().ok()?)
            }
            _ => (authority, default),
        };
        (!host.is_empty()).then_some(Self { scheme, host, port, rest })
    }
}
