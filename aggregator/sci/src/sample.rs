//! What the tests of several rooms begin with.

use alloc::string::ToString;
use joulebook_units::{Service, Serving, VersionSource};

/// A version of a model of which nothing else is known.
pub(crate) fn service(version: &str) -> Service {
    Service {
        model: Some("tiny".to_string()),
        version: Some(version.to_string()),
        version_source: VersionSource::Config,
        fingerprint: None,
        adapter: None,
        engine: "custom".to_string(),
        target: alloc::format!("http://{version}/"),
        workload: None,
        tokenizer: None,
        serving: Serving::default(),
    }
}
