//! Name and password for a BMC: from a file and from nowhere else, read anew when the BMC refuses them.

use serde::Deserialize;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Larger files are no credentials.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Name and password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Name of the account.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Secret").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("reading the credentials {path} failed: {source}; name an existing file that this user may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could take the password.
    #[error("the credentials {path} can be read or written by others: run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Something else is in it. What, is not said: it may be the password.
    #[error("the credentials {path} cannot be used: write two lines, user = \"…\" and password = \"…\"")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the file (TOML: `user` and `password`). Nobody but its owner may read or write it, and its group if that is said.
///
/// # Errors
/// See [`SecretError`].
pub fn read(path: &Path, group_readable: bool) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let exposed = if group_readable { 0o026 } else { 0o066 };
    if file.metadata().map_err(unreadable)?.mode() & exposed != 0 {
        return Err(SecretError::Exposed { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    toml::from_str(&text).map_err(|_| SecretError::Malformed { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_read_is_refused_and_no_error_shows_its_content() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("bmc.toml");
        let put = |text: &str, mode: u32| {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("own file");
        };
        put("user = \"power\"\npassword = \"s3cret\"\n", 0o600);
        let secret = read(&path, false).expect("good");
        assert_eq!((secret.user.as_str(), secret.password.as_str()), ("power", "s3cret"));
        assert!(!format!("{secret:?}").contains("s3cret"));
        put("user = \"power\"\npassword = \"s3cret\"\n", 0o640);
        assert!(matches!(read(&path, false), Err(SecretError::Exposed { .. })));
        assert!(read(&path, true).is_ok());
        put("s3cret", 0o600);
        let error = read(&path, false).expect_err("malformed");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}
