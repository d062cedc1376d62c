//! Use of accelerators by workload: who is on a device, and for how much of its time.
//!
//! A list of processes stands for the time since the list before. A workload that appears in it was there since the
//! earlier list; one that is missing from it was there up to the earlier one. Where a list is missing, nobody's use is
//! known until the next pair of lists.

use super::book::Book;
use crate::collector::DeviceUse;
use crate::process::is_brief;
use joulebook_units::{BootNanos, Point, Subject};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// So many power limits are remembered.
const MOST_LIMITS: usize = 1024;
/// Workload of processes that could not be identified.
pub const UNMAPPED: &str = "unmapped";

/// What the time between two lists was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// Something ran, or nothing is known.
    No,
    /// Nothing was resident.
    Empty,
    /// Something was resident, and nothing ran.
    Resident,
}

/// The devices of a node.
#[derive(Debug, Default)]
pub struct Devices {
    devices: BTreeMap<String, Device>,
    /// Sums of busy time by series, as the stream has them.
    sums: HashMap<u32, u64>,
    /// Whether it is known who is on them, or is not waited for.
    listed: bool,
    /// Power limits in mW that workloads were last seen to work under.
    limits: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Device {
    /// Workloads of the last list, each with the series of its busy time.
    resident: BTreeMap<String, u32>,
    /// Whether processes were in it: who holds it by allocation only draws nothing.
    occupied: bool,
    quiet: Option<Quiet>,
    /// When its last list was read, its time at work since the start, and the memory that is held.
    used: Option<(BootNanos, u64, Option<u64>)>,
}

/// What one list changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Booked {
    /// New sums by series.
    pub points: Vec<(u32, Point)>,
    /// Series that will never go on: a process that ended does not come back.
    pub ended: Vec<u32>,
}

impl Devices {
    /// What the time up to the last list of a device was like.
    pub fn quiet(&self, device: &str) -> Quiet {
        self.devices.get(device).and_then(|device| device.quiet).unwrap_or(Quiet::No)
    }

    /// The power limit in mW of each device that a workload holds, as `limit` tells it; `None` where it is not known, or not
    /// one for all of them. A server that lets go of its devices for a while is set up as before.
    pub fn power_limit(&mut self, workload: &str, limit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
        let held = self.devices.iter().filter(|(_, device)| device.resident.contains_key(workload));
        let limits: BTreeSet<Option<u64>> = held.map(|(device, _)| limit(device)).collect();
        let now = match limits.first() {
            None => return self.limits.get(workload).copied(),
            Some(first) => first.filter(|_| limits.len() == 1),
        };
        if self.limits.len() >= MOST_LIMITS {
            self.limits.clear();
        }
        match now {
            Some(limit) => self.limits.insert(workload.to_owned(), limit),
            None => self.limits.remove(workload),
        };
        now
    }

    /// Whether any list was read, or none is waited for.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Says that no list is waited for any more.
    pub fn wait_no_more(&mut self) {
        self.listed = true;
    }

    /// Each device with the instant of its last list, its time at work since the start in ns, and the memory that processes
    /// hold in bytes.
    pub fn used(&self) -> impl Iterator<Item = (&str, BootNanos, u64, Option<u64>)> {
        self.devices.iter().filter_map(|(id, device)| {
            device.used.map(|(at, busy_nanos, memory)| (id.as_str(), at, busy_nanos, memory))
        })
    }

    /// Forgets the sum of a series that will not go on.
    pub fn forget(&mut self, series: u32) {
        self.sums.remove(&series);
    }

    /// Books one list. `workload` names the workload of a process; `holders` are those that hold devices and parts
    /// of them by allocation, who have them where no process is on them; `recovered` gives the sum of a series at which an
    /// earlier run of the agent ended.
    pub fn take(
        &mut self,
        used: &DeviceUse,
        workload: impl Fn(i32) -> Option<String>,
        holders: &BTreeMap<String, BTreeSet<String>>,
        recovered: impl Fn(u32) -> u64,
        book: &mut Book,
    ) -> Booked {
        let mut busy: BTreeMap<Option<String>, u64> = BTreeMap::from([(None, used.busy_nanos)]);
        let mut memory: BTreeMap<String, Option<u64>> = BTreeMap::new();
        let mut slices: BTreeMap<String, u64> = BTreeMap::new();
        for user in &used.users {
            let id = workload(user.pid).unwrap_or_else(|| UNMAPPED.to_owned());
            *busy.entry(Some(id.clone())).or_default() += user.busy_nanos;
            *slices.entry(id.clone()).or_default() += u64::from(user.slice_millionths);
            let sum = memory.entry(id).or_insert(Some(0));
            *sum = sum.zip(user.memory_bytes).map(|(sum, bytes)| sum.saturating_add(bytes));
        }
        for holder in holders.get(&used.device).filter(|_| used.users.is_empty()).into_iter().flatten() {
            busy.entry(Some(holder.clone())).or_default();
        }
        for (part, reserved) in &used.free {
            let Some(holders) = holders.get(part) else { continue };
            let among = holders.len() as u64;
            for holder in holders {
                busy.entry(Some(holder.clone())).or_default();
                *slices.entry(holder.clone()).or_default() += u64::from(reserved.slice_millionths) / among;
                let sum = memory.entry(holder.clone()).or_insert(Some(0));
                *sum = sum.map(|sum| sum.saturating_add(reserved.memory_bytes / among));
            }
        }
        let mut booked = Booked::default();
        let mut resident = BTreeMap::new();
        for (workload, nanos) in busy {
            let series = book.series(&Subject::DeviceTime { device: used.device.clone(), workload: workload.clone() });
            let sum = self.sums.entry(series).or_insert_with(|| recovered(series));
            let from = used.since.map(|at| Point { at, value: *sum });
            *sum = sum.saturating_add(nanos);
            let point = Point { at: used.at, value: *sum };
            if from.is_some() && from == book.last(series) {
                book.extend(series, point);
            } else {
                book.start(series, from, point);
            }
            booked.points.push((series, point));
            resident.extend(workload.map(|workload| (workload, series)));
        }
        let device = || used.device.clone();
        let mut held: Vec<(Subject, u64)> = Vec::with_capacity(memory.len() + slices.len());
        for (workload, bytes) in memory {
            held.extend(bytes.map(|bytes| (Subject::DeviceMemory { device: device(), workload }, bytes)));
        }
        if let Some(of) = used.slices {
            held.extend(
                slices.into_iter().map(|(workload, millionths)| {
                    (Subject::DeviceSlices { device: device(), workload, of }, millionths)
                }),
            );
        }
        for (subject, value) in held {
            let series = book.series(&subject);
            let point = Point { at: used.at, value };
            match book.last(series) {
                Some(last) if Some(last.at) == used.since => book.extend(series, point),
                // It was there since the earlier list.
                _ => book.start(series, used.since.map(|at| Point { at, value }), point),
            }
        }
        self.listed = true;
        let device = self.devices.entry(used.device.clone()).or_default();
        let before = device.used.map_or(0, |(_, busy, _)| busy);
        let held = used.users.iter().try_fold(0u64, |sum, user| Some(sum.saturating_add(user.memory_bytes?)));
        device.used = Some((used.at, before.saturating_add(used.busy_nanos), held));
        let occupied = !used.users.is_empty();
        device.quiet = Some(match (used.since.is_some(), device.occupied, occupied) {
            _ if used.busy_nanos > 0 || used.users.iter().any(|user| user.busy_nanos > 0) => Quiet::No,
            (true, false, false) => Quiet::Empty,
            (true, true, true) => Quiet::Resident,
            _ => Quiet::No,
        });
        let gone = device.resident.iter().filter(|(id, _)| is_brief(id) && !resident.contains_key(*id));
        booked.ended = gone.map(|(_, series)| *series).collect();
        for series in &booked.ended {
            self.sums.remove(series);
        }
        (device.resident, device.occupied) = (resident, occupied);
        booked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::{DeviceUser, FreePart};
    use joulebook_units::{BootId, UnixNanos};

    const SECOND: u64 = 1_000_000_000;

    struct Rig {
        devices: Devices,
        book: Book,
        points: BTreeMap<String, Vec<(u64, u64)>>,
        names: BTreeMap<u32, String>,
        holders: BTreeMap<String, BTreeSet<String>>,
        free: BTreeMap<String, FreePart>,
        /// Millionths of a slice for each; 0 for a device that is not divided.
        slices_each: u32,
    }

    impl Rig {
        fn new() -> Self {
            let book = Book::new(BootId([1; 16]), 1, &BTreeMap::new());
            Self {
                devices: Devices::default(),
                book,
                points: BTreeMap::new(),
                names: BTreeMap::new(),
                holders: BTreeMap::new(),
                free: BTreeMap::new(),
                slices_each: 0,
            }
        }

        /// One row with a list; pids below 10 are workloads of their own, others are not known.
        fn list(&mut self, since: Option<u64>, second: u64, users: &[(i32, u64)]) -> Booked {
            let at = |second: u64| BootNanos(second * SECOND);
            self.book.begin_row(at(second), UnixNanos(0));
            let users: Vec<_> = users
                .iter()
                .map(|(pid, busy_nanos)| DeviceUser {
                    pid: *pid,
                    busy_nanos: *busy_nanos,
                    memory_bytes: Some(1 << 30),
                    slice_millionths: self.slices_each,
                })
                .collect();
            let busy_nanos = users.iter().map(|user| user.busy_nanos).sum();
            let (device, free) = ("G".to_owned(), self.free.clone());
            let slices = (self.slices_each > 0).then_some(7);
            let (since, at) = (since.map(at), at(second));
            let used = DeviceUse { device, minor: None, since, at, busy_nanos, slices, users, free };
            let workload = |pid: i32| (pid < 10).then(|| format!("process/{pid}@1"));
            let booked = self.devices.take(&used, workload, &self.holders, |_| 0, &mut self.book);
            let page = self.book.end_row().expect("rows of one");
            for (id, subject) in page.new_series {
                self.names.insert(id, format!("{subject:?}"));
            }
            for column in page.batch.columns {
                let points = column.previous.into_iter().chain(column.points);
                let points = points.map(|point| (point.at.0 / SECOND, point.value));
                self.points.entry(self.names[&column.series].clone()).or_default().extend(points);
            }
            booked
        }

        fn time(&self, workload: &str) -> Vec<(u64, u64)> {
            let name = |name: &&String| name.contains("DeviceTime") && name.contains(workload);
            let found = self.points.keys().find(name).map(|name| self.points[name].clone());
            found.unwrap_or_default()
        }
    }

    #[test]
    fn who_appears_was_there_since_the_list_before_and_who_is_missing_up_to_it() {
        let mut rig = Rig::new();
        rig.list(None, 1, &[(1, 0)]);
        rig.list(Some(1), 2, &[(1, 400), (2, 100)]);
        let booked = rig.list(Some(2), 3, &[(1, 500)]);
        assert_eq!(rig.time("process/1@1"), [(1, 0), (1, 0), (2, 400), (2, 400), (3, 900)]);
        assert_eq!(rig.time("process/2@1"), [(1, 0), (2, 100)], "there in the second between the lists");
        assert_eq!(booked.ended.len(), 1);
        assert_eq!(rig.time("None"), [(1, 0), (1, 0), (2, 500), (2, 500), (3, 1_000)]);
    }

    #[test]
    fn who_holds_a_device_by_allocation_has_it_while_no_process_is_on_it_and_leaves_it_as_empty_as_it_was() {
        let mut rig = Rig::new();
        rig.holders = held("G", &["allocation/chat/idle/server"]);
        rig.list(None, 1, &[]);
        rig.list(Some(1), 2, &[]);
        assert_eq!(rig.devices.quiet("G"), Quiet::Empty);
        let booked = rig.list(Some(2), 3, &[(1, 400)]);
        assert_eq!(rig.time("allocation/"), [(1, 0), (1, 0), (2, 0)], "up to the list before");
        assert_eq!((rig.time("process/1@1"), booked.ended.len()), (vec![(2, 0), (3, 400)], 1));
        rig.list(Some(3), 4, &[]);
        assert_eq!(rig.time("allocation/").last(), Some(&(4, 0)));
    }

    fn held(device: &str, holders: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        BTreeMap::from([(device.to_owned(), holders.iter().map(|holder| (*holder).to_owned()).collect())])
    }

    #[test]
    fn who_holds_a_free_part_of_a_divided_device_holds_its_memory_beside_those_on_other_parts() {
        let mut rig = Rig::new();
        rig.holders = held("MIG-1", &["allocation/a", "allocation/b"]);
        let part = |gibibytes: u64, slices| FreePart { memory_bytes: gibibytes << 30, slice_millionths: slices };
        rig.free =
            BTreeMap::from([("MIG-1".to_owned(), part(10, 2_000_000)), ("MIG-2".to_owned(), part(20, 4_000_000))]);
        rig.slices_each = 1_000_000;
        rig.list(None, 1, &[(1, 0)]);
        rig.list(Some(1), 2, &[(1, 400)]);
        let held = |rig: &Rig, what: &str, id: &str| {
            let found = rig.points.iter().find(|(name, _)| name.contains(what) && name.contains(id));
            found.and_then(|(_, points)| points.last().copied())
        };
        let memory = |rig: &Rig, id: &str| held(rig, "DeviceMemory", id);
        for id in ["allocation/a", "allocation/b", "process/1"] {
            assert_eq!(held(&rig, "DeviceSlices", id), Some((2, 1_000_000)), "{id}");
        }
        assert_eq!(
            (memory(&rig, "allocation/a"), memory(&rig, "allocation/b")),
            (Some((2, 5 << 30)), Some((2, 5 << 30)))
        );
        assert_eq!((memory(&rig, "process/1"), rig.time("process/1@1").last()), (Some((2, 1 << 30)), Some(&(2, 400))));
        assert_eq!(rig.points.keys().filter(|name| name.contains("DeviceMemory")).count(), 3, "nobody holds the other");
    }

    #[test]
    fn a_list_that_follows_none_begins_anew_and_sums_never_fall() {
        let mut rig = Rig::new();
        rig.list(None, 1, &[(1, 0)]);
        rig.list(Some(1), 2, &[(1, 400)]);
        rig.list(None, 9, &[(1, 0)]);
        rig.list(Some(9), 10, &[(1, 7)]);
        assert_eq!(rig.time("process/1@1"), [(1, 0), (1, 0), (2, 400), (9, 400), (9, 400), (10, 407)]);
    }

    #[test]
    fn a_power_limit_is_known_where_all_held_devices_have_the_same_and_is_kept_while_none_is_held() {
        let mut rig = Rig::new();
        rig.list(None, 1, &[(1, 0)]);
        let limit = |rig: &mut Rig, of: Option<u64>| rig.devices.power_limit("process/1@1", |_| of);
        assert_eq!(limit(&mut rig, Some(300)), Some(300));
        rig.list(Some(1), 2, &[(2, 0)]);
        assert_eq!(limit(&mut rig, Some(400)), Some(300), "it holds none now");
        rig.list(Some(2), 3, &[(1, 0)]);
        assert_eq!((limit(&mut rig, Some(400)), limit(&mut rig, None)), (Some(400), None));
        rig.devices.devices.entry("H".to_owned()).or_default().resident.insert("process/1@1".to_owned(), 9);
        let two = rig.devices.power_limit("process/1@1", |device| Some(if device == "G" { 300 } else { 400 }));
        assert_eq!(two, None);
    }

    #[test]
    fn slices_are_held_of_a_divided_device_alone_and_those_of_one_workload_add_up() {
        let mut rig = Rig { slices_each: 1_500_000, ..Rig::new() };
        rig.list(None, 1, &[(11, 0), (12, 0), (1, 0)]);
        rig.list(Some(1), 2, &[(11, 0), (12, 0), (1, 0)]);
        let slices = |rig: &Rig| {
            let found = rig.points.iter().filter(|(name, _)| name.contains("DeviceSlices") && name.contains("of: 7"));
            found.map(|(_, points)| points.clone()).collect::<Vec<_>>()
        };
        assert_eq!(slices(&rig).len(), 2, "{:?}", rig.points.keys());
        assert!(slices(&rig).iter().all(|points| points.last().is_some_and(|last| last.0 == 2)));
        let values: BTreeSet<u64> = slices(&rig).iter().flatten().map(|(_, value)| *value).collect();
        assert_eq!(values, BTreeSet::from([1_500_000, 3_000_000]));
        rig.slices_each = 0;
        rig.list(Some(2), 3, &[(1, 0)]);
        assert!(slices(&rig).iter().flatten().all(|(second, _)| *second < 3), "it is one again");
    }

    #[test]
    fn processes_that_cannot_be_identified_are_one_workload() {
        let mut rig = Rig::new();
        rig.list(None, 1, &[(11, 0), (12, 0)]);
        rig.list(Some(1), 2, &[(11, 3), (12, 4)]);
        assert_eq!(rig.time(UNMAPPED).last(), Some(&(2, 7)));
    }

    #[test]
    fn a_device_is_empty_or_at_rest_only_between_two_lists_that_say_so() {
        let mut rig = Rig::new();
        let mut quiet = |since, second, users: &[(i32, u64)]| {
            rig.list(since, second, users);
            rig.devices.quiet("G")
        };
        assert_eq!(quiet(None, 1, &[]), Quiet::No);
        assert_eq!(quiet(Some(1), 2, &[]), Quiet::Empty);
        assert_eq!(quiet(Some(2), 3, &[(1, 0)]), Quiet::No, "it may have come at once");
        assert_eq!(quiet(Some(3), 4, &[(1, 0)]), Quiet::Resident);
        assert_eq!(quiet(Some(4), 5, &[(1, 9)]), Quiet::No);
        assert_eq!(quiet(None, 8, &[(1, 0)]), Quiet::No);
    }
}
