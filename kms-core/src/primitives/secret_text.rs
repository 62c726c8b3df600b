//! Secret texts of a configuration, and where they come from.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::file::read_secret_file;

/// The largest file of a secret, in bytes.
const MAX_SECRET_LEN: usize = 1 << 20;

/// A secret text of a configuration. It is wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Returns the text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The source of a secret text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The text itself.
    Value(Secret),
    /// A file that holds the text, possibly between white space. It is read again each time the text is needed.
    File(PathBuf),
}

impl SecretSource {
    /// Returns the text, without white space around it if it is in a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, has more than 1 MiB, is no text in UTF-8, or holds nothing. The error is a text that names the
    /// file and the reason.
    pub fn read(&self) -> std::result::Result<Secret, String> {
        let path = match self {
            Self::Value(secret) => return Ok(secret.clone()),
            Self::File(path) => path,
        };
        let failed = |why: &str| format!("read '{}': {why}", path.display());
        let text = read_secret_file(path, MAX_SECRET_LEN).map_err(|error| failed(&error.to_string()))?;
        let text = std::str::from_utf8(&text).map_err(|_| failed("it is no text in UTF-8"))?;
        match text.trim() {
            "" => Err(failed("the file is empty")),
            secret => Ok(Secret::from(secret)),
        }
    }
}
