//! The rule for unusable entries: what exists is never reported as absent.

use std::sync::Arc;

use async_trait::async_trait;

use super::fixture::{key, request};
use crate::error::{Error, ErrorKind};
use crate::kms::{ImportedKey, Kms};
use crate::listing::ListQuery;
use crate::name::KeyName;
use crate::primitives::seal::DataKey;
use crate::primitives::{Cipher, SecretBytes, SecretKey};
use crate::status::StoreStatus;

/// A state of a key's entry that something other than the key server has caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// The entry exists, and does not have the form of the backend's entries: a secret without its field, a directory in
    /// place of a file, a disabled CMK, an entry that fails its seal.
    Unreadable,
    /// The backend refuses the read of this one entry. It may reveal the name or not.
    Denied,
    /// The entry can be read, and it is not a record of a key.
    Undecodable,
    /// The entry can be read, and it is empty.
    Empty,
    /// The entry was deleted with the backend's own means, in a way that can be undone.
    DeletedButRestorable,
}

impl Spoilt {
    /// All states, in the order in which [`unreadable`] checks them.
    pub const ALL: [Self; 5] =
        [Self::Unreadable, Self::Denied, Self::Undecodable, Self::Empty, Self::DeletedButRestorable];
}

/// Damages the entries of a backend, for [`unreadable`]. The author of a backend implements it.
///
/// The methods work on the backend itself: the file in the directory, the secret in Vault through a root token, the bytes
/// under the seal. [`open`](Self::open) returns the service as a server has it. At most one service is open at a time,
/// and none while one of the other methods runs. So the suite also works for a backend that only one process can open.
#[async_trait]
pub trait Spoiler: Sync {
    /// Opens the service with an empty cache. The service of the previous call was dropped.
    async fn open(&self) -> Arc<dyn Kms>;

    /// Brings the entry of `name`, which holds a good key, into `state`. All other keys stay as they are.
    ///
    /// Returns `false`, and changes nothing, if the state has no meaning for this backend. Keep everything that
    /// [`mend`](Self::mend) will need.
    async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool;

    /// Undoes the preceding [`spoil`](Self::spoil) of the same name: the entry holds the same key again.
    async fn mend(&self, name: &KeyName, state: Spoilt);

    /// Returns the content of the entry `name`, in any form that changes with the entry: its bytes, or its version and
    /// state.
    ///
    /// This method has all rights, also those that the service lacks.
    async fn content(&self, name: &KeyName) -> Vec<u8>;
}

/// Checks that an existing key is never reported as absent, in every state of [`Spoilt`] that the backend knows.
///
/// If a key server answers 404 for a key that exists, its client makes the key anew. MinIO does so at its start, and
/// everything sealed before is lost. So the suite checks for each state, with a good key beside the spoilt one:
///
/// * Every use of the key fails with a kind that a server answers as 502. It is not `NotFound`, it blames neither the
///   request nor the ciphertext, and it is no outage. (If the entry is deleted but restorable: any kind that the backend
///   has for it, but no success.)
/// * A create and an import fail with `AlreadyExists`. (If reading is denied: or with any kind that a server answers as
///   502.)
/// * A delete fails with a kind that a server answers as 502. (Not checked if the entry is deleted already.)
/// * The name is listed, unless the listing itself is denied. (Not checked if the entry is deleted already.)
/// * The status is no error. After a failed read it is degraded and names the key. (The latter is not checked if the
///   entry is deleted already.)
/// * The other key works, and the spoilt entry is left as it was: once it is mended, every ciphertext opens.
///
/// Returns the states that have a meaning for the backend. The caller compares them with those that it expects, so that
/// no state is skipped unnoticed:
///
/// ```
/// # use std::sync::{Arc, Mutex};
/// # use async_trait::async_trait;
/// use kms_core::contract::{Spoiler, Spoilt, unreadable};
/// # use kms_core::primitives::SecretBytes;
/// # use kms_core::store::{EntryName, MemoryStore};
/// # use kms_core::{KeyName, KeyRing, Kms};
///
/// # #[derive(Default)]
/// struct Memory {
///     store: Arc<MemoryStore>,
///     good: Mutex<Option<SecretBytes>>,
/// }
///
/// #[async_trait]
/// impl Spoiler for Memory {
///     async fn open(&self) -> Arc<dyn Kms> {
///         Arc::new(KeyRing::new(Arc::clone(&self.store), Default::default()))
///     }
///
///     async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool {
///         let bytes = match state {
///             Spoilt::Undecodable => b"no record".as_slice(),
///             Spoilt::Empty => b"",
///             _ => return false,
///         };
///         *self.good.lock().unwrap() = self.store.overwrite(&EntryName::from(name), bytes);
///         true
///     }
///
///     async fn mend(&self, name: &KeyName, _: Spoilt) {
///         let good = self.good.lock().unwrap().take().unwrap();
///         self.store.overwrite(&EntryName::from(name), good.expose());
///     }
///
///     async fn content(&self, name: &KeyName) -> Vec<u8> {
///         self.store.bytes(&EntryName::from(name)).unwrap().expose().to_vec()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(unreadable(&Memory::default()).await, [Spoilt::Undecodable, Spoilt::Empty]);
/// # }
/// ```
///
/// # Panics
///
/// If the backend breaks the rule.
pub async fn unreadable(spoiler: &dyn Spoiler) -> Vec<Spoilt> {
    let beside = key("contract-spoilt-beside");
    let kms = spoiler.open().await;
    kms.create(&request(), &beside).await.expect("create a key beside those that are spoilt");
    drop(kms);
    let mut meaningful = Vec::new();
    for state in Spoilt::ALL {
        // Each state has a name of its own, so that what a backend remembers of a name does not affect the next state.
        let name = key(&format!("contract-spoilt-{}", format!("{state:?}").to_lowercase()));
        if check(spoiler, &name, &beside, state).await {
            meaningful.push(state);
        }
    }
    let kms = spoiler.open().await;
    kms.delete(&request(), &beside).await.expect("delete the key beside");
    meaningful
}

/// Checks one state; returns `true` if it has a meaning for the backend.
async fn check(spoiler: &dyn Spoiler, name: &KeyName, beside: &KeyName, state: Spoilt) -> bool {
    let kms = spoiler.open().await;
    kms.create(&request(), name).await.expect("create a key");
    let sealed = kms.generate(&request(), name, b"c").await.expect("generate a DEK");
    let sealed_beside = kms.generate(&request(), beside, b"c").await.expect("generate a DEK");
    drop(kms);

    if spoiler.spoil(name, state).await {
        let before = spoiler.content(name).await;
        let kms = spoiler.open().await;
        // Before the first read, as from a client that only creates.
        nothing_is_made_in_its_place(kms.as_ref(), name, state).await;
        let service = (kms.as_ref(), name);
        no_use_succeeds(service, &sealed, state).await;
        nothing_is_made_in_its_place(kms.as_ref(), name, state).await;
        if state != Spoilt::DeletedButRestorable {
            let deleted = kms.delete(&request(), name).await;
            assert_unusable(deleted, &format!("{state:?}: deleting"));
            no_use_succeeds(service, &sealed, state).await;
            is_listed(kms.as_ref(), name, state).await;
        }
        is_told(kms.status().await, name, state);
        opens(kms.as_ref(), beside, &sealed_beside, &format!("{state:?}: the key beside it works")).await;
        drop(kms);
        assert!(spoiler.content(name).await == before, "{state:?}: the entry is as it was");

        // A server that starts now sees the effects of the deletes and creates of the previous one.
        let kms = spoiler.open().await;
        no_use_succeeds((kms.as_ref(), name), &sealed, state).await;
        drop(kms);
        if state == Spoilt::DeletedButRestorable {
            let kms = spoiler.open().await;
            kms.restore(&request(), name, false).await.expect("restore a key that the backend keeps");
        } else {
            spoiler.mend(name, state).await;
        }
        let kms = spoiler.open().await;
        opens(kms.as_ref(), name, &sealed, &format!("{state:?}: nothing is lost once it is mended")).await;
        kms.delete(&request(), name).await.expect("delete the mended key");
        return true;
    }
    let kms = spoiler.open().await;
    opens(kms.as_ref(), name, &sealed, &format!("{state:?}: without a meaning nothing is done")).await;
    kms.delete(&request(), name).await.expect("delete the key");
    false
}

async fn no_use_succeeds((kms, name): (&dyn Kms, &KeyName), sealed: &DataKey, state: Spoilt) {
    let outcomes: [(&str, Result<(), Error>); 5] = [
        ("describe", kms.describe(&request(), name).await.map(drop)),
        ("generate", kms.generate(&request(), name, b"c").await.map(drop)),
        ("encrypt", kms.encrypt(&request(), name, b"text", b"c").await.map(drop)),
        ("decrypt", kms.decrypt(&request(), name, &sealed.ciphertext, b"c").await.map(drop)),
        ("hmac", kms.hmac(&request(), name, b"text").await.map(drop)),
    ];
    for (operation, outcome) in outcomes {
        let what = format!("{state:?}: {operation}");
        match (state, outcome) {
            (Spoilt::DeletedButRestorable, Err(error)) if error.kind() == ErrorKind::Deleted => {}
            // A service without this operation says so for every key.
            (_, Err(error)) if operation == "hmac" && error.kind() == ErrorKind::Unsupported => {}
            (_, outcome) => assert_unusable(outcome, &what),
        }
    }
}

async fn nothing_is_made_in_its_place(kms: &dyn Kms, name: &KeyName, state: Spoilt) {
    let imported = ImportedKey { key: SecretKey::take(&mut [7; 32]), cipher: Cipher::Aes256 };
    let mut outcomes = vec![("create", kms.create(&request(), name).await)];
    if kms.capabilities().import {
        outcomes.push(("import", kms.import(&request(), name, imported).await));
    }
    for (operation, outcome) in outcomes {
        match outcome {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            outcome if state == Spoilt::Denied => {
                assert_unusable(outcome, &format!("{state:?}: {operation}"));
            }
            outcome => panic!("{state:?}: {operation} has to fail as AlreadyExists: {outcome:?}"),
        }
    }
}

async fn is_listed(kms: &dyn Kms, name: &KeyName, state: Spoilt) {
    match kms.list(&request(), &ListQuery::prefix(name.as_str())).await {
        Ok(page) => assert!(page.names.contains(name), "{state:?}: the name is listed: {page:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Denied, "{state:?}: listing: {error:?}"),
    }
}

fn is_told(status: Result<StoreStatus, Error>, name: &KeyName, state: Spoilt) {
    let status = status.unwrap_or_else(|error| panic!("{state:?}: the others are served: {error:?}"));
    assert!(status.reachable, "{state:?}: the backend is there: {status:?}");
    if state != Spoilt::DeletedButRestorable {
        let why = status.degraded.unwrap_or_default();
        assert!(
            why.contains(name.as_str()),
            "{state:?}: the status names a key that cannot be read: '{why}'"
        );
    }
}

async fn opens(kms: &dyn Kms, name: &KeyName, sealed: &DataKey, rule: &str) {
    let opened = kms.decrypt(&request(), name, &sealed.ciphertext, b"c").await;
    let opened: SecretBytes = opened.unwrap_or_else(|error| panic!("{rule}: {error:?}"));
    assert!(opened.expose() == sealed.plaintext.expose(), "{rule}");
}

/// Asserts that an operation failed because of the entry: it is not absent, and the client is not at fault.
#[track_caller]
fn assert_unusable<T>(outcome: Result<T, Error>, what: &str) {
    match outcome {
        Ok(_) => panic!("{what} succeeded, but has to fail"),
        Err(error) => assert!(
            matches!(
                error.kind(),
                ErrorKind::Corrupt | ErrorKind::Denied | ErrorKind::Disabled | ErrorKind::Internal
            ),
            "{what} has to fail as what cannot be read: {error:?}"
        ),
    }
}
