//! What the benches share: a look at a process, the workload, and our aggregator and its peers under it.

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub mod cluster;
pub mod disk;
pub mod fleet;
pub mod meter;
pub mod ours;
pub mod peer;
pub mod workload;

/// A setting of the environment, or what it is without.
///
/// # Errors
/// What is set cannot be read.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> Result<T> {
    let given = std::env::var(name).ok().filter(|text| !text.is_empty());
    given.map_or(Ok(default), |text| text.parse().ok().with_context(|| format!("{name}={text} is no number")))
}

/// Sizes in a setting of the environment, with commas between them.
///
/// # Errors
/// One of them is no number, or there is none.
pub fn sizes(name: &str, default: &str) -> Result<Vec<u32>> {
    let text: String = setting(name, default.to_owned())?;
    let sizes = text.split(',').map(|size| size.trim().parse().ok().filter(|size| *size > 0));
    sizes.collect::<Option<_>>().with_context(|| format!("{name}={text}: numbers from 1 on, with commas"))
}

/// Lets this process, and what it starts from now on, open files for so many connections.
///
/// # Errors
/// More than the system allows: each end of a connection is a file, and so are the database's.
pub fn allow_connections(connections: u32) -> Result<()> {
    let (files, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        most >= u64::from(connections) + 1_000,
        "{most} open files are allowed, {connections} connections need more: ulimit -n"
    );
    if files < most {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    }
    Ok(())
}
