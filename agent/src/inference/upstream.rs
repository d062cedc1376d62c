//! Where a gateway's upstreams are, when the gateway calls them by a name: the ledger knows engines and other gateways by their
//! addresses, and what it does not know there it would count as something elsewhere, or once more.
//!
//! A name is what the configuration says it is, else, if that asks for it, what the system's resolver says. Names come from
//! a page: they are resolved on request only, a few of them, and what is resolved is looked at and never connected to.

use joulebook_units::{BootNanos, Endpoint};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::timeout;

/// Names of one gateway that are resolved.
const MOST_NAMES: usize = 32;
/// All of them together are waited for so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a name that may be one.
const MOST_NAME_BYTES: usize = 253;

/// Asks for the addresses of a name; it may take as long as it wants to.
pub type Lookup = fn(&str) -> io::Result<Vec<IpAddr>>;

/// Addresses by the names of a gateway.
#[derive(Debug)]
pub struct Addresses {
    /// By `host` or `host:port`, in small letters: where that is, `host:port`.
    declared: BTreeMap<String, String>,
    /// Time between two questions for one name, if any is asked for.
    every: Option<Duration>,
    lookup: Lookup,
    found: BTreeMap<String, Found>,
}

/// What the resolver said of a name.
#[derive(Debug)]
struct Found {
    asked: BootNanos,
    address: Option<IpAddr>,
}

impl Addresses {
    /// Those of a target.
    pub fn new(declared: BTreeMap<String, String>, every: Option<Duration>, lookup: Lookup) -> Self {
        Self { declared, every, lookup, found: BTreeMap::new() }
    }

    /// Asks for the names among these endpoints that are due. What cannot be resolved keeps the address that it had.
    pub async fn refresh(&mut self, endpoints: impl IntoIterator<Item = &str>, now: BootNanos) {
        let Some(every) = self.every else { return };
        let mut due: Vec<String> = Vec::new();
        for host in endpoints.into_iter().filter_map(|endpoint| Some(named(endpoint)?.1)) {
            let known = self.found.get(&host);
            let is_name = host.len() <= MOST_NAME_BYTES && host.parse::<IpAddr>().is_err();
            let is_due =
                known.map_or(self.found.len() + due.len() < MOST_NAMES, |found| now.since(found.asked) >= every);
            if is_name && is_due && !due.contains(&host) {
                due.push(host);
            }
        }
        if due.is_empty() {
            return;
        }
        let (lookup, asked) = (self.lookup, due.clone());
        let answers = tokio::task::spawn_blocking(move || asked.iter().map(|host| lookup(host)).collect::<Vec<_>>());
        // Who does not answer in time is asked again at the next interval; the page does not wait for it.
        let answers = timeout(PATIENCE, answers).await.ok().and_then(Result::ok).unwrap_or_default();
        let mut answers = answers.into_iter();
        for host in due {
            let answer = answers.next().and_then(Result::ok).map(|all| inside(&all));
            let found = self.found.entry(host).or_insert(Found { asked: now, address: None });
            found.asked = now;
            if let Some(address) = answer {
                found.address = address;
            }
        }
    }

    /// Gives these endpoints their addresses, as far as they are known.
    pub async fn apply(&mut self, endpoints: Vec<&mut Option<String>>, now: BootNanos) {
        let mut told: Vec<&mut String> = endpoints.into_iter().filter_map(Option::as_mut).collect();
        self.refresh(told.iter().map(|endpoint| endpoint.as_str()), now).await;
        for endpoint in &mut told {
            **endpoint = self.of(endpoint);
        }
    }

    /// An endpoint by its address, as far as that is known; else as it is.
    pub fn of(&self, endpoint: &str) -> String {
        let Some((Endpoint { scheme, port, rest, .. }, host)) = named(endpoint) else { return endpoint.to_owned() };
        let declared = self.declared.get(&format!("{host}:{port}")).cloned();
        let by_host = || {
            self.declared.get(&host).map(|place| match place.rsplit_once(':') {
                // Only the host is declared: the port is the upstream's.
                Some((_, end)) if end.bytes().all(|byte| byte.is_ascii_digit()) && !end.is_empty() => place.clone(),
                _ => format!("{place}:{port}"),
            })
        };
        let resolved = || {
            let address = self.found.get(&host)?.address?;
            Some(std::net::SocketAddr::new(address, port).to_string())
        };
        match declared.or_else(by_host).or_else(resolved) {
            Some(place) => format!("{scheme}://{place}{rest}"),
            None => endpoint.to_owned(),
        }
    }
}

/// Whether it is a host, or a host and its port.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MOST_NAME_BYTES
        && !name.contains(|c: char| c == '/' || c == '@' || c.is_whitespace())
}

/// A place as it is declared: a host or an address, with a port or without; `None` if it is none.
pub fn place(text: &str) -> Option<String> {
    if let Ok(IpAddr::V6(address)) = text.parse() {
        return Some(format!("[{address}]"));
    }
    is_name(text).then(|| text.to_owned())
}

/// What the system's resolver says of a name.
///
/// # Errors
/// It does not know it.
pub fn system(host: &str) -> io::Result<Vec<IpAddr>> {
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, 0))?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// The one address of these that may be of a service of this book. Several are replicas, of which none is meant; a public one is
/// somebody else's.
fn inside(all: &[IpAddr]) -> Option<IpAddr> {
    let own = |address: &IpAddr| match address {
        ip if ip.is_loopback() => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V4(ip) if ip.is_private() => Some(IpAddr::V4(*ip)),
        IpAddr::V6(ip) if ip.is_unique_local() => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let mut own: Vec<IpAddr> = all.iter().map(own).collect::<Option<_>>()?;
    own.sort_unstable();
    own.dedup();
    let four: Vec<IpAddr> = own.iter().copied().filter(IpAddr::is_ipv4).collect();
    match (&four[..], &own[..]) {
        ([one], _) | ([], [one]) => Some(*one),
        _ => None,
    }
}

/// An endpoint at a name or an address of IPv4, and its host in small letters and without the dot of the root.
fn named(endpoint: &str) -> Option<(Endpoint<'_>, String)> {
    let parts = Endpoint::of(endpoint)?;
    let host = parts.host.trim_end_matches('.').to_ascii_lowercase();
    (!host.is_empty() && !host.starts_with('[')).then_some((parts, host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SECOND: u64 = 1_000_000_000;

    fn declared(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, place)| ((*name).to_owned(), (*place).to_owned())).collect()
    }

    #[test]
    fn a_declared_name_is_the_address_that_is_declared() {
        let names =
            declared(&[("llm.prod.svc", "10.0.0.7"), ("gateway:4000", "127.0.0.1:5000"), ("all", "10.1.1.1:9")]);
        let addresses = Addresses::new(names, None, |_| panic!("nothing is asked"));
        for (endpoint, address) in [
            ("http://llm.prod.svc:8000/v1", "http://10.0.0.7:8000/v1"),
            ("http://LLM.prod.svc.", "http://10.0.0.7:80"),
            ("http://user@gateway:4000/v1?a=b", "http://127.0.0.1:5000/v1?a=b"),
            ("https://all/v1", "https://10.1.1.1:9/v1"),
            ("http://gateway:4001/v1", "http://gateway:4001/v1"),
            ("http://10.2.3.4:1/v1", "http://10.2.3.4:1/v1"),
            ("http://[fd00::1]:8000", "http://[fd00::1]:8000"),
            ("bedrock", "bedrock"),
            ("http://h:99999", "http://h:99999"),
        ] {
            assert_eq!(addresses.of(endpoint), address);
        }
    }

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    /// A resolver of a few names; `moves` is elsewhere the second time, and then gone.
    fn resolver(host: &str) -> io::Result<Vec<IpAddr>> {
        let ip = |text: &str| text.parse().expect("an address");
        Ok(match host {
            "one" => vec![ip("10.0.0.7")],
            "local" => vec![ip("::1"), ip("127.0.0.1"), ip("127.0.1.1")],
            "replicas" => vec![ip("10.0.0.7"), ip("10.0.0.8")],
            "api.example" => vec![ip("93.184.216.34")],
            "mixed" => vec![ip("10.0.0.7"), ip("93.184.216.34")],
            "six" => vec![ip("fd00::9")],
            "moves" => match ASKED.fetch_add(1, Ordering::SeqCst) {
                0 => vec![ip("10.0.0.1")],
                1 => vec![ip("10.0.0.2")],
                _ => return Err(io::ErrorKind::NotFound.into()),
            },
            _ => return Err(io::ErrorKind::NotFound.into()),
        })
    }

    #[tokio::test]
    async fn a_name_is_what_the_resolver_says_if_that_is_one_private_address() {
        let mut addresses = Addresses::new(BTreeMap::new(), Some(Duration::from_secs(60)), resolver);
        let all = [
            ("http://one:4000/v1", "http://10.0.0.7:4000/v1"),
            ("http://local:4000", "http://127.0.0.1:4000"),
            ("http://six", "http://[fd00::9]:80"),
            ("http://replicas:1", "http://replicas:1"),
            ("https://api.example/v1", "https://api.example/v1"),
            ("http://mixed:1", "http://mixed:1"),
            ("http://unknown:1", "http://unknown:1"),
        ];
        addresses.refresh(all.iter().map(|(name, _)| *name), BootNanos(SECOND)).await;
        for (name, address) in all {
            assert_eq!(addresses.of(name), address);
        }
    }

    #[tokio::test]
    async fn names_are_asked_for_at_the_interval_and_keep_what_they_had() {
        let mut addresses = Addresses::new(BTreeMap::new(), Some(Duration::from_secs(60)), resolver);
        for (at, address) in [(1, "10.0.0.1"), (60, "10.0.0.1"), (61, "10.0.0.2"), (121, "10.0.0.2")] {
            addresses.refresh(["http://moves:1"], BootNanos(at * SECOND)).await;
            assert_eq!(addresses.of("http://moves:1"), format!("http://{address}:1"), "at {at} s");
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 3);
        // Who does not ask for it gets no question, and there is an end to names.
        let mut silent = Addresses::new(BTreeMap::new(), None, |_| panic!("asked"));
        silent.refresh(["http://one:1"], BootNanos(1)).await;
        assert_eq!(silent.of("http://one:1"), "http://one:1");
        let many: Vec<String> = (0..100).map(|number| format!("http://n{number}:1")).collect();
        addresses.refresh(many.iter().map(String::as_str), BootNanos(1)).await;
        assert_eq!(addresses.found.len(), MOST_NAMES);
    }

    #[test]
    fn the_systems_resolver_knows_this_machine() {
        assert_eq!(inside(&system("localhost").expect("known")), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
