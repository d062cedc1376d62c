//! Which model and version a target serves. First hit wins, and the answer says which rule it was:
//! configuration → label of the page → the mapping's static name → the engine's own endpoints → the weights file that
//! the process maps. A word of an endpoint that is no version ("default") is as good as none.
//!
//! The version of a weights file counts as told by the *process* when the file is one that the process maps, and by the
//! *engine* when only the engine names its path (`--no-mmap`). A file on disk that is no longer the mapped one is not
//! read: a wrong version is worse than none.

use super::fetch::{Connection, FetchError};
use super::gguf::{self, Header};
use super::preset::{Hook, Hooks, Method, WeightsFormat};
use super::reader::{NO_VERSION, PageIdentity, PageVersion};
use super::socket::ProcessId;
use super::target::Target;
use joulebook_units::{Service, VersionSource};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most bytes of an answer of an engine's endpoint.
const MAX_ANSWER: usize = 1 << 20;
/// Most bytes of a name from an engine.
const MAX_NAME: usize = 1024;
/// For more models of a page the engine is not asked: the client may choose the label.
const MAX_MODELS: usize = 32;

/// What is known of the weights behind a target, apart from its page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Name the engine's endpoint gives.
    pub model: Option<String>,
    /// Version that the engine gives for whatever it serves.
    pub version: Option<String>,
    /// Versions that the engine gives by the page's names of models.
    pub versions: BTreeMap<String, String>,
    /// Tokenizer that the engine names.
    pub tokenizer: Option<String>,
    /// Header of the weights file, and which rule found the file.
    pub weights: Option<(Header, VersionSource)>,
}

impl Served {
    /// The service of a page's series; `adapters`: the page counts adapters in their base.
    pub fn service(&self, target: &Target, page: &PageIdentity, adapters: bool) -> Service {
        let header = self.weights.as_ref().map(|(header, _)| header);
        let from_weights = self.weights.as_ref().and_then(|(header, source)| Some((header.version.clone()?, *source)));
        let told = page.model.as_ref().and_then(|model| self.versions.get(model)).or(self.version.as_ref());
        let found = told.map(|version| (version.clone(), VersionSource::EngineApi)).or(from_weights);
        let (version, version_source) = match (&target.version, &page.version, &target.fixed.version, found) {
            (Some(version), _, _, _) => (Some(version.clone()), VersionSource::Config),
            (None, PageVersion::Label(version), _, _) => (Some(version.clone()), VersionSource::Label),
            (None, _, Some(version), _) => (Some(version.clone()), VersionSource::Config),
            (None, _, None, Some((version, source))) => (Some(version), source),
            (None, PageVersion::Denied, None, None) => (None, VersionSource::DenyList),
            (None, PageVersion::Untold, None, None) => (None, VersionSource::Unresolved),
        };
        let named = target.model.as_ref().or(page.model.as_ref()).or(target.fixed.model.as_ref());
        let named = named.or(self.model.as_ref());
        Service {
            model: named.or(header.and_then(|header| header.name.as_ref())).cloned(),
            version,
            version_source,
            fingerprint: header.map(|header| header.fingerprint.clone()),
            adapter: adapters.then(|| "*".to_owned()),
            engine: target.preset.id.clone(),
            target: target.name.clone(),
            workload: None,
            tokenizer: target.tokenizer.as_ref().or(self.tokenizer.as_ref()).cloned(),
            serving: joulebook_units::Serving::default(),
        }
    }
}

/// Asks the engine and looks at the process. `models` are those of the page whose version no label tells. The caller
/// limits the time.
///
/// # Errors
/// The engine could not be asked now. An engine that answers, but not with what was asked for, is no error: the next
/// rule applies.
pub async fn resolve(
    target: &Target,
    procfs: &Path,
    process: Option<ProcessId>,
    models: &BTreeSet<String>,
) -> Result<Served, FetchError> {
    let hooks = &target.preset.identity;
    let mut asked = Asked::default();
    let model = asked.first(target, &hooks.model, None).await?;
    let told_path = asked.first(target, &hooks.weights_path, None).await?;
    let tokenizer = asked.first(target, &hooks.tokenizer, None).await?;
    let is_version = |word: &String| !NO_VERSION.contains(&word.as_str());
    let (mut version, mut versions) = (None, BTreeMap::new());
    // What is configured wins anyway: then nobody needs to be asked.
    if target.version.is_none() {
        version = asked.first(target, &hooks.version, None).await?.filter(is_version);
        for model in models.iter().take(MAX_MODELS) {
            let told = asked.first(target, &hooks.version, Some(model)).await?.filter(is_version);
            versions.extend(told.map(|version| (model.clone(), version)));
        }
    }
    let weights = match (hooks.weights, process) {
        (Some(WeightsFormat::Gguf), Some(process)) => {
            let (procfs, name) = (procfs.to_owned(), target.name.clone());
            let found = tokio::task::spawn_blocking(move || weights(&procfs, process, told_path.as_deref())).await;
            match found {
                Ok(Ok(found)) => Some(found),
                Ok(Err(why)) => {
                    tracing::info!(target_url = %name, pid = process.pid, %why, "the weights file was not read; the next rule decides the version");
                    None
                }
                Err(_) => None,
            }
        }
        _ => None,
    };
    Ok(Served { model, version, versions, tokenizer, weights })
}

/// Answers of one resolution: what several questions ask for is fetched once.
#[derive(Default)]
struct Asked(BTreeMap<(Option<u16>, bool, String), Option<serde_json::Value>>);

impl Asked {
    /// The answer to the first of these questions that has one. With a model only those that are put for each model,
    /// without one only the others.
    async fn first(
        &mut self,
        target: &Target,
        hooks: &Hooks,
        model: Option<&String>,
    ) -> Result<Option<String>, FetchError> {
        let model = model.map(String::as_str);
        for hook in hooks.0.iter().filter(|hook| hook.is_of_model() == model.is_some()) {
            let key = (hook.port, hook.method == Method::Post, hook.path(model));
            if !self.0.contains_key(&key) {
                let json = ask(target, hook, &key.2).await?;
                self.0.insert(key.clone(), json);
            }
            let text = self.0.get(&key).and_then(Option::as_ref).and_then(|json| hook.answer(json, model));
            let usable = |text: &str| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
            if let Some(text) = text.as_deref().map(str::trim).filter(|text| usable(text)) {
                return Ok(Some(text.to_owned()));
            }
        }
        Ok(None)
    }
}

/// What the engine sends at a path; `None` if it does not have it.
async fn ask(target: &Target, hook: &Hook, path: &str) -> Result<Option<serde_json::Value>, FetchError> {
    let (host, port) = target.endpoint(hook.port);
    let elsewhere = (host, port) != (target.host.as_str(), target.port);
    let connection = match Connection::open(host, port).await {
        Ok(connection) => connection,
        // The page is there, so the engine runs: it does not offer this port, or not to us.
        Err(FetchError::Connect { .. }) if elsewhere => return Ok(None),
        Err(error) => return Err(error),
    };
    let answer = match hook.method {
        Method::Get => connection.get(path, MAX_ANSWER).await,
        Method::Post => connection.post(path, MAX_ANSWER).await,
    };
    match answer {
        Ok(answer) => Ok(serde_json::from_slice(&answer).ok()),
        // It answered: the endpoint is absent, protected or something else. Server errors pass.
        Err(FetchError::Status { status, .. }) if !status.is_server_error() => Ok(None),
        Err(FetchError::Form { .. } | FetchError::TooLarge { .. }) => Ok(None),
        // Another port may be another service altogether.
        Err(FetchError::Http { .. }) if elsewhere => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why no weights file was read.
#[derive(Debug, thiserror::Error)]
enum WeightsError {
    #[error("reading {path} failed: {source}; it needs the server's user, root or CAP_SYS_PTRACE")]
    Maps { path: String, source: std::io::Error },
    #[error("the process maps no .gguf file and the engine names none")]
    None,
    #[error("the process maps {0} .gguf files and the engine does not tell which one it serves")]
    Several(usize),
    #[error("opening {path} failed: {source}")]
    Open { path: String, source: std::io::Error },
    #[error("{0} on disk is not the file that the process maps")]
    Replaced(String),
    #[error("{path}: {source}")]
    Header { path: String, source: gguf::GgufError },
}

/// A mapped file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mapped {
    path: String,
    inode: u64,
}

fn weights(procfs: &Path, process: ProcessId, told: Option<&str>) -> Result<(Header, VersionSource), WeightsError> {
    let folder = procfs.join(process.pid.to_string());
    let (path, inode, source) = match (mapped(&folder), told) {
        (Ok(files), told) => match choose(&files, told) {
            Ok(file) => (file.path.clone(), Some(file.inode), VersionSource::Process),
            Err(WeightsError::None) => (told.ok_or(WeightsError::None)?.to_owned(), None, VersionSource::EngineApi),
            Err(error) => return Err(error),
        },
        (Err(_), Some(told)) => (told.to_owned(), None, VersionSource::EngineApi),
        (Err(error), None) => return Err(error),
    };
    let file = open(&folder, &path, inode)?;
    let header = gguf::read(file).map_err(|source| WeightsError::Header { path, source })?;
    Ok((header, source))
}

/// The .gguf files in `maps`, each once.
fn mapped(folder: &Path) -> Result<Vec<Mapped>, WeightsError> {
    let path = folder.join("maps");
    let maps = fs::read(&path).map_err(|source| WeightsError::Maps { path: path.display().to_string(), source })?;
    let mut files: Vec<_> = String::from_utf8_lossy(&maps).lines().filter_map(mapped_file).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// `address perms offset device inode path`, the path being the rest of the line.
fn mapped_file(line: &str) -> Option<Mapped> {
    let mut rest = line;
    let mut inode = "";
    for _ in 0..5 {
        let (field, after) = rest.split_once(' ')?;
        inode = field;
        rest = after.trim_start_matches(' ');
    }
    let whole = rest.strip_suffix(" (deleted)").unwrap_or(rest);
    let is_gguf = whole.to_ascii_lowercase().ends_with(".gguf") || whole.contains("/blobs/sha256-");
    is_gguf.then_some(())?;
    Some(Mapped { path: rest.to_owned(), inode: inode.parse().ok()? })
}

/// The file that is served: the one the engine names, else the only one, else the first part of a split model.
fn choose<'a>(files: &'a [Mapped], told: Option<&str>) -> Result<&'a Mapped, WeightsError> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let told = told.map(name);
    let mut same = files.iter().filter(|file| told.as_deref() == Some(name(&file.path).as_str()));
    if let (Some(file), None) = (same.next(), same.next()) {
        return Ok(file);
    }
    match files {
        [] => Err(WeightsError::None),
        [file] => Ok(file),
        _ => {
            let mut first = files.iter().filter(|file| file.path.contains("-00001-of-"));
            match (first.next(), first.next()) {
                (Some(file), None) => Ok(file),
                _ => Err(WeightsError::Several(files.len())),
            }
        }
    }
}

/// Opens a path as the process sees it, and checks that it still is the mapped file.
fn open(folder: &Path, path: &str, inode: Option<u64>) -> Result<File, WeightsError> {
    let seen = match path.strip_prefix('/') {
        Some(below) => folder.join("root").join(below),
        None => folder.join("cwd").join(path),
    };
    let mut candidates = vec![seen];
    // Without a look at the process's root, the same path here is only good if it is provably the same file.
    if path.starts_with('/') && inode.is_some() {
        candidates.push(PathBuf::from(path));
    }
    let mut failure = None;
    for candidate in candidates {
        let why = match File::open(&candidate).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((meta, _)) if inode.is_some_and(|inode| inode != meta.ino()) || !meta.is_file() => {
                WeightsError::Replaced(path.to_owned())
            }
            Ok((_, file)) => return Ok(file),
            Err(source) => WeightsError::Open { path: candidate.display().to_string(), source },
        };
        // What was wrong with the process's own view says more than the fallback's.
        failure = failure.or(Some(why));
    }
    Err(failure.unwrap_or(WeightsError::None))
}

#[cfg(test)]
mod tests {
    use super::super::preset::Presets;
    use super::super::target::TargetConfig;
    use super::*;
    use std::os::unix::fs::symlink;

    const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 1 };

    fn gguf(version: &str) -> Vec<u8> {
        let key = "general.version";
        let mut bytes = [&b"GGUF"[..], &3_u32.to_le_bytes(), &0_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
        bytes.extend((key.len() as u64).to_le_bytes());
        bytes.extend(key.as_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend((version.len() as u64).to_le_bytes());
        bytes.extend(version.as_bytes());
        bytes
    }

    /// A process whose root is a folder with /models/a.gguf (version 1.0) and /models/b.gguf (2.0).
    fn process(maps: impl Fn(u64, u64) -> String) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("7");
        fs::create_dir_all(root.path().join("image/models")).expect("folder");
        fs::create_dir(&folder).expect("folder");
        symlink("../image", folder.join("root")).expect("root");
        symlink("../image/models", folder.join("cwd")).expect("cwd");
        let write = |name: &str, version: &str| {
            let path = root.path().join("image/models").join(name);
            fs::write(&path, gguf(version)).expect("weights");
            fs::metadata(path).expect("weights").ino()
        };
        let (a, b) = (write("a.gguf", "1.0"), write("b.gguf", "2.0"));
        fs::write(folder.join("maps"), maps(a, b)).expect("maps");
        root
    }

    fn line(inode: u64, path: &str) -> String {
        format!("7f00-7f01 r--s 00002000 fe:00 {inode}                   {path}\n")
    }

    fn version(root: &tempfile::TempDir, told: Option<&str>) -> Result<(Option<String>, VersionSource), WeightsError> {
        weights(root.path(), PROCESS, told).map(|(header, source)| (header.version, source))
    }

    #[test]
    fn the_mapped_file_tells_the_version() {
        let root = process(|a, _| {
            format!(
                "00400000-0040b000 r-xp 0 fe:00 5 /bin/server\n{}{}",
                line(a, "/models/a.gguf"),
                line(a, "/models/a.gguf")
            )
        });
        assert_eq!(version(&root, None).expect("found"), (Some("1.0".to_owned()), VersionSource::Process));
    }

    #[test]
    fn of_several_mapped_files_the_engine_says_which() {
        let root = process(|a, b| line(a, "/models/a.gguf") + &line(b, "/models/b.gguf"));
        assert_eq!(version(&root, Some("b.gguf")).expect("found").0.as_deref(), Some("2.0"));
        assert!(matches!(version(&root, None), Err(WeightsError::Several(2))));
    }

    #[test]
    fn a_file_that_replaced_the_mapped_one_is_not_believed() {
        let root = process(|a, _| line(a + 1_000_000, "/models/a.gguf"));
        assert!(matches!(version(&root, None), Err(WeightsError::Replaced(_))));
        let root = process(|a, _| line(a, "/models/a.gguf (deleted)"));
        assert!(matches!(version(&root, Some("a.gguf")), Err(WeightsError::Open { .. })));
    }

    #[test]
    fn a_file_that_is_not_mapped_is_told_by_the_engine() {
        let root = process(|_, _| String::new());
        for told in ["/models/a.gguf", "a.gguf"] {
            assert_eq!(version(&root, Some(told)).expect("found"), (Some("1.0".to_owned()), VersionSource::EngineApi));
        }
        assert!(matches!(version(&root, None), Err(WeightsError::None)));
    }

    #[test]
    fn what_is_configured_wins_over_label_and_weights() {
        let presets = Presets::built_in().expect("valid");
        let config = |text: &str| {
            let text = format!("url = \"http://h:1\"\npreset = \"llamacpp\"\n{text}");
            Target::new(0, toml::from_str(&text).expect("valid"), &presets).expect("valid")
        };
        let header = Header { name: Some("tiny".into()), version: Some("1.0".into()), fingerprint: "f".into() };
        let weights = Some((header, VersionSource::Process));
        let served = Served { weights, ..Served::default() };
        let page = |version| PageIdentity { model: None, version, consumer: None };
        let answer = |target: &Target, served: &Served, version| {
            let service = served.service(target, &page(version), false);
            (service.model, service.version, service.version_source)
        };
        let (own, plain) = (config("version = \"9\"\nmodel = \"m\""), config(""));
        let label = || PageVersion::Label("5".into());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(answer(&own, &served, label()), (some("m"), some("9"), VersionSource::Config));
        assert_eq!(answer(&plain, &served, label()), (some("tiny"), some("5"), VersionSource::Label));
        assert_eq!(answer(&plain, &served, PageVersion::Denied), (some("tiny"), some("1.0"), VersionSource::Process));
        let mapping = "[mapping]\nstatic = { model = \"s\", version = \"7\" }\n\
            values.items = { metric = \"a\", type = \"counter\" }";
        let fixed: TargetConfig =
            toml::from_str(&format!("url = \"http://h:1\"\npreset = \"custom\"\n{mapping}")).expect("valid");
        let fixed = Target::new(0, fixed, &presets).expect("valid");
        assert_eq!(answer(&fixed, &served, label()), (some("s"), some("5"), VersionSource::Label));
        assert_eq!(answer(&fixed, &served, PageVersion::Untold), (some("s"), some("7"), VersionSource::Config));
        let nothing = Served::default();
        assert_eq!(answer(&plain, &nothing, PageVersion::Denied), (None, None, VersionSource::DenyList));
        assert_eq!(answer(&plain, &nothing, PageVersion::Untold), (None, None, VersionSource::Unresolved));
    }

    #[test]
    fn what_the_engine_answers_stands_behind_the_label_and_before_the_weights() {
        let presets = Presets::built_in().expect("valid");
        let config = "url = \"http://h:1\"\npreset = \"torchserve\"";
        let target = Target::new(0, toml::from_str(config).expect("valid"), &presets).expect("valid");
        let header = Header { name: None, version: Some("1.0".into()), fingerprint: "f".into() };
        let served = Served {
            version: Some("one".into()),
            versions: [("a".to_owned(), "2.0".to_owned())].into(),
            tokenizer: Some("bpe".into()),
            weights: Some((header, VersionSource::Process)),
            ..Served::default()
        };
        let version = |model: &str, version| {
            let page = PageIdentity { model: Some(model.to_owned()), version, consumer: None };
            let service = served.service(&target, &page, false);
            assert_eq!(service.tokenizer.as_deref(), Some("bpe"));
            (service.version, service.version_source)
        };
        let told = |text: &str, source| (Some(text.to_owned()), source);
        assert_eq!(version("a", PageVersion::Label("3".into())), told("3", VersionSource::Label));
        assert_eq!(version("a", PageVersion::Denied), told("2.0", VersionSource::EngineApi));
        assert_eq!(version("b", PageVersion::Untold), told("one", VersionSource::EngineApi));
    }
}
