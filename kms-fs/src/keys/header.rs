//! The header of a store: its format, its id, and the kind of its root.
//!
//! The header is one value under one key, so that one compare-and-swap changes it: format (1 byte) ‖ kind of
//! root (1 byte) ‖ store id (16 bytes) ‖ for a local root key, the store key sealed under it.
//!
//! Format 1 had no journal beside the database. Format 2 differs in nothing else. Its number keeps a release
//! that would not write the journal from opening the store. Format 3 holds no store key: the store's roots have it in
//! their entries. Its number keeps releases that know no such roots away.

use kms_core::primitives::{Cipher, SealingKey, SecretBytes, SecretKey};

use super::root_key::RootKey;
use super::store_key::{STORE_ID_LEN, StoreId, StoreKey};
use crate::error::OpenError;

/// The format of stores whose header holds what earlier releases expect there.
pub const FORMAT: u8 = 2;
/// The format of stores whose store key is in the entries of their roots alone.
const FORMAT_OF_ENTRIES: u8 = 3;
const ROOT_LOCAL: u8 = 1;
const ROOT_WRAPPER: u8 = 2;
const ROOT_ENTRIES: u8 = 3;
const PREFIX_LEN: usize = 2 + STORE_ID_LEN;

/// A decoded header.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    pub format: u8,
    pub store_id: StoreId,
    pub root: Root,
}

/// The root of a store, which wraps its records.
#[derive(Clone, PartialEq, Eq)]
pub enum Root {
    /// A local root key. Sealed under it, the header holds the store key.
    Local { sealed_store_key: Vec<u8> },
    /// A wrapper outside of the store.
    Wrapper,
    /// The roots whose entries hold the store key. The local root key was removed.
    Entries,
}

impl Header {
    /// Creates the header of a new store with the root key `root_key`.
    pub fn new_local(root_key: &RootKey) -> Result<Self, OpenError> {
        let store_id = new_store_id()?;
        let store_key = SecretKey::random()?;
        let sealed_store_key = seal(root_key, &store_id, &store_key)?;
        Ok(Self { format: FORMAT, store_id, root: Root::Local { sealed_store_key } })
    }

    /// Creates the header of a new store whose records come wrapped.
    pub fn new_wrapper() -> Result<Self, OpenError> {
        Ok(Self { format: FORMAT, store_id: new_store_id()?, root: Root::Wrapper })
    }

    pub fn encode(&self) -> Vec<u8> {
        let (kind, sealed): (u8, &[u8]) = match &self.root {
            Root::Local { sealed_store_key } => (ROOT_LOCAL, sealed_store_key),
            Root::Wrapper => (ROOT_WRAPPER, &[]),
            Root::Entries => (ROOT_ENTRIES, &[]),
        };
        [[self.format, kind].as_slice(), &self.store_id, sealed].concat()
    }

    pub fn decode(bytes: &[u8], path: &std::path::Path) -> Result<Self, OpenError> {
        let corrupt = |why: &str| OpenError::Corrupt { path: path.into(), why: why.to_owned() };
        let (&format, _) = bytes.split_first().ok_or_else(|| corrupt("its header is empty"))?;
        if format > FORMAT_OF_ENTRIES {
            return Err(OpenError::NewerFormat { path: path.into(), format });
        }
        let (prefix, sealed) =
            bytes.split_first_chunk::<PREFIX_LEN>().ok_or_else(|| corrupt("its header is cut short"))?;
        let mut store_id = [0; STORE_ID_LEN];
        store_id.copy_from_slice(&prefix[2..]);
        let root = match prefix[1] {
            ROOT_LOCAL => Root::Local { sealed_store_key: sealed.to_vec() },
            ROOT_WRAPPER => Root::Wrapper,
            ROOT_ENTRIES if format == FORMAT_OF_ENTRIES => Root::Entries,
            _ => return Err(corrupt("its header names an unknown kind of root")),
        };
        Ok(Self { format, store_id, root })
    }

    /// Unwraps the store key. This fails if `root_key` is not the one of the store.
    pub fn unwrap_store_key(
        &self,
        root_key: &RootKey,
        path: &std::path::Path,
    ) -> Result<StoreKey, OpenError> {
        let other = |has| Err(OpenError::OtherRoot { path: path.into(), has });
        let sealed_store_key = match &self.root {
            Root::Local { sealed_store_key } => sealed_store_key,
            Root::Wrapper => return other("its records wrapped by a key service and no local root key"),
            Root::Entries => {
                return other("no local root key in its header any more, but roots of the section 'kms'");
            }
        };
        let opened: SecretBytes = root_key
            .sealing_key()?
            .open(sealed_store_key, &store_key_context(&self.store_id))
            .map_err(|_| OpenError::WrongRootKey { path: path.into() })?;
        let store_key = SecretKey::from_slice(opened.expose()).ok_or_else(|| OpenError::Corrupt {
            path: path.into(),
            why: "its store key has a wrong size".into(),
        })?;
        Ok(StoreKey::new(SealingKey::new(store_key, Cipher::Aes256), self.store_id))
    }

    /// Returns the header with the store key sealed under another root key.
    pub fn rewrap(&self, old: &RootKey, new: &RootKey, path: &std::path::Path) -> Result<Self, OpenError> {
        let store_key = self.unwrap_store_key(old, path)?;
        let sealed_store_key = seal(new, &self.store_id, store_key.key())?;
        Ok(Self { root: Root::Local { sealed_store_key }, ..self.clone() })
    }

    /// Returns the header in the format that this release writes.
    pub fn in_present_format(&self) -> Self {
        match self.root {
            Root::Local { .. } | Root::Wrapper => Self { format: FORMAT, ..self.clone() },
            Root::Entries => self.without_store_key(),
        }
    }

    /// Returns the header without the store key, which the roots of the store have in their entries.
    pub fn without_store_key(&self) -> Self {
        Self { format: FORMAT_OF_ENTRIES, store_id: self.store_id, root: Root::Entries }
    }
}

fn seal(root_key: &RootKey, store_id: &StoreId, store_key: &SecretKey) -> Result<Vec<u8>, OpenError> {
    Ok(root_key.sealing_key()?.seal(store_key.expose(), &store_key_context(store_id))?)
}

fn store_key_context(store_id: &StoreId) -> Vec<u8> {
    [b"kms-fs store key v1\0".as_slice(), store_id].concat()
}

fn new_store_id() -> Result<StoreId, OpenError> {
    let mut store_id = [0; STORE_ID_LEN];
    kms_core::primitives::fill_random(&mut store_id)?;
    Ok(store_id)
}
