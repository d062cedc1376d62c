//! Libraries that are loaded before all others and change what a system call does. They are built when a rig needs
//! them; nothing of them is in the programs.

use super::Random;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables of a process's environment.
pub type Environment = Vec<(&'static str, String)>;

/// Builds the library whose syncs do nothing, and says how it is loaded.
pub fn no_sync(folder: &Path) -> Result<Environment> {
    let library = build(folder, "no_sync", include_str!("no_sync.c"))?;
    Ok(vec![("LD_PRELOAD", library.to_string_lossy().into_owned())])
}

/// A system call, and on which side of it a process falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// write (or pwrite), fdatasync, fsync, rename, unlink, create (open that may make a file).
    pub call: &'static str,
    /// before, after, or for write: torn.
    pub when: &'static str,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.when, self.call)
    }
}

/// Every point at which a process that keeps files can fall.
pub const POINTS: [Point; 13] = [
    Point { call: "write", when: "before" },
    Point { call: "write", when: "torn" },
    Point { call: "write", when: "after" },
    Point { call: "fdatasync", when: "before" },
    Point { call: "fdatasync", when: "after" },
    Point { call: "fsync", when: "before" },
    Point { call: "fsync", when: "after" },
    Point { call: "rename", when: "before" },
    Point { call: "rename", when: "after" },
    Point { call: "unlink", when: "before" },
    Point { call: "unlink", when: "after" },
    Point { call: "create", when: "before" },
    Point { call: "create", when: "after" },
];

/// The library that lets a process fall.
#[derive(Debug, Clone)]
pub struct Falls(PathBuf);

impl Falls {
    /// Builds it.
    pub fn build(folder: &Path) -> Result<Self> {
        Ok(Self(build(folder, "fall", include_str!("fall.c"))?))
    }

    /// Does not fall: the `number`th fdatasync fails with EIO, and what it was to keep is gone.
    pub fn sync_error(&self, number: u64) -> Environment {
        self.setting(format!("fdatasync:eio:{number}"))
    }

    /// Does not fall: the `number`th write to a file fails with ENOSPC.
    pub fn full_disk(&self, number: u64) -> Environment {
        self.setting(format!("write:enospc:{number}"))
    }

    fn setting(&self, setting: String) -> Environment {
        vec![("LD_PRELOAD", self.0.to_string_lossy().into_owned()), ("RIG_FALL", setting)]
    }

    /// Falls at one of the first `most` calls of a point's kind.
    pub fn at(&self, point: Point, most: u64, random: &mut Random) -> Environment {
        let number = 1 + random.below(most);
        self.setting(format!("{}:{}:{number}", point.call, point.when))
    }
}

fn build(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let (source, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&source, text)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).args([&library, &source]);
    let output = compiler.arg("-ldl").output().context("running cc")?;
    if !output.status.success() {
        bail!("cc {name}.c ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(library)
}
