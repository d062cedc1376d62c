//! Configuration: TOML, every key documented in [`EXAMPLE`], unknown keys refused, flags override the file.

use crate::collector::nvml::child::Limits;
use crate::collector::nvml::dcgm;
use crate::inference::TargetConfig;
use crate::inference::preset::{Preset, Presets};
use crate::process::Member;
use joulebook_proto::credentials::CredentialFiles;
use joulebook_units::{Milliwatts, NodeName};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

mod bmc;
mod consumers;
mod discovery;
mod error;
mod kubelet;
mod meter;
mod metrics;
mod otlp;
mod presets;
mod subject;

pub use bmc::{IpmiSection, RedfishSection};
pub use consumers::{ConsumersSection, NameForm};
pub use discovery::DiscoverySection;
pub use error::ConfigError;
pub use kubelet::KubeletSection;
pub use meter::MeterSection;
pub use metrics::MetricsSection;
pub use otlp::OtlpSection;
pub use presets::read_file as read_preset;
pub use subject::{Role, Subject, SubjectSection};

/// The complete example that `--print-default-config` prints: every key with its default.
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// Smallest spool: two segments of 16 MiB.
const SPOOL_LEAST_BYTES: u64 = 32 << 20;

/// Configuration of an agent. Field names are the keys of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the agent is.
    pub role: Role,
    /// Name of the node; the machine's host name if unset.
    pub node: Option<String>,
    /// Name of the poller, in that role; the machine's host name if unset.
    pub poller: Option<String>,
    /// Address of the aggregator, `https://host:port`; see [`Self::aggregator_url`] if unset.
    pub aggregator: Option<String>,
    /// Whether plaintext to a loopback aggregator is allowed.
    pub insecure_loopback: bool,
    /// What the connection is secured with.
    pub tls: TlsSection,
    /// Whether to run on when sensors exist and none of them may be read.
    pub allow_no_sources: bool,
    /// The disk queue.
    pub spool: SpoolSection,
    /// Rows and batches.
    pub sampling: Sampling,
    /// Where the kernel's file systems are.
    pub roots: Roots,
    /// Where the node belongs.
    pub placement: PlacementSection,
    /// CPU and DRAM counters.
    pub rapl: RaplSection,
    /// Power meters of hwmon.
    pub hwmon: HwmonSection,
    /// NVIDIA GPUs.
    pub nvml: NvmlSection,
    /// Gaudi accelerators.
    pub gaudi: GaudiSection,
    /// The node's BMC over the network.
    pub redfish: RedfishSection,
    /// Who holds its devices.
    pub kubelet: KubeletSection,
    /// The node's own BMC through the kernel.
    pub ipmi: IpmiSection,
    /// Estimates where no sensor is.
    pub estimate: EstimateSection,
    /// Counts that servers tell themselves.
    pub push: PushSection,
    /// Counts that servers export as OpenTelemetry metrics.
    pub otlp: OtlpSection,
    /// A receiver of OpenTelemetry that is told of the node.
    pub export: joulebook_otlp::OtlpSection,
    /// How consumers are named.
    pub consumers: ConsumersSection,
    /// Workloads that are there for others.
    pub support: Vec<SupportSection>,
    /// The page that Prometheus reads.
    pub metrics: MetricsSection,
    /// Meters of which programs of this machine tell.
    pub meter: Vec<MeterSection>,
    /// Folder of presets, each a file `*.toml`.
    pub preset_dir: Option<PathBuf>,
    /// Presets of engines that this build does not know.
    pub preset: Vec<Spanned<Preset>>,
    /// Inference servers that nobody configured.
    pub discovery: DiscoverySection,
    /// Control groups whose processes work for servers elsewhere.
    pub member: Vec<Member>,
    /// Nodes of which a poller tells.
    pub subject: Vec<SubjectSection>,
    /// Inference servers to scrape.
    pub target: Vec<TargetConfig>,
}

/// What the connection to the aggregator is secured with, PEM files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// The agent's certificate, which names the node, and those between it and its CA.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// CA certificates that the aggregator's must lead to.
    pub ca: Option<PathBuf>,
    /// Whether the key's group may read it.
    pub key_group_readable: bool,
}

/// Counts that servers tell themselves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushSection {
    /// Path of the unix socket; unset = nobody can tell.
    pub socket: Option<PathBuf>,
    /// Users beside root and the agent's own who may measure spans.
    pub measure_uids: Vec<u32>,
}

/// The disk queue.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolSection {
    /// Folder; made if its parent exists.
    pub dir: PathBuf,
    /// Most bytes it may take; at least two segments (32 MiB).
    pub max_bytes: u64,
    /// Free bytes it leaves on the file system; 512 MiB or a twentieth of a smaller one if unset.
    pub min_free_bytes: Option<u64>,
    /// Most bytes of acknowledged records kept for an aggregator that lost them; a quarter of `max_bytes` if unset.
    pub rewind_bytes: Option<u64>,
    /// Whether acknowledged records stay until the cap, for audits.
    pub keep_acked: bool,
}

/// Rows and batches.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Time between rows, 100 ms to 60 s.
    #[serde(with = "duration")]
    pub tick: Duration,
    /// Least time between two readings of processes and control groups, 100 ms to 60 s.
    #[serde(with = "duration")]
    pub workloads: Duration,
    /// Rows of a batch, 1 to 64.
    pub batch_rows: usize,
}

/// Where the kernel's file systems are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Roots {
    /// sysfs.
    pub sysfs: PathBuf,
    /// procfs.
    pub procfs: PathBuf,
    /// Control groups.
    pub cgroup: PathBuf,
}

/// Where the node belongs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementSection {
    /// Site, looked up at the aggregator for PUE and grid zone.
    pub site: Option<String>,
    /// Serving pool.
    pub pool: Option<String>,
    /// Whether the hardware is simulated.
    pub simulated: bool,
}

/// Workloads that are there for a pool and serve no model themselves.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupportSection {
    /// What it is.
    pub role: String,
    /// Id or name of the workload; whatever runs on the node, its idle capacity included, if unset.
    pub workload: Option<String>,
    /// The pool it is for; the node's own if unset.
    pub pool: Option<String>,
}

/// CPU and DRAM counters.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaplSection {
    /// Whether to read them.
    pub enabled: bool,
    /// Highest power of one zone in watts, if the zone's own limits are wrong.
    pub ceiling_watts: Option<f64>,
    /// Idle power of one CPU package in watts.
    pub idle_watts: Option<f64>,
}

/// Power meters and energy counters of hwmon: ACPI meters, Grace, Altra, AMD and Intel accelerators, systems on a module.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HwmonSection {
    /// Whether to read them.
    pub enabled: bool,
}

/// NVIDIA GPUs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NvmlSection {
    /// Whether to read them.
    pub enabled: bool,
    /// The management library; the driver's `libnvidia-ml.so.1` if unset.
    pub library: Option<PathBuf>,
    /// Page of NVIDIA's dcgm-exporter, `http://HOST:PORT/PATH`: activity of the instances of a divided GPU that does not
    /// tell it itself. Energy is never taken from it.
    pub dcgm_url: Option<String>,
    /// Idle power in watts of one GPU with nothing resident.
    pub idle_watts: Option<f64>,
    /// The program that holds the library, if not the running one.
    #[serde(skip)]
    pub helper: Option<PathBuf>,
    /// How long a row waits for the readings that it asked for; what comes later stands in the next row.
    #[serde(skip)]
    pub patience: Duration,
    /// When the helper process is given up and started again.
    #[serde(skip)]
    pub limits: Limits,
}

/// Gaudi accelerators.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaudiSection {
    /// Whether to read them.
    pub enabled: bool,
    /// Habana's management library; `libhlml.so` of the system if unset.
    pub library: Option<PathBuf>,
    /// Idle power in watts of one accelerator with nothing resident.
    pub idle_watts: Option<f64>,
    /// The program that holds the library, if not the running one.
    #[serde(skip)]
    pub helper: Option<PathBuf>,
    /// How long a row waits for the readings that it asked for.
    #[serde(skip)]
    pub patience: Duration,
    /// When the helper process is given up and started again.
    #[serde(skip)]
    pub limits: Limits,
}

/// Estimates where no sensor is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EstimateSection {
    /// Power in watts of all CPUs of the node at full load (in a guest: of its share).
    pub tdp_watts: Option<f64>,
    /// Power in watts of all CPUs of the node at rest.
    pub idle_watts: Option<f64>,
    /// Power of memory in watts per 10⁹ bytes.
    pub dram_watts_per_gigabyte: Option<f64>,
}

impl Default for SpoolSection {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/joulebook/spool"),
            max_bytes: 1 << 30,
            min_free_bytes: None,
            rewind_bytes: None,
            keep_acked: false,
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { tick: Duration::from_secs(1), workloads: Duration::from_secs(1), batch_rows: 5 }
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self { sysfs: "/sys".into(), procfs: "/proc".into(), cgroup: "/sys/fs/cgroup".into() }
    }
}

impl Default for HwmonSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for NvmlSection {
    fn default() -> Self {
        Self {
            enabled: true,
            library: None,
            dcgm_url: None,
            idle_watts: None,
            helper: None,
            patience: Duration::ZERO,
            limits: Limits::default(),
        }
    }
}

impl Default for GaudiSection {
    fn default() -> Self {
        let (patience, limits) = (Duration::ZERO, Limits::default());
        Self { enabled: true, library: None, idle_watts: None, helper: None, patience, limits }
    }
}

impl Default for RaplSection {
    fn default() -> Self {
        Self { enabled: true, ceiling_watts: None, idle_watts: None }
    }
}

/// What the command line says over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--node`.
    pub node: Option<String>,
    /// `--aggregator`.
    pub aggregator: Option<String>,
    /// `--insecure-loopback`.
    pub insecure_loopback: bool,
    /// `--tls-cert`.
    pub tls_certificate: Option<PathBuf>,
    /// `--tls-key`.
    pub tls_key: Option<PathBuf>,
    /// `--tls-ca`.
    pub tls_ca: Option<PathBuf>,
    /// `--spool-dir`.
    pub spool_dir: Option<PathBuf>,
    /// `--sysfs-root`.
    pub sysfs_root: Option<PathBuf>,
    /// `--procfs-root`.
    pub procfs_root: Option<PathBuf>,
    /// `--cgroup-root`.
    pub cgroup_root: Option<PathBuf>,
    /// `--nvml-lib`.
    pub nvml_library: Option<PathBuf>,
}

impl Config {
    /// Reads the file, if one is named, applies the flags and checks the whole.
    ///
    /// Fails with the file, the line and the nearest valid key; nothing is opened or changed.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let config = Self::read(file, overrides)?;
        config.check()?;
        Ok(config)
    }

    /// The same for looking around only: whether an agent could deliver with it is not asked.
    ///
    /// # Errors
    /// A file that cannot be read, that others may write, or that is no configuration.
    pub fn read(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let mut config = match file {
            Some(path) => {
                let bytes = std::fs::read(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
                error::refuse_writable_by_others(path)?;
                let text = String::from_utf8(bytes).map_err(|_| ConfigError::NotUtf8 { path: path.to_path_buf() })?;
                Self::parse(&text, path)?
            }
            None => Self::default(),
        };
        config.apply(overrides);
        Ok(config)
    }

    /// Reads configuration text; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::syntax(path, text, &source))?;
        presets::refuse_twice(&config.preset, text, path)?;
        Ok(config)
    }

    /// The presets that targets may name: those of this build, of `[[preset]]` and of `preset_dir`.
    ///
    /// # Errors
    /// A preset is wrong, or its name is taken: with its file and line.
    pub fn presets(&self) -> Result<Presets, ConfigError> {
        presets::read(&self.preset, self.preset_dir.as_deref())
    }

    fn apply(&mut self, overrides: Overrides) {
        self.insecure_loopback |= overrides.insecure_loopback;
        self.node = overrides.node.or(self.node.take());
        self.aggregator = overrides.aggregator.or(self.aggregator.take());
        self.tls.certificate = overrides.tls_certificate.or(self.tls.certificate.take());
        self.tls.key = overrides.tls_key.or(self.tls.key.take());
        self.tls.ca = overrides.tls_ca.or(self.tls.ca.take());
        let paths = [
            (overrides.spool_dir, &mut self.spool.dir),
            (overrides.sysfs_root, &mut self.roots.sysfs),
            (overrides.procfs_root, &mut self.roots.procfs),
            (overrides.cgroup_root, &mut self.roots.cgroup),
        ];
        self.nvml.library = overrides.nvml_library.or(self.nvml.library.take());
        for (value, place) in paths {
            if let Some(value) = value {
                *place = value;
            }
        }
    }

    /// Refuses values that no run could use.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_role()?;
        if self.role == Role::Node {
            self.node_name()?;
        }
        self.check_aggregator()?;
        if self.spool.max_bytes < SPOOL_LEAST_BYTES {
            return Err(ConfigError::value("spool.max_bytes", "at least two segments, 33554432 bytes"));
        }
        if self.spool.rewind_bytes.is_some_and(|rewind| rewind > self.spool.max_bytes) {
            return Err(ConfigError::value("spool.rewind_bytes", "at most spool.max_bytes"));
        }
        if self.nvml.dcgm_url.as_deref().is_some_and(|url| dcgm::parts(url).is_none()) {
            return Err(ConfigError::value("nvml.dcgm_url", "of the form \"http://HOST:PORT/PATH\""));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.sampling.tick) {
            return Err(ConfigError::value("sampling.tick", "\"100ms\" to \"60s\""));
        }
        self.discovery.check()?;
        self.kubelet.check()?;
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.sampling.workloads) {
            return Err(ConfigError::value("sampling.workloads", "\"100ms\" to \"60s\""));
        }
        if !(1..=joulebook_units::Batch::MAX_ROWS).contains(&self.sampling.batch_rows) {
            return Err(ConfigError::value("sampling.batch_rows", "1 to 64"));
        }
        let named = |text: &String| !text.trim().is_empty() && text.len() <= 256;
        let support = &self.support;
        if support.len() > 64 || !support.iter().all(|one| named(&one.role) && one.workload.iter().all(named)) {
            return Err(ConfigError::value(
                "support",
                "at most 64 tables, each with a role and names of 1 to 256 bytes",
            ));
        }
        self.redfish.check()?;
        self.ipmi.check()?;
        self.otlp.check()?;
        self.metrics.check()?;
        self.export.check()?;
        meter::check(&self.meter, self.push.socket.is_some())?;
        let powers = [
            ("redfish.ceiling_watts", self.redfish.ceiling_watts),
            ("ipmi.ceiling_watts", self.ipmi.ceiling_watts),
            ("rapl.ceiling_watts", self.rapl.ceiling_watts),
            ("rapl.idle_watts", self.rapl.idle_watts),
            ("nvml.idle_watts", self.nvml.idle_watts),
            ("gaudi.idle_watts", self.gaudi.idle_watts),
            ("estimate.tdp_watts", self.estimate.tdp_watts),
            ("estimate.idle_watts", self.estimate.idle_watts),
            ("estimate.dram_watts_per_gigabyte", self.estimate.dram_watts_per_gigabyte),
        ];
        for (key, watts) in powers {
            let valid =
                watts.is_none_or(|watts| (0.0..=100_000.0).contains(&watts) && (watts > 0.0 || !needs_some(key)));
            if !valid {
                return Err(ConfigError::value(key, "watts, above 0 and at most 100000 (idle may be 0)"));
            }
        }
        if let (Some(idle), Some(tdp)) = (self.estimate.idle_watts, self.estimate.tdp_watts)
            && idle > tdp
        {
            return Err(ConfigError::value("estimate.idle_watts", "at most estimate.tdp_watts"));
        }
        Ok(())
    }

    /// The node's name: configured, or the machine's host name.
    pub fn node_name(&self) -> Result<NodeName, ConfigError> {
        let name = match &self.node {
            Some(name) => name.clone(),
            None => host_name().ok_or_else(|| ConfigError::value("node", "set: the host name could not be read"))?,
        };
        name.parse().map_err(|source| ConfigError::Node { source })
    }

    /// Address of the aggregator: configured, or port 7443 of this machine.
    pub fn aggregator_url(&self) -> &str {
        let default = if self.insecure_loopback { "http://127.0.0.1:7443" } else { "https://127.0.0.1:7443" };
        self.aggregator.as_deref().unwrap_or(default)
    }

    /// The files of mutual TLS; none where plaintext is to be spoken.
    pub fn credential_files(&self) -> Result<Option<CredentialFiles>, ConfigError> {
        let tls = &self.tls;
        let files =
            [("tls.certificate", tls.certificate.as_ref()), ("tls.key", tls.key.as_ref()), ("tls.ca", tls.ca.as_ref())];
        Ok(CredentialFiles::configured(files, tls.key_group_readable, self.insecure_loopback)?)
    }

    fn check_aggregator(&self) -> Result<(), ConfigError> {
        let rule = "https://host:port, for example https://127.0.0.1:7443";
        let uri: hyper::Uri = self.aggregator_url().parse().map_err(|_| ConfigError::value("aggregator", rule))?;
        let (Some(scheme @ ("http" | "https")), Some(host), Some(port)) =
            (uri.scheme_str(), uri.host(), uri.port_u16())
        else {
            return Err(ConfigError::value("aggregator", rule));
        };
        if port == 0 || uri.path() != "/" || uri.query().is_some() {
            return Err(ConfigError::value("aggregator", rule));
        }
        let loopback =
            host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok_and(|address| {
                address == std::net::Ipv4Addr::LOCALHOST || address == std::net::Ipv6Addr::LOCALHOST
            });
        let secured = self.credential_files()?.is_some();
        match scheme {
            "https" if secured => Ok(()),
            "http" if !secured && loopback => Ok(()),
            _ => Err(ConfigError::Scheme),
        }
    }
}

/// The machine's host name, if it can be read.
fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// Whether a power of 0 makes no sense.
fn needs_some(key: &str) -> bool {
    !key.ends_with("idle_watts")
}

/// A configured power, already checked to be one.
pub(crate) fn milliwatts(watts: f64) -> Milliwatts {
    Milliwatts::from_watts(watts).unwrap_or_default()
}

mod duration {
    use serde::{Deserialize, Deserializer, de};
    use std::time::Duration;

    /// Reads `"5s"`, `"250ms"`, `"2m"`; a number without unit or a sign is refused.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|_| de::Error::custom(format!("`{text}` is no duration: write a number and a unit, like \"5s\"")))
    }

    /// The same for a key that need not be there.
    pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests;
