//! The helper process of Habana's library: answers rounds of readings until its input ends, in the words of NVIDIA's helper.

use crate::collector::nvml::library::now;
use crate::collector::nvml::message::{Facts, Fault, Line, Request, Sampled, Shown, by_index};
use crate::collector::nvml::serve::{confine, say};
use joulebook_hlml::{CallError, Device, Library, LoadError};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;

/// Devices are looked for again this often, in ns.
const LOOK_AGAIN_NANOS: u64 = 30_000_000_000;
/// The file that Habana's packages install.
const LIBRARY: &str = "libhlml.so";
/// The first argument that makes a program this helper.
pub const HELPER: &str = "gaudi-helper";

/// Serves until the input ends. What goes wrong is said as a [`Line::Failed`].
///
/// # Errors
/// Of stdin and stdout.
pub fn serve(library: Option<&Path>) -> io::Result<()> {
    confine();
    let mut out = io::stdout().lock();
    let file = library.unwrap_or(Path::new(LIBRARY));
    let library = match Library::start(file.as_os_str()) {
        Ok(library) => library,
        Err(error) => {
            let hint = match error {
                LoadError::File(_) => "; install Habana's firmware tools, or name the file with gaudi.library",
                LoadError::Start(CallError::NoDriver) => "; load the kernel module habanalabs",
                LoadError::Start(_) => "",
            };
            return say(&mut out, &Line::Failed { why: format!("starting {} failed: {error}{hint}", file.display()) });
        }
    };
    let mut devices: BTreeMap<String, (Facts, Device<'_>)> = BTreeMap::new();
    let mut looked: Option<u64> = None;
    for request in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&request?)?;
        if devices.is_empty() || looked.is_none_or(|at| now().saturating_sub(at) >= LOOK_AGAIN_NANOS) {
            looked = Some(now());
            look(&library, &request, &mut devices, &mut out)?;
        }
        for (uuid, (_, device)) in devices.iter().filter(|(uuid, _)| !request.skip.contains(*uuid)) {
            say(&mut out, &Line::Begin { device: uuid.clone() })?;
            say(&mut out, &Line::Device(Box::new(shown(&library, uuid, *device))))?;
        }
        say(&mut out, &Line::End)?;
    }
    Ok(())
}

/// Looks which devices there are, and says so. One that is lost stays known: each round tells that it is lost.
fn look<'a>(
    library: &'a Library,
    request: &Request,
    devices: &mut BTreeMap<String, (Facts, Device<'a>)>,
    out: &mut impl Write,
) -> io::Result<()> {
    // A count that fails leaves what is known: each device then tells for itself.
    for index in 0..library.device_count().unwrap_or(0) {
        let name = by_index(index);
        if request.skip.contains(&name) {
            continue;
        }
        say(out, &Line::Begin { device: name })?;
        let Ok(device) = library.device(index) else { continue };
        let Ok(uuid) = library.uuid(device) else { continue };
        if !request.skip.contains(&uuid) {
            let facts = facts(library, &uuid, index, device);
            devices.insert(uuid, (facts, device));
        }
    }
    let known = devices.values().map(|(facts, _)| facts.clone()).collect();
    say(out, &Line::Devices { driver: None, devices: known })
}

fn facts(library: &Library, uuid: &str, index: u32, device: Device<'_>) -> Facts {
    Facts {
        uuid: uuid.to_owned(),
        index,
        model: library.name(device).unwrap_or_else(|_| "Gaudi".to_owned()),
        minor: None,
        bus: None,
        limit_milliwatts: None,
        memory_bytes: None,
        divided: false,
        // An error that may pass says nothing against the counter.
        counts: library.energy_millijoules(device) != Err(CallError::NotSupported),
        module: false,
        power_usage: Sampled::Instant,
    }
}

fn shown(library: &Library, uuid: &str, device: Device<'_>) -> Shown {
    let before = now();
    let energy = library.energy_millijoules(device);
    let between = now();
    let power = library.power_milliwatts(device);
    let (counted, drawn) = (before.midpoint(between), between.midpoint(now()));
    Shown {
        uuid: uuid.to_owned(),
        energy: energy.map(|millijoules| (millijoules, counted)).map_err(fault),
        power: power.map(|milliwatts| (milliwatts, Sampled::Instant, drawn)).map_err(fault),
        module: None,
        processes: None,
    }
}

fn fault(error: CallError) -> Fault {
    match error {
        CallError::NotSupported => Fault::NotSupported,
        CallError::Lost => Fault::Lost,
        CallError::NoDriver | CallError::Code(_) | CallError::Name => Fault::Failed(error.to_string()),
    }
}
