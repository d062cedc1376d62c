//! Keeps count across pages: takes resets out of the engine's counters, series by series.
//!
//! Per series only the last value is kept; what it grew by is added to a sum per service and metric. So a series that
//! vanishes, or is reloaded and starts again at 0, takes nothing away. Fields are evaluated on these sums.
//!
//! Sums are integers: counts as they are, seconds as 10⁻¹² of the page's unit.

use super::distribution::MOST_SERVICES;
use super::exposition::{Page, Sample};
use super::mapping::Field;
use super::reader::{Consumer, PageIdentity, Reader, Upstream};
use joulebook_units::{BootNanos, CountKind};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// A series that is gone for this long is forgotten; if it comes back it counts from 0.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Highest value that a counter on a page can hold exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What the first page of an epoch means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstPage {
    /// The counters' values were reached while this agent watched: they count from 0.
    CountsFromZero,
    /// Nobody knows when they were reached: they are the baseline.
    IsBaseline,
}

/// What one page adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// Per service that the page names.
    pub services: Vec<(PageIdentity, Counts)>,
    /// Per consumer that a gateway's page names; such a page names no service.
    pub consumers: Vec<(Consumer, Counts)>,
    /// What a gateway's page says of its upstreams, by the names that consumers have of them.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Whether adapters are counted in their base. Once told it holds for the epoch: engines name only those at work.
    pub adapters: bool,
    /// Whether a series fell, so that the engine restarted or reloaded a model.
    pub reset: bool,
    /// Samples left out because their value cannot be a count.
    pub bad_values: u64,
    /// Samples left out because their series occurs more than once.
    pub duplicates: u64,
}

/// Counts of one service. A kind that is absent is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Counted since the page before.
    pub added: BTreeMap<CountKind, u64>,
    /// What the page itself shows now.
    pub shown: BTreeMap<CountKind, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    name: String,
    labels: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    /// `None`: met, but never with a good value, on a page that was a baseline.
    value: Option<u128>,
    seen: BootNanos,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    metrics: Vec<u128>,
    /// Highest value given out per field.
    given: BTreeMap<Field, u128>,
    /// Counted in buckets since the page before.
    buckets: BTreeMap<CountKind, u64>,
    /// What the page shows in buckets.
    buckets_shown: BTreeMap<CountKind, u64>,
    /// Whether the service has opened; until then nothing is given out.
    open: bool,
}

/// The memory of one target.
#[derive(Debug)]
pub struct Tally {
    reader: Reader,
    last: HashMap<SeriesKey, Last>,
    sums: HashMap<PageIdentity, Sums>,
    /// What the next page means, if it is the first of an epoch.
    first: Option<FirstPage>,
    adapters: bool,
}

impl Tally {
    /// An empty memory.
    pub fn new(reader: Reader) -> Self {
        Self { reader, last: HashMap::new(), sums: HashMap::new(), first: Some(FirstPage::IsBaseline), adapters: false }
    }

    /// Another process counts from here on: what was last seen of its predecessor means nothing.
    pub fn new_epoch(&mut self, first: FirstPage) {
        self.last.clear();
        self.first = Some(first);
        self.adapters = false;
    }

    /// Takes a page in. `at` only ages series that are gone.
    pub fn observe(&mut self, page: &Page<'_>, at: BootNanos) -> Observation {
        let first = self.first.take();
        self.adapters |= self.reader.adapters(page);
        let mut out = Observation { adapters: self.adapters, ..Observation::default() };
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        let told = self.reader.told(page);
        let distributed = self.reader.distributed().told(page);
        if self.reader.is_gateway() {
            out.upstreams = self.reader.upstreams(page);
        }
        let metrics = self.reader.metrics().len();
        for (index, (metric, _)) in self.reader.metrics().iter().enumerate().filter(|(index, _)| told[*index]) {
            by_name.entry(metric.name.as_str()).or_default().push(index);
        }
        self.sums.values_mut().for_each(|sums| sums.buckets_shown.clear());
        let mut shown: BTreeMap<PageIdentity, Vec<u128>> = BTreeMap::new();
        let mut refused = HashSet::new();
        let read = |sample: &&Sample<'_>| by_name.contains_key(sample.name) && self.reader.takes(sample);
        for sample in page.refused().iter().filter(read) {
            out.duplicates += 1;
            if refused.insert(key(sample)) {
                hold(&mut self.last, key(sample), first, at);
            }
        }
        for sample in page.samples() {
            if let Some(kind) = distributed.bucket(sample) {
                if let Some(identity) = self.reader.identity(sample) {
                    observe_bucket(&mut self.last, &mut self.sums, (sample, identity, kind), first, at);
                }
                continue;
            }
            let Some(indices) = by_name.get(sample.name) else { continue };
            let Some(identity) = self.reader.identity(sample) else { continue };
            let now = shown.entry(identity.clone()).or_insert_with(|| vec![0; metrics]);
            let seconds = indices.iter().all(|index| self.reader.metrics()[*index].1.is_time());
            let Some(value) = quantity(sample.value, seconds) else {
                out.bad_values += 1;
                hold(&mut self.last, key(sample), first, at);
                continue;
            };
            let before = self.last.insert(key(sample), Last { value: Some(value), seen: at });
            let held = indices.iter().all(|index| self.reader.metrics()[*index].1.is_held());
            let grown = match (before, first) {
                // What held since the page before, times the time that it held.
                (Some(Last { value: Some(before), seen }), _) if held => {
                    before.saturating_mul(at.since(seen).as_nanos())
                }
                _ if held => 0,
                _ => grown_of(before, first, value, &mut out.reset),
            };
            let sums = self.sums.entry(identity).or_default();
            sums.metrics.resize(metrics, 0);
            for index in indices.iter().filter(|index| self.reader.metrics()[**index].0.takes(sample)) {
                sums.metrics[*index] = sums.metrics[*index].saturating_add(grown);
                now[*index] = now[*index].saturating_add(value);
            }
        }
        // What never opened and is gone was invented: it must not fill the memory.
        self.sums.retain(|identity, sums| sums.open || shown.contains_key(identity));
        for (identity, shown) in shown {
            let Some(sums) = self.sums.get_mut(&identity) else { continue };
            let (counted, shown) = (self.reader.evaluate(&told, &sums.metrics), self.reader.evaluate(&told, &shown));
            sums.open |= self.reader.opens(&counted) || self.reader.opens(&shown);
            if !sums.open {
                continue;
            }
            let mut counts = Counts::default();
            for (field, total) in counted {
                let Some(total) = total.map(|total| summed(field, total)) else { continue };
                let given = sums.given.entry(field).or_insert(0);
                counts.added.insert(field.kind(), u64::try_from(total.saturating_sub(*given)).unwrap_or(u64::MAX));
                *given = total.max(*given);
            }
            counts.added.append(&mut sums.buckets);
            counts.shown.extend(sums.buckets_shown.iter().map(|(kind, count)| (*kind, *count)));
            for (field, value) in shown {
                let value = value.and_then(|value| u64::try_from(rounded(field, value)).ok());
                counts.shown.extend(value.map(|value| (field.kind(), value)));
            }
            match identity.consumer {
                Some(consumer) => out.consumers.push((consumer, counts)),
                None => out.services.push((identity, counts)),
            }
        }
        self.last.retain(|_, last| at.since(last.seen) <= FORGET_AFTER);
        out
    }
}

/// Takes a bucket in. One that cannot be is left out without a word: it says under which conditions, not how much.
fn observe_bucket(
    last: &mut HashMap<SeriesKey, Last>,
    sums: &mut HashMap<PageIdentity, Sums>,
    (sample, identity, kind): (&Sample<'_>, PageIdentity, CountKind),
    first: Option<FirstPage>,
    at: BootNanos,
) {
    let Some(value) = quantity(sample.value, false) else { return };
    if !sums.contains_key(&identity) && sums.len() >= MOST_SERVICES {
        return;
    }
    let before = last.insert(key(sample), Last { value: Some(value), seen: at });
    let grown = grown_of(before, first, value, &mut false);
    let sums = sums.entry(identity).or_default();
    for (sum, more) in [(&mut sums.buckets, grown), (&mut sums.buckets_shown, value)] {
        let sum = sum.entry(kind).or_insert(0);
        *sum = sum.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
    }
}

/// What a counter grew by.
fn grown_of(before: Option<Last>, first: Option<FirstPage>, value: u128, reset: &mut bool) -> u128 {
    match (before, first) {
        (Some(Last { value: Some(before), .. }), _) if value < before => {
            *reset = true;
            value
        }
        (Some(Last { value: Some(before), .. }), _) => value - before,
        (Some(Last { value: None, .. }), _) | (None, Some(FirstPage::IsBaseline)) => 0,
        (None, Some(FirstPage::CountsFromZero) | None) => value,
    }
}

/// A series without a usable value: what it counted stays, and on a baseline page it must not count from 0 later.
fn hold(last: &mut HashMap<SeriesKey, Last>, key: SeriesKey, first: Option<FirstPage>, at: BootNanos) {
    match last.get_mut(&key) {
        Some(known) => known.seen = at,
        None if first == Some(FirstPage::IsBaseline) => {
            last.insert(key, Last { value: None, seen: at });
        }
        None => {}
    }
}

fn key(sample: &Sample<'_>) -> SeriesKey {
    let labels = sample.labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into_owned())).collect();
    SeriesKey { name: sample.name.to_owned(), labels }
}

/// The sample's value as an integer; `None` if it can be no amount (negative, not finite, beyond 2⁵³, part of a count).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 … 2⁵³, times 10¹² at most")]
fn quantity(value: f64, seconds: bool) -> Option<u128> {
    if !(0.0..=EXACT).contains(&value) {
        return None;
    }
    if seconds {
        return Some((value * 1e12).round() as u128);
    }
    (value.fract().abs() < f64::MIN_POSITIVE).then_some(value as u128)
}

/// What was added up: of memory in byte-nanoseconds, in byte-seconds, since nanoseconds would not fit for long.
fn summed(field: Field, value: u128) -> u128 {
    if field == Field::ResidentBytes { value / 1_000_000_000 } else { rounded(field, value) }
}

/// Seconds become nanoseconds, the rest stays.
fn rounded(field: Field, value: u128) -> u128 {
    if field.is_time() { value.saturating_add(500) / 1000 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAPPING: &str = "labels.model = \"m\"\nvalues.items = { metric = \"a_total\", type = \"counter\" }\n\
        values.busy_seconds = { metric = \"us\", type = \"counter\", scale = 1e-6 }";

    fn tally(first: FirstPage) -> Tally {
        let mut tally = Tally::new(Reader::new(toml::from_str(MAPPING).expect("valid")).expect("counts"));
        tally.new_epoch(first);
        tally
    }

    fn observe(tally: &mut Tally, text: &str) -> Observation {
        let text = format!("# TYPE a counter\n{text}\n");
        tally.observe(&Page::parse(text.as_bytes()).expect("legal"), BootNanos(1))
    }

    fn items(observation: &Observation) -> Option<u64> {
        observation.services.iter().map(|(_, counts)| counts.added.get(&CountKind::Items).copied()).sum()
    }

    #[test]
    fn a_fallen_series_counts_its_new_value_and_the_others_go_on() {
        let mut tally = tally(FirstPage::CountsFromZero);
        assert_eq!(items(&observe(&mut tally, "a_total{v=\"1\"} 10\na_total{v=\"2\"} 5")), Some(15));
        let second = observe(&mut tally, "a_total{v=\"1\"} 3\na_total{v=\"2\"} 6");
        assert_eq!((items(&second), second.reset), (Some(4), true));
        let third = observe(&mut tally, "a_total{v=\"1\"} 4\na_total{v=\"2\"} 6\na_total{v=\"3\"} 7");
        assert_eq!((items(&third), third.reset), (Some(8), false));
    }

    #[test]
    fn a_baseline_counts_nothing_that_was_there_before() {
        let mut tally = tally(FirstPage::IsBaseline);
        assert_eq!(
            items(&observe(&mut tally, "a_total 10\na_total{v=\"2\"} NaN\na_total{v=\"3\"} 1\na_total{v=\"3\"} 1")),
            Some(0)
        );
        assert_eq!(items(&observe(&mut tally, "a_total 11\na_total{v=\"2\"} 100\na_total{v=\"3\"} 9")), Some(1));
    }

    #[test]
    fn a_new_process_counts_from_zero_even_above_the_old_value() {
        let mut tally = tally(FirstPage::CountsFromZero);
        observe(&mut tally, "a_total 10");
        tally.new_epoch(FirstPage::CountsFromZero);
        assert_eq!(items(&observe(&mut tally, "a_total 12")), Some(12));
    }

    #[test]
    fn values_that_are_no_count_are_left_out_alone() {
        let mut tally = tally(FirstPage::CountsFromZero);
        let seen = observe(
            &mut tally,
            "a_total{v=\"1\"} NaN\na_total{v=\"2\"} +Inf\na_total{v=\"3\"} -1\na_total{v=\"4\"} 1e300\n\
             a_total{v=\"5\"} 1.5\na_total{v=\"6\"} 9007199254740994\na_total{v=\"7\"} 7",
        );
        assert_eq!((items(&seen), seen.bad_values), (Some(7), 6));
        assert_eq!(items(&observe(&mut tally, "a_total{v=\"7\"} NaN")), Some(0));
        assert_eq!(items(&observe(&mut tally, "a_total{v=\"7\"} 9")), Some(2));
    }

    #[test]
    fn a_service_opens_with_its_first_success_and_brings_what_was_counted_before() {
        let mapping = "labels.version = \"v\"\nopened_by = \"requests_ok\"\n\
            values.requests_ok = { metric = \"ok\", type = \"counter\" }\n\
            values.requests_failed = { metric = \"bad\", type = \"counter\" }";
        let mut tally = Tally::new(Reader::new(toml::from_str(mapping).expect("valid")).expect("counts"));
        tally.new_epoch(FirstPage::CountsFromZero);
        let mut failed = |text: &str| {
            let text = format!("# TYPE ok counter\n# TYPE bad counter\n{text}\n");
            let seen = tally.observe(&Page::parse(text.as_bytes()).expect("legal"), BootNanos(1));
            let failed = |(_, counts): &(_, Counts)| counts.added.get(&CountKind::RequestsFailed).copied();
            seen.services.iter().map(failed).collect::<Vec<_>>()
        };
        assert_eq!(failed("bad{v=\"9\"} 2\nok{v=\"9\"} 0"), []);
        assert_eq!(failed("bad{v=\"9\"} 3\nok{v=\"9\"} 1"), [Some(3)]);
        assert_eq!(failed("bad{v=\"9\"} 4\nok{v=\"9\"} 0"), [Some(1)], "a reload does not close it");
    }

    #[test]
    fn adapters_stay_told_while_the_process_runs() {
        let mapping = "adapters = [{ metric = \"info\", type = \"gauge\", where.a = { not_in = [\"\"] } }]\n\
            values.items = { metric = \"a\", type = \"counter\" }";
        let mut tally = Tally::new(Reader::new(toml::from_str(mapping).expect("valid")).expect("counts"));
        let mut told = |text: &str| {
            let text = format!("# TYPE info gauge\n{text}\n");
            tally.observe(&Page::parse(text.as_bytes()).expect("legal"), BootNanos(1)).adapters
        };
        assert_eq!(["info{a=\"\"} 1", "info{a=\"x\"} 1", "info{a=\"\"} 2"].map(&mut told), [false, true, true]);
        tally.new_epoch(FirstPage::CountsFromZero);
        assert!(!tally.observe(&Page::default(), BootNanos(2)).adapters);
    }

    #[test]
    fn memory_that_a_model_holds_adds_up_over_the_time_for_which_it_was_seen_to_hold_it() {
        let mapping = "labels.model = \"m\"\nvalues.resident_bytes = { metric = \"mem\", type = \"gauge\" }";
        let mut tally = Tally::new(Reader::new(toml::from_str(mapping).expect("valid")).expect("counts"));
        let mut held = |second: u64, bytes: u64| {
            let text = format!("# TYPE mem gauge\nmem{{m=\"a\"}} {bytes}\n");
            let page = Page::parse(text.as_bytes()).expect("legal");
            let seen = tally.observe(&page, BootNanos(second * 1_000_000_000));
            (
                seen.services[0].1.added[&CountKind::ResidentByteSeconds],
                seen.services[0].1.shown[&CountKind::ResidentByteSeconds],
            )
        };
        let pages = [(10, 80 << 30), (20, 40 << 30), (25, 40 << 30)].map(|(second, bytes)| held(second, bytes));
        assert_eq!(pages, [(0, 80 << 30), ((80 << 30) * 10, 40 << 30), ((40 << 30) * 5, 40 << 30)]);
    }

    #[test]
    fn microseconds_become_nanoseconds_of_busy_time() {
        let mut tally = tally(FirstPage::CountsFromZero);
        let seen = observe(&mut tally, "# TYPE us counter\nus 1500000.25");
        assert_eq!(seen.services[0].1.added.get(&CountKind::BusyNanos), Some(&1_500_000_250));
    }

    proptest! {
        #[test]
        fn the_sum_of_what_is_added_is_what_the_engine_counted(
            steps in proptest::collection::vec((0_u64..1000, any::<bool>(), any::<bool>()), 1..60)
        ) {
            // A reset is visible only if the new value is below the old one, so the model resets and scrapes at 0.
            let mut tally = tally(FirstPage::CountsFromZero);
            let (mut shown, mut truth, mut counted) = (0_u64, 0_u64, 0_u64);
            for (work, reset, scraped) in steps {
                if reset {
                    counted += items(&observe(&mut tally, &format!("a_total {shown}"))).unwrap_or(0);
                    shown = 0;
                    counted += items(&observe(&mut tally, "a_total 0")).unwrap_or(0);
                }
                shown += work;
                truth += work;
                if scraped {
                    counted += items(&observe(&mut tally, &format!("a_total {shown}"))).unwrap_or(0);
                }
            }
            counted += items(&observe(&mut tally, &format!("a_total {shown}"))).unwrap_or(0);
            prop_assert_eq!(counted, truth);
        }
    }
}
