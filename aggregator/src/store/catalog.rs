//! The facts of the database, held in memory: nodes, streams, series, clocks, entities and dirty marks.

use super::block::descriptor::Entity;
use super::block::fact::{BootFact, BridgesFact, Fact, MarkFact, NodeFact, PollerFact, Schema, SealedFact, StreamFact};
use super::block::factor::SeriesFact;
use super::book::{CELL_SURROUNDINGS_SECONDS, SEALED_SECONDS, WALL_SURROUNDINGS_SECONDS};
use super::cut::Cut;
use super::hours::{HOUR_SECONDS, Hours};
use super::key::{self, Meta};
use super::{Direction, Store, StoreError, Table, Writes, schema};
use joulebook_units::{BootId, Hardware, Inventory, Layer, NodeName, PollerName, StreamId, Subject, UnixNanos};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

mod dictionary;
mod pods;
mod subjects;

pub(crate) use dictionary::Dictionary;
pub use pods::NodePods;
use subjects::Subjects;

/// A node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) fact: NodeFact,
    /// Number of the open session, if there is one.
    pub(crate) session: Option<u64>,
}

/// A poller that speaks for a node.
#[derive(Debug, Clone)]
pub(crate) struct Poller {
    /// Number of the node.
    pub(crate) node: u32,
    pub(crate) fact: PollerFact,
    /// Number of the open session, if there is one.
    pub(crate) session: Option<u64>,
}

/// Who speaks of a node: its own agent, or a poller. Each has its own session, epoch and streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speaker {
    /// Number of the node.
    pub(crate) node: u32,
    /// Number of the poller; none for the agent.
    pub(crate) poller: Option<u32>,
}

impl Speaker {
    /// Whom a stream belongs to.
    pub(crate) fn of(stream: &StreamFact) -> Self {
        Self { node: stream.node, poller: stream.poller }
    }
}

/// Last points of series before a loss.
pub(crate) type Bridges = BTreeMap<u32, (UnixNanos, u64)>;

/// Everything but rows, gaps and cells. Nodes, pollers, streams and entities are numbered from 0 without holes.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) cluster: [u8; 16],
    pub(crate) nodes: Vec<Node>,
    names: HashMap<NodeName, u32>,
    pub(crate) pollers: Vec<Poller>,
    poller_numbers: HashMap<(u32, PollerName), u32>,
    pub(crate) streams: Vec<StreamFact>,
    ids: HashMap<StreamId, u32>,
    /// What the series of each stream measure, those that are stored.
    dictionaries: Vec<Dictionary<Arc<Subject>>>,
    subjects: Subjects,
    /// Nodes of which a meter at the input ever told something.
    walls: BTreeSet<u32>,
    /// Pods of each node's workloads.
    pods: BTreeMap<u32, Arc<NodePods>>,
    pub(crate) boots: HashMap<(u32, BootId), i64>,
    pub(crate) bridges: HashMap<u32, Bridges>,
    pub(crate) dirty: BTreeMap<(u32, UnixNanos), u64>,
    pub(crate) hours: Hours,
    pub(crate) generation: u64,
    /// Before what every row of a node is sealed.
    pub(crate) sealed: BTreeMap<u32, UnixNanos>,
    /// What the budget of the disk took.
    pub(crate) cut: Cut,
    entities: Vec<Entity>,
    numbers: BTreeMap<Entity, u32>,
    /// Series of factors by name.
    pub(crate) factors: BTreeMap<String, SeriesFact>,
}

impl Catalog {
    /// Reads the catalog; `None` from an empty database.
    pub(crate) fn load(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let Some(schema) = schema::stored(store)? else { return Ok(None) };
        match schema.version.cmp(&schema::VERSION) {
            Ordering::Greater => return Err(StoreError::Newer { found: schema.version, known: schema::VERSION }),
            Ordering::Less => return Err(StoreError::Older { found: schema.version, known: schema::VERSION }),
            Ordering::Equal => {}
        }
        let mut catalog = Self { cluster: schema.cluster, ..Self::default() };
        each(store, Table::Meta, |key, value| catalog.take(key, value))?;
        each(store, Table::Dirty, |key, value| {
            let generation = MarkFact::decode(key, value)?.0;
            catalog.generation = catalog.generation.max(generation);
            catalog.dirty.insert(key::decode_cell(key)?, generation);
            Ok(())
        })?;
        catalog.check_references()?;
        let marks: Vec<(u32, UnixNanos)> = catalog.dirty.keys().copied().collect();
        marks.into_iter().for_each(|(node, start)| catalog.unseal(node, start));
        for stream in &catalog.streams {
            if let Some(last) = stream.last {
                catalog.hours.note(stream.node, last, last);
            }
        }
        Ok(Some(catalog))
    }

    /// A table that has lost its last records reads like a shorter one: what the others refer to must be there.
    fn check_references(&self) -> Result<(), StoreError> {
        let nodes = (self.streams.iter().map(|stream| stream.node))
            .chain(self.boots.keys().map(|(node, _)| *node))
            .chain(self.dirty.keys().map(|(node, _)| *node))
            .chain(self.sealed.keys().copied());
        let streams = self.bridges.keys().copied();
        let within = |highest: Option<u32>, length: usize, what: &str| match highest {
            Some(highest) if highest as usize >= length => Err(missing(length, what)),
            _ => Ok(()),
        };
        within(nodes.max(), self.nodes.len(), "nodes")?;
        let pollers = self.streams.iter().filter_map(|stream| stream.poller);
        within(pollers.max(), self.pollers.len(), "pollers")?;
        within(streams.max(), self.streams.len(), "streams")
    }

    /// The first write to an empty database.
    pub(crate) fn create(cluster: [u8; 16], writes: &mut Writes) -> Self {
        let key = Meta::Schema.encode();
        let schema = Schema { version: schema::VERSION, cluster };
        writes.put(Table::Meta, key.clone(), schema.encode(&key));
        Self { cluster, ..Self::default() }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if let Some(name) = key::decode_factor_series(key) {
            self.factors.insert(name?, SeriesFact::decode(key, value)?);
            return Ok(());
        }
        if key::is_read_later(key) {
            return Ok(());
        }
        match Meta::decode(key)? {
            Meta::Schema | Meta::Hash(..) => {}
            Meta::Node(number) => {
                let mut fact = NodeFact::decode(key, value)?;
                self.subjects.share_sources(&mut fact.inventory);
                in_order(number, self.nodes.len(), "nodes")?;
                self.names.insert(fact.inventory.node.clone(), number);
                self.nodes.push(Node { fact, session: None });
            }
            Meta::Stream(ordinal) => {
                let fact = StreamFact::decode(key, value)?;
                in_order(ordinal, self.streams.len(), "streams")?;
                self.ids.insert(fact.id, ordinal);
                self.streams.push(fact);
                self.dictionaries.push(Dictionary::default());
            }
            Meta::Series(ordinal, series) => {
                let subject = self.share(Subject::decode(key, value)?);
                // Streams were read before: their keys come first.
                let dictionary = self.dictionaries.get_mut(ordinal as usize);
                dictionary.ok_or_else(|| missing(self.streams.len(), "streams"))?.insert(series, Arc::clone(&subject));
                self.note((ordinal, series), &subject);
            }
            Meta::Sealed(node) => {
                self.sealed.insert(node, SealedFact::decode(key, value)?.0);
            }
            Meta::Cut => self.cut = Cut::decode(key, value)?,
            Meta::Boot(node, boot) => {
                self.boots.insert((node, boot), BootFact::decode(key, value)?.0);
            }
            Meta::Entity(id) => {
                let entity = self.subjects.share_entity(Entity::decode(key, value)?);
                in_order(id, self.entities.len(), "entities")?;
                self.numbers.insert(entity.clone(), id);
                self.entities.push(entity);
            }
            Meta::Bridges(ordinal) => {
                let bridges = BridgesFact::decode(key, value)?.0;
                self.bridges.insert(ordinal, bridges.into_iter().map(|(series, at, v)| (series, (at, v))).collect());
            }
            Meta::Poller(number) => {
                let mut fact = PollerFact::decode(key, value)?;
                self.subjects.share_sources(&mut fact.inventory);
                in_order(number, self.pollers.len(), "pollers")?;
                // Nodes were read before: their keys come first.
                let node = self.node(&fact.inventory.node).ok_or_else(|| missing(self.nodes.len(), "nodes"))?;
                self.poller_numbers.insert((node, fact.name.clone()), number);
                self.pollers.push(Poller { node, fact, session: None });
            }
        }
        Ok(())
    }

    /// Number of a node.
    pub(crate) fn node(&self, name: &NodeName) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// Ordinal of a stream.
    pub(crate) fn stream(&self, id: StreamId) -> Option<u32> {
        self.ids.get(&id).copied()
    }

    /// The pods of each node's workloads.
    pub(crate) fn pods(&self) -> &BTreeMap<u32, Arc<NodePods>> {
        &self.pods
    }

    /// Whether a node ever told counts of a model of this name.
    pub(crate) fn has_served(&self, node: u32, model: &str) -> bool {
        let of_node = self.streams.iter().zip(&self.dictionaries).filter(|(stream, _)| stream.node == node);
        of_node.flat_map(|(_, dictionary)| dictionary.iter()).any(|(_, subject)| match &**subject {
            Subject::Count(service, _) => service.model.as_deref() == Some(model),
            _ => false,
        })
    }

    /// What a stream's series measures.
    pub(crate) fn subject(&self, ordinal: u32, series: u32) -> Option<Arc<Subject>> {
        self.dictionaries.get(ordinal as usize)?.get(series).cloned()
    }

    /// The series of a stream that are stored, ascending, and what they measure.
    pub(crate) fn series(&self, ordinal: u32) -> impl Iterator<Item = (u32, &Arc<Subject>)> {
        self.dictionaries.get(ordinal as usize).into_iter().flat_map(Dictionary::iter)
    }

    /// A description, as the one that is equal to it if there is one.
    pub(crate) fn share(&mut self, subject: Subject) -> Arc<Subject> {
        self.subjects.share(subject)
    }

    /// What cells name by this number.
    pub(crate) fn entity(&self, id: u32) -> Option<Entity> {
        self.entities.get(id as usize).cloned()
    }

    /// Number of what a cell names, if it has one.
    pub(crate) fn number(&self, entity: &Entity) -> Option<u32> {
        self.numbers.get(entity).copied()
    }

    /// Number of what a cell names; a new one is written.
    pub(crate) fn intern(&mut self, entity: Entity, writes: &mut Writes) -> u32 {
        if let Some(id) = self.numbers.get(&entity) {
            return *id;
        }
        let id = next(self.entities.len());
        let key = Meta::Entity(id).encode();
        writes.put(Table::Meta, key.clone(), entity.encode(&key));
        self.numbers.insert(entity.clone(), id);
        self.entities.push(entity);
        id
    }

    /// Sets what a node's agent says of it; a new node gets a number.
    pub(crate) fn put_node(
        &mut self,
        mut inventory: Inventory,
        epoch: u64,
        skew_nanos: i64,
        writes: &mut Writes,
    ) -> u32 {
        self.subjects.share_sources(&mut inventory);
        let number = match self.names.get(&inventory.node) {
            Some(number) => *number,
            None => {
                let number = next(self.nodes.len());
                self.names.insert(inventory.node.clone(), number);
                let fact = NodeFact { inventory: inventory.clone(), epoch, first_row: None, skew_nanos };
                self.nodes.push(Node { fact, session: None });
                number
            }
        };
        if let Some(node) = self.nodes.get_mut(number as usize) {
            node.fact.inventory = inventory;
            node.fact.epoch = epoch;
            node.fact.skew_nanos = skew_nanos;
        }
        self.write_node(number, writes);
        number
    }

    /// Sets what a poller says of a node's meters; what the node's agent says of the node stays. A node that no agent has
    /// spoken for yet is where its poller says it is.
    pub(crate) fn put_poller(
        &mut self,
        name: &PollerName,
        mut inventory: Inventory,
        epoch: u64,
        skew_nanos: i64,
        writes: &mut Writes,
    ) -> Speaker {
        self.subjects.share_sources(&mut inventory);
        let known = self.node(&inventory.node);
        let agent = known.filter(|number| self.nodes.get(*number as usize).is_some_and(|node| node.fact.epoch > 0));
        let node = agent.unwrap_or_else(|| {
            let (agent_version, hardware) = (String::new(), Hardware::default());
            let bare = Inventory { agent_version, sources: Vec::new(), hardware, ..inventory.clone() };
            self.put_node(bare, 0, 0, writes)
        });
        let fact = PollerFact { name: name.clone(), inventory, epoch, skew_nanos };
        let number = match self.poller_numbers.get(&(node, name.clone())) {
            Some(number) => *number,
            None => {
                let number = next(self.pollers.len());
                self.poller_numbers.insert((node, name.clone()), number);
                self.pollers.push(Poller { node, fact: fact.clone(), session: None });
                number
            }
        };
        let key = Meta::Poller(number).encode();
        writes.put(Table::Meta, key.clone(), fact.encode(&key));
        if let Some(poller) = self.pollers.get_mut(number as usize) {
            poller.fact = fact;
        }
        Speaker { node, poller: Some(number) }
    }

    /// Who speaks of a node, by names; none if the node or its poller is not known.
    pub(crate) fn speaker(&self, node: &NodeName, poller: Option<&PollerName>) -> Option<Speaker> {
        let node = self.node(node)?;
        let number = |poller: &PollerName| self.poller_numbers.get(&(node, poller.clone())).copied();
        match poller {
            None => Some(Speaker { node, poller: None }),
            Some(poller) => number(poller).map(|number| Speaker { node, poller: Some(number) }),
        }
    }

    /// Highest epoch of a speaker's sessions.
    pub(crate) fn epoch(&self, speaker: Speaker) -> u64 {
        match speaker.poller {
            None => self.nodes.get(speaker.node as usize).map_or(0, |node| node.fact.epoch),
            Some(number) => self.pollers.get(number as usize).map_or(0, |poller| poller.fact.epoch),
        }
    }

    /// A speaker's open session, if there is one.
    pub(crate) fn session(&mut self, speaker: Speaker) -> Option<&mut Option<u64>> {
        match speaker.poller {
            None => self.nodes.get_mut(speaker.node as usize).map(|node| &mut node.session),
            Some(number) => self.pollers.get_mut(number as usize).map(|poller| &mut poller.session),
        }
    }

    /// A session has ended: it is the speaker's no more.
    pub(crate) fn end_session(&mut self, speaker: Speaker, session: u64) {
        if let Some(open) = self.session(speaker) {
            *open = open.filter(|open| *open != session);
        }
    }

    /// Writes a node's record.
    pub(crate) fn write_node(&self, number: u32, writes: &mut Writes) {
        if let Some(node) = self.nodes.get(number as usize) {
            let key = Meta::Node(number).encode();
            writes.put(Table::Meta, key.clone(), node.fact.encode(&key));
        }
    }

    /// Binds a new stream to a speaker.
    pub(crate) fn add_stream(&mut self, id: StreamId, speaker: Speaker, writes: &mut Writes) -> u32 {
        let ordinal = next(self.streams.len());
        self.ids.insert(id, ordinal);
        let Speaker { node, poller } = speaker;
        self.streams.push(StreamFact { id, node, acked: 0, lost: 0, rejected: 0, last: None, clock: None, poller });
        self.dictionaries.push(Dictionary::default());
        self.write_stream(ordinal, writes);
        ordinal
    }

    /// Writes a stream's record.
    pub(crate) fn write_stream(&self, ordinal: u32, writes: &mut Writes) {
        if let Some(stream) = self.streams.get(ordinal as usize) {
            let key = Meta::Stream(ordinal).encode();
            writes.put(Table::Meta, key.clone(), stream.encode(&key));
        }
    }

    /// Adds a series to a stream's dictionary.
    pub(crate) fn put_series(&mut self, ordinal: u32, series: u32, subject: Arc<Subject>, writes: &mut Writes) {
        let key = Meta::Series(ordinal, series).encode();
        writes.put(Table::Meta, key.clone(), subject.encode(&key));
        self.note((ordinal, series), &subject);
        if let Some(dictionary) = self.dictionaries.get_mut(ordinal as usize) {
            dictionary.insert(series, subject);
        }
    }

    /// Takes what a series says of its node.
    fn note(&mut self, series: (u32, u32), subject: &Subject) {
        let Some(node) = self.streams.get(series.0 as usize).map(|stream| stream.node) else { return };
        match subject {
            Subject::Energy(source) if source.layer() == Some(Layer::Node) => drop(self.walls.insert(node)),
            Subject::CpuTime(workload) => {
                let is_new = match self.pods.get(&node) {
                    Some(pods) => pods.is_news(series, workload),
                    None => NodePods::default().is_news(series, workload),
                };
                if is_new {
                    // Who is answering has what was known when they asked.
                    Arc::make_mut(self.pods.entry(node).or_default()).note(series, workload);
                }
            }
            _ => {}
        }
    }

    /// How far around a cell of a node the rows reach that decide about it, in seconds.
    pub(crate) fn surroundings(&self, node: u32) -> i64 {
        if self.walls.contains(&node) { WALL_SURROUNDINGS_SECONDS } else { CELL_SURROUNDINGS_SECONDS }
    }

    /// The same in one direction, with what tells how late the meters at its input are.
    pub(crate) fn reach(&self, node: u32) -> i64 {
        let hours = if self.walls.contains(&node) { 2 * HOUR_SECONDS } else { 0 };
        self.surroundings(node) + hours
    }

    /// Rows around an instant have changed: its hour is to be sealed again.
    pub(crate) fn unseal(&mut self, node: u32, start: UnixNanos) {
        if let Some(until) = self.sealed.get_mut(&node) {
            *until = start.floor_to(SEALED_SECONDS).min(*until);
        }
    }

    /// Sets what the budget of the disk took.
    pub(crate) fn put_cut(&mut self, cut: Cut, writes: &mut Writes) {
        let key = Meta::Cut.encode();
        writes.put(Table::Meta, key.clone(), cut.encode(&key));
        self.cut = cut;
    }

    /// Sets where a boot's clock lies.
    pub(crate) fn put_boot(&mut self, node: u32, boot: BootId, offset: i64, writes: &mut Writes) {
        let key = Meta::Boot(node, boot).encode();
        writes.put(Table::Meta, key.clone(), BootFact(offset).encode(&key));
        self.boots.insert((node, boot), offset);
    }

    /// Sets the last points before a loss that are not joined yet; none removes the record.
    pub(crate) fn put_bridges(&mut self, ordinal: u32, bridges: Bridges, writes: &mut Writes) {
        let key = Meta::Bridges(ordinal).encode();
        if bridges.is_empty() {
            self.bridges.remove(&ordinal);
            writes.delete(Table::Meta, key);
            return;
        }
        let fact = BridgesFact(bridges.iter().map(|(series, (at, value))| (*series, *at, *value)).collect());
        writes.put(Table::Meta, key.clone(), fact.encode(&key));
        self.bridges.insert(ordinal, bridges);
    }

    /// First row ever of a node, and its last instant.
    pub(crate) fn span(&self, number: u32) -> (Option<UnixNanos>, Option<UnixNanos>) {
        let first = self.nodes.get(number as usize).and_then(|node| node.fact.first_row);
        (first, self.hours.last(number))
    }
}

fn next(length: usize) -> u32 {
    // 2³² nodes, streams or entities do not fit the memory that would list them.
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn in_order(number: u32, length: usize, what: &str) -> Result<(), StoreError> {
    if number as usize == length {
        return Ok(());
    }
    Err(missing(length, what))
}

fn missing(number: usize, what: &str) -> StoreError {
    StoreError::Damaged { what: format!("the table of {what}"), reason: format!("number {number} is missing") }
}

/// Visits every pair of a table until one fails.
fn each(
    store: &dyn Store,
    table: Table,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    // No key of these tables is longer, none begins with eight bytes of ones.
    store.scan(table, &[]..&[0xff; 64], Direction::Forward, &mut |key, value| {
        result = take(key, value);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Durability;
    use crate::store::memory::MemoryStore;
    use joulebook_units::{Placement, PodIdentity, Workload, WorkloadKind};

    fn inventory(name: &str) -> Inventory {
        Inventory {
            node: name.parse().expect("a name"),
            agent_version: String::new(),
            sources: Vec::new(),
            hardware: Hardware::default(),
            placement: Placement::default(),
        }
    }

    /// A catalog of two nodes with two streams of one series and a changed cell each, without one of its keys.
    fn without(key: Option<Vec<u8>>) -> Result<Option<Catalog>, StoreError> {
        let (store, mut writes) = (MemoryStore::new(), Writes::default());
        let mut catalog = Catalog::create([7; 16], &mut writes);
        for (number, node_name) in ["a", "b"].into_iter().enumerate() {
            let node = catalog.put_node(inventory(node_name), 1, 0, &mut writes);
            catalog.add_stream(StreamId([number as u8; 16]), Speaker { node, poller: None }, &mut writes);
            let name = "outside".parse().expect("a name");
            let poller = catalog.put_poller(&name, inventory(node_name), 1, 0, &mut writes);
            let outside = catalog.add_stream(StreamId([9 + number as u8; 16]), poller, &mut writes);
            catalog.put_series(outside, u32::MAX, Arc::new(Subject::NodeMemoryUsed), &mut writes);
            let key = key::cell(node, UnixNanos(0));
            writes.put(Table::Dirty, key, MarkFact(1).encode(&key));
        }
        if let Some(key) = key {
            writes.delete(Table::Meta, key);
        }
        store.commit(writes, Durability::Synced).expect("memory does not fail");
        Catalog::load(&store)
    }

    #[test]
    fn a_node_is_where_its_poller_says_until_its_agent_speaks() {
        let (mut writes, mut catalog) = (Writes::default(), Catalog::default());
        let at = |site: &str| Inventory {
            placement: Placement { site: Some(site.to_owned()), ..Placement::default() },
            ..inventory("a")
        };
        let site = |catalog: &Catalog| catalog.nodes[0].fact.inventory.placement.site.clone();
        let name: PollerName = "outside".parse().expect("a name");
        for place in ["one", "two"] {
            catalog.put_poller(&name, at(place), 1, 0, &mut writes);
            assert_eq!(site(&catalog).as_deref(), Some(place));
        }
        catalog.put_node(at("three"), 1, 0, &mut writes);
        catalog.put_poller(&name, at("four"), 2, 0, &mut writes);
        assert_eq!(site(&catalog).as_deref(), Some("three"));
        assert_eq!((catalog.nodes.len(), catalog.pollers.len()), (1, 1));
    }

    #[test]
    fn pods_are_kept_as_series_come_and_a_database_that_is_opened_again_has_the_same() {
        let (store, mut writes) = (MemoryStore::new(), Writes::default());
        let mut catalog = Catalog::create([7; 16], &mut writes);
        let node = catalog.put_node(inventory("a"), 1, 0, &mut writes);
        let stream = catalog.add_stream(StreamId([1; 16]), Speaker { node, poller: None }, &mut writes);
        let mut tell = |catalog: &mut Catalog, series, name: &str| {
            let (namespace, name) = ("chat".to_owned(), name.to_owned());
            let pod = Some(PodIdentity { namespace, name, ..PodIdentity::default() });
            let workload = Workload { pod, ..Workload::bare("container/a", WorkloadKind::Container, "a") };
            catalog.put_series(stream, series, Arc::new(Subject::CpuTime(workload.into())), &mut writes);
        };
        tell(&mut catalog, 1, "first");
        let asked = catalog.pods().clone();
        tell(&mut catalog, 3, "last");
        tell(&mut catalog, 2, "between");
        let name = |pods: &BTreeMap<u32, Arc<NodePods>>| {
            pods[&node].get("container/a").flatten().map(|pod| pod.name.clone()).expect("a pod")
        };
        assert_eq!((name(&asked), name(catalog.pods())), ("first".to_owned(), "last".to_owned()));
        let unchanged = catalog.pods().clone();
        assert!(Arc::ptr_eq(&unchanged[&node], &catalog.pods()[&node]), "a question copies no workload");
        store.commit(writes, Durability::Synced).expect("memory does not fail");
        let again = Catalog::load(&store).expect("whole").expect("there");
        assert_eq!(again.pods(), catalog.pods());
    }

    #[test]
    fn a_node_or_stream_that_others_refer_to_and_that_is_gone_is_damage() {
        let whole = without(None).expect("whole").expect("there");
        assert_eq!((whole.dirty.len(), whole.subject(3, u32::MAX).as_deref()), (2, Some(&Subject::NodeMemoryUsed)));
        for lost in [Meta::Node(0), Meta::Node(1), Meta::Stream(0), Meta::Stream(3), Meta::Poller(0), Meta::Poller(1)] {
            assert!(matches!(without(Some(lost.encode())), Err(StoreError::Damaged { .. })), "{lost:?}");
        }
    }
}
