//! Which process listens at a port: `net/tcp{,6}` state 0A → inode → `fd/*` → `socket:[inode]`, below a procfs root.
//!
//! Needs the right to list other users' `fd` folders (root or CAP_SYS_PTRACE) unless the server runs as this user. A
//! listener inside another network namespace is not in the table.

use joulebook_units::BootNanos;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Why a port could not be followed to a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The tables of sockets cannot be read.
    #[error("reading {path} failed: {why}; the process at the port stays unknown")]
    Table {
        /// Path of the table.
        path: String,
        /// Why.
        why: String,
    },
    /// No listener at the address.
    #[error("no listener at {0} in the socket tables; it may be in another network namespace")]
    NoListener(SocketAddr),
    /// No connection between these ends.
    #[error("no connection from {0} in the socket tables; it may be in another network namespace, or have ended")]
    NoConnection(SocketAddr),
    /// The listener's owner is not among the processes whose descriptors may be listed.
    #[error(
        "socket {inode} belongs to no process that can be read ({unreadable} could not be: run as its user, as root or with CAP_SYS_PTRACE)"
    )]
    NoOwner {
        /// Inode of the socket.
        inode: u64,
        /// Processes whose descriptors could not be listed.
        unreadable: usize,
    },
}

/// A process, told apart from a later one with the same pid by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Process id in the procfs root's namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn read(procfs: &Path, pid: i32) -> Option<Self> {
        Self::with_parent(procfs, pid).map(|(process, _)| process)
    }

    /// The process that started this one, unless that is the first of all: that one takes orphans in.
    pub fn parent(self, procfs: &Path) -> Option<Self> {
        let (process, parent) = Self::with_parent(procfs, self.pid)?;
        (process == self && parent > 1).then(|| Self::read(procfs, parent))?
    }

    fn with_parent(procfs: &Path, pid: i32) -> Option<(Self, i32)> {
        let stat = fs::read(procfs.join(pid.to_string()).join("stat")).ok()?;
        // The command name may hold blanks, brackets and line ends: fields count from the last bracket.
        let after = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(stat.get(after + 1..)?).ok()?.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let start_ticks = fields.nth(17)?.parse().ok()?;
        Some((Self { pid, start_ticks }, parent))
    }

    /// Whether it started after `instant`, as far as the kernel tells: a start is known to the tick below, so one in the
    /// tick of `instant` counts as later. What a server can have counted in that tick is nothing.
    pub fn started_after(self, instant: BootNanos, ticks_per_second: u64) -> bool {
        let tick = 1_000_000_000 / ticks_per_second.max(1);
        self.started(ticks_per_second).0.saturating_add(tick) > instant.0
    }

    /// When it started, to the tick below. `ticks_per_second` is the kernel's USER_HZ.
    pub fn started(self, ticks_per_second: u64) -> BootNanos {
        let nanos = u128::from(self.start_ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
        BootNanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The listener at an address: its socket and the process that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Inode of the socket.
    pub inode: u64,
    /// The owner; of several that share the socket, the one that started first.
    pub process: ProcessId,
}

/// Finds who listens at `address`. `known` is what was found before: it spares the search while it still holds.
///
/// # Errors
/// See [`LookupError`].
pub fn listener(procfs: &Path, address: SocketAddr, known: Option<Listener>) -> Result<Listener, LookupError> {
    let inode = listening_inode(procfs, address)?;
    if let Some(known) = known.filter(|known| known.inode == inode)
        && ProcessId::read(procfs, known.process.pid) == Some(known.process)
    {
        return Ok(known);
    }
    owner(procfs, inode).map(|process| Listener { inode, process })
}

/// Finds the process at the other end of a connection inside this machine: `peer` is its address there, `own` the one here.
///
/// # Errors
/// See [`LookupError`].
pub fn connected(procfs: &Path, peer: SocketAddr, own: SocketAddr) -> Result<ProcessId, LookupError> {
    let same = |one: SocketAddr, other: SocketAddr| {
        one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
    };
    let tables = ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(procfs.join(table)).unwrap_or_default());
    let lines = tables.iter().flat_map(|text| text.lines().skip(1));
    let mut found = lines.filter_map(connection).filter(|(local, remote, _)| same(*local, peer) && same(*remote, own));
    let (_, _, inode) = found.next().ok_or(LookupError::NoConnection(peer))?;
    owner(procfs, inode)
}

/// Both ends and the inode of a table's line if it is an open connection.
fn connection(line: &str) -> Option<(SocketAddr, SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (address(fields.nth(1)?)?, address(fields.next()?)?);
    if fields.next()? != "01" {
        return None;
    }
    Some((local, remote, fields.nth(5)?.parse().ok()?))
}

fn listening_inode(procfs: &Path, address: SocketAddr) -> Result<u64, LookupError> {
    let wanted = address.ip().to_canonical();
    let mut any = None;
    let mut failure = None;
    for table in ["net/tcp", "net/tcp6"] {
        let path = procfs.join(table);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6 has no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "net/tcp6" => continue,
            Err(error) => {
                failure = Some(LookupError::Table { path: path.display().to_string(), why: error.to_string() });
                continue;
            }
        };
        for (ip, inode) in text.lines().skip(1).filter_map(|line| listening(line, address.port())) {
            if ip.to_canonical() == wanted {
                return Ok(inode);
            }
            // A wildcard of the other family may not serve this address; a wildcard of IPv6 usually does.
            if ip.is_unspecified() && (ip.is_ipv6() || wanted.is_ipv4()) {
                any = any.or(Some(inode));
            }
        }
    }
    any.ok_or_else(|| failure.unwrap_or(LookupError::NoListener(address)))
}

/// Every listening socket in the tables of a network namespace: those of a folder with `net/tcp` and `net/tcp6`.
pub fn listening_sockets(folder: &Path) -> BTreeMap<u64, SocketAddr> {
    let tables = ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(folder.join(table)).unwrap_or_default());
    let lines = tables.iter().flat_map(|text| text.lines().skip(1));
    lines.filter_map(socket).map(|(address, inode)| (inode, address)).collect()
}

/// Address and inode of a table's line if it is a listener at this port.
fn listening(line: &str, port: u16) -> Option<(IpAddr, u64)> {
    let (address, inode) = socket(line)?;
    (address.port() == port).then(|| (address.ip(), inode))
}

/// Address and inode of a table's line if it is a listener.
fn socket(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let address = address(fields.nth(1)?)?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    Some((address, fields.nth(5)?.parse().ok()?))
}

/// An address as a table writes it.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits in the machine's byte order.
    let word =
        |index: usize| u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn owner(procfs: &Path, inode: u64) -> Result<ProcessId, LookupError> {
    let link = format!("socket:[{inode}]");
    let table = |error: io::Error| LookupError::Table { path: procfs.display().to_string(), why: error.to_string() };
    let mut first: Option<ProcessId> = None;
    let mut unreadable = 0;
    for entry in fs::read_dir(procfs).map_err(table)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let holds = match fs::read_dir(entry.path().join("fd")) {
            Ok(mut fds) => fds
                .any(|fd| fd.is_ok_and(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))),
            Err(error) => {
                unreadable += usize::from(error.kind() == io::ErrorKind::PermissionDenied);
                false
            }
        };
        let process = holds.then(|| ProcessId::read(procfs, pid)).flatten();
        if let Some(process) = process
            && first.is_none_or(|first| (process.start_ticks, process.pid) < (first.start_ticks, first.pid))
        {
            first = Some(process);
        }
    }
    first.ok_or(LookupError::NoOwner { inode, unreadable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn row(address: &str, state: &str, inode: u64) -> String {
        format!(
            "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
        )
    }

    fn process(root: &Path, pid: i32, start: u64, inode: u64) {
        let folder = root.join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).expect("folder");
        let stat = format!("{pid} (a b) R) x\n) S 1 {pid} {pid} 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {start} 4096 7");
        fs::write(folder.join("stat"), stat).expect("stat");
        symlink(format!("socket:[{inode}]"), folder.join("fd/3")).expect("fd");
    }

    #[test]
    fn the_oldest_owner_of_a_listening_socket_is_found() {
        let root = tempfile::tempdir().expect("folder");
        fs::create_dir(root.path().join("net")).expect("folder");
        let between = row("0100007F:2329", "01", 5).replace("00000000:0000 01", "0100007F:1F9A 01");
        let rows =
            [between, row("0100007F:1F90", "01", 1), row("0100007F:1F91", "0A", 2), row("00000000:1F90", "0A", 3)]
                .concat();
        fs::write(root.path().join("net/tcp"), format!("{HEAD}{rows}")).expect("table");
        let rows = row("00000000000000000000000001000000:1F92", "0A", 4);
        fs::write(root.path().join("net/tcp6"), format!("{HEAD}{rows}")).expect("table");
        process(root.path(), 40, 900, 3);
        process(root.path(), 41, 800, 3);
        process(root.path(), 42, 700, 4);
        let at = |text: &str| listener(root.path(), text.parse().expect("address"), None);
        let owner = ProcessId { pid: 41, start_ticks: 800 };
        assert_eq!(at("127.0.0.1:8080"), Ok(Listener { inode: 3, process: owner }));
        assert_eq!(at("[::1]:8082").map(|listener| listener.process.pid), Ok(42));
        assert!(matches!(at("127.0.0.1:8081"), Err(LookupError::NoOwner { inode: 2, .. })));
        assert!(matches!(at("127.0.0.1:8082"), Err(LookupError::NoListener(_))));
        let other_end = |peer: &str, own: &str| {
            connected(root.path(), peer.parse().expect("address"), own.parse().expect("address"))
        };
        process(root.path(), 43, 600, 5);
        assert_eq!(other_end("127.0.0.1:9001", "127.0.0.1:8090").map(|process| process.pid), Ok(43));
        assert!(matches!(other_end("127.0.0.1:8090", "127.0.0.1:9001"), Err(LookupError::NoConnection(_))));
        assert_eq!(owner.started(100), BootNanos(8_000_000_000));
        assert!(owner.started_after(BootNanos(8_009_999_999), 100), "in the same tick of the clock");
        assert!(!owner.started_after(BootNanos(8_010_000_000), 100));
    }

    #[test]
    fn a_known_owner_is_not_believed_after_its_pid_was_used_again() {
        let root = tempfile::tempdir().expect("folder");
        fs::create_dir(root.path().join("net")).expect("folder");
        fs::write(root.path().join("net/tcp"), format!("{HEAD}{}", row("0100007F:1F90", "0A", 3))).expect("table");
        process(root.path(), 40, 900, 3);
        let known = Listener { inode: 3, process: ProcessId { pid: 40, start_ticks: 100 } };
        let found = listener(root.path(), "127.0.0.1:8080".parse().expect("address"), Some(known));
        assert_eq!(found.map(|found| found.process.start_ticks), Ok(900));
    }

    #[test]
    fn the_process_that_started_a_listener_is_found_and_the_first_of_all_is_not_it() {
        let root = tempfile::tempdir().expect("folder");
        process(root.path(), 40, 900, 3);
        let child = "41 (c) S 40 41 41 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 950 4096 7";
        fs::create_dir(root.path().join("41")).expect("folder");
        fs::write(root.path().join("41/stat"), child).expect("stat");
        let (parent, child) = (ProcessId { pid: 40, start_ticks: 900 }, ProcessId { pid: 41, start_ticks: 950 });
        assert_eq!(child.parent(root.path()), Some(parent));
        assert_eq!(parent.parent(root.path()), None, "an orphan");
        let earlier = ProcessId { start_ticks: 10, ..child };
        assert_eq!(earlier.parent(root.path()), None, "another process of that id");
    }

    #[test]
    fn a_missing_table_is_told_with_its_path() {
        let root = tempfile::tempdir().expect("folder");
        let error = listener(root.path(), "127.0.0.1:1".parse().expect("address"), None).expect_err("no table");
        assert!(error.to_string().contains("net/tcp"));
    }
}
