//! The images: the same bytes twice, nothing in them but what is meant, and a bill of materials that holds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use joulebook_tests::chart::render::{python, root};
use joulebook_tests::program::binary;
use serde_json::Value;
use tempfile::TempDir;

/// Programs of all images.
const PROGRAMS: [&str; 3] = ["joulebook-agent", "joulebook-aggregator", "joulebook"];

/// Copies of the programs, whose times and modes are this machine's of now.
fn copies() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for program in PROGRAMS {
        fs::copy(binary(program).unwrap(), folder.path().join(program)).unwrap();
    }
    folder
}

/// Makes the images of copies of the programs.
fn make(umask: &str, out: &Path) {
    let bins = copies();
    let script = format!("umask {umask} && exec \"$0\" --strip --bins \"$1\" --out \"$2\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(root().join(".ci/image")).args([bins.path(), out]);
    let done = command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The images that most tests look at. They lie in one place, where the next run makes them anew: what a program holds until
/// its end is not taken away.
fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
        let _absent = fs::remove_dir_all(&out);
        make("022", &out);
        out
    })
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every file below a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(
                files(&entry)
                    .into_iter()
                    .map(|(path, bytes)| (Path::new(entry.file_name().unwrap()).join(path), bytes)),
            ),
            false => drop(found.insert(entry.file_name().unwrap().into(), fs::read(&entry).unwrap())),
        }
    }
    found
}

/// What tar lists of all layers of an image: mode, owner, path, without times.
fn listing(name: &str) -> Vec<(String, String, String)> {
    let layout = made().join(name);
    let manifest = json(blob(&layout, &json(layout.join("index.json"))["manifests"][0]));
    let mut found = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let done = Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(blob(&layout, layer)).output().unwrap();
        assert!(done.status.success());
        for line in String::from_utf8(done.stdout).unwrap().lines() {
            let mut words = line.split_whitespace();
            let (mode, owner) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            found.push((mode, owner, words.nth(3).unwrap().to_owned()));
        }
    }
    found
}

#[test]
fn the_same_programs_make_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("out");
    make("077", &again);
    let (first, second) = (files(made()), files(&again));
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    let differ: Vec<_> = first.iter().filter(|(path, bytes)| second[*path] != **bytes).map(|(path, _)| path).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

#[test]
fn an_agents_image_that_is_larger_than_it_may_be_is_refused() {
    // `make images` gives the limit of the optimised programs; these ones are never so small as this one.
    let (bins, folder) = (copies(), tempfile::tempdir().unwrap());
    let mut command = Command::new(root().join(".ci/image"));
    command.arg("--bins").arg(bins.path()).arg("--out").arg(folder.path().join("out"));
    let done = command.args(["--strip", "--agent-limit", "1000000"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("bytes unpacked, more than 1000000"), "{said}");
}

#[test]
fn every_blob_has_the_digest_and_size_by_which_it_is_named() {
    for name in ["agent", "aggregator"] {
        let layout = made().join(name);
        let blobs = layout.join("blobs/sha256");
        let mut command = Command::new("sha256sum");
        let names: Vec<_> = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let done = command.current_dir(&blobs).args(&names).output().unwrap();
        for line in String::from_utf8(done.stdout).unwrap().lines() {
            let (digest, file) = line.split_once("  ").unwrap();
            assert_eq!(digest, file);
        }
        let index = json(layout.join("index.json"));
        let manifest = json(blob(&layout, &index["manifests"][0]));
        let mut descriptors: Vec<Value> = index["manifests"].as_array().unwrap().clone();
        descriptors.extend(manifest["layers"].as_array().unwrap().iter().cloned());
        descriptors.push(manifest["config"].clone());
        for descriptor in descriptors {
            assert_eq!(fs::metadata(blob(&layout, &descriptor)).unwrap().len(), descriptor["size"].as_u64().unwrap());
        }
        let config = json(blob(&layout, &manifest["config"]));
        let user = if name == "agent" { "0:0" } else { "65532:65532" };
        assert_eq!(config["config"]["User"], user);
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!([format!("/usr/bin/joulebook-{name}")]));
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    }
}

#[test]
fn an_image_holds_programs_and_libraries_and_no_shell() {
    for (name, programs) in
        [("agent", &["joulebook-agent"][..]), ("aggregator", &["joulebook", "joulebook-aggregator"])]
    {
        let all = listing(name);
        let runnable: Vec<_> = all
            .iter()
            .filter(|(mode, _, path)| mode.starts_with("-rwx") && !path.contains(".so"))
            .map(|(_, _, path)| path.as_str())
            .collect();
        let expected: Vec<_> = programs.iter().map(|program| format!("usr/bin/{program}")).collect();
        assert_eq!(runnable, expected, "{name}");
        for (mode, owner, path) in &all {
            assert_eq!(owner, "0/0", "{path}");
            assert!(!mode.contains(['s', 'S']), "{path}: {mode}");
            let open = mode.as_bytes()[8] == b'w' && !mode.starts_with('l') && path != "tmp/";
            assert!(!open, "{path} can be written by everybody: {mode}");
        }
        let has = |path: &str| all.iter().any(|(_, _, found)| found == path);
        for library in ["libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"] {
            let is_there = all.iter().any(|(_, _, path)| path.ends_with(&format!("/{library}")));
            assert!(is_there, "{name} lacks {library}, which vendors' libraries ask for");
        }
        assert!(has("usr/share/doc/joulebook/LICENSE") && has("usr/share/doc/libc6/copyright"), "{name}");
        assert_eq!(
            has("etc/ssl/certs/ca-certificates.crt"),
            name == "aggregator",
            "agents speak to nobody of the world"
        );
    }
}

#[test]
fn every_library_that_a_program_asks_for_is_there() {
    for name in ["agent", "aggregator"] {
        let tree = tempfile::tempdir().unwrap();
        let layout = made().join(name);
        let manifest = json(blob(&layout, &json(layout.join("index.json"))["manifests"][0]));
        for layer in manifest["layers"].as_array().unwrap() {
            let mut command = Command::new("tar");
            let done = command.args(["--no-same-owner", "-xzf"]).arg(blob(&layout, layer)).arg("-C").arg(tree.path());
            assert!(done.status().unwrap().success());
        }
        // By the image's own loader and libraries, and no others.
        let library = |pattern: &str| {
            let found =
                files(&tree.path().join("usr")).into_keys().find(|path| path.to_string_lossy().contains(pattern));
            tree.path().join("usr").join(found.unwrap_or_else(|| panic!("{name} has no {pattern}")))
        };
        let libraries = library("libc.so.6").parent().unwrap().to_owned();
        for program in fs::read_dir(tree.path().join("usr/bin")).unwrap().map(|entry| entry.unwrap().path()) {
            let mut command = Command::new(library("ld-linux"));
            command.args(["--inhibit-cache", "--library-path"]).arg(&libraries).arg(&program).arg("--version");
            let done = command.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            assert!(String::from_utf8_lossy(&done.stdout).starts_with("joulebook"));
            assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        }
    }
}

/// Reads a bill of materials as others do, and says what is wrong with it.
const VALIDATE: &str = "
import sys
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
for message in validate_full_spdx_document(parse_file(sys.argv[1])):
    print(message.validation_message)
";

#[test]
fn the_bill_of_materials_is_valid_belongs_to_the_image_and_names_what_is_in_it() {
    for (name, crates) in [("agent", ["tokio", "joulebook-agent"]), ("aggregator", ["librocksdb-sys", "joulebook-sci"])]
    {
        let path = made().join(format!("{name}.spdx.json"));
        let done = Command::new(python()).args(["-c", VALIDATE]).arg(&path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(String::from_utf8_lossy(&done.stdout), "");
        let bill = json(path);
        let parts: Vec<_> =
            bill["packages"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
        assert!(crates.iter().all(|part| parts.contains(part)) && parts.contains(&"libc6"), "{parts:?}");
        assert!(!parts.contains(&"joulebook-tests") && !parts.contains(&"proptest"), "tests are no part of it");
        let layout = made().join(name);
        let manifests = json(layout.join("index.json"))["manifests"].clone();
        let artifact = json(blob(&layout, &manifests[1]));
        assert_eq!(artifact["subject"]["digest"], manifests[0]["digest"]);
        assert_eq!(json(blob(&layout, &artifact["layers"][0])), bill);
    }
}
