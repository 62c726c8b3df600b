//! What the log and the status say of keys that cannot be read, were replaced, or are gone.

use std::time::Instant;

use tracing::{error, warn};

use super::former::Former;
use super::slot::Finished;
use super::unreadable::Unreadable;
use crate::error::{Error, ErrorKind};
use crate::name::KeyName;
use crate::primitives::Fingerprint;

/// Remembers what reads brought, for as long as the log, the status or an error may have to speak of it.
#[derive(Default)]
pub struct Report {
    pub unreadable: Unreadable,
    pub former: Former,
}

impl Report {
    /// Takes in how a read of a key went. Returns whether the key is there and cannot be read.
    pub fn learn(&self, name: &KeyName, failure: Option<&Error>) -> bool {
        match failure {
            // The backend as a whole is away or refuses us, which says nothing of what is in it.
            Some(error) if error.kind().is_outage() || error.kind() == ErrorKind::LoginRefused => false,
            Some(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => {
                if self.unreadable.note(name, error.kind(), Instant::now()) {
                    error!(key = %name, cause = error.as_dyn(), "key is there and cannot be read");
                }
                true
            }
            _ => {
                self.unreadable.clear(name);
                false
            }
        }
    }

    /// Takes in a read that the cache took in. `has_copy` says that a key is in memory after it.
    pub fn finished(&self, name: &KeyName, read: &Finished, has_copy: bool) {
        let is_unreadable = self.learn(name, read.outcome.as_ref().err());
        let before = match (read.dropped, &read.outcome) {
            (Some(dropped), _) => {
                self.former.note(name, dropped);
                Some(dropped)
            }
            (None, Ok(key)) => self.former.arrived(name, key.fingerprint()),
            (None, Err(_)) => None,
        };
        match (&read.outcome, before) {
            (Ok(key), Some(before)) => error!(
                key = %name, fingerprint = ?key.fingerprint(), fingerprint_before = ?before,
                "key was replaced in the store by another one; what was sealed under the old one is lost unless it is restored"
            ),
            (Err(error), Some(_)) if !is_unreadable => {
                warn!(key = %name, cause = error.as_dyn(), "key is gone from the store");
            }
            (Err(error), None) if !is_unreadable && has_copy => {
                warn!(key = %name, "key could not be read again; the copy in memory is used while it may: {}", error.chain());
            }
            _ => {}
        }
    }

    /// Takes in that a key was created here, in the place of the key with the fingerprint `before`.
    pub fn created(&self, name: &KeyName, fingerprint: &Fingerprint, before: Option<Fingerprint>) {
        if let Some(before) = before.filter(|before| before != fingerprint) {
            self.former.note(name, before);
        }
        self.former.arrived(name, fingerprint);
        self.unreadable.clear(name);
    }
}
