//! What a store in escrow consists of, and what of it an entry is.

use std::sync::{Arc, Weak};

use kms_core::store::{EntryName, KeyStore};
use kms_core::{Error, KeyName};

use super::known::Known;
use super::line::Subject;
use super::writer::{Unwritten, Writer};
use crate::recipients::Recipients;
use crate::settings::EscrowFailure;

/// What of a store an entry is.
pub enum Kind {
    /// A key or a later version, which are kept in escrow.
    Record,
    /// The mark of a deleted key, and that key.
    Deleted(KeyName, Subject),
    /// Anything else.
    Other,
}

/// A key store in which each key, and each later version of one, is sealed into the escrow file first.
///
/// The order makes each cut harmless: the sealed record is on the disk before the store is asked, and the mark that the store
/// has it is on the disk before anybody hears yes. A deletion is noted after the store's, and a restore before it.
pub struct Escrowed {
    pub(super) this: Weak<Self>,
    pub(super) inner: Arc<dyn KeyStore>,
    pub(super) writer: Writer,
    pub(super) recipients: Recipients,
    pub(super) on_failure: EscrowFailure,
    pub(super) known: Arc<Known>,
}

/// The reason why a key was not stored: it cannot be put into escrow.
#[derive(Debug, thiserror::Error)]
#[error("the escrow file cannot be written: {0}")]
pub struct NoEscrow(pub(super) Unwritten);

impl NoEscrow {
    /// Returns whether this is the reason of an error.
    pub fn is_under(error: &Error) -> bool {
        let mut next = std::error::Error::source(error);
        while let Some(source) = next {
            if source.is::<Self>() {
                return true;
            }
            next = source.source();
        }
        false
    }
}

/// Returns what of a store an entry is.
pub fn kind(name: &EntryName) -> Kind {
    let text = name.as_str();
    if !name.is_hidden() || text.starts_with(".v/") {
        return Kind::Record;
    }
    match text.strip_prefix(".d/").and_then(|rest| rest.split_once('/')) {
        Some((key, fingerprint)) => match KeyName::new(key) {
            Ok(name) => Kind::Deleted(name, Subject::new(key, Some(fingerprint))),
            Err(_) => Kind::Other,
        },
        None => Kind::Other,
    }
}

/// Returns the key that an entry belongs to.
pub fn key_of(entry: &str) -> Option<KeyName> {
    let name = match entry.strip_prefix(".v/") {
        Some(rest) => rest.split('/').next()?,
        None => entry,
    };
    KeyName::new(name).ok()
}
