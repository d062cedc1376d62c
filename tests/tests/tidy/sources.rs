//! The repository's own text files.

use std::path::{Path, PathBuf};

/// A text file of the repository.
pub struct Source {
    /// Path from the root, with `/`.
    pub path: String,
    /// Content.
    pub text: String,
}

impl Source {
    /// A made-up file, for the tests of the rules themselves.
    pub fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The text before the unit tests: what is shipped.
    pub fn shipped(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }

    /// Shipped lines that are not comments, numbered from 1.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.shipped().lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository").to_owned()
}

/// Every text file of the repository but built ones.
pub fn all() -> Vec<Source> {
    let (root, mut found) = (root(), Vec::new());
    walk(&root, &root, &mut found);
    assert!(found.len() > 50, "the walk found only {} files under {}", found.len(), root.display());
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<_> = folder.read_dir().expect("a readable folder").map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type().unwrap());
        let built = ["target", "node_modules", "__pycache__", ".git"].contains(&name.as_str());
        if built || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            walk(root, &entry.path(), found);
        } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
            let path = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.push(Source { path, text });
        }
    }
}
