//! From a window to allocated slots: settled cells where they are clean and whole, rows everywhere else.

mod beside;
pub mod digest;
mod stored;

use super::QueryError;
use super::layer::Nodes;
use crate::directory::Directories;
use crate::factor::impact::ImpactSeries;
use crate::factor::{Asked, EmbodiedFacts, Factors, IntensityCell, IntensityProvenance, OutOfService, PueCell};
use crate::ledger::cell_from_rows;
use crate::memory::Question;
use crate::store::cut::Cut;
use crate::store::{Book, CELL_SURROUNDINGS_SECONDS, NodePods, NodeRecord, Resolution};
use joulebook_sci::group::regroup;
use joulebook_sci::impact::{ImpactFactors, Impacts};
use joulebook_sci::reconcile::{Model, Trust, estimate, scale_to_wall};
use joulebook_sci::{Cell, Flags, ModelVersion, NodeSlot, SiteFactors, SlotTerm};
use joulebook_units::{Service, UnixNanos, Window};
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stored::Stored;

/// Rows are held this long: younger windows are answered to the second.
pub const ROWS_HELD_SECONDS: i64 = 7 * 86_400;
/// Minute cells are held this long.
const MINUTES_HELD_SECONDS: i64 = 90 * 86_400;
const DAY_SECONDS: i64 = 86_400;
/// How far back a wall teaches what the platform draws without one, in days.
const LEARNED_DAYS: i64 = 7;
/// Cells after which the memory is looked at.
const LOOK_AFTER: usize = 1_024;
/// Label that names the pool of a node whose configuration names none.
const POOL_LABEL: &str = "joulebook.io/pool";
/// The pool of nodes of which neither names one.
const DEFAULT_POOL: &str = "default";

/// Factors of one site over a window.
#[derive(Clone)]
pub struct Site {
    /// Intensity, cell by cell, without hole.
    pub intensity: Vec<IntensityCell>,
    /// The place of each cell's origin among [`Gathered::origins`].
    origins: Vec<usize>,
    /// PUE, cell by cell, without hole.
    pub pue: Vec<PueCell>,
    /// Factors beside carbon.
    impacts: ImpactSeries,
    /// The places of the origins, each once.
    pub seen: BTreeSet<usize>,
    /// When the newest of intensity and PUE was recorded, if one comes out of a series.
    pub revision: Option<UnixNanos>,
}

impl Site {
    fn new((intensity, origins): (Vec<IntensityCell>, Vec<usize>), pue: Vec<PueCell>, impacts: ImpactSeries) -> Self {
        let seen = origins.iter().copied().collect();
        let recorded = intensity.iter().filter_map(|cell| cell.revision);
        let revision = recorded.chain(pue.iter().filter_map(|cell| cell.revision)).max();
        Self { intensity, origins, pue, impacts, seen, revision }
    }
}

/// The pods of every node's workloads, by its name.
pub type Pods = BTreeMap<String, Arc<NodePods>>;

/// A node and what its making cost.
#[derive(Clone)]
pub struct Member {
    /// The node.
    pub record: NodeRecord,
    /// Embodied carbon of its parts.
    pub embodied: EmbodiedFacts,
    /// When it was out of service, and why.
    pub out_of_service: Vec<OutOfService>,
}

impl Member {
    /// Whether it is out of service at the begin of a window, which no edge cuts that may.
    fn is_out(&self, window: Window) -> bool {
        self.out_of_service.iter().any(|out| out.window.start() <= window.start() && window.start() < out.window.end())
    }
}

/// One slot, ready for allocation.
pub struct Slot {
    /// When.
    pub window: Window,
    /// The nodes' cells.
    pub nodes: Vec<NodeSlot>,
    /// Their factors, in the same order.
    pub factors: Vec<SiteFactors>,
    /// Their sites, in the same order; "" without one.
    pub sites: Vec<String>,
    /// Where their PUEs come from, in the same order.
    pub pues: Vec<PueOrigin>,
    /// Their factors beside carbon, in the same order.
    pub impacts: Vec<ImpactFactors>,
}

impl Slot {
    /// Adds the impacts of versions' terms at facility level.
    pub fn add_impacts(&self, terms: &BTreeMap<ModelVersion, Vec<SlotTerm>>, to: &mut Impacts) {
        for (version, term) in terms.iter().flat_map(|(version, terms)| terms.iter().map(move |term| (version, term))) {
            let at = term.node;
            if let (Some(node), Some(site), Some(factors)) =
                (self.nodes.get(at), self.factors.get(at), self.impacts.get(at))
            {
                to.add(version, term, (node, site, factors));
            }
        }
    }
}

/// Where a PUE comes from: source and granularity.
pub type PueOrigin = (String, &'static str);
/// Those of each site, by its name.
pub type PueOrigins = BTreeMap<String, BTreeSet<PueOrigin>>;

/// What holds when a question is asked.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// The instant.
    pub now: UnixNanos,
    /// The labels of nodes.
    pub labels: &'a Directories,
    /// What it may take.
    pub memory: Question,
}

/// A question's material: nodes, factors and the window as it can be answered.
pub struct Gathered<'a> {
    book: &'a Book,
    stored: Stored<'a>,
    known: Arc<Factors>,
    /// The window, cut to what is held.
    pub window: Window,
    /// Seconds to which it was cut.
    pub resolution_seconds: i64,
    /// The nodes.
    pub members: Vec<Member>,
    /// Factors by site name; nodes without a site have "".
    pub sites: BTreeMap<String, Site>,
    /// Where the sites' intensities come from, each once.
    pub origins: Vec<IntensityProvenance>,
    dirty: BTreeMap<u32, BTreeSet<UnixNanos>>,
    /// Where slots are cut beside the grid, ascending: wherever a factor changes. Looked for when a slot is asked for, which
    /// an answer out of sums hardly does.
    edges: OnceCell<Vec<UnixNanos>>,
    /// What was learned of a node's platform up to the end of a day, if anything.
    models: RefCell<BTreeMap<(u32, UnixNanos), Option<Model>>>,
    /// Whether a cell was made with what other cells teach.
    learned: std::cell::Cell<bool>,
    now: UnixNanos,
    /// What the budget of the disk took.
    pub cut: Cut,
    memory: Question,
    /// Cells that were read since the memory was looked at.
    unseen: std::cell::Cell<usize>,
}

impl<'a> Gathered<'a> {
    /// Gathers a window that was asked at `now`.
    ///
    /// # Errors
    /// The store's; [`QueryError::Factor`] when a factor is missing.
    pub fn new(
        book: &'a Book,
        factors: &Arc<Factors>,
        asked: Window,
        which: Asked,
        present: Present<'_>,
    ) -> Result<Self, QueryError> {
        Self::with(book, factors, asked, Some(which), present)
    }

    /// The same for a question about energy alone: no factor is looked up, and none cuts a slot.
    ///
    /// # Errors
    /// The store's.
    pub fn of_energy(
        book: &'a Book,
        factors: &Arc<Factors>,
        asked: Window,
        present: Present<'_>,
    ) -> Result<Self, QueryError> {
        Self::with(book, factors, asked, None, present)
    }

    fn with(
        book: &'a Book,
        factors: &Arc<Factors>,
        asked: Window,
        which: Option<Asked>,
        Present { now, labels, memory }: Present<'_>,
    ) -> Result<Self, QueryError> {
        let unlabelled = BTreeMap::new();
        let cut = book.cut();
        let resolution_seconds = held_seconds(&cut, now, asked.start());
        let window = Window::new(asked.start().floor_to(resolution_seconds), asked.end().ceil_to(resolution_seconds));
        let window = window.ok_or_else(|| QueryError::Invalid("the window ends before it starts".to_owned()))?;
        let nodes = book.nodes();
        let mut gathered = Self {
            book,
            stored: Stored::new(book, (nodes.len(), window), memory.memory()),
            known: Arc::clone(factors),
            window,
            resolution_seconds,
            members: vec![],
            sites: BTreeMap::new(),
            origins: vec![],
            dirty: BTreeMap::new(),
            edges: OnceCell::new(),
            models: RefCell::default(),
            learned: std::cell::Cell::default(),
            now,
            cut,
            memory,
            unseen: std::cell::Cell::new(0),
        };
        for mut record in nodes {
            let labels = labels.of(&record.inventory.node).map(|told| &told.node_labels).unwrap_or(&unlabelled);
            let placement = &mut record.inventory.placement;
            placement.site = placement.site.take().or_else(|| factors.site_by_labels(labels));
            placement.pool = placement.pool.take().or_else(|| labels.get(POOL_LABEL).cloned());
            let site = site_name(&record);
            if let Some(which) = which
                && !gathered.sites.contains_key(&site)
            {
                let name = (!site.is_empty()).then_some(site.as_str());
                let intensity = factors.intensity(name, window, which, book)?;
                let pue = factors.pue(name, window, which.as_of, book)?;
                let origins = gathered.origins_of(&intensity);
                let impacts = factors.impacts(name, window, which.as_of, book)?;
                gathered.sites.insert(site, Site::new((intensity, origins), pue, impacts));
            }
            gathered.dirty.insert(record.number, book.is_dirty(record.number, window));
            let inventory = &record.inventory;
            let embodied = factors.embodied_of(inventory.node.as_str(), labels, &inventory.hardware);
            let out_of_service = factors.out_of_service(inventory.node.as_str(), window);
            gathered.members.push(Member { record, embodied, out_of_service });
        }
        Ok(gathered)
    }

    /// The place of an origin, which is noted if it is new.
    fn origin(&mut self, of: &IntensityProvenance) -> usize {
        self.origins.iter().position(|known| known == of).unwrap_or_else(|| {
            self.origins.push(of.clone());
            self.origins.len() - 1
        })
    }

    /// The places of the origins of a site's intensities.
    fn origins_of(&mut self, intensity: &[IntensityCell]) -> Vec<usize> {
        let mut origins = Vec::with_capacity(intensity.len());
        for together in intensity.chunk_by(|one, next| Arc::ptr_eq(&one.provenance, &next.provenance)) {
            let place = together.first().map(|cell| self.origin(&cell.provenance));
            origins.extend(place.into_iter().flat_map(|place| together.iter().map(move |_| place)));
        }
        origins
    }

    /// The slots of the window: 300 s, cut at its edges and wherever a factor changes.
    pub fn windows(&self) -> Vec<Window> {
        self.windows_of(self.window)
    }

    /// The same of a part of it.
    pub fn windows_of(&self, part: Window) -> Vec<Window> {
        let edges = self.edges.get_or_init(|| self.edges());
        let mut windows = Vec::new();
        for slot in part.slots(Resolution::Settled.seconds()) {
            let mut start = slot.start();
            let first = edges.partition_point(|edge| *edge < start);
            let inside = edges.iter().skip(first).copied().take_while(|edge| *edge < slot.end());
            for edge in inside.chain([slot.end()]) {
                if let Some(part) = Window::new(start, edge).filter(|part| !part.is_empty()) {
                    windows.push(part);
                }
                start = edge;
            }
        }
        windows
    }

    fn edges(&self) -> Vec<UnixNanos> {
        let edges = self.sites.values().flat_map(|site| {
            let intensity = site.intensity.iter().map(|cell| cell.window);
            let cells = intensity.chain(site.pue.iter().map(|cell| cell.window));
            cells.flat_map(|w| [w.start(), w.end()]).chain(site.impacts.edges())
        });
        let out = self.members.iter().flat_map(|member| &member.out_of_service);
        let edges = edges.chain(out.flat_map(|out| [out.window.start(), out.window.end()]));
        // Where only cells are left, one of them is not cut: what is in force at its begin is for all of it.
        let mut edges: Vec<UnixNanos> = edges.map(|edge| edge.floor_to(self.held_seconds(edge))).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// Length in seconds of the finest cells that are held from an instant on.
    fn held_seconds(&self, from: UnixNanos) -> i64 {
        held_seconds(&self.cut, self.now, from)
    }

    /// One slot. Nodes of which nothing is known in it are left out.
    ///
    /// # Errors
    /// The store's; [`QueryError::Factor`] when a factor does not cover the slot, [`QueryError::Spent`] when memory does not.
    pub fn slot(&self, window: Window, trust: Trust) -> Result<Slot, QueryError> {
        self.look_at_memory()?;
        let mut slot = Slot { window, nodes: vec![], factors: vec![], sites: vec![], pues: vec![], impacts: vec![] };
        for member in &self.members {
            let Some(mut node) = self.node(member, window, trust)? else { continue };
            let (factors, pue) = self.factors(member, window)?;
            slot.factors.push(factors);
            slot.pues.push(pue);
            slot.sites.push(site_name(&member.record));
            let made = member.embodied.accrue(window, node.cell.expected_nanos);
            if made.fully_amortised {
                node.cell.flags.insert(Flags::FULLY_AMORTISED);
            }
            slot.impacts.push(self.impacts(member, window, node.cell.expected_nanos));
            slot.nodes.push(NodeSlot { embodied_g: made.grams.0, ..node });
        }
        regroup(&mut slot.nodes, self.book.output_weight());
        let measured = Nodes { window, nodes: &slot.nodes, sites: &slot.sites }.measured_pue();
        for ((site, factors), origin) in slot.sites.iter().zip(&mut slot.factors).zip(&mut slot.pues) {
            if let Some(pue) = measured.get(site) {
                (factors.pue, factors.pue_half_width) = (pue.value, pue.half_width);
                factors.pue_source = format!("pue:{}", pue.source);
                *origin = (pue.source.clone(), "measured");
            }
        }
        Ok(slot)
    }

    /// The nodes of one slot and their sites without any factor: no grams of making them. Nodes of which nothing is known in
    /// it are left out.
    ///
    /// # Errors
    /// The store's.
    pub fn energy_slot(&self, window: Window, trust: Trust) -> Result<(Vec<NodeSlot>, Vec<String>), QueryError> {
        self.look_at_memory()?;
        let (mut nodes, mut sites) = (Vec::new(), Vec::new());
        for member in &self.members {
            if let Some(node) = self.node(member, window, trust)? {
                nodes.push(node);
                sites.push(site_name(&member.record));
            }
        }
        regroup(&mut nodes, self.book.output_weight());
        Ok((nodes, sites))
    }

    /// A node in one slot, without grams; `None` where nothing is known of it.
    fn node(&self, member: &Member, window: Window, trust: Trust) -> Result<Option<NodeSlot>, QueryError> {
        let dirty = self.dirty.get(&member.record.number);
        let mut cell = self.cell(&member.record, window, dirty)?;
        let hardware = &member.record.inventory.hardware;
        cell.set_expected(window, member.record.first_row, hardware.threads, hardware.accelerators.len());
        if cell.is_empty() {
            return Ok(None);
        }
        let model = match cell.flags.contains(Flags::PSU_ESTIMATED) {
            true => self.model(&member.record, window.start())?,
            false => None,
        };
        estimate(&mut cell, model.as_ref());
        if trust == Trust::Wall {
            scale_to_wall(&mut cell);
        }
        if member.is_out(window) {
            cell.flags.insert(Flags::OUT_OF_SERVICE);
        }
        Ok(Some(NodeSlot {
            node: member.record.inventory.node.to_string(),
            pool: pool_name(&member.record),
            simulated: member.record.inventory.placement.simulated,
            support: member.record.inventory.placement.support.clone(),
            cell,
            embodied_g: 0.0,
        }))
    }

    /// When the question was asked.
    pub fn now(&self) -> UnixNanos {
        self.now
    }

    /// Whether the cells of a window are settled, no row came to them since, and none is cut, which it is only for a time.
    pub fn is_clean(&self, window: Window) -> bool {
        let first = window.start().floor_to(Resolution::Minute.seconds());
        let is_settled = self.dirty.values().all(|dirty| dirty.range(first..window.end()).next().is_none());
        let cuts = |part: &Window| part.start().floor_to(Resolution::Settled.seconds()) != part.start();
        is_settled && !self.windows_of(window).iter().skip(1).any(cuts)
    }

    /// Whether a cell was made with what others teach since this was asked last.
    pub fn take_learned(&self) -> bool {
        self.learned.take()
    }

    /// When a node is declared out of service, inside the window or not.
    pub fn out_of_service(&self, member: &Member) -> Vec<Window> {
        let ever = Window::new(UnixNanos(i64::MIN), UnixNanos(i64::MAX));
        let declared = ever.map(|ever| self.known.out_of_service(member.record.inventory.node.as_str(), ever));
        declared.into_iter().flatten().map(|out| out.window).collect()
    }

    /// How far around a cell of a node the rows reach that decide about it, in seconds.
    pub fn surroundings(&self, node: &NodeRecord) -> i64 {
        self.book.surroundings(node.number)
    }

    /// The pods of each node's workloads.
    pub fn pods(&self) -> Pods {
        let mut known = self.book.pods();
        let of_member = |member: &Member| {
            let record = &member.record;
            Some((record.inventory.node.to_string(), known.remove(&record.number)?))
        };
        self.members.iter().filter_map(of_member).collect()
    }

    /// Looks now and then whether there is room for the cells of another slot.
    fn look_at_memory(&self) -> Result<(), QueryError> {
        let unseen = self.unseen.get() + self.members.len();
        if unseen < LOOK_AFTER {
            self.unseen.set(unseen);
            return Ok(());
        }
        self.unseen.set(0);
        Ok(self.memory.check()?)
    }

    /// Whether a node ever told counts of a model of this name.
    pub fn has_served(&self, node: &NodeRecord, model: &str) -> bool {
        self.book.has_served(node.number, model)
    }

    /// The services of a name whose counts of a slot are known.
    ///
    /// # Errors
    /// The store's.
    pub fn counted(&self, node: &NodeRecord, slot: Window, model: &str) -> Result<Vec<Arc<Service>>, QueryError> {
        let cell = self.cell(node, slot, self.dirty.get(&node.number))?;
        let counted = cell.services.into_iter().filter(|(_, used)| used.counted_nanos > 0 || !used.counts.is_empty());
        Ok(counted.map(|(service, _)| service).filter(|service| service.model.as_deref() == Some(model)).collect())
    }

    /// What is learned of a node's platform for an instant: from its settled cells of the same day (UTC) and, while too few
    /// of them have a wall, of the days before, a week at most. The same for every question about that day.
    fn model(&self, node: &NodeRecord, at: UnixNanos) -> Result<Option<Model>, QueryError> {
        if self.book.surroundings(node.number) == CELL_SURROUNDINGS_SECONDS {
            // It never had a wall.
            return Ok(None);
        }
        self.learned.set(true);
        let mut end = at.floor_to(DAY_SECONDS).plus_seconds(DAY_SECONDS);
        let last = end.plus_seconds(-LEARNED_DAYS * DAY_SECONDS);
        while end > last {
            let known = self.models.borrow().get(&(node.number, end)).copied();
            let model = match known {
                Some(model) => model,
                None => {
                    let model = self.learn(node, end)?;
                    self.models.borrow_mut().insert((node.number, end), model);
                    model
                }
            };
            if model.is_some() {
                return Ok(model);
            }
            end = end.plus_seconds(-DAY_SECONDS);
        }
        Ok(None)
    }

    /// What the settled cells of the day that ends at `end` teach.
    fn learn(&self, node: &NodeRecord, end: UnixNanos) -> Result<Option<Model>, QueryError> {
        let first =
            end.plus_seconds(-DAY_SECONDS).max(node.first_row.unwrap_or(end)).floor_to(Resolution::Settled.seconds());
        let Some(day) = Window::new(first, end.min(self.now).max(first)) else { return Ok(None) };
        let dirty = self.book.is_dirty(node.number, day);
        let mut cells = Vec::new();
        for slot in day.slots(Resolution::Settled.seconds()) {
            cells.push(self.cell(node, slot, Some(&dirty))?);
        }
        Ok(Model::fit(cells.iter()))
    }

    /// A node's cell of any window: stored sums where nothing under them is open or dirty, else rows.
    fn cell(&self, node: &NodeRecord, window: Window, dirty: Option<&BTreeSet<UnixNanos>>) -> Result<Cell, QueryError> {
        let clean = |part: Window| dirty.is_none_or(|dirty| dirty.range(part.start()..part.end()).next().is_none());
        let whole = |part: Window, resolution: Resolution| {
            part.start().floor_to(resolution.seconds()) == part.start()
                && part.end() == part.start().plus_seconds(resolution.seconds())
        };
        if whole(window, Resolution::Settled)
            && clean(window)
            && let Some(cell) = self.stored.cell(node.number, Resolution::Settled, window.start())?
        {
            return Ok(cell);
        }
        let mut sum = Cell::default();
        // Neighbouring minutes that are not stored are read for together.
        let mut unsettled: Option<Window> = None;
        for part in window.slots(Resolution::Minute.seconds()) {
            let stored = match whole(part, Resolution::Minute) && clean(part) {
                true => self.stored.cell(node.number, Resolution::Minute, part.start())?,
                false => None,
            };
            if let Some(cell) = &stored {
                sum.merge(cell);
            }
            let open = unsettled.take();
            unsettled = match stored {
                None => Window::new(open.map_or(part.start(), Window::start), part.end()),
                Some(_) => None,
            };
            if let (Some(open), None) = (open, unsettled) {
                sum.merge(&cell_from_rows(self.book, node, open)?);
            }
        }
        if let Some(open) = unsettled {
            sum.merge(&cell_from_rows(self.book, node, open)?);
        }
        Ok(sum)
    }

    /// Factors beside carbon of a node: those of its site, and of making its hardware.
    fn impacts(&self, member: &Member, window: Window, nanos: u64) -> ImpactFactors {
        let site = self.sites.get(&site_name(&member.record));
        let mut factors = site.map(|site| site.impacts.at(window)).unwrap_or_default();
        factors.0.extend(self.known.hardware_impacts(nanos).0);
        factors
    }

    fn factors(&self, member: &Member, window: Window) -> Result<(SiteFactors, PueOrigin), QueryError> {
        let name = site_name(&member.record);
        let missing = |what: &str| {
            QueryError::Factor(format!("no {what} covers the window at site `{name}`; set one in [site.{name}]"))
        };
        let site = self.sites.get(&name).ok_or_else(|| missing("factor"))?;
        // In order and without hole: the first that has not ended.
        let at = site.intensity.partition_point(|cell| cell.window.end() <= window.start());
        let intensity = site.intensity.get(at).ok_or_else(|| missing("intensity"))?;
        let origin = site.origins.get(at).copied().ok_or_else(|| missing("intensity"))?;
        let pue = site.pue.partition_point(|cell| cell.window.end() <= window.start());
        let pue = site.pue.get(pue).ok_or_else(|| missing("PUE"))?;
        let provenance = &intensity.provenance;
        let factors = SiteFactors {
            intensity: intensity.value,
            intensity_origin: origin,
            intensity_half_width: provenance.uncertainty,
            intensity_source: format!("intensity:{}:{}", provenance.source, provenance.zone),
            pue: pue.value,
            pue_half_width: pue.uncertainty,
            pue_source: format!("pue:{}", pue.source),
            embodied_half_width: member.embodied.uncertainty,
            embodied_source: format!("te:{}", member.embodied.te_source),
        };
        Ok((factors, (pue.source.clone(), pue.granularity)))
    }
}

/// Length in seconds of the finest cells that are held at `now` from an instant on: 1 where there are rows.
fn held_seconds(cut: &Cut, now: UnixNanos, from: UnixNanos) -> i64 {
    let age = now.nanos_since(from);
    let older_than = |seconds: i64| age > u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000);
    let seconds = match () {
        () if older_than(MINUTES_HELD_SECONDS) => Resolution::Settled.seconds(),
        () if older_than(ROWS_HELD_SECONDS) => Resolution::Minute.seconds(),
        () => 1,
    };
    seconds.max(cut.finest(from))
}

/// Name of a node's site; "" without one.
pub fn site_name(record: &NodeRecord) -> String {
    record.inventory.placement.site.clone().unwrap_or_default()
}

/// Name of a node's pool.
pub fn pool_name(record: &NodeRecord) -> String {
    record.inventory.placement.pool.clone().unwrap_or_else(|| DEFAULT_POOL.to_owned())
}
