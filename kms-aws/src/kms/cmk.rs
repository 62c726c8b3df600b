//! A CMK, with all that is cached of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kms::types::KeyMetadata;
use jiff::Timestamp;
use kms_core::KeyName;
use kms_core::single_flight::SingleFlight;
use tokio::sync::OnceCell;

use super::config::Reuse;
use super::lifecycle::timestamp;
use super::working_key::{OpenedKey, WorkingKey};

/// The digest of something that AWS called inauthentic.
pub type Digest = [u8; 32];

/// A CMK under the name of one key. Nothing that is cached of it is found under another name.
pub struct Cmk {
    pub name: KeyName,
    pub arn: String,
    pub id: String,
    pub created_at: Option<Timestamp>,
    /// Who made it. The tag is read once.
    pub creator: OnceCell<String>,
    /// The working key that seals.
    pub sealing: SingleFlight<Arc<WorkingKey>>,
    /// The working key that will seal when that one has ended.
    pub next: Arc<SingleFlight<Arc<WorkingKey>>>,
    renewal: Mutex<()>,
    /// The opened working keys, by the blob in which each is wrapped.
    pub opened: papaya::HashMap<Box<[u8]>, Arc<OpenedKey>>,
    /// What AWS calls inauthentic, and since when.
    refused: Mutex<HashMap<Digest, Instant>>,
    /// The ARN of the CMK that makes the HMACs.
    pub hmac: Arc<SingleFlight<String>>,
    /// Whether the CMK was deleted here. If so it is not used, whatever AWS still shows.
    deleted: AtomicBool,
}

impl Cmk {
    /// Takes in what AWS says of the CMK behind the alias of `name`.
    pub fn new(name: &KeyName, metadata: &KeyMetadata) -> Self {
        Self {
            name: name.clone(),
            arn: metadata.arn().unwrap_or(metadata.key_id()).to_owned(),
            id: metadata.key_id().to_owned(),
            created_at: timestamp(metadata.creation_date()),
            creator: OnceCell::new(),
            sealing: SingleFlight::default(),
            next: Arc::default(),
            renewal: Mutex::default(),
            opened: papaya::HashMap::new(),
            refused: Mutex::default(),
            hmac: Arc::default(),
            deleted: AtomicBool::new(false),
        }
    }

    /// Notes whether it was deleted here.
    pub fn set_deleted(&self, deleted: bool) {
        self.deleted.store(deleted, Ordering::Release);
    }

    /// Returns whether it was deleted here.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Returns whether AWS said of this digest that it is not authentic, less than `any` ago.
    pub fn has_refused(&self, digest: &Digest, any: Duration) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(digest).is_some_and(|since| since.elapsed() < any)
    }

    /// Remembers that AWS said so. When the memory is full, it begins anew.
    pub fn remember_refused(&self, digest: Digest) {
        const MOST: usize = 10_000;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MOST {
            refused.clear();
        }
        refused.insert(digest, Instant::now());
    }

    /// Returns whether there is a working key that may still seal.
    pub fn is_sealing(&self, reuse: Reuse) -> bool {
        self.sealing.get().is_some_and(|key| {
            key.began().elapsed() < reuse.max_age && key.uses.load(Ordering::Relaxed) < reuse.max_uses
        })
    }

    /// Lets the next working key seal if the present one has ended. Returns false if there is no next one.
    pub fn renew(&self, reuse: Reuse) -> bool {
        let _one_at_a_time = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_sealing(reuse) {
            return true;
        }
        let Some(next) = self.next.take() else { return false };
        self.sealing.put(Arc::clone(next.value()), next.began() + next.lead);
        true
    }

    /// Drops the working keys that seal no more. Ciphertexts under them are opened by their blobs.
    pub fn drop_ended(&self, reuse: Reuse, offline: Duration) {
        if self.sealing.get().is_some_and(|key| key.began().elapsed() >= reuse.max_age.max(offline)) {
            self.sealing.clear();
        }
        if self.next.get().is_some_and(|key| key.began().elapsed() >= reuse.max_age + key.lead) {
            self.next.clear();
        }
    }

    /// Lets no working key that is in memory, or on its way, seal any more. Ciphertexts under them are opened by their blobs.
    pub fn end_sealing(&self) {
        self.next.outdate();
        self.next.clear();
        self.sealing.clear();
    }

    /// Drops every key that is in memory.
    pub fn wipe(&self) {
        self.next.clear();
        self.sealing.clear();
        for opened in self.opened.pin().values() {
            opened.flight.clear();
        }
        self.opened.pin().clear();
    }
}
