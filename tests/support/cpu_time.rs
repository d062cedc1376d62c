//! CPU time as the kernel counts it, read beside Joulebook and without its code.

use std::fs;

use anyhow::{Context, Result};

/// CPU time of a process with all its threads, in clock ticks: utime + stime of `/proc/PID/stat`.
pub fn process_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let line = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    ticks_of(&line).with_context(|| format!("{path} reads {line:?}"))
}

/// utime + stime of a stat line; the name may hold spaces and brackets, so fields count from the last bracket.
fn ticks_of(line: &str) -> Option<u64> {
    let (_, fields) = line.rsplit_once(')')?;
    // Fields 14 and 15 of the line; the first after the bracket is field 3.
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 99 0 0";
        assert_eq!(ticks_of(line), Some(42));
        assert_eq!(ticks_of("7 (a"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(process_ticks(std::process::id()).is_ok());
    }
}
