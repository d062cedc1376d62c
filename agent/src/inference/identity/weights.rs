//! The weights file that a process maps, told apart from one that took its place on disk.
//!
//! The version of a weights file counts as told by the *process* when the file is one that the process maps, and by the
//! *engine* when only the engine names its path (`--no-mmap`). A file on disk that is no longer the mapped one is not
//! read: a wrong version is worse than none. One that was read before stays known while the process maps it.

use super::super::gguf::{self, Header};
use super::super::socket::ProcessId;
use joulebook_units::VersionSource;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why no weights file was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WeightsError {
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

impl WeightsError {
    /// Whether it is for lack of rights that nothing is known.
    pub fn is_denied(&self) -> bool {
        let (Self::Maps { source, .. } | Self::Open { source, .. }) = self else { return false };
        source.kind() == std::io::ErrorKind::PermissionDenied
    }
}

/// Weights of which the file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// What the file's header tells.
    pub header: Header,
    /// Which rule found the file.
    pub source: VersionSource,
    /// The file, if the process maps it.
    mapped: Option<(ProcessId, Mapped)>,
}

impl Weights {
    /// Weights whose header was read and of which nothing else is known.
    #[cfg(test)]
    pub fn of(header: Header, source: VersionSource) -> Self {
        Self { header, source, mapped: None }
    }
}

/// A mapped file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mapped {
    path: String,
    device: String,
    inode: u64,
}

/// The weights behind a process. `told` is the path that the engine names, `known` what was found before.
pub(super) fn weights(
    procfs: &Path,
    process: ProcessId,
    told: Option<&str>,
    known: Option<&Weights>,
) -> Result<Weights, WeightsError> {
    let folder = procfs.join(process.pid.to_string());
    let (path, file, source) = match (mapped(&folder), told) {
        (Ok(files), told) => match choose(&files, told) {
            Ok(file) => (file.path.clone(), Some(file.clone()), VersionSource::Process),
            Err(WeightsError::None) => (told.ok_or(WeightsError::None)?.to_owned(), None, VersionSource::EngineApi),
            Err(error) => return Err(error),
        },
        (Err(_), Some(told)) => (told.to_owned(), None, VersionSource::EngineApi),
        (Err(error), None) => return Err(error),
    };
    let mapped = file.map(|file| (process, file));
    if let Some(known) = known.filter(|known| known.mapped.is_some() && known.mapped == mapped) {
        return Ok(known.clone());
    }
    let opened = open(&folder, &path, mapped.as_ref().map(|(_, file)| file.inode))?;
    let header = gguf::read(opened).map_err(|source| WeightsError::Header { path, source })?;
    Ok(Weights { header, source, mapped })
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

/// `address perms offset device inode path`, the path being the rest of the line. A file that was deleted keeps its path,
/// so that it stays the same file.
fn mapped_file(line: &str) -> Option<Mapped> {
    let mut rest = line;
    let mut fields = [""; 5];
    for field in &mut fields {
        let (word, after) = rest.split_once(' ')?;
        (*field, rest) = (word, after.trim_start_matches(' '));
    }
    let whole = rest.strip_suffix(" (deleted)").unwrap_or(rest);
    let is_gguf = whole.to_ascii_lowercase().ends_with(".gguf") || whole.contains("/blobs/sha256-");
    is_gguf.then_some(())?;
    let [_, _, _, device, inode] = fields;
    Some(Mapped { path: whole.to_owned(), device: device.to_owned(), inode: inode.parse().ok()? })
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
        weights(root.path(), PROCESS, told, None).map(|found| (found.header.version, found.source))
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
        let root = process(|a, _| line(a + 1_000_000, "/models/a.gguf (deleted)"));
        assert!(matches!(version(&root, Some("a.gguf")), Err(WeightsError::Replaced(_))));
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
    fn what_was_read_stays_known_while_the_process_maps_it() {
        let root = process(|a, _| line(a, "/models/a.gguf"));
        let known = weights(root.path(), PROCESS, None, None).expect("found");
        fs::remove_file(root.path().join("image/models/a.gguf")).expect("there");
        let maps = root.path().join("7/maps");
        let text = fs::read_to_string(&maps).expect("there").replace("a.gguf", "a.gguf (deleted)");
        fs::write(&maps, text).expect("written");
        assert_eq!(weights(root.path(), PROCESS, None, Some(&known)).expect("known"), known);
        assert!(weights(root.path(), PROCESS, None, None).is_err(), "nobody read it in time");
        let later = ProcessId { start_ticks: 2, ..PROCESS };
        assert!(weights(root.path(), later, None, Some(&known)).is_err(), "of another process");
    }
}
