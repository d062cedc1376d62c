//! The thread that asks the BMC: a command may hang in the kernel for seconds, and a row waits for nothing.

use super::dcmi::{self, Fault, REQUEST};
use crate::clock::{Clock, SystemClock};
use joulebook_units::{BootNanos, Milliwatts};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// Events that may wait for the collector.
const WAITING_EVENTS: usize = 16;

/// A way to send a command to the BMC.
pub trait IpmiTransport {
    /// Sends a command and gives the response: completion code, then data.
    ///
    /// # Errors
    /// `TimedOut`; `InvalidData` where the response has another length than the transport says; else the transport's.
    fn raw(&mut self, netfn: u8, cmd: u8, data: &[u8]) -> io::Result<Vec<u8>>;
}

/// The kernel's device.
pub struct Kernel(joulebook_ipmi::Device, Duration);

impl Kernel {
    /// Opens it; each command may take `limit`.
    ///
    /// # Errors
    /// Not there, not allowed, or busy.
    pub fn open(path: &Path, limit: Duration) -> io::Result<Self> {
        Ok(Self(joulebook_ipmi::Device::open(path)?, limit))
    }
}

impl IpmiTransport for Kernel {
    fn raw(&mut self, netfn: u8, cmd: u8, data: &[u8]) -> io::Result<Vec<u8>> {
        self.0.raw(netfn, cmd, data, self.1)
    }
}

/// How a transport is had.
pub type Open = Box<dyn FnMut() -> io::Result<Box<dyn IpmiTransport>> + Send>;

/// How often.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time between two readings.
    pub interval: Duration,
    /// Least time between two commands of one reading.
    pub between: Duration,
    /// Most commands of one reading.
    pub tries: u32,
    /// Time after which a device that could not be opened is tried again.
    pub open_again: Duration,
}

/// What a reading came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A value.
    Sample {
        /// The middle between command and response.
        at: BootNanos,
        /// It.
        power: Milliwatts,
    },
    /// No value.
    Failed {
        /// The word for counters.
        reason: &'static str,
        /// What was tried, why it failed, what to do.
        why: String,
        /// Whether nothing is to be expected.
        off: bool,
    },
}

/// A BMC that is being asked.
#[derive(Debug)]
pub struct Meter {
    events: Receiver<Event>,
    /// The thread ends when this is dropped, at the latest after the command that it is at.
    _stop: Sender<()>,
}

impl Meter {
    /// Starts the thread.
    ///
    /// # Errors
    /// Of starting a thread.
    pub fn start(open: Open, pace: Pace) -> io::Result<Self> {
        let (out, events) = sync_channel(WAITING_EVENTS);
        let (stop, stopped) = channel();
        std::thread::Builder::new().name("ipmi".to_owned()).spawn(move || serve(open, pace, &out, &stopped))?;
        Ok(Self { events, _stop: stop })
    }

    /// The next event, if there is one.
    pub fn next(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

fn serve(mut open: Open, pace: Pace, out: &SyncSender<Event>, stopped: &Receiver<()>) {
    let is_stopped = |pause| stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
    let mut transport = None;
    loop {
        let mut pause = pace.interval;
        let event = match transport.as_mut() {
            Some(transport) => Some(read(transport, pace, &is_stopped)),
            None => match open() {
                Ok(opened) => {
                    transport = Some(opened);
                    continue;
                }
                Err(error) => {
                    pause = pace.open_again;
                    Some(Event::Failed { reason: opening(&error), why: not_opened(&error), off: true })
                }
            },
        };
        let is_over = matches!(&event, Some(Event::Failed { off: true, .. })) && transport.is_some();
        // A collector that is gone needs nothing more.
        event.into_iter().for_each(|event| drop(out.try_send(event)));
        if is_over || is_stopped(pause) {
            return;
        }
    }
}

/// One reading: some tries, each a while after the one before.
fn read(transport: &mut Box<dyn IpmiTransport>, pace: Pace, is_stopped: &impl Fn(Duration) -> bool) -> Event {
    let mut last = Event::Failed { reason: "busy", why: "the BMC was not asked".to_owned(), off: false };
    for attempt in 0..pace.tries {
        if attempt > 0 && is_stopped(pace.between) {
            break;
        }
        match ask(transport) {
            Ok(sample) => return sample,
            Err((event, true)) => last = event,
            Err((event, false)) => return event,
        }
    }
    last
}

/// One command. An error says whether another one may help.
fn ask(transport: &mut Box<dyn IpmiTransport>) -> Result<Event, (Event, bool)> {
    let failed = |reason, why: String, off| Event::Failed { reason, why, off };
    let (netfn, cmd, data) = REQUEST;
    let begin = SystemClock.boot();
    let response = transport.raw(netfn, cmd, &data).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => (failed("timeout", "the BMC did not answer".to_owned(), false), true),
        io::ErrorKind::InvalidData => {
            (failed("length", "the BMC's response has another length than it declares".to_owned(), false), false)
        }
        _ => (failed("io", format!("sending a command to the BMC failed: {error}"), false), true),
    })?;
    let end = SystemClock.boot();
    let statistics = dcmi::parse(&response).map_err(|fault| {
        let again = matches!(fault, Fault::Busy | Fault::State);
        (failed(fault.word(), fault.to_string(), fault.is_permanent()), again)
    })?;
    match statistics.power {
        Some(power) => Ok(Event::Sample { at: BootNanos(begin.0 + end.0.saturating_sub(begin.0) / 2), power }),
        None if !statistics.active => {
            let why = "the BMC says that it does not measure power, and shows none".to_owned();
            Err((failed("inactive", why, false), false))
        }
        // Some fail at the first try after their own start.
        None => Err((failed("implausible", "the BMC shows no power of a machine that is on".to_owned(), false), true)),
    }
}

fn opening(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "missing",
        io::ErrorKind::PermissionDenied => "permission",
        io::ErrorKind::ResourceBusy => "busy",
        _ => "io",
    }
}

fn not_opened(error: &io::Error) -> String {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "there is none: load ipmi_devintf and ipmi_si, or give the container the device",
        io::ErrorKind::PermissionDenied => {
            "run as root; in a container the mount alone is not enough: the device cgroup must allow the device, which a \
             device plugin does"
        }
        io::ErrorKind::ResourceBusy => "another program holds it",
        _ => "see the error",
    };
    format!("opening the IPMI device failed: {error}; {what}")
}
