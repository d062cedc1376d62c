//! The operator's own presets: tables of the configuration, and files of a folder.

use super::ConfigError;
use super::error::{line_of, refuse_writable_by_others};
use crate::inference::preset::{Preset, PresetError, Presets};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The presets of this build, then those of the configuration, then those of the folder.
pub(super) fn read(tables: &[Spanned<Preset>], folder: Option<&Path>) -> Result<Presets, ConfigError> {
    let mut presets = Presets::built_in().map_err(|source| ConfigError::Preset { source })?;
    for table in tables {
        presets.add(table.get_ref().clone()).map_err(|source| ConfigError::Preset { source })?;
    }
    for file in folder.map(files).transpose()?.unwrap_or_default() {
        let (preset, text) = read_file(&file)?;
        presets.add(preset).map_err(|taken| ConfigError::placed(&file, line_of(&text, "id").unwrap_or(1), &taken))?;
    }
    Ok(presets)
}

/// A preset's file and its text.
///
/// # Errors
/// It cannot be read, may be written by other users, or is no preset.
pub fn read_file(path: &Path) -> Result<(Preset, String), ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    refuse_writable_by_others(path)?;
    let text = String::from_utf8(text).map_err(|_| ConfigError::NotUtf8 { path: path.to_owned() })?;
    let preset = toml::from_str(&text).map_err(|source| ConfigError::syntax(path, &text, &source))?;
    Ok((preset, text))
}

/// Tables whose name is taken, found while the text is at hand that tells their lines.
pub(super) fn refuse_twice(tables: &[Spanned<Preset>], text: &str, path: &Path) -> Result<(), ConfigError> {
    if tables.is_empty() {
        return Ok(());
    }
    let mut presets = Presets::built_in().map_err(|source| ConfigError::Preset { source })?;
    for table in tables {
        let line = 1 + text.get(..table.span().start).map_or(0, |before| before.matches('\n').count());
        presets.add(table.get_ref().clone()).map_err(|taken| ConfigError::placed(path, line, &taken))?;
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl ConfigError {
    fn placed(path: &Path, line: usize, error: &PresetError) -> Self {
        Self::Syntax { path: path.to_owned(), line, what: error.to_string(), hint: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const MINE: &str = "id = \"mine\"\npath = \"/metrics\"\n\
        [mapping]\nvalues.items = { metric = \"a\", type = \"counter\" }\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("file");
        }
        folder
    }

    fn of_folder(files: &[(&str, &str)]) -> Result<Presets, String> {
        read(&[], Some(folder(files).path())).map_err(|error| error.to_string())
    }

    #[test]
    fn presets_of_the_folder_and_of_the_configuration_stand_beside_those_of_the_build() {
        let table = MINE.replace("mine", "ours").replace("[mapping]", "[preset.mapping]");
        let config = format!("[[preset]]\n{table}");
        let mut config = Config::parse(&config, Path::new("agent.toml")).expect("valid");
        let folder = folder(&[("a.toml", MINE), ("notes.txt", "no preset")]);
        config.preset_dir = Some(folder.path().to_owned());
        let presets = config.presets().expect("valid");
        for id in ["mine", "ours", "vllm"] {
            assert!(presets.named(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn a_wrong_preset_is_told_with_its_file_its_line_and_its_key() {
        for (from, to, line, word) in [
            ("values.items", "valeus.items", 4, "did you mean `values`?"),
            ("items", "itmes", 4, "did you mean `items`?"),
            ("\"counter\"", "\"conuter\"", 4, "conuter"),
            ("path =", "paht =", 2, "did you mean `path`?"),
            ("\"counter\" }", "\"counter\", scale = 0.0 }", 4, "`scale`"),
            ("\"/metrics\"", "\"metrics\"", 2, "`path`"),
            ("\"mine\"", "\"vllm\"", 1, "`vllm`"),
            ("[mapping]", "[mapping", 3, ""),
        ] {
            let text = MINE.replace(from, to);
            let error = of_folder(&[("wrong.toml", &text)]).expect_err(&text);
            assert!(error.contains(&format!("/wrong.toml:{line}: ")) && error.contains(word), "{text}: {error}");
        }
        let tables = format!("node = \"n\"\n[[preset]]\n{}", MINE.replace("[mapping]", "[preset.mapping]"));
        let wrong = [("\"mine\"", "\"vllm\"", "`vllm`"), ("items", "itmes", "did you mean `items`?")];
        for (from, to, word) in wrong {
            let text = tables.replace(from, to);
            let error = Config::parse(&text, Path::new("agent.toml")).expect_err(&text).to_string();
            assert!(error.starts_with("agent.toml:") && !error.starts_with("agent.toml:1:"), "{error}");
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_preset_that_other_users_may_write_is_refused() {
        let folder = folder(&[("a.toml", MINE)]);
        let file = folder.path().join("a.toml");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o646)).expect("mode");
        assert!(matches!(read(&[], Some(folder.path())), Err(ConfigError::WritableByOthers { .. })));
    }
}
