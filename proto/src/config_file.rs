//! When a running daemon reads its configuration file again: somebody asks (SIGHUP), or the file's content changed.
//!
//! Content is compared, so that a file that is replaced, a link that is turned and a mounted volume that is swapped are all
//! seen. Nobody says when a file is written to its end, and half of one may be a valid configuration: a change counts once
//! two looks in a row found the same. Whoever asks is believed to be done.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

/// Changes of a configuration that were refused: the one before stays in force.
pub const RELOAD_FAILURES: &str = "config_reload_failures_total";
/// Changes of a configuration that were taken over.
pub const RELOADS: &str = "config_reloads_total";
/// Time between two looks at the file.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Whether anybody but the owner and the group may write the file: what it says is then nobody's decision.
///
/// # Errors
/// The file cannot be looked at.
pub fn is_writable_by_others(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.mode() & 0o002 != 0)
}

/// A configuration file that is watched, and the signal that asks for it.
#[derive(Debug)]
pub struct ConfigFile {
    path: Option<PathBuf>,
    looks: Interval,
    hangups: Signal,
    /// Content that was told of last; none if there was none to read.
    told: Option<Vec<u8>>,
    /// Content of the look before, if it was another.
    changing: Option<Option<Vec<u8>>>,
}

impl ConfigFile {
    /// Watches `path`, which was read just before, from now on. Without one only the signal is waited for, which would
    /// end the process otherwise. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The signal cannot be had.
    pub fn watch(path: Option<PathBuf>, every: Duration) -> io::Result<Self> {
        let mut looks = interval_at(tokio::time::Instant::now() + every, every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let told = path.as_deref().and_then(|path| std::fs::read(path).ok());
        Ok(Self { path, looks, hangups: signal(SignalKind::hangup())?, told, changing: None })
    }

    /// Waits until the file is to be read again. What is found there, good or not, is told of once.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                asked = self.hangups.recv() => {
                    if asked.is_none() {
                        // The runtime ends.
                        std::future::pending::<()>().await;
                    }
                    self.told = self.content();
                    self.changing = None;
                    return;
                }
                _ = self.looks.tick() => {
                    if self.has_changed() {
                        return;
                    }
                }
            }
        }
    }

    fn has_changed(&mut self) -> bool {
        let found = self.content();
        if found == self.told {
            self.changing = None;
            return false;
        }
        let settled = self.changing.as_ref() == Some(&found);
        if settled {
            self.told = found;
            self.changing = None;
        } else {
            self.changing = Some(found);
        }
        settled
    }

    fn content(&self) -> Option<Vec<u8>> {
        self.path.as_deref().and_then(|path| std::fs::read(path).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looking() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn a_change_is_told_once_it_is_the_same_at_two_looks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "a = 1").expect("written");
        looking().block_on(async {
            let mut file = ConfigFile::watch(Some(path.clone()), LOOK_EVERY).expect("watched");
            assert!(!file.has_changed());
            std::fs::write(&path, "").expect("written");
            assert!(!file.has_changed(), "it may be half written");
            std::fs::write(&path, "a = 2").expect("written");
            assert!(!file.has_changed());
            assert!(file.has_changed());
            assert!(!file.has_changed(), "told once");
            std::fs::remove_file(&path).expect("removed");
            assert!(!file.has_changed());
            assert!(file.has_changed());
            assert!(!file.has_changed());
            std::fs::write(&path, "a = 3").expect("written");
            assert!(!file.has_changed());
            std::fs::write(&path, "a = 3").expect("written");
            assert!(file.has_changed());
        });
    }
}
