//! Who is at the other end of a unix socket, as the kernel says.

use super::super::socket::ProcessId;
use super::super::told::Refusal;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio::net::UnixStream;

/// The process at the other end, or the one `parents` generations above it.
pub fn identify(stream: &UnixStream, procfs: &Path, parents: u8) -> Result<ProcessId, Refusal> {
    let gone = || Refusal { reason: "peer", why: "the sender has ended".to_owned() };
    let mut process = match getsockopt(stream, PeerPidfd) {
        Ok(pidfd) => {
            // The descriptor holds the process, whoever gets its pid later; its number is that of this procfs.
            let info = procfs.join("self/fdinfo").join(pidfd.as_raw_fd().to_string());
            let pid = || {
                let text = fs::read_to_string(&info).ok()?;
                text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse::<i32>().ok()
            };
            match pid() {
                Some(0) => return Err(unseen()),
                Some(seen) if seen > 0 => {
                    let process = ProcessId::read(procfs, seen).ok_or_else(gone)?;
                    if pid() != Some(seen) {
                        return Err(gone());
                    }
                    process
                }
                Some(_) => return Err(gone()),
                None => by_credentials(stream, procfs)?,
            }
        }
        Err(_) => by_credentials(stream, procfs)?,
    };
    for _ in 0..parents {
        let parent = parent(procfs, process).and_then(|pid| ProcessId::read(procfs, pid)).ok_or_else(gone)?;
        if parent.pid <= 1 || parent.start_ticks > process.start_ticks {
            return Err(Refusal { reason: "peer", why: "the sender has fewer living `parents`".to_owned() });
        }
        process = parent;
    }
    Ok(process)
}

fn by_credentials(stream: &UnixStream, procfs: &Path) -> Result<ProcessId, Refusal> {
    let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid()).filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(unseen)?;
    ProcessId::read(procfs, pid).ok_or_else(unseen)
}

fn unseen() -> Refusal {
    let why = "the agent cannot see the sender's process: run it in the host's pid namespace";
    Refusal { reason: "peer", why: why.to_owned() }
}

fn parent(procfs: &Path, process: ProcessId) -> Option<i32> {
    let stat = fs::read(procfs.join(process.pid.to_string()).join("stat")).ok()?;
    // The command name may hold blanks and brackets: fields count from the last bracket.
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(after + 1..)?).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}
