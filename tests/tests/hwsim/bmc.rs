//! BMCs of every profile that has one, over the network and in band: their energy is the truth within their declared bound.

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::collector::ipmi::Ipmi;
use joulebook_agent::collector::ipmi::meter::{IpmiTransport, Open, Pace};
use joulebook_agent::collector::redfish::Redfish;
use joulebook_agent::collector::{Collector, Value};
use joulebook_agent::config::{IpmiSection, RedfishSection};
use joulebook_tests::simulator::Simulator;
use joulebook_tests::wait::Moment;
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// Profiles with a BMC.
pub const PROFILES: [&str; 5] = ["cpu-2s", "dgx-h100", "l40s-4gpu", "epyc-mi300x", "gh200"];
/// How long is measured: the slowest of the sensors look each 30 s, and two looks make one interval.
const MEASURED: Duration = Duration::from_secs(70);
/// By how much the sensors are late, and what a step of the power is: part of it may stand in the wrong interval.
const LAG_MS: u64 = 700;
/// Half-width of what the collectors declare, in thousandths.
const DECLARED_PERMILLE: u64 = 50;

/// `run/dcmi.val` as the kernel's device would answer it.
struct Shown(PathBuf);

impl IpmiTransport for Shown {
    fn raw(&mut self, _: u8, _: u8, _: &[u8]) -> io::Result<Vec<u8>> {
        let text = std::fs::read_to_string(&self.0)?;
        let number =
            |word: &str| word.parse::<u32>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        let words = text.split_whitespace().map(number).collect::<io::Result<Vec<u32>>>()?;
        let mut reply = vec![0, 0xdc];
        for watts in &words[..4] {
            reply.extend(u16::try_from(*watts).unwrap_or(u16::MAX).to_le_bytes());
        }
        reply.extend(0_u32.to_le_bytes());
        reply.extend(words[4].to_le_bytes());
        reply.push(0x40);
        Ok(reply)
    }
}

/// Source, collector, and what it gave: instants and energy.
type Way = (&'static str, Box<dyn Collector>, Vec<(u64, u64)>);

/// A node and both ways to its BMC.
struct Rig {
    name: &'static str,
    node: Simulator,
    ways: [Way; 2],
    /// Since when it draws so much, in ns on the boot clock and µW.
    draws: Vec<(u64, u64)>,
    refresh: u64,
    _folder: TempDir,
}

fn boot() -> u64 {
    SystemClock.boot().0
}

impl Rig {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("node");
        let node = Simulator::with_bmc(name, &root).unwrap();
        node.ask(&json!({ "op": "bmc", "lag_ms": LAG_MS })).unwrap();
        let facts = super::profile(name).unwrap().bmc.unwrap();
        let refresh = Duration::from_secs(facts.refresh_s);
        let redfish: RedfishSection = toml::from_str(node.bmc()).unwrap();
        let redfish = Redfish::new(&RedfishSection { refresh: Some(refresh.max(Duration::from_secs(5))), ..redfish });
        let pace = Pace {
            interval: Duration::from_secs(1),
            between: Duration::from_millis(20),
            tries: 3,
            open_again: Duration::from_secs(1),
        };
        let file = root.join("run/dcmi.val");
        let open: Open = Box::new(move || Ok(Box::new(Shown(file.clone())) as Box<dyn IpmiTransport>));
        let ipmi = Ipmi::with(&IpmiSection::default(), pace, open);
        let ways: [Way; 2] =
            [("redfish/wall", Box::new(redfish), Vec::new()), ("ipmi/wall", Box::new(ipmi), Vec::new())];
        let refresh = u64::try_from(refresh.as_nanos()).unwrap();
        let mut rig = Self { name, node, ways, draws: Vec::new(), refresh, _folder: folder };
        rig.ways.iter_mut().for_each(|(_, collector, _)| drop(collector.discover()));
        rig.note();
        rig
    }

    /// Notes what the node draws from now on.
    fn note(&mut self) {
        let answer = self.node.ask(&json!({ "op": "truth", "from_ns": 0 })).unwrap();
        self.draws.push((boot(), answer["input_uw"].as_u64().unwrap()));
    }

    /// The node's processors draw more from now on.
    fn step(&mut self) {
        self.node
            .ask(&json!({ "op": "set", "leaf": "rest", "w": 400.0 }))
            .or_else(|_| self.node.ask(&json!({ "op": "set", "leaf": "fans", "w": 900.0 })))
            .unwrap();
        self.note();
    }

    fn read(&mut self) {
        for (_, collector, readings) in &mut self.ways {
            for reading in collector.read(SystemClock.boot()).into_iter().flatten() {
                let Value::Increment { energy, .. } = reading.value else { panic!("{reading:?}") };
                readings.push((reading.at.0, energy.0));
            }
            if collector.has_changed() {
                collector.discover();
            }
        }
    }

    /// Energy at the input in µJ between two instants, exactly.
    fn truth(&self, from: u64, to: u64) -> u64 {
        let ends = self.draws.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
        let parts = self.draws.iter().zip(ends).map(|((at, uw), end)| {
            let nanos = end.min(to).saturating_sub((*at).max(from));
            u128::from(*uw) * u128::from(nanos) / 1_000_000_000
        });
        u64::try_from(parts.sum::<u128>()).unwrap()
    }

    /// Energy that may stand in another interval: a step that the sensors see late, and at the next look only.
    fn shifted(&self) -> u64 {
        let change = self.draws.windows(2).map(|pair| pair[0].1.abs_diff(pair[1].1)).sum::<u64>();
        // A poll each second sees a look up to a second after it was made.
        let late = self.refresh + LAG_MS * 1_000_000 + 2_000_000_000;
        u64::try_from(u128::from(change) * u128::from(late) / 1_000_000_000).unwrap()
    }
}

#[test]
fn a_bmc_is_the_truth_within_its_bound_on_every_profile_and_both_ways_to_it() {
    let mut rigs: Vec<Rig> = PROFILES.map(Rig::new).into();
    let begin = Moment::now();
    let mut stepped = false;
    while begin.elapsed() < MEASURED {
        std::thread::sleep(Duration::from_millis(100));
        if !stepped && begin.elapsed() > MEASURED / 2 {
            stepped = true;
            rigs.iter_mut().for_each(Rig::step);
        }
        rigs.iter_mut().for_each(Rig::read);
    }
    for rig in &rigs {
        for (way, _, readings) in &rig.ways {
            let (first, last) = (readings.first().expect("read"), readings.last().expect("read"));
            let seconds = (last.0 - first.0) / 1_000_000_000;
            assert!(seconds >= 30, "{} {way}: {seconds} s, {readings:?}", rig.name);
            let energy: u64 = readings[1..].iter().map(|(_, energy)| energy).sum();
            let truth = rig.truth(first.0, last.0);
            let bound = truth * DECLARED_PERMILLE / 1_000 + rig.shifted();
            assert!(energy.abs_diff(truth) <= bound, "{} {way}: {energy} of {truth} ± {bound} µJ", rig.name);
            // Before the step everything is constant: whole watts are all that is lost.
            let steady = readings.iter().filter(|(at, _)| *at < rig.draws[1].0).collect::<Vec<_>>();
            if let [first, .., last] = steady[..] {
                let energy: u64 = steady[1..].iter().map(|(_, energy)| energy).sum();
                let truth = rig.truth(first.0, last.0);
                assert!(energy.abs_diff(truth) * 1_000 <= truth * 5, "{} {way}: {energy} of {truth} µJ", rig.name);
            }
            let off = energy.abs_diff(truth) as f64 / truth as f64 * 1e3;
            println!(
                "{} {way}: {seconds} s, {off:.2} ‰ off, bound {:.1} ‰",
                rig.name,
                bound as f64 / truth as f64 * 1e3
            );
        }
    }
}
