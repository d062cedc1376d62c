//! How engines are read, as data: presets are TOML files, and a target's own mapping has the same form.

use super::exposition::Page;
use super::mapping::Mapping;
use super::reader::Reader;
use crate::process::part::PartRule;
use serde::Deserialize;

mod hook;
mod set;

pub(super) use hook::is_path;
pub use hook::{Hook, Hooks, IdentityHooks, Method, WeightsFormat};
pub use set::Presets;

/// Longest id of a preset.
const MOST_ID_BYTES: usize = 64;

/// A preset or mapping that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// The embedded file is wrong.
    #[error("an embedded preset is not valid: {0}")]
    Embedded(#[from] toml::de::Error),
    /// No such preset.
    #[error("preset `{0}` does not exist; use one of: {1}")]
    Unknown(String, String),
    /// Two presets of one name.
    #[error("preset `{0}` is there already; give yours another `id`")]
    Twice(String),
    /// The mapping counts nothing.
    #[error("the mapping has no values, so nothing would be counted; add `values`")]
    Empty,
    /// `opened_by` names a field that is not counted.
    #[error("`opened_by` names a field without an expression, so no service would ever open; add it to `values`")]
    NeverOpened,
}

/// How one engine is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawPreset")]
pub struct Preset {
    /// Name in the configuration and in [`joulebook_units::Service::engine`].
    pub id: String,
    /// Path of the page where the target's URL has none.
    pub path: String,
    /// What the page counts.
    pub role: Role,
    /// Families of which one must be on the page; empty = any page, and the preset is never recognised by one.
    pub signature: Vec<String>,
    /// Where else the identity of the model can be asked.
    pub identity: IdentityHooks,
    /// Whose processes do what the page counts.
    pub server: Server,
    /// How the server's processes for one model version are recognised, for engines that have such: an expression with
    /// the groups `model` and `version` on an argument of the command line.
    pub version_process: Option<PartRule>,
    /// What is counted; absent = the target gives it.
    pub mapping: Option<Mapping>,
}

/// What a page counts, where one request may be counted by several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The work itself. Before all others on a page that is recognised as several.
    #[default]
    Engine,
    /// Calls of a model by a server around it, whose engine may count them too.
    Wrapper,
    /// Requests on their way to engines, by consumer.
    Gateway,
}

/// Whose processes do what a page counts: the process with all its descendants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// The process that listens at the page's port.
    #[default]
    Listener,
    /// The one that started it, which started those that do the work too.
    Parent,
}

impl Preset {
    /// Whether the page is this engine's. A preset without signature is never detected.
    pub fn detects(&self, page: &Page<'_>) -> bool {
        self.signature.iter().any(|family| page.has(family))
    }
}

/// A preset as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPreset {
    id: String,
    path: String,
    #[serde(default)]
    role: Role,
    #[serde(default)]
    signature: Vec<String>,
    #[serde(default)]
    identity: IdentityHooks,
    #[serde(default)]
    server: Server,
    version_process: Option<PartRule>,
    mapping: Option<Mapping>,
}

impl TryFrom<RawPreset> for Preset {
    type Error = String;
    fn try_from(raw: RawPreset) -> Result<Self, Self::Error> {
        let RawPreset { id, path, role, signature, identity, server, version_process, mapping } = raw;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || id.len() > MOST_ID_BYTES || !id.bytes().all(plain) {
            return Err(format!("`id` is `{id}`: it must hold 1 to {MOST_ID_BYTES} of a-z, 0-9 and -"));
        }
        if !is_path(&path) {
            return Err(format!("`path` is `{path}`: it must be a path from /, without blanks"));
        }
        let named = |name: &String| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
                && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        };
        if let Some(name) = signature.iter().find(|name| !named(name)) {
            return Err(format!("`signature` holds `{name}`, which is no metric's name"));
        }
        if let Some(mapping) = &mapping {
            Reader::new(mapping.clone()).map_err(|error| format!("`mapping`: {error}"))?;
            if (role == Role::Gateway) != mapping.consumer.is_some() {
                return Err("`role = \"gateway\"` and `mapping.consumer` go together".to_owned());
            }
        }
        Ok(Self { id, path, role, signature, identity, server, version_process, mapping })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_that_could_not_work_is_refused_with_the_key() {
        let good =
            "id = \"mine\"\npath = \"/metrics\"\n[mapping]\nvalues.items = { metric = \"a\", type = \"counter\" }\n";
        assert!(toml::from_str::<Preset>(good).is_ok());
        for (from, to, words) in [
            ("\"mine\"", "\"Mine\"", ["`id`", "a-z"]),
            ("\"/metrics\"", "\"metrics\"", ["`path`", "from /"]),
            ("\"/metrics\"", "\"//other/metrics\"", ["`path`", "from /"]),
            ("[mapping]", "signature = [\"a b\"]\n[mapping]", ["`signature`", "a b"]),
            ("[mapping]", "role = \"gateway\"\n[mapping]", ["`role", "consumer"]),
            ("[mapping]", "[mapping]\nconsumer = \"team\"", ["`role", "consumer"]),
            ("[mapping]", "[mapping]\nopened_by = \"requests_ok\"", ["`mapping`", "opened_by"]),
            ("[mapping]", "[identity]\nmodel = { get = \"info\", pointer = \"/id\" }\n[mapping]", ["info", "one /"]),
            ("[mapping]", "[identity]\nmodel = { get = \"/i\", pointer = \"id\" }\n[mapping]", ["pointer", "id"]),
            ("[mapping]", "[identity]\nmodel = { pointer = \"/id\" }\n[mapping]", ["`get`", "`post`"]),
            (
                "[mapping]",
                "[identity]\nmodel = { get = \"/i\", port = 0, pointer = \"/id\" }\n[mapping]",
                ["port", "0"],
            ),
            (
                "[mapping]",
                "[identity]\nmodel = { get = \"/i\", where = { \"/a\" = \"b\" }, pointer = \"/id\" }\n[mapping]",
                ["`where`", "`list`"],
            ),
        ] {
            let text = good.replace(from, to);
            let error = toml::from_str::<Preset>(&text).expect_err(&text).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }
}
