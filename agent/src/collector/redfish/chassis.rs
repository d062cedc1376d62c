//! Which of a BMC's chassis is the node, which holds several nodes, and which is a part of the node.

use super::document::{Documents, Need};
use super::value::{canonical, link, links, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Root of the service.
pub const ROOT: &str = "/redfish/v1/";
/// Where the collections are if the root does not say: some BMCs forget these links until they are reset.
const CHASSIS: &str = "/redfish/v1/Chassis";
const SYSTEMS: &str = "/redfish/v1/Systems";
/// Most chassis that are looked at.
const MOST_CHASSIS: usize = 64;

/// Types of chassis that are parts of a node: their power is inside the wall's.
const PARTS: [&str; 8] = ["module", "component", "card", "cartridge", "zone", "expansion", "bay", "ipbaseddrive"];
/// Types that always hold more than a node.
const RACKS: [&str; 7] = ["rack", "rackgroup", "row", "pod", "shelf", "powerstrip", "immersiontank"];
/// Types that are neither a node nor contain or belong to one.
const ASIDE: [&str; 3] = ["storageenclosure", "sidecar", "heatexchanger"];
/// Types of one node among several in an enclosure.
const SLEDS: [&str; 2] = ["blade", "sled"];
/// Systems that are a part of a node: baseboards of accelerators and network cards with a processor of their own.
const INNER_SYSTEMS: [&str; 3] = ["hgx", "dpu", "bluefield"];

/// What a chassis is to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// It is the node.
    Node,
    /// It holds several nodes: its power is attributed to none.
    Enclosure,
    /// A part of the node.
    Inside,
    /// Something else.
    Aside,
}

/// One chassis.
#[derive(Debug, Clone)]
pub struct Chassis<'documents> {
    /// Its link.
    pub uri: String,
    /// Its document.
    pub document: &'documents Value,
    /// What it is.
    pub scope: Scope,
}

impl<'documents> Chassis<'documents> {
    /// Its name within the BMC.
    pub fn id(&self) -> &str {
        text(self.document, "Id").unwrap_or_else(|| last_segment(&self.uri))
    }

    fn systems(&self) -> BTreeSet<&'documents str> {
        systems_of(self.document)
    }
}

/// All chassis of a BMC.
#[derive(Debug)]
pub struct Tree<'documents> {
    /// Them, in the BMC's order.
    pub chassis: Vec<Chassis<'documents>>,
    /// Links that name this node: its chassis and its system, where they can be told.
    pub own: BTreeSet<String>,
}

impl<'documents> Tree<'documents> {
    /// The chassis of a BMC.
    ///
    /// # Errors
    /// A document that was not fetched yet.
    pub fn new(documents: &'documents Documents) -> Result<Self, Need> {
        let root = documents.get(ROOT)?;
        let named = |key, usual| root.and_then(|root| link(root, key)).unwrap_or(usual).to_owned();
        let mut chassis = Vec::new();
        for uri in documents.members(&named("Chassis", CHASSIS))?.iter().take(MOST_CHASSIS) {
            let Some(document) = documents.get(uri)? else { continue };
            let own = name(document);
            if own.is_none() || !chassis.iter().any(|known: &Chassis<'_>| name(known.document) == own) {
                chassis.push(Chassis { uri: uri.clone(), document, scope: Scope::Aside });
            }
        }
        let systems = documents.members(&named("Systems", SYSTEMS))?;
        let nodes = systems.iter().filter(|system| !is_inner(system)).count();
        let scopes: Vec<Scope> = chassis.iter().map(|one| scope(one, &chassis, nodes)).collect();
        for (one, scope) in chassis.iter_mut().zip(scopes) {
            one.scope = scope;
        }
        let mut tree = Self { chassis, own: BTreeSet::new() };
        tree.find_own(documents)?;
        Ok(tree)
    }

    /// Chassis that may be the node, the one that a single system belongs to first. None where several nodes are shown
    /// alike: nothing tells then which of them this one is.
    pub fn candidates(&self) -> Vec<Chassis<'documents>> {
        let mut nodes: Vec<_> = self.chassis.iter().filter(|one| one.scope == Scope::Node).cloned().collect();
        let systems: BTreeSet<_> = nodes.iter().flat_map(Chassis::systems).collect();
        let sleds = nodes.iter().filter(|one| SLEDS.contains(&kind(one.document).as_str())).count();
        if systems.len() > 1 || (systems.is_empty() && sleds > 1) {
            return Vec::new();
        }
        nodes.sort_by_key(|one| one.systems().len() != 1);
        nodes
    }

    /// The chassis that a resource belongs to, by its own link.
    pub fn owner(&self, resource: &str) -> Option<&Chassis<'documents>> {
        let below = |one: &&Chassis<'_>| {
            canonical(resource).strip_prefix(canonical(&one.uri)).is_some_and(|rest| rest.starts_with('/'))
        };
        self.chassis.iter().find(below)
    }

    fn find_own(&mut self, documents: &Documents) -> Result<(), Need> {
        let mut own = BTreeSet::new();
        for node in self.candidates() {
            own.insert(canonical(&node.uri).to_owned());
            own.extend(node.systems().into_iter().map(str::to_owned));
        }
        let root = documents.get(ROOT)?;
        let systems = root.and_then(|root| link(root, "Systems")).unwrap_or(SYSTEMS);
        if let Some(collection) = documents.get(systems)? {
            let members: Vec<_> =
                links(collection, "Members").into_iter().filter(|system| !is_inner(system)).map(canonical).collect();
            if let [only] = members[..] {
                own.insert(only.to_owned());
            }
        }
        self.own = own;
        Ok(())
    }
}

fn scope(one: &Chassis<'_>, all: &[Chassis<'_>], nodes: usize) -> Scope {
    let kind = kind(one.document);
    let kind = kind.as_str();
    if PARTS.contains(&kind) {
        return Scope::Inside;
    }
    if ASIDE.contains(&kind) {
        return Scope::Aside;
    }
    let systems = one.systems().len();
    let holds_sleds = all.iter().any(|other| is_inside(other, one) && is_node_like(other));
    if RACKS.contains(&kind) || systems > 1 || holds_sleds || (systems == 0 && nodes > 1 && !SLEDS.contains(&kind)) {
        return Scope::Enclosure;
    }
    Scope::Node
}

/// Whether a chassis that stands in another one is a node of its own.
fn is_node_like(one: &Chassis<'_>) -> bool {
    let kind = kind(one.document);
    SLEDS.contains(&kind.as_str())
        || (["rackmount", "standalone"].contains(&kind.as_str()) && !one.systems().is_empty())
}

fn is_inside(inner: &Chassis<'_>, outer: &Chassis<'_>) -> bool {
    let none = Value::Null;
    let (of_inner, of_outer) =
        (inner.document.get("Links").unwrap_or(&none), outer.document.get("Links").unwrap_or(&none));
    let is = |link: &str, one: &Chassis<'_>| canonical(link) == canonical(&one.uri);
    canonical(&inner.uri) != canonical(&outer.uri)
        && (link(of_inner, "ContainedBy").is_some_and(|by| is(by, outer))
            || links(of_outer, "Contains").iter().any(|one| is(one, inner)))
}

fn systems_of(document: &Value) -> BTreeSet<&str> {
    let listed = document.get("Links").map(|all| links(all, "ComputerSystems")).unwrap_or_default();
    listed.into_iter().filter(|system| !is_inner(system)).map(canonical).collect()
}

/// A chassis' own link: the same where several links lead to it.
fn name(document: &Value) -> Option<&str> {
    text(document, "@odata.id").map(canonical)
}

fn kind(document: &Value) -> String {
    text(document, "ChassisType").unwrap_or_default().to_ascii_lowercase()
}

fn is_inner(system: &str) -> bool {
    let name = last_segment(system).to_ascii_lowercase();
    INNER_SYSTEMS.iter().any(|inner| name.starts_with(inner))
}

/// The last part of a link.
pub fn last_segment(uri: &str) -> &str {
    let uri = canonical(uri);
    uri.rsplit_once('/').map_or(uri, |(_, last)| last)
}
