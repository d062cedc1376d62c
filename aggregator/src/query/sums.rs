//! Energy over a window from its ends: sums of all whole hours before each, whose difference is what lies between, and the
//! slots of the hours that the ends cut. What a question costs does not grow with its window, once the sums are there: the
//! first question about a time makes them out of its slots, and a changed cell takes away its hour only.
//!
//! The answer is that of adding up every slot, to the last bit (`tests/tests/sums.rs` compares them): energies are integers, which
//! add in any order. What a slot came to depends on its cells, on the nodes and where they stand, on what is declared out of
//! service and on how the question charges idle; sums are kept for each way of charging, and stand until one of the others
//! changes.

mod hours;

use super::QueryError;
use super::gather::{Gathered, Member};
use super::question::Question;
use crate::memory::Memory;
use crate::store::{Book, ChangedCells, Resolution};
use hours::Hours;
use joulebook_proto::query::EnergyBy;
use joulebook_sci::reconcile::Trust;
use joulebook_sci::tally::{Places, Tally};
use joulebook_sci::{IdleRule, Totals};
use joulebook_units::{Placement, UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::sync::{Mutex, MutexGuard, PoisonError};

const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 86_400;
/// An hour is summed up so long after its end: by then its cells are settled, unless rows are late.
const QUIET_SECONDS: i64 = 900;
/// Ways to charge idle for which there are sums at once.
const WAYS: usize = 4;
/// Parts of hours of one way that are kept, and that a question may have to be answered from its ends.
const PIECES: usize = 128;
/// A day teaches what its nodes' platforms draw in so many days from its begin.
const TAUGHT_DAYS: i64 = 8;

/// Whether sums hold what rows by this are made of.
pub(super) fn hold(by: EnergyBy) -> bool {
    use EnergyBy::{Component, Gpu, Model, Node, Source, Unspecified};
    matches!(by, Unspecified | Model | Gpu | Source | Component | Node)
}

/// The sums of all ways to charge idle, that of the latest question last.
pub(super) struct Sums {
    ways: Mutex<Vec<Kept>>,
    /// Numbers that they may hold together.
    numbers: usize,
}

/// What a node is to the slots since its first row.
#[derive(Debug, Clone, PartialEq)]
struct Facts {
    node: String,
    placement: Placement,
    threads: Option<u32>,
    accelerators: usize,
    first_row: Option<UnixNanos>,
    surroundings: i64,
    out_of_service: Vec<Window>,
}

/// The sums of one way.
struct Kept {
    rule: IdleRule,
    trust: Trust,
    /// Version of the cells up to which changes are taken in.
    seen: u64,
    facts: Vec<Facts>,
    places: Places,
    hours: Hours,
    /// Parts of hours by their begin, with their end.
    pieces: BTreeMap<UnixNanos, (UnixNanos, Tally)>,
    /// Hours of which something was made with what other cells teach.
    taught: BTreeSet<i64>,
}

/// What a window is made of.
struct Parts {
    /// Whole hours since 1970.
    hours: Range<i64>,
    /// What is left at its ends.
    pieces: Vec<Window>,
}

/// What was added up for a question.
struct Made {
    window: Window,
    totals: Totals,
    taught: bool,
    clean: bool,
}

fn hour_of(at: UnixNanos) -> i64 {
    at.floor_to(HOUR_SECONDS).0.div_euclid(UnixNanos::from_seconds(HOUR_SECONDS).0)
}

fn begin_of(hour: i64) -> UnixNanos {
    UnixNanos::from_seconds(hour.saturating_mul(HOUR_SECONDS))
}

impl Parts {
    fn of(gathered: &Gathered<'_>) -> Self {
        let window = gathered.window;
        let over = gathered.now().plus_seconds(-QUIET_SECONDS).floor_to(HOUR_SECONDS);
        let first = window.start().ceil_to(HOUR_SECONDS);
        let last = window.end().floor_to(HOUR_SECONDS).min(over);
        let part = |start, end| Window::new(start, end).filter(|part| !part.is_empty());
        let pieces = |part: Option<Window>| part.map(|part| gathered.windows_of(part)).unwrap_or_default();
        if first >= last {
            return Self { hours: 0..0, pieces: pieces(Some(window)) };
        }
        let mut ends = pieces(part(window.start(), first));
        ends.extend(pieces(part(last, window.end())));
        Self { hours: hour_of(first)..hour_of(last), pieces: ends }
    }
}

impl Sums {
    /// None yet, and room for as many as are worth it.
    pub(super) fn within(memory: Memory) -> Self {
        Self { ways: Mutex::default(), numbers: memory.sums() }
    }

    /// Totals of the energy of a window; `None` where they have to be added up slot by slot. `begin` is the version of the
    /// cells before the material was gathered.
    pub(super) fn totals(
        &self,
        gathered: &Gathered<'_>,
        question: &Question,
        (book, begin): (&Book, u64),
    ) -> Result<Option<Totals>, QueryError> {
        let parts = Parts::of(gathered);
        if parts.pieces.len() > PIECES {
            return Ok(None);
        }
        let facts: Vec<Facts> = gathered.members.iter().map(|member| Facts::of(gathered, member)).collect();
        let (hours, pieces) = {
            let mut all = self.lock();
            let Some(kept) = way(&mut all, question, begin) else { return Ok(None) };
            kept.take_in(book, &facts);
            let pieces = parts.pieces.iter().filter(|piece| kept.piece(**piece).is_none());
            (kept.hours.missing(parts.hours.clone()), pieces.copied().collect::<Vec<_>>())
        };
        let hours = hours.into_iter().filter_map(|hour| Window::new(begin_of(hour), begin_of(hour + 1)));
        let mut loose = Loose::default();
        for (window, is_hour) in hours.map(|hour| (hour, true)).chain(pieces.into_iter().map(|piece| (piece, false))) {
            let made = Made::of(gathered, question, window)?;
            // One by one, so that a month of totals is never in memory.
            let mut all = self.lock();
            let room = make_room(&mut all, self.numbers);
            let Some(kept) = way(&mut all, question, begin).filter(|kept| kept.facts == facts) else { return Ok(None) };
            let stands = made.stands(book.changed_since(begin).as_ref(), gathered.now());
            let tally = kept.places.tally(&made.totals);
            let start = window.start();
            if stands && kept.numbers() + tally.numbers() <= room {
                kept.taught.extend(made.taught.then_some(hour_of(start)));
                match is_hour {
                    true => kept.hours.insert(hour_of(start), tally),
                    false => drop(kept.pieces.insert(start, (window.end(), tally))),
                }
            } else if is_hour {
                loose.hours.insert(hour_of(start), tally);
            } else {
                loose.pieces.insert(start, tally);
            }
        }
        let mut all = self.lock();
        let Some(kept) = way(&mut all, question, begin) else { return Ok(None) };
        // Where the nodes are found otherwise meanwhile, what was made does not go with what is kept.
        let sum = if kept.take_in(book, &facts) { kept.sum(&parts, &loose) } else { None };
        while kept.pieces.len() > 2 * PIECES {
            kept.pieces.pop_first();
        }
        Ok(sum.map(|sum| kept.places.totals(&sum, question.level, question.rule)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was made for one question and is not kept.
#[derive(Default)]
struct Loose {
    hours: BTreeMap<i64, Tally>,
    pieces: BTreeMap<UnixNanos, Tally>,
}

/// The sums for a question's way, made the latest; they begin with nothing.
fn way<'a>(all: &'a mut Vec<Kept>, question: &Question, version: u64) -> Option<&'a mut Kept> {
    let at = all.iter().position(|kept| (kept.rule, kept.trust) == (question.rule, question.trust));
    let kept = match at {
        Some(at) => all.remove(at),
        None => Kept::new(question, version),
    };
    if all.len() >= WAYS {
        all.remove(0);
    }
    all.push(kept);
    all.last_mut()
}

/// Drops the ways that were asked for longest ago until a quarter of the room is free, and tells how many numbers the latest
/// may hold.
fn make_room(all: &mut Vec<Kept>, numbers: usize) -> usize {
    let sum = |all: &[Kept]| all.iter().map(Kept::numbers).sum::<usize>();
    while all.len() > 1 && sum(all) > numbers / 4 * 3 {
        all.remove(0);
    }
    let others = all.len().saturating_sub(1);
    numbers.saturating_sub(sum(all.get(..others).unwrap_or_default()))
}

impl Facts {
    fn of(gathered: &Gathered<'_>, member: &Member) -> Self {
        let inventory = &member.record.inventory;
        Self {
            node: inventory.node.to_string(),
            placement: inventory.placement.clone(),
            threads: inventory.hardware.threads,
            accelerators: inventory.hardware.accelerators.len(),
            first_row: member.record.first_row,
            surroundings: gathered.surroundings(&member.record),
            out_of_service: member.out_of_service.iter().map(|out| out.window).collect(),
        }
    }
}

impl Made {
    fn of(gathered: &Gathered<'_>, question: &Question, window: Window) -> Result<Self, QueryError> {
        let mut totals = Totals::new(question.level, question.rule);
        gathered.take_learned();
        for part in gathered.windows_of(window) {
            let (nodes, _) = gathered.energy_slot(part, question.trust)?;
            if !nodes.is_empty() {
                totals.add_energy(&nodes);
            }
        }
        Ok(Self { window, totals, taught: gathered.take_learned(), clean: gathered.is_clean(window) })
    }

    /// Whether it is what it would be if it were made anew: nothing came to it since, and all that taught it is over.
    fn stands(&self, changed: Option<&ChangedCells>, now: UnixNanos) -> bool {
        let Some(changed) = changed.filter(|_| self.clean) else { return false };
        let first = match self.taught {
            true => self.window.start().floor_to(DAY_SECONDS).plus_seconds(-TAUGHT_DAYS * DAY_SECONDS),
            false => self.window.start().floor_to(Resolution::Settled.seconds()),
        };
        let end = if self.taught { self.window.end().ceil_to(DAY_SECONDS) } else { self.window.end() };
        let is_over = !self.taught || end <= now.plus_seconds(-QUIET_SECONDS);
        let gone = changed.before.is_some_and(|before| before > first);
        is_over && !gone && changed.slots.range(first..end).next().is_none()
    }
}

impl Kept {
    fn new(question: &Question, version: u64) -> Self {
        Self {
            rule: question.rule,
            trust: question.trust,
            seen: version,
            facts: Vec::new(),
            places: Places::default(),
            hours: Hours::default(),
            pieces: BTreeMap::new(),
            taught: BTreeSet::new(),
        }
    }

    fn numbers(&self) -> usize {
        self.hours.numbers() + self.pieces.values().map(|(_, tally)| tally.numbers()).sum::<usize>()
    }

    fn piece(&self, piece: Window) -> Option<&Tally> {
        self.pieces.get(&piece.start()).filter(|(end, _)| *end == piece.end()).map(|(_, tally)| tally)
    }

    /// Drops what changed since it was kept. Whether nothing of the nodes did.
    fn take_in(&mut self, book: &Book, facts: &[Facts]) -> bool {
        let version = book.version();
        match book.changed_since(self.seen) {
            None => {
                self.seen = version;
                self.drop_between(UnixNanos(i64::MIN), UnixNanos(i64::MAX));
            }
            Some(change) => {
                self.seen = change.version;
                if let Some(before) = change.before {
                    self.drop_between(UnixNanos(i64::MIN), before);
                }
                for slot in change.slots {
                    self.drop_between(slot, slot.plus_seconds(Resolution::Settled.seconds()));
                }
            }
        }
        if self.facts == facts {
            return true;
        }
        // A node is nothing to the slots before its first row.
        let of = |all: &[Facts], at: usize| all.get(at).cloned();
        let from = (0..self.facts.len().max(facts.len())).filter_map(|at| {
            let (mine, other) = (of(&self.facts, at), of(facts, at));
            let first = |facts: &Option<Facts>| facts.as_ref().and_then(|facts| facts.first_row);
            (mine != other).then(|| [first(&mine), first(&other)].into_iter().flatten().min()).flatten()
        });
        if let Some(from) = from.min() {
            self.drop_between(from, UnixNanos(i64::MAX));
        }
        self.facts = facts.to_vec();
        false
    }

    /// Drops what was made of cells of a time, and what they teach.
    fn drop_between(&mut self, from: UnixNanos, to: UnixNanos) {
        self.drop_of(hour_of(from)..=hour_of(UnixNanos(to.0.saturating_sub(1))));
        if !self.taught.is_empty() {
            let first = hour_of(from.floor_to(DAY_SECONDS));
            let last = hour_of(to).saturating_add(TAUGHT_DAYS * 24);
            let taught: Vec<i64> = self.taught.range(first..=last).copied().collect();
            taught.into_iter().for_each(|hour| self.drop_of(hour..=hour));
        }
    }

    fn drop_of(&mut self, hours: RangeInclusive<i64>) {
        let (from, to) = (begin_of(*hours.start()), begin_of(hours.end().saturating_add(1)));
        let pieces: Vec<UnixNanos> = self.pieces.range(from..to).map(|(start, _)| *start).collect();
        pieces.iter().for_each(|start| drop(self.pieces.remove(start)));
        self.taught.retain(|hour| !hours.contains(hour));
        self.hours.remove(hours);
    }

    /// The sum of parts: of what is kept, or else of what was made.
    fn sum(&self, parts: &Parts, loose: &Loose) -> Option<Tally> {
        let mut sum = self.hours.sum(parts.hours.clone(), &loose.hours)?;
        for piece in &parts.pieces {
            sum.plus(loose.pieces.get(&piece.start()).or_else(|| self.piece(*piece))?);
        }
        Some(sum)
    }
}
