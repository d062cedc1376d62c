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
