//! Grams from sums of hours are those of adding up every slot, to the last bit: whatever is asked, and whatever changes behind
//! them.

use super::*;
use joulebook_aggregator::ingest::{Counters, Intake, Opening, Reply, Request};
use joulebook_aggregator::query::warm::warm;
use joulebook_aggregator::store::memory::MemoryStore;
use joulebook_aggregator::store::{Direction, Durability, Store, StoreError, Table, Visit, Writes};
use joulebook_proto::query::{GetSciRequest, GetSciResponse, IntensityKind};
use joulebook_sci::series::Status;
use joulebook_tests::scripted::script::{DAY_HOURS, FIRST_HOUR};
use joulebook_tests::scripted::{Fleet, Script, grid};
use joulebook_units::{BootId, BootNanos, Inventory, StreamId, Window};
use std::ops::Range;

/// 2026-10-01T00:00:00Z.
const END: UnixNanos = UnixNanos(1_790_812_800_000_000_000);
const DAYS: i64 = 3;
/// An hour of the second day in which the fleet is on.
const HOUR: i64 = DAY_HOURS + 8;
/// Beside the factors of the script: water, and how long hosts last.
const MORE: &str = "wue_site_l_per_kwh = 1.8\nwue_source_l_per_kwh = 2.1\nprimary_energy_mj_per_kwh = 9.0\n";

/// Two ways to answer the same questions, whose factors can be changed.
struct Both {
    remembering: Query,
    plain: Query,
    factors: watch::Sender<Arc<Factors>>,
}

impl Both {
    fn of(book: &Arc<Book>, clock: Arc<dyn Clock>, factors: Factors) -> Self {
        let (factors, told) = watch::channel(Arc::new(factors));
        let query = || Query::new(Arc::clone(book), told.clone(), Arc::clone(&clock));
        Self { remembering: query(), plain: query().remembering_nothing(), factors }
    }

    /// Both answers, the first of them twice.
    fn ask(&self, request: &GetSciRequest) -> Result<GetSciResponse, TestCaseError> {
        let ask = |query: &Query| query.sci(request).expect("well-formed");
        let plain = ask(&self.plain);
        prop_assert_eq!(&ask(&self.remembering), &plain, "{:?}", request);
        prop_assert_eq!(&ask(&self.remembering), &plain, "asked again: {:?}", request);
        Ok(plain)
    }

    /// The same, which must not be what was said before.
    fn ask_other(&self, request: &GetSciRequest, before: &GetSciResponse, why: &str) -> GetSciResponse {
        let after = self.ask(request).expect(why);
        let carbon = |response: &GetSciResponse| -> Vec<_> {
            response.answers.iter().map(|answer| (answer.carbon, answer.impacts.clone())).collect()
        };
        assert_ne!(carbon(&after), carbon(before), "{why}");
        after
    }
}

fn wire(start: UnixNanos, end: UnixNanos) -> Option<TimeWindow> {
    Some(TimeWindow { start_unix_nanos: start.0, end_unix_nanos: end.0 })
}

fn fleet() -> Fleet {
    Fleet::write(Arc::new(MemoryStore::default()), Script::ending(END, DAYS, 4))
}

fn asked_of(fleet: &Fleet) -> Both {
    let clock = Arc::new(Set(AtomicI64::new(fleet.now.0)));
    Both::of(&fleet.book, clock, grid::factors())
}

/// Everything of the script.
fn whole(fleet: &Fleet) -> GetSciRequest {
    GetSciRequest { window: wire(fleet.script.day(0), fleet.script.day(DAYS)), ..GetSciRequest::default() }
}

/// The script's factors with more of them.
fn more() -> Factors {
    let text = grid::CONFIGURATION.replace("[site.iad]\n", &format!("[site.iad]\n{MORE}"));
    Factors::new(&toml::from_str(&text.replace("pue = 1.3", "pue = 1.35")).expect("syntax")).expect("valid")
}

/// Opens a session of a node that says something else of itself than before.
fn tell_of(book: &Arc<Book>, inventory: Inventory, now: UnixNanos) {
    let mut intake = Intake::new(Arc::clone(book), Arc::new(Counters::default()));
    // A stream is one node's for ever, and names differ in their last letter.
    let own = inventory.node.as_str().bytes().last().expect("a name");
    let opening = Opening {
        inventory,
        poller: None,
        epoch: 9,
        boot: BootId([99; 16]),
        boot_time: BootNanos(1_000_000_000),
        wall: now,
        received: now,
        streams: vec![StreamId([own; 16])],
    };
    let replies = intake.apply(now, vec![Request::Open(99, Box::new(opening))]).expect("the store does not fail");
    assert!(matches!(replies.as_slice(), [Reply::Opened(_)]), "{replies:?}");
}

#[test]
fn grams_of_the_fleet_are_those_of_every_slot_however_they_are_asked_for() {
    let fleet = fleet();
    let asked = asked_of(&fleet);
    let (start, end) = (fleet.script.day(0), fleet.script.day(DAYS));
    let windows = [
        (start, end),
        (start.plus_seconds(7 * 300), end.plus_seconds(-4 * 300)),
        (fleet.script.hour(HOUR), fleet.script.hour(HOUR + 1)),
        (fleet.script.hour(6).plus_seconds(100), fleet.script.hour(HOUR).plus_seconds(1234)),
    ];
    let ask = |request: GetSciRequest| {
        for (start, end) in windows {
            asked.ask(&GetSciRequest { window: wire(start, end), ..request.clone() }).expect("the same");
        }
    };
    let facility = Level::Facility.into();
    for (policy, level) in (1..=6).map(|policy| (policy, facility)).chain((1..facility).map(|level| (1, level))) {
        ask(GetSciRequest { idle_policy: policy, level, ..GetSciRequest::default() });
    }
    for (unit, scope, trust) in [(1, 1, 2), (2, 2, 1), (3, 3, 2)] {
        ask(GetSciRequest { functional_unit: unit, idle_scope: scope, trust, ..GetSciRequest::default() });
    }
    for kind in [IntensityKind::AverageConsumption, IntensityKind::MarginalLongRun] {
        ask(GetSciRequest { intensity_kind: kind.into(), ..GetSciRequest::default() });
    }
    for known in [fleet.script.day(1), fleet.script.day(2), fleet.now] {
        ask(GetSciRequest { as_of_unix_nanos: Some(known.0), extended: true, ..GetSciRequest::default() });
    }
    asked.factors.send_replace(Arc::new(more()));
    ask(GetSciRequest::default());
}

#[test]
fn what_was_remembered_of_grams_goes_with_a_factor_a_cell_and_a_node_that_change() {
    let fleet = fleet();
    let asked = asked_of(&fleet);
    let request = whole(&fleet);
    let first = asked.ask(&request).expect("the same");
    let known = fleet.now;
    let late = |series: usize, value: f64, after: i64| {
        let at = fleet.now.plus_seconds(after);
        grid::record(&fleet.book, &fleet.script, series, [(HOUR, value)].into_iter(), (Status::Measured, at));
    };

    late(1, 123.4, 1);
    let second = asked.ask_other(&request, &first, "an intensity was corrected");
    late(2, 1.55, 2);
    let third = asked.ask_other(&request, &second, "a PUE was corrected");
    let before = asked.ask(&GetSciRequest { as_of_unix_nanos: Some(known.0), ..request.clone() }).expect("the same");
    assert_eq!(before.answers[0].carbon, first.answers[0].carbon, "what was known before is known still");
    let now = asked.ask(&request).expect("the same");
    assert_eq!(now.answers[0].carbon, third.answers[0].carbon, "and takes nothing away");
    asked.factors.send_replace(Arc::new(more()));
    let fourth = asked.ask_other(&request, &third, "another configuration");
    let made = grid::CONFIGURATION.replace("[embodied]\n", "[embodied]\nnode_primary_energy_mj = 5000.0\n");
    let made = Factors::new(&toml::from_str(&made).expect("syntax")).expect("valid");
    asked.factors.send_replace(Arc::new(made));
    let fifth = asked.ask_other(&request, &fourth, "what making a node takes was declared");
    // What is asked for first has none of the grams made anew.
    let energy = GetEnergyRequest { window: request.window, ..GetEnergyRequest::default() };
    let ask_energy = || asked.remembering.energy(&energy).expect("well-formed");

    let hour = fleet.script.hour_window(HOUR);
    let (start, mut cell) = fleet.book.cells(0, Resolution::Settled, hour).expect("memory does not fail").remove(0);
    cell.entries.values_mut().for_each(|energy| *energy += 1_000_000_000);
    fleet.book.settle(0, &[(Resolution::Settled, start, cell)], &[]).expect("memory does not fail");
    ask_energy();
    let sixth = asked.ask_other(&request, &fifth, "a cell was settled anew");

    let mut inventory = fleet.book.nodes().remove(0).inventory;
    inventory.placement.site = Some("iad".to_owned());
    tell_of(&fleet.book, inventory.clone(), fleet.now);
    ask_energy();
    let seventh = asked.ask_other(&request, &sixth, "a node stands elsewhere");
    inventory.hardware.memory_bytes = Some(1 << 45);
    tell_of(&fleet.book, inventory, fleet.now);
    asked.ask_other(&request, &seventh, "more was made for a node");
}

/// A store that counts how often settled cells are asked for.
#[derive(Default)]
struct Counting {
    inner: MemoryStore,
    reads: AtomicI64,
}

impl Counting {
    fn count(&self, table: Table) {
        self.reads.fetch_add(i64::from(table == Resolution::Settled.table()), Ordering::Relaxed);
    }
}

impl Store for Counting {
    fn commit(&self, writes: Writes, durability: Durability) -> Result<(), StoreError> {
        self.inner.commit(writes, durability)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.count(table);
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        range: Range<&[u8]>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.count(table);
        self.inner.scan(table, range, direction, visit)
    }
}

#[tokio::test]
async fn what_is_summed_up_after_a_start_is_read_by_no_question_and_nothing_is_where_all_stop() {
    let store = Arc::new(Counting::default());
    let fleet = Fleet::write(Arc::clone(&store) as Arc<dyn Store>, Script::ending(END, 1, 4));
    let query = Arc::new(fleet.query());
    let reads = |store: &Counting| store.reads.swap(0, Ordering::Relaxed);
    // The hour that is not over for long enough is nobody's sum.
    let (start, end) = (fleet.script.hour(FIRST_HOUR), fleet.script.day(1).plus_seconds(-3600));
    let request = GetSciRequest { window: wire(start, end), ..GetSciRequest::default() };
    let energy = GetEnergyRequest { window: request.window, ..GetEnergyRequest::default() };

    reads(&store);
    let (stop, mut stopping) = watch::channel(true);
    warm(&query, &mut stopping).await;
    assert_eq!(reads(&store), 0, "all stop");
    stop.send_replace(false);
    warm(&query, &mut stopping).await;
    assert!(reads(&store) > 0);
    let (grams, joules) = (query.sci(&request), query.energy(&energy));
    assert_eq!(reads(&store), 0, "a question after it");
    let plain = fleet.query().remembering_nothing();
    let (plain_grams, plain_joules) = (plain.sci(&request), plain.energy(&energy));
    assert!(reads(&store) > 0);
    assert_eq!(grams.expect("well-formed"), plain_grams.expect("well-formed"));
    assert_eq!(joules.expect("well-formed"), plain_joules.expect("well-formed"));
}

/// What of the histories' nodes and of their sites may change.
#[derive(Debug, Clone)]
enum Change {
    /// Values of a series from a part of the time on, each over so many seconds.
    Series { name: &'static str, from: u16, seconds: i64, values: Vec<f64> },
    /// Another configuration, of three.
    Factors(usize),
    /// Another place of a node, of three.
    Placement(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let name = prop::sample::select(vec!["grid", "hall", "rivers"]);
    // Cells of a minute cut slots; those of seven hundred seconds lie across.
    let seconds = prop::sample::select(vec![60, 300, 700, 3600]);
    let values = prop::collection::vec(1.0f64..3.0, 1..30);
    prop_oneof![
        4 => (name, any::<u16>(), seconds, values)
            .prop_map(|(name, from, seconds, values)| Change::Series { name, from, seconds, values }),
        1 => (0usize..3).prop_map(Change::Factors),
        1 => (any::<prop::sample::Index>(), 0usize..3).prop_map(|(node, place)| Change::Placement(node, place)),
    ]
}

fn configuration(number: usize) -> Factors {
    let site = ["", "pue = 1.4\n", "pue = 1.4\nwue_site_l_per_kwh = 1.8\nprimary_energy_mj_per_kwh = 9.0\n"][number];
    let out = ["", "", "[[out_of_service]]\nnode = \"node-0\"\nfrom = \"2026-09-21T15:30:00Z\"\nreason = \"repair\"\n"]
        [number];
    let life = ["lifespan_hours = 30000\n", "gpu_kg = 100\n", "node_primary_energy_mj = 5000.0\n"][number];
    let text = format!(
        "[site.default]\nzone = \"DEU\"\n{site}{out}[embodied]\n{life}\
         [[factor]]\nname = \"grid\"\nkind = \"average_consumption\"\n\
         [[factor]]\nname = \"hall\"\nquantity = \"pue\"\n\
         [[factor]]\nname = \"rivers\"\nquantity = \"wue_source\"\n"
    );
    Factors::new(&toml::from_str(&text).expect("syntax")).expect("valid")
}

struct World<'a> {
    aggregator: Aggregator,
    histories: &'a [History],
    asked: Both,
    /// Corrections come one after the other.
    recorded: i64,
}

impl World<'_> {
    fn end(&self) -> i64 {
        self.aggregator.now.0 - BOOTED
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Factors(number) => drop(self.asked.factors.send_replace(Arc::new(configuration(number)))),
            Change::Placement(node, place) => {
                let mut inventory = inventory(u8::try_from(node.index(self.histories.len())).expect("few"));
                let placement = &mut inventory.placement;
                placement.pool = ["chat", "code", "chat"].map(str::to_owned).get(place).cloned();
                placement.simulated ^= place == 2;
                tell_of(&self.aggregator.book, inventory, self.aggregator.now);
            }
            Change::Series { name, from, seconds, values } => {
                let factors = configuration(0);
                let feed = factors.feeds().iter().find(|feed| feed.name == name).expect("configured");
                let first = BOOTED + i64::from(from) * (self.end() / i64::from(u16::MAX));
                let start = UnixNanos(first).floor_to(60);
                let cells: Vec<_> = (0i64..)
                    .zip(values)
                    .map(|(number, value)| {
                        let start = start.plus_seconds(number * seconds);
                        let window = Window::new(start, start.plus_seconds(seconds)).expect("ordered");
                        (window, if name == "grid" { value * 150.0 } else { value }, Status::Measured)
                    })
                    .collect();
                self.recorded += 1;
                let now = UnixNanos(BOOTED + self.recorded);
                self.aggregator.book.record_factors(name, &feed.subject, &cells, now).expect("recorded");
            }
        }
    }

    fn ask(&self, (from, to, _, (policy, scope, trust, level)): Asked, as_of: bool) -> Result<(), TestCaseError> {
        let part = |part: u16| UnixNanos(BOOTED + i64::from(part) * (self.end() / i64::from(u16::MAX)));
        let (start, end) = (part(from.min(to)), part(from.max(to)).max(part(from.min(to)).plus_seconds(1)));
        let request = GetSciRequest {
            window: wire(start, end),
            idle_policy: policy.into(),
            idle_scope: scope.into(),
            trust: trust.into(),
            // Mostly the level that has everything.
            level: if level == 0 { Level::Facility.into() } else { level.into() },
            functional_unit: FunctionalUnit::OutputToken.into(),
            as_of_unix_nanos: as_of.then_some(BOOTED + self.recorded / 2),
            ..GetSciRequest::default()
        };
        self.asked.ask(&request).map(drop)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grams_from_sums_are_those_of_every_slot_whatever_changes(
        steps in prop::collection::vec(prop::collection::vec(long_step(), 2..40), 1..4),
        actions in prop::collection::vec((any::<prop::sample::Index>(), 0u8..9, asked(), change()), 5..40),
        last in asked(),
    ) {
        let histories: Vec<History> = (0u8..).zip(&steps).map(|(index, steps)| history(index, steps)).collect();
        let aggregator = Aggregator::new(&histories);
        // Every hour but the last is over.
        let clock = Arc::new(Set(AtomicI64::new(aggregator.now.plus_seconds(900).0)));
        let asked = Both::of(&aggregator.book, clock, configuration(0));
        let mut world = World { aggregator, histories: &histories, asked, recorded: 1 };
        let arrival = |history: &History, turn: usize| (turn + history.outage()) % history.batches.len();
        let mut sent = vec![0usize; histories.len()];
        for (pick, what, asked, change) in actions {
            let index = pick.index(histories.len());
            match what {
                0..=3 => world.ask(asked, what == 3)?,
                4 => world.aggregator.settle(),
                5 | 6 => world.take(change),
                _ if sent[index] < histories[index].batches.len() => {
                    world.aggregator.send(index, &histories[index], arrival(&histories[index], sent[index]));
                    sent[index] += 1;
                }
                _ => {}
            }
        }
        world.aggregator.settle();
        world.ask((0, u16::MAX, EnergyBy::Model, (1, 1, 1, 0)), false)?;
        world.ask(last, false)?;
        world.ask((0, u16::MAX, EnergyBy::Model, (1, 1, 1, 0)), true)?;
    }
}
