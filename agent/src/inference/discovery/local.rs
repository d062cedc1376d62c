//! Listening ports of processes that may be inference servers, per network namespace.
//!
//! `/proc/PID/net/tcp` is the table of the namespace of PID, so it is read once for each namespace; a socket is its owner's
//! by the inode in `/proc/PID/fd`. Looking at other users' descriptors and namespaces needs root or CAP_SYS_PTRACE; what may
//! not be looked at is counted.

use super::command::engine;
use crate::inference::socket::{ProcessId, listening_sockets};
use crate::process::{cgroup, proc};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A port at which a server may show its page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Where it listens, as its namespace sees it.
    pub address: SocketAddr,
    /// The engine that its command line suggests.
    pub engine: &'static str,
    /// Whether it listens in the agent's own network namespace.
    pub is_near: bool,
    /// Uid of its pod, if it is in one.
    pub pod_uid: Option<String>,
    /// The process that was recognised.
    pub pid: i32,
    /// Its start.
    pub start_ticks: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Ports, each once: by the oldest process that was recognised.
    pub candidates: BTreeSet<Candidate>,
    /// Recognised processes whose descriptors or namespace may not be looked at.
    pub denied: u64,
}

/// Looks at every process of the tables below `procfs`.
pub fn look(procfs: &Path) -> Found {
    let mut found = Found::default();
    let own = namespace(procfs, "self");
    let mut tables: HashMap<PathBuf, BTreeMap<u64, SocketAddr>> = HashMap::new();
    let mut taken: BTreeSet<(PathBuf, SocketAddr)> = BTreeSet::new();
    let mut servers = servers(procfs);
    // The oldest first: a port that children inherited is their parent's.
    servers.sort_by_key(|(process, _)| (process.start_ticks, process.pid));
    for (process, engine) in servers {
        let pid = process.pid.to_string();
        let (Some(namespace), Some(inodes)) = (namespace(procfs, &pid), inodes(procfs, &pid)) else {
            // A process that ended meanwhile is nobody's loss.
            found.denied += u64::from(ProcessId::read(procfs, process.pid) == Some(process));
            continue;
        };
        let table = tables.entry(namespace.clone()).or_insert_with(|| listening_sockets(&procfs.join(&pid)));
        for address in inodes.iter().filter_map(|inode| table.get(inode)) {
            if taken.insert((namespace.clone(), *address)) {
                found.candidates.insert(Candidate {
                    address: *address,
                    engine,
                    is_near: own.as_ref() == Some(&namespace),
                    pod_uid: pod_uid(procfs, &pid),
                    pid: process.pid,
                    start_ticks: process.start_ticks,
                });
            }
        }
    }
    found
}

/// Processes that may be servers, and their descendants, which may listen for them.
fn servers(procfs: &Path) -> Vec<(ProcessId, &'static str)> {
    let processes = proc::processes(procfs);
    let parents: HashMap<i32, i32> = processes.iter().map(|one| (one.pid, one.parent)).collect();
    let own: HashMap<i32, &'static str> = processes
        .iter()
        .filter(|process| !process.kernel && !process.zombie)
        .filter_map(|process| {
            let line = proc::read_text(&procfs.join(process.pid.to_string()).join("cmdline"))?;
            Some((process.pid, engine(line.as_bytes())?))
        })
        .collect();
    let above = |pid: i32| {
        let mut at = Some(pid);
        // A pid that was used again could close a ring.
        for _ in 0..64 {
            let Some(engine) = at.and_then(|pid| own.get(&pid)) else {
                at = at.and_then(|pid| parents.get(&pid).copied()).filter(|parent| *parent > 1);
                continue;
            };
            return Some(*engine);
        }
        None
    };
    let known = |process: &proc::Process| {
        let engine = above(process.pid)?;
        Some((ProcessId { pid: process.pid, start_ticks: process.start_ticks }, engine))
    };
    processes.iter().filter_map(known).collect()
}

fn namespace(procfs: &Path, pid: &str) -> Option<PathBuf> {
    fs::read_link(procfs.join(pid).join("ns/net")).ok()
}

/// Inodes of the sockets that a process holds; `None` if that may not be looked at.
fn inodes(procfs: &Path, pid: &str) -> Option<BTreeSet<u64>> {
    let entries = fs::read_dir(procfs.join(pid).join("fd")).ok()?;
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Some(links.filter_map(inode).collect())
}

fn pod_uid(procfs: &Path, pid: &str) -> Option<String> {
    let text = proc::read_text(&procfs.join(pid).join("cgroup"))?;
    proc::parse_cgroup(&text).map(cgroup::identify)?.pod_uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const UID: &str = "8c4b0b0f-1f7a-4b9a-9d2a-0a1b2c3d4e5f";

    /// A process of one namespace that holds a socket.
    fn process(root: &Path, pid: i32, parent: i32, line: &str, namespace: &str, inode: u64, cgroup: &str) {
        let folder = root.join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).expect("folder");
        fs::create_dir_all(folder.join("ns")).expect("folder");
        fs::create_dir_all(folder.join("net")).expect("folder");
        let stat = format!("{pid} (x) S {parent} 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {} 4096 7", 1000 + pid);
        fs::write(folder.join("stat"), stat).expect("stat");
        fs::write(folder.join("cmdline"), line.replace(' ', "\0")).expect("cmdline");
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).expect("cgroup");
        symlink(format!("socket:[{inode}]"), folder.join("fd/3")).expect("fd");
        symlink(namespace, folder.join("ns/net")).expect("namespace");
        let table = |rows: &[(&str, u64)]| {
            let line = |(address, inode): &(&str, u64)| {
                format!(
                    "   0: {address} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
                )
            };
            format!("  sl  local_address\n{}", rows.iter().map(line).collect::<String>())
        };
        let rows: &[(&str, u64)] = match namespace {
            "net:[1]" => &[("0100007F:1F90", 11), ("00000000:1F91", 12)],
            _ => &[("00000000:1F90", 21)],
        };
        fs::write(folder.join("net/tcp"), table(rows)).expect("table");
    }

    #[test]
    fn ports_of_servers_are_found_in_every_namespace_and_those_of_others_are_not() {
        let root = tempfile::tempdir().expect("folder");
        let pod = format!(
            "/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{}.scope",
            UID.replace('-', "_"),
            "a".repeat(64)
        );
        process(root.path(), 10, 1, "vllm serve org/m", "net:[1]", 11, "/a");
        process(root.path(), 11, 10, "multiprocessing", "net:[1]", 11, "/a");
        process(root.path(), 12, 1, "nginx", "net:[1]", 12, "/b");
        process(root.path(), 20, 1, "tritonserver --x", "net:[2]", 21, &pod);
        symlink("12", root.path().join("self")).expect("self");
        let found = look(root.path());
        let seen: Vec<_> =
            found.candidates.iter().map(|one| (one.address.to_string(), one.engine, one.is_near, one.pid)).collect();
        assert_eq!(
            seen,
            [("0.0.0.0:8080".to_owned(), "triton", false, 20), ("127.0.0.1:8080".to_owned(), "vllm", true, 10)]
        );
        assert_eq!(found.candidates.iter().next().and_then(|one| one.pod_uid.as_deref()), Some(UID));
        assert_eq!(found.denied, 0);
    }

    #[test]
    fn a_server_that_may_not_be_looked_at_is_counted() {
        let root = tempfile::tempdir().expect("folder");
        process(root.path(), 10, 1, "vllm serve org/m", "net:[1]", 11, "/a");
        fs::remove_file(root.path().join("10/ns/net")).expect("there");
        assert_eq!(look(root.path()), Found { denied: 1, ..Found::default() });
    }
}
