use super::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// A process of one thread that sleeps until it is asked for something.
struct Echo(Child);

impl Echo {
    fn start() -> Self {
        let mut command = Command::new("cat");
        let mut echo = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat"));
        // It runs its own program from then on, and has nothing more to do.
        echo.work();
        echo
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id")
    }

    /// Makes it run, and returns when it has.
    fn work(&mut self) {
        self.0.stdin.as_mut().expect("piped").write_all(b"x\n").expect("written");
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line, "x\n");
        self.rest();
    }

    /// Waits until it waits: the kernel counts what it ran when it goes to sleep.
    fn rest(&self) {
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("alive");
        while !stat().contains(") S ") {
            std::thread::yield_now();
        }
    }

    fn end(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("awaited");
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn table() -> Table {
    let table = Table::new(Path::new("/proc"));
    assert!(table.list.is_some(), "tests run on a machine with a procfs");
    table
}

fn sample(table: &mut Table, sleeps: impl FnMut(&(i32, u64)) -> bool) -> Vec<Found> {
    table.begin();
    table.read(sleeps)
}

fn find(found: &[Found], pid: i32) -> Option<&Found> {
    found.iter().find(|found| found.process.pid == pid)
}

/// Samples until the process is watched by its run time.
fn settle(table: &mut Table, pid: i32) -> (i32, u64) {
    for _ in 0..3 {
        sample(table, |_| false);
    }
    let entry = table.entries.iter().find(|entry| entry.pid == pid).expect("known");
    assert!(matches!(entry.watch, Watch::Run { .. }), "a process of one thread is watched by its run time: {entry:?}");
    entry.process.as_deref().expect("read").key()
}

#[test]
fn a_process_is_read_again_only_when_it_ran() {
    let mut echo = Echo::start();
    let mut table = table();
    settle(&mut table, echo.pid());
    let shown = |table: &Table, pid| {
        let entry = table.entries.iter().find(|entry| entry.pid == pid).expect("known");
        let Watch::Run { shown, .. } = &entry.watch else { panic!("watched by its run time: {entry:?}") };
        *shown
    };
    let first = sample(&mut table, |_| false);
    let (first, before) = (find(&first, echo.pid()).expect("it sleeps").process.clone(), shown(&table, echo.pid()));
    let second = sample(&mut table, |_| false);
    let second = &find(&second, echo.pid()).expect("a process that sleeps is there").process;
    assert!(Arc::ptr_eq(&first, second) && shown(&table, echo.pid()) == before);
    echo.work();
    let third = sample(&mut table, |_| false);
    assert_ne!(shown(&table, echo.pid()), before);
    let whole = proc::processes(Path::new("/proc")).into_iter().find(|process| process.pid == echo.pid());
    let third = find(&third, echo.pid()).expect("found");
    assert_eq!(Some(&*third.process), whole.as_ref(), "it is known as a full reading knows it");
}

#[test]
fn a_process_that_is_always_at_work_keeps_its_stat_open_until_it_rests() {
    let mut echo = Echo::start();
    let mut table = table();
    settle(&mut table, echo.pid());
    let pid = echo.pid();
    let keeps_stat = |table: &Table| {
        let entry = table.entries.iter().find(|entry| entry.pid == pid).expect("known");
        matches!(entry.watch, Watch::Stat(_))
    };
    for _ in 0..BUSY_STREAK {
        assert!(!keeps_stat(&table));
        echo.work();
        sample(&mut table, |_| false);
    }
    assert!(keeps_stat(&table));
    // Its times are told in ticks, so that little work does not show: it rests for as long as it looks so.
    for _ in 0..=LOOK_EVERY {
        sample(&mut table, |_| false);
    }
    assert!(!keeps_stat(&table));
}

#[test]
fn who_comes_is_found_and_who_ends_is_told_once() {
    let mut table = table();
    sample(&mut table, |_| false);
    let mut echo = Echo::start();
    assert!(find(&sample(&mut table, |_| false), echo.pid()).is_some());
    let key = settle(&mut table, echo.pid());
    assert!(table.lives(&key));
    echo.end();
    assert!(find(&sample(&mut table, |_| false), echo.pid()).is_none());
    assert_eq!(table.ended().iter().filter(|ended| **ended == key).count(), 1);
    assert!(!table.lives(&key));
    sample(&mut table, |_| false);
    assert!(!table.ended().contains(&key));
}

#[test]
fn who_is_said_to_sleep_is_left_out_but_not_for_ever() {
    const RAN_AFTER: u32 = 2;
    let mut echo = Echo::start();
    let mut table = table();
    let key = settle(&mut table, echo.pid());
    let mut left_out = 0;
    let stray = loop {
        if let Some(found) = find(&sample(&mut table, |other| *other == key), echo.pid()) {
            break found.stray;
        }
        left_out += 1;
        assert!(table.lives(&key));
        // Its number decides when it is looked at: the sample just before it ran may be one in which it was.
        assert!(left_out < RAN_AFTER + DOUBT_EVERY, "it ran and was not looked at");
        if left_out == RAN_AFTER {
            // Against what is said of it.
            echo.work();
        }
    };
    assert!(left_out >= RAN_AFTER && stray);
}

#[test]
fn at_most_as_many_descriptors_are_kept_as_may_be() {
    let echoes = [Echo::start(), Echo::start()];
    let mut table = Table { most_kept: 1, ..table() };
    for _ in 0..4 {
        let found = sample(&mut table, |_| false);
        assert!(echoes.iter().all(|echo| find(&found, echo.pid()).is_some()));
    }
    let open = table.entries.iter().filter(|entry| !matches!(entry.watch, Watch::Nothing)).count();
    assert_eq!((open, table.kept), (1, 1));
}

#[test]
fn the_machine_tells_its_times_and_forks() {
    let machine =
        parse_machine(b"cpu 1 2 3 4 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8\nintr 9 \xff\nprocesses 77\nprocs_running 2\n");
    assert_eq!(machine.forks, Some(77));
    assert_eq!(machine.times.map(|times| times.busy), Some(19));
    assert_eq!(parse_machine(b"cpu 1 2 3 4\n").forks, None);
}
