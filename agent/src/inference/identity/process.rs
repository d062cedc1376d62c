//! What the process behind a target tells: command line, environment, mapped files, and the cache of weights that it sees.
//!
//! Command lines are readable by everyone; environment, mapped files and the process's root need its user, root or
//! CAP_SYS_PTRACE. What may not be read is said, so that "nothing is known" is not taken for "there is nothing".

use super::super::reader::NO_VERSION;
use super::super::socket::ProcessId;
use super::command::{Told, blob, commit, is_hex};
use crate::process::proc::open;
use joulebook_units::{ServiceRole, ServingConfiguration};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes read of one file of procfs.
const MOST_BYTES: u64 = 4 << 20;
/// So many processes above the one that listens are looked at.
const GENERATIONS: usize = 4;
/// Names of branches, which move: they are no version.
const BRANCHES: [&str; 2] = ["main", "master"];

/// What was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Version of the weights.
    pub version: Option<String>,
    /// What the version rests on where the weights are named by their content.
    pub fingerprint: Option<String>,
    /// The weights as the server was told.
    pub base: Option<String>,
    /// Commit of the weights.
    pub revision: Option<String>,
    /// Set-up.
    pub configuration: ServingConfiguration,
    /// Part of the work.
    pub role: Option<ServiceRole>,
    /// The service group.
    pub group: Option<String>,
    /// Whether something that could have told may not be read.
    pub is_denied: bool,
}

/// Looks at a process and at what started it, as long as those share its control group.
pub fn look(procfs: &Path, process: ProcessId) -> ProcessFacts {
    let mut facts = ProcessFacts::default();
    let mut told = Told::default();
    let mut environment = BTreeMap::new();
    let group = small(&procfs.join(process.pid.to_string()).join("cgroup")).ok();
    let mut pid = Some(process.pid);
    for _ in 0..=GENERATIONS {
        let Some(one) = pid.filter(|pid| *pid > 1) else { break };
        let folder = procfs.join(one.to_string());
        if small(&folder.join("cgroup")).ok() != group {
            break;
        }
        told = told.or(small(&folder.join("cmdline")).map_or_else(|_| Told::default(), |line| Told::by_command(&line)));
        if told.weights.is_some() {
            break;
        }
        pid = parent(&folder);
    }
    let folder = procfs.join(process.pid.to_string());
    match small(&folder.join("environ")) {
        Ok(bytes) => {
            let (more, all) = Told::by_environment(&bytes);
            (told, environment) = (told.or(more), all);
        }
        Err(error) => facts.is_denied |= error.kind() == io::ErrorKind::PermissionDenied,
    }
    let mapped = match small(&folder.join("maps")) {
        Ok(maps) => mapped_commit(&String::from_utf8_lossy(&maps)),
        Err(error) => {
            facts.is_denied |= error.kind() == io::ErrorKind::PermissionDenied;
            None
        }
    };
    facts.resolve(told, mapped, |repository, name| {
        hub_folders(&environment).into_iter().find_map(|hub| reference(&folder, &hub, repository, name))
    });
    facts
}

impl ProcessFacts {
    /// Finds the version: the revision that was asked for, the commit or digest in the path of the weights, a version by
    /// another name, the commit of a mapped file, the commit that the cache holds for the repository. `cached` gives the
    /// commit of a repository's branch or tag.
    fn resolve(&mut self, told: Told, mapped: Option<String>, cached: impl Fn(&str, &str) -> Option<String>) {
        self.group = told.group();
        let weights = told.weights.as_deref().unwrap_or_default();
        let repository = Some(weights).filter(|weights| is_repository(weights));
        let asked = told.revision.as_deref();
        let commit_of = |name: &str| repository.and_then(|repository| cached(repository, name));
        let revision = asked
            .filter(|asked| is_hex(asked, 40))
            .map(str::to_owned)
            .or_else(|| asked.and_then(commit_of))
            .or_else(|| commit(weights).map(str::to_owned));
        let by_name = asked.filter(|asked| !BRANCHES.contains(asked)).map(str::to_owned).or(told.version);
        let by_name = by_name.filter(|name| !NO_VERSION.contains(&name.as_str()));
        let digest = blob(weights).map(str::to_owned);
        let short = |digest: &String| format!("sha256:{}", digest.chars().take(12).collect::<String>());
        let found = revision.clone().or_else(|| digest.as_ref().map(short)).or(by_name);
        let later = || mapped.or_else(|| asked.is_none().then(|| commit_of(BRANCHES[0])).flatten());
        self.revision = revision.or_else(|| if found.is_none() { later() } else { None });
        self.version = found.or_else(|| self.revision.clone());
        let by_commit = self.revision.as_ref().map(|commit| format!("hf:{commit}"));
        self.fingerprint = digest.map(|digest| format!("sha256:{digest}")).or(by_commit);
        self.base = told.weights;
        self.configuration = told.configuration;
        self.role = told.role;
    }
}

fn small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parent(folder: &Path) -> Option<i32> {
    let stat = small(&folder.join("stat")).ok()?;
    crate::process::proc::parse_stat(&String::from_utf8_lossy(&stat)).map(|process| process.parent)
}

/// `org/name` on the hub: neither a path nor a file.
fn is_repository(weights: &str) -> bool {
    let plain = |part: &str| {
        let bytes = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        !part.is_empty() && bytes && part != "." && part != ".."
    };
    weights.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name))
}

/// The commit of the files that are mapped from a cache of the hub, if there is only one.
fn mapped_commit(maps: &str) -> Option<String> {
    let paths = maps.lines().filter_map(|line| line.find('/').and_then(|start| line.get(start..)));
    let snapshots = paths.filter(|path| path.contains("/snapshots/")).filter_map(commit);
    let mut commits: Vec<&str> = snapshots.collect();
    commits.sort_unstable();
    commits.dedup();
    match commits.as_slice() {
        [one] => Some((*one).to_owned()),
        _ => None,
    }
}

/// Where the process keeps its cache of the hub.
fn hub_folders(environment: &BTreeMap<String, String>) -> Vec<String> {
    let of = |name: &str, below: &str| environment.get(name).map(|folder| format!("{folder}{below}"));
    let known = [
        of("HF_HUB_CACHE", ""),
        of("HUGGINGFACE_HUB_CACHE", ""),
        of("HF_HOME", "/hub"),
        of("XDG_CACHE_HOME", "/huggingface/hub"),
        of("HOME", "/.cache/huggingface/hub"),
    ];
    known.into_iter().flatten().filter(|folder| folder.starts_with('/') && !folder.contains("/../")).collect()
}

/// The commit that a cache holds for a branch or tag of a repository.
fn reference(folder: &Path, hub: &str, repository: &str, name: &str) -> Option<String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) && name != "..";
    if !is_plain || name.is_empty() {
        return None;
    }
    let below = format!("models--{}/refs/{name}", repository.replace('/', "--"));
    let path = folder.join("root").join(hub.trim_start_matches('/')).join(below);
    let mut text = String::new();
    open(&path).ok()?.take(64).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned()).filter(|commit| is_hex(commit, 40))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

    /// A process 7, started by 6, whose root is a folder with a cache of the hub that holds `main` of org/chat.
    fn process(cmdline: &str, parent: &str, environ: &str, maps: &str) -> (tempfile::TempDir, ProcessFacts) {
        let root = tempfile::tempdir().expect("folder");
        let refs = root.path().join("image/cache/hub/models--org--chat/refs");
        fs::create_dir_all(&refs).expect("folder");
        fs::write(refs.join("main"), COMMIT).expect("written");
        fs::write(refs.join("v2"), OTHER).expect("written");
        for (pid, above, line) in [(7, 6, cmdline), (6, 1, parent)] {
            let folder = root.path().join(pid.to_string());
            fs::create_dir(&folder).expect("folder");
            let stat = format!("{pid} (python) S {above} 1 1 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 9 4096 7");
            for (name, text) in [
                ("stat", stat.as_str()),
                ("cgroup", "0::/a\n"),
                ("cmdline", &line.replace(' ', "\0")),
                ("environ", &environ.replace(' ', "\0")),
                ("maps", maps),
            ] {
                fs::write(folder.join(name), text).expect("written");
            }
            symlink(root.path().join("image"), folder.join("root")).expect("root");
        }
        let facts = look(root.path(), ProcessId { pid: 7, start_ticks: 9 });
        (root, facts)
    }

    fn version(cmdline: &str, environ: &str, maps: &str) -> (Option<String>, Option<String>) {
        let (_root, facts) = process(cmdline, "sh", environ, maps);
        (facts.version, facts.fingerprint)
    }

    fn known(version: &str, fingerprint: &str) -> (Option<String>, Option<String>) {
        (Some(version.to_owned()), Some(fingerprint.to_owned()))
    }

    #[test]
    fn the_revision_in_use_is_found_first_where_it_was_asked_for_and_last_in_the_cache() {
        let home = "HF_HOME=/cache HOME=/home/u";
        let (hf, other) = (format!("hf:{COMMIT}"), format!("hf:{OTHER}"));
        let asked = format!("vllm serve org/chat --revision {OTHER}");
        assert_eq!(version(&asked, home, ""), known(OTHER, &other));
        assert_eq!(version("vllm serve org/chat --revision v2", home, ""), known(OTHER, &other), "a tag, by the cache");
        assert_eq!(version("vllm serve org/new --revision v9", home, ""), (Some("v9".into()), None), "a tag alone");
        assert_eq!(version("vllm serve org/new --revision main", home, ""), (None, None), "a branch is no version");
        let path = format!("server --model-path /x/models--o--m/snapshots/{COMMIT}/");
        assert_eq!(version(&path, home, ""), known(COMMIT, &hf));
        assert_eq!(version("vllm serve org/chat", "HF_HOME=/cache MODEL_VERSION=3", ""), (Some("3".into()), None));
        let maps = format!("7f00-7f01 r--p 0 fe:00 7   /x/models--org--chat/snapshots/{OTHER}/model.safetensors\n");
        assert_eq!(
            version("vllm serve org/chat", home, &maps),
            known(OTHER, &other),
            "what is mapped is what is served"
        );
        assert_eq!(version("vllm serve org/chat", home, ""), known(COMMIT, &hf), "the cache's main");
        let digest = "ab".repeat(32);
        let blob = format!("ollama runner --model /models/ollama/blobs/sha256-{digest}");
        assert_eq!(version(&blob, home, ""), known("sha256:abababababab", &format!("sha256:{digest}")));
        assert_eq!(version("python app.py", home, ""), (None, None));
    }

    #[test]
    fn what_started_the_process_tells_where_it_does_not() {
        let (_root, facts) = process("multiprocessing-spawn", "vllm serve org/chat --max-num-seqs 8", "", "");
        assert_eq!((facts.base.as_deref(), facts.configuration.max_batch), (Some("org/chat"), Some(8)));
        assert!(!facts.is_denied);
    }

    #[test]
    fn a_name_from_a_command_line_leads_nowhere_but_to_the_cache() {
        let (root, _) = process("server", "sh", "", "");
        let folder = root.path().join("7");
        for (hub, repository, name) in [
            ("/cache/hub", "org/chat", "../refs/main"),
            ("/cache/hub", "org/chat", ""),
            ("/cache/hub", "org/chat", "no"),
        ] {
            assert_eq!(reference(&folder, hub, repository, name), None, "{name}");
        }
        assert_eq!(reference(&folder, "/cache/hub", "org/chat", "main").as_deref(), Some(COMMIT));
        for path in ["../etc/x", "/models/x", "a/b/c", "plain", "org/..", "./x"] {
            assert!(!is_repository(path), "{path}");
        }
    }
}
