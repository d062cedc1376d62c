//! The ledgers of a family of pools over time, and what a version's units carry in a window.

use super::disclosure::{Disclosure, RemainderName};
use super::{Event, Pool, TrainingError, parents};
use crate::ledger::cell_from_rows;
use crate::store::{Book, NodeRecord, Resolution, StoreError};
use joulebook_sci::Cell;
use joulebook_sci::training::ledger::{Account, Booked, Stretch, Terms, book as book_ledger};
use joulebook_sci::training::lineage::{Parent, draws_on};
use joulebook_units::{GramsCo2e, Service, UnixNanos, Window};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const HOUR_SECONDS: i64 = 3600;
/// Sums of an hour are settled so long after its end.
const SETTLED_AFTER_SECONDS: i64 = 2 * HOUR_SECONDS;

/// Counts what versions served, out of stored cells; rows where those are not settled yet.
pub struct Served<'a> {
    book: &'a Book,
    nodes: Vec<NodeRecord>,
    now: UnixNanos,
    known: RefCell<BTreeMap<(String, UnixNanos, UnixNanos), f64>>,
}

impl<'a> Served<'a> {
    /// Of all nodes, at `now`.
    pub fn new(book: &'a Book, now: UnixNanos) -> Self {
        Self { book, nodes: book.nodes(), now, known: RefCell::default() }
    }

    /// When the first row of any node was.
    fn first(&self) -> Option<UnixNanos> {
        self.nodes.iter().filter_map(|node| node.first_row).min()
    }

    /// Units of a disclosed version in a window: those that its engines told.
    fn units(&self, of: &Disclosure, window: Window) -> Result<f64, StoreError> {
        let key = (of.pool.clone(), window.start(), window.end());
        if let Some(known) = self.known.borrow().get(&key) {
            return Ok(*known);
        }
        let mut sum = 0.0;
        for node in &self.nodes {
            let (Some(first), Some(last)) = (node.first_row, node.last_row) else { continue };
            let there = Window::new(first, last.plus_seconds(1));
            let Some(inside) = there.and_then(|there| there.intersect(window)) else { continue };
            sum += self.on(node, of, inside)?;
        }
        self.known.borrow_mut().insert(key, sum);
        Ok(sum)
    }

    fn on(&self, node: &NodeRecord, of: &Disclosure, window: Window) -> Result<f64, StoreError> {
        let count = |cell: &Cell| units_of(of, cell);
        let settled = self.now.plus_seconds(-SETTLED_AFTER_SECONDS).floor_to(HOUR_SECONDS);
        let hours = Window::new(window.start().ceil_to(HOUR_SECONDS), window.end().floor_to(HOUR_SECONDS).min(settled));
        let Some(hours) = hours.filter(|hours| !hours.is_empty()) else { return self.part(node, of, window) };
        let dirty: BTreeSet<UnixNanos> =
            self.book.is_dirty(node.number, hours).into_iter().map(|cell| cell.floor_to(HOUR_SECONDS)).collect();
        let cells = self.book.cells(node.number, Resolution::Hour, hours)?;
        let mut sum: f64 = cells.iter().filter(|(start, _)| !dirty.contains(start)).map(|(_, cell)| count(cell)).sum();
        for start in dirty {
            if let Some(hour) = Window::new(start, start.plus_seconds(HOUR_SECONDS)) {
                sum += self.part(node, of, hour)?;
            }
        }
        for edge in [Window::new(window.start(), hours.start()), Window::new(hours.end(), window.end())] {
            if let Some(edge) = edge.filter(|edge| !edge.is_empty()) {
                sum += self.part(node, of, edge)?;
            }
        }
        Ok(sum)
    }

    /// A part of an hour or more: from rows, or from the settled cells that begin in it where rows are held no more.
    fn part(&self, node: &NodeRecord, of: &Disclosure, window: Window) -> Result<f64, StoreError> {
        if window.start() < self.book.cut().oldest_row(self.now) {
            let cells = self.book.cells(node.number, Resolution::Settled, window)?;
            return Ok(cells.iter().map(|(_, cell)| units_of(of, cell)).sum());
        }
        Ok(units_of(of, &cell_from_rows(self.book, node, window)?))
    }
}

/// Whether a service serves the disclosed version.
fn serves(of: &Disclosure, service: &Service) -> bool {
    let weights = of.weights.as_deref();
    service.model.as_deref() == Some(&of.model)
        && service.version.as_deref() == Some(&of.version)
        && (weights.is_none() || service.fingerprint.as_deref() == weights)
}

fn units_of(of: &Disclosure, cell: &Cell) -> f64 {
    let used = cell.services.iter().filter(|(service, _)| serves(of, service)).map(|(_, used)| used);
    used.filter_map(|used| of.count(used)).sum()
}

/// What the units of one version carry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Share {
    /// Grams per unit in the window.
    pub per_unit_g: f64,
    /// Of them, those of each pool that they draw on.
    pub by_pool_g: BTreeMap<String, f64>,
    /// The ledgers that they draw on: pool, weight and account.
    pub ledgers: Vec<(String, f64, Account)>,
    /// Ancestors of which nothing is disclosed.
    pub undisclosed: Vec<String>,
}

/// Pools with what they served.
pub struct Family<'a> {
    pools: &'a BTreeMap<String, Pool>,
    served: Served<'a>,
}

impl<'a> Family<'a> {
    /// Of all pools that are known.
    pub fn new(pools: &'a BTreeMap<String, Pool>, served: Served<'a>) -> Self {
        Self { pools, served }
    }

    /// The pool of a version, if one is disclosed; those of several disclosures that contradict each other.
    pub fn of(&self, model: &str, version: &str, weights: Option<&str>) -> Vec<(&'a str, &'a Disclosure)> {
        let disclosed = self.pools.iter().filter_map(|(name, pool)| Some((name.as_str(), pool.disclosure()?)));
        let fits = |of: &Disclosure| {
            let same = of.model == model && of.version == version;
            same && (of.weights.is_none() || of.weights.as_deref() == weights)
        };
        disclosed.filter(|(_, disclosure)| fits(disclosure)).collect()
    }

    /// Whether T and N of a pool are a guess of the user.
    pub fn assumed(&self, pool: &str) -> bool {
        self.pools.get(pool).and_then(Pool::disclosure).is_some_and(|disclosure| disclosure.assumed)
    }

    /// Pools that a unit of `pool` draws on have its unit: one allocation for all.
    ///
    /// # Errors
    /// A family that makes no sense.
    pub fn consistent(&self, pool: &str) -> Result<bool, TrainingError> {
        let of = |name: &str| self.pools.get(name).and_then(Pool::disclosure);
        let drawn = draws_on(pool, &parents(self.pools)?)?;
        let same = |name: &String| of(name).zip(of(pool)).is_some_and(|(one, other)| one.counts_as(other));
        Ok(drawn.keys().all(same))
    }

    /// What a unit of `pool` carries in a window.
    ///
    /// # Errors
    /// The store's, or a family that makes no sense.
    pub fn share(&self, pool: &str, window: Window) -> Result<Share, TrainingError> {
        let above = parents(self.pools)?;
        let drawn = self.draws(pool, &above)?;
        let mut share = Share::default();
        for (name, weight) in drawn {
            let (account, asked) = self.account(&name, window, &mut BTreeSet::new())?;
            let grams = per_unit(account.stretches.get(asked).unwrap_or_default()) * weight;
            share.per_unit_g += grams;
            share.by_pool_g.insert(name.clone(), grams);
            share.ledgers.push((name, weight, account));
        }
        let named = share.ledgers.iter().filter_map(|(name, ..)| above.get(name)).flatten();
        let unknown: BTreeSet<&str> =
            named.map(|parent| parent.pool.as_str()).filter(|parent| !above.contains_key(*parent)).collect();
        share.undisclosed = unknown.into_iter().map(str::to_owned).collect();
        Ok(share)
    }

    /// The ledgers that a unit of `pool` draws on, each with its weight: what joined another has none.
    fn draws(&self, pool: &str, above: &BTreeMap<String, Vec<Parent>>) -> Result<BTreeMap<String, f64>, TrainingError> {
        let mut drawn = draws_on(pool, above)?;
        drawn.retain(|name, _| self.pools.get(name).and_then(Pool::joined).is_none());
        Ok(drawn)
    }

    /// The pool whose ledger holds that of `name`: itself, or the one that it joined.
    fn root(&self, name: &str) -> String {
        // The family has no cycle: that was checked when each of it was recorded.
        let next = |name: &String| self.pools.get(name).and_then(Pool::joined).map(str::to_owned);
        std::iter::successors(Some(name.to_owned()), next).last().unwrap_or_else(|| name.to_owned())
    }

    /// What joined `name`, each with the instant from which it is in its ledger.
    fn increments(&self, name: &str) -> Vec<(UnixNanos, &'a Pool)> {
        let joined = self.pools.iter().filter(|(other, pool)| pool.joined().is_some() && self.root(other) == name);
        joined.filter_map(|(_, pool)| Some((pool.events.first()?.0, pool))).collect()
    }

    /// The ledger of a pool from its beginning to the end of a window, and the places of the window's stretches. Where the
    /// users of the final period carry what remains it goes to the retirement: only then is that known.
    fn account(
        &self,
        name: &str,
        window: Window,
        way: &mut BTreeSet<String>,
    ) -> Result<(Account, Range<usize>), TrainingError> {
        let no_pool = || TrainingError::NoPool(name.to_owned());
        let pool = self.pools.get(name).ok_or_else(no_pool)?;
        let disclosure = pool.disclosure().ok_or_else(no_pool)?;
        way.insert(name.to_owned());
        let since = disclosure.serving_since()?.or_else(|| self.served.first());
        let since = since.unwrap_or(window.start()).min(window.start());
        let ends = pool.retired_at().zip(disclosure.final_nanos());
        let ends = ends.map(|(at, nanos)| (UnixNanos(at.0.saturating_sub(nanos)), at));
        let until = ends.map_or(window.end(), |(_, at)| at.max(window.end()));
        let mut edges: BTreeSet<UnixNanos> = [since, window.start(), window.end(), until].into();
        let inside = |at: &UnixNanos| since < *at && *at < until;
        edges.extend(pool.events.iter().map(|(at, _)| *at).filter(inside));
        let inherited = self.inherited(name, window, way)?;
        edges.extend(inherited.iter().map(|(at, _)| *at).filter(inside));
        let increments = self.increments(name);
        let events = increments.iter().flat_map(|(_, pool)| &pool.events);
        edges.extend(events.map(|(at, _)| *at).filter(inside));
        edges.extend(ends.iter().map(|(begins, _)| *begins).filter(inside));
        let drawers = self.drawers(name)?;
        let (mut stretches, mut asked) = (Vec::new(), 0..0);
        for (start, end) in edges.iter().zip(edges.iter().skip(1)) {
            let Some(part) = Window::new(*start, *end) else { continue };
            let mut units = 0.0;
            for (drawer, weight) in &drawers {
                units += self.served.units(drawer, part)? * weight;
            }
            let taken_over: f64 = inherited.iter().filter(|(at, _)| at <= start).map(|(_, grams)| grams).sum();
            let mut terms = terms(pool, disclosure, *start, taken_over);
            for (_, joined) in increments.iter().filter(|(at, _)| at <= start) {
                let grams = joined.disclosure().map_or(0.0, |disclosure| disclosure.training().0);
                terms.training = GramsCo2e(terms.training.0 + grams);
                terms.units += joined.units_at(*start).unwrap_or_default();
                terms.increments += 1;
            }
            let is_final = ends.is_some_and(|(begins, ended)| *start >= begins && *end <= ended);
            asked.start += usize::from(part.end() <= window.start());
            asked.end += usize::from(part.end() <= window.end());
            stretches.push(Stretch { terms, units, nanos: part.nanos(), is_final });
        }
        way.remove(name);
        let account =
            book_ledger(&stretches).ok_or_else(|| TrainingError::Refused(format!("pool `{name}` has no ledger")))?;
        Ok((account, asked))
    }

    /// The ledger of a pool up to an instant.
    ///
    /// # Errors
    /// The store's, or a family that makes no sense.
    pub fn account_at(&self, name: &str, at: UnixNanos) -> Result<Account, TrainingError> {
        let now = Window::new(at.plus_seconds(-1), at).ok_or_else(|| TrainingError::NoPool(name.to_owned()))?;
        self.account(&self.root(name), now, &mut BTreeSet::new()).map(|(account, _)| account)
    }

    /// What retired pools left to `name`, each with the instant.
    fn inherited(
        &self,
        name: &str,
        window: Window,
        way: &mut BTreeSet<String>,
    ) -> Result<Vec<(UnixNanos, f64)>, TrainingError> {
        let mut inherited = Vec::new();
        for (other, pool) in self.pools {
            let carries =
                pool.disclosure().is_some_and(|disclosure| disclosure.remainder == RemainderName::CarryToSuccessor);
            for (at, event) in &pool.events {
                let Event::Retire { successor: Some(next), .. } = event else { continue };
                if next != name || !carries || *at >= window.end() {
                    continue;
                }
                if way.contains(other) {
                    return Err(TrainingError::Refused(format!(
                        "pools `{other}` and `{name}` take over from each other"
                    )));
                }
                let until = Window::new(*at, window.end().max(*at)).unwrap_or(window);
                inherited.push((*at, self.account(other, until, way)?.0.remaining));
            }
        }
        Ok(inherited)
    }

    /// Every disclosed version whose units draw on a pool, with its weight.
    fn drawers(&self, name: &str) -> Result<Vec<(&'a Disclosure, f64)>, TrainingError> {
        let above = parents(self.pools)?;
        let mut drawers = Vec::new();
        for (other, pool) in self.pools {
            let Some(disclosure) = pool.disclosure() else { continue };
            if let Some(weight) = self.draws(other, &above)?.get(name) {
                drawers.push((disclosure, *weight));
            }
        }
        Ok(drawers)
    }
}

/// Grams per unit of stretches together; of stretches without use what the next unit would carry.
fn per_unit(stretches: &[Booked]) -> f64 {
    let units: f64 = stretches.iter().map(|one| one.units).sum();
    let charged: f64 = stretches.iter().map(|one| one.charged).sum();
    if units > 0.0 { charged / units } else { stretches.last().map_or(0.0, |one| one.per_unit) }
}

/// The terms of a pool from an instant on. A disclosure that corrects an error holds from the beginning, a revised N from when
/// it was recorded.
fn terms(pool: &Pool, disclosure: &Disclosure, at: UnixNanos, taken_over: f64) -> Terms {
    Terms {
        training: GramsCo2e(disclosure.training().0 + taken_over),
        units: pool.units_at(at).unwrap_or(disclosure.units),
        policy: disclosure.units_policy(),
        lifespan: disclosure.lifespan(),
        retired: pool.retired_at().is_some_and(|when| when <= at),
        increments: 0,
    }
}
