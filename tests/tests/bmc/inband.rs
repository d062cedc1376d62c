//! Rows B33 to B37: what a machine's own BMC answers, and a device that cannot be opened.

use joulebook_agent::collector::ipmi::Ipmi;
use joulebook_agent::collector::ipmi::meter::{IpmiTransport, Open, Pace};
use joulebook_agent::collector::{Collector, ReadFailure, Reading, Value};
use joulebook_agent::config::IpmiSection;
use joulebook_units::Microjoules;
use nix::errno::Errno;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::rig::{boot, now};

const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Pace = Pace {
    interval: Duration::from_millis(200),
    between: Duration::from_millis(20),
    tries: 3,
    open_again: Duration::from_millis(100),
};
/// 319 W, of a BMC that leaves all else 0.
const GOOD: &[u8] = &[0, 0xdc, 0x3f, 1, 0x3f, 1, 0x3f, 1, 0x3f, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// 0 W, not active.
const INACTIVE: &[u8] = &[0, 0xdc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// 0 W, active.
const ZERO: &[u8] = &[0, 0xdc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40];

type Reply = Result<Vec<u8>, io::ErrorKind>;

/// A BMC that gives these replies and then the last one for ever, and keeps when it was asked.
#[derive(Clone)]
struct Scripted(Arc<Mutex<(VecDeque<Reply>, Vec<Duration>)>>);

impl Scripted {
    fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self(Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new()))))
    }

    fn asked(&self) -> Vec<Duration> {
        self.0.lock().expect("not poisoned").1.clone()
    }

    fn collector(&self) -> Ipmi {
        let bmc = self.clone();
        let open: Open = Box::new(move || Ok(Box::new(bmc.clone()) as Box<dyn IpmiTransport>));
        begun(open)
    }
}

impl IpmiTransport for Scripted {
    fn raw(&mut self, netfn: u8, cmd: u8, data: &[u8]) -> io::Result<Vec<u8>> {
        assert_eq!((netfn, cmd, data), (0x2c, 0x02, &[0xdc, 1, 0, 0][..]));
        let mut script = self.0.lock().expect("not poisoned");
        script.1.push(boot());
        let reply = if script.0.len() > 1 { script.0.pop_front() } else { script.0.front().cloned() };
        reply.expect("a reply").map_err(io::Error::from)
    }
}

fn begun(open: Open) -> Ipmi {
    let mut collector = Ipmi::with(&IpmiSection::default(), PACE, open);
    collector.discover();
    collector
}

/// Reads until what was heard is enough.
fn until(
    collector: &mut Ipmi,
    enough: impl Fn(&[Reading], &[ReadFailure]) -> bool,
) -> (Vec<Reading>, Vec<ReadFailure>) {
    let (begin, mut readings, mut failures) = (boot(), Vec::new(), Vec::new());
    while !enough(&readings, &failures) {
        assert!(boot() - begin < PATIENCE, "nothing more came: {readings:?} {failures:?}");
        for one in collector.read(now()) {
            match one {
                Ok(reading) => readings.push(reading),
                Err(failure) => failures.push(failure),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    (readings, failures)
}

fn first_failure(collector: &mut Ipmi) -> ReadFailure {
    until(collector, |_, failures| !failures.is_empty()).1.swap_remove(0)
}

fn good() -> Reply {
    Ok(GOOD.to_vec())
}

#[test]
fn a_power_holds_until_the_next_one() {
    let mut collector = Scripted::new([good()]).collector();
    let (readings, failures) = until(&mut collector, |readings, _| readings.len() > 2);
    assert!(failures.is_empty(), "{failures:?}");
    let Value::Increment { energy: Microjoules(energy), .. } = readings[1].value else { panic!("{readings:?}") };
    let nanos = readings[1].at.0 - readings[0].at.0;
    assert_eq!(energy, nanos * 319 / 1_000, "319 W over {nanos} ns");
    assert_eq!(collector.discover()[0].unavailable, None);
}

#[test]
fn b33_a_bmc_that_does_not_know_the_command_is_not_asked_again() {
    let bmc = Scripted::new([Ok(vec![0xc1])]);
    let mut collector = bmc.collector();
    let failure = first_failure(&mut collector);
    assert_eq!(failure.reason, "not_supported");
    let begin = boot();
    let (readings, more) = until(&mut collector, |_, _| boot() - begin > PACE.interval * 4);
    assert_eq!((readings.len(), more.len(), bmc.asked().len()), (0, 0, 1), "asked once, told once");
    assert!(collector.discover()[0].unavailable.as_ref().is_some_and(|why| why.contains("C1")));
}

#[test]
fn b34_a_response_of_another_length_than_declared_is_skipped() {
    for reply in [Ok(GOOD[..11].to_vec()), Ok(Vec::new()), Err(io::ErrorKind::InvalidData)] {
        let mut collector = Scripted::new([reply, good()]).collector();
        assert_eq!(first_failure(&mut collector).reason, "length");
        until(&mut collector, |readings, _| !readings.is_empty());
    }
}

#[test]
fn b35_a_busy_bmc_is_asked_three_times_with_pauses_and_then_skipped() {
    let mut replies: Vec<Reply> = vec![Ok(vec![0xc0]); 3];
    replies.push(good());
    let bmc = Scripted::new(replies);
    let mut collector = bmc.collector();
    let (_, failures) = until(&mut collector, |readings, _| !readings.is_empty());
    assert_eq!(failures.iter().map(|failure| failure.reason).collect::<Vec<_>>(), ["busy"]);
    let asked = bmc.asked();
    for (pair, least) in asked.windows(2).zip([PACE.between, PACE.between, PACE.interval]) {
        assert!(pair[1] - pair[0] >= least, "{:?}", pair[1] - pair[0]);
    }
    // Busy twice is no failure at all.
    let mut collector = Scripted::new([Ok(vec![0xc0]), Ok(vec![0xc0]), good()]).collector();
    let (_, failures) = until(&mut collector, |readings, _| !readings.is_empty());
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn b36_no_measurement_is_no_power_and_a_zero_after_a_start_is_asked_again() {
    let mut collector = Scripted::new([Ok(INACTIVE.to_vec()), good()]).collector();
    let (readings, failures) = until(&mut collector, |readings, _| !readings.is_empty());
    assert_eq!(failures.iter().map(|failure| failure.reason).collect::<Vec<_>>(), ["inactive"]);
    assert_eq!(readings[0].value, Value::increment(Microjoules::ZERO), "the first value is a beginning");
    let mut collector = Scripted::new([Ok(ZERO.to_vec()), good()]).collector();
    let (_, failures) = until(&mut collector, |readings, _| !readings.is_empty());
    assert!(failures.is_empty(), "{failures:?}");
    let mut collector = Scripted::new([Ok(ZERO.to_vec())]).collector();
    assert_eq!(first_failure(&mut collector).reason, "implausible");
}

#[test]
fn b37_a_device_that_cannot_be_opened_is_off_with_its_cure_and_looked_for_again() {
    let cases = [
        (Errno::ENOENT, "missing", "ipmi_devintf"),
        (Errno::EPERM, "permission", "device plugin"),
        (Errno::EACCES, "permission", "device cgroup"),
        (Errno::EBUSY, "busy", "another program"),
    ];
    for (errno, reason, cure) in cases {
        let (bmc, mut refusals) = (Scripted::new([good()]), 2);
        let mut collector = begun(Box::new(move || {
            if refusals > 0 {
                refusals -= 1;
                return Err(io::Error::from(errno));
            }
            Ok(Box::new(bmc.clone()) as Box<dyn IpmiTransport>)
        }));
        let failure = first_failure(&mut collector);
        assert_eq!(failure.reason, reason);
        assert!(failure.why.contains(cure), "{failure}");
        let states = collector.discover();
        assert!(states[0].unavailable.as_ref().is_some_and(|why| why.contains(cure)), "{states:?}");
        until(&mut collector, |readings, _| !readings.is_empty());
        assert_eq!(collector.discover()[0].unavailable, None);
    }
}

#[test]
fn the_kernel_s_own_missing_device_is_off() {
    let folder = tempfile::tempdir().expect("folder");
    let section = IpmiSection { device: folder.path().join("ipmi0"), ..IpmiSection::default() };
    let mut collector = Ipmi::new(&section);
    collector.discover();
    assert_eq!(first_failure(&mut collector).reason, "missing");
}
