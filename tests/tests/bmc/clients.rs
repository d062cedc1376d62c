//! Clients that others made read the same BMCs: DMTF's Redfish library our simulated one, and `ipmitool` an emulated one
//! that our own reader then reads through `ipmitool`'s raw door.

use joulebook_agent::collector::ipmi::dcmi::{Statistics, parse};
use joulebook_agent::collector::ipmi::meter::IpmiTransport;
use joulebook_hwsim::redfish::shape::Shape;
use joulebook_tests::tls::replace;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::rig::{Heard, Rig, until};

fn python() -> PathBuf {
    std::env::var_os("JOULEBOOK_BMC_CLIENT").expect("set by `make test`: python with redfish and pyghmi").into()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bmc").join(name)
}

#[test]
fn dmtf_s_client_reads_the_same_watts_of_the_simulated_bmc() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/redfish");
    let shape = Shape::read(&fixtures.join("supermicro-x13")).expect("a set");
    let rig = Rig::with(shape, |_| {});
    rig.draw(733);
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 3);
    let first = heard.readings.iter().skip(1).map(|reading| reading.at.0).next().expect("some");
    let last = heard.readings.last().expect("some").at.0;
    let energy: u64 = heard.energy("redfish/wall");
    let nanos = last - heard.readings[0].at.0;
    assert!(first < last && energy.abs_diff(nanos * 733 / 1_000) < 10, "{energy} µJ in {nanos} ns");
    let authority = rig.path("ca.pem");
    replace(&authority, rig.ca.certificate());
    let mut command = Command::new(python());
    command.arg(script("read_redfish.py")).arg(rig.section.url.as_deref().expect("configured"));
    let done = command.arg(&authority).args(["power", "first"]).output().expect("the client runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let watts: BTreeMap<String, f64> = serde_json::from_slice(&done.stdout).expect("one JSON object");
    let places = ["/redfish/v1/Chassis/1/EnvironmentMetrics", "/redfish/v1/Chassis/1/Power"];
    assert_eq!(watts, places.map(|place| (place.to_owned(), 733.0)).into());
    drop(collector);
    assert_eq!(rig.bmc.sessions().0, 0, "both clients have ended their sessions");
}

/// pyghmi's BMC, until it is dropped.
struct FakeBmc {
    process: Child,
    port: String,
}

impl FakeBmc {
    fn new(response: &str) -> Self {
        let mut command = Command::new(python());
        command.arg(script("fake_bmc.py")).arg(response).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the emulator runs");
        let mut port = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut port).expect("it says its port");
        Self { process, port: port.trim().to_owned() }
    }

    fn ipmitool(&self, words: &[&str]) -> String {
        // The emulator knows no newer suite than 3.
        let session = ["-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-U", "admin", "-P", "secret", "-p", &self.port];
        let done = Command::new("ipmitool").args(session).args(words).output().expect("installed by `.ci/setup bmc`");
        assert!(done.status.success(), "ipmitool {words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for FakeBmc {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl IpmiTransport for &FakeBmc {
    fn raw(&mut self, netfn: u8, cmd: u8, data: &[u8]) -> io::Result<Vec<u8>> {
        let bytes: Vec<_> = [netfn, cmd].iter().chain(data).map(|byte| format!("0x{byte:02x}")).collect();
        let words: Vec<_> = std::iter::once("raw").chain(bytes.iter().map(String::as_str)).collect();
        let said = self.ipmitool(&words);
        let bytes = said.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
        // The tool ends with an error for any other completion code.
        Ok(std::iter::once(0).chain(bytes).collect())
    }
}

/// The number behind a label of `ipmitool dcmi power reading`.
fn labelled(text: &str, label: &str) -> u64 {
    let behind = text.split_once(label).and_then(|(_, rest)| rest.split_once(':')).map(|(_, value)| value);
    let word = behind.and_then(|value| value.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no number behind {label} in {text}"))
}

#[test]
fn ipmitool_reads_the_same_watts_of_an_emulated_bmc() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/ipmi/dcmi_get_power_reading.json");
    let text = std::fs::read_to_string(fixtures).expect("the cases");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    for name in ["ok", "deactivated-but-valid-openbmc"] {
        let case =
            cases["cases"].as_array().expect("a list").iter().find(|case| case["name"] == name).expect("it is there");
        let bmc = FakeBmc::new(case["response_hex"].as_str().expect("text"));
        let theirs = bmc.ipmitool(&["dcmi", "power", "reading"]);
        let (netfn, cmd, data) = joulebook_agent::collector::ipmi::dcmi::REQUEST;
        let response = (&bmc).raw(netfn, cmd, &data).expect("a response");
        let Statistics { power, minimum, maximum, average, period, active } = parse(&response).expect("an answer");
        let watts = |power: joulebook_units::Milliwatts| power.0 / 1_000;
        let ours = [power.map_or(0, watts), watts(minimum), watts(maximum), watts(average), period.as_secs()];
        let labels = ["Instantaneous", "Minimum", "Maximum", "Average", "Sampling period"];
        assert_eq!(ours, labels.map(|label| labelled(&theirs, label)), "{name}: {theirs}");
        assert_eq!(active, theirs.contains("activated") && !theirs.contains("deactivated"), "{name}: {theirs}");
        assert!(ours[0] > 0);
    }
}
