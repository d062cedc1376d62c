use super::*;
use crate::store::block::cell;
use joulebook_sci::attribution::Measures;
use joulebook_sci::{
    Account, Cell, ConsumptionUse, EntryKey, Flags, InputUse, LagUse, Purpose, ServiceUse, SourceUse, WorkloadUse,
};
use std::collections::BTreeMap;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn source() -> Source {
    Source {
        id: "s".to_owned(),
        component: Component::Other,
        socket: Some(1),
        device: None,
        collector: "c".to_owned(),
        method: Method::Estimated,
        unit_nanojoules: Some(300),
        ceiling: Milliwatts(128),
        uncertainty_permille: 400,
        contained_in: Some("w".to_owned()),
        scope: None,
        basis: "b".to_owned(),
    }
}

fn rack() -> Option<Scope> {
    Some(Scope { layer: Layer::Rack, name: "r".to_owned(), members: vec!["n1".to_owned(), "n2".to_owned()] })
}

fn workload() -> Workload {
    Workload {
        id: "w".to_owned(),
        kind: WorkloadKind::Remainder,
        name: "n".to_owned(),
        cgroup: Some("g".to_owned()),
        container_id: None,
        pod_uid: None,
        cpu_time_method: CpuTimeMethod::ProcessTime,
        reserved_millicores: Some(500),
        reservation_origin: Some("quota".to_owned()),
        part_of: None,
        group: None,
        engine: None,
        pod: None,
    }
}

fn service() -> Service {
    Service {
        model: Some("m".to_owned()),
        version: Some("v".to_owned()),
        version_source: VersionSource::Process,
        fingerprint: None,
        adapter: None,
        engine: "e".to_owned(),
        target: "t".to_owned(),
        workload: Some("w".to_owned()),
        tokenizer: None,
        serving: Serving::default(),
    }
}

fn serving() -> Serving {
    Serving {
        base: Some("b".to_owned()),
        revision: Some("r".to_owned()),
        role: Some(ServiceRole::Decode),
        wraps: false,
        group: Some("s".to_owned()),
        configuration: ServingConfiguration {
            engine_version: Some("1".to_owned()),
            quantisation: Some("q".to_owned()),
            max_batch: Some(4),
            tensor_parallel: Some(2),
            power_limit_milliwatts: Some(1000),
            ..ServingConfiguration::default()
        },
    }
}

fn consumption() -> Consumption {
    Consumption {
        consumer: Consumer { kind: "k".to_owned(), name: "c".to_owned() },
        engine: "e".to_owned(),
        gateway: "g".to_owned(),
        endpoint: Some("u".to_owned()),
        model: None,
        version: Some("v".to_owned()),
    }
}

fn in_pod() -> PodIdentity {
    PodIdentity {
        namespace: "c".to_owned(),
        name: "p".to_owned(),
        tenant: Some("t".to_owned()),
        pool: None,
        support_of: Some("s".to_owned()),
        training_of: Some("v".to_owned()),
    }
}

#[test]
fn the_layout_of_descriptors_never_changes() {
    let golden = [
        (Subject::Energy(source().into()), "0100017304010100016302 01ac028001900301017701 62"),
        (
            Subject::Energy(Source { scope: rack(), ..source() }.into()),
            "010a017304010100016302 01ac028001900301017701 62 030172 02 026e31 026e32",
        ),
        (Subject::IdlePower { source: "s".to_owned(), origin: IdleOrigin::Default }, "0101017303"),
        (Subject::CpuTime(workload().into()), "0102017705016e0101670000 0101f403010571756f7461"),
        (
            Subject::CpuTime(Workload { part_of: Some("p".to_owned()), ..workload() }.into()),
            "0106017705016e0101670000 0101f403010571756f7461 0170",
        ),
        (Subject::DeviceTime { device: "d".to_owned(), workload: None }, "0107016400"),
        (Subject::DeviceTime { device: "d".to_owned(), workload: Some("w".to_owned()) }, "01070164010177"),
        (Subject::DeviceMemory { device: "d".to_owned(), workload: "w".to_owned() }, "010801640177"),
        (Subject::DeviceSlices { device: "d".to_owned(), workload: "w".to_owned(), of: 7 }, "0113 0164 0177 07"),
        (Subject::ResidentIdlePower { source: "s".to_owned() }, "01090173"),
        (Subject::Memory { workload: "w".to_owned() }, "01030177"),
        (Subject::NodeMemoryUsed, "0104"),
        (Subject::Count(service().into(), CountKind::BusyNanos), "010501016d0101760600000165017401017700 08"),
        (Subject::Count(service().into(), CountKind::StoredTokens), "010501016d0101760600000165017401017700 13"),
        (
            Subject::Count(service().into(), CountKind::LatencyWithin(300)),
            "010501016d0101760600000165017401017700 40ac02",
        ),
        (Subject::Count(service().into(), CountKind::PromptWithin(7)), "010501016d0101760600000165017401017700 4107"),
        (
            Subject::Consumption(consumption().into(), CountKind::RequestsOk),
            "010b 016b 0163 0165 0167 010175 00 010176 00",
        ),
        (
            Subject::CpuTime(
                Workload { group: Some("s".to_owned()), engine: Some("e".to_owned()), ..workload() }.into(),
            ),
            "0111017705016e0101670000 0101f403010571756f7461 00 010173 010165",
        ),
        (
            Subject::CpuTime(Workload { pod: Some(in_pod()), ..workload() }.into()),
            "0112017705016e0101670000 0101f403010571756f7461 00 00 00 0163 0170 010174 00 010173 010176",
        ),
        (
            Subject::Count(Service { serving: serving(), ..service() }.into(), CountKind::DecodeNanos),
            "011001016d0101760600000165017401017700 010162 010172 010173 010131 010171 0102 0104 0102 00 00 01e807 0a",
        ),
        (
            Subject::Count(
                Service { serving: Serving { wraps: true, ..Serving::default() }, ..service() }.into(),
                CountKind::DecodeNanos,
            ),
            "011401016d0101760600000165017401017700 00 00 00 00 00 00 00 00 00 00 00 0a",
        ),
    ];
    for (subject, golden) in golden {
        let bytes = subject.encode(b"key");
        let (body, _) = bytes.split_last_chunk::<4>().expect("a checksum");
        assert_eq!(hex(body), golden.replace(' ', ""), "{subject:?}");
        assert_eq!(Subject::decode(b"key", &bytes).expect("own bytes"), subject);
    }
}

#[test]
fn an_inventory_comes_back() {
    let accelerator =
        Accelerator { device: None, model: "nvidia".to_owned(), driver: Some("1".to_owned()), memory_bytes: None };
    let inventory = Inventory {
        node: "gpu-1".parse().expect("a name"),
        agent_version: "1.0.0".to_owned(),
        sources: vec![SourceState { source: source().into(), unavailable: Some("permission".to_owned()) }],
        hardware: Hardware {
            sockets: Some(2),
            threads: None,
            cpu_model: Some("cpu".to_owned()),
            memory_bytes: Some(1 << 40),
            disks: Some(0),
            rotating_disks: None,
            accelerators: vec![accelerator],
            guest: Some(false),
            kernel: None,
        },
        placement: Placement { pool: Some("pool".to_owned()), ..Placement::default() },
    };
    let mut writer = Writer::default();
    write_inventory(&mut writer, &inventory);
    let bytes = writer.seal(b"key");
    let mut reader = Reader::open(b"key", &bytes).expect("own bytes");
    assert_eq!(read_inventory(&mut reader), Ok(inventory.clone()));
    assert_eq!(reader.end(), Ok(()), "the first layout");
    let mut later = inventory.clone();
    later.hardware.accelerators[0].memory_bytes = Some(80 << 30);
    later.placement.simulated = true;
    // Without scopes it is the layout that was written before there were any.
    let routers = || Support { role: "r".to_owned(), workload: None, pool: Some("p".to_owned()) };
    for (scope, support, rotating, golden) in [
        (None, vec![], None, "01 0180808080c002 01"),
        (rack(), vec![], None, "01 0180808080c002 01 01 030172 02 026e31 026e32"),
        (None, vec![routers()], None, "01 0180808080c002 01 00 01 0172 00 010170"),
        (None, vec![], Some(4), "01 0180808080c002 01 00 00 0104"),
        (None, vec![routers()], Some(0), "01 0180808080c002 01 00 01 0172 00 010170 0100"),
    ] {
        later.hardware.rotating_disks = rotating;
        Arc::make_mut(&mut later.sources[0].source).scope = scope;
        later.placement.support = support;
        let mut writer = Writer::default();
        write_later_inventory(&mut writer, &later);
        let bytes = writer.seal(b"key");
        let (body, _) = bytes.split_last_chunk::<4>().expect("a checksum");
        assert_eq!(hex(body), golden.replace(' ', ""));
        let mut completed = inventory.clone();
        let mut reader = Reader::open(b"key", &bytes).expect("own bytes");
        assert_eq!(read_later_inventory(&mut reader, &mut completed), Ok(()));
        assert_eq!((&completed, reader.end()), (&later, Ok(())));
    }
}

fn sample() -> Cell {
    let key = SourceKey {
        id: "s".to_owned(),
        component: Component::Dram,
        method: Method::Counter,
        collector: "c".to_owned(),
        uncertainty_permille: 20,
        contained: true,
        scope: None,
    };
    let (service, workload) = (Arc::new(service()), Arc::new(workload()));
    let mut cell = Cell { overcount_microjoules: 1, capacity_core_nanos: 2, expected_nanos: 3, ..Cell::default() };
    (cell.covered_nanos, cell.flags) = (4, Flags::GAP);
    let used = SourceUse { microjoules: 300, covered_nanos: 5, gap_low_microjoules: 6, gap_high_microjoules: 7 };
    cell.sources.insert(key, used);
    for account in [
        Account::Service(Arc::clone(&service)),
        Account::Workload(Arc::clone(&workload)),
        Account::System,
        Account::PoolIdle,
        Account::Platform,
        Account::Unattributed,
    ] {
        cell.add(EntryKey { account, component: Component::Wall, purpose: Purpose::Residual }, 9);
    }
    let counts = BTreeMap::from([(CountKind::RequestsOk, 10), (CountKind::BusyNanos, 0)]);
    let used = ServiceUse {
        counts,
        counted_nanos: 11,
        resident_nanos: 12,
        executing_nanos: 13,
        reserved_core_nanos: 14,
        reserved_device_nanos: 15,
        cpu_nanos: 16,
        joint_microjoules: 17,
        measures: Measures::default(),
    };
    cell.services.insert(service, used);
    cell.workloads.insert(workload, WorkloadUse { cpu_nanos: 18 });
    cell
}

#[test]
fn the_layout_of_cells_never_changes_and_damage_is_seen() {
    let first = "01 0100ac02050607 06 0001030409 0102030409 02030409 03030409 04030409 05030409 \
                 0101 8102 0a00 0b0c0d0e0f1011 010212 0102030480 02";
    is_laid_out(sample(), first);
    let wall = SourceKey {
        id: "w".to_owned(),
        component: Component::Wall,
        method: Method::IntegratedPower,
        collector: "redfish".to_owned(),
        uncertainty_permille: 50,
        contained: false,
        scope: rack(),
    };
    let input = InputUse {
        meters: BTreeMap::from([(wall.clone(), 20)]),
        lags: BTreeMap::new(),
        component_microjoules: 21,
        platform_microjoules: 22,
        bound_microjoules: 23,
        scaled_microjoules: 0,
    };
    is_laid_out(Cell { input: input.clone(), ..sample() }, &format!("{first} 01 03 14 151617"));
    let lags = BTreeMap::from([(wall, LagUse { nanos: 28, least_nanos: 29, most_nanos: 30 })]);
    let late = Cell { input: InputUse { lags, ..input }, ..sample() };
    is_laid_out(late, &format!("{first} 01 03 14 151617 00 00 01 03 1c1d1e"));
    let mut shared = sample();
    shared.services.values_mut().for_each(|used| used.measures = Measures(0x22));
    is_laid_out(shared, &first.replace("8102 0a00", "818280808080808022 0a00"));
    let mut cell = sample();
    let counts = BTreeMap::from([(CountKind::OutputTokens, 24), (CountKind::StoredTokens, 25)]);
    cell.consumption.insert(Arc::new(consumption()), ConsumptionUse { counts, counted_nanos: 26 });
    is_laid_out(cell.clone(), &format!("{first} 00 000000 00 01 03 c08020 1819 1a"));
    for used in cell.services.values_mut() {
        used.counts.insert(CountKind::LatencyWithin(300), 27);
    }
    is_laid_out(cell, &format!("{first} 00 000000 01 01 40ac02 1b 01 03 c08020 1819 1a"));
}

fn is_laid_out(cell: Cell, golden: &str) {
    let mut entities = Vec::new();
    let bytes = cell::encode(b"key", &cell, &mut |entity| {
        let place = entities.iter().position(|known| *known == entity).unwrap_or(entities.len());
        if place == entities.len() {
            entities.push(entity);
        }
        u32::try_from(place).expect("few")
    });
    let (body, _) = bytes.split_last_chunk::<4>().expect("a checksum");
    assert_eq!(hex(body), golden.replace(' ', ""));
    let resolve = |id: u32| entities.get(id as usize).cloned();
    assert_eq!(cell::decode(b"key", &bytes, &resolve), Ok(cell));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(cell::decode(b"key", &flipped, &resolve).is_err(), "bit {bit}");
    }
    assert!(cell::decode(b"key", &bytes, &|_| None).is_err(), "a name that is not there is no zero");
}
