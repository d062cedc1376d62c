//! Looks through a BMC's documents for the power of this node at its input, and for what is told beside it.
//!
//! Pure: [`survey`] ends with the link that it needs until all documents are there. [`Depth::Wall`] asks for no more
//! than the place that is then read again and again; [`Depth::All`] looks at everything that is known to be told.

use super::chassis::{Chassis, ROOT, Scope, Tree, last_segment};
use super::document::{Documents, Need};
use super::report::{self, PLATFORM};
use super::route::{self, Route, Routes, Shown};
use super::sensor;
use super::value::{ENCLOSURE_CEILING, Energy, NODE_CEILING, Skip, link};
use joulebook_units::Milliwatts;
use std::collections::BTreeMap;

/// Processors of a baseboard that are looked at.
const MOST_PROCESSORS: usize = 64;
/// Where the accelerators of a baseboard are.
const BASEBOARD: &str = "/redfish/v1/Systems/HGX_Baseboard_0/Processors";

/// How much is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The place of the node's power.
    Wall,
    /// Everything.
    All,
}

/// What a BMC tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Power of this node at its input, and where it stands.
    pub wall: Option<(Route, Shown)>,
    /// Σ of the inputs of its supplies.
    pub supplies: Option<Milliwatts>,
    /// Cumulative energy of this node.
    pub energy: Option<Energy>,
    /// Power by the BMC's number of the GPU; none where it is not known.
    pub gpus: BTreeMap<String, Option<Milliwatts>>,
    /// Power by chassis of parts of the node.
    pub inside: BTreeMap<String, Milliwatts>,
    /// Power of an enclosure that holds several nodes: attributed to none of them.
    pub enclosure: Option<Enclosure>,
    /// Places that exist and had no value, and why.
    pub skipped: Vec<(Route, Skip)>,
}

/// An enclosure of several nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Enclosure {
    /// Its name within the BMC.
    pub chassis: String,
    /// Where its power stands.
    pub route: Route,
    /// What stands there.
    pub shown: Shown,
}

/// Looks through the documents.
///
/// # Errors
/// A document that was not fetched yet.
pub fn survey(documents: &Documents, depth: Depth) -> Result<Found, Need> {
    let tree = Tree::new(documents)?;
    let mut found = Found::default();
    for one in tree.candidates() {
        found.node(&one, &tree, documents, depth)?;
        if found.wall.is_some() && (depth == Depth::Wall || found.energy.is_some()) {
            break;
        }
    }
    for one in tree.chassis.iter().filter(|one| one.scope == Scope::Enclosure) {
        if found.wall.is_none()
            && let Some(route) = route::of_node_in(one, &tree, documents)?
        {
            found.take(route, documents)?;
        }
        // Beside a node's own power it is only shown on demand.
        if (depth == Depth::All || found.wall.is_none()) && found.enclosure.is_none() {
            let chassis = one.id().to_owned();
            let first = first(one, &tree, documents, ENCLOSURE_CEILING)?;
            found.enclosure = first.map(|(route, shown)| Enclosure { chassis, route, shown });
        }
    }
    if depth == Depth::All {
        found.parts(&tree, documents)?;
    }
    Ok(found)
}

/// The first place of a chassis that has a value.
fn first(
    one: &Chassis<'_>,
    tree: &Tree<'_>,
    documents: &Documents,
    ceiling: Milliwatts,
) -> Result<Option<(Route, Shown)>, Need> {
    let mut routes = Routes::new(one, tree);
    while let Some(route) = routes.next(documents)? {
        if let Ok(shown) = route.read(documents, ceiling)? {
            return Ok(Some((route, shown)));
        }
    }
    Ok(None)
}

impl Found {
    fn node(&mut self, one: &Chassis<'_>, tree: &Tree<'_>, documents: &Documents, depth: Depth) -> Result<(), Need> {
        let mut routes = Routes::new(one, tree);
        while let Some(route) = routes.next(documents)? {
            if self.wall.is_none() {
                self.take(route.clone(), documents)?;
            }
            if depth == Depth::Wall && self.wall.is_some() {
                return Ok(());
            }
            let is_sum = matches!(route, Route::Supplies { .. } | Route::Inputs { .. });
            if is_sum && self.supplies.is_none() {
                self.supplies = route.read(documents, NODE_CEILING)?.ok().map(|shown| shown.power);
            }
            if self.energy.is_none() && matches!(route, Route::Environment { .. }) {
                self.energy = route.energy(documents)?;
            }
        }
        if self.energy.is_none()
            && let Some(sensors) = link(one.document, "Sensors")
        {
            for uri in sensor::find(sensors, documents)?.energy {
                self.energy = self.energy.or(documents.get(&uri)?.and_then(sensor::energy));
            }
        }
        Ok(())
    }

    fn take(&mut self, route: Route, documents: &Documents) -> Result<(), Need> {
        match route.read(documents, NODE_CEILING)? {
            Ok(shown) => self.wall = Some((route, shown)),
            Err(skip) => self.skipped.push((route, skip)),
        }
        Ok(())
    }

    fn parts(&mut self, tree: &Tree<'_>, documents: &Documents) -> Result<(), Need> {
        let root = documents.get(ROOT)?;
        let reports = root
            .and_then(|root| link(root, "TelemetryService"))
            .map(|service| documents.get(service))
            .transpose()?
            .flatten()
            .and_then(|service| link(service, "MetricReports"));
        if let Some(reports) = reports {
            for uri in documents.members(reports)?.iter().filter(|uri| last_segment(uri) == PLATFORM) {
                if let Some(document) = documents.get(uri)? {
                    let report = report::read(document);
                    self.gpus.extend(report.gpus);
                    self.inside.extend(report.inside);
                }
            }
        }
        if self.gpus.is_empty() {
            self.processors(documents)?;
        }
        for one in tree.chassis.iter().filter(|one| one.scope == Scope::Inside && !is_gpu(one.id())) {
            if !self.inside.contains_key(one.id())
                && let Some((_, shown)) = first(one, tree, documents, NODE_CEILING)?
            {
                self.inside.insert(one.id().to_owned(), shown.power);
            }
        }
        Ok(())
    }

    /// GPUs of a baseboard without a report: one document each.
    fn processors(&mut self, documents: &Documents) -> Result<(), Need> {
        for uri in documents.members(BASEBOARD)?.iter().take(MOST_PROCESSORS) {
            let name = last_segment(uri);
            let Some(number) = name.strip_prefix("GPU_").map(|rest| rest.strip_prefix("SXM_").unwrap_or(rest)) else {
                continue;
            };
            let processor = documents.get(uri)?;
            let metrics = processor.and_then(|processor| link(processor, "EnvironmentMetrics")).map(str::to_owned);
            let metrics = metrics.unwrap_or_else(|| format!("{uri}/EnvironmentMetrics"));
            let power = documents.get(&metrics)?.and_then(|metrics| route::environment(metrics, NODE_CEILING).ok());
            self.gpus.insert(number.to_owned(), power.map(|shown| shown.power));
        }
        Ok(())
    }
}

fn is_gpu(chassis: &str) -> bool {
    chassis.starts_with("HGX_GPU_")
}

#[cfg(test)]
mod tests;
