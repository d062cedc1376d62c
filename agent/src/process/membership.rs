//! In which control group a process runs: what `/proc/<pid>/cgroup` says, read again now and then.

use super::proc::{parse_cgroup, read_bytes};
use std::path::{Path, PathBuf};

/// Looks after which the file is read again: processes are moved when containers start.
const AGE: u32 = 16;

/// What is known of one process.
#[derive(Debug, Clone, Default)]
pub(super) struct Membership {
    path: Option<String>,
    age: u32,
}

impl Membership {
    /// Path of the group. `None` if nobody knows it: the process has ended before its file was read, or the file names no
    /// group; then it is put down among the `refused` ones. Such a process must not be taken for one of the root group,
    /// since another group may count its time already. The second value tells whether the file was read just now.
    pub(super) fn look(&mut self, procfs: &Path, pid: i32, refused: &mut Vec<PathBuf>) -> Option<(&str, bool)> {
        let due = self.age == 0;
        if due {
            let file = procfs.join(pid.to_string()).join("cgroup");
            if let Some(bytes) = read_bytes(&file) {
                self.path = std::str::from_utf8(&bytes).ok().and_then(parse_cgroup).map(str::to_owned);
                if self.path.is_none() {
                    refused.push(file);
                }
            }
        }
        if self.path.is_some() {
            self.age = (self.age + 1) % AGE;
        }
        Some((self.path.as_deref()?, due))
    }

    /// The process seems to run elsewhere: the file is read again at the next look.
    pub(super) fn doubt(&mut self) {
        self.age = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_group_is_read_again_now_and_then_and_kept_when_its_process_has_ended() {
        let procfs = tempfile::tempdir().expect("folder");
        let file = procfs.path().join("7/cgroup");
        fs::create_dir(procfs.path().join("7")).expect("folder");
        fs::write(&file, "0::/a\n").expect("file");
        let (mut membership, mut refused) = (Membership::default(), Vec::new());
        let mut look = || membership.look(procfs.path(), 7, &mut refused).map(|(path, _)| path.to_owned());
        assert_eq!(look().as_deref(), Some("/a"));
        fs::write(&file, "0::/b\n").expect("file");
        let later: Vec<_> = (1..=AGE).map(|_| look().expect("known")).collect();
        assert_eq!(later.iter().position(|path| path == "/b"), Some(AGE as usize - 1));
        fs::remove_file(&file).expect("removed");
        assert!((0..2 * AGE).all(|_| look().as_deref() == Some("/b")));
        assert!(refused.is_empty());
    }

    #[test]
    fn a_file_that_is_no_text_is_refused_at_every_look() {
        let procfs = tempfile::tempdir().expect("folder");
        let file = procfs.path().join("7/cgroup");
        fs::create_dir(procfs.path().join("7")).expect("folder");
        fs::write(&file, b"0::/a\xff\n").expect("file");
        let (mut membership, mut refused) = (Membership::default(), Vec::new());
        assert_eq!(membership.look(procfs.path(), 7, &mut refused), None);
        assert_eq!(membership.look(procfs.path(), 7, &mut refused), None);
        assert_eq!(refused, [file.clone(), file]);
    }
}
