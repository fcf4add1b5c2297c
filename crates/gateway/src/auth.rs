//! The user and password that `/system/*` asks for: made once, kept in two files, compared in constant time.
//! [`crate::Gateway::start`] loads them; the server asks about every call to `/system/*`.
//! It never guards `/function/*` or `/healthz`, and never writes a password anywhere but into its 0600 file.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The user of a home that names none.
const USER: &str = "admin";
/// Random bytes in a password.
const PASSWORD_BYTES: usize = 32;

/// Why the credentials could not be loaded or made.
#[derive(Debug, Error)]
pub enum AuthError {
    /// A file or its folder could not be read or written.
    #[error("The credentials file {} cannot be used: give this user access to it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A credentials file is there, with nothing in it.
    #[error("The credentials file {} is empty: delete it to have a new one made, or write the value into it", .0.display())]
    Empty(PathBuf),
    /// The system has no random bytes.
    #[error("The system has no random bytes for a password: {0}")]
    Random(getrandom::Error),
}

/// The credentials that `/system/*` takes.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// `user:password`, as basic authentication sends it before base64.
    expected: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Reads `<home>/auth/basic-auth-user` and `basic-auth-password`, making what is absent.
    pub(crate) fn load_or_create(home: &Path) -> Result<Credentials, AuthError> {
        let folder = home.join("auth");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| AuthError::File { path: folder.clone(), source })?;
        let user = read_or_create(&folder.join("basic-auth-user"), || Ok(USER.to_owned()))?;
        let password = read_or_create(&folder.join("basic-auth-password"), random_password)?;
        Ok(Credentials { expected: format!("{user}:{password}").into_bytes() })
    }

    /// Whether a request carries these credentials.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let value = value.as_bytes();
        let Some((scheme, encoded)) = value.split_at_checked(6) else { return false };
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return false;
        }
        STANDARD.decode(encoded.trim_ascii()).is_ok_and(|sent| equal_in_constant_time(&sent, &self.expected))
    }
}

/// Compares without telling by its duration where two secrets differ; only the sent length shows.
fn equal_in_constant_time(sent: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(sent.len() != expected.len());
    for (index, byte) in sent.iter().enumerate() {
        // Beyond the end any byte will do: the lengths differ already.
        difference = black_box(difference | (byte ^ expected.get(index).unwrap_or(&0)));
    }
    difference == 0
}

fn random_password() -> Result<String, AuthError> {
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(AuthError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn read_or_create(path: &Path, make: impl FnOnce() -> Result<String, AuthError>) -> Result<String, AuthError> {
    let refused = |source| AuthError::File { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Err(AuthError::Empty(path.to_owned())),
        Ok(text) => {
            warn_of_readers(path);
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make()?;
            write_whole(path, &text).map_err(refused)?;
            Ok(text)
        }
        Err(error) => Err(refused(error)),
    }
}

/// Writes beside the file and renames, so that a crash never leaves half a password.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn warn_of_readers(path: &Path) {
    let others_may_read = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    if others_may_read {
        tracing::warn!(path = %path.display(), "Other users of this machine may read a credentials file: chmod 600 it");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn header(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(text).unwrap());
        headers
    }

    fn basic(pair: &str) -> HeaderMap {
        header(&format!("Basic {}", STANDARD.encode(pair)))
    }

    #[test]
    fn the_password_is_made_once_in_a_file_of_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        Credentials::load_or_create(home.path()).unwrap();
        let path = home.path().join("auth/basic-auth-password");
        let password = fs::read_to_string(&path).unwrap();
        assert_eq!(password.len(), 43);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Credentials::load_or_create(home.path()).unwrap();
        assert!(again.admit(&basic(&format!("admin:{password}"))));
    }

    #[test]
    fn an_empty_password_file_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("auth")).unwrap();
        fs::write(home.path().join("auth/basic-auth-password"), "\n").unwrap();
        assert!(matches!(Credentials::load_or_create(home.path()), Err(AuthError::Empty(_))));
    }

    #[test]
    fn only_the_whole_pair_is_admitted() {
        let credentials = Credentials { expected: b"admin:s3cret".to_vec() };
        assert!(credentials.admit(&basic("admin:s3cret")));
        assert!(credentials.admit(&header(&format!("bAsIc  {}", STANDARD.encode("admin:s3cret")))));
        for wrong in ["admin:s3cre", "admin:s3crets", "admin:", "", "root:s3cret", "admin:S3cret"] {
            assert!(!credentials.admit(&basic(wrong)), "{wrong}");
        }
        for wrong in ["", "Basic", "Basic ", "Basic ???", "Bearer admin:s3cret"] {
            assert!(!credentials.admit(&header(wrong)), "{wrong}");
        }
        assert!(!credentials.admit(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn the_constant_time_comparison_is_equality(left: Vec<u8>, right: Vec<u8>) {
            prop_assert_eq!(equal_in_constant_time(&left, &right), left == right);
            prop_assert!(equal_in_constant_time(&left, &left));
        }
    }
}
