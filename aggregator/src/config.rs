//! Configuration: TOML, every key documented in [`EXAMPLE`], unknown keys refused, flags override the file.

use crate::export::config::{ExportError, ExportSection, MetricsSection};
use crate::factor::{
    ComponentConfig, EmbodiedConfig, FactorConfig, FactorError, Factors, FeedConfig, GhgRole, OutOfServiceConfig,
    SiteConfig, SiteRule,
};
use crate::memory;
use crate::pods::{PodsError, PodsSection};
use crate::poller::{PollerError, PollerSection, Pollers};
use crate::server::accept::Limits;
use crate::store::retention::Periods;
use crate::store::space::Least;
use joulebook_otlp::{OtlpError, OtlpSection};
use joulebook_proto::config_file::is_writable_by_others;
use joulebook_proto::credentials::{CredentialFiles, SecurityUnclear};
use joulebook_sci::attribution::OutputWeight;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The complete example that `--print-default-config` prints: every key with its default.
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// Configuration of an aggregator. Field names are the keys of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of the database; made if its parent exists.
    pub data_dir: PathBuf,
    /// Folder of backups; made if its parent exists. None can be made without one.
    pub backup_dir: Option<PathBuf>,
    /// Bytes of memory that the process keeps within; the limit of its control group counts where it is less.
    pub memory_budget: Option<u64>,
    /// File of the pods and labels of nodes, which agents are told.
    pub node_directory: Option<PathBuf>,
    /// `[pods]`: the cluster whose pods agents are told.
    pub pods: PodsSection,
    /// Whether plaintext on a loopback address is allowed.
    pub insecure_loopback: bool,
    /// `[disk]`: how much of it stays free.
    pub disk: DiskSection,
    /// `[apportioning]`: how versions share what they use together.
    pub apportioning: ApportioningSection,
    /// `[retention]`: how long data are kept.
    pub retention: RetentionSection,
    /// `[tls]`: what connections are secured with.
    pub tls: TlsSection,
    /// `[connections]`: how many there may be.
    pub connections: ConnectionsSection,
    /// `[export]`: what is worked out for other systems.
    pub export: ExportSection,
    /// `[metrics]`: the page that Prometheus reads.
    pub metrics: MetricsSection,
    /// `[otlp]`: a receiver of OpenTelemetry.
    pub otlp: OtlpSection,
    /// `[[poller]]`: who may speak for nodes from outside.
    pub poller: Vec<PollerSection>,
    /// `[site.NAME]`: PUE, grid zone and intensity by the site that agents state.
    pub site: BTreeMap<String, SiteConfig>,
    /// `[[site_rule]]`: sites by the labels of nodes.
    pub site_rule: Vec<SiteRule>,
    /// `[[factor]]`: series of factors that change with time.
    pub factor: Vec<FeedConfig>,
    /// `[embodied]`: what the hosts are made of.
    pub embodied: EmbodiedConfig,
    /// `[[out_of_service]]`: when nodes are drained, in repair or burnt in.
    pub out_of_service: Vec<OutOfServiceConfig>,
    /// `[[component]]`: what nobody meters, modelled beside the score.
    pub component: Vec<ComponentConfig>,
    /// Who answers for the figures.
    pub accountable_contact: Option<String>,
    /// Role of the reporting organisation: `operator` or `consumer`.
    pub ghg_role: Option<GhgRole>,
}

/// Certificates of mutual TLS, PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// The aggregator's certificate and those between it and its CA.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// CA certificates that agents' and operators' must lead to.
    pub client_ca: Option<PathBuf>,
    /// Whether the key's group may read it.
    pub key_group_readable: bool,
    /// Time between two looks at the files.
    #[serde(skip)]
    pub look_every: Duration,
}

impl Default for TlsSection {
    fn default() -> Self {
        let look_every = Duration::from_secs(10);
        Self { certificate: None, key: None, client_ca: None, key_group_readable: false, look_every }
    }
}

/// How versions share what they use together.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApportioningSection {
    /// What a generated token weighs beside one of the prompt that was read anew, 0 to 1000.
    pub output_token_weight: f64,
}

impl Default for ApportioningSection {
    fn default() -> Self {
        Self { output_token_weight: 1.0 }
    }
}

impl ApportioningSection {
    /// The weight in thousandths.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: 0 to 10^6")]
    pub fn output_weight(&self) -> OutputWeight {
        OutputWeight((self.output_token_weight.clamp(0.0, 1000.0) * 1000.0).round() as u64)
    }
}

/// How much of the database's disk stays free: nothing is stored while less is.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSection {
    /// Share of the disk in percent.
    pub min_free_percent: f64,
    /// Bytes.
    pub min_free_bytes: u64,
}

impl Default for DiskSection {
    fn default() -> Self {
        let Least { percent, bytes } = Least::default();
        Self { min_free_percent: percent, min_free_bytes: bytes }
    }
}

/// How long data are kept; sums of 1 h are kept for ever.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Rows of 1 s.
    #[serde(deserialize_with = "duration")]
    pub rows: Duration,
    /// Cells of 60 s.
    #[serde(deserialize_with = "duration")]
    pub minutes: Duration,
    /// Settled cells of 300 s.
    #[serde(deserialize_with = "duration")]
    pub settled: Duration,
    /// Bytes that the database may have on the disk.
    pub disk_budget: Option<u64>,
}

impl Default for RetentionSection {
    fn default() -> Self {
        let Periods { rows, minutes, settled, disk_budget } = Periods::default();
        Self { rows, minutes, settled, disk_budget }
    }
}

/// A duration as people write it.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| Error::custom(format!("`{text}` is no duration: {error}; write for example \"7d 2h\"")))
}

/// How many connections there may be.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsSection {
    /// In all.
    pub total: usize,
    /// Of one agent or operator.
    pub per_identity: usize,
    /// How long one may last.
    #[serde(skip)]
    pub age: Duration,
    /// How long one may last without a call.
    #[serde(skip)]
    pub idle: Duration,
}

impl Default for ConnectionsSection {
    fn default() -> Self {
        let Limits { connections, per_identity, age, idle, .. } = Limits::default();
        Self { total: connections, per_identity, age, idle }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7443)),
            data_dir: PathBuf::from("/var/lib/joulebook"),
            backup_dir: None,
            memory_budget: None,
            node_directory: None,
            pods: PodsSection::default(),
            insecure_loopback: false,
            disk: DiskSection::default(),
            apportioning: ApportioningSection::default(),
            retention: RetentionSection::default(),
            tls: TlsSection::default(),
            connections: ConnectionsSection::default(),
            export: ExportSection::default(),
            metrics: MetricsSection::default(),
            otlp: OtlpSection::default(),
            poller: Vec::new(),
            site: BTreeMap::new(),
            site_rule: Vec::new(),
            factor: Vec::new(),
            embodied: EmbodiedConfig::default(),
            out_of_service: Vec::new(),
            component: Vec::new(),
            accountable_contact: None,
            ghg_role: None,
        }
    }
}

/// A configuration that no aggregator may start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading configuration {path}: {source}; name an existing file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anybody could say what it says.
    #[error("configuration {path} can be written by others: run `chmod o-w {path}`")]
    WritableByOthers {
        /// The file.
        path: PathBuf,
    },
    /// Not UTF-8, not TOML, an unknown key or a value of the wrong type.
    #[error("{path}:{line}: {what}{hint}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
        /// The nearest valid key, where there is one.
        hint: String,
    },
    /// Neither TLS nor plaintext, or both.
    #[error(transparent)]
    Security(#[from] SecurityUnclear),
    /// A cluster that cannot be watched.
    #[error(transparent)]
    Pods(#[from] PodsError),
    /// No connection would be let in.
    #[error("connections.total and connections.per_identity must be at least 1")]
    NoConnections,
    /// A disk limit that leaves nothing to write to, or none at all.
    #[error("disk.min_free_percent = {0}: it must be 0 to 50")]
    MinFree(f64),
    /// The memory is too little for anything.
    #[error("memory_budget = {0}: at least {least}", least = memory::LEAST)]
    MemoryBudget(u64),
    /// A weight that is none.
    #[error("apportioning.output_token_weight = {0}: it must be 0 to 1000")]
    OutputWeight(f64),
    /// Periods that would drop what is still needed.
    #[error("{0}")]
    Retention(&'static str),
    /// Figures that cannot be worked out or shown so.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The section `[otlp]` cannot be.
    #[error("[otlp] {0}")]
    Otlp(#[from] OtlpError),
    /// A poller that cannot be.
    #[error("[[poller]]: {0}")]
    Poller(#[from] PollerError),
    /// A site or an embodied value that is not valid.
    #[error("configuration: {0}")]
    Factor(#[from] FactorError),
    /// Plaintext on an address that others can reach.
    #[error("--insecure-loopback with listen = \"{listen}\": plaintext is allowed on 127.0.0.1 and ::1 only")]
    NotLoopback {
        /// The address.
        listen: SocketAddr,
    },
}

impl ConfigError {
    /// Whether a permission is the reason (exit code 77), not the content (78).
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::WritableByOthers { .. } => true,
            _ => false,
        }
    }
}

/// Reads a file of ours.
///
/// # Errors
/// It cannot be read, others may write it, or it is not what it should be.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(unreadable)?;
    if is_writable_by_others(path).map_err(unreadable)? {
        return Err(ConfigError::WritableByOthers { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        let what = "not UTF-8; save the file as UTF-8".to_owned();
        ConfigError::Syntax { path: path.to_owned(), line, what, hint: String::new() }
    })?;
    parse_toml(&text, path)
}

fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(text.as_bytes(), error.span().map_or(0, |span| span.start)),
        what: error.message().lines().next().unwrap_or_default().to_owned(),
        hint: nearest_key(error.message()),
    })
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        read_toml(path)
    }

    /// Reads the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse_toml(text, path)
    }

    /// The part that factors are made of.
    pub fn factors(&self) -> FactorConfig {
        FactorConfig {
            site: self.site.clone(),
            site_rule: self.site_rule.clone(),
            factor: self.factor.clone(),
            embodied: self.embodied.clone(),
            out_of_service: self.out_of_service.clone(),
            component: self.component.clone(),
            accountable_contact: self.accountable_contact.clone(),
            ghg_role: self.ghg_role,
        }
    }

    /// A key that another configuration changes and that is fixed while the aggregator runs.
    pub fn fixed_key_changed_in(&self, other: &Self) -> Option<&'static str> {
        let (tls, other_tls) = (&self.tls, &other.tls);
        let (connections, other_connections) = (&self.connections, &other.connections);
        let fixed = [
            ("listen", self.listen == other.listen),
            ("data_dir", self.data_dir == other.data_dir),
            ("backup_dir", self.backup_dir == other.backup_dir),
            ("memory_budget", self.memory_budget == other.memory_budget),
            ("node_directory", self.node_directory == other.node_directory),
            ("pods", self.pods == other.pods),
            ("insecure_loopback", self.insecure_loopback == other.insecure_loopback),
            ("export", self.export == other.export),
            ("metrics", self.metrics == other.metrics),
            ("otlp", self.otlp == other.otlp),
            ("poller", self.poller == other.poller),
            // What is stored was worked out with it.
            ("apportioning", self.apportioning == other.apportioning),
            ("tls.certificate", tls.certificate == other_tls.certificate),
            ("tls.key", tls.key == other_tls.key),
            ("tls.client_ca", tls.client_ca == other_tls.client_ca),
            ("tls.key_group_readable", tls.key_group_readable == other_tls.key_group_readable),
            ("connections.total", connections.total == other_connections.total),
            ("connections.per_identity", connections.per_identity == other_connections.per_identity),
        ];
        fixed.into_iter().find_map(|(key, same)| (!same).then_some(key))
    }

    /// The files of mutual TLS; none where plaintext is to be spoken.
    pub fn credential_files(&self) -> Result<Option<CredentialFiles>, ConfigError> {
        let tls = &self.tls;
        let files = [
            ("tls.certificate", tls.certificate.as_ref()),
            ("tls.key", tls.key.as_ref()),
            ("tls.client_ca", tls.client_ca.as_ref()),
        ];
        Ok(CredentialFiles::configured(files, tls.key_group_readable, self.insecure_loopback)?)
    }

    /// The pollers and their nodes.
    ///
    /// # Errors
    /// Names that are none, or one poller twice.
    pub fn pollers(&self) -> Result<Pollers, ConfigError> {
        Ok(Pollers::new(&self.poller)?)
    }

    /// Bounds of what peers may take.
    ///
    /// # Errors
    /// As [`Self::pollers`].
    pub fn limits(&self) -> Result<Limits, ConfigError> {
        let ConnectionsSection { total, per_identity, age, idle } = self.connections;
        let pollers = self.pollers()?;
        Ok(Limits { connections: total, per_identity, pollers, age, idle, ..Limits::default() })
    }

    /// How much of the disk stays free.
    pub fn least_space(&self) -> Least {
        Least { percent: self.disk.min_free_percent, bytes: self.disk.min_free_bytes }
    }

    /// How long data are kept.
    pub fn periods(&self) -> Periods {
        let RetentionSection { rows, minutes, settled, disk_budget } = self.retention;
        Periods { rows, minutes, settled, disk_budget }
    }

    /// Refuses what cannot be served safely, and factors that nobody knows; gives those that are.
    pub fn check(&self) -> Result<Factors, ConfigError> {
        let plain = self.credential_files()?.is_none();
        if plain && !self.listen.ip().is_loopback() {
            return Err(ConfigError::NotLoopback { listen: self.listen });
        }
        if self.connections.total == 0 || self.connections.per_identity == 0 {
            return Err(ConfigError::NoConnections);
        }
        if !(0.0..=50.0).contains(&self.disk.min_free_percent) {
            return Err(ConfigError::MinFree(self.disk.min_free_percent));
        }
        if let Some(budget) = self.memory_budget.filter(|budget| *budget < memory::LEAST) {
            return Err(ConfigError::MemoryBudget(budget));
        }
        if !(0.0..=1000.0).contains(&self.apportioning.output_token_weight) {
            return Err(ConfigError::OutputWeight(self.apportioning.output_token_weight));
        }
        self.export.check()?;
        self.metrics.check(!plain)?;
        self.otlp.check()?;
        self.pollers()?;
        self.pods.check(self.node_directory.is_some())?;
        if let Some(refusal) = self.periods().refusal() {
            return Err(ConfigError::Retention(refusal));
        }
        Ok(Factors::new(&self.factors())?)
    }
}

fn line_of(text: &[u8], offset: usize) -> usize {
    text.iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// From "unknown field `x`, expected one of `a`, `b`", the field nearest to x.
fn nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(wrong)) = (message.starts_with("unknown field"), quoted.next()) else {
        return String::new();
    };
    let nearest = quoted.map(|key| (strsim::damerau_levenshtein(wrong, key), key)).min();
    nearest.map(|(_, key)| format!("; did you mean `{key}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Config::parse(text, Path::new("aggregator.toml")).expect_err("refused").to_string()
    }

    #[test]
    fn the_printed_example_holds_exactly_the_defaults() {
        let example = Config::parse(EXAMPLE, Path::new("example")).expect("valid");
        assert_eq!(format!("{example:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn b61_an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
        let text = "\nlistn = \"127.0.0.1:1\"\n";
        let found = message(text);
        assert!(found.starts_with("aggregator.toml:2: unknown field `listn`"), "{found}");
        assert!(found.ends_with("did you mean `listen`?"), "{found}");
        assert!(message("listen = 5").starts_with("aggregator.toml:1: "));
        assert!(message("data_dir = \"a\"\ndata_dir = \"b\"").starts_with("aggregator.toml:2: "));
    }

    #[test]
    fn every_commented_key_of_the_example_is_one() {
        let key =
            |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let uncomment = |line: &'static str| line.strip_prefix("# ").filter(|line| key(line)).unwrap_or(line);
        let text: Vec<&str> = EXAMPLE.lines().map(uncomment).collect();
        let config = Config::parse(&text.join("\n"), Path::new("example")).expect("valid");
        assert_eq!(config.site.len(), 1);
        assert!(config.embodied.guest_kg_per_vcpu.is_some() && config.ghg_role.is_some());
        assert!(config.credential_files().is_ok_and(|files| files.is_some()));
        config.check().expect("the example's values are valid");
    }

    #[test]
    fn an_unknown_zone_is_a_configuration_error() {
        let text = "insecure_loopback = true\n[site.default]\nzone = \"FRX\"\n";
        let config = Config::parse(text, Path::new("aggregator.toml")).expect("syntax");
        let refused = config.check().expect_err("no such zone").to_string();
        assert!(refused.contains("FRX"), "{refused}");
        let found = message("[site.default]\npu = 1.2");
        assert!(found.starts_with("aggregator.toml:2: ") && found.ends_with("did you mean `pue`?"), "{found}");
    }

    #[test]
    fn disk_and_retention_are_held_to_their_ranges() {
        let check = |text: &str| {
            let config = Config::parse(&format!("insecure_loopback = true\n{text}"), Path::new("aggregator.toml"));
            config.expect("syntax").check().err().map(|refused| refused.to_string())
        };
        assert_eq!(check("[disk]\nmin_free_percent = 0\n[retention]\nrows = \"30d\"\n"), None);
        for wrong in ["-1", "51", "nan"] {
            assert!(check(&format!("[disk]\nmin_free_percent = {wrong}")).is_some_and(|why| why.contains("0 to 50")));
        }
        assert!(check("[retention]\nrows = \"1d\"").is_some_and(|why| why.contains("7d 2h")));
        assert!(message("[retention]\nrows = 7").contains("aggregator.toml:2: "));
        assert!(message("[retention]\nrows = \"7\"").contains("no duration"));
    }

    #[test]
    fn plaintext_needs_the_flag_and_a_loopback_address() {
        let config = |listen: &str, insecure_loopback| Config {
            listen: listen.parse().expect("address"),
            insecure_loopback,
            ..Config::default()
        };
        assert!(matches!(config("127.0.0.1:0", false).check(), Err(ConfigError::Security(SecurityUnclear::Neither))));
        assert!(matches!(config("0.0.0.0:0", true).check(), Err(ConfigError::NotLoopback { .. })));
        assert!(config("[::1]:0", true).check().is_ok());
        for weight in [-1.0, f64::NAN, 1001.0] {
            let apportioning = ApportioningSection { output_token_weight: weight };
            let refused =
                Config { apportioning, ..config("[::1]:0", true) }.check().expect_err("no weight").to_string();
            assert!(refused.contains("output_token_weight"), "{refused}");
        }
    }

    #[test]
    fn tls_needs_its_three_files_and_excludes_plaintext() {
        let parse = |text: &str| Config::parse(text, Path::new("aggregator.toml")).expect("syntax");
        let two = "[tls]\ncertificate = \"a.crt\"\nkey = \"a.key\"\n";
        assert!(matches!(
            parse(two).check(),
            Err(ConfigError::Security(SecurityUnclear::Part { missing: "tls.client_ca" }))
        ));
        let all = format!("listen = \"0.0.0.0:0\"\n{two}client_ca = \"ca.crt\"\n");
        assert!(parse(&all).check().is_ok(), "with TLS, others may reach it");
        assert!(matches!(
            parse(&format!("insecure_loopback = true\n{all}")).check(),
            Err(ConfigError::Security(SecurityUnclear::Both))
        ));
    }
}
