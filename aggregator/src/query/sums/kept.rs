//! The sums of one way to charge idle.

use super::hours::Hours;
use super::made::Made;
use super::ratings::{Rates, Ratings};
use super::{Asked, DAY_SECONDS, Facts, Loose, Part, Parts, TAUGHT_DAYS, begin_of, hour_of, window_of};
use crate::query::question::Question;
use crate::query::rated::Rated;
use crate::store::{Book, Resolution};
use joulebook_sci::IdleRule;
use joulebook_sci::impact::Impacts;
use joulebook_sci::reconcile::Trust;
use joulebook_sci::tally::{Places, Tally};
use joulebook_units::{UnixNanos, Window};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The sums of one way.
pub(super) struct Kept {
    rule: IdleRule,
    trust: Trust,
    /// Version of the cells up to which changes are taken in.
    seen: u64,
    pub(super) facts: Vec<Facts>,
    places: Places,
    hours: Hours,
    /// Parts of hours by their begin, with their end.
    pieces: BTreeMap<UnixNanos, (UnixNanos, Tally)>,
    /// What factors made of the same, those of the latest question last.
    ratings: Vec<Ratings>,
    /// How many ratings there ever were.
    rated: u64,
    /// Hours of which something was made with what other cells teach.
    taught: BTreeSet<i64>,
}

impl Kept {
    pub(super) fn new(question: &Question, version: u64) -> Self {
        Self {
            rule: question.rule,
            trust: question.trust,
            seen: version,
            facts: Vec::new(),
            places: Places::default(),
            hours: Hours::default(),
            pieces: BTreeMap::new(),
            ratings: Vec::new(),
            rated: 0,
            taught: BTreeSet::new(),
        }
    }

    pub(super) fn is_of(&self, question: &Question) -> bool {
        (self.rule, self.trust) == (question.rule, question.trust)
    }

    pub(super) fn numbers(&self) -> usize {
        let pieces = self.pieces.values().map(|(_, tally)| tally.numbers());
        self.hours.numbers() + pieces.chain(self.ratings.iter().map(Ratings::numbers)).sum::<usize>()
    }

    /// Drops the ratings that were asked for longest ago, but not those of the latest question. Whether there were any.
    pub(super) fn drop_ratings(&mut self) -> bool {
        let others = self.ratings.len() > 1;
        if others {
            self.ratings.remove(0);
        }
        others
    }

    /// Drops all hours before a question's, but for the one that its begin may cut. Whether there were any.
    pub(super) fn drop_before(&mut self, parts: &Parts) -> bool {
        let numbers = self.numbers();
        self.drop_of(i64::MIN..=parts.hours.start.saturating_sub(2));
        self.numbers() < numbers
    }

    /// Drops the oldest pieces beyond a number.
    pub(super) fn keep_pieces(&mut self, most: usize) {
        while self.pieces.len() > most {
            self.pieces.pop_first();
        }
        self.ratings.iter_mut().for_each(|ratings| ratings.keep_pieces(most));
    }

    /// The ratings that a question asks for, made the latest; they begin with nothing.
    fn ratings(&mut self, rates: &Rates) -> Option<&mut Ratings> {
        let ratings = match self.ratings.iter().position(|ratings| ratings.are_of(rates)) {
            Some(at) => self.ratings.remove(at),
            None => {
                self.rated += 1;
                Ratings::new(rates, self.rated)
            }
        };
        self.ratings.push(ratings);
        self.ratings.last_mut()
    }

    /// The parts of a question that are not there, or were made with other factors.
    pub(super) fn missing(&mut self, asked: &Asked<'_>) -> Vec<Part> {
        let parts = &asked.parts;
        let mut hours: BTreeSet<i64> = self.hours.missing(parts.hours.clone()).into_iter().collect();
        let without = parts.pieces.iter().filter(|piece| self.piece(**piece).is_none());
        let mut pieces: BTreeMap<UnixNanos, Window> = without.map(|piece| (piece.start(), *piece)).collect();
        if let Some(rates) = &asked.rates
            && let Some(ratings) = self.ratings(rates)
        {
            let other = rates.hours(parts).filter(|(hour, digest)| !ratings.has_hour(*hour, digest));
            hours.extend(other.map(|(hour, _)| hour));
            let other = rates.pieces(parts).filter(|(piece, digest)| !ratings.has_piece(*piece, digest));
            pieces.extend(other.map(|(piece, _)| (piece.start(), piece)));
        }
        let hours = hours.into_iter().filter_map(|hour| Some(Part { window: window_of(hour)?, hour: Some(hour) }));
        hours.chain(pieces.into_values().map(|window| Part { window, hour: None })).collect()
    }

    /// Keeps what was made of a part if it stands and there is room for it, and else leaves it to the question. `false` where
    /// it does not go with what was left to it before.
    pub(super) fn put(
        &mut self,
        asked: &Asked<'_>,
        part: Part,
        made: Made,
        (stands, room): (bool, usize),
        loose: &mut Loose,
    ) -> bool {
        let (window, start) = (part.window, part.window.start());
        let tally = self.places.tally(&made.rated.totals);
        let rates = asked.rates.as_ref();
        let rating = rates.and_then(|rates| Some(self.ratings(rates)?.part(made.rated, &asked.gathered.origins)));
        let numbers = tally.numbers() + rating.as_ref().map_or(0, |rating| rating.numbers());
        if stands && self.numbers() + numbers <= room {
            self.taught.extend(made.taught.then_some(hour_of(start)));
            match part.hour {
                Some(hour) => self.hours.insert(hour, tally),
                None => drop(self.pieces.insert(start, (window.end(), tally))),
            }
            if let (Some(rates), Some(rating)) = (rates, rating)
                && let Some(digest) = rates.digest(&asked.parts, part)
                && let Some(ratings) = self.ratings(rates)
            {
                ratings.keep(part, digest, rating);
            }
            return true;
        }
        match part.hour {
            Some(hour) => drop(loose.hours.insert(hour, tally)),
            None => drop(loose.pieces.insert(start, tally)),
        }
        match (rates.and_then(|rates| self.ratings(rates)), rating) {
            (Some(ratings), Some(rating)) => ratings.add_loose(&mut loose.rated, part, &rating),
            _ => true,
        }
    }

    fn piece(&self, piece: Window) -> Option<&Tally> {
        self.pieces.get(&piece.start()).filter(|(end, _)| *end == piece.end()).map(|(_, tally)| tally)
    }

    /// Drops what changed since it was kept. Whether nothing of the nodes did.
    pub(super) fn take_in(&mut self, book: &Book, facts: &[Facts]) -> bool {
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
        self.ratings.iter_mut().for_each(|ratings| ratings.remove(hours.clone()));
        self.hours.remove(hours);
    }

    /// The totals of a question: of what is kept, or else of what was made.
    pub(super) fn rated(&mut self, asked: &Asked<'_>, loose: Loose) -> Option<Rated> {
        let Asked { gathered, question, parts, .. } = asked;
        let sum = self.sum(parts, &loose)?;
        let totals = self.places.totals(&sum, question.level, question.rule);
        match &asked.rates {
            Some(rates) => self.ratings(rates)?.rated(totals, gathered, (parts, rates, loose.rated)),
            None => Some(Rated { totals, impacts: Impacts::default(), pues: BTreeMap::new() }),
        }
    }

    fn sum(&self, parts: &Parts, loose: &Loose) -> Option<Tally> {
        let mut sum = self.hours.sum(parts.hours.clone(), &loose.hours)?;
        for piece in &parts.pieces {
            sum.plus(loose.pieces.get(&piece.start()).or_else(|| self.piece(*piece))?);
        }
        Some(sum)
    }
}
