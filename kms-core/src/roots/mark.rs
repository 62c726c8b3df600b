//! The mark `.r/removing`: whoever has made it may delete an entry of a root, and nobody else may.

use serde::{Deserialize, Serialize};

use super::id::RootId;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::{SecretBytes, fill_random};
use crate::store::{EntryName, KeyStore};

/// The version of the form that is written here.
const VERSION: u32 = 1;

/// A mark of one process. Its owner's random token tells it from another mark for the same root.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub root: RootId,
    pub purpose: Purpose,
    /// The wrapped key in the header of a local store goes, too.
    pub in_header: bool,
    owner: [u8; 16],
}

/// What the entry is deleted for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    /// The root is removed.
    Remove,
    /// The entry is written anew.
    Rewrite,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    root: String,
    purpose: Purpose,
    header: bool,
    owner: String,
}

impl Mark {
    pub fn entry() -> EntryName {
        EntryName::of_roots("removing")
    }

    /// Creates a mark with a random owner. It excludes nobody before it is [made](Self::make).
    pub fn new(root: &RootId, purpose: Purpose, in_header: bool) -> Result<Self> {
        let mut owner = [0; 16];
        fill_random(&mut owner)?;
        Ok(Self { root: root.clone(), purpose, in_header, owner })
    }

    /// Reads the mark of `store`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Corrupt`]: it is no mark, or a newer release wrote it.
    /// - Those of [`KeyStore::get`]. Then nobody knows whether there is one.
    pub async fn read(store: &dyn KeyStore) -> Result<Option<Self>> {
        match store.get(&Self::entry()).await {
            Ok(bytes) => Self::decode(bytes.expose()).map(Some).ok_or_else(|| {
                let operation = format!("read {}", store.place(&Self::entry()));
                Error::with_source(
                    ErrorKind::Corrupt,
                    operation,
                    "it is no mark of a removal that is known here",
                )
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the mark. Returns the one that is there, if it is another's.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: another's ended at this moment.
    /// - Those of the store.
    pub async fn make(&self, store: &dyn KeyStore) -> Result<Option<Self>> {
        match store.create(&Self::entry(), &self.encode()?).await {
            Ok(()) => {}
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists || error.kind().leaves_outcome_unknown() => {}
            Err(error) => return Err(error),
        }
        match Self::read(store).await? {
            Some(present) if present == *self => Ok(None),
            Some(other) => Ok(Some(other)),
            None => {
                let doing = format!("make {}", store.place(&Self::entry()));
                let absent = absent(store, &Self::entry());
                let why = format!("another change of a root ended at this moment, try again; {absent}");
                Err(Error::with_source(ErrorKind::Conflict, doing, why))
            }
        }
    }

    /// Returns `true` if this mark is the one in the store.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub async fn is_there(&self, store: &dyn KeyStore) -> Result<bool> {
        Ok(Self::read(store).await?.as_ref() == Some(self))
    }

    /// Deletes the mark, if it is this one.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn release(&self, store: &dyn KeyStore) -> Result<()> {
        if !self.is_there(store).await? {
            return Ok(());
        }
        match store.delete(&Self::entry()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Says what is under way, and which command completes it.
    pub fn told(&self) -> String {
        let root = &self.root;
        match self.purpose {
            Purpose::Remove if self.in_header => format!(
                "a removal of root '{root}' from the header of the store is under way or was cut off: \
                 'kms root remove {root} --header' completes it"
            ),
            Purpose::Remove => format!(
                "a removal of root '{root}' is under way or was cut off: 'kms root remove {root}' completes it"
            ),
            Purpose::Rewrite => format!(
                "the entry of root '{root}' is being written anew, or that was cut off: 'kms root add {root}' completes it"
            ),
        }
    }

    fn encode(&self) -> Result<SecretBytes> {
        let written = Written {
            version: VERSION,
            root: self.root.to_string(),
            purpose: self.purpose,
            header: self.in_header,
            owner: hex::encode(self.owner),
        };
        let text = serde_json::to_vec(&written);
        let text = text
            .map_err(|error| Error::with_source(ErrorKind::Internal, "write the mark of a removal", error))?;
        Ok(SecretBytes::new(text))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(bytes).ok()?;
        let mut owner = [0; 16];
        hex::decode_to_slice(written.owner, &mut owner).ok()?;
        let root = RootId::new(&written.root).ok().filter(|_| written.version == VERSION)?;
        Some(Self { root, purpose: written.purpose, in_header: written.header, owner })
    }
}

/// Explains an entry that could not be created since it is there, and that is absent.
pub(super) fn absent(store: &dyn KeyStore, entry: &EntryName) -> String {
    let freed_by = store.freed_by(entry).map(|command| format!(": '{command}' frees it"));
    format!(
        "{} is taken and absent. If that lasts, it was destroyed in the backend, which keeps the name{}",
        store.place(entry),
        freed_by.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_as_it_was_written_and_differs_from_another_for_the_same_root() {
        let root = RootId::new("one").unwrap();
        for (purpose, in_header) in
            [(Purpose::Remove, false), (Purpose::Remove, true), (Purpose::Rewrite, false)]
        {
            let mark = Mark::new(&root, purpose, in_header).unwrap();
            let text = mark.encode().unwrap();
            assert!(Mark::decode(text.expose()).as_ref() == Some(&mark));
            assert!(mark != Mark::new(&root, purpose, in_header).unwrap());
            for end in 0..text.len() {
                assert!(Mark::decode(&text.expose()[..end]).is_none(), "{end}");
            }
            let newer = String::from_utf8(text.expose().to_vec()).unwrap().replace(":1,", ":2,");
            assert!(Mark::decode(newer.as_bytes()).is_none());
        }
    }
}
