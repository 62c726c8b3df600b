//! libpq's password file: lines `host:port:database:user:password`.

use std::fmt;
use std::path::{Path, PathBuf};

use kms_core::primitives::{Secret, read_secret_file};
use zeroize::Zeroizing;

use super::host::Host;

/// The longest file, in bytes.
const MAX_LEN: usize = 1 << 20;
/// The directories of sockets that libpq takes for `localhost`: its own default, and that of Debian.
const OWN_SOCKETS: [&str; 2] = ["/tmp", "/var/run/postgresql"];

/// A password file of libpq. It is read again at each new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassFile(PathBuf);

/// Why a password file gave no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPassword {
    /// Others than its owner may read or change it, so it is left alone, as by libpq.
    Open(PathBuf),
    /// It cannot be read.
    Unreadable(PathBuf, String),
    /// None of its lines is for this host, port, database and role.
    NoLine(PathBuf),
}

impl PassFile {
    /// Names a file. It may be missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the password of the first line that is for this login.
    ///
    /// # Errors
    ///
    /// There is none. The error holds nothing of the file's content.
    pub fn password(&self, host: &Host, database: &str, user: &str) -> Result<Secret, NoPassword> {
        if self.is_open() {
            return Err(NoPassword::Open(self.0.clone()));
        }
        let content = read_secret_file(&self.0, MAX_LEN)
            .map_err(|error| NoPassword::Unreadable(self.0.clone(), error.to_string()))?;
        let found = Self::find(&content, host, database, user);
        found.ok_or_else(|| NoPassword::NoLine(self.0.clone()))
    }

    /// Finds the password of a login in the content of a password file. The first line that is for the login decides, and an empty
    /// password counts as none, as with libpq.
    pub fn find(content: &[u8], host: &Host, database: &str, user: &str) -> Option<Secret> {
        let name = if OWN_SOCKETS.contains(&host.name.as_str()) { "localhost" } else { &host.name };
        let port = host.port.to_string();
        let mut lines = content.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
        let rest = lines.find_map(|line| {
            let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
            let line = line.get(..end).unwrap_or(line);
            [name, &port, database, user].into_iter().try_fold(line, behind)
        })?;
        password(rest)
    }

    /// Returns whether others than the owner of the file may read or change it.
    pub fn is_open(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::metadata(&self.0).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
        }
        #[cfg(not(unix))]
        false
    }
}

impl fmt::Display for NoPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path) => write!(
                f,
                "the password file '{0}' is ignored, since others than its owner may read or change it: 'chmod 600 {0}'",
                path.display()
            ),
            Self::Unreadable(path, why) => {
                write!(f, "the password file '{}' cannot be read: {why}", path.display())
            }
            Self::NoLine(path) => {
                write!(f, "the password file '{}' has no line for this login", path.display())
            }
        }
    }
}

/// Returns what follows a field that is `wanted` or an asterisk; `None` if it is something else.
///
/// A backslash escapes the byte behind it. A colon of `wanted` need not be escaped, so an IPv6 address reads either way.
fn behind<'a>(line: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut rest = line;
    for byte in wanted.bytes() {
        let (first, behind) = rest.strip_prefix(b"\\").unwrap_or(rest).split_first()?;
        if *first != byte {
            return None;
        }
        rest = behind;
    }
    rest.strip_prefix(b":")
}

/// Reads the last field, up to the end or a colon that is not escaped.
fn password(field: &[u8]) -> Option<Secret> {
    // With room for all of it: a vector that grows leaves a copy behind.
    let (mut read, mut bytes) = (Zeroizing::new(Vec::with_capacity(field.len())), field.iter());
    while let Some(byte) = bytes.next().filter(|byte| **byte != b':') {
        let escaped = (*byte == b'\\').then(|| bytes.next()).flatten();
        read.push(*escaped.unwrap_or(byte));
    }
    let text = std::str::from_utf8(&read).ok().filter(|text| !text.is_empty())?;
    Some(Secret::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str, host: &str) -> Option<String> {
        let secret = PassFile::find(content.as_bytes(), &Host::new(host, 5432), "keys", "kms");
        secret.map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_line_for_the_login_decides() {
        let content = "# db:5432:keys:kms:comment\n\nother:*:*:*:no\ndb:5433:keys:kms:no\ndb:5432:keys:you:no\n\
            db:5432:other:kms:no\ndb:5432:keys:kms:one\r\ndb:*:*:*:two\n*:*:*:*:three";
        assert_eq!(found(content, "db").as_deref(), Some("one"));
        assert_eq!(found(content, "db-2").as_deref(), Some("three"));
        assert_eq!(found("db:5432:keys:kms:one", "d"), None);
        assert_eq!(found("d:5432:keys:kms:one", "db"), None);
        assert_eq!(found("db:5432:keys:kms", "db"), None);
        // An empty one is none, and no later line is looked at.
        assert_eq!(found("db:*:*:*:\n*:*:*:*:two", "db"), None);
    }

    #[test]
    fn a_backslash_escapes_and_a_colon_ends_the_password() {
        assert_eq!(found(r"d\b:*:*:*:a\:b\\c:rest", "db").as_deref(), Some(r"a:b\c"));
        assert_eq!(found(r"*:*:*:*:end\", "db").as_deref(), Some(r"end\"));
        assert_eq!(found(r"\*:*:*:*:star", "db"), None);
        assert_eq!(found(r"\*:*:*:*:star", "*").as_deref(), Some("star"));
        for line in [r"\:\:1:*:*:*:six", "::1:*:*:*:six"] {
            assert_eq!(found(line, "::1").as_deref(), Some("six"), "{line}");
        }
    }

    #[test]
    fn the_directory_of_the_systems_socket_is_localhost() {
        assert_eq!(found("localhost:*:*:*:own", "/var/run/postgresql").as_deref(), Some("own"));
        assert_eq!(found("localhost:*:*:*:own", "/srv/sockets"), None);
        assert_eq!(found("/srv/sockets:*:*:*:other", "/srv/sockets").as_deref(), Some("other"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_ignored_and_no_text_quotes_one() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        let file = PassFile::new(&path);
        let password = || file.password(&Host::new("db", 5432), "keys", "kms");
        assert!(matches!(password(), Err(NoPassword::Unreadable(..))));
        std::fs::write(&path, "db:*:*:*:pw-secret\n").unwrap();
        for (mode, is_read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match password() {
                Ok(secret) => assert!(is_read && secret.expose() == "pw-secret", "{mode:o}"),
                Err(why) => assert!(!is_read && why.to_string().contains("chmod 600"), "{mode:o}: {why}"),
            }
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let none = file.password(&Host::new("other", 5432), "keys", "kms").unwrap_err();
        assert!(!format!("{none} {none:?} {file:?}").contains("secret"), "{none:?}");
    }
}
