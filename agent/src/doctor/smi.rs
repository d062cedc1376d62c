//! What `nvidia-smi` shows, for people who trust what they know.

use serde::Serialize;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::collector::nvml::library::now;

/// Longest time for its answer: the driver may hold it up for ever.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most of its answer that is read: 64 GPUs need 4 KiB.
const MOST_BYTES: u64 = 64 << 10;

/// A GPU as it shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpu {
    /// UUID.
    pub uuid: String,
    /// Power in W; null where it shows none (`[N/A]`).
    pub w: Option<f64>,
}

/// Asks the program. `None` if it is not there, fails, or does not answer in 10 s.
pub fn gpus(program: &Path) -> Option<Vec<Gpu>> {
    let mut command = Command::new(program);
    command.args(["--query-gpu=uuid,power.draw", "--format=csv,noheader,nounits"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let begin = now();
    while child.try_wait().ok()?.is_none() {
        if now().saturating_sub(begin) > u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX) {
            give_up(child);
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let mut text = String::new();
    let succeeded = child.wait().is_ok_and(|status| status.success());
    child.stdout.take()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    succeeded.then(|| parse(&text))
}

fn give_up(mut child: Child) {
    // A call that is stuck in the kernel outlives the signal: it is not waited for.
    let _ = child.kill();
    let _ = child.try_wait();
}

fn parse(text: &str) -> Vec<Gpu> {
    let lines = text.lines().filter_map(|line| line.split_once(','));
    lines.map(|(uuid, watts)| Gpu { uuid: uuid.trim().to_owned(), w: watts.trim().parse().ok() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(folder: &Path, text: &str) -> std::path::PathBuf {
        let path = folder.join("nvidia-smi");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    #[test]
    fn watts_are_taken_and_what_is_none_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let program = script(folder.path(), "#!/bin/sh\nprintf 'GPU-a, 69.50\\nGPU-b, [N/A]\\nnonsense\\n'\n");
        let gpu = |uuid: &str, w| Gpu { uuid: uuid.to_owned(), w };
        assert_eq!(gpus(&program), Some(vec![gpu("GPU-a", Some(69.5)), gpu("GPU-b", None)]));
        assert_eq!(gpus(&script(folder.path(), "#!/bin/sh\nexit 9\n")), None);
        assert_eq!(gpus(&folder.path().join("absent")), None);
    }
}
