//! What an agent reads: pages, counters, /proc, weights, configuration, certificates.

use arbitrary::{Result, Unstructured};
use joulebook_agent::counter::{Step, Tracker};
use joulebook_agent::inference::exposition::Page;
use joulebook_agent::inference::{gguf, otlp};
use joulebook_agent::process::cgroup::identify;
use joulebook_agent::process::proc;
use joulebook_aggregator::peer::Peer;
use joulebook_proto::credentials::CredentialFiles;
use joulebook_units::{BootNanos, Milliwatts};
use std::fs::{self, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A metric page: what is taken from it, printed plainly, is a page with the same samples.
pub fn exposition(data: &[u8]) {
    let Ok(page) = Page::parse(data) else { return };
    let mut plain = String::new();
    for sample in page.samples() {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> =
            sample.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let value = match sample.value {
            value if value.is_nan() => "NaN".to_owned(),
            value if value.is_infinite() => if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            value => format!("{value:?}"),
        };
        plain += &format!("{}{{{}}} {value}\n", sample.name, labels.join(","));
    }
    let again = Page::parse(plain.as_bytes()).unwrap_or_else(|error| panic!("{error}: {plain}"));
    assert_eq!(again.refused().len(), 0, "each series once");
    assert_eq!(again.samples().len(), page.samples().len());
    for (one, other) in again.samples().iter().zip(page.samples()) {
        assert!((&one.name, &one.labels) == (&other.name, &other.labels), "{one:?} is not {other:?}");
        assert!(one.value.to_bits() == other.value.to_bits() || one.value.is_nan() && other.value.is_nan());
    }
}

/// An export of metrics: what is taken of it is a count of a model that has a name, in a time that has an order.
pub fn export(data: &[u8]) {
    let Ok(export) = otlp::request::read(data) else { return };
    assert!(export.points.len() + export.refused.len() <= 10_000);
    for point in &export.points {
        assert!((1..=256).contains(&point.model.len()) && point.start <= point.time && point.time > 0, "{point:?}");
        let counts: Vec<u64> = point.counts.iter().flatten().map(|(_, count)| *count).collect();
        assert!(!counts.is_empty() && counts.iter().all(|count| *count <= 1_000_000_000_000_000_000), "{point:?}");
    }
}

/// A counter that shows anything: energy stays within the ceiling, gaps have an order and bounds.
pub fn counter(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let _ = observe(&mut input);
}

fn observe(input: &mut Unstructured<'_>) -> Result<()> {
    let ceiling = Milliwatts(if input.ratio(1, 8)? {
        input.arbitrary()?
    } else {
        u64::from(input.int_in_range(1..=5u8)?) * 100_000
    });
    let range: Option<u64> = match input.int_in_range(0..=3u8)? {
        0 => None,
        1 => Some(262_143_328_850),
        2 => Some(65_532_610_987),
        _ => Some(input.arbitrary()?),
    };
    let mut tracker = Tracker::new(ceiling);
    if input.ratio(1, 6)? {
        tracker = tracker.endless();
    }
    let (mut at, mut raw, mut known) = (0u64, input.arbitrary::<u64>()? >> input.int_in_range(0..=63u8)?, None);
    while !input.is_empty() {
        at = at.saturating_add(u64::from(input.arbitrary::<u32>()?) << input.int_in_range(0..=8u8)?);
        raw = match input.int_in_range(0..=5u8)? {
            0 => input.arbitrary()?,
            1 => 0,
            2 => raw,
            _ => raw.wrapping_add(u64::from(input.arbitrary::<u32>()?)),
        };
        tracker.set_working(input.arbitrary()?);
        match tracker.observe(BootNanos(at), raw, range) {
            Step::First => known = Some(at),
            Step::Delta { microjoules, .. } => {
                let since = known.expect("energy follows a first reading");
                // One quarter above the ceiling, and rounding.
                let most = u128::from(at - since) * u128::from(ceiling.0) * 5 / 4 / 1_000_000 + 1;
                assert!(u128::from(microjoules) <= most, "{microjoules} uJ in {} ns at {ceiling:?}", at - since);
                known = Some(at);
            }
            Step::Gap(unknown) => {
                assert!(unknown.from <= unknown.to && unknown.to.0 <= at, "{unknown:?} at {at}");
                assert!(unknown.low.0 <= unknown.high.0, "{unknown:?}");
                known = Some(unknown.to.0);
                if unknown.after > 0 {
                    known = Some(at);
                }
            }
            Step::Hold(_) | Step::Skip(_) => {}
        }
    }
    Ok(())
}

/// Lines of /proc and paths of control groups.
pub fn proc(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        let _ = proc::parse_stat(line);
        let _ = proc::parse_cpu_times(line);
    }
    let _ = proc::memory(text, "MemTotal");
    if let Some(path) = proc::parse_cgroup(text) {
        assert!(path.starts_with('/'));
        let _ = identify(path);
    }
    let _ = identify(text);
}

thread_local! {
    static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

/// A weights file.
pub fn gguf(data: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(data).expect("writing");
    file.seek(SeekFrom::Start(0)).expect("seeking");
    if let Ok(header) = gguf::read(file) {
        assert!(header.fingerprint.starts_with("gguf-blake3:"));
    }
}

/// Configuration of both programs.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = joulebook_agent::config::Config::parse(text, Path::new("agent.toml")) {
        let _ = config.check();
    }
    if let Ok(config) = joulebook_aggregator::config::Config::parse(text, Path::new("aggregator.toml")) {
        let _ = config.check();
    }
}

/// A certificate as bytes and as PEM files.
pub fn certificate(data: &[u8]) {
    if let Ok(peer) = Peer::of(data) {
        assert!(peer.to_string().starts_with("spiffe://"));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Peer::parse(text);
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("all.pem");
        fs::write(&path, data).expect("writing");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its own file");
        let files =
            CredentialFiles { certificate: path.clone(), key: path.clone(), ca: path, key_group_readable: false };
        let Ok(credentials) = files.read() else { return };
        let _ = (credentials.chain().is_ok(), credentials.key().is_ok(), credentials.roots().is_ok());
        let _ = (credentials.validity(), credentials.check());
        let _ = credentials.client("localhost", Duration::from_secs(1));
    });
}
