//! The cells of a node in an hour, column by column.
//!
//! They lie in the table of their length under the instant at which the hour begins, in place of the cells by themselves, and
//! give back exactly those. What a cell names (services, workloads, sources) are numbers of the entity table. Every number
//! lies at a place of its own, so that a cell is read without the others.
//!
//! ```text
//! slots    u64 as 8 bytes: bit i is the cell that begins i times its length after the hour
//! names    n, then each, ascending:
//!   name     length, then u8 of what:
//!            0 source (entity) | 1 entry (account u8 [entity] | component u8 | purpose u8) |
//!            2 service (entity), and its counts behind it (entity | kind of count) | 3 workload (entity) |
//!            4 meter at the input (source's entity) | 5 lag of one (source's entity) |
//!            6 consumption (entity), and its counts behind it (entity | kind of count) | 7 rest
//!   there    0: in every cell · 1, then slots of those that have it as 8 bytes
//!   columns  one for each of its numbers, see [`Name`]:
//!     0 same     the number
//!     1 packed   least | factor | width u8, then of every cell that has it (number − least) ÷ factor in so many bits, the
//!                lowest first, filled up to whole bytes
//!     2 sum      n, then each: columns back · 2 + 1 if it is taken away; what a cell does not have counts as 0
//! ```
//!
//! Why not packed as columns of rows are: of sixty numbers the table that [`pco`] begins with is longer than what it saves,
//! and all of them would have to be read for one. What is a sum of others is told as that: a source's energy is that of who
//! used it.

use super::cell::{PURPOSES, read_account, read_consumption, read_service, read_source, read_workload, write_account};
use super::descriptor::{
    Entity, read_component, read_count_kind, read_kind, write_component, write_count_kind, write_kind,
};
use super::numbers::greatest_common_divisor;
use super::{CELLS_VERSION, Damaged, Reader, Writer};
use joulebook_sci::attribution::Measures;
use joulebook_sci::{Cell, ConsumptionUse, EntryKey, Flags, LagUse, ServiceUse, SourceKey, SourceUse, WorkloadUse};
use joulebook_units::{Consumption, CountKind, Service, Workload};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Most cells of an hour: a bit for each.
pub const MAX_SLOTS: u32 = u64::BITS;
/// Most columns.
const MAX_COLUMNS: usize = 1 << 16;

const SAME: u8 = 0;
const PACKED: u8 = 1;
const SUM: u8 = 2;

const SOURCE: u8 = 0;
const ENTRY: u8 = 1;
const SERVICE: u8 = 2;
const WORKLOAD: u8 = 3;
const METER: u8 = 4;
const LAG: u8 = 5;
const CONSUMPTION: u8 = 6;
const REST: u8 = 7;
/// First byte of a service's account.
const SERVICE_ACCOUNT: u8 = 0;

/// What numbers of a cell are of.
enum Name {
    /// µJ, covered ns, gap low µJ, gap high µJ.
    Source(SourceKey),
    /// µJ.
    Entry(EntryKey),
    /// Counted ns, resident ns, executing ns, reserved core ns, reserved device ns, CPU ns, joint µJ, measures; or a count.
    Service(Arc<Service>, Option<CountKind>),
    /// CPU ns.
    Workload(Arc<Workload>),
    /// Ns as the wall.
    Meter(SourceKey),
    /// Ns for which it is known, least ns, most ns.
    Lag(SourceKey),
    /// Counted ns, or a count.
    Consumption(Arc<Consumption>, Option<CountKind>),
    /// Overcount µJ, capacity core ns, expected ns, covered ns, flags; of the input: component µJ, platform µJ, bound µJ.
    Rest,
}

/// What has a name: the slots in which it is there, and each of its numbers by slot, 0 where it is not.
#[derive(Default)]
struct Named {
    there: u64,
    columns: Vec<Vec<u64>>,
}

/// The bytes to store under `key` of cells, each with its slot of the hour, ascending; `number` is that of what cells name.
/// `None` if they cannot be kept together: there are none, or one has no slot or names what has no number.
pub fn encode(key: &[u8], cells: &[(u32, Cell)], number: &dyn Fn(&Entity) -> Option<u32>) -> Option<Vec<u8>> {
    let mut names: BTreeMap<Vec<u8>, Named> = BTreeMap::new();
    let mut slots = 0u64;
    for (place, (slot, cell)) in cells.iter().enumerate() {
        let bit = 1u64.checked_shl(*slot)?;
        if slots >> slot != 0 {
            return None;
        }
        slots |= bit;
        take_apart(cell, number, &mut |name, numbers| {
            let named = names.entry(name.bytes).or_default();
            named.there |= bit;
            named.columns.resize(numbers.len(), Vec::new());
            for (column, number) in named.columns.iter_mut().zip(numbers) {
                column.resize(place, 0);
                column.push(*number);
            }
        })?;
    }
    if cells.is_empty() {
        return None;
    }
    names.values_mut().flat_map(|named| &mut named.columns).for_each(|column| column.resize(cells.len(), 0));
    let mut writer = Writer::of(CELLS_VERSION);
    writer.raw(&slots.to_le_bytes());
    writer.length(names.len());
    let mut before = Before::default();
    for (name, named) in &names {
        writer.block(name);
        writer.byte(u8::from(named.there != slots));
        if named.there != slots {
            writer.raw(&named.there.to_le_bytes());
        }
        let places: Vec<usize> = cells
            .iter()
            .enumerate()
            .filter(|(_, (slot, _))| named.there >> slot & 1 == 1)
            .map(|(place, _)| place)
            .collect();
        for column in &named.columns {
            write_column(&mut writer, name, column, &places, &mut before);
            before.push(name, column);
        }
    }
    Some(writer.seal(key))
}

/// Calls `take` with the name of everything in a cell and its numbers; `None` where something has no number.
fn take_apart(
    cell: &Cell,
    number: &dyn Fn(&Entity) -> Option<u32>,
    take: &mut dyn FnMut(Writer, &[u64]),
) -> Option<()> {
    let named = |of: u8, entity: Entity| {
        let mut name = Writer::part();
        name.byte(of);
        name.number(u64::from(number(&entity)?));
        Some(name)
    };
    let counted = |of: u8, entity: Entity, kind: CountKind| {
        let mut name = named(of, entity)?;
        write_count_kind(&mut name, kind);
        Some(name)
    };
    for (source, used) in &cell.sources {
        let numbers = [used.microjoules, used.covered_nanos, used.gap_low_microjoules, used.gap_high_microjoules];
        take(named(SOURCE, Entity::Source(source.clone()))?, &numbers);
    }
    for (entry, microjoules) in &cell.entries {
        let (mut name, mut known) = (Writer::part(), true);
        name.byte(ENTRY);
        write_account(&mut name, &entry.account, &mut |entity| {
            let number = number(&entity);
            known &= number.is_some();
            number.unwrap_or_default()
        });
        write_component(&mut name, entry.component);
        write_kind(&mut name, &PURPOSES, &entry.purpose);
        known.then(|| take(name, &[*microjoules]))?;
    }
    for (service, used) in &cell.services {
        let of = || Entity::Service(Arc::clone(service));
        let numbers: Vec<u64> = used.amounts().into_iter().chain([u64::from(used.measures.0)]).collect();
        take(named(SERVICE, of())?, &numbers);
        for (kind, count) in &used.counts {
            take(counted(SERVICE, of(), *kind)?, &[*count]);
        }
    }
    for (workload, used) in &cell.workloads {
        take(named(WORKLOAD, Entity::Workload(Arc::clone(workload)))?, &[used.cpu_nanos]);
    }
    for (source, nanos) in &cell.input.meters {
        take(named(METER, Entity::Source(source.clone()))?, &[*nanos]);
    }
    for (source, lag) in &cell.input.lags {
        take(named(LAG, Entity::Source(source.clone()))?, &[lag.nanos, lag.least_nanos, lag.most_nanos]);
    }
    for (of, used) in &cell.consumption {
        let entity = || Entity::Consumption(Arc::clone(of));
        take(named(CONSUMPTION, entity())?, &[used.counted_nanos]);
        for (kind, count) in &used.counts {
            take(counted(CONSUMPTION, entity(), *kind)?, &[*count]);
        }
    }
    let mut rest = Writer::part();
    rest.byte(REST);
    let numbers = [
        cell.overcount_microjoules,
        cell.capacity_core_nanos,
        cell.expected_nanos,
        cell.covered_nanos,
        u64::from(cell.flags.0),
        cell.input.component_microjoules,
        cell.input.platform_microjoules,
        cell.input.bound_microjoules,
    ];
    take(rest, &numbers);
    Some(())
}

/// Columns that are written already, in which sums are looked for.
#[derive(Default)]
struct Before<'a> {
    columns: Vec<&'a [u64]>,
    /// Those that are not the same in every cell.
    moving: Vec<usize>,
    /// By a cell's place: such columns by their number there.
    by_number: HashMap<usize, HashMap<u64, Vec<usize>>>,
    /// Columns of entries, by account.
    accounts: BTreeMap<&'a [u8], Vec<usize>>,
}

/// A term of a sum: a column, and whether it is taken away.
type Term = (usize, bool);

impl<'a> Before<'a> {
    fn push(&mut self, name: &'a [u8], column: &'a [u64]) {
        let number = self.columns.len();
        self.columns.push(column);
        // Component and purpose are the last two bytes.
        if let Some((account @ [ENTRY, ..], _)) = name.split_last_chunk::<2>() {
            self.accounts.entry(account).or_default().push(number);
        }
        if column.windows(2).any(|pair| pair[0] != pair[1]) {
            self.moving.push(number);
            for (place, known) in &mut self.by_number {
                known.entry(column[*place]).or_default().push(number);
            }
        }
    }

    /// Columns of which one of this name is the sum at the places where it is there, if there are any.
    fn sum(&mut self, name: &[u8], column: &[u64], places: &[usize]) -> Option<Vec<Term>> {
        let is_sum = |terms: &[Term], columns: &[&[u64]]| {
            let at =
                |place: usize| terms.iter().map(|(column, away)| signed(columns[*column][place], *away)).sum::<i128>();
            places.iter().all(|place| at(*place) == i128::from(column[*place]))
        };
        // All that a service was given, where all of it was counted.
        if let Some((&SERVICE, entity)) = name.split_first() {
            let account = [&[ENTRY, SERVICE_ACCOUNT], entity].concat();
            let terms = self.accounts.get(account.as_slice()).into_iter().flatten().map(|column| (*column, false));
            let terms: Vec<Term> = terms.collect();
            if !terms.is_empty() && is_sum(&terms, &self.columns) {
                return Some(terms);
            }
        }
        let place = *places.first()?;
        let (columns, moving) = (&self.columns, &self.moving);
        let by_number = self.by_number.entry(place).or_insert_with(|| {
            let mut by_number: HashMap<u64, Vec<usize>> = HashMap::new();
            moving.iter().for_each(|number| by_number.entry(columns[*number][place]).or_default().push(*number));
            by_number
        });
        let with =
            |number: Option<u64>| number.and_then(|number| by_number.get(&number)).into_iter().flatten().copied();
        let number = column[place];
        if let Some(same) = with(Some(number)).find(|same| is_sum(&[(*same, false)], columns)) {
            return Some(vec![(same, false)]);
        }
        moving.iter().rev().find_map(|one| {
            let of = columns[*one][place];
            let plus = with(number.checked_sub(of)).map(|other| [(*one, false), (other, false)]);
            let minus = with(of.checked_sub(number)).map(|other| [(*one, false), (other, true)]);
            plus.chain(minus).find(|terms| is_sum(terms, columns)).map(|terms| terms.to_vec())
        })
    }
}

fn signed(number: u64, is_away: bool) -> i128 {
    if is_away { -i128::from(number) } else { number.into() }
}

fn write_column(writer: &mut Writer, name: &[u8], column: &[u64], places: &[usize], before: &mut Before<'_>) {
    let numbers = || places.iter().map(|place| column[*place]);
    let (least, most) = (numbers().min().unwrap_or_default(), numbers().max().unwrap_or_default());
    if least == most {
        writer.byte(SAME);
        return writer.number(least);
    }
    if let Some(terms) = before.sum(name, column, places) {
        writer.byte(SUM);
        writer.length(terms.len());
        for (number, is_away) in terms {
            writer.length((before.columns.len() - number) << 1 | usize::from(is_away));
        }
        return;
    }
    let factor = numbers().fold(0, |factor, number| greatest_common_divisor(factor, number - least));
    let width = u64::BITS - ((most - least) / factor).leading_zeros();
    writer.byte(PACKED);
    writer.number(least);
    writer.number(factor);
    writer.byte(width.to_le_bytes()[0]);
    let (mut bits, mut held) = (0u128, 0);
    for number in numbers() {
        bits |= u128::from((number - least) / factor) << held;
        held += width;
        while held >= 8 {
            writer.byte(bits.to_le_bytes()[0]);
            (bits, held) = (bits >> 8, held - 8);
        }
    }
    if held > 0 {
        writer.byte(bits.to_le_bytes()[0]);
    }
}

/// Reads the bytes stored under `key`: those cells that begin in one of the `wanted` slots, each with its slot, ascending;
/// `resolve` gives what a number names.
pub fn decode(
    key: &[u8],
    value: &[u8],
    wanted: u64,
    resolve: &dyn Fn(u32) -> Option<Entity>,
) -> Result<Vec<(u32, Cell)>, Damaged> {
    let (version, mut reader) = Reader::open_any(key, value)?;
    if version != CELLS_VERSION {
        return Err(Damaged("not an hour of cells"));
    }
    let reader = &mut reader;
    let slots = read_slots(reader)?;
    let wanted: Vec<u32> = (0..MAX_SLOTS).filter(|slot| (slots & wanted) >> slot & 1 == 1).collect();
    let mut columns = Columns { wanted: &wanted, numbers: Vec::new() };
    let mut found = Vec::new();
    let mut before: &[u8] = &[];
    for _ in 0..reader.length()? {
        let name = reader.block()?;
        if name <= before {
            return Err(Damaged("names out of order"));
        }
        before = name;
        let name = Name::read(name, resolve)?;
        let there = if reader.truth()? { read_slots(reader)? } else { slots };
        if there & !slots != 0 {
            return Err(Damaged("a name where no cell is"));
        }
        let (first, count) = (columns.numbers.len(), name.numbers());
        for _ in 0..count {
            columns.read(reader, there)?;
        }
        found.push(Found { name, there, first, count });
    }
    reader.end()?;
    let names = |is: fn(&Name) -> bool| found.iter().filter(|found| is(&found.name)).count();
    let sources = names(|name| matches!(name, Name::Source(_)));
    let entries = names(|name| matches!(name, Name::Entry(_)));
    let services = names(|name| matches!(name, Name::Service(_, None)));
    let cell = |(place, slot): (usize, &u32)| {
        let mut parts = Parts {
            sources: Vec::with_capacity(sources),
            entries: Vec::with_capacity(entries),
            services: Vec::with_capacity(services),
            ..Parts::default()
        };
        for found in found.iter().filter(|found| found.there >> slot & 1 == 1) {
            let numbers = columns.numbers.get(found.first + place..).unwrap_or_default();
            let mut own = [0; MOST_NUMBERS];
            let of_name = numbers.iter().step_by(wanted.len()).take(found.count);
            own.iter_mut().zip(of_name).for_each(|(own, number)| *own = *number);
            parts.put(&found.name, own)?;
        }
        Ok((*slot, parts.cell()))
    };
    wanted.iter().enumerate().map(cell).collect()
}

/// A name, the slots that have it, and where its numbers of the first wanted cell lie: those of a column together.
struct Found {
    name: Name,
    there: u64,
    first: usize,
    count: usize,
}

fn read_slots(reader: &mut Reader<'_>) -> Result<u64, Damaged> {
    reader.raw().map(u64::from_le_bytes)
}

/// What is read of columns: of each the numbers of the wanted slots, 0 where a cell does not have it.
struct Columns<'a> {
    wanted: &'a [u32],
    numbers: Vec<u64>,
}

impl Columns<'_> {
    /// Reads the next column, which the slots of `there` have.
    fn read(&mut self, reader: &mut Reader<'_>, there: u64) -> Result<(), Damaged> {
        const LARGE: Damaged = Damaged("number too large");
        let (wanted, before) = (self.wanted, self.numbers.len());
        if before >= MAX_COLUMNS * MAX_SLOTS as usize {
            return Err(Damaged("too many columns"));
        }
        let has = |slot: &u32| there >> slot & 1 == 1;
        match reader.byte()? {
            SAME => {
                let number = reader.number()?;
                self.numbers.extend(wanted.iter().map(|slot| if has(slot) { number } else { 0 }));
            }
            PACKED => {
                let (least, factor, width) = (reader.number()?, reader.number()?, reader.byte()?);
                if u32::from(width) > u64::BITS {
                    return Err(Damaged("numbers too wide"));
                }
                let bytes = (there.count_ones() as usize * usize::from(width)).div_ceil(8);
                let (packed, rest) = reader.bytes.split_at_checked(bytes).ok_or(Damaged("too short"))?;
                reader.bytes = rest;
                for slot in wanted {
                    let before = (there & !(u64::MAX << slot)).count_ones() as usize;
                    let part = if has(slot) { Some(bits(packed, before * usize::from(width), width)) } else { None };
                    let number = part.map(|part| part.checked_mul(factor)?.checked_add(least));
                    self.numbers.push(number.unwrap_or(Some(0)).ok_or(LARGE)?);
                }
            }
            SUM => {
                let terms = reader.list(|reader| {
                    let term = reader.small()?;
                    let back = wanted.len().checked_mul((term >> 1) as usize).ok_or(LARGE)?;
                    let first = before.checked_sub(back).filter(|_| term >> 1 > 0);
                    Ok((first.ok_or(Damaged("a sum of what comes later"))?, term & 1 == 1))
                })?;
                for (place, slot) in wanted.iter().enumerate() {
                    let sum: i128 = terms.iter().map(|(first, away)| signed(self.numbers[first + place], *away)).sum();
                    self.numbers.push(if has(slot) { u64::try_from(sum).map_err(|_| LARGE)? } else { 0 });
                }
            }
            _ => return Err(Damaged("unknown kind of column")),
        }
        Ok(())
    }
}

/// The `width` bits from bit `first` on, the lowest first.
fn bits(packed: &[u8], first: usize, width: u8) -> u64 {
    let mut window = [0; 16];
    let from = packed.get(first / 8..).unwrap_or_default();
    window.iter_mut().zip(from).for_each(|(window, byte)| *window = *byte);
    let wide = u128::from_le_bytes(window) >> (first % 8) & ((1u128 << width) - 1);
    // Not more than 64 bits are left.
    u64::try_from(wide).unwrap_or(u64::MAX)
}

/// Most numbers that a name has.
const MOST_NUMBERS: usize = 8;

impl Name {
    fn read(bytes: &[u8], resolve: &dyn Fn(u32) -> Option<Entity>) -> Result<Self, Damaged> {
        let mut reader = Reader { bytes };
        let reader = &mut reader;
        let name = match reader.byte()? {
            SOURCE => Self::Source(read_source(reader, resolve)?),
            ENTRY => {
                let account = read_account(reader, resolve)?;
                let (component, purpose) = (read_component(reader)?, read_kind(reader, &PURPOSES)?);
                Self::Entry(EntryKey { account, component, purpose })
            }
            SERVICE => Self::Service(read_service(reader, resolve)?, read_kind_behind(reader)?),
            WORKLOAD => Self::Workload(read_workload(reader, resolve)?),
            METER => Self::Meter(read_source(reader, resolve)?),
            LAG => Self::Lag(read_source(reader, resolve)?),
            CONSUMPTION => Self::Consumption(read_consumption(reader, resolve)?, read_kind_behind(reader)?),
            REST => Self::Rest,
            _ => return Err(Damaged("unknown name of numbers")),
        };
        reader.end()?;
        Ok(name)
    }

    /// How many it has.
    fn numbers(&self) -> usize {
        match self {
            Self::Source(_) => 4,
            Self::Service(_, None) | Self::Rest => MOST_NUMBERS,
            Self::Lag(_) => 3,
            Self::Entry(_) | Self::Service(_, Some(_)) | Self::Workload(_) | Self::Meter(_) | Self::Consumption(..) => {
                1
            }
        }
    }
}

/// The kind of count that a name ends with, if it does.
fn read_kind_behind(reader: &mut Reader<'_>) -> Result<Option<CountKind>, Damaged> {
    if reader.bytes.is_empty() { Ok(None) } else { read_count_kind(reader).map(Some) }
}

/// What is put into a cell, in the order of its names, which is nearly that of its maps: to make these at once is faster than
/// to look for the place of each.
#[derive(Default)]
struct Parts {
    sources: Vec<(SourceKey, SourceUse)>,
    entries: Vec<(EntryKey, u64)>,
    services: Vec<(Arc<Service>, ServiceUse)>,
    workloads: Vec<(Arc<Workload>, WorkloadUse)>,
    meters: Vec<(SourceKey, u64)>,
    lags: Vec<(SourceKey, LagUse)>,
    consumption: Vec<(Arc<Consumption>, ConsumptionUse)>,
    rest: Cell,
}

impl Parts {
    /// Takes the numbers of a name, the first ones of these.
    fn put(&mut self, name: &Name, numbers: [u64; MOST_NUMBERS]) -> Result<(), Damaged> {
        const ALONE: Damaged = Damaged("a count without whose it is");
        let [a, b, c, d, e, f, g, h] = numbers;
        match name {
            Name::Source(source) => {
                let used =
                    SourceUse { microjoules: a, covered_nanos: b, gap_low_microjoules: c, gap_high_microjoules: d };
                self.sources.push((source.clone(), used));
            }
            Name::Entry(entry) => self.entries.push((entry.clone(), a)),
            Name::Service(service, None) => {
                let used = ServiceUse {
                    counts: BTreeMap::new(),
                    counted_nanos: a,
                    resident_nanos: b,
                    executing_nanos: c,
                    reserved_core_nanos: d,
                    reserved_device_nanos: e,
                    cpu_nanos: f,
                    joint_microjoules: g,
                    measures: Measures(u8::try_from(h).map_err(|_| Damaged("unknown measure"))?),
                };
                self.services.push((Arc::clone(service), used));
            }
            Name::Service(service, Some(kind)) => {
                let last = self.services.last_mut().filter(|(last, _)| last == service);
                last.ok_or(ALONE)?.1.counts.insert(*kind, a);
            }
            Name::Workload(workload) => self.workloads.push((Arc::clone(workload), WorkloadUse { cpu_nanos: a })),
            Name::Meter(source) => self.meters.push((source.clone(), a)),
            Name::Lag(source) => {
                self.lags.push((source.clone(), LagUse { nanos: a, least_nanos: b, most_nanos: c }));
            }
            Name::Consumption(of, None) => {
                let used = ConsumptionUse { counts: BTreeMap::new(), counted_nanos: a };
                self.consumption.push((Arc::clone(of), used));
            }
            Name::Consumption(of, Some(kind)) => {
                let last = self.consumption.last_mut().filter(|(last, _)| last == of);
                last.ok_or(ALONE)?.1.counts.insert(*kind, a);
            }
            Name::Rest => {
                let rest = &mut self.rest;
                (rest.overcount_microjoules, rest.capacity_core_nanos, rest.expected_nanos) = (a, b, c);
                (rest.covered_nanos, rest.flags) = (d, Flags(u32::try_from(e).map_err(|_| Damaged("unknown flags"))?));
                let input = &mut rest.input;
                (input.component_microjoules, input.platform_microjoules, input.bound_microjoules) = (f, g, h);
            }
        }
        Ok(())
    }

    fn cell(self) -> Cell {
        let mut cell = self.rest;
        cell.sources = self.sources.into_iter().collect();
        cell.entries = self.entries.into_iter().collect();
        cell.services = self.services.into_iter().collect();
        cell.workloads = self.workloads.into_iter().collect();
        cell.consumption = self.consumption.into_iter().collect();
        cell.input.meters = self.meters.into_iter().collect();
        cell.input.lags = self.lags.into_iter().collect();
        cell
    }
}

#[cfg(test)]
mod tests;
