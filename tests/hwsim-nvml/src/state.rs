//! The state file that simulator and fake library share: `DIR/run/state.bin`, mapped by the library.
//!
//! Little endian; a header of 4096 B, then 512 B for each GPU. The first u64 is a sequence number that is odd while the
//! simulator writes. Header: 0 sequence u64 · 8 magic `HWSIM1` · 16 clock mode u32 (0 real, 1 manual) · 20 GPUs u32 ·
//! 24 now ns u64 (manual) · 32 CLOCK_MONOTONIC at simulated 0 u64 · 40 index shift u32 · 44 driver version \[80\].
//! GPU: 0 uuid \[80\] · 80 bus id \[32\] · 112 name \[64\] · from 176 u32: present, MIG capable, minor number, limit mW,
//! latency µs, hang, energy counter step ms, instant window ms, instant period ms, average window ms, frozen,
//! architecture, return codes of the eight classes · 256 reset epoch pJ i128 · 272 frozen pJ i128 · 288 module mW u32
//! (all ones: none) · 292 processes u32 · 296 six times (pid u32, SM permille u32) · 352 three segments, the newest
//! first, of (t ns u64, e pJ i128, p µW i64, slope µW/s i64) · 472 memory MiB u32 · 476 crash u32 · 480 six times memory
//! of a process MiB u32 · 504 seven times four bits: compute slices of an instance (MIG), 0 for none, the first one in the
//! lowest bits · 508 six times four bits: the instance that a process is on, from 1, 0 for none.

/// Bytes of the header.
pub const HEADER_BYTES: usize = 4096;
/// Bytes of one GPU.
pub const GPU_BYTES: usize = 512;
/// Most GPUs of a node.
pub const MOST_GPUS: usize = 64;
/// Processes that one GPU can show.
pub const MOST_PROCESSES: usize = 6;
/// Segments of history that are kept for power windows.
pub const SEGMENTS: usize = 3;
/// Instances that one GPU can be divided into.
pub const MOST_INSTANCES: usize = 7;
/// Module power that is not there.
pub const NO_MODULE: u32 = u32::MAX;
/// A file beside the state: counters of activity were read.
pub const ACTIVITY_COUNTERS: &str = "activity-counters";
const MAGIC: &[u8; 8] = b"HWSIM1\0\0";
const NANOS_PER_MS: u64 = 1_000_000;

/// Classes of calls whose return code can be overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// nvmlInit.
    Init,
    /// Device count.
    Count,
    /// Handles.
    Handle,
    /// Energy counter.
    Energy,
    /// Power.
    Power,
    /// Field values.
    Field,
    /// Processes and their use.
    Processes,
    /// Everything else.
    Other,
}

/// Energy and power from an instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Begin in ns of simulated time.
    pub t_ns: u64,
    /// Energy at its begin in pJ.
    pub e_pj: i128,
    /// Power at its begin in µW.
    pub p_uw: i64,
    /// Change of power in µW/s.
    pub slope: i64,
}

impl Segment {
    /// Energy in pJ since simulated 0 at `t_ns`, which must not be before the begin.
    pub fn energy_pj(&self, t_ns: u64) -> i128 {
        let dt = i128::from(t_ns) - i128::from(self.t_ns);
        // µW × ns = fJ.
        let femtojoules = i128::from(self.p_uw) * dt + i128::from(self.slope) * dt * dt / 2_000_000_000;
        self.e_pj + femtojoules.div_euclid(1_000)
    }

    /// Power in µW at `t_ns`.
    pub fn power_uw(&self, t_ns: u64) -> i64 {
        let dt = i128::from(t_ns) - i128::from(self.t_ns);
        let power = i128::from(self.p_uw) + i128::from(self.slope) * dt / 1_000_000_000;
        i64::try_from(power).unwrap_or(i64::MAX)
    }
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Use of the multiprocessors in permille.
    pub sm_permille: u32,
    /// Its memory on the GPU in MiB.
    pub memory_mib: u32,
    /// The instance that it is on, from 1; 0 for none. Its use is then of that instance.
    pub instance: u8,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// `GPU-…`, at most 79 bytes.
    pub uuid: String,
    /// PCI address, at most 31 bytes.
    pub bus_id: String,
    /// Name, at most 63 bytes.
    pub name: String,
    /// Whether it is on the bus.
    pub present: bool,
    /// Whether it can be divided.
    pub mig_capable: bool,
    /// Number of its device file.
    pub minor: u32,
    /// Power limit in mW.
    pub limit_mw: u32,
    /// Time that each call takes, in µs.
    pub latency_us: u32,
    /// Whether calls hang until this is cleared.
    pub hang: bool,
    /// Step of the energy counter in ms; 0 where there is no counter.
    pub energy_step_ms: u32,
    /// Window of the instantaneous power in ms.
    pub instant_window_ms: u32,
    /// Time between two values of the instantaneous power in ms.
    pub instant_period_ms: u32,
    /// Window of the average power in ms.
    pub average_ms: u32,
    /// Whether the energy counter stands still at `frozen_pj`.
    pub frozen: bool,
    /// nvmlDeviceArchitecture_t.
    pub architecture: u32,
    /// Return codes by [`Class`]; 0 is no override.
    pub codes: [u32; 8],
    /// Energy at the last driver load in pJ: the counter's zero.
    pub epoch_pj: i128,
    /// What the counter shows while frozen, in pJ since simulated 0.
    pub frozen_pj: i128,
    /// Power of the whole module in mW, or [`NO_MODULE`].
    pub module_mw: u32,
    /// Processes, at most [`MOST_PROCESSES`].
    pub processes: Vec<Process>,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Compute slices of the instances that it is divided into; 0 for none.
    pub slices: [u8; MOST_INSTANCES],
    /// Whether calls on it kill the calling process (SIGSEGV).
    pub crash: bool,
    /// The newest first; the first is the running one.
    pub segments: [Segment; SEGMENTS],
}

impl Gpu {
    /// Energy in pJ since simulated 0, as far back as the segments reach.
    pub fn energy_pj(&self, t_ns: u64) -> i128 {
        let oldest = self.segments[SEGMENTS - 1];
        let segment = self.segments.iter().find(|segment| segment.t_ns <= t_ns).unwrap_or(&oldest);
        segment.energy_pj(t_ns.max(segment.t_ns))
    }

    /// Whether it is divided into instances.
    pub fn is_divided(&self) -> bool {
        self.slices.iter().any(|slices| *slices > 0)
    }

    /// Compute slices of an instance; `None` if there is none of this index.
    pub fn instance(&self, index: usize) -> Option<u8> {
        self.slices.get(index).copied().filter(|slices| *slices > 0)
    }

    /// Part of the time in which an instance is active, in permille.
    pub fn activity(&self, index: usize) -> u32 {
        let on_it = self.processes.iter().filter(|process| usize::from(process.instance) == index + 1);
        on_it.map(|process| process.sm_permille).sum::<u32>().min(1_000)
    }

    /// What the energy counter shows in mJ; `None` where there is no counter.
    pub fn counter_mj(&self, t_ns: u64) -> Option<u64> {
        let step = u64::from(self.energy_step_ms) * NANOS_PER_MS;
        let shown_at = t_ns - t_ns.checked_rem(step)?;
        // The value of the step before a recent driver load would lie below the new zero.
        let energy = if self.frozen { self.frozen_pj } else { self.energy_pj(shown_at) } - self.epoch_pj;
        u64::try_from(energy.max(0) / 1_000_000_000).ok()
    }

    /// Average power in mW over the window that ended last.
    fn boxcar_mw(&self, t_ns: u64, window_ms: u32, period_ms: u32) -> u32 {
        let period = u64::from(period_ms.max(1)) * NANOS_PER_MS;
        let end = t_ns - t_ns % period;
        let begin =
            end.saturating_sub(u64::from(window_ms.max(1)) * NANOS_PER_MS).max(self.segments[SEGMENTS - 1].t_ns);
        if end <= begin {
            return u32::try_from(self.segments[0].power_uw(t_ns) / 1_000).unwrap_or(0);
        }
        let energy = self.energy_pj(end) - self.energy_pj(begin);
        // pJ ÷ ns = mW.
        u32::try_from(energy / i128::from(end - begin)).unwrap_or(0)
    }

    /// Instantaneous power in mW, as latched last.
    pub fn instant_mw(&self, t_ns: u64) -> u32 {
        self.boxcar_mw(t_ns, self.instant_window_ms, self.instant_period_ms)
    }

    /// Average power in mW.
    pub fn average_mw(&self, t_ns: u64) -> u32 {
        self.boxcar_mw(t_ns, self.average_ms, self.instant_period_ms)
    }

    /// Overridden return code of a class; 0 for none.
    pub fn code(&self, class: Class) -> u32 {
        self.codes[class as usize]
    }
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Whether time moves by `now_ns` only.
    pub manual: bool,
    /// Simulated time of a manual clock in ns.
    pub now_ns: u64,
    /// CLOCK_MONOTONIC at simulated 0, in ns.
    pub t0_ns: u64,
    /// By how much the order of devices is turned.
    pub index_shift: u32,
    /// Driver version, at most 79 bytes.
    pub driver: String,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
}

struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }

    fn text(&mut self, text: &str, width: usize) {
        let cut = text.as_bytes().iter().take(width - 1).copied();
        let padded: Vec<u8> = cut.chain(std::iter::repeat(0)).take(width).collect();
        self.put(&padded);
    }

    fn word(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
}

struct Source<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Source<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(bytes)
    }

    fn text(&mut self, width: usize) -> Option<String> {
        let bytes = self.bytes.get(self.at..self.at + width)?;
        self.at += width;
        let text = bytes.split(|byte| *byte == 0).next()?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

impl State {
    /// The file's bytes, with the given sequence number.
    pub fn encode(&self, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + GPU_BYTES * self.gpus.len()];
        let mut header = Cursor { bytes: &mut bytes, at: 0 };
        header.put(&sequence.to_le_bytes());
        header.put(MAGIC);
        header.word(u32::from(self.manual));
        header.word(u32::try_from(self.gpus.len()).unwrap_or(0));
        header.put(&self.now_ns.to_le_bytes());
        header.put(&self.t0_ns.to_le_bytes());
        header.word(self.index_shift);
        header.text(&self.driver, 80);
        for (gpu, place) in self.gpus.iter().zip(bytes[HEADER_BYTES..].chunks_mut(GPU_BYTES)) {
            gpu.encode(&mut Cursor { bytes: place, at: 0 });
        }
        bytes
    }

    /// Sequence number and content of a file; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<(u64, Self)> {
        let mut header = Source { bytes, at: 0 };
        let sequence = header.take().map(u64::from_le_bytes)?;
        if header.take::<8>()? != *MAGIC {
            return None;
        }
        let manual = header.word()? == 1;
        let count = usize::try_from(header.word()?).ok().filter(|count| *count <= MOST_GPUS)?;
        let now_ns = header.take().map(u64::from_le_bytes)?;
        let t0_ns = header.take().map(u64::from_le_bytes)?;
        let (index_shift, driver) = (header.word()?, header.text(80)?);
        let places = bytes.get(HEADER_BYTES..HEADER_BYTES + GPU_BYTES * count)?.chunks(GPU_BYTES);
        let gpus = places.map(|place| Gpu::decode(&mut Source { bytes: place, at: 0 })).collect::<Option<_>>()?;
        Some((sequence, Self { manual, now_ns, t0_ns, index_shift, driver, gpus }))
    }

    /// Slots of the devices that are there, in the order of their index.
    pub fn order(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = (0..self.gpus.len()).filter(|slot| self.gpus[*slot].present).collect();
        if !slots.is_empty() {
            let shift = usize::try_from(self.index_shift).unwrap_or(0) % slots.len();
            slots.rotate_left(shift);
        }
        slots
    }
}

impl Gpu {
    fn encode(&self, out: &mut Cursor<'_>) {
        out.text(&self.uuid, 80);
        out.text(&self.bus_id, 32);
        out.text(&self.name, 64);
        let flags = [u32::from(self.present), u32::from(self.mig_capable), self.minor, self.limit_mw, self.latency_us];
        let windows = [self.energy_step_ms, self.instant_window_ms, self.instant_period_ms, self.average_ms];
        for word in flags.into_iter().chain([u32::from(self.hang)]).chain(windows) {
            out.word(word);
        }
        out.word(u32::from(self.frozen));
        out.word(self.architecture);
        self.codes.iter().for_each(|code| out.word(*code));
        out.put(&self.epoch_pj.to_le_bytes());
        out.put(&self.frozen_pj.to_le_bytes());
        out.word(self.module_mw);
        out.word(u32::try_from(self.processes.len().min(MOST_PROCESSES)).unwrap_or(0));
        for process in self.processes.iter().take(MOST_PROCESSES) {
            out.word(process.pid);
            out.word(process.sm_permille);
        }
        out.at = 352;
        for segment in &self.segments {
            out.put(&segment.t_ns.to_le_bytes());
            out.put(&segment.e_pj.to_le_bytes());
            out.put(&segment.p_uw.to_le_bytes());
            out.put(&segment.slope.to_le_bytes());
        }
        out.word(self.memory_mib);
        out.word(u32::from(self.crash));
        self.processes.iter().take(MOST_PROCESSES).for_each(|process| out.word(process.memory_mib));
        out.at = 504;
        out.word(packed(self.slices.into_iter()));
        out.word(packed(self.processes.iter().take(MOST_PROCESSES).map(|process| process.instance)));
    }

    fn decode(from: &mut Source<'_>) -> Option<Self> {
        let (uuid, bus_id, name) = (from.text(80)?, from.text(32)?, from.text(64)?);
        let (present, mig_capable, minor, limit_mw) =
            (from.word()? == 1, from.word()? == 1, from.word()?, from.word()?);
        let (latency_us, hang) = (from.word()?, from.word()? == 1);
        let (energy_step_ms, instant_window_ms) = (from.word()?, from.word()?);
        let (instant_period_ms, average_ms) = (from.word()?, from.word()?);
        let (frozen, architecture) = (from.word()? == 1, from.word()?);
        let mut codes = [0; 8];
        for code in &mut codes {
            *code = from.word()?;
        }
        let epoch_pj = from.take().map(i128::from_le_bytes)?;
        let frozen_pj = from.take().map(i128::from_le_bytes)?;
        let (module_mw, count) = (from.word()?, from.word()?);
        let count = usize::try_from(count).ok().filter(|count| *count <= MOST_PROCESSES)?;
        let mut processes = Vec::with_capacity(count);
        for _ in 0..count {
            processes.push(Process { pid: from.word()?, sm_permille: from.word()?, memory_mib: 0, instance: 0 });
        }
        from.at = 352;
        let mut segments = [Segment::default(); SEGMENTS];
        for segment in &mut segments {
            segment.t_ns = from.take().map(u64::from_le_bytes)?;
            segment.e_pj = from.take().map(i128::from_le_bytes)?;
            segment.p_uw = from.take().map(i64::from_le_bytes)?;
            segment.slope = from.take().map(i64::from_le_bytes)?;
        }
        let (memory_mib, crash) = (from.word()?, from.word()? == 1);
        for process in &mut processes {
            process.memory_mib = from.word()?;
        }
        from.at = 504;
        let (slices, instances) = (from.word()?, from.word()?);
        let slices = std::array::from_fn(|index| nibble(slices, index));
        for (index, process) in processes.iter_mut().enumerate() {
            process.instance = nibble(instances, index);
        }
        Some(Self {
            uuid,
            bus_id,
            name,
            present,
            mig_capable,
            minor,
            limit_mw,
            latency_us,
            hang,
            energy_step_ms,
            instant_window_ms,
            instant_period_ms,
            average_ms,
            frozen,
            architecture,
            codes,
            epoch_pj,
            frozen_pj,
            module_mw,
            processes,
            memory_mib,
            slices,
            crash,
            segments,
        })
    }
}

/// Up to eight values below 16 in one word, the first in the lowest bits.
fn packed(values: impl Iterator<Item = u8>) -> u32 {
    values.take(8).enumerate().fold(0, |word, (index, value)| word | u32::from(value & 0xf) << (4 * index))
}

fn nibble(word: u32, index: usize) -> u8 {
    ((word >> (4 * index)) & 0xf) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu() -> Gpu {
        let segment = Segment { t_ns: 0, e_pj: 0, p_uw: 640_000_000, slope: 0 };
        Gpu {
            uuid: "GPU-1".to_owned(),
            bus_id: "00000000:01:00.0".to_owned(),
            name: "Fake".to_owned(),
            present: true,
            mig_capable: false,
            minor: 0,
            limit_mw: 700_000,
            latency_us: 0,
            hang: false,
            energy_step_ms: 100,
            instant_window_ms: 25,
            instant_period_ms: 100,
            average_ms: 1_000,
            frozen: false,
            architecture: 9,
            codes: [0, 0, 0, 15, 0, 0, 0, 0],
            epoch_pj: 1_000_000_000,
            frozen_pj: 5,
            module_mw: NO_MODULE,
            processes: [(77, 400), (78, 20)]
                .map(|(pid, sm_permille)| Process { pid, sm_permille, memory_mib: 512, instance: 7 })
                .to_vec(),
            memory_mib: 81_920,
            slices: [3, 2, 1, 0, 0, 0, 1],
            crash: true,
            segments: [segment; SEGMENTS],
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let state = State {
            manual: true,
            now_ns: 9,
            t0_ns: 4,
            index_shift: 1,
            driver: "570.86.15".to_owned(),
            gpus: vec![gpu()],
        };
        assert_eq!(State::decode(&state.encode(6)), Some((6, state)));
        assert_eq!(State::decode(b"HWSIM1"), None);
    }

    #[test]
    fn the_energy_counter_moves_in_steps_and_power_is_an_average_over_its_window() {
        let gpu = gpu();
        assert_eq!(gpu.counter_mj(1_050_000_000), Some(640_000 - 1), "the value of 1.0 s less the epoch's millijoule");
        assert_eq!((gpu.instant_mw(1_050_000_000), gpu.average_mw(2_000_000_000)), (640_000, 640_000));
    }

    #[test]
    fn the_order_of_devices_turns_without_those_that_are_gone() {
        let gone = Gpu { present: false, ..gpu() };
        let state = State { index_shift: 1, gpus: vec![gpu(), gone, gpu()], ..State::default() };
        assert_eq!(state.order(), [2, 0]);
    }
}
