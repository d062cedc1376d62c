//! Who does what in which hour.

use joulebook_units::{UnixNanos, Window};
use std::fmt;

/// Seconds of an hour.
pub const HOUR: i64 = 3600;
/// Hours of a day.
pub const DAY_HOURS: i64 = 24;
/// Seconds of a minute: in each of them a node draws the same.
pub const SECONDS: u64 = 60;
/// First hour of each day in which the fleet is on.
pub const FIRST_HOUR: i64 = 6;
/// Hours of the day in which the second node of the pool `chat` serves too.
const PEAK: std::ops::Range<i64> = 8..20;
/// Every so many hours servers with accelerators stand and nobody asks.
const QUIET_EVERY: i64 = 4;
/// Day on which the second version of `chat` takes the place of the first, after an hour without either.
pub const REPLACED_DAY: i64 = 18;
/// Days on which `code` is tuned beside its server.
const TUNED: std::ops::Range<i64> = 5..9;
/// Day from which on the tuned `code` is served.
pub const TUNED_DAY: i64 = 10;

/// A node of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub site: &'static str,
    /// Whom it serves with.
    pub pool: &'static str,
    /// Whether it has an accelerator.
    pub accelerator: bool,
}

const fn node(name: &'static str, site: &'static str, pool: &'static str, accelerator: bool) -> Node {
    Node { name, site, pool, accelerator }
}

/// The fleet: a server and its spare, a server that is tuned beside, and one without accelerator.
pub const NODES: [Node; 4] = [
    node("fra-1", "fra", "chat", true),
    node("fra-2", "fra", "chat", true),
    node("iad-1", "iad", "code", true),
    node("iad-2", "iad", "embed", false),
];
const SERVER: usize = 0;
const SPARE: usize = 1;
const CODER: usize = 2;

/// A version of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// Every version that is ever served.
pub const MODELS: [Model; 5] = [
    Model { name: "chat", version: "1" },
    Model { name: "chat", version: "2" },
    Model { name: "code", version: "1" },
    Model { name: "code", version: "2" },
    Model { name: "embed", version: "1" },
];

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// What a node does in each minute of an hour. Energies in µJ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minute {
    /// Of the processor.
    pub cpu: u64,
    /// Of memory.
    pub dram: u64,
    /// Of the accelerator; 0 without one.
    pub gpu: u64,
    /// The version that is resident, if any.
    pub serves: Option<Model>,
    /// Requests that it finishes.
    pub requests: u64,
    /// Tokens that it reads.
    pub input_tokens: u64,
    /// Tokens that it writes.
    pub output_tokens: u64,
    /// Whether a version is tuned beside it.
    pub tuned: bool,
}

impl Minute {
    /// Energy of all parts in µJ.
    pub fn components(&self) -> u64 {
        self.cpu + self.dram + self.gpu
    }
}

/// When the fleet lives, and how much of each day it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// When it begins: a midnight.
    pub start: UnixNanos,
    /// How many days.
    pub days: i64,
    /// Hours of each day, from six on, in which it is on: 1 to 24.
    pub hours_a_day: i64,
}

impl Script {
    /// Thirty days up to an instant, whole days before it.
    pub fn ending(end: UnixNanos, days: i64, hours_a_day: i64) -> Self {
        let day = DAY_HOURS * HOUR;
        Self { start: end.floor_to(day).plus_seconds(-days * day), days, hours_a_day: hours_a_day.clamp(1, DAY_HOURS) }
    }

    /// All of it.
    pub fn window(&self) -> Window {
        Window::new(self.start, self.end()).expect("ordered")
    }

    /// When it ends.
    pub fn end(&self) -> UnixNanos {
        self.hour(self.days * DAY_HOURS)
    }

    /// When an hour begins.
    pub fn hour(&self, hour: i64) -> UnixNanos {
        self.start.plus_seconds(hour * HOUR)
    }

    /// When a day begins.
    pub fn day(&self, day: i64) -> UnixNanos {
        self.hour(day * DAY_HOURS)
    }

    /// The window of an hour.
    pub fn hour_window(&self, hour: i64) -> Window {
        Window::new(self.hour(hour), self.hour(hour + 1)).expect("ordered")
    }

    /// The hours in which the fleet is on, in order.
    pub fn hours(&self) -> impl Iterator<Item = i64> + use<> {
        let on = self.hours_a_day;
        (0..self.days * DAY_HOURS).filter(move |hour| (hour - FIRST_HOUR).rem_euclid(DAY_HOURS) < on)
    }

    /// What a node does in each minute of an hour.
    pub fn minute(&self, node: usize, hour: i64) -> Minute {
        let any = |what: u64, low: u64, high: u64| low + mixed(node as u64, hour.unsigned_abs(), what) % (high - low);
        let serves = serves(node, hour);
        // Where everything stands nobody would carry idle capacity by what is used.
        let quiet = NODES[node].accelerator && hour % QUIET_EVERY == QUIET_EVERY - 1;
        let asked = serves.is_some() && !quiet;
        let told = |what, low, high| if asked { any(what, low, high) } else { 0 };
        let tuned = node == CODER && TUNED.contains(&(hour / DAY_HOURS));
        let gpu = match (NODES[node].accelerator, asked || tuned, serves.is_some()) {
            (false, ..) => 0,
            (true, true, _) => any(2, 200_000_001, 500_000_007),
            // What a loaded model draws at rest, and an empty device.
            (true, false, true) => any(2, 83_000_001, 100_000_007),
            (true, false, false) => any(2, 60_000_001, 62_000_007),
        };
        // Where nothing runs a processor draws what it draws at rest, and less.
        let cpu = match serves {
            Some(_) => any(0, 50_000_001, 150_000_011),
            None => any(0, 20_000_001, 38_000_003),
        };
        Minute {
            cpu: cpu * SECONDS,
            dram: any(1, 10_000_001, 20_000_013) * SECONDS,
            gpu: gpu * SECONDS,
            serves,
            requests: told(3, 60, 600),
            input_tokens: told(4, 6_000, 60_000),
            output_tokens: told(5, 3_000, 30_000),
            tuned,
        }
    }
}

/// The version that is resident on a node in an hour.
fn serves(node: usize, hour: i64) -> Option<Model> {
    let (day, of_day) = (hour / DAY_HOURS, hour % DAY_HOURS);
    // Neither version of `chat` is there in the first hour of the day in which the fleet is on.
    let chat = match day {
        REPLACED_DAY if of_day <= FIRST_HOUR => None,
        day if day < REPLACED_DAY => Some(MODELS[0]),
        _ => Some(MODELS[1]),
    };
    match node {
        SERVER => chat,
        SPARE => chat.filter(|_| PEAK.contains(&of_day)),
        CODER => Some(if day < TUNED_DAY { MODELS[2] } else { MODELS[3] }),
        _ => Some(MODELS[4]),
    }
}

/// A number that looks like any other, always the same for the same three.
fn mixed(node: u64, hour: u64, what: u64) -> u64 {
    let mut mixed = 1 + node + (hour << 8) + (what << 40);
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0x9e37_79b9_7f4a_7c15_u64] {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(multiplier);
    }
    mixed >> 16
}
