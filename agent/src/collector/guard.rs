//! Readings that may never return, made in a thread of their own: a source that blocks stops only itself.
//!
//! A driver may hold a read of its file for seconds, or for ever. All sources are read one after the other by one thread,
//! and the tick waits for it. When a source does not return in time, its thread is left alone with it, a new thread reads
//! the others, and nobody asks that source again before it has returned: there is never a second reader of it.
//!
//! Question: a thread for each source, or one for all? A round costs one wake-up each way with one thread, some 40 µs, and
//! as many as there are sources with one each. Choice: one, and a further one for each source that blocks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::nvml::library::now;
use std::path::Path;

/// How long a source may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a round may take: what is not read by then is read in the next one.
const BUDGET: Duration = Duration::from_millis(80);

/// What can be read again and again, and may block.
pub trait Probe: Send + 'static {
    /// What it shows.
    type Shown: Send + 'static;

    /// Reads it.
    fn read(&mut self) -> Self::Shown;
}

/// What became of a source in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It was read.
    Shown(T),
    /// A read of it, of this round or of an earlier one, has not returned.
    Stuck,
    /// Others took so long that its turn did not come.
    Late,
}

/// The sources that one thread reads.
pub struct Guard<P: Probe> {
    probes: BTreeMap<String, P>,
    reader: Option<Arc<Reader<P>>>,
    /// Readers that are left alone with a source each.
    stuck: BTreeMap<String, Arc<Reader<P>>>,
    patience: Duration,
    budget: Duration,
}

impl<P: Probe> std::fmt::Debug for Guard<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("probes", &self.probes.keys()).field("stuck", &self.stuck.keys()).finish()
    }
}

impl<P: Probe> Default for Guard<P> {
    fn default() -> Self {
        Self::patient(PATIENCE, BUDGET)
    }
}

struct Reader<P: Probe> {
    work: Mutex<Work<P>>,
    /// Something is to be read, or nothing ever again.
    begin: Condvar,
    /// Everything is read.
    end: Condvar,
}

struct Work<P: Probe> {
    waiting: VecDeque<(String, P)>,
    reading: Option<String>,
    done: Vec<(String, P, P::Shown)>,
    retired: bool,
}

impl<P: Probe> Guard<P> {
    /// A guard with other limits: of one source, and of a round.
    pub fn patient(patience: Duration, budget: Duration) -> Self {
        Self { probes: BTreeMap::new(), reader: None, stuck: BTreeMap::new(), patience, budget }
    }

    /// Whether a source of this name is read, or stuck.
    pub fn knows(&self, name: &str) -> bool {
        self.probes.contains_key(name) || self.stuck.contains_key(name)
    }

    /// Adds a source, in place of another one of its name; one that is stuck stays so until it returns.
    pub fn insert(&mut self, name: String, probe: P) {
        if !self.stuck.contains_key(&name) {
            self.probes.insert(name, probe);
        }
    }

    /// Reads no others than these from now on.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.probes.retain(|name, _| keep(name));
    }

    /// Reads every source once.
    pub fn round(&mut self) -> BTreeMap<String, Outcome<P::Shown>> {
        self.admit_returned();
        let mut outcomes: BTreeMap<_, _> = self.stuck.keys().map(|name| (name.clone(), Outcome::Stuck)).collect();
        let (begin, mut left) = (now(), std::mem::take(&mut self.probes).into_iter().collect::<VecDeque<_>>());
        let patient_until = begin.saturating_add(nanos(self.budget));
        while !left.is_empty() {
            if now() >= patient_until {
                for (name, probe) in left.drain(..) {
                    outcomes.insert(name.clone(), Outcome::Late);
                    self.probes.insert(name, probe);
                }
                break;
            }
            let Some(reader) = self.reader.take().or_else(Reader::start) else {
                // No thread can be had: nothing is read, and nothing is lost.
                outcomes.extend(left.iter().map(|(name, _)| (name.clone(), Outcome::Late)));
                self.probes.extend(left);
                break;
            };
            reader.give(std::mem::take(&mut left));
            let (done, rest, stuck) = reader.wait(self.patience, patient_until);
            for (name, probe, shown) in done {
                outcomes.insert(name.clone(), Outcome::Shown(shown));
                self.probes.insert(name, probe);
            }
            left = rest;
            match stuck {
                Some(name) => {
                    tracing::warn!(source = name, "a reading of it does not return; the other sources go on");
                    outcomes.insert(name.clone(), Outcome::Stuck);
                    self.stuck.insert(name, reader);
                }
                None => self.reader = Some(reader),
            }
        }
        outcomes
    }

    /// Takes back what has returned; what it showed is of another time.
    fn admit_returned(&mut self) {
        let Self { probes, stuck, .. } = self;
        stuck.retain(|_, reader| {
            let returned = reader.lock().done.pop();
            let is_back = returned.is_some();
            if let Some((name, ..)) = &returned {
                tracing::info!(source = name, "the reading of it has returned; it is read again");
            }
            probes.extend(returned.map(|(name, probe, _)| (name, probe)));
            !is_back
        });
    }
}

impl<P: Probe> Drop for Guard<P> {
    fn drop(&mut self) {
        // Threads that block end with the process; the others now.
        if let Some(reader) = &self.reader {
            reader.lock().retired = true;
            reader.begin.notify_one();
        }
    }
}

impl<P: Probe> Reader<P> {
    /// `None` if the system gives no thread.
    fn start() -> Option<Arc<Self>> {
        let work = Work { waiting: VecDeque::new(), reading: None, done: Vec::new(), retired: false };
        let reader = Arc::new(Self { work: Mutex::new(work), begin: Condvar::new(), end: Condvar::new() });
        let own = Arc::clone(&reader);
        let thread = thread::Builder::new().name("sources".to_owned()).stack_size(128 * 1024);
        match thread.spawn(move || own.run()) {
            Ok(_) => Some(reader),
            Err(error) => {
                tracing::warn!(%error, "no thread can be had to read the sources");
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work<P>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut work = self.lock();
        loop {
            let Some((name, mut probe)) = work.waiting.pop_front() else {
                if work.retired {
                    return;
                }
                work = self.begin.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            work.reading = Some(name.clone());
            drop(work);
            let shown = probe.read();
            work = self.lock();
            work.reading = None;
            work.done.push((name, probe, shown));
            if work.waiting.is_empty() {
                self.end.notify_one();
            }
        }
    }

    fn give(&self, probes: VecDeque<(String, P)>) {
        self.lock().waiting = probes;
        self.begin.notify_one();
    }

    /// Waits until everything is read, or one source takes too long: it is named, what waits behind it is given back, and
    /// this reader reads nothing else any more.
    #[expect(
        clippy::type_complexity,
        reason = "read, left, and the one that is stuck: a type of its own would be read once"
    )]
    fn wait(
        &self,
        patience: Duration,
        until: u64,
    ) -> (Vec<(String, P, P::Shown)>, VecDeque<(String, P)>, Option<String>) {
        let mut work = self.lock();
        let mut seen = 0;
        while work.reading.is_some() || !work.waiting.is_empty() {
            let patience = patience.min(Duration::from_nanos(until.saturating_sub(now())));
            let (next, waited) = self.end.wait_timeout(work, patience).unwrap_or_else(PoisonError::into_inner);
            work = next;
            let moves = work.done.len() != std::mem::replace(&mut seen, work.done.len());
            if !waited.timed_out() || moves && now() < until {
                continue;
            }
            if let Some(name) = work.reading.clone() {
                work.retired = true;
                let rest = std::mem::take(&mut work.waiting);
                return (std::mem::take(&mut work.done), rest, Some(name));
            }
        }
        (std::mem::take(&mut work.done), VecDeque::new(), None)
    }
}

/// How what is said of a source whose file does not answer ends.
const STUCK: &str = "has not returned; it is not read again before it has";

/// What is said of a source whose file does not answer.
pub fn stuck(path: &Path) -> String {
    format!("a read of {} {STUCK}", path.display())
}

/// Whether that is what is said.
pub fn says_stuck(why: &str) -> bool {
    why.ends_with(STUCK)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    /// Shows how often it was read, once its gate is open: a gate that has no sender is.
    struct Gated {
        gate: Receiver<()>,
        reads: u32,
    }

    impl Probe for Gated {
        type Shown = u32;

        fn read(&mut self) -> u32 {
            let _ = self.gate.recv();
            self.reads += 1;
            self.reads
        }
    }

    fn open() -> Gated {
        Gated { gate: channel().1, reads: 0 }
    }

    fn shown(reads: u32) -> Outcome<u32> {
        Outcome::Shown(reads)
    }

    #[test]
    fn a_source_that_blocks_stops_only_itself_and_is_read_again_once_it_has_returned() {
        let mut guard = Guard::patient(Duration::from_millis(50), Duration::from_secs(60));
        let (gate, blocked) = channel();
        for name in ["a", "b", "d"] {
            guard.insert(name.to_owned(), open());
        }
        guard.insert("c".to_owned(), Gated { gate: blocked, reads: 0 });
        for round in 1..=3 {
            let begin = now();
            let outcomes = guard.round();
            assert!(now() - begin < 10_000_000_000, "the others wait for it no longer than they must");
            assert_eq!(outcomes["c"], Outcome::Stuck);
            for name in ["a", "b", "d"] {
                assert_eq!(outcomes[name], shown(round), "{name}");
            }
            // Found anew while it is stuck: nobody else reads it.
            guard.insert("c".to_owned(), open());
        }
        drop(gate);
        let reader = Arc::clone(&guard.stuck["c"]);
        while reader.lock().done.is_empty() {
            thread::yield_now();
        }
        assert_eq!(guard.round()["c"], shown(2), "read once while it was stuck, and once now");
        assert!(guard.knows("c") && guard.stuck.is_empty());
        guard.retain(|name| name == "a");
        assert_eq!(guard.round().into_iter().collect::<Vec<_>>(), [("a".to_owned(), shown(5))]);
    }

    #[test]
    fn what_has_no_turn_in_a_round_that_is_too_long_has_one_in_the_next() {
        let mut guard = Guard::patient(Duration::from_millis(30), Duration::from_millis(30));
        let (_gate, blocked) = channel();
        guard.insert("a".to_owned(), Gated { gate: blocked, reads: 0 });
        guard.insert("b".to_owned(), open());
        let first = guard.round();
        assert_eq!((&first["a"], &first["b"]), (&Outcome::Stuck, &Outcome::Late));
        let begin = now();
        while guard.round()["b"] != shown(1) {
            assert!(now() - begin < 60_000_000_000);
        }
    }
}
