//! Which powercap zones are CPU energy, which are memory, and which would be counted twice.
//!
//! Zone ids are hexadecimal and say nothing: the file `name` decides. `intel-rapl-mmio` is a second door to the same
//! counters and is used only for a socket that has no `intel-rapl` package. On AMD every die of a socket shows the same
//! counter; on Intel each die of a multi-die package has its own. `core` and `uncore` lie inside the package (and on
//! AMD `core` is a single core).

use crate::collector::attribute;
use std::collections::BTreeMap;
use std::path::Path;

/// What a zone is to the energy of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Energy of a CPU package (or one die of it): summed to CPU energy.
    Cpu,
    /// Energy of the memory of a socket.
    Dram,
    /// The whole platform: a layer of its own.
    Psys,
    /// Repeats the counter of another zone.
    Mirror {
        /// Folder name of that zone.
        of: String,
    },
    /// Inside another zone, one core, or a second door.
    Ignored,
}

/// A powercap zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Folder name, for example `intel-rapl:0:2`.
    pub folder: String,
    /// What it calls itself, for example `package-0`; `None` if that cannot be read.
    pub name: Option<String>,
    /// CPU socket it belongs to.
    pub socket: Option<u32>,
    /// What it is.
    pub role: Role,
    /// Highest value of its counter in µJ.
    pub range: Option<u64>,
    /// Whether the folder is a link to nowhere (a container runtime masks it).
    pub dangling: bool,
}

/// Most zones that are looked at.
pub const MOST_ZONES: usize = 256;

/// Finds and classifies the zones below `<sysfs>/class/powercap`; also gives the number that were left out beyond
/// [`MOST_ZONES`]. `vendor` is the CPU vendor as `/proc/cpuinfo` names it.
pub fn classify(sysfs: &Path, vendor: Option<&str>) -> (Vec<Zone>, usize) {
    let (mut zones, left_out) = list(&sysfs.join("class/powercap"));
    let one_per_socket = matches!(vendor, Some("AuthenticAMD" | "HygonGenuine"));
    let mut packages: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut psys = false;
    let msr_sockets: Vec<u32> =
        zones.iter().filter(|zone| is_rapl(&zone.folder) && !is_mmio(&zone.folder)).filter_map(package_of).collect();
    for zone in zones.iter_mut().filter(|zone| is_rapl(&zone.folder)) {
        let Some(name) = zone.name.clone() else { continue };
        if let Some(socket) = package_socket(&name).filter(|_| depth(&zone.folder) == 1) {
            zone.socket = Some(socket);
            let first_of_name = names.get(&name).cloned();
            let first_of_socket = packages.get(&socket).and_then(|folders| folders.first()).cloned();
            zone.role = if is_mmio(&zone.folder) && msr_sockets.contains(&socket) {
                Role::Ignored
            } else if let Some(of) = first_of_name.or(first_of_socket.filter(|_| one_per_socket)) {
                Role::Mirror { of }
            } else {
                names.insert(name, zone.folder.clone());
                packages.entry(socket).or_default().push(zone.folder.clone());
                Role::Cpu
            };
        } else if (name == "psys" || name.starts_with("psys-")) && !(psys && is_mmio(&zone.folder)) {
            psys = true;
            zone.role = Role::Psys;
        }
    }
    // A subzone counts only where its package does.
    let parents: BTreeMap<String, u32> = zones
        .iter()
        .filter(|zone| zone.role == Role::Cpu)
        .filter_map(|zone| Some((zone.folder.clone(), zone.socket?)))
        .collect();
    for zone in zones.iter_mut().filter(|zone| zone.name.as_deref() == Some("dram")) {
        let socket = zone.folder.rsplit_once(':').and_then(|(parent, _)| parents.get(parent));
        if let Some(socket) = socket {
            zone.socket = Some(*socket);
            zone.role = Role::Dram;
        }
    }
    (zones, left_out)
}

fn list(folder: &Path) -> (Vec<Zone>, usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return (Vec::new(), 0) };
    let mut folders: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| depth(name) > 0).collect();
    folders.sort_by_key(|name| order(name));
    let left_out = folders.len().saturating_sub(MOST_ZONES);
    folders.truncate(MOST_ZONES);
    let zones = folders.into_iter().map(|name| read(&folder.join(&name), name)).collect();
    (zones, left_out)
}

fn read(path: &Path, folder: String) -> Zone {
    let text = |file: &str| attribute::text(&path.join(file));
    Zone {
        name: text("name").map(|name| name.trim().to_owned()),
        socket: None,
        role: Role::Ignored,
        range: text("max_energy_range_uj")
            .and_then(|text| attribute::parse(text.as_bytes()))
            .filter(|range| *range > 0),
        dangling: !path.exists(),
        folder,
    }
}

/// Control type, then the hexadecimal ids as numbers, so that `a` follows `9` and the MSR door comes first.
fn order(folder: &str) -> (bool, bool, Vec<u64>, String) {
    let ids = folder.split(':').skip(1).map(|id| u64::from_str_radix(id, 16).unwrap_or(u64::MAX)).collect();
    (!is_rapl(folder), is_mmio(folder), ids, folder.to_owned())
}

/// Whether a zone is one of RAPL: powercap has others, which only limit power.
pub(super) fn is_rapl(folder: &str) -> bool {
    folder.starts_with("intel-rapl:") || is_mmio(folder)
}

fn depth(folder: &str) -> usize {
    folder.matches(':').count()
}

fn is_mmio(folder: &str) -> bool {
    folder.starts_with("intel-rapl-mmio:")
}

fn package_of(zone: &Zone) -> Option<u32> {
    package_socket(zone.name.as_deref()?).filter(|_| depth(&zone.folder) == 1)
}

/// `package-3` and `package-3-die-1` belong to socket 3.
fn package_socket(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("package-")?;
    let (socket, die) = rest.split_once("-die-").map_or((rest, None), |(socket, die)| (socket, Some(die)));
    if die.is_some_and(|die| die.parse::<u32>().is_err()) {
        return None;
    }
    socket.parse().ok()
}

/// Energy of one count in nJ, from the range the kernel derives from it: ⌊0xffffffff × unit ÷ 1000⌋ µJ.
pub fn unit_nanojoules(range: u64) -> Option<u64> {
    let counts = u128::from(u32::MAX);
    let unit = (u128::from(range) * 1_000).div_ceil(counts);
    (counts * unit / 1_000 == u128::from(range)).then(|| u64::try_from(unit).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_ranges_give_their_units() {
        let known = [(262_143_328_850, 61_035), (65_712_999_613, 15_300), (65_532_610_987, 15_258)];
        for (range, unit) in known {
            assert_eq!(unit_nanojoules(range), Some(unit));
        }
        assert_eq!(unit_nanojoules(4_294_967_295_000_000), Some(1_000_000_000));
        assert_eq!(unit_nanojoules(262_143_328_849), None);
    }

    #[test]
    fn only_package_names_name_a_socket() {
        assert_eq!(package_socket("package-10"), Some(10));
        assert_eq!(package_socket("package-1-die-0"), Some(1));
        assert_eq!(package_socket("package-x"), None);
        assert_eq!(package_socket("core"), None);
    }
}
