use super::*;
use std::fs;

const SECOND: u64 = 1_000_000_000;

struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { root: tempfile::tempdir().expect("folder") };
        tree.write("proc/cpuinfo", "vendor_id : GenuineIntel\n");
        tree.zone("intel-rapl:0", "package-0", "1000\n");
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("folder");
        fs::write(path, text).expect("file");
    }

    fn zone(&self, folder: &str, name: &str, energy: &str) {
        self.write(&format!("sys/class/powercap/{folder}/name"), name);
        self.write(&format!("sys/class/powercap/{folder}/max_energy_range_uj"), "262143328850\n");
        self.energy(folder, energy);
    }

    fn energy(&self, folder: &str, text: &str) {
        self.write(&format!("sys/class/powercap/{folder}/energy_uj"), text);
    }

    fn rapl(&self) -> Rapl {
        let roots = Roots {
            sysfs: self.root.path().join("sys"),
            procfs: self.root.path().join("proc"),
            cgroup: self.root.path().join("cgroup"),
        };
        Rapl::new(&roots, &RaplSection::default())
    }
}

fn raw(rapl: &mut Rapl, second: u64) -> Result<u64, &'static str> {
    let mut readings = rapl.read(BootNanos(second * SECOND));
    assert_eq!(readings.len(), 1);
    match readings.remove(0) {
        Ok(Reading { value: Value::Counter { raw, .. }, .. }) => Ok(raw),
        Ok(other) => panic!("{other:?} is no counter"),
        Err(failure) => Err(failure.reason),
    }
}

#[test]
fn only_whole_numbers_of_a_u64_are_readings() {
    let tree = Tree::new();
    let mut rapl = tree.rapl();
    rapl.discover();
    let long = "9".repeat(5_000_000);
    let refused = [
        "",
        "\n",
        "18446744073709551616",
        "99999999999999999999999",
        "-5",
        "+5",
        "12 34",
        "0x10",
        "1e6",
        "１２",
        &long,
    ];
    for text in refused {
        tree.energy("intel-rapl:0", text);
        assert_eq!(raw(&mut rapl, 1), Err("parse"), "{:.20}", text);
    }
    tree.energy("intel-rapl:0", "12345");
    assert_eq!(raw(&mut rapl, 2), Ok(12345));
}

#[test]
fn a_zone_that_vanishes_and_comes_back_is_read_again() {
    let tree = Tree::new();
    let mut rapl = tree.rapl();
    rapl.discover();
    assert_eq!(raw(&mut rapl, 1), Ok(1000));
    let folder = tree.root.path().join("sys/class/powercap/intel-rapl:0");
    fs::remove_dir_all(&folder).expect("removed");
    assert_eq!(raw(&mut rapl, 2), Err("missing"));
    tree.zone("intel-rapl:0", "package-0", "7\n");
    assert_eq!(raw(&mut rapl, 3), Ok(7));
}

#[test]
fn a_counter_that_stands_still_for_ten_seconds_under_load_is_dead() {
    let tree = Tree::new();
    let mut rapl = tree.rapl();
    rapl.discover();
    tree.write("proc/stat", "cpu 0 0 0 1000 0 0 0 0\n");
    assert_eq!(raw(&mut rapl, 1), Ok(1000));
    tree.write("proc/stat", "cpu 100 0 0 1900 0 0 0 0\n");
    assert_eq!(raw(&mut rapl, 10), Ok(1000));
    assert_eq!(raw(&mut rapl, 11), Err("dead"));
    let sources = rapl.discover();
    assert!(sources[0].unavailable.as_deref().is_some_and(|why| why.contains("does not move")));
    assert!(rapl.read(BootNanos(12 * SECOND)).is_empty());
}

#[test]
fn a_counter_that_stands_still_while_the_cpu_rests_is_not_dead() {
    let tree = Tree::new();
    let mut rapl = tree.rapl();
    rapl.discover();
    tree.write("proc/stat", "cpu 0 0 0 1000 0 0 0 0\n");
    assert_eq!(raw(&mut rapl, 1), Ok(1000));
    tree.write("proc/stat", "cpu 100 0 0 9000 0 0 0 0\n");
    assert_eq!(raw(&mut rapl, 100), Ok(1000));
}

#[test]
fn masked_zones_say_which_mount_fixes_it() {
    let tree = Tree::new();
    let folder = tree.root.path().join("sys/class/powercap");
    fs::remove_dir_all(folder.join("intel-rapl:0")).expect("removed");
    std::os::unix::fs::symlink("../../devices/virtual/powercap/intel-rapl/intel-rapl:0", folder.join("intel-rapl:0"))
        .expect("link");
    let sources = tree.rapl().discover();
    assert_eq!(sources.len(), 1);
    let why = sources[0].unavailable.as_deref().expect("unavailable");
    assert!(why.contains("masked") && why.contains("/sys/devices/virtual/powercap"), "{why}");
}

#[test]
fn a_refused_permission_names_the_path_the_owner_and_the_reason() {
    let why = explain(Path::new("/sys/x/energy_uj"), &ErrorKind::PermissionDenied.into());
    assert_eq!(why, "/sys/x/energy_uj may not be read: needs uid 0 (or owner), see CVE-2020-8694");
}

#[test]
fn only_the_first_256_zones_are_read_and_the_rest_is_counted() {
    let tree = Tree::new();
    for zone in 1..300 {
        tree.zone(&format!("intel-rapl:{zone:x}"), &format!("package-{zone}"), "1\n");
    }
    let mut rapl = tree.rapl();
    assert_eq!(rapl.discover().len(), 256);
    assert_eq!(rapl.zones_ignored(), 44);
}

#[test]
fn a_pipe_in_place_of_a_counter_does_not_stop_the_others() {
    let tree = Tree::new();
    tree.zone("intel-rapl:1", "package-1", "5\n");
    let path = tree.root.path().join("sys/class/powercap/intel-rapl:0/energy_uj");
    fs::remove_file(&path).expect("removed");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("pipe");
    let mut rapl = tree.rapl();
    let sources = rapl.discover();
    assert!(sources.iter().any(|state| state.unavailable.as_deref().is_some_and(|why| why.contains("regular file"))));
    assert_eq!(rapl.read(BootNanos(1)).iter().filter(|reading| reading.is_ok()).count(), 1);
}
