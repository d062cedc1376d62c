//! Identities of workloads.

use super::Key;
use super::cgroup::{Group, Identity};

/// Longest name of a group in an identity; of a longer one the end is kept, which tells most.
const MOST_ID_BYTES: usize = 480;

/// `process/<pid>@<start time in clock ticks>`.
pub(super) fn row_id(key: &Key) -> String {
    format!("process/{}@{}", key.0, key.1)
}

/// The process that an identity of a process row names.
pub(super) fn key_of(id: &str) -> Option<Key> {
    let (pid, start) = id.strip_prefix("process/")?.split_once('@')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// `container/<id>`, `unit/<name>` or `cgroup/<path>`.
pub(super) fn group_id(group: &Group) -> String {
    id_of_path(&group.path, &group.identity)
}

/// The same from the path and what it says.
pub(super) fn id_of_path(path: &str, identity: &Identity) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    if let Some(container) = &identity.container_id {
        return format!("container/{container}");
    }
    let is_unit = identity.unit.as_deref() == Some(last);
    // A unit of the system needs no path; those of users' managers exist once for each user.
    let name = match path.strip_prefix("/system.slice/").or_else(|| path.strip_prefix('/')) {
        Some(short) if !short.contains('/') && is_unit => short,
        _ => path.trim_start_matches('/'),
    };
    let mut cut = name.len().saturating_sub(MOST_ID_BYTES);
    while !name.is_char_boundary(cut) {
        cut += 1;
    }
    format!("{}/{}", if is_unit { "unit" } else { "cgroup" }, &name[cut..])
}
