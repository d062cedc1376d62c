//! What factors made of hours and of slots, each with the digest of the factors that it was made with: it stands as long as they
//! are the same. A late intensity takes the hours away that it is about, another configuration all of them.
//!
//! Days are sums of their hours, made when a question asks for all of one: a month is added up in some thirty steps.

use super::{Part, Parts, begin_of};
use crate::factor::IntensityProvenance;
use crate::query::gather::digest::{Digest, FactorDigests};
use crate::query::gather::{Gathered, PueOrigins};
use crate::query::question::Question;
use crate::query::rated::Rated;
use joulebook_sci::quantity::Kind;
use joulebook_sci::rating::{Columns, Rating, RatingSum};
use joulebook_sci::{Level, Totals};
use joulebook_units::{UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{RangeBounds, RangeInclusive};
use std::sync::Arc;

const DAY_HOURS: i64 = 24;

/// What of a question decides about grams beside its factors: each has ratings of its own. What was known at some instant is asked
/// for beside what is known now: neither takes the other's hours away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct What {
    level: Level,
    kind: Option<Kind>,
    as_of: bool,
}

/// What a question asks of ratings.
pub(super) struct Rates {
    what: What,
    /// Digests of the factors of its hours and pieces, in their order.
    hours: Vec<Digest>,
    pieces: Vec<Digest>,
}

impl Rates {
    pub(super) fn of(gathered: &Gathered<'_>, question: &Question, parts: &Parts) -> Self {
        let digests = FactorDigests::new(gathered);
        let of = |window: Window| digests.of(gathered, window);
        let asked = question.factors;
        Self {
            what: What { level: question.level, kind: asked.kind, as_of: asked.as_of.is_some() },
            hours: parts.hours.clone().filter_map(super::window_of).map(of).collect(),
            pieces: parts.pieces.iter().copied().map(of).collect(),
        }
    }

    /// That of a part.
    pub(super) fn digest(&self, parts: &Parts, part: Part) -> Option<Digest> {
        let digest = match part.hour {
            Some(hour) => self.hours.get(usize::try_from(hour - parts.hours.start).ok()?),
            None => self.pieces.get(parts.pieces.iter().position(|piece| *piece == part.window)?),
        };
        digest.copied()
    }

    /// The hours of a question, each with its digest.
    pub(super) fn hours<'a>(&'a self, parts: &Parts) -> impl Iterator<Item = (i64, &'a Digest)> {
        parts.hours.clone().zip(&self.hours)
    }

    /// Its pieces.
    pub(super) fn pieces<'a>(&'a self, parts: &'a Parts) -> impl Iterator<Item = (Window, &'a Digest)> {
        parts.pieces.iter().copied().zip(&self.pieces)
    }
}

/// What was made of a part.
#[derive(Clone)]
pub(super) struct Numbers {
    rating: Rating,
    pues: Arc<PueOrigins>,
}

impl Numbers {
    pub(super) fn numbers(&self) -> usize {
        self.rating.numbers()
    }
}

/// A sum of parts.
#[derive(Default, Clone)]
struct Sum {
    rating: RatingSum,
    pues: PueOrigins,
    /// What was added to them last: mostly it is that of the next part.
    latest: Option<Arc<PueOrigins>>,
}

impl Sum {
    fn plus(&mut self, part: &Numbers) {
        self.rating.plus(&part.rating);
        if !self.latest.as_ref().is_some_and(|latest| Arc::ptr_eq(latest, &part.pues)) {
            for (site, origins) in part.pues.iter() {
                self.pues.entry(site.clone()).or_default().extend(origins.iter().cloned());
            }
            self.latest = Some(Arc::clone(&part.pues));
        }
    }
}

/// What was made for one question and is not kept: it is added up at once.
#[derive(Default)]
pub(super) struct Loose {
    /// The ratings in whose columns it stands.
    of: Option<u64>,
    hours: BTreeSet<i64>,
    pieces: BTreeSet<UnixNanos>,
    sum: Sum,
}

/// The ratings of one way to ask.
pub(super) struct Ratings {
    what: What,
    /// Tells it from others that were made for the same.
    number: u64,
    columns: Columns,
    /// Where intensities come from; energy is rated by places in it.
    origins: Vec<IntensityProvenance>,
    pues: Arc<PueOrigins>,
    hours: BTreeMap<i64, (Digest, Numbers)>,
    days: BTreeMap<i64, Numbers>,
    /// Parts of hours by their begin, with their end.
    pieces: BTreeMap<UnixNanos, (UnixNanos, Digest, Numbers)>,
}

impl Ratings {
    pub(super) fn new(rates: &Rates, number: u64) -> Self {
        Self {
            what: rates.what,
            number,
            columns: Columns::default(),
            origins: Vec::new(),
            pues: Arc::default(),
            hours: BTreeMap::new(),
            days: BTreeMap::new(),
            pieces: BTreeMap::new(),
        }
    }

    /// Whether they are what a question asks for.
    pub(super) fn are_of(&self, rates: &Rates) -> bool {
        self.what == rates.what
    }

    /// How many numbers there are.
    pub(super) fn numbers(&self) -> usize {
        let hours = self.hours.values().map(|(_, hour)| hour);
        let pieces = self.pieces.values().map(|(.., piece)| piece);
        hours.chain(self.days.values()).chain(pieces).map(Numbers::numbers).sum()
    }

    /// What was made of a part, in the columns of these.
    pub(super) fn part(&mut self, mut rated: Rated, origins: &[IntensityProvenance]) -> Numbers {
        let mut place = |origin: &IntensityProvenance| {
            self.origins.iter().position(|known| known == origin).unwrap_or_else(|| {
                self.origins.push(origin.clone());
                self.origins.len() - 1
            })
        };
        let places: Vec<Option<usize>> = origins.iter().map(|origin| Some(place(origin))).collect();
        rate_by(&mut rated.totals, &places);
        if *self.pues != rated.pues {
            self.pues = Arc::new(rated.pues);
        }
        Numbers { rating: self.columns.rating(&rated.totals, &rated.impacts), pues: Arc::clone(&self.pues) }
    }

    pub(super) fn has_hour(&self, hour: i64, digest: &Digest) -> bool {
        self.hour(hour, digest).is_some()
    }

    pub(super) fn has_piece(&self, piece: Window, digest: &Digest) -> bool {
        self.piece(piece, digest).is_some()
    }

    fn hour(&self, hour: i64, digest: &Digest) -> Option<&Numbers> {
        self.hours.get(&hour).filter(|(of, _)| of == digest).map(|(_, numbers)| numbers)
    }

    fn piece(&self, piece: Window, digest: &Digest) -> Option<&Numbers> {
        let known = self.pieces.get(&piece.start());
        known.filter(|(end, of, _)| *end == piece.end() && of == digest).map(|(.., numbers)| numbers)
    }

    /// Keeps a part, in the place of what was made of it with other factors.
    pub(super) fn keep(&mut self, part: Part, digest: Digest, numbers: Numbers) {
        match part.hour {
            Some(hour) => {
                self.days.remove(&hour.div_euclid(DAY_HOURS));
                self.hours.insert(hour, (digest, numbers));
            }
            None => drop(self.pieces.insert(part.window.start(), (part.window.end(), digest, numbers))),
        }
    }

    /// Drops the oldest pieces beyond a number.
    pub(super) fn keep_pieces(&mut self, most: usize) {
        while self.pieces.len() > most {
            self.pieces.pop_first();
        }
    }

    /// Takes hours out, and their pieces.
    pub(super) fn remove(&mut self, hours: RangeInclusive<i64>) {
        let (from, to) = (begin_of(*hours.start()), begin_of(hours.end().saturating_add(1)));
        take_out(&mut self.days, hours.start().div_euclid(DAY_HOURS)..=hours.end().div_euclid(DAY_HOURS));
        take_out(&mut self.hours, hours);
        take_out(&mut self.pieces, from..to);
    }

    /// Adds what is not kept. `false` where it does not go with what was added before.
    pub(super) fn add_loose(&self, loose: &mut Loose, part: Part, numbers: &Numbers) -> bool {
        if *loose.of.get_or_insert(self.number) != self.number {
            return false;
        }
        match part.hour {
            Some(hour) => drop(loose.hours.insert(hour)),
            None => drop(loose.pieces.insert(part.window.start())),
        }
        loose.sum.plus(numbers);
        true
    }

    /// Fills the totals of a question, made of tallies, with the sum of its parts: of what was made for it, and else of what is
    /// kept. `None` where a part is neither.
    pub(super) fn rated(
        &mut self,
        mut totals: Totals,
        gathered: &Gathered<'_>,
        (parts, rates, loose): (&Parts, &Rates, Loose),
    ) -> Option<Rated> {
        let sum = self.sum(parts, rates, loose)?;
        let impacts = self.columns.fill(&sum.rating, &mut totals);
        let asked = |known: &IntensityProvenance| gathered.origins.iter().position(|origin| origin == known);
        let places: Vec<Option<usize>> = self.origins.iter().map(asked).collect();
        rate_by(&mut totals, &places);
        Some(Rated { totals, impacts, pues: sum.pues })
    }

    fn sum(&mut self, parts: &Parts, rates: &Rates, loose: Loose) -> Option<Sum> {
        if loose.of.is_some_and(|of| of != self.number) {
            return None;
        }
        let Loose { hours, pieces, mut sum, .. } = loose;
        for (piece, digest) in rates.pieces(parts).filter(|(piece, _)| !pieces.contains(&piece.start())) {
            sum.plus(self.piece(piece, digest)?);
        }
        let kept = rates.hours(parts).filter(|(hour, _)| !hours.contains(hour));
        let kept = kept.map(|(hour, digest)| self.has_hour(hour, digest).then_some(hour));
        let kept: Vec<i64> = kept.collect::<Option<_>>()?;
        for day in kept.chunk_by(|one, next| one.div_euclid(DAY_HOURS) == next.div_euclid(DAY_HOURS)) {
            match day.first() {
                Some(first) if i64::try_from(day.len()) == Ok(DAY_HOURS) => {
                    sum.plus(self.day(first.div_euclid(DAY_HOURS), day));
                }
                _ => day.iter().filter_map(|hour| self.hours.get(hour)).for_each(|(_, hour)| sum.plus(hour)),
            }
        }
        Some(sum)
    }

    /// The sum of a day, of which every hour is there.
    fn day(&mut self, day: i64, hours: &[i64]) -> &Numbers {
        let Self { days, hours: known, .. } = self;
        days.entry(day).or_insert_with(|| {
            let mut sum = Sum::default();
            hours.iter().filter_map(|hour| known.get(hour)).for_each(|(_, hour)| sum.plus(hour));
            Numbers { rating: sum.rating.rating(), pues: Arc::new(sum.pues) }
        })
    }
}

fn take_out<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, keys: impl RangeBounds<K>) {
    let gone: Vec<K> = map.range(keys).map(|(key, _)| *key).collect();
    gone.iter().for_each(|key| drop(map.remove(key)));
}

/// Names the origins of intensities by other places; what has none is left out.
fn rate_by(totals: &mut Totals, places: &[Option<usize>]) {
    for version in totals.versions.values_mut() {
        let rated = std::mem::take(&mut version.carbon.rated);
        let place = |origin: usize| places.get(origin).copied().flatten();
        version.carbon.rated = rated.into_iter().filter_map(|(origin, sum)| Some((place(origin)?, sum))).collect();
    }
}
