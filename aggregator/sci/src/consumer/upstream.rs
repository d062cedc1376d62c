//! Which services an upstream of a gateway is: by its address, else by its model's name.

use crate::allocate::ModelVersion;
use crate::attribution::Measures;
use crate::settle::counting_for;
use crate::totals::NodeTotals;
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};
use joulebook_units::{Consumption, Endpoint, Service};

/// The services of a window by where they are counted.
pub struct Upstreams<'a> {
    services: BTreeSet<(&'a str, &'a Arc<Service>)>,
    /// Services whose requests are counted at another one, which then stands for them.
    doubled: BTreeSet<(&'a str, &'a Arc<Service>)>,
    /// Gateways that tell of consumers themselves, each with its node.
    gateways: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Upstreams<'a> {
    /// Those of the nodes' cells.
    pub fn new(nodes: &'a BTreeMap<String, NodeTotals>) -> Self {
        let of_node = |(name, node): (&'a String, &'a NodeTotals)| {
            node.cell.counted_services().map(move |(service, _)| (name.as_str(), service))
        };
        let doubled = |(name, node): (&'a String, &'a NodeTotals)| {
            let left_out = node.cell.services.iter().filter(|(_, used)| used.measures.contains(Measures::LEFT_OUT));
            left_out.map(move |(service, _)| (name.as_str(), service))
        };
        let of_gateways = |(name, node): (&'a String, &'a NodeTotals)| {
            node.cell.consumption.keys().map(move |of| (name.as_str(), of.gateway.as_str()))
        };
        Self {
            services: nodes.iter().flat_map(of_node).collect(),
            doubled: nodes.iter().flat_map(doubled).collect(),
            gateways: nodes.iter().flat_map(of_gateways).collect(),
        }
    }

    /// Whether it was sent to another gateway of this book, which tells of it once more: for whom, where it went, and how much.
    pub fn is_passed_on(&self, node: &str, of: &Consumption) -> bool {
        let Some(wanted) = of.endpoint.as_deref().and_then(Authority::of) else { return false };
        self.gateways.iter().any(|(at, gateway)| {
            let is_other = *gateway != of.gateway || *at != node;
            is_other && (!wanted.is_local() || *at == node) && Authority::of(gateway).as_ref() == Some(&wanted)
        })
    }

    /// The versions that may have served it: those counted at its address, else, where the address may be a name for
    /// something inside or is not told, those of its model's name. Empty for what is elsewhere.
    pub fn versions(&self, node: &str, of: &Consumption) -> BTreeSet<ModelVersion> {
        let found = match of.endpoint.as_deref() {
            None => self.named(of),
            Some(endpoint) => {
                let there = self.at(node, endpoint);
                let there = if there.is_empty() { self.standing_for(node, endpoint) } else { there };
                match there.is_empty() {
                    true if may_be_inside(endpoint) => self.named(of),
                    true => BTreeSet::new(),
                    false => among(there, of),
                }
            }
        };
        let versions = |wanted: Option<&str>| -> BTreeSet<ModelVersion> {
            let told = found.iter().map(|service| ModelVersion::of(service));
            told.filter(|version| wanted.is_none() || version.version.as_deref() == wanted).collect()
        };
        let exact = versions(of.version.as_deref());
        if exact.is_empty() { versions(None) } else { exact }
    }

    fn at(&self, node: &str, endpoint: &str) -> BTreeSet<&'a Service> {
        let wanted = Authority::of(endpoint);
        let there = self.services.iter().filter(|(at, service)| is_at((at, service), node, endpoint, wanted.as_ref()));
        there.map(|(_, service)| -> &'a Service { service }).collect()
    }

    /// Those that count what a server tells itself, or one that has an engine inside it shows.
    fn standing_for(&self, node: &str, endpoint: &str) -> BTreeSet<&'a Service> {
        let wanted = Authority::of(endpoint);
        let told = self.doubled.iter().filter(|(at, service)| is_at((at, service), node, endpoint, wanted.as_ref()));
        let on_node = |node: &'a str| {
            self.services.iter().filter(move |(at, _)| *at == node).map(|(_, service)| -> &'a Service { service })
        };
        told.flat_map(|(at, told)| counting_for(told, on_node(at).filter(|page| page.workload == told.workload)))
            .collect()
    }

    fn named(&self, of: &Consumption) -> BTreeSet<&'a Service> {
        let services = self.services.iter().map(|(_, service)| -> &'a Service { service });
        services.filter(|service| is_model(service, of)).collect()
    }
}

/// Whether a service is counted at this endpoint, as a gateway of a node names it.
fn is_at((at, service): (&str, &Service), node: &str, endpoint: &str, wanted: Option<&Authority>) -> bool {
    if service.target == endpoint {
        return at == node;
    }
    wanted.is_some_and(|wanted| {
        (!wanted.is_local() || at == node) && Authority::of(&service.target).as_ref() == Some(wanted)
    })
}

/// Of the services at one address, those of the model that was asked for. A server that answers to a name of its own is
/// meant whatever the gateway calls it.
fn among<'a>(there: BTreeSet<&'a Service>, of: &Consumption) -> BTreeSet<&'a Service> {
    let models: BTreeSet<&Option<String>> = there.iter().map(|service| &service.model).collect();
    let named: BTreeSet<&Service> = there.iter().copied().filter(|service| is_model(service, of)).collect();
    match (models.len(), of.model.is_some()) {
        (1, _) | (_, false) => there,
        _ => named,
    }
}

/// Whether it is the model, whose name may stand behind that of the gateway's provider.
fn is_model(service: &Service, of: &Consumption) -> bool {
    let (Some(served), Some(asked)) = (&service.model, &of.model) else { return false };
    served == asked || asked.split_once('/').is_some_and(|(_, rest)| rest == served)
}

/// Host and port of an address.
#[derive(Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: u16,
}

impl Authority {
    fn of(address: &str) -> Option<Self> {
        let Endpoint { host, port, .. } = Endpoint::of(address)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // A name for this machine, and the wildcard that is none, are where 127.0.0.1 is.
        let host = match host.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() || ip.is_loopback() => Ipv4Addr::LOCALHOST.to_string(),
            Ok(ip) => ip.to_string(),
            Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.to_string(),
            Err(_) => host,
        };
        (!host.is_empty()).then_some(Self { host, port })
    }

    fn is_local(&self) -> bool {
        self.host == "127.0.0.1"
    }
}

/// Whether an address where nothing is counted may be another name for a service of this book: a name of a cluster, or a
/// private address. What is public is elsewhere, and so is an address of the gateway's own machine.
fn may_be_inside(endpoint: &str) -> bool {
    let Some(authority) = Authority::of(endpoint) else { return false };
    match authority.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_private(),
        Ok(IpAddr::V6(ip)) => (ip.segments()[0] & 0xfe00) == 0xfc00,
        Err(_) => {
            let host = authority.host.trim_end_matches('.').to_owned();
            !host.contains('.')
                || host.ends_with(".svc")
                || host.ends_with(".cluster.local")
                || host.ends_with(".internal")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        let of = |text: &str| Authority::of(text);
        for same in ["http://localhost:80/v1", "http://127.0.0.1", "HTTP://x@127.0.0.1:80", "http://0.0.0.0/v1"] {
            let text = same.replace("HTTP", "http");
            assert_eq!(of(&text), of("http://127.0.0.1:80/metrics"), "{same}");
        }
        assert_eq!(of("https://API.example:443/a"), of("https://api.example"));
        assert_ne!(of("http://api.example"), of("https://api.example"));
        assert_eq!(of("http://[fd00::1]:8000/v1"), of("http://[FD00:0::1]:8000"));
        assert_eq!((of("push/12@34"), of("http://"), of("ftp://x"), of("http://h:99999")), (None, None, None, None));
    }

    #[test]
    fn only_what_is_private_may_be_another_name() {
        for inside in ["http://llm:8000/v1", "http://llm.prod.svc:80", "http://10.1.2.3:1", "http://[fd00::1]:1"] {
            assert!(may_be_inside(inside), "{inside}");
        }
        for outside in ["https://api.openai.com/v1", "http://8.8.8.8:1", "http://127.0.0.1:9/v1", "bedrock"] {
            assert!(!may_be_inside(outside), "{outside}");
        }
    }
}
