//! Real control groups: read from kept descriptors, told of by the kernel, and pruned while they sleep.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use joulebook_agent::config::Roots;
use joulebook_agent::process::cgroup::Watch;
use joulebook_agent::process::{InferenceGroup, WorkloadSample, Workloads};
use joulebook_units::BootNanos;

const MOUNTED: &str = "/sys/fs/cgroup";
/// Held by each test: groups that another one makes would be news to it.
static ALONE: Mutex<()> = Mutex::new(());

/// A group of this test alone, in the hierarchy that counts CPU time.
struct Group {
    folder: PathBuf,
    path: String,
}

impl Group {
    fn new(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes control groups");
        let root = Path::new(MOUNTED);
        let bases = ["cpuacct", "cpu,cpuacct", "", "unified"].map(|base| root.join(base));
        let counts = |base: &&PathBuf| base.join("cpuacct.usage").exists() || base.join("cpu.stat").exists();
        let base =
            bases.iter().find(counts).expect("this test needs a hierarchy of control groups that counts CPU time");
        let name = format!("{name}-{}.service", std::process::id());
        let folder = base.join(&name);
        fs::create_dir(&folder).unwrap();
        Self { folder, path: format!("/{name}") }
    }

    fn take_in(&self, child: &Child) {
        fs::write(self.folder.join("cgroup.procs"), child.id().to_string()).unwrap();
    }

    fn cpu_nanos(&self, watch: &Watch) -> Option<u64> {
        watch.groups().iter().find(|group| group.path == self.path).map(|group| group.cpu_nanos)
    }

    fn slept(&self, watch: &Watch) -> bool {
        let index = watch.groups().iter().position(|group| group.path == self.path).expect("the group is known");
        watch.slept(index)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _in_use = fs::remove_dir(&self.folder);
    }
}

/// A shell that does what it is told and then sleeps.
struct Shell(Child);

impl Shell {
    fn start() -> Self {
        let mut command = Command::new("sh");
        let mut shell = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        shell.run(":");
        shell
    }

    /// Runs commands and returns when the shell waits for more.
    fn run(&mut self, commands: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{commands}; echo done").unwrap();
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
        let stat = || fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        while !stat().contains(") S ") {
            std::thread::yield_now();
        }
    }

    /// Works for about that many hundredths of a second of CPU time.
    fn work(&mut self, ticks: u64) {
        let until = self.field(11) + self.field(12) + ticks;
        while self.field(11) + self.field(12) < until {
            self.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
        }
    }

    /// A field of `/proc/<pid>/stat` behind the name, from 0: 11 and 12 are user and system time, 19 is the start.
    fn field(&self, index: usize) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(index).unwrap().parse().unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn row(sample: &WorkloadSample, id: &str) -> Option<u64> {
    sample.rows.iter().find(|row| row.workload.id == id).map(|row| row.cpu_nanos)
}

#[test]
fn a_group_is_known_when_it_is_made_asleep_or_at_work_and_gone_when_it_is_removed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut shell = Shell::start();
    let mut watch = Watch::new(Path::new(MOUNTED));
    watch.read();
    let group = Group::new("joulebook-rig-a");
    watch.read();
    assert_eq!(group.cpu_nanos(&watch), Some(0), "the kernel told of the new folder");
    group.take_in(&shell.0);
    watch.read();
    watch.read();
    let list = watch.generation();
    assert!(group.slept(&watch));
    shell.work(5);
    watch.read();
    assert!(!group.slept(&watch));
    let used = group.cpu_nanos(&watch).unwrap();
    assert!(used >= 40_000_000, "{used} ns");
    let file =
        ["cpuacct.usage", "cpu.stat"].map(|name| fs::read_to_string(group.folder.join(name)).unwrap_or_default());
    let told = file.concat();
    let told = told.split_ascii_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
    assert!([told, told * 1_000].contains(&used), "the descriptor shows {used}, the file {told}");
    watch.read();
    assert!(group.slept(&watch) && watch.generation() == list, "nothing came or went: nothing was listed again");
    drop(shell);
    let path = group.path.clone();
    drop(group);
    watch.read();
    assert!(watch.generation() > list && watch.groups().iter().all(|group| group.path != path));
}

#[test]
fn a_process_that_slept_with_its_group_keeps_its_account() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let roots = Roots { sysfs: "/sys".into(), procfs: "/proc".into(), cgroup: MOUNTED.into() };
    // Before the processes, so that it is removed after them.
    let group = Group::new("joulebook-rig-b");
    let (mut server, mut neighbour) = (Shell::start(), Shell::start());
    group.take_in(&server.0);
    group.take_in(&neighbour.0);
    let mut workloads = Workloads::new(&roots, 2);
    let mut second = 1_000_000;
    let mut sample = |groups: &[InferenceGroup]| {
        second += 1;
        workloads.sample(BootNanos(second * 1_000_000_000), groups)
    };
    sample(&[]);
    // Long enough asleep to be left out of many samples, and to be looked at in between.
    let id = format!("unit{}", group.path);
    let before = row(&sample(&[]), &id).unwrap();
    for _ in 0..80 {
        assert_eq!(row(&sample(&[]), &id), Some(before), "nothing ran in the group");
    }
    neighbour.work(120);
    let worked = row(&sample(&[]), &id).unwrap() - before;
    assert!(worked >= 1_100_000_000, "{worked} ns");
    // Two servers in one group are told apart by process, and who worked a second beside them as well.
    let other = Shell::start();
    group.take_in(&other.0);
    let server_of = |shell: &Shell| InferenceGroup {
        target: format!("t{}", shell.0.id()),
        pid: i32::try_from(shell.0.id()).unwrap(),
        start_ticks: shell.field(19),
        reserved_millicores: None,
        parts: None,
    };
    let servers = [server_of(&server), server_of(&other)];
    sample(&servers);
    server.work(30);
    neighbour.work(30);
    let apart = sample(&servers);
    let of = |shell: &Shell| row(&apart, &format!("process/{}@{}", shell.0.id(), shell.field(19)));
    let (served, beside) = (of(&server).expect("the server's row"), of(&neighbour).expect("the neighbour's row"));
    assert!((290_000_000..600_000_000).contains(&served), "{served} ns");
    assert!((290_000_000..600_000_000).contains(&beside), "{beside} ns: what it used before is the group's");
}
