//! What the BMC shows in band: `run/dcmi.val`, which an emulator of IPMI with a module for DCMI serves.
//!
//! One line: watts now, least, most and mean since the start, period in ms, 1 for "measuring". Whole watts, latched each
//! refresh of the BMC's sensors. Replaced as a whole: whoever reads it opens it each time.

use crate::error::{Result, at};
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug)]
pub(crate) struct Dcmi {
    path: PathBuf,
    /// When it was last written.
    shown_ns: Option<u64>,
    least: u64,
    most: u64,
    sum: u128,
    count: u128,
}

impl Dcmi {
    pub(crate) fn new(root: &Path) -> Self {
        Self { path: root.join("run/dcmi.val"), shown_ns: None, least: u64::MAX, most: 0, sum: 0, count: 0 }
    }

    /// Writes the file if the sensors look again by now.
    pub(crate) fn show(&mut self, now_ns: u64, refresh_ns: u64, input_mw: u64) -> Result<()> {
        if self.shown_ns.is_some_and(|shown| now_ns.saturating_sub(shown) < refresh_ns) {
            return Ok(());
        }
        self.shown_ns = Some(now_ns);
        let watts = (input_mw + 500) / 1_000;
        self.least = self.least.min(watts);
        self.most = self.most.max(watts);
        self.sum += u128::from(watts);
        self.count += 1;
        let line =
            format!("{watts} {} {} {} {} 1\n", self.least, self.most, self.sum / self.count, refresh_ns / 1_000_000);
        let new = self.path.with_extension("new");
        std::fs::write(&new, line).map_err(at(&new))?;
        std::fs::rename(&new, &self.path).map_err(at(&self.path))
    }
}
