//! What exists is never taken for absent: the rule for entries that cannot be used, once for all backends.

use std::sync::Arc;

use async_trait::async_trait;

use super::{key, request};
use crate::{
    Cipher, DataKey, Error, ErrorKind, ImportedKey, KeyName, Kms, ListQuery, SecretBytes, SecretKey,
    StoreStatus,
};

/// A state in which something other than the key server left the entry of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// It is there, and is not of the form in which the backend keeps entries: a secret without its field, a directory in
    /// the place of a file, a disabled CMK, an entry that fails its seal.
    Unreadable,
    /// The backend lets us know the name, or not even that, and refuses to let us read this one entry.
    Denied,
    /// It can be read, and is no record of a key.
    Undecodable,
    /// It can be read, and there is nothing in it.
    Empty,
    /// It was deleted in the backend, by means of the backend's own, in a way that can be undone.
    DeletedButRestorable,
}

impl Spoilt {
    /// All states, in the order in which [`unreadable`] goes through them.
    pub const ALL: [Self; 5] =
        [Self::Unreadable, Self::Denied, Self::Undecodable, Self::Empty, Self::DeletedButRestorable];
}

/// A backend with a hand in it that is not the key server's: what a backend's author writes for [`unreadable`].
///
/// The hand works on the backend itself: the file in the directory, the secret in Vault through a root token, the bytes
/// under the seal. [`open`](Self::open) gives the service as a server has it. At most one service is open at a time, and
/// none while one of the other methods runs; so a backend that only one process can open can be spoilt too.
#[async_trait]
pub trait Spoiler: Sync {
    /// Opens the service, with nothing in its cache. The service of the call before was dropped.
    async fn open(&self) -> Arc<dyn Kms>;

    /// Brings the entry of `name`, which holds a good key, into a state; keys beside it stay as they are.
    ///
    /// Returns `false`, having done nothing, when the state has no meaning for this backend. Whatever
    /// [`mend`](Self::mend) needs is to be kept.
    async fn spoil(&self, name: &KeyName, state: Spoilt) -> bool;

    /// Undoes what [`spoil`](Self::spoil) did to the same name just before: the same key is in the entry again.
    async fn mend(&self, name: &KeyName, state: Spoilt);

    /// Returns what is in the backend under `name`, in any form that changes when the entry does: its bytes, or its version
    /// and its state. Rights that are missing to the service are not missing here.
    async fn content(&self, name: &KeyName) -> Vec<u8>;
}

/// Checks that what exists is never taken for absent, in every state of [`Spoilt`] that has a meaning for the backend.
///
/// A key server that answers 404 for a key which exists has it made anew: MinIO does so at its start, and all that was
/// sealed before is lost. So for each state, with a good key beside the spoilt one:
///
/// * Every use of the key fails, with a kind that a server answers as 502: neither `NotFound` nor one that blames the
///   request or the ciphertext, nor that of an outage. (Deleted but restorable: as the backend has it, but no success.)
/// * A create and an import fail with `AlreadyExists`. (Where reading is denied: or with any kind that a server answers as
///   502.)
/// * A delete fails likewise. (Not looked at for what is deleted already.)
/// * The name is listed, unless the listing itself is denied. (Not looked at for what is deleted already.)
/// * The status is no error; after a read has failed it is degraded and names the key. (Not for what is deleted.)
/// * The key beside it works, and the entry is as it was: when it is mended, all that was sealed opens.
///
/// Returns the states that had a meaning. The caller compares them with those that should have had one; so none is skipped
/// unseen:
///
/// ```
/// # use std::sync::{Arc, Mutex};
/// # use async_trait::async_trait;
/// use kms_core::contract::{Spoiler, Spoilt, unreadable};
/// # use kms_core::{EntryName, KeyName, KeyRing, Kms, MemoryStore, SecretBytes};
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
///         *self.good.lock().unwrap() = self.store.replace(&EntryName::from(name), bytes);
///         true
///     }
///
///     async fn mend(&self, name: &KeyName, _: Spoilt) {
///         let good = self.good.lock().unwrap().take().unwrap();
///         self.store.replace(&EntryName::from(name), good.expose());
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
/// When the backend breaks the rule.
pub async fn unreadable(spoiler: &dyn Spoiler) -> Vec<Spoilt> {
    let beside = key("contract-spoilt-beside");
    let kms = spoiler.open().await;
    kms.create(&request(), &beside).await.expect("create a key beside those that are spoilt");
    drop(kms);
    let mut meaningful = Vec::new();
    for state in Spoilt::ALL {
        // A name of its own each, so that what a backend remembers of a name does not reach the next state.
        let name = key(&format!("contract-spoilt-{}", format!("{state:?}").to_lowercase()));
        if check(spoiler, &name, &beside, state).await {
            meaningful.push(state);
        }
    }
    let kms = spoiler.open().await;
    kms.delete(&request(), &beside).await.expect("delete the key beside");
    meaningful
}

/// Goes through one state; returns whether it has a meaning.
async fn check(spoiler: &dyn Spoiler, name: &KeyName, beside: &KeyName, state: Spoilt) -> bool {
    let kms = spoiler.open().await;
    kms.create(&request(), name).await.expect("create a key");
    let sealed = kms.generate(&request(), name, b"c").await.expect("generate a DEK");
    let sealed_beside = kms.generate(&request(), beside, b"c").await.expect("generate a DEK");
    drop(kms);

    if spoiler.spoil(name, state).await {
        let before = spoiler.content(name).await;
        let kms = spoiler.open().await;
        // Before anything was read, as a client that only ever creates.
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

        // A server that starts now, and sees the delete and the creates of the one before it.
        let kms = spoiler.open().await;
        no_use_succeeds((kms.as_ref(), name), &sealed, state).await;
        drop(kms);
        spoiler.mend(name, state).await;
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
            (Spoilt::DeletedButRestorable, Err(error)) if error.kind() == ErrorKind::NotFound => {}
            // What a service cannot do at all it says of every key.
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

/// Makes sure that an operation failed because of the entry, which is neither absent nor the client's fault.
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
