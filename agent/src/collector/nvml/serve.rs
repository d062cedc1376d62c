//! The helper process: answers rounds of readings until its input ends.
//!
//! It may hang or die (without a core dump: that would only fill the disk) at any call of the vendor's library; nothing here has to be undone then. It ends with the agent:
//! by the end of its input, and, where it hangs, by a signal of the kernel.

use super::dcgm::Pages;
use super::edge::{Edges, LOOK_NANOS, SHARP_NANOS};
use super::library;
use super::message::{Facts, Fault, Line, Request, Shown};
use super::mig;
use nix::sys::signal::Signal;
use nvml_wrapper::{Device, Nvml};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::Duration;

/// Devices are looked for again this often, in ns.
const LOOK_AGAIN_NANOS: u64 = 30_000_000_000;
/// Longest time for which steps of the energy counters are watched.
const WATCH_NANOS: u64 = 250_000_000;
/// Times that steps are watched before the first round, where the first time was in vain.
const FIRST_WATCHES: u32 = 12;
/// Times that a counter is read anew because a step was too near.
const MOST_TRIES: u32 = 3;
/// Rounds in which every device fails before the library is started again.
const FAILED_ROUNDS: u32 = 2;
/// The first argument that makes a program this helper.
pub const HELPER: &str = "nvml-helper";

/// Why a session with the library ended.
enum End {
    /// The agent closed the helper's input.
    Input,
    /// Every device fails: the library has to be started again.
    Restart,
}

/// Serves until the input ends. What goes wrong is said as a [`Line::Failed`].
///
/// # Errors
/// Of stdin and stdout.
pub fn serve(library: Option<&Path>, dcgm: Option<&str>) -> io::Result<()> {
    confine();
    let mut requests = io::stdin().lock().lines();
    let mut out = io::stdout().lock();
    // The configuration was checked: a page that cannot be had is no reason to read no energy.
    let pages = dcgm.and_then(|url| Pages::read(url).ok()).unwrap_or_default();
    loop {
        let nvml = match library::start(library) {
            Ok(nvml) => nvml,
            Err(why) => return say(&mut out, &Line::Failed { why }),
        };
        match session(&nvml, &pages, &mut requests, &mut out)? {
            End::Input => return Ok(()),
            // Dropping the library shuts it down.
            End::Restart => {}
        }
    }
}

/// The helper ends with its agent, and leaves nothing behind if it crashes.
pub(in crate::collector) fn confine() {
    // An agent that was killed cannot close anything while a call hangs.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

/// Says a line to the agent.
pub(in crate::collector) fn say(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    out.write_all(&text)?;
    out.flush()
}

/// Devices of one start of the library.
struct Session<'nvml> {
    nvml: &'nvml Nvml,
    devices: BTreeMap<String, Open<'nvml>>,
    driver: Option<String>,
    looked: Option<u64>,
    /// Whether the devices could not be counted.
    blind: bool,
}

struct Open<'nvml> {
    device: Device<'nvml>,
    facts: Facts,
    edges: Edges,
    /// Newest sample of use by process, in the library's µs.
    seen_us: u64,
    /// Activity of its instances, where it is divided.
    instances: mig::Activity<'nvml>,
}

fn session(
    nvml: &Nvml,
    pages: &Pages,
    requests: &mut impl Iterator<Item = io::Result<String>>,
    out: &mut impl Write,
) -> io::Result<End> {
    let driver = nvml.sys_driver_version().ok();
    let mut session = Session { nvml, devices: BTreeMap::new(), driver, looked: None, blind: false };
    let (mut failed, mut tries) = (0, FIRST_WATCHES);
    for request in requests {
        let request: Request = serde_json::from_str(&request?)?;
        let skip: BTreeSet<String> = request.skip.iter().cloned().collect();
        if session.devices.is_empty()
            || session.looked.is_none_or(|at| library::now().saturating_sub(at) >= LOOK_AGAIN_NANOS)
        {
            session.look(&skip, out)?;
        }
        // The first values are baselines: it is worth some tries to know how old they are.
        for _ in 0..std::mem::replace(&mut tries, 1) {
            session.watch(&skip, out)?;
        }
        let all_failed = session.round(&request, &skip, pages, out)?;
        say(out, &Line::End)?;
        failed = if all_failed { failed + 1 } else { 0 };
        if failed >= FAILED_ROUNDS {
            return Ok(End::Restart);
        }
    }
    Ok(End::Input)
}

impl Session<'_> {
    /// Looks which devices there are. One that is lost stays known, so that every round says so.
    fn look(&mut self, skip: &BTreeSet<String>, out: &mut impl Write) -> io::Result<()> {
        self.looked = Some(library::now());
        let mut said = Ok(());
        let found = library::devices(self.nvml, |device| {
            let skipped = skip.contains(&device);
            said = std::mem::replace(&mut said, Ok(())).and_then(|()| say(out, &Line::Begin { device }));
            !skipped
        });
        said?;
        // A count that fails leaves what is known: each device then tells for itself.
        self.blind = found.is_err();
        let Ok(found) = found else { return Ok(()) };
        for (uuid, (index, device)) in found {
            if skip.contains(&uuid) {
                continue;
            }
            say(out, &Line::Begin { device: uuid.clone() })?;
            let facts = library::facts(self.nvml, &uuid, index, &device);
            let (edges, instances) = (Edges::default(), mig::Activity::default());
            let open = Open { device, facts, edges, seen_us: 0, instances };
            match self.devices.get_mut(&uuid) {
                // The handle may be another one after the device was away.
                Some(known) => {
                    known.facts.counts = open.facts.counts;
                    known.facts.index = open.facts.index;
                    known.facts.divided = open.facts.divided;
                    known.facts.module = open.facts.module;
                    known.device = open.device;
                }
                None => {
                    self.devices.insert(uuid, open);
                }
            }
        }
        let devices = self.devices.values().map(|open| open.facts.clone()).collect();
        say(out, &Line::Devices { driver: self.driver.clone(), devices })
    }

    /// Reads every device. Whether each of them fails, or none can be found.
    fn round(
        &mut self,
        request: &Request,
        skip: &BTreeSet<String>,
        pages: &Pages,
        out: &mut impl Write,
    ) -> io::Result<bool> {
        let nvml = self.nvml;
        let mut failures = 0;
        let mut read = 0;
        for (uuid, open) in self.devices.iter_mut().filter(|(uuid, _)| !skip.contains(*uuid)) {
            say(out, &Line::Begin { device: uuid.clone() })?;
            let energy = open.energy();
            let power = match &energy {
                // Asking a lost device more only takes time.
                Err(Fault::Lost) => Err(Fault::Lost),
                _ => library::power(&open.device, open.facts.power_usage),
            };
            let module = (open.facts.module && energy != Err(Fault::Lost)).then(|| library::module(nvml, &open.device));
            let module = module.flatten();
            let processes = (request.processes && energy != Err(Fault::Lost)).then(|| {
                let read = if open.facts.divided {
                    let used = mig::processes(nvml, &open.device, &open.facts, &mut open.instances, pages);
                    used.map(|used| (used, open.seen_us))
                } else {
                    library::processes(&open.device, open.seen_us)
                };
                read.map(|(used, newest)| {
                    open.seen_us = newest;
                    used
                })
            });
            read += 1;
            let failed = |fault: &Fault| matches!(fault, Fault::Failed(_));
            if energy.as_ref().is_err_and(failed) && power.as_ref().is_err_and(failed) {
                failures += 1;
            }
            say(out, &Line::Device(Box::new(Shown { uuid: uuid.clone(), energy, power, module, processes })))?;
        }
        Ok(self.blind && self.devices.is_empty() || read > 0 && failures == read)
    }

    /// Watches the energy counters' steps where that is due. Every look says which device it is on.
    fn watch(&mut self, skip: &BTreeSet<String>, out: &mut impl Write) -> io::Result<()> {
        let begin = library::now();
        let mut due: Vec<(&String, &mut Open<'_>, Watch)> = Vec::new();
        for (uuid, open) in self.devices.iter_mut().filter(|(uuid, _)| !skip.contains(*uuid)) {
            if open.edges.is_due(begin) {
                due.push((uuid, open, Watch::default()));
            }
        }
        while library::now().saturating_sub(begin) < WATCH_NANOS && due.iter().any(|(.., watch)| !watch.is_done()) {
            for (uuid, open, watch) in due.iter_mut().filter(|(.., watch)| !watch.is_done()) {
                say(out, &Line::Begin { device: (*uuid).clone() })?;
                watch.look(library::energy(&open.device).ok());
            }
            std::thread::sleep(Duration::from_nanos(LOOK_NANOS));
        }
        for (_, open, watch) in due {
            match watch.steps[..] {
                [first, second, ..] => open.edges.watched(Some((first, second)), library::now()),
                // What was seen is too vague: another try.
                _ if watch.moved => open.edges.watched_in_vain(library::now()),
                _ => open.edges.watched(None, library::now()),
            }
        }
        Ok(())
    }
}

impl Open<'_> {
    /// The energy counter, dated by its last step where that is known.
    fn energy(&self) -> Result<(u64, u64), Fault> {
        let mut read = library::energy(&self.device)?;
        for _ in 0..MOST_TRIES {
            match self.edges.step_of(read.before, read.after) {
                None => break,
                Some(Ok(step)) => return Ok((read.millijoules, step)),
                Some(Err(wait)) => {
                    std::thread::sleep(Duration::from_nanos(wait));
                    read = library::energy(&self.device)?;
                }
            }
        }
        Ok((read.millijoules, read.at()))
    }
}

/// One counter that is being watched.
#[derive(Default)]
struct Watch {
    before: Option<library::Energy>,
    steps: Vec<u64>,
    /// Whether the value changed at all.
    moved: bool,
    failed: bool,
}

impl Watch {
    fn is_done(&self) -> bool {
        self.failed || self.steps.len() >= 2
    }

    fn look(&mut self, shown: Option<library::Energy>) {
        let Some(shown) = shown else {
            self.failed = true;
            return;
        };
        let Some(last) = self.before.replace(shown) else { return };
        if last.millijoules == shown.millijoules {
            return;
        }
        self.moved = true;
        let width = shown.after.saturating_sub(last.before);
        if width > SHARP_NANOS {
            // The step lies anywhere in between, and steps have to be neighbours.
            self.steps.clear();
            return;
        }
        self.steps.push(last.before + width / 2);
    }
}
