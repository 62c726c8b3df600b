//! Wraps records with a root key, which another system holds, before they are stored.

use async_trait::async_trait;
use jiff::Timestamp;

use super::changes::Changes;
use super::entry::EntryName;
use super::gone::Notes;
use super::key_store::{KeyStore, StoreCapabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{ListQuery, Page};
use crate::primitives::{Fingerprint, SecretBytes};
use crate::status::StoreStatus;

/// Encrypts records under a root key that another system holds.
///
/// # Errors of every method
///
/// Beside the errors that a method lists, each may fail with:
///
/// - [`ErrorKind::Unreachable`], [`ErrorKind::Sealed`], [`ErrorKind::Throttled`], [`ErrorKind::Timeout`]: the holder of
///   the root key cannot be asked now.
/// - [`ErrorKind::Denied`]: the holder refuses, or there is no such root key.
/// - [`ErrorKind::Disabled`]: the root key is disabled, or will be deleted.
/// - [`ErrorKind::LoginRefused`]: the holder refuses the credentials, or there are none.
/// - [`ErrorKind::Internal`]: a defect of the wrapper.
///
/// A missing root key must not be [`ErrorKind::NotFound`]: a client would read that as an answer about its own key.
/// [`Wrapped`] turns every such kind into [`ErrorKind::Denied`].
#[async_trait]
pub trait Wrapper: Send + Sync + 'static {
    /// Returns `true` if a wrapped record opens only under the name for which it was wrapped.
    fn binds_name(&self) -> bool;

    /// Returns `true` if records are wrapped and unwrapped in this process, without a wait.
    fn is_local(&self) -> bool {
        false
    }

    /// Returns the fingerprint of the root key, if that is in this process. Two with one fingerprint are one root.
    fn root_key(&self) -> Option<Fingerprint> {
        None
    }

    /// Returns when the login at the holder of the root key ends, as [`KeyStore::login_ends`] does.
    fn login_ends(&self) -> Option<Timestamp> {
        None
    }

    /// Encrypts `record` for the entry `name`.
    ///
    /// # Errors
    ///
    /// Only the errors of every method.
    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>>;

    /// Decrypts a record that [`wrap`](Wrapper::wrap) made for the entry `name`.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: the bytes were not wrapped under this root key; or, if the wrapper
    ///   [binds the name](Wrapper::binds_name), not for this entry.
    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes>;

    /// Asks the holder of the root key whether it can serve.
    ///
    /// # Errors
    ///
    /// Only the errors of every method.
    async fn status(&self) -> Result<StoreStatus>;
}

#[async_trait]
impl<W: Wrapper + ?Sized> Wrapper for std::sync::Arc<W> {
    fn binds_name(&self) -> bool {
        (**self).binds_name()
    }

    fn is_local(&self) -> bool {
        (**self).is_local()
    }

    fn root_key(&self) -> Option<Fingerprint> {
        (**self).root_key()
    }

    fn login_ends(&self) -> Option<Timestamp> {
        (**self).login_ends()
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        (**self).wrap(name, record).await
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        (**self).unwrap(name, wrapped).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        (**self).status().await
    }
}

/// A [`KeyStore`] that wraps each record with `W` before it stores the record in `S`.
///
/// Any store goes with any wrapper.
pub struct Wrapped<S, W> {
    store: S,
    wrapper: W,
}

impl<S: KeyStore, W: Wrapper> Wrapped<S, W> {
    /// Creates a store that keeps records wrapped by `wrapper` in `store`.
    pub fn new(store: S, wrapper: W) -> Self {
        Self { store, wrapper }
    }

    /// Returns the store underneath.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Returns the wrapper.
    pub fn wrapper(&self) -> &W {
        &self.wrapper
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<SecretBytes> {
        let wrapped = self.wrapper.wrap(name, record).await;
        Ok(SecretBytes::new(wrapped.map_err(|error| of_root_key("seal", Some(name), error))?))
    }
}

#[async_trait]
impl<S: KeyStore, W: Wrapper> KeyStore for Wrapped<S, W> {
    fn capabilities(&self) -> StoreCapabilities {
        let mut capabilities = self.store.capabilities();
        capabilities.reads_at_once &= self.wrapper.is_local();
        capabilities
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.store.create(name, &self.wrap(name, record).await?).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        let wrapped = self.store.get(name).await?;
        let record = self.wrapper.unwrap(name, wrapped.expose()).await;
        record.map_err(|error| match error.kind() {
            ErrorKind::NotAuthentic => {
                let operation = format!("open {}", self.place(name));
                Error::with_source(ErrorKind::Corrupt, operation, error)
            }
            _ => of_root_key("open", Some(name), error),
        })
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.store.delete(name).await
    }

    async fn erase(&self, name: &EntryName) -> Result<()> {
        self.store.erase(name).await
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        // Where no note is made, the root key has no say in a removal.
        if !self.store.capabilities().notes_removals {
            return self.store.remove(name, gone, record).await;
        }
        self.store.remove(name, gone, &self.wrap(gone, record).await?).await
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        self.store.bring_back(name, &self.wrap(name, record).await?, gone).await
    }

    async fn replace(&self, name: &EntryName, record: &SecretBytes, notes: &Notes<'_>) -> Result<()> {
        let wrapped = self.wrap(name, record).await?;
        if !self.store.capabilities().notes_removals {
            return self.store.replace(name, &wrapped, notes).await;
        }
        let note = self.wrap(notes.gone, notes.record).await?;
        self.store.replace(name, &wrapped, &Notes { record: &note, ..*notes }).await
    }

    async fn restore(&self, name: &EntryName) -> Result<()> {
        self.store.restore(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.store.list(query).await
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        self.store.segments(directory).await
    }

    fn changes(&self) -> Option<Changes> {
        self.store.changes()
    }

    async fn status(&self) -> Result<StoreStatus> {
        let store = self.store.status().await?;
        let wrapper = self.wrapper.status().await.map_err(|error| of_root_key("ask after", None, error))?;
        let both = StoreStatus {
            latency: store.latency + wrapper.latency,
            reachable: store.reachable && wrapper.reachable,
            degraded: store.degraded,
        };
        Ok(match wrapper.degraded {
            None => both,
            Some(why) => both.degraded(why),
        })
    }

    fn login_ends(&self) -> Option<Timestamp> {
        [self.store.login_ends(), self.wrapper.login_ends()].into_iter().flatten().min()
    }

    fn place(&self, name: &EntryName) -> String {
        self.store.place(name)
    }
}

/// Converts an error of the root key, so that no client takes it for an answer about its own key.
fn of_root_key(doing: &str, name: Option<&EntryName>, error: Error) -> Error {
    if !error.kind().is_answer() {
        return error;
    }
    let operation = match name {
        Some(name) => format!("{doing} entry '{name}' with the root key"),
        None => format!("{doing} the root key"),
    };
    let why = match error.kind() {
        ErrorKind::NotFound => "the root key is not there",
        _ => "the holder of the root key refuses",
    };
    Error::with_source(ErrorKind::Denied, operation, format!("{why}: {}", error.chain()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::name::KeyName;
    use crate::store::MemoryStore;

    /// A mock of a root key: every operation fails with this kind.
    struct Failing(ErrorKind);

    #[async_trait]
    impl Wrapper for Failing {
        fn binds_name(&self) -> bool {
            true
        }

        async fn wrap(&self, _: &EntryName, _: &SecretBytes) -> Result<Vec<u8>> {
            Err(Error::with_source(self.0, "wrap", "words of the holder"))
        }

        async fn unwrap(&self, _: &EntryName, _: &[u8]) -> Result<SecretBytes> {
            Err(Error::with_source(self.0, "unwrap", "words of the holder"))
        }

        async fn status(&self) -> Result<StoreStatus> {
            Err(Error::with_source(self.0, "status", "words of the holder"))
        }

        fn login_ends(&self) -> Option<Timestamp> {
            Some(Timestamp::UNIX_EPOCH)
        }
    }

    #[test]
    fn a_login_at_the_holder_of_the_root_key_is_one_of_the_store() {
        assert_eq!(MemoryStore::new().login_ends(), None);
        let wrapped = Wrapped::new(MemoryStore::new(), Failing(ErrorKind::Sealed));
        assert_eq!(wrapped.login_ends(), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(
            Wrapped::new(wrapped, Failing(ErrorKind::Sealed)).login_ends(),
            Some(Timestamp::UNIX_EPOCH)
        );
    }

    const KINDS: [ErrorKind; 20] = [
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::NotAuthentic,
        ErrorKind::NoHmacKey,
        ErrorKind::InvalidInput,
        ErrorKind::Denied,
        ErrorKind::LoginRefused,
        ErrorKind::Disabled,
        ErrorKind::Deleted,
        ErrorKind::Unreachable,
        ErrorKind::Sealed,
        ErrorKind::NotSetUp,
        ErrorKind::Behind,
        ErrorKind::Throttled,
        ErrorKind::Timeout,
        ErrorKind::Corrupt,
        ErrorKind::ReadOnly,
        ErrorKind::DiskFull,
        ErrorKind::Unsupported,
        ErrorKind::Internal,
    ];

    #[tokio::test]
    async fn no_error_of_a_root_key_says_anything_of_a_key() {
        let name = EntryName::from(&KeyName::new("my-key").unwrap());
        for kind in KINDS {
            let store = MemoryStore::new();
            store.create(&name, &SecretBytes::from(b"wrapped".as_slice())).await.unwrap();
            let store = Wrapped::new(store, Failing(kind));
            let outcomes = [
                store.get(&name).await.map(drop),
                store.create(&name, &SecretBytes::from(b"record".as_slice())).await,
                store.status().await.map(drop),
            ];
            for outcome in outcomes {
                let error = outcome.unwrap_err();
                assert!(!error.kind().is_answer(), "{kind:?} became {error:?}");
                assert!(kind.is_answer() || error.kind() == kind, "{kind:?} became {error:?}");
                assert!(error.chain().to_string().contains("words of the holder"), "{error:?}");
            }
        }
        let missing = Wrapped::new(MemoryStore::new(), Failing(ErrorKind::NotFound));
        assert!(!missing.capabilities().reads_at_once, "its root key may be far away");
        let error = missing.create(&name, &SecretBytes::from(b"record".as_slice())).await.unwrap_err();
        assert!(error.chain().to_string().contains("the root key is not there"), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_not_there_is_absent_whatever_the_root_key_says() {
        let store = Wrapped::new(MemoryStore::new(), Failing(ErrorKind::Denied));
        let name = EntryName::from(&KeyName::new("my-key").unwrap());
        assert_eq!(store.get(&name).await.err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    }

    #[tokio::test]
    async fn what_store_and_root_key_say_of_themselves_is_both_told() {
        struct Remarkable;
        #[async_trait]
        impl Wrapper for Remarkable {
            fn binds_name(&self) -> bool {
                true
            }

            async fn wrap(&self, _: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
                Ok(record.expose().to_vec())
            }

            async fn unwrap(&self, _: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
                Ok(SecretBytes::from(wrapped))
            }

            async fn status(&self) -> Result<StoreStatus> {
                Ok(StoreStatus::ok(Duration::ZERO).degraded("standby").degraded("slow"))
            }
        }
        let inner = Wrapped::new(MemoryStore::new(), Remarkable);
        let status = Wrapped::new(inner, Remarkable).status().await.unwrap();
        assert_eq!(status.degraded.as_deref(), Some("standby; slow; standby; slow"));
    }
}
