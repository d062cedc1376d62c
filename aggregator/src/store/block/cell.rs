//! A cell. What it names (services, workloads, sources) are numbers of the entity table.
//!
//! ```text
//! sources    n, then each: entity | µJ | covered ns | gap low µJ | gap high µJ
//! entries    n, then each: account u8 [entity] | component u8 | purpose u8 | µJ
//!            account: 0 service, 1 workload (both with entity), 2 system, 3 pool idle, 4 platform, 5 unattributed
//! services   n, then each: entity | mask of known counts, measures << 56 | counts in the contract's order | counted ns |
//!            resident ns | executing ns | reserved core ns | reserved device ns | CPU ns | joint µJ
//! workloads  n, then each: entity | CPU ns
//! rest       overcount µJ | capacity core ns | expected ns | covered ns | flags
//! input      only where a wall meter was there, and absent from old cells:
//!            n, then each: entity | ns as the wall
//!            component µJ | platform µJ | bound µJ
//! later      only where something of it is known, and absent from old cells; an empty input (n = 0) stands before it:
//!            buckets      n, then each: entity of a service | kind of count | count
//!            consumption  n, then each: entity | mask of known counts | counts in the contract's order | counted ns
//! lags       only where one is known, and absent from old cells; everything else stands before it:
//!            n, then each: entity of a source | ns for which it is known | least ns | most ns
//! ```

use super::descriptor::{
    Entity, read_component, read_count_kind, read_kind, write_component, write_count_kind, write_kind,
};
use super::{Damaged, Reader, Writer};
use joulebook_sci::attribution::Measures;
use joulebook_sci::{
    Account, Cell, ConsumptionUse, EntryKey, Flags, InputUse, LagUse, Purpose, ServiceUse, SourceKey, SourceUse,
    WorkloadUse,
};
use joulebook_units::{Consumption, CountKind, Service, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Place of the lowest bit of the measures beside the mask of known counts.
const MEASURES: u32 = 56;

pub(super) const PURPOSES: [Purpose; 5] =
    [Purpose::Dynamic, Purpose::Base, Purpose::DedicatedIdle, Purpose::PoolIdle, Purpose::Residual];

/// The bytes to store under `key`; `intern` numbers what the cell names.
pub fn encode(key: &[u8], cell: &Cell, intern: &mut dyn FnMut(Entity) -> u32) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.length(cell.sources.len());
    for (source, used) in &cell.sources {
        writer.number(u64::from(intern(Entity::Source(source.clone()))));
        for number in [used.microjoules, used.covered_nanos, used.gap_low_microjoules, used.gap_high_microjoules] {
            writer.number(number);
        }
    }
    writer.length(cell.entries.len());
    for (entry, microjoules) in &cell.entries {
        write_account(&mut writer, &entry.account, intern);
        write_component(&mut writer, entry.component);
        write_kind(&mut writer, &PURPOSES, &entry.purpose);
        writer.number(*microjoules);
    }
    writer.length(cell.services.len());
    for (service, used) in &cell.services {
        writer.number(u64::from(intern(Entity::Service(Arc::clone(service)))));
        write_service_use(&mut writer, used);
    }
    writer.length(cell.workloads.len());
    for (workload, used) in &cell.workloads {
        writer.number(u64::from(intern(Entity::Workload(Arc::clone(workload)))));
        writer.number(used.cpu_nanos);
    }
    for number in [
        cell.overcount_microjoules,
        cell.capacity_core_nanos,
        cell.expected_nanos,
        cell.covered_nanos,
        u64::from(cell.flags.0),
    ] {
        writer.number(number);
    }
    let lags = &cell.input.lags;
    let later = Later::of(cell, !lags.is_empty());
    if !cell.input.meters.is_empty() || later.is_some() {
        write_input(&mut writer, &cell.input, intern);
    }
    if let Some(later) = later {
        later.write(&mut writer, cell, intern);
    }
    if !lags.is_empty() {
        write_lags(&mut writer, lags, intern);
    }
    writer.seal(key)
}

/// What cells hold since their first layout.
struct Later<'a> {
    buckets: Vec<(&'a Arc<Service>, CountKind, u64)>,
}

impl<'a> Later<'a> {
    /// `None` where nothing of it is known, nor of what stands behind it: the cell is written as it always was.
    fn of(cell: &'a Cell, has_more: bool) -> Option<Self> {
        let of_service = |(service, used): (&'a Arc<Service>, &'a ServiceUse)| {
            let buckets = used.counts.iter().filter(|(kind, _)| kind.is_bucket());
            buckets.map(move |(kind, count)| (service, *kind, *count)).collect::<Vec<_>>()
        };
        let buckets: Vec<_> = cell.services.iter().flat_map(of_service).collect();
        (has_more || !buckets.is_empty() || !cell.consumption.is_empty()).then_some(Self { buckets })
    }

    fn write(&self, writer: &mut Writer, cell: &Cell, intern: &mut dyn FnMut(Entity) -> u32) {
        writer.length(self.buckets.len());
        for (service, kind, count) in &self.buckets {
            writer.number(u64::from(intern(Entity::Service(Arc::clone(service)))));
            write_count_kind(writer, *kind);
            writer.number(*count);
        }
        writer.length(cell.consumption.len());
        for (of, used) in &cell.consumption {
            writer.number(u64::from(intern(Entity::Consumption(Arc::clone(of)))));
            write_counts(writer, &used.counts, Measures::default());
            writer.number(used.counted_nanos);
        }
    }

    fn read(reader: &mut Reader<'_>, resolve: &dyn Fn(u32) -> Option<Entity>, cell: &mut Cell) -> Result<(), Damaged> {
        for _ in 0..reader.length()? {
            let service = read_service(reader, resolve)?;
            let kind = read_count_kind(reader)?;
            cell.services.entry(service).or_default().counts.insert(kind, reader.number()?);
        }
        for _ in 0..reader.length()? {
            let of = read_consumption(reader, resolve)?;
            let used = ConsumptionUse { counts: read_counts(reader)?.0, counted_nanos: reader.number()? };
            cell.consumption.insert(of, used);
        }
        Ok(())
    }
}

fn write_input(writer: &mut Writer, input: &InputUse, intern: &mut dyn FnMut(Entity) -> u32) {
    writer.length(input.meters.len());
    for (source, nanos) in &input.meters {
        writer.number(u64::from(intern(Entity::Source(source.clone()))));
        writer.number(*nanos);
    }
    for number in [input.component_microjoules, input.platform_microjoules, input.bound_microjoules] {
        writer.number(number);
    }
}

fn write_lags(writer: &mut Writer, lags: &BTreeMap<SourceKey, LagUse>, intern: &mut dyn FnMut(Entity) -> u32) {
    writer.length(lags.len());
    for (source, lag) in lags {
        writer.number(u64::from(intern(Entity::Source(source.clone()))));
        [lag.nanos, lag.least_nanos, lag.most_nanos].into_iter().for_each(|number| writer.number(number));
    }
}

pub(super) fn write_account(writer: &mut Writer, account: &Account, intern: &mut dyn FnMut(Entity) -> u32) {
    match account {
        Account::Service(service) => {
            writer.byte(0);
            writer.number(u64::from(intern(Entity::Service(Arc::clone(service)))));
        }
        Account::Workload(workload) => {
            writer.byte(1);
            writer.number(u64::from(intern(Entity::Workload(Arc::clone(workload)))));
        }
        Account::System => writer.byte(2),
        Account::PoolIdle => writer.byte(3),
        Account::Platform => writer.byte(4),
        Account::Unattributed => writer.byte(5),
    }
}

fn write_service_use(writer: &mut Writer, used: &ServiceUse) {
    write_counts(writer, &used.counts, used.measures);
    used.amounts().into_iter().for_each(|number| writer.number(number));
}

fn write_counts(writer: &mut Writer, counts: &BTreeMap<CountKind, u64>, measures: Measures) {
    let known = |(place, kind): (usize, &CountKind)| if counts.contains_key(kind) { 1u64 << place } else { 0 };
    let measures = u64::from(measures.0) << MEASURES;
    writer.number(CountKind::ALL.iter().enumerate().map(known).sum::<u64>() | measures);
    CountKind::ALL.iter().filter_map(|kind| counts.get(kind)).for_each(|count| writer.number(*count));
}

fn read_counts(reader: &mut Reader<'_>) -> Result<(BTreeMap<CountKind, u64>, Measures), Damaged> {
    let first = reader.number()?;
    let mask = first & ((1 << MEASURES) - 1);
    let measures = Measures(u8::try_from(first >> MEASURES).map_err(|_| Damaged("unknown measure"))?);
    if mask >> CountKind::ALL.len() != 0 {
        return Err(Damaged("unknown kind of count"));
    }
    let mut counts = BTreeMap::new();
    for (place, kind) in CountKind::ALL.iter().enumerate() {
        if mask >> place & 1 == 1 {
            counts.insert(*kind, reader.number()?);
        }
    }
    Ok((counts, measures))
}

/// Reads the bytes stored under `key`; `resolve` gives what a number names.
pub fn decode(key: &[u8], value: &[u8], resolve: &dyn Fn(u32) -> Option<Entity>) -> Result<Cell, Damaged> {
    let mut reader = Reader::open(key, value)?;
    let reader = &mut reader;
    let mut cell = Cell::default();
    for _ in 0..reader.length()? {
        let source = read_source(reader, resolve)?;
        let used = SourceUse {
            microjoules: reader.number()?,
            covered_nanos: reader.number()?,
            gap_low_microjoules: reader.number()?,
            gap_high_microjoules: reader.number()?,
        };
        cell.sources.insert(source, used);
    }
    for _ in 0..reader.length()? {
        let account = read_account(reader, resolve)?;
        let entry = EntryKey { account, component: read_component(reader)?, purpose: read_kind(reader, &PURPOSES)? };
        cell.entries.insert(entry, reader.number()?);
    }
    for _ in 0..reader.length()? {
        let service = read_service(reader, resolve)?;
        cell.services.insert(service, read_service_use(reader)?);
    }
    for _ in 0..reader.length()? {
        let workload = read_workload(reader, resolve)?;
        cell.workloads.insert(workload, WorkloadUse { cpu_nanos: reader.number()? });
    }
    cell.overcount_microjoules = reader.number()?;
    cell.capacity_core_nanos = reader.number()?;
    cell.expected_nanos = reader.number()?;
    cell.covered_nanos = reader.number()?;
    cell.flags = Flags(reader.small()?);
    if reader.end().is_err() {
        cell.input = read_input(reader, resolve)?;
    }
    if reader.end().is_err() {
        Later::read(reader, resolve, &mut cell)?;
    }
    if reader.end().is_err() {
        cell.input.lags = read_lags(reader, resolve)?;
    }
    reader.end()?;
    Ok(cell)
}

fn read_input(reader: &mut Reader<'_>, resolve: &dyn Fn(u32) -> Option<Entity>) -> Result<InputUse, Damaged> {
    let mut input = InputUse::default();
    for _ in 0..reader.length()? {
        let source = read_source(reader, resolve)?;
        input.meters.insert(source, reader.number()?);
    }
    input.component_microjoules = reader.number()?;
    input.platform_microjoules = reader.number()?;
    input.bound_microjoules = reader.number()?;
    Ok(input)
}

fn read_lags(
    reader: &mut Reader<'_>,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<BTreeMap<SourceKey, LagUse>, Damaged> {
    let mut lags = BTreeMap::new();
    for _ in 0..reader.length()? {
        let source = read_source(reader, resolve)?;
        let (nanos, least_nanos, most_nanos) = (reader.number()?, reader.number()?, reader.number()?);
        lags.insert(source, LagUse { nanos, least_nanos, most_nanos });
    }
    Ok(lags)
}

pub(super) fn read_source(
    reader: &mut Reader<'_>,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<SourceKey, Damaged> {
    match resolve(reader.small()?) {
        Some(Entity::Source(source)) => Ok(source),
        _ => Err(Damaged("unknown source")),
    }
}

pub(super) fn read_service(
    reader: &mut Reader<'_>,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<Arc<Service>, Damaged> {
    match resolve(reader.small()?) {
        Some(Entity::Service(service)) => Ok(service),
        _ => Err(Damaged("unknown service")),
    }
}

pub(super) fn read_workload(
    reader: &mut Reader<'_>,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<Arc<Workload>, Damaged> {
    match resolve(reader.small()?) {
        Some(Entity::Workload(workload)) => Ok(workload),
        _ => Err(Damaged("unknown workload")),
    }
}

pub(super) fn read_consumption(
    reader: &mut Reader<'_>,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<Arc<Consumption>, Damaged> {
    match resolve(reader.small()?) {
        Some(Entity::Consumption(of)) => Ok(of),
        _ => Err(Damaged("unknown consumer")),
    }
}

pub(super) fn read_account(
    reader: &mut Reader<'_>,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<Account, Damaged> {
    Ok(match reader.byte()? {
        0 => Account::Service(read_service(reader, resolve)?),
        1 => Account::Workload(read_workload(reader, resolve)?),
        2 => Account::System,
        3 => Account::PoolIdle,
        4 => Account::Platform,
        5 => Account::Unattributed,
        _ => return Err(Damaged("unknown account")),
    })
}

fn read_service_use(reader: &mut Reader<'_>) -> Result<ServiceUse, Damaged> {
    let (counts, measures) = read_counts(reader)?;
    Ok(ServiceUse {
        counts,
        counted_nanos: reader.number()?,
        resident_nanos: reader.number()?,
        executing_nanos: reader.number()?,
        reserved_core_nanos: reader.number()?,
        reserved_device_nanos: reader.number()?,
        cpu_nanos: reader.number()?,
        joint_microjoules: reader.number()?,
        measures,
    })
}
