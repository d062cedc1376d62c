use super::*;
use crate::collector::Sources;
use crate::config::Config;
use joulebook_units::Microjoules;
use std::fs;
use std::os::unix::fs::symlink;

const SECOND: u64 = 1_000_000_000;

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        Self { root: tempfile::tempdir().expect("folder") }
    }

    fn write(&self, path: &str, text: impl std::fmt::Display) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("folder");
        fs::write(path, format!("{text}\n")).expect("file");
    }

    /// A chip of a driver, with a link to its device.
    fn chip(&self, number: u32, driver: &str, device: &str) {
        self.write(&format!("sys/class/hwmon/hwmon{number}/name"), driver);
        fs::create_dir_all(self.root.path().join("sys/devices").join(device)).expect("folder");
        let link = self.root.path().join(format!("sys/class/hwmon/hwmon{number}/device"));
        symlink(format!("../../../devices/{device}"), link).expect("link");
    }

    fn shows(&self, number: u32, attribute: &str, value: impl std::fmt::Display) {
        self.write(&format!("sys/class/hwmon/hwmon{number}/{attribute}"), value);
    }

    /// A meter of Grace.
    fn meter(&self, number: u32, part: &str, value: &str) {
        self.chip(number, "power_meter", &format!("ACPI000D:{number:02}"));
        self.shows(number, "device/power1_oem_info", format!("{part} Power Socket 0"));
        self.shows(number, "device/power1_average", value);
    }

    fn roots(&self) -> Roots {
        let at = |path: &str| self.root.path().join(path);
        Roots { sysfs: at("sys"), procfs: at("proc"), cgroup: at("cgroup") }
    }

    fn hwmon(&self) -> Hwmon {
        Hwmon::new(&self.roots())
    }
}

fn of<'a>(states: &'a [SourceState], id: &str) -> &'a SourceState {
    states.iter().find(|state| state.source.id == id).unwrap_or_else(|| panic!("{id} in {states:?}"))
}

#[test]
fn a_superchip_is_added_once_and_its_memory_is_not_modelled_beside_it() {
    let tree = Tree::new();
    for (number, part, value) in
        [(0, "Module", "612000000"), (1, "Grace", "148000000"), (2, "CPU", "97000000"), (3, "SysIO", "21000000")]
    {
        tree.meter(number, part, value);
    }
    let states = tree.hwmon().discover();
    let grace = "hwmon/power_meter/ACPI000D:01/power1";
    let contained = |id: &str| of(&states, id).source.contained_in.clone();
    assert_eq!(contained(grace), None, "the module is a layer, added to nothing");
    assert_eq!(of(&states, "hwmon/power_meter/ACPI000D:00/power1").source.component, Component::Wall);
    for inside in
        ["hwmon/power_meter/ACPI000D:02/power1", "hwmon/power_meter/ACPI000D:03/power1", "hwmon/dram_and_regulator/0"]
    {
        assert_eq!(contained(inside).as_deref(), Some(grace), "{inside}");
    }
    let gpu = &of(&states, "hwmon/gpu_part_of_module/0").source;
    assert_eq!((gpu.method, gpu.contained_in.is_some()), (Method::Estimated, true), "never beside the library's GPU");
    tree.write("proc/stat", "cpu 1 0 0 1 0 0 0 0");
    let mut sources = Sources::new(&Config::default(), &tree.roots());
    let modelled: Vec<_> = sources.discover().iter().filter(|one| one.source.collector == "estimate").collect();
    assert!(modelled.is_empty(), "{modelled:?}");
}

#[test]
fn a_container_that_was_never_read_contains_nothing_until_it_is() {
    let tree = Tree::new();
    tree.meter(0, "Grace", "4294967295000");
    tree.meter(1, "CPU", "97000000");
    let mut hwmon = tree.hwmon();
    let (grace, cpu) = ("hwmon/power_meter/ACPI000D:00/power1", "hwmon/power_meter/ACPI000D:01/power1");
    let states = hwmon.discover();
    assert!(of(&states, grace).unavailable.as_deref().is_some_and(|why| why.contains("an error code and no power")));
    assert_eq!(of(&states, cpu).source.contained_in, None);
    assert_eq!(hwmon.read(BootNanos(SECOND)).len(), 1, "what is off is not told at every reading");
    tree.shows(0, "device/power1_average", "148000000");
    assert!(hwmon.read(BootNanos(2 * SECOND)).iter().all(Result::is_ok));
    assert_eq!(of(&hwmon.discover(), cpu).source.contained_in.as_deref(), Some(grace));
    // Once it has been read, one refusal changes nothing.
    tree.shows(0, "device/power1_average", "4294967295000");
    let states = hwmon.discover();
    assert_eq!(
        (&of(&states, grace).unavailable, of(&states, cpu).source.contained_in.as_deref()),
        (&None, Some(grace))
    );
    let failures = hwmon.read(BootNanos(3 * SECOND)).into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(failures.iter().map(|failure| failure.reason).collect::<Vec<_>>(), ["not_supported"]);
}

#[test]
fn the_second_die_of_a_card_is_no_idle_accelerator() {
    let tree = Tree::new();
    for (number, value) in [(0, 278_000_000), (1, 0)] {
        tree.chip(number, "amdgpu", &format!("0000:c{number}:00.0"));
        tree.shows(number, "power1_average", value);
        tree.shows(number, "device/product_name", "AMD Instinct MI250X");
        tree.shows(number, "device/mem_info_vram_total", 68_702_699_520u64);
    }
    let mut hwmon = tree.hwmon();
    let states = hwmon.discover();
    let first = of(&states, "hwmon/amdgpu/0000:c0:00.0/power1");
    assert_eq!(first.source.device.as_deref(), Some("0000:c0:00.0"));
    assert!(of(&states, "hwmon/amdgpu/0000:c1:00.0/power1").unavailable.is_some());
    let cards = hwmon.accelerators();
    assert_eq!(cards.len(), 1);
    assert_eq!((cards[0].device.as_deref(), cards[0].memory_bytes), (Some("0000:c0:00.0"), Some(68_702_699_520)));
    assert_eq!(cards[0].model, "AMD Instinct MI250X");
    assert_eq!(hwmon.read(BootNanos(SECOND)).len(), 1);
}

#[test]
fn a_chip_that_comes_back_with_another_number_is_the_same_source() {
    let tree = Tree::new();
    tree.chip(3, "amdgpu", "0000:c1:00.0");
    tree.shows(3, "power1_input", 100_000_000);
    let mut hwmon = tree.hwmon();
    hwmon.discover();
    let id = "hwmon/amdgpu/0000:c1:00.0/power1";
    let energy = |hwmon: &mut Hwmon, second: u64| {
        hwmon.read(BootNanos(second * SECOND)).remove(0).map(|reading| (reading.source, reading.value))
    };
    let increment = |watts: u64| Ok((id.to_owned(), Value::increment(Microjoules(watts * 1_000_000))));
    assert_eq!(energy(&mut hwmon, 1), increment(0));
    assert_eq!(energy(&mut hwmon, 2), increment(100));
    fs::remove_dir_all(tree.root.path().join("sys/class/hwmon/hwmon3")).expect("removed");
    assert_eq!(energy(&mut hwmon, 3).map_err(|failure| failure.reason), Err("missing"));
    tree.chip(7, "amdgpu", "0000:c1:00.0");
    tree.shows(7, "power1_input", 100_000_000);
    assert_eq!(energy(&mut hwmon, 4), increment(200), "the pause was short");
}

#[test]
fn b12_a_pipe_in_place_of_a_meter_is_off_and_nobody_waits_for_it() {
    use nix::sys::stat::Mode;
    let tree = Tree::new();
    tree.chip(0, "amdgpu", "0000:c1:00.0");
    tree.chip(1, "amdgpu", "0000:c2:00.0");
    tree.shows(1, "power1_average", 90_000_000);
    for pipe in ["hwmon0/power1_average", "hwmon1/power1_cap", "hwmon1/power1_label"] {
        let path = tree.root.path().join("sys/class/hwmon").join(pipe);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("pipe");
    }
    let mut hwmon = tree.hwmon();
    let states = hwmon.discover();
    let why = of(&states, "hwmon/amdgpu/0000:c1:00.0/power1").unavailable.as_deref();
    assert!(why.is_some_and(|why| why.contains("it is not a regular file")), "{why:?}");
    assert_eq!(of(&states, "hwmon/amdgpu/0000:c2:00.0/power1").unavailable, None);
    assert_eq!(hwmon.read(BootNanos(SECOND)).into_iter().filter_map(Result::ok).count(), 1);
}

#[test]
fn supplies_of_a_module_are_within_its_total_and_read_as_volts_times_amperes() {
    let tree = Tree::new();
    tree.chip(0, "ina3221", "1-0040");
    for (number, label, millivolts, milliamperes) in
        [(1, "VDD_IN", 5_000, 2_000), (2, "VDD_CPU_GPU_CV", 5_000, 700), (3, "VDD_SOC", 5_000, 0)]
    {
        tree.shows(0, &format!("in{number}_label"), label);
        tree.shows(0, &format!("in{number}_input"), millivolts);
        tree.shows(0, &format!("curr{number}_input"), milliamperes);
    }
    let found = channels(&tree.roots().sysfs);
    let shown: Vec<_> = found.iter().map(|one| (one.role.name(), one.container, one.read())).collect();
    let watts = |watts: u64| Ok(Shown::Microwatts(watts * 500_000));
    assert_eq!(shown, [("wall", None, watts(20)), ("rail", Some(0), watts(7)), ("rail", Some(0), watts(0))]);
    let states = tree.hwmon().discover();
    assert_eq!(of(&states, "hwmon/ina3221/1-0040/curr1").source.component, Component::Wall);
    // The wall is added to nothing, so its supplies count.
    assert_eq!(of(&states, "hwmon/ina3221/1-0040/curr2").source.contained_in, None);
}

#[test]
fn a_card_of_intel_counts_and_contains_its_package() {
    let tree = Tree::new();
    tree.chip(0, "xe", "0000:03:00.0");
    for (number, label, energy) in [(1, "card", 22_000_000_123_456u64), (2, "pkg", 15_000_000_000_001)] {
        tree.shows(0, &format!("energy{number}_label"), label);
        tree.shows(0, &format!("energy{number}_input"), energy);
    }
    let mut hwmon = tree.hwmon();
    let states = hwmon.discover();
    let card = "hwmon/xe/0000:03:00.0/energy1";
    assert_eq!(of(&states, "hwmon/xe/0000:03:00.0/energy2").source.contained_in.as_deref(), Some(card));
    assert_eq!(
        (of(&states, card).source.method, of(&states, card).source.device.as_deref()),
        (Method::Counter, Some("0000:03:00.0"))
    );
    let readings: Vec<_> = hwmon.read(BootNanos(SECOND)).into_iter().map(|one| one.expect("read").value).collect();
    assert_eq!(readings, [Value::Total { raw: 22_000_000_123_456 }, Value::Total { raw: 15_000_000_000_001 }]);
}
