//! The anchor of a store: which store key is in force.

use serde::{Deserialize, Serialize};

use super::store_key::{StoreId, StoreKey};
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{Fingerprint, SecretBytes};
use crate::store::{EntryName, KeyStore};

/// The version of the form that is written here.
const VERSION: u32 = 1;

/// The anchor `.r/store`: it names the store id and the fingerprint of the store key, and is never changed.
///
/// It is created only if it is absent, so of several servers that start on one empty store the first decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anchor {
    /// The random id of the store.
    pub store_id: StoreId,
    /// The fingerprint of the store key.
    pub fingerprint: Fingerprint,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    store_id: String,
    fingerprint: String,
}

impl Anchor {
    /// Returns the name of the anchor: `.r/store`.
    pub fn entry() -> EntryName {
        EntryName::of_roots("store")
    }

    /// Returns the anchor of a store with this key.
    pub fn of(key: &StoreKey) -> Self {
        Self { store_id: *key.store_id(), fingerprint: key.fingerprint() }
    }

    /// Returns `true` if `key` is the store key that the anchor names.
    pub fn names(&self, key: &StoreKey) -> bool {
        *self == Self::of(key)
    }

    /// Reads the anchor of `store`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: it is no anchor, or a newer release wrote it.
    /// - Those of [`KeyStore::get`]. Then nobody knows whether there is one.
    pub async fn read(store: &dyn KeyStore) -> Result<Option<Self>> {
        match store.get(&Self::entry()).await {
            Ok(bytes) => Self::decode(bytes.expose()).map(Some).map_err(|why| {
                let operation = format!("read the anchor of the store, {}", store.place(&Self::entry()));
                Error::with_source(ErrorKind::Corrupt, operation, why)
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn encode(&self) -> Result<SecretBytes> {
        let written = Written {
            version: VERSION,
            store_id: hex::encode(self.store_id),
            fingerprint: hex::encode(self.fingerprint.as_bytes()),
        };
        let text = serde_json::to_vec(&written);
        let text =
            text.map_err(|error| Error::with_source(ErrorKind::Internal, "write the anchor", error))?;
        Ok(SecretBytes::new(text))
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let is_none = "it is no anchor of a store";
        let Version { version } = serde_json::from_slice(bytes).map_err(|_| is_none)?;
        if version != VERSION {
            return Err(format!(
                "it has version {version}, which a newer release wrote; this one knows {VERSION}"
            ));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(|_| is_none)?;
        let (mut store_id, mut fingerprint) = ([0; 16], [0; 16]);
        hex::decode_to_slice(written.store_id, &mut store_id).map_err(|_| is_none)?;
        hex::decode_to_slice(written.fingerprint, &mut fingerprint).map_err(|_| is_none)?;
        Ok(Self { store_id, fingerprint: Fingerprint::from_bytes(fingerprint) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_reads_as_it_was_written_and_nothing_else_reads_as_one() {
        let anchor = Anchor { store_id: [1; 16], fingerprint: Fingerprint::from_bytes([2; 16]) };
        let text = anchor.encode().unwrap();
        assert_eq!(Anchor::decode(text.expose()), Ok(anchor));
        for end in 0..text.len() {
            assert!(Anchor::decode(&text.expose()[..end]).is_err(), "{end}");
        }
        let newer = br#"{"version":2,"other":"fields"}"#;
        assert!(Anchor::decode(newer).is_err_and(|why| why.contains("a newer release")));
        for bad in ["{}", r#"{"version":1}"#, r#"{"version":1,"store_id":"00","fingerprint":"00"}"#] {
            assert!(Anchor::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
