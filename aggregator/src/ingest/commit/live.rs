//! What is known of streams and of their series in this life of the process, and which of them are active.
//!
//! Everything that a column is held against lies in one place of its stream's table, found once.

use super::*;
use crate::store::catalog::Dictionary;

/// A series that a stream has described or brought in this life of the process.
#[derive(Debug)]
pub(super) struct LiveSeries {
    /// What it measures.
    pub(super) subject: Arc<Subject>,
    /// Its last stored point.
    pub(super) last: Option<StampedValue>,
    /// When something of it was stored last.
    seen: UnixNanos,
    /// Whether it counts as active: `seen` is no longer ago than [`ACTIVE_SECONDS`], or nobody has looked since.
    is_active: bool,
    /// Whether it is described and no stored record has used it yet.
    is_unused: bool,
    /// Whether it was described in two ways.
    is_conflicting: bool,
}

impl LiveSeries {
    /// One that is stored.
    pub(super) fn stored(subject: Arc<Subject>) -> Self {
        let (seen, is_active, is_unused, is_conflicting) = (UnixNanos::default(), false, false, false);
        Self { subject, last: None, seen, is_active, is_unused, is_conflicting }
    }
}

/// What is known of a stream in this life of the process.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// What it has described or brought.
    pub(super) series: Dictionary<LiveSeries>,
    /// Whether the last point of every series that the stream ever stored is known.
    pub(super) complete: bool,
    /// Those that are described and unused.
    unused: usize,
    /// Those that are active.
    active: usize,
}

impl Live {
    /// Of a stream of which nothing is known yet, and that has stored nothing if it is `fresh`.
    pub(super) fn begun(fresh: bool) -> Self {
        Self { complete: fresh, ..Self::default() }
    }

    /// Notes what a series of the stream measures, of which the catalog knows or not.
    pub(super) fn describe(&mut self, ordinal: u32, number: u32, subject: Subject, catalog: &mut Catalog) {
        if let Some((_, known)) = self.series.find(number, 0).ok().and_then(|place| self.series.at(place)) {
            known.is_conflicting = *known.subject != subject;
            return;
        }
        match catalog.subject(ordinal, number) {
            Some(known) if *known == subject => {}
            Some(known) => {
                self.series.insert(number, LiveSeries { is_conflicting: true, ..LiveSeries::stored(known) });
            }
            // Further ones are unknown when a record uses them.
            None if self.unused >= UNUSED_SERIES => {}
            None => {
                let subject = catalog.share(subject);
                self.series.insert(number, LiveSeries { is_unused: true, ..LiveSeries::stored(subject) });
                self.unused += 1;
            }
        }
    }

    /// Last points that are known.
    pub(super) fn tails(&self) -> impl Iterator<Item = (u32, StampedValue)> {
        self.series.iter().filter_map(|(number, series)| Some((number, series.last?)))
    }

    /// Sets the last point of a series that is stored, unless a newer one is known.
    pub(super) fn recall(&mut self, number: u32, subject: &Arc<Subject>, last: StampedValue) {
        let place = self.series.find(number, 0);
        let place = place.unwrap_or_else(|_| self.series.insert(number, LiveSeries::stored(Arc::clone(subject))));
        if let Some((_, series)) = self.series.at(place) {
            series.last.get_or_insert(last);
        }
    }

    /// Series that brought nothing since `oldest` are active no more. How many those are.
    fn sweep(&mut self, oldest: UnixNanos) -> usize {
        let before = self.active;
        for series in self.series.values_mut().filter(|series| series.is_active && series.seen < oldest) {
            series.is_active = false;
            self.active -= 1;
        }
        before - self.active
    }
}

/// The active series of a node.
#[derive(Debug, Default)]
pub(super) struct Active {
    /// Of all its streams.
    count: usize,
    /// The streams that have any.
    streams: Vec<u32>,
    /// When it was looked last which of them are silent: those that are left then are active as long as it is that time.
    swept: Option<UnixNanos>,
}

/// A stream whose record is under way, with what its columns are held against.
pub(super) struct Current {
    pub(super) ordinal: u32,
    /// Number of its node.
    pub(super) node: u32,
    live: Live,
    /// Last points before a loss that are not joined yet.
    bridges: Option<Bridges>,
    /// The place of the next column's series, if columns come in the order of the numbers.
    next: usize,
}

impl Current {
    /// What a series measures, by its place.
    pub(super) fn subject(&mut self, place: usize) -> Option<&Arc<Subject>> {
        self.live.series.at(place).map(|(_, series)| &series.subject)
    }

    /// The same, with its last stored point, if that is known.
    pub(super) fn known(&mut self, place: usize) -> Option<(&Arc<Subject>, Option<StampedValue>)> {
        let (number, series) = self.live.series.at(place)?;
        let bridged = || self.bridges.as_ref()?.get(&number).copied();
        Some((&series.subject, series.last.or_else(bridged)))
    }
}

impl Group<'_> {
    /// Takes out what a record of a stream is held against; [`Group::put_back`] ends it.
    pub(super) fn take_out(&mut self, node: u32, ordinal: u32) -> Current {
        let live = self.intake.live.get_mut(&ordinal).map(std::mem::take).unwrap_or_default();
        Current { ordinal, node, live, bridges: self.catalog.bridges.remove(&ordinal), next: 0 }
    }

    /// Puts it back as the record left it.
    pub(super) fn put_back(&mut self, current: Current) {
        self.intake.live.insert(current.ordinal, current.live);
        self.catalog.bridges.extend(current.bridges.map(|bridges| (current.ordinal, bridges)));
    }

    /// The place of a series that values may come of, or why none may.
    pub(super) fn find(&mut self, current: &mut Current, number: u32) -> Result<usize, RejectReason> {
        let place = match current.live.series.find(number, current.next) {
            Ok(place) => place,
            Err(_) => {
                let stored = self.catalog.subject(current.ordinal, number).ok_or(RejectReason::UnknownSeries)?;
                current.live.series.insert(number, LiveSeries::stored(stored))
            }
        };
        current.next = place + 1;
        let Some((_, series)) = current.live.series.at(place) else { return Err(RejectReason::UnknownSeries) };
        if series.is_conflicting {
            return Err(RejectReason::UnknownSeries);
        }
        if !series.is_active && self.is_full(current) {
            return Err(RejectReason::Cardinality);
        }
        Ok(place)
    }

    /// Whether a stream may have no further series now.
    fn is_full(&mut self, current: &mut Current) -> bool {
        let Intake { active, live, .. } = &mut *self.intake;
        let active = active.entry(current.node).or_default();
        let is_full =
            |active: &Active, current: &Current| active.count >= ACTIVE_OF_NODE || current.live.active >= ACTIVE_SERIES;
        if is_full(active, current) && active.swept != Some(self.now) {
            active.swept = Some(self.now);
            let oldest = self.now.plus_seconds(-ACTIVE_SECONDS);
            active.streams.retain(|ordinal| {
                let own = *ordinal == current.ordinal;
                let Some(live) = (if own { Some(&mut current.live) } else { live.get_mut(ordinal) }) else {
                    return false;
                };
                active.count -= live.sweep(oldest);
                live.active > 0
            });
        }
        is_full(active, current)
    }

    /// Notes that something of a series is stored, and its last point where it has one.
    pub(super) fn keep(&mut self, current: &mut Current, place: usize, last: Option<StampedValue>) {
        let Current { ordinal, node, live, bridges, .. } = current;
        let Some((number, series)) = live.series.at(place) else { return };
        if std::mem::take(&mut series.is_unused) {
            live.unused -= 1;
            let subject = Arc::clone(&series.subject);
            self.catalog.put_series(*ordinal, number, subject, &mut self.changes.writes);
        }
        series.last = last.or(series.last);
        series.seen = self.now;
        if !std::mem::replace(&mut series.is_active, true) {
            let active = self.intake.active.entry(*node).or_default();
            active.count += 1;
            if live.active == 0 {
                active.streams.push(*ordinal);
            }
            live.active += 1;
        }
        if bridges.as_mut().is_some_and(|bridges| bridges.remove(&number).is_some()) {
            self.bridges.insert(*ordinal);
        }
    }
}
