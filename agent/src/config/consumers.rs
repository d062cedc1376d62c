//! How consumers are named beyond this node, and the secret behind hashed names.

use super::ConfigError;
use crate::inference::Names;
use serde::Deserialize;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The secret's file in the spool's folder, where the configuration names none.
const OWN_SECRET: &str = "consumers.secret";
const SECRET_BYTES: usize = 32;
/// Shortest secret that somebody may choose.
const LEAST_BYTES: usize = 16;
const MOST_BYTES: u64 = 4096;
/// What the key of hashes is derived for.
const CONTEXT: &str = "joulebook 2026-11-26 names of consumers";

/// Names of consumers: teams, users, keys.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsumersSection {
    /// How they are told to the aggregator.
    pub names: NameForm,
    /// File with the secret of hashed names; one of its own in the spool's folder if unset.
    pub secret_file: Option<PathBuf>,
}

/// Form of consumers' names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameForm {
    /// A hash under a secret of this node.
    #[default]
    Hashed,
    /// As the gateway has them.
    Raw,
}

impl ConsumersSection {
    /// How consumers are named. A secret of this agent's own is made in `spool` if there is none.
    ///
    /// # Errors
    /// The secret cannot be read or made, is too short, or others may read it.
    pub fn names(&self, spool: &Path) -> Result<Names, ConfigError> {
        if self.names == NameForm::Raw {
            return Ok(Names::Raw);
        }
        let secret = match &self.secret_file {
            Some(path) => read(path)?,
            None => own(&spool.join(OWN_SECRET))?,
        };
        Ok(Names::Hashed(blake3::derive_key(CONTEXT, &secret)))
    }
}

fn own(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return read(path),
        Err(source) => return Err(failed(source)),
    };
    let mut secret = vec![0; SECRET_BYTES];
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret)).map_err(failed)?;
    // A secret that is lost makes strangers of known consumers: it is on the disk before it is used.
    file.write_all(&secret).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(secret)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let private = file.metadata().map_err(failed)?.mode() & 0o077 == 0;
    let mut secret = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut secret).map_err(failed)?;
    if !private || secret.len() < LEAST_BYTES || secret.len() as u64 > MOST_BYTES {
        return Err(ConfigError::value(
            "consumers.secret_file",
            "a file of 16 to 4096 bytes that only its owner may read (mode 0600)",
        ));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn hash(section: &ConsumersSection, spool: &Path) -> Result<String, String> {
        section.names(spool).map(|names| names.of("team", "risk")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_of_its_own_is_made_once_and_closed_to_others() {
        let spool = tempfile::tempdir().expect("folder");
        let section = ConsumersSection::default();
        let first = hash(&section, spool.path()).expect("made");
        assert_eq!(hash(&section, spool.path()), Ok(first.clone()), "the same after a restart");
        let mode = std::fs::metadata(spool.path().join(OWN_SECRET)).expect("made").mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().expect("folder");
        assert_ne!(hash(&section, other.path()), Ok(first));
        let raw = ConsumersSection { names: NameForm::Raw, secret_file: None };
        assert_eq!(hash(&raw, Path::new("/nowhere")), Ok("risk".to_owned()));
    }

    #[test]
    fn a_secret_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("secret");
        let section = ConsumersSection { names: NameForm::Hashed, secret_file: Some(file.clone()) };
        assert!(hash(&section, folder.path()).is_err_and(|error| error.contains("secret")), "not there");
        for (secret, mode, good) in
            [("short", 0o600, false), ("long enough to hold", 0o640, false), ("long enough to hold", 0o600, true)]
        {
            std::fs::write(&file, secret).expect("file");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("mode");
            assert_eq!(hash(&section, folder.path()).is_ok(), good, "{secret} {mode:o}");
        }
    }
}
