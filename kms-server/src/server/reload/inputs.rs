//! The files of a TLS configuration: whether they were written, and whether their content has changed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::settings::{KeyStoreSettings, Settings, TlsSettings};

/// The state of the files before a TLS configuration was made from them, so that no later change is missed.
pub(crate) struct Seen {
    pub(super) watched: Watched,
    pub(super) inputs: TlsInputs,
}

impl Seen {
    /// Reads the state of the files that `settings` name.
    pub(crate) fn of(settings: &Settings) -> Self {
        let watched = Watched::of(&settings.tls);
        Self { watched, inputs: TlsInputs::of(&settings.tls, settings.needs_certificates()) }
    }
}

/// Hashes of everything that a TLS configuration is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TlsInputs {
    /// The server's own certificate and key.
    pub(super) pair: u64,
    /// The rule for clients' certificates.
    pub(super) rule: u64,
}

impl TlsInputs {
    /// Reads the files. An unreadable file, or one that is not a regular file, counts as empty.
    pub(super) fn of(settings: &TlsSettings, needs_certificates: bool) -> Self {
        let TlsSettings { cert, key, ca, verify_clients, proxy, .. } = settings;
        let mut pair = DefaultHasher::new();
        content(cert).as_deref().hash(&mut pair);
        content(key).as_deref().hash(&mut pair);
        settings.password().hash(&mut pair);
        let mut rule = DefaultHasher::new();
        (verify_clients, needs_certificates).hash(&mut rule);
        if *verify_clients {
            for file in kms_trust::files_of(ca.as_deref()) {
                content(&file).as_deref().hash(&mut rule);
            }
        }
        proxy.hash(&mut rule);
        Self { pair: pair.finish(), rule: rule.finish() }
    }
}

/// Returns a hash of the files for the TLS connections to a Vault.
pub(super) fn of_vault(key_store: &KeyStoreSettings) -> u64 {
    let mut hasher = DefaultHasher::new();
    for tls in key_store.vault_tls() {
        hash_files(&mut hasher, [&tls.cert, &tls.key], tls.ca.as_deref());
    }
    hasher.finish()
}

/// Returns a hash of the files for the TLS connections to a PostgreSQL.
pub(super) fn of_postgres(key_store: &KeyStoreSettings) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(config) = key_store.postgres() {
        hash_files(&mut hasher, [&config.tls.cert, &config.tls.key], config.tls.ca.as_deref());
    }
    hasher.finish()
}

fn hash_files(hasher: &mut DefaultHasher, own: [&Option<PathBuf>; 2], ca: Option<&Path>) {
    for file in own.into_iter().flatten().cloned().chain(kms_trust::files_of(ca)) {
        content(&file).as_deref().hash(hasher);
    }
}

fn content(file: &Path) -> Option<Zeroizing<Vec<u8>>> {
    kms_trust::read_file(file).ok()
}

/// The metadata of the files of a TLS configuration.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Watched(Vec<(PathBuf, Option<Stamp>)>);

/// The identity of a file, its times and its length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
    len: u64,
}

impl Watched {
    pub(super) fn of(settings: &TlsSettings) -> Self {
        let own = [settings.cert.clone(), settings.key.clone()];
        let ca = settings.ca.as_deref();
        let cas = if settings.verify_clients { kms_trust::files_of(ca) } else { Vec::new() };
        Self(own.into_iter().chain(cas).map(|path| (path.clone(), Stamp::of(&path))).collect())
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            len: found.len(),
        })
    }
}
