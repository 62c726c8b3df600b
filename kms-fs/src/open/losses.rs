//! Accepting the losses of a damaged store.

use super::stored::Stored;
use super::unwrap::unwrap_any;
use crate::config::{FsConfig, OpenMode};
use crate::disk::Lock;
use crate::error::OpenError;
use crate::keys::{Header, RootKey};
use crate::recovery::{self, Known};

/// Accepts that entries are lost whose very names are lost, so that the store in `config` takes writes again.
///
/// Everything that can be read is written anew. The damaged files are kept under other names, and no start
/// looks for them any more. Returns what an operator should know, a sentence each.
///
/// # Errors
///
/// - [`OpenError::NoStore`]: there is no store.
/// - [`OpenError::InUse`]: another process uses the store.
/// - [`OpenError::WrongRootKey`]: `root_key` is not the one of the store.
/// - [`OpenError::OtherRoot`]: a root key is given, and the store has none.
/// - [`OpenError::Corrupt`]: not even a header can be read.
/// - [`OpenError::Io`]: a file cannot be read or written.
pub fn accept_losses(config: &FsConfig, root_key: Option<&RootKey>) -> Result<Vec<String>, OpenError> {
    let mut warnings = Vec::new();
    let unwrap = |headers: &[Header]| match root_key {
        Some(root_key) => unwrap_any(headers, root_key, &config.path, &mut warnings).map(|(n, _)| (n, ())),
        None => Ok((0, ())),
    };
    if !recovery::exists(&config.path)? {
        return Err(OpenError::NoStore { path: config.path.clone() });
    }
    let lock = Lock::take(&config.path)?;
    recovery::clean_up(&config.path)?;
    let (stored, ()) = Stored::load(config, OpenMode::Salvage, Some(lock), unwrap)?;
    let Stored { lock: _lock, head, entries, last, .. } = stored;
    let known = Known { journal_has_more: true, last, ..Known::default() };
    recovery::settle(config, &head, &entries, known, &mut warnings)?;
    Ok(warnings)
}
