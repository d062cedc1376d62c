//! Collector `redfish`: power of the whole node at its input, from its BMC over the management network.
//!
//! Reads watts that the BMC's sensors were refreshed with, each 1 to 60 s; needs an account that may read, and nothing of
//! this machine. The first energy exists at the second value. Where the BMC has a counter in joules, it is the source and
//! the integral of the power stands inside it, to be compared; a counter in kWh is too coarse for that.
//!
//! The BMC is asked by a [`poll`] thread: a row takes what has come and never waits. A value is the BMC's, not the
//! instant's: it holds until the next one, at most three refresh periods, and then energy is unknown until there is a new
//! value. The same value of the same time is not a new one.
//!
//! A BMC that shows only the power of an enclosure of several nodes gives a source with that scope, which no node is charged.
//!
//! Opt-in: an account of a BMC is worth more than a node's energy.

use super::hold::Hold;
use super::{Collector, ReadFailure, Reading, Value};
use crate::config::RedfishSection;
use joulebook_units::{BootNanos, Component, Layer, Method, Milliwatts, Scope, Source, SourceState};
use poll::{Event, Pace, Poll};
use route::Shown;
use value::{ENCLOSURE_CEILING, Energy};

pub mod chassis;
pub mod client;
pub mod document;
pub mod gate;
pub mod outcome;
pub mod poll;
pub mod report;
pub mod route;
pub mod secret;
pub mod sensor;
pub mod survey;
pub mod trust;
pub mod value;

/// Refresh periods that a value holds.
const HELD_REFRESHES: u32 = 3;
/// The node at its input.
const WALL: &str = "redfish/wall";
/// The integral of its power, where a counter is there.
const INTEGRAL: &str = "redfish/wall/power";
/// The enclosure around several nodes, where the BMC shows no power of this one.
const ENCLOSURE: &str = "redfish/enclosure";

/// The collector.
#[derive(Debug)]
pub struct Redfish {
    section: RedfishSection,
    /// What stands before the names of its sources.
    prefix: String,
    poll: Option<Poll>,
    hold: Hold,
    ceiling: Milliwatts,
    place: Option<String>,
    /// The enclosure whose power is shown instead of this node's.
    enclosure: Option<String>,
    /// Whether there is a counter in joules.
    counts: bool,
    off: Option<String>,
    changed: bool,
}

impl Redfish {
    /// A collector of a configuration that was checked; it asks nothing yet.
    pub fn new(section: &RedfishSection) -> Self {
        let ceiling = section.ceiling();
        Self {
            section: section.clone(),
            prefix: String::new(),
            poll: None,
            hold: Hold::new(section.refresh().saturating_mul(HELD_REFRESHES), ceiling),
            ceiling,
            place: None,
            enclosure: None,
            counts: false,
            off: Some("the BMC has not answered yet".to_owned()),
            changed: false,
        }
    }

    /// The same with a name before those of its sources, where several may tell of one node or one of several.
    #[must_use]
    pub fn below(self, name: &impl std::fmt::Display) -> Self {
        Self { prefix: format!("{name}/"), ..self }
    }

    fn start(&mut self) {
        let Some(settings) = self.section.settings() else { return };
        if settings.trust == trust::Trust::Anyone {
            let host = &settings.host;
            tracing::warn!(host, "danger_accept_any_certificate: whoever answers for the BMC is shown its password");
        }
        let pace = Pace { interval: self.section.interval, ceiling: self.ceiling };
        match Poll::start(settings, pace) {
            Ok(poll) => self.poll = Some(poll),
            Err(error) => self.off = Some(format!("starting its thread failed: {error}")),
        }
    }

    fn id(&self) -> String {
        self.named(if self.enclosure.is_some() { ENCLOSURE } else { WALL })
    }

    fn integral_id(&self) -> String {
        if self.counts { self.named(INTEGRAL) } else { self.id() }
    }

    fn named(&self, source: &str) -> String {
        format!("{}{source}", self.prefix)
    }

    /// From now on the power is that of an enclosure, or this node's again: each has a sum of its own.
    fn turn_to(&mut self, enclosure: Option<String>) {
        self.ceiling = if enclosure.is_some() { ENCLOSURE_CEILING } else { self.section.ceiling() };
        self.hold = Hold::new(self.section.refresh().saturating_mul(HELD_REFRESHES), self.ceiling);
        (self.enclosure, self.counts, self.changed) = (enclosure, false, true);
    }

    fn take(&mut self, event: Event) -> Vec<Result<Reading, ReadFailure>> {
        match event {
            Event::Sample { at, shown, place, enclosure } => {
                if enclosure != self.enclosure {
                    self.turn_to(enclosure);
                }
                self.changed |= self.off.take().is_some() | (self.place.as_ref() != Some(&place));
                self.place = Some(place);
                self.sample(at, &shown)
            }
            Event::Failed { reason, why, off } => {
                if off {
                    self.turn_off(why.clone());
                }
                vec![Err(ReadFailure { source_id: self.id(), reason, why })]
            }
        }
    }

    fn sample(&mut self, at: BootNanos, shown: &Shown) -> Vec<Result<Reading, ReadFailure>> {
        let counter = match shown.energy {
            Some(energy @ Energy::Joules(_)) if self.enclosure.is_none() => energy.microjoules(),
            _ => None,
        };
        if counter.is_some() && !self.counts {
            // Decided once, by the first value: a source does not change what it is.
            self.counts = self.hold.is_new();
            self.changed |= self.counts;
        }
        let counter = counter.filter(|_| self.counts);
        let integral = self.integral_id();
        let held = self.hold.sample(at, shown.power).into_iter();
        let mut readings: Vec<_> = held.map(|(at, value)| reading(&integral, at, value)).collect();
        readings.extend(counter.map(|raw| reading(&self.named(WALL), at, Value::Total { raw })));
        readings
    }

    fn turn_off(&mut self, why: String) {
        self.changed |= self.off.is_none();
        self.off = Some(why);
    }
}

fn reading(source: &str, at: BootNanos, value: Value) -> Result<Reading, ReadFailure> {
    Ok(Reading { source: source.to_owned(), at, value })
}

impl Collector for Redfish {
    fn discover(&mut self) -> Vec<SourceState> {
        if self.poll.is_none() {
            self.start();
        }
        self.changed = false;
        let mut basis = format!("BMC {}", self.section.host().unwrap_or_default());
        if let Some(place) = &self.place {
            basis = format!("{basis}, {place}");
        }
        if self.section.danger_accept_any_certificate {
            basis.push_str(", certificate not verified");
        }
        let wall = Source {
            id: self.id(),
            component: Component::Wall,
            socket: None,
            device: None,
            collector: "redfish".to_owned(),
            method: if self.counts { Method::Counter } else { Method::IntegratedPower },
            unit_nanojoules: None,
            ceiling: self.ceiling,
            uncertainty_permille: self.section.uncertainty_permille,
            contained_in: None,
            scope: self.enclosure.as_ref().map(|chassis| Scope {
                layer: Layer::Enclosure,
                name: format!("{}/{chassis}", self.section.host().unwrap_or_default()),
                // Which nodes are in it, the BMC of one of them does not know.
                members: Vec::new(),
            }),
            basis,
        };
        let integral = self.counts.then(|| Source {
            id: self.named(INTEGRAL),
            method: Method::IntegratedPower,
            contained_in: Some(self.named(WALL)),
            ..wall.clone()
        });
        let state = |source: Source| SourceState { source: source.into(), unavailable: self.off.clone() };
        [Some(wall), integral].into_iter().flatten().map(state).collect()
    }

    fn read(&mut self, now: BootNanos) -> Vec<Result<Reading, ReadFailure>> {
        let mut readings = Vec::new();
        while let Some(event) = self.poll.as_ref().and_then(Poll::next) {
            let taken = self.take(event);
            readings.extend(taken);
        }
        if let Some((at, value)) = self.hold.tick(now) {
            readings.push(reading(&self.integral_id(), at, value));
            let why = format!(
                "the BMC has shown no new value for {}: energy is unknown until it does",
                humantime::format_duration(self.section.refresh().saturating_mul(HELD_REFRESHES))
            );
            readings.push(Err(ReadFailure { source_id: self.id(), reason: "stale", why: why.clone() }));
            self.turn_off(why);
        }
        readings
    }

    fn has_changed(&self) -> bool {
        self.changed
    }
}
