//! Small helpers of several tests.

use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore};
use kms_core::{CacheConfig, ErrorKind, Identity, KeyName, KeyRing, Kms, ListQuery, Request};
use kms_vault::VaultConfig;

/// A key ring over the Vault store of a configuration.
pub type Ring = Arc<KeyRing<Arc<dyn KeyStore>>>;

pub fn open(config: VaultConfig) -> Arc<dyn KeyStore> {
    kms_vault::open(config).unwrap()
}

pub fn ring(config: VaultConfig, cache: CacheConfig) -> Ring {
    Arc::new(KeyRing::new(open(config), cache))
}

pub fn request() -> Request {
    Request::new(Identity::of_public_key(b"test"), Duration::from_secs(15))
}

pub fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub fn entry(name: &str) -> EntryName {
    EntryName::from(&key(name))
}

pub fn record() -> SecretBytes {
    SecretBytes::from(b"record".as_slice())
}

pub fn kind<T>(outcome: kms_core::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

/// Returns all names, page by page.
pub async fn list_all(kms: &dyn Kms, prefix: &str, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None::<String>);
    loop {
        let query = ListQuery { prefix, after: after.as_deref(), limit };
        let page = kms.list(&request(), &query).await.unwrap();
        names.extend(page.names.iter().map(|name| name.as_str().to_owned()));
        if !page.more {
            return names;
        }
        after = names.last().cloned();
    }
}
