//! How engines are read, as data: presets are TOML files, and a target's own mapping has the same form.

use super::exposition::Page;
use super::mapping::Mapping;
use crate::process::part::PartRule;
use serde::Deserialize;

/// The presets of this build. A new one is a file and a line here.
const FILES: [&str; 5] = [
    include_str!("presets/llamacpp.toml"),
    include_str!("presets/vllm.toml"),
    include_str!("presets/triton.toml"),
    include_str!("presets/mlserver.toml"),
    include_str!("presets/custom.toml"),
];

/// Presets that are described but not built: a target that asks for one is told to use a mapping of its own.
pub const NOT_BUILT: [&str; 7] =
    ["sglang", "dynamo-frontend", "torchserve", "kserve", "rayserve", "bentoml", "litellm"];

/// A preset or mapping that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// The embedded file is wrong.
    #[error("an embedded preset is not valid: {0}")]
    Embedded(#[from] toml::de::Error),
    /// Described, but not in this build.
    #[error("preset `{0}` is not built yet; use preset = \"custom\" with a mapping")]
    NotBuilt(String),
    /// No such preset.
    #[error("preset `{0}` does not exist; use one of: {1}")]
    Unknown(String, String),
    /// The mapping counts nothing.
    #[error("the mapping has no values, so nothing would be counted; add `values`")]
    Empty,
    /// `opened_by` names a field that is not counted.
    #[error("`opened_by` names a field without an expression, so no service would ever open; add it to `values`")]
    NeverOpened,
}

/// How one engine is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Name in the configuration and in [`joulebook_units::Service::engine`].
    pub id: String,
    /// Path of the page where the target's URL has none.
    pub path: String,
    /// Families of which one must be on the page; empty = any page.
    #[serde(default)]
    pub signature: Vec<String>,
    /// Where else the identity of the model can be asked.
    #[serde(default)]
    pub identity: IdentityHooks,
    /// How the server's processes for one model version are recognised, for engines that have such: an expression with
    /// the groups `model` and `version` on an argument of the command line.
    pub version_process: Option<PartRule>,
    /// What is counted; absent = the target gives it.
    pub mapping: Option<Mapping>,
}

impl Preset {
    /// Every preset of this build.
    ///
    /// # Errors
    /// An embedded file is wrong, which its test rules out.
    pub fn all() -> Result<Vec<Self>, PresetError> {
        FILES.iter().map(|text| Ok(toml::from_str(text)?)).collect()
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// No such preset, or one that is not built yet.
    pub fn named(id: &str) -> Result<Self, PresetError> {
        let all = Self::all()?;
        let names = all.iter().map(|preset| preset.id.as_str()).collect::<Vec<_>>().join(", ");
        match all.into_iter().find(|preset| preset.id == id) {
            Some(preset) => Ok(preset),
            None if NOT_BUILT.contains(&id) => Err(PresetError::NotBuilt(id.to_owned())),
            None => Err(PresetError::Unknown(id.to_owned(), names)),
        }
    }

    /// Whether the page is this engine's. A preset without signature is never detected.
    pub fn detects(&self, page: &Page<'_>) -> bool {
        self.signature.iter().any(|family| page.has(family))
    }
}

/// Questions to the engine about what it serves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityHooks {
    /// The model's name.
    pub model: Option<Hook>,
    /// Path of the weights as the engine sees it.
    pub weights_path: Option<Hook>,
    /// Format of the weights file that the process maps.
    pub weights: Option<WeightsFormat>,
}

/// One question: a GET and the place of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Absolute path on the target.
    pub get: String,
    /// JSON pointer (RFC 6901) to a string.
    pub pointer: String,
}

/// Weights files whose header can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsFormat {
    /// GGUF of llama.cpp.
    Gguf,
}

#[cfg(test)]
mod tests {
    use super::super::reader::Reader;
    use super::*;

    #[test]
    fn every_embedded_preset_is_valid_and_named_once() {
        let presets = Preset::all().expect("valid");
        let mut names: Vec<_> = presets.iter().map(|preset| preset.id.clone()).collect();
        names.extend(NOT_BUILT.map(str::to_owned));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for preset in presets.into_iter().filter_map(|preset| preset.mapping) {
            Reader::new(preset).expect("counts something");
        }
    }
}
