//! Collector `ipmi`: power of the whole node at its input, from its own BMC through the kernel's IPMI device (DCMI).
//!
//! Reads whole watts each 5 s or more: a command costs the kernel's driver 20 to 300 ms of CPU time on many machines. Needs
//! `/dev/ipmi0`, that is root, and in a container a device cgroup that allows it. The first energy exists at the second
//! value. A value holds until the next one, at most three intervals.
//!
//! Opt-in, and off for a BMC that says that it cannot.

use super::hold::Hold;
use super::{Collector, ReadFailure, Reading};
use crate::config::IpmiSection;
use joulebook_units::{BootNanos, Component, Method, Milliwatts, Source, SourceState};
use meter::{Event, IpmiTransport, Kernel, Meter, Open, Pace};
use std::time::Duration;

pub mod dcmi;
pub mod meter;

/// The node at its input.
const WALL: &str = "ipmi/wall";
/// Intervals that a value holds.
const HELD_INTERVALS: u32 = 3;
/// Longest time for one command.
const COMMAND: Duration = Duration::from_secs(5);

/// The collector.
pub struct Ipmi {
    section: IpmiSection,
    pace: Pace,
    open: Option<Open>,
    meter: Option<Meter>,
    hold: Hold,
    ceiling: Milliwatts,
    off: Option<String>,
    changed: bool,
}

impl Ipmi {
    /// A collector of the kernel's device; it opens nothing yet.
    pub fn new(section: &IpmiSection) -> Self {
        let path = section.device.clone();
        let open = move || Kernel::open(&path, COMMAND).map(|kernel| Box::new(kernel) as Box<dyn IpmiTransport>);
        let pace = Pace {
            interval: section.interval,
            between: Duration::from_secs(1),
            tries: 3,
            open_again: Duration::from_secs(60),
        };
        Self::with(section, pace, Box::new(open))
    }

    /// A collector of another transport.
    pub fn with(section: &IpmiSection, pace: Pace, open: Open) -> Self {
        let ceiling = section.ceiling();
        Self {
            section: section.clone(),
            pace,
            open: Some(open),
            meter: None,
            hold: Hold::new(pace.interval.saturating_mul(HELD_INTERVALS), ceiling),
            ceiling,
            off: Some("the BMC has not answered yet".to_owned()),
            changed: false,
        }
    }

    fn turn_off(&mut self, why: String) {
        self.changed |= self.off.as_ref() != Some(&why);
        self.off = Some(why);
    }
}

fn failure(reason: &'static str, why: String) -> Result<Reading, ReadFailure> {
    Err(ReadFailure { source_id: WALL.to_owned(), reason, why })
}

impl Collector for Ipmi {
    fn discover(&mut self) -> Vec<SourceState> {
        if let Some(open) = self.open.take() {
            match Meter::start(open, self.pace) {
                Ok(meter) => self.meter = Some(meter),
                Err(error) => self.off = Some(format!("starting its thread failed: {error}")),
            }
        }
        self.changed = false;
        let source = Source {
            id: WALL.to_owned(),
            component: Component::Wall,
            socket: None,
            device: None,
            collector: "ipmi".to_owned(),
            method: Method::IntegratedPower,
            unit_nanojoules: None,
            ceiling: self.ceiling,
            uncertainty_permille: self.section.uncertainty_permille,
            contained_in: None,
            scope: None,
            basis: format!("DCMI through {}", self.section.device.display()),
        };
        vec![SourceState { source: source.into(), unavailable: self.off.clone() }]
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let mut readings = Vec::new();
        while let Some(event) = self.meter.as_ref().and_then(Meter::next) {
            match event {
                Event::Sample { power, .. } if power > self.ceiling => {
                    let why = format!("a power of {} W is above the configured ceiling", power.to_watts());
                    readings.push(failure("implausible", why));
                }
                Event::Sample { at, power } => {
                    self.changed |= self.off.take().is_some();
                    let held = self.hold.sample(at, power).into_iter();
                    readings.extend(held.map(|(at, value)| Ok(Reading { source: WALL.to_owned(), at, value })));
                }
                Event::Failed { reason, why, off } => {
                    if off {
                        self.turn_off(why.clone());
                    }
                    readings.push(failure(reason, why));
                }
            }
        }
        if let Some((at, value)) = self.hold.tick(now) {
            readings.push(Ok(Reading { source: WALL.to_owned(), at, value }));
            let held = humantime::format_duration(self.pace.interval.saturating_mul(HELD_INTERVALS));
            let why = format!("the BMC has shown no power for {held}: energy is unknown until it does");
            readings.push(failure("stale", why.clone()));
            self.turn_off(why);
        }
        readings
    }

    fn has_changed(&self) -> bool {
        self.changed
    }
}
