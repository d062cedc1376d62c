//! `joulebook-agent presets`: what engines are known, how one is read, and what a preset makes of a page.

use crate::config::{Config, ConfigError, read_preset};
use crate::exit;
use crate::inference::exposition::{MAX_BYTES, Page, PageError};
use crate::inference::preset::{Preset, PresetError, Presets, Role};
use crate::inference::reader::Reader;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

mod trial;

pub use trial::Trial;

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum PresetsError {
    /// The configuration, or the preset's file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No such preset.
    #[error(transparent)]
    Preset(#[from] PresetError),
    /// The operator's own preset has no text in this build.
    #[error("preset `{0}` is your own: it stands in the configuration, or in a file of preset_dir")]
    Own(String),
    /// The preset says nothing about what is counted.
    #[error("preset `{0}` has no mapping: what is counted stands in the target that names it")]
    NoMapping(String),
    /// Standard input.
    #[error("reading the page from standard input failed: {0}; use `presets test FILE < page`")]
    Input(#[from] std::io::Error),
    /// The page cannot be used.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The page is another engine's.
    #[error("the page is not one of `{id}`: none of {signature:?} is on it")]
    Signature {
        /// The preset.
        id: String,
        /// Its signature.
        signature: Vec<String>,
    },
    /// The page is of no engine that is known.
    #[error("no preset recognises the page; name one with `presets test FILE` (some are never recognised: {0})")]
    Unrecognised(String),
}

impl PresetsError {
    /// The agent's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Preset(_) | Self::Own(_) | Self::NoMapping(_) => exit::CONFIGURATION,
            Self::Input(_) => exit::IO,
            Self::Page(_) | Self::Signature { .. } | Self::Unrecognised(_) => exit::DATA,
        }
    }
}

/// Every preset that a target may name: a line each, with what recognises its page.
///
/// # Errors
/// A preset of the configuration is wrong.
pub fn list(config: &Config) -> Result<String, PresetsError> {
    let presets = config.presets()?;
    let mut text = String::new();
    for preset in presets.iter() {
        let role = match preset.role {
            Role::Engine => "engine",
            Role::Wrapper => "wrapper",
            Role::Gateway => "gateway",
        };
        let origin = if presets.text(&preset.id).is_some() { "" } else { "  (yours)" };
        let signature =
            if preset.signature.is_empty() { "never by its page".to_owned() } else { preset.signature.join(" | ") };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:<16} {role:<8} {:<36} {signature}{origin}", preset.id, preset.path);
    }
    Ok(text)
}

/// The file of a preset of this build.
///
/// # Errors
/// No such preset, or one that is the operator's own.
pub fn show(config: &Config, id: &str) -> Result<String, PresetsError> {
    let presets = config.presets()?;
    let preset = presets.named(id)?;
    presets.text(&preset.id).map(str::to_owned).ok_or_else(|| PresetsError::Own(id.to_owned()))
}

/// What a preset counts on a page. `file` is the preset's file, or the name of one that is known; without it the page is
/// recognised by its signature.
///
/// # Errors
/// See [`PresetsError`].
pub fn test(config: &Config, file: Option<&Path>, page: impl Read) -> Result<String, PresetsError> {
    let presets = config.presets()?;
    // The preset first: what is wrong with it is told without a page.
    let named = file.map(|file| find(&presets, file)).transpose()?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that the page's own limit speaks.
    page.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let page = Page::parse(&bytes)?;
    let preset = match named {
        Some(preset) => preset,
        None => presets.detect(&page).cloned().ok_or_else(|| {
            let silent = presets.iter().filter(|preset| preset.signature.is_empty()).map(|preset| preset.id.as_str());
            PresetsError::Unrecognised(silent.collect::<Vec<_>>().join(", "))
        })?,
    };
    let Some(mapping) = preset.mapping.clone() else { return Err(PresetsError::NoMapping(preset.id)) };
    if !preset.signature.is_empty() && !preset.detects(&page) {
        return Err(PresetsError::Signature { id: preset.id, signature: preset.signature });
    }
    Ok(Trial::new(&preset, &mapping.fixed.clone(), Reader::new(mapping)?, &page).to_string())
}

fn find(presets: &Presets, file: &Path) -> Result<Preset, PresetsError> {
    let name = file.to_str().filter(|name| !file.exists() && presets.named(name).is_ok());
    match name {
        Some(name) => Ok(presets.named(name)?.clone()),
        None => Ok(read_preset(file)?.0),
    }
}
