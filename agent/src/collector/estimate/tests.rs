use super::*;
use std::fs;

fn cpu(model: &str, threads: u32, siblings: u32, guest: bool) -> Cpu {
    Cpu {
        vendor: None,
        model: Some(model.to_owned()),
        sockets: Some(2),
        threads,
        siblings: Some(siblings),
        guest: Some(guest),
    }
}

#[test]
fn bare_metal_has_the_power_of_its_sockets() {
    let model = cpu_model(&cpu("AMD EPYC 7763 64-Core Processor", 256, 128, false), &EstimateSection::default());
    assert_eq!(model.full, Milliwatts(560_000));
    assert_eq!(model.idle, (Milliwatts(118_400), IdleOrigin::Table));
    assert!(model.basis.contains("AMD EPYC 7763"), "{}", model.basis);
}

#[test]
fn a_guest_has_its_share_of_the_part() {
    let model = cpu_model(&cpu("AMD EPYC 7763 64-Core Processor", 8, 128, true), &EstimateSection::default());
    assert_eq!(model.full, Milliwatts(17_500));
}

#[test]
fn a_guest_whose_topology_is_made_up_has_the_default_of_a_thread() {
    let model = cpu_model(&cpu("AMD EPYC 7763 64-Core Processor", 2, 2, true), &EstimateSection::default());
    assert_eq!((model.full, model.idle), (Milliwatts(7_000), (Milliwatts(1_480), IdleOrigin::Default)));
    assert!(model.basis.contains("7763"), "{}", model.basis);
    let unknown = cpu_model(&cpu("AMD EPYC", 2, 2, true), &EstimateSection::default());
    assert_eq!(unknown.full, Milliwatts(7_000));
}

#[test]
fn configured_powers_win() {
    let section =
        EstimateSection { tdp_watts: Some(100.0), idle_watts: Some(10.0), dram_watts_per_gigabyte: Some(0.5) };
    let model = cpu_model(&cpu("AMD EPYC", 2, 2, true), &section);
    assert_eq!((model.full, model.idle), (Milliwatts(100_000), (Milliwatts(10_000), IdleOrigin::Configured)));
    assert_eq!(dram_model(64_000_000_000, &section).full, Milliwatts(32_000));
    assert_eq!(dram_model(64_000_000_000, &EstimateSection::default()).full, Milliwatts(23_840));
}

#[test]
fn a_thousand_short_readings_sum_to_one_long_one() {
    let mut short = cpu_model(&cpu("AMD EPYC", 3, 3, true), &EstimateSection::default());
    let mut long = short.clone();
    let energy = |reading: Reading| match reading.value {
        Value::Increment { energy, .. } => energy.0,
        Value::Counter { .. } | Value::Total { .. } | Value::Unknown { .. } => panic!("no counter"),
    };
    let nanos = |k: u64| BootNanos(k * 1_000_003);
    let sum: u64 = (0..1_000).map(|k| energy(short.reading(CPU, nanos(k), nanos(k + 1), 1, 2))).sum();
    assert_eq!(sum, energy(long.reading(CPU, nanos(0), nanos(1_000), 1, 2)));
}

#[test]
fn utilisation_leaves_out_waiting_and_stolen_time() {
    let root = tempfile::tempdir().expect("folder");
    let roots = Roots { sysfs: "/nonexistent".into(), procfs: root.path().into(), cgroup: "/nonexistent".into() };
    fs::write(root.path().join("cpuinfo"), "processor : 0\nprocessor : 1\n").expect("file");
    fs::write(root.path().join("meminfo"), "MemTotal: 1000000 kB\n").expect("file");
    fs::write(root.path().join("stat"), "cpu 0 0 0 0 0 0 0 0\n").expect("file");
    let mut estimate = Estimate::new(&roots, &EstimateSection::default());
    assert!(estimate.discover().is_empty(), "nothing is modelled that is metered");
    estimate.want(true, true);
    let sources = estimate.discover();
    assert_eq!(sources.len(), 2);
    assert!(sources.iter().all(|state| state.source.method == Method::Estimated && state.unavailable.is_none()));
    assert!(
        estimate
            .read(BootNanos(0))
            .iter()
            .all(|reading| matches!(reading, Ok(reading) if reading.value == Value::increment(Microjoules(0))))
    );
    fs::write(root.path().join("stat"), "cpu 50 0 0 50 50 0 0 50\n").expect("file");
    let reading = estimate.read(BootNanos(1_000_000_000)).remove(0).expect("a reading");
    // 2 threads: 1.48 W at rest, 7 W at full load, a quarter busy for 1 s.
    assert_eq!(reading.value, Value::increment(Microjoules(1_480_000 + (7_000_000 - 1_480_000) / 4)));
}
