//! Issuing certificates: a CA that lives as long as the program, and leaves below it. For laptops and tests; a fleet has a
//! CA of its own.
//!
//! Keys are ECDSA on P-256. The certificate is put together part by part (RFC 5280 section 4.1), because the library that
//! reads certificates keeps its own builder for keys of other libraries.

use joulebook_units::UnixNanos;
use ring::error::{KeyRejected, Unspecified};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use std::net::IpAddr;
use std::time::Duration;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::{Any, BitString, Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::flagset::FlagSet;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use x509_cert::der::oid::db::rfc5912::{ECDSA_WITH_SHA_256, ID_EC_PUBLIC_KEY, SECP_256_R_1};
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::der::{DateTime, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

/// `SEQUENCE`, constructed.
const SEQUENCE: u8 = 0x30;
/// `[0]` and `[3]`, explicit.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const KEY_ID_BYTES: usize = 20;

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A name or a time that a certificate cannot hold.
    #[error("a name or a time cannot stand in a certificate: {0}")]
    Content(#[from] x509_cert::der::Error),
    /// No random numbers, or no signature.
    #[error("making a key or a signature failed")]
    Crypto,
}

impl From<Unspecified> for IssueError {
    fn from(_: Unspecified) -> Self {
        Self::Crypto
    }
}

impl From<KeyRejected> for IssueError {
    fn from(_: KeyRejected) -> Self {
        Self::Crypto
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Common name, for people.
    pub name: String,
    /// URIs among its names.
    pub uris: Vec<String>,
    /// Host names among its names.
    pub hosts: Vec<String>,
    /// Addresses among its names.
    pub addresses: Vec<IpAddr>,
    /// Whether it is for a TLS client.
    pub client: bool,
    /// Whether it is for a TLS server.
    pub server: bool,
    /// Whether it belongs to a CA.
    pub ca: bool,
    /// Whether it may sign certificates.
    pub may_sign: bool,
}

impl Subject {
    /// A TLS client that a URI names.
    pub fn client(name: &str, uri: String) -> Self {
        Self { uris: vec![uri], client: true, ..Self::nobody(name) }
    }

    /// A TLS server.
    pub fn server(name: &str, hosts: &[&str], addresses: &[IpAddr]) -> Self {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Self { hosts, addresses: addresses.to_vec(), server: true, ..Self::nobody(name) }
    }

    fn nobody(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            uris: Vec::new(),
            hosts: Vec::new(),
            addresses: Vec::new(),
            client: false,
            server: false,
            ca: false,
            may_sign: false,
        }
    }

    fn names(&self) -> Result<Vec<GeneralName>, IssueError> {
        let uri = |uri: &String| Ok(GeneralName::UniformResourceIdentifier(Ia5String::new(uri)?));
        let host = |host: &String| Ok(GeneralName::DnsName(Ia5String::new(host)?));
        let address = |address: &IpAddr| Ok(GeneralName::from(*address));
        let names = self.uris.iter().map(uri).chain(self.hosts.iter().map(host));
        names.chain(self.addresses.iter().map(address)).collect()
    }
}

/// A CA whose key is nowhere but in memory.
pub struct Authority {
    key: EcdsaKeyPair,
    name: Name,
    certificate: String,
    random: SystemRandom,
}

impl Authority {
    /// A new CA, its name followed by the beginning of its key's id, valid from `begins` for `life`.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn new(name: &str, begins: UnixNanos, life: Duration) -> Result<Self, IssueError> {
        let random = SystemRandom::new();
        let (key, _) = generate(&random)?;
        // Two CAs of one name would be taken for each other, and the error would speak of a bad signature.
        let own: String =
            key_id(key.public_key().as_ref())?.as_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{name} {own}");
        let mut authority = Self { key, name: common_name(&name)?, certificate: String::new(), random };
        let subject = Subject { ca: true, may_sign: true, ..Subject::nobody(&name) };
        authority.certificate = authority.sign(&subject, authority.key.public_key().as_ref(), begins, life)?;
        Ok(authority)
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate with a new key, valid from `begins` for `life`.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(&self, subject: &Subject, begins: UnixNanos, life: Duration) -> Result<Issued, IssueError> {
        let (key, pkcs8) = generate(&self.random)?;
        Ok(Issued {
            certificate: self.sign(subject, key.public_key().as_ref(), begins, life)?,
            key: encode_string("PRIVATE KEY", LineEnding::LF, &pkcs8).map_err(|_| IssueError::Crypto)?,
        })
    }

    fn sign(&self, subject: &Subject, public: &[u8], begins: UnixNanos, life: Duration) -> Result<String, IssueError> {
        let algorithm = AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA_256, parameters: None }.to_der()?;
        let curve = Any::encode_from(&SECP_256_R_1)?;
        let key = SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned { oid: ID_EC_PUBLIC_KEY, parameters: Some(curve) },
            subject_public_key: BitString::from_bytes(public)?,
        };
        let begins = Duration::from_nanos(u64::try_from(begins.0).unwrap_or_default());
        let validity: Validity = Validity::new(time(begins)?, time(begins + life)?);
        let mut serial = [0; 16];
        self.random.fill(&mut serial)?;
        // Positive, and never without its first byte.
        serial[0] = serial[0] & 0x7f | 0x40;
        let serial: SerialNumber = SerialNumber::new(&serial)?;
        let content = sequence(
            SEQUENCE,
            &[
                sequence(VERSION, &[Version::V3.to_der()?])?,
                serial.to_der()?,
                algorithm.clone(),
                self.name.to_der()?,
                validity.to_der()?,
                common_name(&subject.name)?.to_der()?,
                key.to_der()?,
                sequence(EXTENSIONS, &[self.extensions(subject, public)?.to_der()?])?,
            ],
        )?;
        let signature = BitString::from_bytes(self.key.sign(&self.random, &content)?.as_ref())?;
        let certificate = sequence(SEQUENCE, &[content, algorithm, signature.to_der()?])?;
        encode_string("CERTIFICATE", LineEnding::LF, &certificate).map_err(|_| IssueError::Crypto)
    }

    fn extensions(&self, subject: &Subject, public: &[u8]) -> Result<Vec<Extension>, IssueError> {
        let mut usage: FlagSet<KeyUsages> = FlagSet::default();
        if !subject.ca {
            usage |= KeyUsages::DigitalSignature;
        }
        if subject.may_sign {
            usage |= KeyUsages::KeyCertSign;
        }
        let own = self.key.public_key().as_ref();
        let issuer = AuthorityKeyIdentifier { key_identifier: Some(key_id(own)?), ..AuthorityKeyIdentifier::default() };
        let mut extensions = vec![
            extension(&BasicConstraints { ca: subject.ca, path_len_constraint: None }, true)?,
            extension(&KeyUsage(usage), true)?,
            extension(&SubjectKeyIdentifier(key_id(public)?), false)?,
            extension(&issuer, false)?,
        ];
        let purposes = [(subject.client, ID_KP_CLIENT_AUTH), (subject.server, ID_KP_SERVER_AUTH)];
        let purposes: Vec<ObjectIdentifier> = purposes.into_iter().filter_map(|(is, oid)| is.then_some(oid)).collect();
        if !purposes.is_empty() {
            extensions.push(extension(&ExtendedKeyUsage(purposes), false)?);
        }
        let names = subject.names()?;
        if !names.is_empty() {
            extensions.push(extension(&SubjectAltName(names), false)?);
        }
        Ok(extensions)
    }
}

fn generate(random: &SystemRandom) -> Result<(EcdsaKeyPair, Vec<u8>), IssueError> {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), random)?;
    Ok((key, pkcs8.as_ref().to_vec()))
}

fn common_name(name: &str) -> Result<Name, IssueError> {
    // What a name would have to quote is replaced: it is for people only.
    let plain = |c: char| if c.is_ascii_alphanumeric() || " .-_".contains(c) { c } else { '_' };
    let text: String = name.chars().take(64).map(plain).collect();
    Ok(format!("CN={text}").parse()?)
}

fn time(since_epoch: Duration) -> Result<Time, IssueError> {
    let whole = Duration::from_secs(since_epoch.as_secs());
    let time = DateTime::from_unix_duration(whole)?;
    Ok(Time::GeneralTime(x509_cert::der::asn1::GeneralizedTime::from_date_time(time)))
}

fn key_id(public: &[u8]) -> Result<OctetString, IssueError> {
    let digest = ring::digest::digest(&ring::digest::SHA256, public);
    Ok(OctetString::new(digest.as_ref().get(..KEY_ID_BYTES).unwrap_or_default())?)
}

fn extension<T: AssociatedOid + Encode>(value: &T, critical: bool) -> Result<Extension, IssueError> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// One constructed element around others.
fn sequence(tag: u8, parts: &[Vec<u8>]) -> Result<Vec<u8>, IssueError> {
    let content = parts.concat();
    let mut element = vec![tag];
    element.extend(x509_cert::der::Length::try_from(content.len())?.to_der()?);
    element.extend(content);
    Ok(element)
}
