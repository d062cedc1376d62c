//! What a control group's path says: container, pod, unit, Slurm job, virtual machine.
//!
//! The deepest component that names a container wins (containers in containers). `crio-conmon-` and `libpod-conmon-`
//! scopes hold a container's monitor, not the container.

/// What a path says. Everything is absent where the path does not say it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Container id, 64 hexadecimal digits.
    pub container_id: Option<String>,
    /// Runtime: `containerd`, `crio`, `docker`, `podman`, `unknown` (a container that does not say).
    pub runtime: Option<&'static str>,
    /// Kubernetes pod uid, with dashes where it is a UUID.
    pub pod_uid: Option<String>,
    /// Quality of service of the pod: `guaranteed`, `burstable`, `besteffort`.
    pub qos: Option<&'static str>,
    /// systemd unit, the deepest service or scope.
    pub unit: Option<String>,
    /// Slurm job and step.
    pub slurm: Option<(u64, String)>,
    /// Virtual machine of libvirt.
    pub vm: Option<String>,
}

/// Reads a path as the kernel gives it. Leading `/..` (another cgroup namespace) are skipped.
pub fn identify(path: &str) -> Identity {
    let mut identity = Identity::default();
    let mut under_docker = false;
    for component in path.split('/').filter(|component| !component.is_empty() && *component != "..") {
        if let Some((uid, qos)) = pod(component) {
            identity.pod_uid = Some(uid);
            // The cgroupfs driver puts the class into a folder of its own above the pod.
            identity.qos = qos.or(identity.qos.filter(|_| !component.contains(".slice"))).or(Some("guaranteed"));
        } else if matches!(component, "burstable" | "besteffort") {
            identity.qos = Some(if component == "burstable" { "burstable" } else { "besteffort" });
        }
        if let Some((id, runtime)) = container(component) {
            let bare = if under_docker { "docker" } else { "unknown" };
            identity.container_id = Some(id.to_owned());
            identity.runtime = Some(runtime.unwrap_or(bare));
        } else if component.ends_with(".service") || component.ends_with(".scope") {
            identity.unit = Some(component.to_owned());
        }
        under_docker = component == "docker";
        if let Some(vm) = virtual_machine(component) {
            identity.vm = Some(vm);
        }
    }
    if identity.pod_uid.is_none() {
        identity.qos = None;
    }
    identity.slurm = slurm(path);
    identity
}

/// Container id and runtime of one component.
fn container(component: &str) -> Option<(&str, Option<&'static str>)> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    // containerd without systemd: `<slice>:cri-containerd:<id>`.
    if let Some((rest, id)) = name.rsplit_once(':') {
        let runtime = rest.rsplit_once(':').map_or(rest, |(_, runtime)| runtime);
        return is_id(id).then(|| (id, runtime_of(runtime)));
    }
    match name.rsplit_once('-') {
        Some((prefix, _)) if prefix.ends_with("conmon") => None,
        Some((prefix, id)) if is_id(id) => Some((id, runtime_of(prefix))),
        _ => is_id(name).then_some((name, None)),
    }
}

fn runtime_of(prefix: &str) -> Option<&'static str> {
    match prefix {
        "cri-containerd" => Some("containerd"),
        "crio" => Some("crio"),
        "docker" => Some("docker"),
        "libpod" => Some("podman"),
        _ => None,
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Pod uid and class of one component: `pod<uid>` or `…kubepods[-class]-pod<uid>.slice[:…]`.
fn pod(component: &str) -> Option<(String, Option<&'static str>)> {
    let name = component.split(':').next().unwrap_or_default();
    let slice = name.strip_suffix(".slice");
    let (uid, class) = match slice {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            if !before.contains("kubepods") {
                return None;
            }
            let class = ["burstable", "besteffort"].into_iter().find(|class| before.ends_with(class));
            (uid, class)
        }
        None => (name.strip_prefix("pod")?, None),
    };
    let uid = uid.replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let is_uid = digits == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some((uid, class))
}

/// Job and step of a Slurm path: `…/job_211/step_batch/…`.
fn slurm(path: &str) -> Option<(u64, String)> {
    if !path.split('/').any(|component| component.starts_with("slurm") || component.ends_with("slurmstepd.scope")) {
        return None;
    }
    let job = path.split('/').find_map(|component| component.strip_prefix("job_")?.parse().ok())?;
    let step = path.split('/').find_map(|component| component.strip_prefix("step_"))?;
    Some((job, step.to_owned()))
}

/// Name of a libvirt machine: `machine-qemu\x2d3\x2dweb01.scope` is `web01`.
fn virtual_machine(component: &str) -> Option<String> {
    let name = unescape(component.strip_prefix("machine-")?.strip_suffix(".scope")?);
    let (number, name) = name.strip_prefix("qemu-")?.split_once('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.to_owned())
}

/// Undoes systemd's escapes (`\x2d`).
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.push_str(before);
        let code = after.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                plain.push_str("\\x");
                rest = after;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_through_another_cgroup_namespace() {
        let id = "b".repeat(64);
        let path = format!(
            "/../../kubepods-burstable-pod2fc932ce_fdcc_454b_97bd_aadfdeb4c340.slice/cri-containerd-{id}.scope"
        );
        let identity = identify(&path);
        assert_eq!(identity.pod_uid.as_deref(), Some("2fc932ce-fdcc-454b-97bd-aadfdeb4c340"));
        assert_eq!((identity.container_id, identity.runtime), (Some(id), Some("containerd")));
    }

    #[test]
    fn garbage_names_nothing() {
        assert_eq!(identify(&"pod/".repeat(16 * 1024)), Identity::default());
        assert_eq!(identify("/machine-qemu\\x2.scope").vm, None);
    }
}
