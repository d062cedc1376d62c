//! A place of the bench's own: private lists of mounts and of processes, where root can have them.
//!
//! Peers look for power meters at /sys and for processes at /proc and cannot be told otherwise. In namespaces both can
//! be made up without touching the machine, the number of processes is exact, and when the bench ends, whatever it
//! started ends with it. Without root the bench runs among the machine's own processes and leaves those peers out.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Names the folder to the copy that runs inside.
const INSIDE: &str = "JOULEBOOK_BENCH_INSIDE";

/// Where the bench goes on.
pub enum Entered {
    /// It ran inside as a process of its own, which ended like this.
    Outside(ExitCode),
    /// Here.
    Inside(Place),
}

/// Where the bench runs.
pub struct Place {
    /// A folder for everything; removed at the end by whoever made it.
    pub folder: PathBuf,
    /// Why the place is not private, if it is not.
    pub why_not_private: Option<String>,
    _made: Option<tempfile::TempDir>,
}

/// Goes on in private namespaces if it may. Has to be called before the first thread is started.
pub fn enter() -> Result<Entered> {
    if let Some(folder) = std::env::var_os(INSIDE) {
        // A bench that is interrupted outside must not go on inside.
        set_pdeathsig(Signal::SIGKILL)?;
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
            .context("making mounts private")?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing).context("mounting a procfs")?;
        return Ok(Entered::Inside(Place { folder: folder.into(), why_not_private: None, _made: None }));
    }
    let made = tempfile::Builder::new().prefix("joulebook-bench-").tempdir()?;
    let folder = made.path().to_owned();
    let refused = if nix::unistd::geteuid().is_root() {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
            .err()
            .map(|error| format!("unshare failed: {error}"))
    } else {
        Some("needs root: /sys is made up in a mount namespace".to_owned())
    };
    if refused.is_some() {
        return Ok(Entered::Inside(Place { folder, why_not_private: refused, _made: Some(made) }));
    }
    let status = Command::new(std::env::current_exe()?).env(INSIDE, &folder).status().context("starting inside")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(Entered::Outside(ExitCode::from(code)))
}
