//! The keys that had the name of another one: what explains a ciphertext that is not authentic.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};
use crate::{Error, ErrorKind, Fingerprint, KeyName};

/// The most names that are remembered.
const MOST: usize = 1024;

/// The fingerprint of the last key that was deleted, or replaced in the store, of each name.
#[derive(Default)]
pub struct Former(Mutex<BTreeMap<KeyName, Fingerprint>>);

impl Former {
    /// Notes that the key of this fingerprint is no longer that of the name.
    pub fn note(&self, name: &KeyName, fingerprint: Fingerprint) {
        let mut names = self.lock();
        if names.len() < MOST || names.contains_key(name) {
            names.insert(name.clone(), fingerprint);
        }
    }

    /// Adds to the error that a ciphertext is not authentic why that may be, if another key had the name of this one.
    pub fn explain(&self, error: Error, name: &KeyName, fingerprint: &Fingerprint) -> Error {
        let before = self.lock().get(name).copied().filter(|before| before != fingerprint);
        match before {
            Some(before) if error.kind() == ErrorKind::NotAuthentic => {
                let why = format!(
                    "the key was made anew under this name, fingerprint {fingerprint:?}, and what was sealed under the \
                     one before it, fingerprint {before:?}, is lost unless that is restored"
                );
                Error::with_source(
                    ErrorKind::NotAuthentic,
                    format!("open a ciphertext with key '{name}'"),
                    why,
                )
            }
            _ => error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<KeyName, Fingerprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
