//! The workload: what GPU nodes would tell, second by second. A pure function of seed and node.
//!
//! A node has 61 series: of each of 8 GPUs energy (mJ), power (mW) and utilisation (%); of each of 2 sockets the energy of
//! package and memory (µJ, as registers of 2⁻¹⁴ J and 2⁻¹⁶ J tell them); the power at its input (W); of each of 8 processes CPU
//! time (ns), prompt tokens, generated tokens and requests. Rows come every second with some milliseconds of jitter, now
//! and then a fifth of a second late.

/// GPUs of a node, and processes: one on each.
pub const GPUS: usize = 8;
/// Sockets of a node.
pub const SOCKETS: usize = 2;
/// Series of a node.
pub const SERIES: usize = 3 * GPUS + 2 * SOCKETS + 1 + 4 * GPUS;

/// What a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cumulative energy of a GPU in mJ.
    GpuEnergy,
    /// Power of a GPU in mW.
    GpuPower,
    /// Utilisation of a GPU in per cent.
    GpuUtilisation,
    /// Cumulative energy of a package in µJ.
    Package,
    /// Cumulative energy of memory in µJ.
    Dram,
    /// Power at the node's input in W.
    Input,
    /// Cumulative CPU time of a process in ns.
    CpuTime,
    /// Cumulative prompt tokens.
    PromptTokens,
    /// Cumulative generated tokens.
    OutputTokens,
    /// Cumulative requests.
    Requests,
}

impl Kind {
    /// Name under which a peer stores it.
    pub fn name(self) -> &'static str {
        match self {
            Self::GpuEnergy => "gpu_energy_mj_total",
            Self::GpuPower => "gpu_power_mw",
            Self::GpuUtilisation => "gpu_utilisation_percent",
            Self::Package => "package_energy_uj_total",
            Self::Dram => "dram_energy_uj_total",
            Self::Input => "input_power_w",
            Self::CpuTime => "process_cpu_ns_total",
            Self::PromptTokens => "prompt_tokens_total",
            Self::OutputTokens => "output_tokens_total",
            Self::Requests => "requests_total",
        }
    }

    /// What its values are told to us in: energies in µJ.
    pub fn unit(self) -> u64 {
        if self == Self::GpuEnergy { 1_000 } else { 1 }
    }

    /// Whether it only grows.
    pub fn is_counter(self) -> bool {
        !matches!(self, Self::GpuPower | Self::GpuUtilisation | Self::Input)
    }

    /// Unit of its register as a power of two of a joule, if it is read from one.
    pub fn register(self) -> Option<u32> {
        match self {
            Self::Package => Some(14),
            Self::Dram => Some(16),
            _ => None,
        }
    }
}

/// What is told of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Milliseconds from the beginning to each row.
    pub rows: Vec<u64>,
    /// Its series: what, of which GPU, socket or process, and a value for each row.
    pub series: Vec<(Kind, usize, Vec<u64>)>,
}

/// Numbers without a pattern (splitmix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Evenly in 0…1.
    fn even(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally around 0 with a deviation of 1 (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let (radius, turn) = (self.even().max(f64::MIN_POSITIVE), self.even());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }

    /// A count of events of which `mean` are expected (Knuth).
    fn events(&mut self, mean: f64) -> u64 {
        let (least, mut left, mut events) = ((-mean).exp(), self.even(), 0);
        while left > least {
            left *= self.even();
            events += 1;
        }
        events
    }
}

/// State of a GPU and of the process on it.
struct Worker {
    is_active: bool,
    load: f64,
    energy: f64,
    cpu_nanos: f64,
    cores: f64,
    prompt: u64,
    output: f64,
    requests: u64,
}

/// State of a socket: registers in their units.
struct Socket {
    watts: f64,
    package: f64,
    dram: f64,
}

/// What a node tells in so many seconds; `noise` scales what cannot be known beforehand, 1 is a node's.
pub fn node(seed: u64, number: u64, seconds: usize, noise: f64) -> Node {
    let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(number));
    let rows: Vec<u64> = (0..seconds as u64)
        .map(|second| {
            let late = if random.even() < 0.001 { 20.0 + 180.0 * random.even() } else { 0.0 };
            let at = second as f64 * 1_000.0 + 10.0 + noise * (1.5 * random.normal() + late);
            at.max(second as f64 * 1_000.0).round() as u64
        })
        .collect();
    let mut workers: Vec<Worker> = (0..GPUS)
        .map(|_| Worker {
            is_active: random.even() < 0.8,
            load: 0.75,
            energy: 1e9 + random.even() * 5e11,
            cpu_nanos: random.even() * 1e15,
            cores: 1.4,
            prompt: (random.even() * 1e8) as u64,
            output: random.even() * 1e9,
            requests: (random.even() * 1e6) as u64,
        })
        .collect();
    let mut sockets: Vec<Socket> = (0..SOCKETS)
        .map(|_| Socket { watts: 170.0, package: random.even() * 1e12, dram: random.even() * 1e12 })
        .collect();
    let mut input = 0.0;
    let mut columns: Vec<Vec<u64>> = (0..SERIES).map(|_| Vec::with_capacity(seconds)).collect();
    let mut before = None;
    for at in &rows {
        let passed = before.map_or(1.0, |before| (at - before) as f64 / 1_000.0);
        before = Some(*at);
        let mut watts = 0.0;
        let mut values = Vec::with_capacity(SERIES);
        for worker in &mut workers {
            worker.is_active = random.even() < if worker.is_active { 0.998 } else { 0.005 };
            worker.load = 0.75 + 0.95 * (worker.load - 0.75) + noise * 0.04 * random.normal();
            let load = if worker.is_active { worker.load.clamp(0.05, 1.0) } else { 0.0 };
            let power = if worker.is_active {
                (70.0 + 580.0 * load + noise * 4.0 * random.normal()).max(60.0)
            } else {
                70.0 + noise * 0.3 * random.normal()
            };
            // The counter is refreshed some ten milliseconds before it is read.
            worker.energy += (power * 1_000.0 * (passed + noise * 0.010 * random.normal()).max(0.0)).floor();
            let busy = (100.0 * load + noise * 3.0 * random.normal()).round().clamp(0.0, 100.0);
            values.extend([worker.energy, power * 1_000.0, if worker.is_active { busy } else { 0.0 }]);
            watts += power;
        }
        let mut values: Vec<u64> = values.into_iter().map(|value| value as u64).collect();
        for socket in &mut sockets {
            socket.watts = 170.0 + 0.97 * (socket.watts - 170.0) + noise * 3.0 * random.normal();
            let dram = 22.0 + noise * 0.3 * random.normal();
            let mut counted = |watts: f64, bits: i32| {
                (watts * (passed + noise * 0.001 * random.normal()) * f64::from(bits).exp2()).max(0.0).floor()
            };
            socket.package += counted(socket.watts, 14);
            socket.dram += counted(dram, 16);
            let told = |register: f64, bits: u32| ((register as u128 * 1_000_000) >> bits) as u64;
            values.extend([told(socket.package, 14), told(socket.dram, 16)]);
            watts += socket.watts + dram;
        }
        if input == 0.0 || random.even() > 0.3 {
            input = (watts * 1.08 + 240.0 + noise * 5.0 * random.normal()).round();
        }
        values.push(input as u64);
        for worker in &mut workers {
            worker.cores = (1.4 + 0.9 * (worker.cores - 1.4) + noise * 0.1 * random.normal()).max(0.05);
            let (asked, ran) = if worker.is_active {
                (random.events(1.5 * passed), worker.cores * passed * 1e9 + noise * 1e6 * random.normal())
            } else {
                (0, 2e5 + noise * 3e4 * random.normal())
            };
            worker.cpu_nanos += ran.max(0.0).floor();
            for _ in 0..asked {
                worker.prompt += (6.0 + random.normal()).exp() as u64 + 1;
            }
            if worker.is_active {
                let tokens = 1_500.0 * worker.load / 0.75 * passed + noise * 60.0 * random.normal();
                worker.output += tokens.max(0.0).floor();
            }
            worker.requests += asked;
            values.extend([worker.cpu_nanos as u64, worker.prompt, worker.output as u64, worker.requests]);
        }
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
    }
    let gpus = (0..GPUS).flat_map(|gpu| [(Kind::GpuEnergy, gpu), (Kind::GpuPower, gpu), (Kind::GpuUtilisation, gpu)]);
    let sockets = (0..SOCKETS).flat_map(|socket| [(Kind::Package, socket), (Kind::Dram, socket)]);
    let processes = (0..GPUS).flat_map(|process| {
        [Kind::CpuTime, Kind::PromptTokens, Kind::OutputTokens, Kind::Requests].map(|kind| (kind, process))
    });
    let kinds = gpus.chain(sockets).chain([(Kind::Input, 0)]).chain(processes);
    Node { rows, series: kinds.zip(columns).map(|((kind, of), values)| (kind, of, values)).collect() }
}
