//! Names of model versions for people, and digests of what tells versions of one name apart.

use joulebook_sci::ModelVersion;
use joulebook_units::ServingConfiguration;
use std::collections::{BTreeMap, BTreeSet};

/// Characters of a digest that a name shows.
const SHOWN: usize = 8;
/// Characters of a serving configuration's digest.
const DIGEST: usize = 16;

/// `model@version` for people; what is not known is said so.
pub fn version_name(version: &ModelVersion) -> String {
    let known = |name: &Option<String>| name.clone().unwrap_or_else(|| "unresolved".to_owned());
    format!("{}@{}", known(&version.model), known(&version.version))
}

/// Model versions of one answer, and which of their names are not enough.
pub struct Names<'a>(BTreeMap<[Option<&'a String>; 2], Vec<&'a ModelVersion>>);

impl<'a> Names<'a> {
    /// The names of these.
    pub fn of(versions: impl IntoIterator<Item = &'a ModelVersion>) -> Self {
        let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for version in versions {
            names.entry([version.model.as_ref(), version.version.as_ref()]).or_default().push(version);
        }
        Self(names)
    }

    /// `model@version`, and what tells it from the others of that name.
    pub fn full(&self, version: &ModelVersion) -> String {
        version_name(version) + &self.mark(version)
    }

    /// The version, and what tells it from the others of its name.
    pub fn version(&self, version: &ModelVersion) -> String {
        version.version.clone().unwrap_or_else(|| "unresolved".to_owned()) + &self.mark(version)
    }

    fn mark(&self, version: &ModelVersion) -> String {
        let same = self.0.get(&[version.model.as_ref(), version.version.as_ref()]).map_or(&[][..], Vec::as_slice);
        let weights: BTreeSet<_> = same.iter().map(|other| &other.weights).collect();
        let set_ups: BTreeSet<_> = same.iter().map(|other| &other.configuration).collect();
        let mut marks = Vec::new();
        if weights.len() > 1 {
            marks.push(format!("weights {}", short(version.weights.as_deref())));
        }
        if set_ups.len() > 1 {
            marks.push(format!("set-up {}", short(digest(&version.configuration).as_deref())));
        }
        if marks.is_empty() { String::new() } else { format!(" [{}]", marks.join(", ")) }
    }
}

/// The first characters of a digest, without the kind before the colon.
fn short(digest: Option<&str>) -> String {
    let hex = digest.map(|digest| digest.rsplit(':').next().unwrap_or(digest));
    hex.map_or_else(|| "unknown".to_owned(), |hex| hex.chars().take(SHOWN).collect())
}

/// Digest of a serving configuration: 16 hexadecimal digits of BLAKE3 over [`describe`]; `None` where nothing is known.
pub fn digest(configuration: &ServingConfiguration) -> Option<String> {
    let text = describe(configuration)?;
    Some(blake3::hash(text.as_bytes()).to_hex().chars().take(DIGEST).collect())
}

/// A serving configuration as `name=value` with commas between; `None` where nothing is known.
pub fn describe(configuration: &ServingConfiguration) -> Option<String> {
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let parts = [
        ("engine_version", configuration.engine_version.clone()),
        ("quantisation", configuration.quantisation.clone()),
        ("max_batch", number(configuration.max_batch)),
        ("tensor_parallel", number(configuration.tensor_parallel)),
        ("pipeline_parallel", number(configuration.pipeline_parallel)),
        ("data_parallel", number(configuration.data_parallel)),
        ("power_limit_milliwatts", configuration.power_limit_milliwatts.map(|limit| limit.to_string())),
    ];
    let known: Vec<String> =
        parts.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_no_more_than_it_takes_to_tell_rows_apart() {
        let version = |weights: Option<&str>, batch: Option<u32>| ModelVersion {
            model: Some("m".to_owned()),
            version: Some("1".to_owned()),
            weights: weights.map(str::to_owned),
            configuration: ServingConfiguration { max_batch: batch, ..ServingConfiguration::default() },
        };
        let other = ModelVersion { version: Some("2".to_owned()), ..version(None, None) };
        let (one, two, three) =
            (version(Some("gguf-blake3:aabbccddee"), None), version(Some("x:11"), None), version(None, Some(4)));
        let names = |all: &[&ModelVersion], of: &ModelVersion| Names::of(all.iter().copied()).full(of);
        assert_eq!(names(&[&one, &other], &one), "m@1");
        assert_eq!(names(&[&one, &two], &one), "m@1 [weights aabbccdd]");
        let mark = names(&[&one, &three], &three);
        let set_up = digest(&three.configuration).expect("known");
        assert_eq!(mark, format!("m@1 [weights unknown, set-up {}]", &set_up[..8]));
        assert_eq!(describe(&three.configuration).as_deref(), Some("max_batch=4"));
        assert_eq!(digest(&one.configuration), None);
    }
}
