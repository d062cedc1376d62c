//! A simulated BMC and the agent's collector that reads it, both in this process, over TLS on loopback.

use joulebook_agent::collector::redfish::Redfish;
use joulebook_agent::collector::{Collector, ReadFailure, Reading, Value};
use joulebook_agent::config::RedfishSection;
use joulebook_aggregator::certificate::Issued;
use joulebook_hwsim::redfish::fault::Fault;
use joulebook_hwsim::redfish::shape::Shape;
use joulebook_hwsim::redfish::{Bmc, Options, Power};
pub use joulebook_tests::tls::fingerprint;
use joulebook_tests::tls::{Ca, replace};
use joulebook_units::BootNanos;
use nix::time::{ClockId, clock_gettime};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Far more than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two polls.
pub const INTERVAL: Duration = Duration::from_millis(40);
/// How long a BMC's value is said to be good for, a third of what it is held: long enough on a loaded machine.
const REFRESH: Duration = Duration::from_millis(250);
/// Name and password.
const ACCOUNT: (&str, &str) = ("power", "first");

/// The BMC.
pub struct Rig {
    /// It.
    pub bmc: Arc<Bmc>,
    /// Its CA.
    pub ca: Ca,
    /// How the collector is configured when it starts.
    pub section: RedfishSection,
    watts: Arc<AtomicU64>,
    folder: TempDir,
    runtime: Runtime,
}

/// What the collector gave since the start.
#[derive(Default)]
pub struct Heard {
    /// Readings.
    pub readings: Vec<Reading>,
    /// Failures.
    pub failures: Vec<ReadFailure>,
    /// The longest that one reading took.
    pub longest: Duration,
}

impl Heard {
    /// Energy in µJ of a source.
    pub fn energy(&self, source: &str) -> u64 {
        let own = self.readings.iter().filter(|reading| reading.source == source);
        own.map(|reading| if let Value::Increment { energy, .. } = &reading.value { energy.0 } else { 0 }).sum()
    }

    /// Reasons of the failures, in order.
    pub fn reasons(&self) -> Vec<&'static str> {
        self.failures.iter().map(|failure| failure.reason).collect()
    }

    /// Whether a reading says that energy is unknown.
    pub fn has_gap(&self) -> bool {
        self.readings.iter().any(|reading| matches!(reading.value, Value::Unknown { .. }))
    }
}

/// A TLS server that shows this pair.
pub fn shows(pair: &Issued) -> Arc<ServerConfig> {
    let chain =
        CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).expect("a pair"))
}

/// The boot clock.
pub fn boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("a clock").into()
}

/// The same as the collector reads it.
pub fn now() -> BootNanos {
    BootNanos(boot().as_nanos().try_into().expect("in range"))
}

impl Rig {
    /// A BMC of the plainest shape at 372 W, whose certificate is pinned.
    pub fn new() -> Self {
        Self::with(Shape::plain(), |_| {})
    }

    /// A BMC of this shape.
    pub fn with(shape: Shape, change: impl FnOnce(&mut Options)) -> Self {
        let watts = Arc::new(AtomicU64::new(372));
        let shown = Arc::clone(&watts);
        #[allow(clippy::cast_precision_loss, reason = "watts of a node are small")]
        let power: Power = Arc::new(move || shown.load(Ordering::SeqCst) as f64);
        let account = (ACCOUNT.0.to_owned(), ACCOUNT.1.to_owned());
        let (sessions, stamps) = (true, false);
        let mut options = Options { shape, power, refresh: Duration::ZERO, account, sessions, stamps };
        change(&mut options);
        let ca = Ca::new();
        let pair = ca.server();
        let bmc = Bmc::new(options, shows(&pair));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        runtime.spawn(Arc::clone(&bmc).serve(listener));
        let folder = tempfile::tempdir().expect("folder");
        let section = RedfishSection {
            url: Some(format!("https://127.0.0.1:{port}")),
            credentials: Some(folder.path().join("bmc.toml")),
            fingerprint: Some(fingerprint(&pair)),
            interval: INTERVAL,
            refresh: Some(REFRESH),
            ..RedfishSection::default()
        };
        let rig = Self { bmc, ca, section, watts, folder, runtime };
        rig.write_password(ACCOUNT.1);
        rig
    }

    /// A file beside the credentials.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the credentials' file.
    pub fn write_password(&self, password: &str) {
        replace(&self.path("bmc.toml"), &format!("user = \"{}\"\npassword = \"{password}\"\n", ACCOUNT.0));
    }

    /// The node draws so much from now on.
    pub fn draw(&self, watts: u64) {
        self.watts.store(watts, Ordering::SeqCst);
    }

    /// Breaks the BMC.
    pub fn fault(&self, fault: Fault) {
        self.bmc.set_fault(Some(fault));
    }

    /// Runs a task beside the BMC.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Waits for a task.
    pub fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(task)
    }

    /// A collector that has begun.
    pub fn start(&self) -> Redfish {
        let mut collector = Redfish::new(&self.section);
        collector.discover();
        collector
    }
}

/// Reads at each tick, as an agent does, until what was heard is enough.
pub fn until(collector: &mut Redfish, heard: &mut Heard, enough: impl Fn(&Heard) -> bool) {
    let begin = boot();
    while !enough(heard) {
        assert!(boot() - begin < PATIENCE, "nothing more came: {:?} {:?}", heard.readings, heard.failures);
        tick(collector, heard);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One reading.
pub fn tick(collector: &mut Redfish, heard: &mut Heard) {
    let begin = boot();
    let read = collector.read(now());
    heard.longest = heard.longest.max(boot() - begin);
    if collector.has_changed() {
        collector.discover();
    }
    for one in read {
        match one {
            Ok(reading) => heard.readings.push(reading),
            Err(failure) => heard.failures.push(failure),
        }
    }
}

/// What a collector gives until it has failed once.
pub fn first_failure(collector: &mut Redfish) -> ReadFailure {
    let mut heard = Heard::default();
    until(collector, &mut heard, |heard| !heard.failures.is_empty());
    heard.failures.swap_remove(0)
}
