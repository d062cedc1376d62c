//! Answers over a window from its ends and its days. Energy: sums of all whole hours before each end, whose difference is what lies
//! between, and the slots of the hours that the ends cut. Grams: the same hours with what their factors made of them, added up by
//! the day. What a question costs hardly grows with its window, once the sums are there: the first question about a time makes
//! them out of its slots, a changed cell takes away its hour only, and a changed factor the hours that it holds in.
//!
//! Energies are those of adding up every slot, to the last bit: they are integers, which add in any order. Grams are sums of the
//! same terms by hours (`joulebook_sci::rating` says how near they are). `tests/tests/sums.rs` compares them. What a slot came to
//! depends on its cells, on the nodes and where they stand, on what is declared out of service, on how the question charges idle
//! and, for grams, on factors and level; sums are kept for each way of charging, and stand until one of the others changes.

mod hours;
mod kept;
mod made;
mod ratings;
mod together;

use super::QueryError;
use super::gather::{Gathered, Member};
use super::question::Question;
use super::rated::Rated;
use crate::memory::Memory;
use crate::store::Book;
use joulebook_proto::query::EnergyBy;
use joulebook_sci::Totals;
use joulebook_sci::tally::Tally;
use joulebook_units::{Placement, UnixNanos, Window};
use kept::Kept;
use made::Made;
use ratings::Rates;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use together::Spare;

const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 86_400;
/// An hour is summed up so long after its end: by then its cells are settled, unless rows are late.
pub(super) const QUIET_SECONDS: i64 = 900;
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
    spare: Spare,
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

/// What a window is made of.
struct Parts {
    /// Whole hours since 1970.
    hours: Range<i64>,
    /// What is left at its ends.
    pieces: Vec<Window>,
}

/// A whole hour, or a piece of one.
#[derive(Clone, Copy)]
struct Part {
    window: Window,
    hour: Option<i64>,
}

/// What a question asks of sums.
struct Asked<'a> {
    gathered: &'a Gathered<'a>,
    question: &'a Question,
    parts: Parts,
    facts: Vec<Facts>,
    /// Its factors; absent for energy alone.
    rates: Option<Rates>,
}

/// What was made for one question and is not kept.
#[derive(Default)]
struct Loose {
    hours: BTreeMap<i64, Tally>,
    pieces: BTreeMap<UnixNanos, Tally>,
    rated: ratings::Loose,
}

fn hour_of(at: UnixNanos) -> i64 {
    at.floor_to(HOUR_SECONDS).0.div_euclid(UnixNanos::from_seconds(HOUR_SECONDS).0)
}

fn begin_of(hour: i64) -> UnixNanos {
    UnixNanos::from_seconds(hour.saturating_mul(HOUR_SECONDS))
}

fn window_of(hour: i64) -> Option<Window> {
    Window::new(begin_of(hour), begin_of(hour.saturating_add(1)))
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
            out_of_service: gathered.out_of_service(member),
        }
    }
}

impl<'a> Asked<'a> {
    /// A question about energy; `None` where what is left of its hours is too much to be kept.
    fn energy(gathered: &'a Gathered<'a>, question: &'a Question) -> Option<Self> {
        let parts = Some(Parts::of(gathered)).filter(|parts| parts.pieces.len() <= PIECES)?;
        let facts = gathered.members.iter().map(|member| Facts::of(gathered, member)).collect();
        Some(Self { gathered, question, parts, facts, rates: None })
    }

    /// The same about grams.
    fn rated(gathered: &'a Gathered<'a>, question: &'a Question) -> Option<Self> {
        let asked = Self::energy(gathered, question)?;
        let rates = Rates::of(gathered, question, &asked.parts);
        Some(Self { rates: Some(rates), ..asked })
    }
}

impl Sums {
    /// None yet, and room for as many as are worth it.
    pub(super) fn within(memory: Memory) -> Self {
        Self { ways: Mutex::default(), numbers: memory.sums(), spare: Spare::new(memory.spare_threads()) }
    }

    /// Totals of the energy of a window; `None` where they have to be added up slot by slot. `begin` is the version of the
    /// cells before the material was gathered.
    pub(super) fn totals(
        &self,
        gathered: &Gathered<'_>,
        question: &Question,
        at: (&Book, u64),
    ) -> Result<Option<Totals>, QueryError> {
        let Some(asked) = Asked::energy(gathered, question) else { return Ok(None) };
        Ok(self.answer(&asked, at)?.map(|rated| rated.totals))
    }

    /// The same with what its factors make of it. Of what consumers had and of workloads one by one there is nothing.
    pub(super) fn rated(
        &self,
        gathered: &Gathered<'_>,
        question: &Question,
        at: (&Book, u64),
    ) -> Result<Option<Rated>, QueryError> {
        let Some(asked) = Asked::rated(gathered, question) else { return Ok(None) };
        self.answer(&asked, at)
    }

    /// Whether more can be kept and nothing has to go for it.
    pub(super) fn has_room(&self) -> bool {
        self.lock().iter().map(Kept::numbers).sum::<usize>() < full(self.numbers)
    }

    fn answer(&self, asked: &Asked<'_>, (book, begin): (&Book, u64)) -> Result<Option<Rated>, QueryError> {
        let missing = {
            let mut all = self.lock();
            let Some(kept) = way(&mut all, asked, begin) else { return Ok(None) };
            kept.take_in(book, &asked.facts);
            kept.missing(asked)
        };
        let mut loose = Loose::default();
        // One by one, so that a month of totals is never in memory.
        let put = |part: Part, made: Made| {
            let mut all = self.lock();
            let room = make_room(&mut all, asked, self.numbers);
            let Some(kept) = way(&mut all, asked, begin).filter(|kept| kept.facts == asked.facts) else {
                return false;
            };
            let stands = made.stands(book.changed_since(begin).as_ref(), asked.gathered.now());
            kept.put(asked, part, made, (stands, room), &mut loose)
        };
        if !together::make(asked, &missing, &self.spare, put)? {
            return Ok(None);
        }
        let mut all = self.lock();
        let Some(kept) = way(&mut all, asked, begin) else { return Ok(None) };
        // Where the nodes are found otherwise meanwhile, what was made does not go with what is kept.
        let rated = if kept.take_in(book, &asked.facts) { kept.rated(asked, loose) } else { None };
        kept.keep_pieces(2 * PIECES);
        Ok(rated)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sums for a question's way, made the latest; they begin with nothing.
fn way<'a>(all: &'a mut Vec<Kept>, asked: &Asked<'_>, version: u64) -> Option<&'a mut Kept> {
    let kept = match all.iter().position(|kept| kept.is_of(asked.question)) {
        Some(at) => all.remove(at),
        None => Kept::new(asked.question, version),
    };
    if all.len() >= WAYS {
        all.remove(0);
    }
    all.push(kept);
    all.last_mut()
}

/// With more numbers than this something goes.
fn full(numbers: usize) -> usize {
    numbers / 4 * 3
}

/// Drops what was asked for longest ago until a quarter of the room is free, other ways first and what lies before the question's
/// window last, and tells how many numbers the latest way may hold.
fn make_room(all: &mut Vec<Kept>, asked: &Asked<'_>, numbers: usize) -> usize {
    let sum = |all: &[Kept]| all.iter().map(Kept::numbers).sum::<usize>();
    while sum(all) > full(numbers) {
        if all.len() > 1 {
            all.remove(0);
        } else if !all.last_mut().is_some_and(|kept| kept.drop_ratings() || kept.drop_before(&asked.parts)) {
            break;
        }
    }
    let others = all.len().saturating_sub(1);
    numbers.saturating_sub(sum(all.get(..others).unwrap_or_default()))
}
