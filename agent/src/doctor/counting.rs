//! Where the requests of the configured servers are counted: of two pages of one process only the engine's.
//!
//! Asks no server: who listens at a target's port is what the kernel's tables say.

use crate::config::Config;
use crate::inference::preset::{Role, Server};
use crate::inference::socket::{ProcessId, listener};
use crate::inference::target::Target;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// A configured target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counting {
    /// Its URL, as configured.
    pub target: String,
    /// How its page is read.
    pub preset: String,
    /// `engine`, `wrapper` or `gateway`.
    pub role: &'static str,
    /// The process whose work it counts; null if it is not found.
    pub process: Option<i32>,
    /// Why the process is not found; null if it is.
    pub why: Option<String>,
    /// Why its requests are not counted here, or would be counted twice; null if they are counted here alone.
    pub left_out: Option<String>,
}

/// A target and its process.
struct Place {
    target: Target,
    process: Result<ProcessId, String>,
}

/// The targets of a configuration, in its order. One that is wrong is not there: the agent does not start with it.
pub fn targets(config: &Config) -> Vec<Counting> {
    let Ok(presets) = config.presets() else { return Vec::new() };
    let targets = config.target.iter().enumerate();
    let targets = targets.filter_map(|(index, target)| Target::new(index, target.clone(), &presets).ok());
    let procfs = &config.roots.procfs;
    let places: Vec<Place> = targets.map(|target| Place { process: process(&target, procfs), target }).collect();
    let counting = |(index, place): (usize, &Place)| Counting {
        target: place.target.name.clone(),
        preset: place.target.preset.id.clone(),
        role: match place.target.preset.role {
            Role::Engine => "engine",
            Role::Wrapper => "wrapper",
            Role::Gateway => "gateway",
        },
        process: place.process.as_ref().ok().map(|process| process.pid),
        why: place.process.as_ref().err().cloned(),
        left_out: left_out(index, place, &places, |id| presets.text(id).is_some()),
    };
    places.iter().enumerate().map(counting).collect()
}

/// What of the same process is counted at another target. `is_known` tells the presets whose roles the ledger knows.
fn left_out(index: usize, place: &Place, all: &[Place], is_known: impl Fn(&str) -> bool) -> Option<String> {
    let (role, id) = (place.target.preset.role, &place.target.preset.id);
    let mine = place.process.as_ref().ok()?;
    let others = all.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
    let mut same = others.filter(|other| other.process.as_ref() == Ok(mine));
    if role != Role::Wrapper {
        let twin = same.find(|other| role == Role::Engine && other.target.preset.role == Role::Engine)?;
        let twin = &twin.target.name;
        return Some(format!(
            "{twin} is of the same process, and an engine's too: both are counted; leave one of them out"
        ));
    }
    let engine = &same.find(|other| other.target.preset.role == Role::Engine)?.target;
    Some(if is_known(id) {
        format!("{} counts the same requests ({} in the same process)", engine.name, engine.preset.id)
    } else {
        let name = &engine.name;
        format!(
            "{name} counts the same requests, and the ledger does not know the role of {id}: both are counted; leave one of them out"
        )
    })
}

/// The process that serves a target.
fn process(target: &Target, procfs: &Path) -> Result<ProcessId, String> {
    let ip = match target.host.parse() {
        Ok(ip) => ip,
        Err(_) if target.host == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Err(_) => return Err(format!("{} is a name: who listens there is seen when it is scraped", target.host)),
    };
    let address = SocketAddr::new(ip, target.port);
    let process = listener(procfs, address, None).map_err(|error| error.to_string())?.process;
    Ok(match target.preset.server {
        Server::Listener => process,
        Server::Parent => process.parent(procfs).unwrap_or(process),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A process table in which process 41 listens at 8000 and 8001, and 42 at 8002.
    fn table() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("folder");
        let line = |port: u16, inode: u64| {
            format!(
                "   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
            )
        };
        std::fs::create_dir(root.path().join("net")).expect("folder");
        let lines = ["  sl\n".to_owned(), line(8000, 1), line(8001, 2), line(8002, 3)].concat();
        std::fs::write(root.path().join("net/tcp"), lines).expect("table");
        for (pid, inodes) in [(41, &[1, 2][..]), (42, &[3])] {
            let folder = root.path().join(pid.to_string());
            std::fs::create_dir_all(folder.join("fd")).expect("folder");
            let stat = format!("{pid} (server) S 1 {}", "0 ".repeat(17) + "900 0");
            std::fs::write(folder.join("stat"), stat).expect("stat");
            for inode in inodes {
                let link = folder.join("fd").join(inode.to_string());
                std::os::unix::fs::symlink(format!("socket:[{inode}]"), link).expect("link");
            }
        }
        root
    }

    fn counting(targets: &[(u16, &str)], procfs: PathBuf) -> Vec<(Option<i32>, Option<String>)> {
        let one = |(port, preset): &(u16, &str)| {
            toml::from_str(&format!("url = \"http://127.0.0.1:{port}\"\npreset = \"{preset}\"")).expect("legal")
        };
        let mut config = Config { target: targets.iter().map(one).collect(), ..Config::default() };
        config.roots.procfs = procfs;
        super::targets(&config).into_iter().map(|found| (found.process, found.left_out)).collect()
    }

    #[test]
    fn of_two_pages_of_one_process_the_wrappers_is_left_out_and_it_is_said() {
        let table = table();
        let of = |targets: &[(u16, &str)]| counting(targets, table.path().to_owned());
        let found = of(&[(8000, "bentoml"), (8001, "vllm"), (8002, "kserve")]);
        assert_eq!(found.iter().map(|(process, _)| *process).collect::<Vec<_>>(), [Some(41), Some(41), Some(42)]);
        let left_out: Vec<bool> = found.iter().map(|(_, left_out)| left_out.is_some()).collect();
        assert_eq!(left_out, [true, false, false], "{found:?}");
        assert!(found[0].1.as_ref().is_some_and(|why| why.contains("http://127.0.0.1:8001") && why.contains("vllm")));
        let twins = of(&[(8000, "vllm"), (8001, "vllm")]);
        assert!(
            twins.iter().all(|(_, why)| why.as_ref().is_some_and(|why| why.contains("both are counted"))),
            "{twins:?}"
        );
        let gateway = of(&[(8000, "litellm"), (8001, "vllm")]);
        assert!(gateway.iter().all(|(_, left_out)| left_out.is_none()), "a gateway is never added: {gateway:?}");
        assert_eq!(of(&[(9000, "vllm")]), [(None, None)]);
    }
}
