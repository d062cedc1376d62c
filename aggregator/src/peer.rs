//! Who is at the other end of a connection, told by its certificate, and what that end may ask.
//!
//! A certificate that chains to the CA is still refused unless it follows the rules of an X.509-SVID: exactly one URI
//! among its names, no CA, no right to sign certificates, and the purpose `clientAuth`. The URI says who it is:
//! `spiffe://TRUST-DOMAIN/agent/node/NODE`, `spiffe://TRUST-DOMAIN/bmc-poller/NAME` or `spiffe://TRUST-DOMAIN/operator/NAME`.

use joulebook_units::{NodeName, PollerName};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Status};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5280::ID_KP_CLIENT_AUTH;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

/// Longest URI of an identity.
const MAX_URI_BYTES: usize = 2_048;
const SCHEME: &str = "spiffe://";

/// An authenticated peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    uri: String,
    role: Role,
}

/// What a peer is, and which one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The agent of a node: it may stream what it read there.
    Agent(NodeName),
    /// It may stream what meters of nodes show from outside: of those nodes that the configuration gives it.
    Poller(PollerName),
    /// A person or a program that asks.
    Operator(String),
}

/// A certificate that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It cannot be read as a certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It belongs to a CA.
    #[error("the certificate is that of a CA (CA:TRUE): show one of an end entity")]
    Authority,
    /// It may sign certificates or revocation lists.
    #[error("the certificate may sign others (keyCertSign or cRLSign): show one that may not")]
    MaySign,
    /// It was not issued for clients.
    #[error("the certificate lacks the purpose clientAuth")]
    Purpose,
    /// It names nobody, or more than one.
    #[error("the certificate has {0} URIs among its names where exactly one must be")]
    Uris(usize),
    /// The URI is none of ours.
    #[error(
        "the certificate's URI `{0}` is none of spiffe://DOMAIN/agent/node/NODE, /bmc-poller/NAME and /operator/NAME"
    )]
    Uri(String),
}

impl Peer {
    /// Who a certificate (DER) names. Whether it chains to a CA is not asked here.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn of(certificate: &[u8]) -> Result<Self, PeerError> {
        let certificate = Certificate::from_der(certificate).map_err(|_| PeerError::Unreadable)?;
        let certificate = certificate.tbs_certificate();
        let constraints = certificate.get_extension::<BasicConstraints>().map_err(|_| PeerError::Unreadable)?;
        if constraints.is_some_and(|(_, constraints)| constraints.ca) {
            return Err(PeerError::Authority);
        }
        let usage = certificate.get_extension::<KeyUsage>().map_err(|_| PeerError::Unreadable)?;
        if usage.is_some_and(|(_, usage)| usage.key_cert_sign() || usage.crl_sign()) {
            return Err(PeerError::MaySign);
        }
        let purposes = certificate.get_extension::<ExtendedKeyUsage>().map_err(|_| PeerError::Unreadable)?;
        if !purposes.is_some_and(|(_, purposes)| purposes.0.contains(&ID_KP_CLIENT_AUTH)) {
            return Err(PeerError::Purpose);
        }
        let names = certificate.get_extension::<SubjectAltName>().map_err(|_| PeerError::Unreadable)?;
        let names = names.map_or_else(Vec::new, |(_, names)| names.0);
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
            _ => None,
        });
        let uris: Vec<&str> = uris.collect();
        match uris.as_slice() {
            [uri] => Self::parse(uri),
            uris => Err(PeerError::Uris(uris.len())),
        }
    }

    /// Who a URI names.
    ///
    /// # Errors
    /// A URI that is longer than 2,048 bytes or breaks the form.
    pub fn parse(uri: &str) -> Result<Self, PeerError> {
        let refuse = || PeerError::Uri(uri.chars().filter(|c| !c.is_control()).take(128).collect());
        let rest = uri.strip_prefix(SCHEME).filter(|_| uri.len() <= MAX_URI_BYTES).ok_or_else(refuse)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let in_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        let in_segment = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let good = |part: &str, may: fn(char) -> bool| !part.is_empty() && part.chars().all(may);
        let [domain, path @ ..] = parts.as_slice() else { return Err(refuse()) };
        if !good(domain, in_domain) || !path.iter().all(|part| good(part, in_segment) && !matches!(*part, "." | "..")) {
            return Err(refuse());
        }
        let role = match path {
            ["agent", "node", node] => Role::Agent(node.parse().map_err(|_| refuse())?),
            ["bmc-poller", name] => Role::Poller(name.parse().map_err(|_| refuse())?),
            ["operator", name] => Role::Operator((*name).to_owned()),
            _ => return Err(refuse()),
        };
        Ok(Self { uri: uri.to_owned(), role })
    }

    /// What it is.
    pub fn role(&self) -> &Role {
        &self.role
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.uri)
    }
}

/// Who sent a request, among the request's extensions. Nobody is known on a plaintext connection, which only this machine's
/// own programs can have: they may do everything.
#[derive(Debug, Clone)]
pub struct Caller(pub Option<Arc<Peer>>);

impl Caller {
    /// The sender of a request.
    ///
    /// # Errors
    /// A request that came by no connection of ours: a fault of this build, and refused.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        request.extensions().get().ok_or_else(|| Status::unauthenticated("the connection does not say who is there"))
    }
}

/// Turns true when the connection of a request is to end: what is under way is to be finished, and nothing to be begun.
#[derive(Debug, Clone)]
pub struct Ending(pub watch::Receiver<bool>);

impl Ending {
    /// Of a request's connection.
    ///
    /// # Errors
    /// A request that came by no connection of ours: a fault of this build, and refused.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("the connection does not say when it ends"))
    }
}

/// Lets agents and pollers pass, for services that take telemetry.
#[allow(clippy::result_large_err, reason = "the signature of an interceptor")]
pub fn agents_only(request: Request<()>) -> Result<Request<()>, Status> {
    let may = |role: &Role| matches!(role, Role::Agent(_) | Role::Poller(_));
    pass(request, "only the certificate of an agent or a poller may stream telemetry", may)
}

/// Lets operators pass, for services that answer.
#[allow(clippy::result_large_err, reason = "the signature of an interceptor")]
pub fn operators_only(request: Request<()>) -> Result<Request<()>, Status> {
    pass(request, "only an operator's certificate may ask", |role| matches!(role, Role::Operator(_)))
}

#[allow(clippy::result_large_err, reason = "the signature of an interceptor")]
fn pass(request: Request<()>, rule: &str, may: fn(&Role) -> bool) -> Result<Request<()>, Status> {
    match &Caller::of(&request)?.0 {
        Some(peer) if !may(peer.role()) => {
            tracing::warn!(target: "audit", %peer, rule, "a call was refused");
            Err(Status::permission_denied(format!("{rule}; this is {peer}")))
        }
        _ => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_an_agent_a_poller_or_an_operator() {
        let agent = Peer::parse("spiffe://example.org/agent/node/gpu-1.fra_2").expect("an agent");
        assert_eq!(agent.role(), &Role::Agent("gpu-1.fra_2".parse().expect("a name")));
        let poller = Peer::parse("spiffe://td/bmc-poller/east-1").expect("a poller");
        assert_eq!(poller.role(), &Role::Poller("east-1".parse().expect("a name")));
        let operator = Peer::parse("spiffe://td/operator/ann").expect("an operator");
        assert_eq!(operator.role(), &Role::Operator("ann".to_owned()));
        assert_eq!(operator.to_string(), "spiffe://td/operator/ann");
    }

    #[test]
    fn uris_of_another_form_name_nobody() {
        let long = format!("spiffe://td/operator/{}", "a".repeat(MAX_URI_BYTES));
        for uri in [
            "",
            "spiffe://",
            "https://td/operator/ann",
            "spiffe:///operator/ann",
            "spiffe://TD/operator/ann",
            "spiffe://td:1/operator/ann",
            "spiffe://user@td/operator/ann",
            "spiffe://td/operator/",
            "spiffe://td//operator/ann",
            "spiffe://td/operator/ann/",
            "spiffe://td/operator/..",
            "spiffe://td/agent/../operator/ann",
            "spiffe://td/operator/a%2fb",
            "spiffe://td/operator/ann?x=1",
            "spiffe://td/agent/node",
            "spiffe://td/agent/node/a/b",
            "spiffe://td/agent/ann",
            "spiffe://td/bmc-poller/",
            "spiffe://td/bmc-poller/a/b",
            &long,
        ] {
            assert!(matches!(Peer::parse(uri), Err(PeerError::Uri(_))), "{uri}");
        }
    }
}
