use super::*;
use joulebook_sci::Account;
use joulebook_sci::{ConsumptionUse, InputUse, Purpose, ServiceUse};
use joulebook_units::{Component, Consumer, CpuTimeMethod, Method, Serving, VersionSource, WorkloadKind};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const KEY: &[u8] = b"some key";
const MINUTE: u64 = 60_000_000_000;

fn source(id: usize) -> SourceKey {
    SourceKey {
        id: format!("gpu-{id}"),
        component: Component::Accelerator,
        method: Method::Counter,
        collector: "nvml".to_owned(),
        uncertainty_permille: 50,
        contained: false,
        scope: None,
    }
}

fn service(id: usize) -> Arc<Service> {
    Arc::new(Service {
        model: Some(format!("model-{id}")),
        version: None,
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "vllm".to_owned(),
        target: format!("http://127.0.0.1:{id}"),
        workload: None,
        tokenizer: None,
        serving: Serving::default(),
    })
}

fn workload(id: usize) -> Arc<Workload> {
    Arc::new(Workload {
        cpu_time_method: CpuTimeMethod::Cgroup,
        ..Workload::bare(format!("unit/{id}"), WorkloadKind::Unit, format!("{id}"))
    })
}

fn consumption(id: usize) -> Arc<Consumption> {
    Arc::new(Consumption {
        consumer: Consumer { kind: "key".to_owned(), name: format!("{id}") },
        engine: "litellm".to_owned(),
        gateway: "http://127.0.0.1:4000".to_owned(),
        endpoint: None,
        model: None,
        version: None,
    })
}

/// Everything that cells of these tests name, by number.
fn entities() -> Vec<Entity> {
    let ids = || 0..3;
    let services = ids().map(|id| Entity::Service(service(id)));
    let sources = ids().map(|id| Entity::Source(source(id)));
    let workloads = ids().map(|id| Entity::Workload(workload(id)));
    let consumers = ids().map(|id| Entity::Consumption(consumption(id)));
    // More than fit into the first byte of a number.
    let others = (10..150).map(|id| Entity::Workload(workload(id)));
    sources.chain(others).chain(services).chain(workloads).chain(consumers).collect()
}

fn written(cells: &[(u32, Cell)]) -> Option<Vec<u8>> {
    let entities = entities();
    let number =
        |entity: &Entity| Some(u32::try_from(entities.iter().position(|known| known == entity)?).expect("few"));
    encode(KEY, cells, &number)
}

fn read(value: &[u8], wanted: u64) -> Result<Vec<(u32, Cell)>, Damaged> {
    let entities = entities();
    decode(KEY, value, wanted, &|id| entities.get(id as usize).cloned())
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(MINUTE), 0..1_000u64, (0..1_000u64).prop_map(|number| number * 1_000), any::<u64>()]
}

fn some<T: std::fmt::Debug>(each: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<Option<T>>> {
    vec(option::of(each), 3)
}

fn there<T>(all: Vec<Option<T>>) -> impl Iterator<Item = (usize, T)> {
    all.into_iter().enumerate().filter_map(|(id, one)| Some((id, one?)))
}

fn counts() -> impl Strategy<Value = BTreeMap<CountKind, u64>> {
    let kinds = [CountKind::RequestsOk, CountKind::OutputTokens, CountKind::LatencyWithin(300), CountKind::BusyNanos];
    proptest::collection::btree_map(proptest::sample::select(kinds.to_vec()), number(), 0..4)
}

fn cell() -> impl Strategy<Value = Cell> {
    let accounts: Vec<Account> = (0..3)
        .map(|id| Account::Service(service(id)))
        .chain([Account::Workload(workload(1)), Account::System, Account::PoolIdle, Account::Platform])
        .collect();
    let key =
        (proptest::sample::select(accounts), any::<bool>(), any::<bool>()).prop_map(|(account, gpu, base)| EntryKey {
            account,
            component: if gpu { Component::Accelerator } else { Component::Cpu },
            purpose: if base { Purpose::Base } else { Purpose::Dynamic },
        });
    let entries = proptest::collection::btree_map(key, number(), 0..10);
    let numbers = || proptest::array::uniform8(number());
    let sources = some(proptest::array::uniform4(number()));
    let services = some((counts(), numbers(), any::<u8>()));
    let input = (some(number()), some(proptest::array::uniform3(number())));
    let consumers = some((counts(), number()));
    (sources, entries, services, some(number()), consumers, input, numbers(), any::<u32>()).prop_map(
        |(sources, entries, services, workloads, consumers, (meters, lags), rest, flags)| Cell {
            sources: there(sources)
                .map(|(id, [a, b, c, d])| {
                    let used =
                        SourceUse { microjoules: a, covered_nanos: b, gap_low_microjoules: c, gap_high_microjoules: d };
                    (source(id), used)
                })
                .collect(),
            entries,
            services: there(services)
                .map(|(id, (counts, numbers, measures))| {
                    let used = ServiceUse {
                        counts,
                        counted_nanos: numbers[0],
                        resident_nanos: numbers[1],
                        executing_nanos: numbers[2],
                        reserved_core_nanos: numbers[3],
                        reserved_device_nanos: numbers[4],
                        cpu_nanos: numbers[5],
                        joint_microjoules: numbers[6],
                        measures: Measures(measures),
                    };
                    (service(id), used)
                })
                .collect(),
            workloads: there(workloads).map(|(id, cpu_nanos)| (workload(id), WorkloadUse { cpu_nanos })).collect(),
            consumption: there(consumers)
                .map(|(id, (counts, counted_nanos))| (consumption(id), ConsumptionUse { counts, counted_nanos }))
                .collect(),
            overcount_microjoules: rest[0],
            input: InputUse {
                meters: there(meters).map(|(id, nanos)| (source(id), nanos)).collect(),
                lags: there(lags)
                    .map(|(id, [nanos, least_nanos, most_nanos])| {
                        (source(id), LagUse { nanos, least_nanos, most_nanos })
                    })
                    .collect(),
                component_microjoules: rest[1],
                platform_microjoules: rest[2],
                bound_microjoules: rest[3],
                scaled_microjoules: 0,
            },
            capacity_core_nanos: rest[4],
            capacity_device_nanos: 0,
            expected_nanos: rest[5],
            covered_nanos: rest[6],
            flags: Flags(flags),
        },
    )
}

fn hour() -> impl Strategy<Value = Vec<(u32, Cell)>> {
    proptest::collection::btree_map(0..MAX_SLOTS, cell(), 1..8).prop_map(|cells| cells.into_iter().collect())
}

/// A node of three GPUs with a model on each: what its parts used is what the models were given.
fn like(slot: u32) -> (u32, Cell) {
    let mut cell = Cell { covered_nanos: MINUTE, ..Cell::default() };
    for id in 0..3 {
        let random = u64::from(slot) * 7_919 * (id as u64 + 1) % 10_007 * 1_000_003;
        let (dynamic, base, host) = (20_000_000_000 + random, 4_200_000_000 + random % 1_009, random / 7 + 1);
        let used = SourceUse { microjoules: dynamic + base, covered_nanos: MINUTE, ..SourceUse::default() };
        cell.sources.insert(source(id), used);
        let entry = |component, purpose| EntryKey { account: Account::Service(service(id)), component, purpose };
        cell.add(entry(Component::Accelerator, Purpose::Dynamic), dynamic);
        cell.add(entry(Component::Accelerator, Purpose::Base), base);
        cell.add(entry(Component::Cpu, Purpose::Dynamic), host);
        let used = ServiceUse {
            counts: BTreeMap::from([(CountKind::OutputTokens, random / 300_000)]),
            counted_nanos: MINUTE,
            resident_nanos: MINUTE,
            joint_microjoules: dynamic + base + host,
            ..ServiceUse::default()
        };
        cell.services.insert(service(id), used);
    }
    (slot, cell)
}

#[test]
fn the_layout_of_hours_of_cells_never_changes() {
    let hex = include_str!("../golden/cells.hex").trim_ascii();
    let byte = |place: usize| u8::from_str_radix(&hex[place..place + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    // Made by hand from the layout, once. What is written may change with what is looked for; this must be read for ever.
    assert_eq!(read(&bytes, u64::MAX), Ok(golden()));
}

/// Cells with everything that a cell may have, the second one without what the first one has.
fn golden() -> Vec<(u32, Cell)> {
    let (_, mut first) = like(1);
    first.workloads.insert(workload(2), WorkloadUse { cpu_nanos: 18 });
    first.input.meters.insert(source(2), 20);
    first.input.lags.insert(source(2), LagUse { nanos: 28, least_nanos: 29, most_nanos: 30 });
    let counts = BTreeMap::from([(CountKind::OutputTokens, 24), (CountKind::PromptWithin(7), 25)]);
    first.consumption.insert(consumption(1), ConsumptionUse { counts, counted_nanos: 26 });
    first.flags = Flags::GAP;
    vec![(1, first), (2, like(2).1), (3, like(3).1), (9, Cell::default())]
}

#[test]
fn an_hour_of_cells_is_small_and_what_adds_up_takes_a_few_bytes() {
    let cells: Vec<_> = (0..60).map(like).collect();
    let value = written(&cells).expect("an hour");
    // Of each GPU are kept: dynamic energy in 34 bits at most, base energy in 10, that of the processor in 31, tokens in 16.
    let least = 3 * 60 * (34 + 10 + 31 + 16) / 8;
    assert!(value.len() < least + 600, "{} bytes, {least} of them numbers", value.len());
    assert_eq!(read(&value, u64::MAX), Ok(cells));
}

#[test]
fn what_cannot_be_kept_together_is_none() {
    assert_eq!(written(&[]), None);
    assert_eq!(written(&[like(3), like(3)]), None, "twice");
    assert_eq!(written(&[like(4), like(3)]), None, "out of order");
    assert_eq!(written(&[(64, like(3).1)]), None, "after the hour");
    let mut unknown = like(3);
    unknown.1.workloads.insert(workload(200), WorkloadUse { cpu_nanos: 1 });
    assert_eq!(written(&[unknown]), None, "a name without a number");
}

proptest! {
    #[test]
    fn hours_of_cells_come_back_whole_and_in_part(cells in hour(), wanted: u64) {
        let value = written(&cells).expect("an hour");
        prop_assert_eq!(read(&value, u64::MAX), Ok(cells.clone()));
        let part: Vec<_> = cells.into_iter().filter(|(slot, _)| wanted >> slot & 1 == 1).collect();
        prop_assert_eq!(read(&value, wanted), Ok(part));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_an_error(cells in hour(), place: prop::sample::Index, bit in 0u8..8) {
        let value = written(&cells).expect("an hour");
        let mut flipped = value.clone();
        flipped[place.index(value.len())] ^= 1 << bit;
        prop_assert!(read(&flipped, u64::MAX).is_err());
        prop_assert!(read(&value[..place.index(value.len())], u64::MAX).is_err());
    }

    #[test]
    fn changed_bytes_with_a_right_checksum_never_panic(
        cells in hour(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        wanted: u64,
    ) {
        let value = written(&cells).expect("an hour");
        let mut body = value[1..value.len() - 4].to_vec();
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        let mut writer = Writer::of(CELLS_VERSION);
        writer.raw(&body);
        let _ = read(&writer.seal(KEY), wanted);
    }
}
