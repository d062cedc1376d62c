//! The places where a chassis may show its power, and how each of them is read.
//!
//! The first one that has a value is kept: places differ by what they meter (the board, the input, a mean of minutes),
//! and a series that changed between them would show steps that nobody drew.

use super::chassis::{Chassis, Scope, Tree};
use super::document::{Documents, Need};
use super::sensor;
use super::value::{Energy, Skip, canonical, is_absent, is_unset, link, links, minutes, text, watts};
use super::value::{joules, kilowatt_hours};
use joulebook_units::Milliwatts;
use serde_json::Value;
use std::time::Duration;

/// Most power supplies that are summed.
const MOST_SUPPLIES: usize = 32;
/// Contexts of `PowerControl` members that are parts of the chassis.
const PART_CONTEXTS: [&str; 16] = [
    "cpu",
    "cpusubsystem",
    "memory",
    "memorysubsystem",
    "gpu",
    "gpusubsystem",
    "accelerator",
    "fan",
    "fansubsystem",
    "storagedevice",
    "storagesubsystem",
    "networkingdevice",
    "powersupply",
    "powersubsystem",
    "systemboard",
    "voltageregulator",
];
/// The same in names, where there is no context.
const PART_NAMES: [&str; 10] =
    ["sub-system", "subsystem", "cpu", "processor", "memory", "dimm", "gpu", "fan", "storage", "pcie"];

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `EnvironmentMetrics.PowerWatts`.
    Environment {
        /// The resource.
        uri: String,
    },
    /// A sensor of the whole.
    Sensor {
        /// The resource.
        uri: String,
    },
    /// `PowerControl[].PowerConsumedWatts` of the deprecated `Power`.
    Control {
        /// The resource.
        uri: String,
        /// Index of the member.
        member: usize,
    },
    /// Σ `PowerSupplies[].PowerInputWatts` of the deprecated `Power`.
    Supplies {
        /// The resource.
        uri: String,
    },
    /// Σ `InputPowerWatts` of the supplies' metrics, or of one sensor each.
    Inputs {
        /// The resources.
        uris: Vec<String>,
    },
    /// `PowerControl[].PowerMetrics.AverageConsumedWatts`.
    Average {
        /// The resource.
        uri: String,
        /// Index of the member.
        member: usize,
    },
}

/// What a place shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Power, of the instant or the mean over `window`.
    pub power: Milliwatts,
    /// Over which time it is a mean, if it is one.
    pub window: Option<Duration>,
    /// When the value was made, or what else changes with it: one that stays says that the value is not a new one.
    pub stamp: Option<String>,
    /// Cumulative energy that stands beside it.
    pub energy: Option<Energy>,
}

impl Route {
    /// The resources that it reads.
    pub fn uris(&self) -> Vec<&str> {
        match self {
            Self::Environment { uri }
            | Self::Sensor { uri }
            | Self::Control { uri, .. }
            | Self::Supplies { uri }
            | Self::Average { uri, .. } => vec![uri],
            Self::Inputs { uris } => uris.iter().map(String::as_str).collect(),
        }
    }

    /// A name for people.
    pub fn name(&self) -> String {
        let kind = match self {
            Self::Environment { .. } => "PowerWatts",
            Self::Sensor { .. } => "sensor",
            Self::Control { .. } => "PowerConsumedWatts",
            Self::Supplies { .. } | Self::Inputs { .. } => "sum of supply inputs",
            Self::Average { .. } => "AverageConsumedWatts",
        };
        format!("{kind} of {}", self.uris().first().copied().unwrap_or_default())
    }

    /// Cumulative energy that stands at this place, whether or not a power does.
    ///
    /// # Errors
    /// A document that was not fetched yet.
    pub fn energy(&self, documents: &Documents) -> Result<Option<Energy>, Need> {
        let Self::Environment { uri } = self else { return Ok(None) };
        Ok(documents.get(uri)?.and_then(environment_energy))
    }

    /// Reads it.
    ///
    /// # Errors
    /// A document that was not fetched yet; inside, why there is no value.
    pub fn read(&self, documents: &Documents, ceiling: Milliwatts) -> Result<Result<Shown, Skip>, Need> {
        let document = |uri| Ok(documents.get(uri)?.ok_or(Skip::Missing));
        Ok(match self {
            Self::Environment { uri } => document(uri)?.and_then(|metrics| environment(metrics, ceiling)),
            Self::Sensor { uri } => document(uri)?.and_then(|sensor| sensor::power(sensor, ceiling)),
            Self::Control { uri, member } => {
                document(uri)?.and_then(|power| Ok(shown(consumed(power, *member, ceiling)?, power)))
            }
            Self::Supplies { uri } => document(uri)?.and_then(|power| Ok(shown(supplies(power, ceiling)?, power))),
            Self::Inputs { uris } => inputs(uris, documents, ceiling)?,
            Self::Average { uri, member } => document(uri)?.and_then(|power| {
                let metrics = control(power, *member).and_then(|control| control.get("PowerMetrics"));
                let metrics = metrics.ok_or(Skip::Missing)?;
                let mean = watts(metrics.get("AverageConsumedWatts"), ceiling)?;
                Ok(Shown { window: minutes(metrics.get("IntervalInMin")), ..shown(mean, power) })
            }),
        })
    }
}

fn shown(power: Milliwatts, document: &Value) -> Shown {
    let stamp = text(document, "@odata.etag").map(str::to_owned);
    Shown { power, window: None, stamp, energy: None }
}

/// What `EnvironmentMetrics` shows.
pub fn environment(metrics: &Value, ceiling: Milliwatts) -> Result<Shown, Skip> {
    let reading = metrics.get("PowerWatts").filter(|power| !power.is_null()).ok_or(Skip::Missing)?;
    let power = watts(reading.get("Reading"), ceiling)?;
    let time = text(reading, "ReadingTime");
    if time.is_some_and(is_unset) {
        return Err(Skip::Stale);
    }
    let mut shown = shown(power, metrics);
    shown.stamp = time.map(str::to_owned).or(shown.stamp);
    shown.energy = environment_energy(metrics);
    Ok(shown)
}

fn environment_energy(metrics: &Value) -> Option<Energy> {
    let energy = |key| metrics.get(key).and_then(|energy| energy.get("Reading"));
    joules(energy("EnergyJoules")).or_else(|| kilowatt_hours(energy("EnergykWh")))
}

/// What a member of `PowerControl` shows.
pub fn consumed(power: &Value, member: usize, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    watts(control(power, member).and_then(|control| control.get("PowerConsumedWatts")), ceiling)
}

fn control(power: &Value, member: usize) -> Option<&Value> {
    power.get("PowerControl")?.as_array()?.get(member)
}

/// Index of the `PowerControl` member that is the whole chassis: the others are parts of it.
pub fn whole_member(power: &Value) -> Option<usize> {
    power.get("PowerControl")?.as_array()?.iter().position(|member| !is_part(member))
}

/// Index of the member of an enclosure's `PowerControl` that is this node alone.
fn own_member(power: &Value, tree: &Tree<'_>) -> Option<usize> {
    let members = power.get("PowerControl")?.as_array()?;
    let whole: Vec<_> = members.iter().enumerate().filter(|(_, member)| !is_part(member)).collect();
    let is_own = |member: &Value| {
        let related = links(member, "RelatedItem");
        !related.is_empty() && related.iter().all(|item| tree.own.contains(canonical(item)))
    };
    if let Some((index, _)) = whole.iter().find(|(_, member)| is_own(member)) {
        return Some(*index);
    }
    let is_named = |member: &Value| text(member, "Name").is_some_and(|name| name.to_ascii_lowercase().contains("node"));
    let is_another = |member: &Value| !links(member, "RelatedItem").is_empty();
    let named: Vec<_> = whole.iter().filter(|(_, member)| is_named(member)).collect();
    match named[..] {
        [(index, member)] if !is_another(member) => Some(*index),
        _ => None,
    }
}

fn is_part(member: &Value) -> bool {
    match text(member, "PhysicalContext").map(str::to_ascii_lowercase) {
        Some(context) => PART_CONTEXTS.contains(&context.as_str()),
        None => {
            let name = text(member, "Name").unwrap_or_default().to_ascii_lowercase();
            PART_NAMES.iter().any(|part| name.contains(part))
        }
    }
}

/// Σ input power of the supplies that a `Power` resource lists. One that works and tells nothing leaves the sum
/// unknown; one that is broken or not there draws nothing.
pub fn supplies(power: &Value, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    let listed = power.get("PowerSupplies").and_then(Value::as_array).ok_or(Skip::Missing)?;
    let each = listed.iter().filter(|supply| !is_absent(supply));
    sum(each.map(|supply| (input(supply.get("PowerInputWatts"), ceiling), works(supply))), ceiling)
}

/// Input of one supply: one in standby may draw nothing.
fn input(value: Option<&Value>, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    if value.and_then(Value::as_f64).is_some_and(|watts| watts.abs() < f64::EPSILON) {
        return Ok(Milliwatts(0));
    }
    watts(value, ceiling)
}

fn works(supply: &Value) -> bool {
    let status = |key| supply.get("Status").and_then(|status| text(status, key));
    status("Health") == Some("OK") && status("State") == Some("Enabled")
}

fn sum(each: impl Iterator<Item = (Result<Milliwatts, Skip>, bool)>, ceiling: Milliwatts) -> Result<Milliwatts, Skip> {
    let (mut total, mut any) = (Milliwatts(0), Err(Skip::Missing));
    for (input, works) in each.take(MOST_SUPPLIES) {
        match input {
            Ok(power) => {
                total.0 = total.0.saturating_add(power.0);
                any = Ok(());
            }
            Err(Skip::Missing) if !works => {}
            Err(skip) => return Err(skip),
        }
    }
    any?;
    if total.0 > 0 && total <= ceiling { Ok(total) } else { Err(Skip::Implausible) }
}

fn inputs(uris: &[String], documents: &Documents, ceiling: Milliwatts) -> Result<Result<Shown, Skip>, Need> {
    let mut each = Vec::new();
    for uri in uris {
        let Some(document) = documents.get(uri)? else { continue };
        let reading = document.get("InputPowerWatts").map_or_else(
            || sensor::power(document, ceiling).map(|shown| shown.power),
            |metric| input(metric.get("Reading"), ceiling),
        );
        each.push((reading, works(document)));
    }
    let sum = sum(each.into_iter(), ceiling);
    Ok(sum.map(|power| Shown { power, window: None, stamp: None, energy: None }))
}

/// The places of a chassis in the order in which they are believed, one after the other: what stands behind the place
/// that has a value is not fetched.
#[derive(Debug)]
pub struct Routes<'tree> {
    one: &'tree Chassis<'tree>,
    tree: &'tree Tree<'tree>,
    step: Step,
    ready: std::collections::VecDeque<Route>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Environment,
    Totals,
    Power,
    Inputs,
    Average,
    End,
}

impl<'tree> Routes<'tree> {
    /// Those of one chassis.
    pub fn new(one: &'tree Chassis<'tree>, tree: &'tree Tree<'tree>) -> Self {
        Self { one, tree, step: Step::Environment, ready: std::collections::VecDeque::new() }
    }

    /// The next one.
    ///
    /// # Errors
    /// A document that was not fetched yet.
    pub fn next(&mut self, documents: &Documents) -> Result<Option<Route>, Need> {
        while self.ready.is_empty() && self.step != Step::End {
            self.advance(documents)?;
        }
        Ok(self.ready.pop_front())
    }

    fn advance(&mut self, documents: &Documents) -> Result<(), Need> {
        match self.step {
            Step::Environment => {
                let uri = self.own_link("EnvironmentMetrics").map(str::to_owned);
                self.ready.extend(uri.map(|uri| Route::Environment { uri }));
                self.step = Step::Totals;
            }
            Step::Totals => {
                let totals = self.sensors(documents)?.totals;
                self.ready.extend(totals.into_iter().map(|uri| Route::Sensor { uri }));
                self.step = Step::Power;
            }
            Step::Power => {
                if let Some((uri, member, foreign)) = self.power(documents)? {
                    self.ready.extend(member.map(|member| Route::Control { uri: uri.clone(), member }));
                    self.ready.extend((!foreign).then_some(Route::Supplies { uri }));
                }
                self.step = Step::Inputs;
            }
            Step::Inputs => {
                for uris in [self.supply_metrics(documents)?, self.sensors(documents)?.inputs] {
                    self.ready.extend((!uris.is_empty()).then_some(Route::Inputs { uris }));
                }
                self.step = Step::Average;
            }
            Step::Average => {
                if let Some((uri, Some(member), _)) = self.power(documents)? {
                    self.ready.push_back(Route::Average { uri, member });
                }
                self.step = Step::End;
            }
            Step::End => {}
        }
        Ok(())
    }

    /// A link of a node to a resource of the enclosure around it is the enclosure's.
    fn is_foreign(&self, uri: &str) -> bool {
        let owner = self.tree.owner(uri);
        self.one.scope == Scope::Node && owner.is_some_and(|owner| owner.scope == Scope::Enclosure)
    }

    fn own_link(&self, key: &str) -> Option<&'tree str> {
        link(self.one.document, key).filter(|uri| !self.is_foreign(uri))
    }

    fn sensors(&self, documents: &Documents) -> Result<sensor::Sensors, Need> {
        let sensors = self.own_link("Sensors").map(|uri| sensor::find(uri, documents)).transpose()?;
        Ok(sensors.unwrap_or_default())
    }

    /// The deprecated `Power`: its link, the member that is this chassis, and whether the rest is another one's.
    fn power(&self, documents: &Documents) -> Result<Option<(String, Option<usize>, bool)>, Need> {
        let Some(uri) = link(self.one.document, "Power") else { return Ok(None) };
        let Some(power) = documents.get(uri)? else { return Ok(None) };
        let foreign = self.is_foreign(uri) || text(power, "@odata.id").is_some_and(|owner| self.is_foreign(owner));
        let member = if foreign { own_member(power, self.tree) } else { whole_member(power) };
        Ok(Some((uri.to_owned(), member, foreign)))
    }

    /// Metrics of the supplies of a `PowerSubsystem` that is there.
    fn supply_metrics(&self, documents: &Documents) -> Result<Vec<String>, Need> {
        let mut found = Vec::new();
        let Some(uri) = self.own_link("PowerSubsystem") else { return Ok(found) };
        let Some(subsystem) = documents.get(uri)?.filter(|subsystem| !is_absent(subsystem)) else { return Ok(found) };
        let Some(collection) = link(subsystem, "PowerSupplies") else { return Ok(found) };
        for uri in documents.members(collection)?.iter().take(MOST_SUPPLIES) {
            let supply = documents.get(uri)?.filter(|supply| !is_absent(supply));
            found.extend(supply.and_then(|supply| link(supply, "Metrics")).map(str::to_owned));
        }
        Ok(found)
    }
}

/// The place of this node in the `Power` of an enclosure that shows its nodes.
///
/// # Errors
/// A document that was not fetched yet.
pub fn of_node_in(one: &Chassis<'_>, tree: &Tree<'_>, documents: &Documents) -> Result<Option<Route>, Need> {
    let Some(uri) = link(one.document, "Power") else { return Ok(None) };
    let Some(power) = documents.get(uri)? else { return Ok(None) };
    Ok(own_member(power, tree).map(|member| Route::Control { uri: uri.to_owned(), member }))
}
