//! What a kubelet does for a container, as far as mounts, users and capabilities go.
//!
//! Paths of the node (hostPath) lie below `node`, but for /proc and the control groups, which are the machine's own. A container
//! has namespaces of its own for mounts and processes, and shares the network of the rig.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use joulebook_tests::chart::pod::{Pod, text};
use joulebook_tests::chart::render::find;
use joulebook_tests::program::Program;
use serde_json::Value;

use crate::image::{Image, Images};

/// Mounts what its arguments say, closes the image's tree, and becomes the program. Arguments: the tree, then for each mount
/// source, target and `ro` or `rw`, then `--` and the command. What drops privileges lies in /rig with its own libraries.
const RUN: &str = r#"
set -e
tree=$1; shift
mount --make-rprivate /
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount -t tmpfs dev "$tree/dev"
for device in null zero random urandom; do
  touch "$tree/dev/$device"
  mount --bind "/dev/$device" "$tree/dev/$device"
done
while [ "$1" != -- ]; do
  mount --rbind "$1" "$tree$2"
  if [ "$3" = ro ]; then
    # As recursiveReadOnly does: what is mounted below as well.
    findmnt -rno TARGET -R "$tree$2" | while read -r below; do mount -o remount,bind,ro "$below"; done
  fi
  shift 3
done
shift
mount -o remount,bind,ro "$tree"
exec chroot "$tree" /rig/ld.so --library-path /rig /rig/setpriv "$@"
"#;

/// The miniature.
pub struct Kubelet<'a> {
    folder: PathBuf,
    node: &'a str,
    objects: &'a [Value],
    images: &'a Images,
}

impl<'a> Kubelet<'a> {
    /// One for a node, below a folder.
    pub fn new(folder: &Path, node: &'a str, objects: &'a [Value], images: &'a Images) -> Self {
        Self { folder: folder.to_owned(), node, objects, images }
    }

    /// Where a volume of the pod that is nobody else's lies.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes").join(name)
    }

    /// A file of a secret.
    pub fn keep_secret(&self, secret: &str, key: &str, content: &[u8]) {
        let folder = self.folder.join("secrets").join(secret);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(key), content).unwrap();
    }

    /// The folder behind a volume, with owner and modes as a kubelet sets them.
    fn source(&self, pod: &Pod<'_>, name: &str, volume: &Value) -> PathBuf {
        let group = pod.spec["securityContext"]["fsGroup"].as_u64().map(|group| u32::try_from(group).unwrap());
        let mode = |of: &Value, default: u64| u32::try_from(of["defaultMode"].as_u64().unwrap_or(default)).unwrap();
        let own = self.volume(&format!("{}-{name}", pod.component));
        let (kind, of) = volume.as_object().unwrap().iter().next().unwrap();
        let files: Vec<(String, Vec<u8>)> = match kind.as_str() {
            "hostPath" => {
                let path = text(&of["path"]);
                if ["/proc", "/sys/fs/cgroup"].contains(&path.as_str()) {
                    return path.into();
                }
                let path = self.folder.join("node").join(path.trim_start_matches('/'));
                if of["type"] == "DirectoryOrCreate" {
                    fs::create_dir_all(&path).unwrap();
                }
                return path;
            }
            "configMap" => {
                let data = &find(self.objects, "ConfigMap", of["name"].as_str().unwrap())["data"];
                data.as_object()
                    .unwrap()
                    .iter()
                    .map(|(key, content)| (key.clone(), text(content).into_bytes()))
                    .collect()
            }
            "secret" => {
                let folder = self.folder.join("secrets").join(text(&of["secretName"]));
                let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
                entries
                    .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
                    .collect()
            }
            "emptyDir" | "persistentVolumeClaim" => {
                // A job's volume is looked at from outside under its own name.
                let path = if pod.component == "bootstrap" { self.volume(name) } else { own };
                fs::create_dir_all(&path).unwrap();
                chown(&path, Some(0), group).unwrap();
                let open = if kind == "emptyDir" { 0o777 } else { 0o2775 };
                fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
                return path;
            }
            other => panic!("{other} is no kind that this miniature knows"),
        };
        fs::create_dir_all(&own).unwrap();
        for (key, content) in files {
            let path = own.join(key);
            fs::write(&path, content).unwrap();
            chown(&path, Some(0), group).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode(of, 0o644))).unwrap();
        }
        own
    }

    /// Puts what drops privileges beside the image's files, and the hosts file that a kubelet writes.
    fn furnish(&self, image: &Image) {
        let rig = image.tree.join("rig");
        if rig.exists() {
            return;
        }
        fs::create_dir(&rig).unwrap();
        let listed = Command::new("ldd").arg(which("setpriv")).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let paths: Vec<&str> = listed.split_whitespace().filter(|word| word.starts_with('/')).collect();
        for path in paths {
            let name = if path.contains("ld-linux") { "ld.so" } else { path.rsplit('/').next().unwrap() };
            fs::copy(path, rig.join(name)).unwrap();
        }
        fs::copy(which("setpriv"), rig.join("setpriv")).unwrap();
        let host = "127.0.0.1 localhost joulebook-aggregator.joulebook.svc\n";
        fs::write(image.tree.join("etc/hosts"), host).unwrap();
    }

    /// Starts a container of a pod; `words` stand in for its last arguments, behind the flags, if there are any.
    pub fn start(&self, pod: &Pod<'_>, container: &Value, words: &[&str]) -> Result<Program> {
        let image = self.images.of(container);
        self.furnish(image);
        let volumes = pod.volumes();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", RUN, "sh"]).arg(&image.tree);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for mount in container["volumeMounts"].as_array().unwrap() {
            let (name, at) = (text(&mount["name"]), text(&mount["mountPath"]));
            fs::create_dir_all(image.tree.join(at.trim_start_matches('/')))?;
            let how = if mount["readOnly"] == true { "ro" } else { "rw" };
            command.arg(self.source(pod, &name, &volumes[&name])).arg(at).arg(how);
        }
        command.arg("--").args(privileges(pod, container));
        for variable in container["env"].as_array().into_iter().flatten() {
            command.env(text(&variable["name"]), variable["value"].as_str().unwrap_or(self.node));
        }
        let program = container["command"].as_array().map(|words| words.iter().map(text).collect());
        command.args(program.unwrap_or_else(|| image.entrypoint.clone()));
        let args = container["args"].as_array().unwrap().iter().map(text);
        let args = args.filter(|arg| words.is_empty() || arg.starts_with("--"));
        command.args(args.map(|arg| arg.replace("$(NODE_NAME)", self.node))).args(words);
        Program::spawn(command)
    }

    /// The process of a container, as the machine counts.
    pub fn process_of(&self, program: &Program) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", program.pid());
        fs::read_to_string(children).unwrap().trim().parse().expect("one child, the first process of the container")
    }
}

/// The options of setpriv for what a pod and a container say of user, groups and privileges.
fn privileges(pod: &Pod<'_>, container: &Value) -> Vec<OsString> {
    let (of_pod, own) = (&pod.spec["securityContext"], &container["securityContext"]);
    assert_eq!(own["capabilities"], serde_json::json!({"drop": ["ALL"]}));
    assert_eq!((&own["privileged"], &own["readOnlyRootFilesystem"]), (&false.into(), &true.into()));
    let id = |key: &str| own[key].as_u64().or(of_pod[key].as_u64()).expect("a user and a group");
    let mut options = vec![format!("--reuid={}", id("runAsUser")), format!("--regid={}", id("runAsGroup"))];
    options.push(of_pod["fsGroup"].as_u64().map_or("--clear-groups".to_owned(), |group| format!("--groups={group}")));
    options.extend(["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"].map(str::to_owned));
    if own["allowPrivilegeEscalation"] == false {
        options.push("--no-new-privs".to_owned());
    }
    options.into_iter().map(OsString::from).collect()
}

fn which(program: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not on the path"))
}
