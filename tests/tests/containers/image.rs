//! Images, made of the programs under test by the script that makes those that are shipped, and unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use joulebook_tests::chart::render::root;
use joulebook_tests::program::binary;
use serde_json::Value;

/// An image on a disk.
pub struct Image {
    /// Its tree.
    pub tree: PathBuf,
    /// What it runs.
    pub entrypoint: Vec<String>,
}

/// All images by the end of the name of their repository.
pub struct Images(BTreeMap<&'static str, Image>);

impl Images {
    /// Makes and unpacks them below a folder.
    pub fn unpacked(folder: &Path) -> Self {
        let out = folder.join("images");
        let bins = binary("joulebook-agent").unwrap();
        let mut command = Command::new(root().join(".ci/image"));
        command.arg("--strip").arg("--bins").arg(bins.parent().unwrap()).arg("--out").arg(&out);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(
            ["agent", "aggregator"]
                .map(|name| (name, unpack(&out.join(name), &folder.join("trees").join(name))))
                .into(),
        )
    }

    /// The image that a container names.
    pub fn of(&self, container: &Value) -> &Image {
        let name = container["image"].as_str().unwrap();
        let name = name.split([':', '@']).next().unwrap().rsplit('/').next().unwrap();
        &self.0[name]
    }
}

fn unpack(layout: &Path, tree: &Path) -> Image {
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blob = |descriptor: &Value| layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"));
    let index = read(layout.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]));
    fs::create_dir_all(tree).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let done = Command::new("tar").arg("-xpzf").arg(blob(layer)).arg("-C").arg(tree).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let config = read(blob(&manifest["config"]));
    let entrypoint = config["config"]["Entrypoint"].as_array().unwrap();
    let entrypoint = entrypoint.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    Image { tree: tree.to_owned(), entrypoint }
}
