//! What is wrong with a configuration, where, and what would be right.

use crate::inference::preset::PresetError;
use joulebook_proto::config_file::is_writable_by_others;
use joulebook_proto::credentials::SecurityUnclear;
use std::path::{Path, PathBuf};

/// A configuration that no agent may start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The section `[export]` cannot be.
    #[error("[export] {0}")]
    Export(#[from] joulebook_otlp::OtlpError),
    /// The file could not be read.
    #[error("reading configuration {path} failed: {source}; name an existing file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Other users could change what the agent does.
    #[error("configuration {path} can be written by other users: run `chmod o-w {path}`")]
    WritableByOthers {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8.
    #[error("configuration {path} is not UTF-8: save it as UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML, an unknown key or a value of the wrong type.
    #[error("{path}:{line}: {what}{hint}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
        /// The nearest valid key, where there is one.
        hint: String,
    },
    /// A value outside its range.
    #[error("configuration key `{key}` is not valid: it must be {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A preset whose name is taken.
    #[error("configuration key `preset`: {source}")]
    Preset {
        /// Why.
        source: PresetError,
    },
    /// A node name that is none.
    #[error("configuration key `node`: {source}")]
    Node {
        /// Why.
        source: joulebook_units::InvalidId,
    },
    /// A poller's name that is none.
    #[error("configuration key `poller`: {source}")]
    Poller {
        /// Why.
        source: joulebook_units::InvalidId,
    },
    /// Neither TLS nor plaintext, or both.
    #[error(transparent)]
    Security(#[from] SecurityUnclear),
    /// An address that is not spoken with in the configured way.
    #[error(
        "the aggregator's address must be https://host:port with TLS; with --insecure-loopback, http://127.0.0.1:port or \
         http://[::1]:port"
    )]
    Scheme,
}

impl ConfigError {
    /// Whether a permission is the reason (exit code 77), not the content (78).
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == std::io::ErrorKind::PermissionDenied,
            Self::WritableByOthers { .. } => true,
            _ => false,
        }
    }

    pub(super) fn value(key: &'static str, rule: &'static str) -> Self {
        Self::Value { key, rule }
    }

    /// Places a parser's error at its line and adds the nearest valid key.
    pub(super) fn syntax(path: &Path, text: &str, source: &toml::de::Error) -> Self {
        let offset = source.span().map_or(0, |span| span.start);
        let what = source.message().lines().next().unwrap_or_default().to_owned();
        // What concerns the file as a whole has no place of its own: the key that it names has.
        let named = what.split('`').nth(1).filter(|_| offset == 0).and_then(|key| line_of(text, key));
        let line =
            named.unwrap_or_else(|| text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1);
        Self::Syntax { path: path.to_path_buf(), line, hint: nearest_key(source.message()), what }
    }
}

/// The line, from 1, that gives a value to a key.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let gives =
        |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']));
    text.lines().position(gives).map(|index| index + 1)
}

/// From "unknown field `x`, expected one of `a`, `b`" (or variant), the one nearest to x.
fn nearest_key(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let names_a_key = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let (true, Some(wrong)) = (names_a_key, quoted.next()) else {
        return String::new();
    };
    let nearest = quoted.map(|key| (strsim::damerau_levenshtein(wrong, key), key)).min();
    match nearest {
        Some((distance, key)) if distance <= 3.max(wrong.len() / 2) => format!("; did you mean `{key}`?"),
        _ => String::new(),
    }
}

pub(super) fn refuse_writable_by_others(path: &Path) -> Result<(), ConfigError> {
    let exposed = is_writable_by_others(path);
    if exposed.map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })? {
        return Err(ConfigError::WritableByOthers { path: path.to_path_buf() });
    }
    Ok(())
}
