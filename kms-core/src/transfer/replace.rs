//! Replacing another key of the same name, which is kept under a name of its own.

use super::parts::StoredKey;
use super::write::{Written, create_all};
use crate::error::{Error, ErrorKind, Result};
use crate::name::KeyName;
use crate::primitives::{Fingerprint, SecretBytes};
use crate::store::gone::GoneNote;
use crate::store::{EntryName, KeyStore, Notes};

/// What became of a key that was to take the place of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replaced {
    /// What became of the key itself.
    pub written: Written,
    /// The name under which the key that was there before is kept now. `None` if there was none.
    pub former: Option<KeyName>,
    /// Whether a replacement that was cut off was completed.
    pub resumed: bool,
}

/// Returns the name under which a key `name` with this fingerprint is kept when another key takes its place:
/// `<name>-was-<first 8 hex digits of the fingerprint>`, where a long name is shortened.
pub fn former_name(name: &KeyName, fingerprint: &Fingerprint) -> Result<KeyName> {
    let suffix = format!("-was-{}", &hex::encode(fingerprint.as_bytes())[..8]);
    let kept = name.as_str().len().min(KeyName::MAX_LEN - suffix.len());
    KeyName::new(format!("{}{suffix}", &name.as_str()[..kept])).map_err(|error| {
        Error::with_source(ErrorKind::Internal, format!("name the former key '{name}'"), error)
    })
}

/// The note of a replacement that is under way: which key gives way to which.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Note {
    old: Fingerprint,
    new: Fingerprint,
}

impl Note {
    fn to_bytes(self) -> SecretBytes {
        let [old, new] = [self.old, self.new].map(|key| hex::encode(key.as_bytes()));
        SecretBytes::new(format!("{old} {new}").into_bytes())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (old, new) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        let fingerprint = |text| {
            let mut bytes = [0; 16];
            hex::decode_to_slice(text, &mut bytes).ok().map(|()| Fingerprint::from_bytes(bytes))
        };
        Some(Self { old: fingerprint(old)?, new: fingerprint(new)? })
    }
}

impl StoredKey {
    /// Writes the key to `store`, and puts it in the place of another key that has its name there.
    ///
    /// The other key is first written under the name that [`former_name`] returns, whole, and read back. Then the entry of the
    /// name is replaced ([`KeyStore::replace`]), and what belonged to the other key under this name is removed. So no server
    /// may use `store` meanwhile. A note, the entry `.m/<name>`, tells the same call how to complete what was cut off.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: as [`write`](Self::write) returns it; or a third key has the name since a replacement was cut
    ///   off; or the other key cannot be kept under its new name. Every key that was there can still be read.
    /// - [`ErrorKind::Corrupt`]: the other key cannot be read whole, so it cannot be kept.
    /// - Every other error of [`KeyStore::get`], [`KeyStore::create`] and [`KeyStore::replace`].
    pub async fn replace(&self, store: &(impl KeyStore + ?Sized)) -> Result<Replaced> {
        let present = self.present(store).await?;
        let noted = match self.read_note(store).await? {
            Some(note) if note.new != self.fingerprint() => {
                self.end_other(store, note, present.as_ref()).await?;
                None
            }
            noted => noted,
        };
        let note = match (noted, &present) {
            (None, Some(there)) if there.fingerprint() != self.fingerprint() => {
                // A replacement that cannot be is none that was cut off, so there is no note of it.
                self.refuse_place_of(there, store).await?;
                let note = Note { old: there.fingerprint(), new: self.fingerprint() };
                store.create(&EntryName::replacing(&self.name), &note.to_bytes()).await?;
                note
            }
            (None, _) => {
                return Ok(Replaced { written: self.write(store).await?, former: None, resumed: false });
            }
            (Some(note), _) => note,
        };
        let written = match &present {
            Some(there) if there.fingerprint() == self.fingerprint() => self.write(store).await?,
            Some(there) if there.fingerprint() == note.old => {
                there.keep(store).await?;
                self.take_place(store, &note.old).await?;
                Written::Stored
            }
            Some(third) => return Err(self.third_key(&note, third.fingerprint())),
            None => {
                self.kept(store, &note.old).await?;
                self.write(store).await?
            }
        };
        if let Written::Other(third) = written {
            return Err(self.third_key(&note, third));
        }
        let former = self.clear_away(store, &note.old).await?;
        Ok(Replaced { written, former: Some(former), resumed: noted.is_some() })
    }

    /// Says what [`replace`](Self::replace) would do, and changes nothing.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Conflict`]: as [`replace`](Self::replace) returns it, as far as reads tell.
    /// - Every other error of [`KeyStore::get`].
    pub async fn would_replace(&self, store: &(impl KeyStore + ?Sized)) -> Result<Replaced> {
        let present = self.present(store).await?;
        let there = present.as_ref().map(Self::fingerprint);
        let ours = self.fingerprint();
        let noted = match self.read_note(store).await? {
            Some(note) if note.new != ours && (there == Some(note.new) || there == Some(note.old)) => None,
            Some(note) if note.new != ours => return Err(self.other_first(&note)),
            noted => noted,
        };
        if let (Some(note), Some(third)) = (&noted, there)
            && third != ours
            && third != note.old
        {
            return Err(self.third_key(note, third));
        }
        let resumed = noted.is_some();
        let Some(old) = noted.map(|note| note.old).or(there.filter(|there| *there != ours)) else {
            return Ok(Replaced { written: self.would_write(store).await?, former: None, resumed });
        };
        match &present {
            Some(present) if there == Some(old) => self.refuse_place_of(present, store).await?,
            _ => drop(self.kept(store, &old).await?),
        }
        let written = if there == Some(old) { Written::Stored } else { self.would_write(store).await? };
        Ok(Replaced { written, former: Some(former_name(&self.name, &old)?), resumed })
    }

    async fn present(&self, store: &(impl KeyStore + ?Sized)) -> Result<Option<Self>> {
        match Self::read(store, &self.name).await {
            Ok(key) => Ok(Some(key)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_note(&self, store: &(impl KeyStore + ?Sized)) -> Result<Option<Note>> {
        let entry = EntryName::replacing(&self.name);
        match store.get(&entry).await {
            Ok(bytes) => Note::parse(bytes.expose()).map(Some).ok_or_else(|| {
                let why = "it does not say which key gives way to which";
                Error::with_source(ErrorKind::Corrupt, format!("read {}", store.place(&entry)), why)
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings the replacement by another key to its end, if that key has the name already or has not got it yet.
    async fn end_other(
        &self,
        store: &(impl KeyStore + ?Sized),
        note: Note,
        present: Option<&Self>,
    ) -> Result<()> {
        match present {
            Some(there) if there.fingerprint() == note.new => {
                self.clear_away(store, &note.old).await?;
                Ok(())
            }
            Some(there) if there.fingerprint() == note.old => {
                erase(store, &EntryName::replacing(&self.name)).await
            }
            _ => Err(self.other_first(&note)),
        }
    }

    fn other_first(&self, note: &Note) -> Error {
        self.conflict(format!(
            "its replacement by the key with the fingerprint {} was cut off: finish that first, from where that key is",
            hex::encode(note.new.as_bytes())
        ))
    }

    /// Fails if the key that is there could not be kept, or if this one could not take its place. Writes nothing.
    async fn refuse_place_of(&self, there: &Self, store: &(impl KeyStore + ?Sized)) -> Result<()> {
        let kept = there.as_former()?;
        there.refuse_not_kept(&kept, kept.would_write(store).await?)?;
        let entries = self.entries();
        self.refuse_differing(store, &entries[..entries.len() - 1]).await?;
        self.refuse_surplus(store).await
    }

    /// Returns this key under the name for a former key.
    fn as_former(&self) -> Result<Self> {
        self.renamed(&former_name(&self.name, &self.fingerprint())?)
    }

    /// Fails if this key is not there whole under its new name, by what became of it there.
    fn refuse_not_kept(&self, kept: &Self, written: Written) -> Result<()> {
        let why = match written {
            Written::Stored | Written::There { differs: None, .. } => return Ok(()),
            Written::There { differs: Some(why), .. } => why,
            Written::Other(other) => {
                format!("another key, {}, has that name", hex::encode(other.as_bytes()))
            }
        };
        let name = &kept.name;
        Err(self.conflict(format!("the key that is there cannot be kept as '{name}': {why}")))
    }

    /// Writes this key under the name for a former key, and makes sure that it is there whole.
    async fn keep(&self, store: &(impl KeyStore + ?Sized)) -> Result<()> {
        let kept = self.as_former()?;
        self.refuse_not_kept(&kept, kept.write(store).await?)?;
        let read = Self::read(store, &kept.name).await?;
        read.open_probes(&kept.seal_probes()?)?;
        if read.disabled.len() == kept.disabled.len() && read.is_deleted() == kept.is_deleted() {
            return Ok(());
        }
        let operation = format!("read back key '{}'", kept.name);
        Err(Error::with_source(
            ErrorKind::Internal,
            operation,
            "it was acknowledged, and a marker is missing",
        ))
    }

    /// Puts this key in the place of the one that has its name, the key `old`.
    async fn take_place(&self, store: &(impl KeyStore + ?Sized), old: &Fingerprint) -> Result<()> {
        let entries = self.entries();
        let belongings = &entries[..entries.len() - 1];
        self.refuse_differing(store, belongings).await?;
        self.refuse_surplus(store).await?;
        create_all(store, belongings, &self.gone()).await?;
        let entry = EntryName::from(&self.name);
        let by = format!("a replacement by the key {}", hex::encode(self.fingerprint().as_bytes()));
        let note = GoneNote::now(by).record()?;
        let notes = Notes { gone: &EntryName::gone(&self.name, old), record: &note, back: &self.gone() };
        if let Err(error) = store.replace(&entry, &self.record, &notes).await {
            // The answer may have been lost.
            let is_ours = match store.get(&entry).await {
                Ok(there) => there == self.record,
                // The name is free now, and the same call takes it.
                Err(read) if read.kind() == ErrorKind::NotFound => false,
                Err(read) => return Err(read),
            };
            if !error.kind().leaves_outcome_unknown() || !is_ours {
                return Err(error);
            }
        }
        let there = Self::read(store, &self.name).await?;
        there.open_probes(&self.seal_probes()?)
    }

    /// Reads the key that gave way, under its new name.
    async fn kept(&self, store: &(impl KeyStore + ?Sized), old: &Fingerprint) -> Result<Self> {
        let name = former_name(&self.name, old)?;
        let kept = Self::read(store, &name).await;
        match kept {
            Ok(kept) if kept.fingerprint() == *old => Ok(kept),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Err(self.conflict(format!(
                "its replacement was cut off, and the key that gave way, {}, is not there as '{name}': put it back first",
                hex::encode(old.as_bytes())
            ))),
        }
    }

    /// Removes what belonged to the key that gave way under this name, the newest first, and then the note.
    async fn clear_away(&self, store: &(impl KeyStore + ?Sized), old: &Fingerprint) -> Result<KeyName> {
        let kept = self.kept(store, old).await?;
        let former = kept.renamed(&self.name)?;
        for (entry, _) in former.belongings(1).iter().rev() {
            erase(store, entry).await?;
        }
        if former.is_deleted() {
            erase(store, &EntryName::deleted(&self.name, old)).await?;
        }
        erase(store, &EntryName::replacing(&self.name)).await?;
        Ok(kept.name)
    }

    fn third_key(&self, note: &Note, third: Fingerprint) -> Error {
        let [third, old] = [third, note.old].map(|key| hex::encode(key.as_bytes()));
        self.conflict(format!(
            "its replacement was cut off, and since then a third key with the fingerprint {third} has its name (the key that \
             gave way, {old}, is kept): delete the third key if nothing was sealed under it, and run the same command again"
        ))
    }
}

/// Erases an entry that may be gone already.
async fn erase(store: &(impl KeyStore + ?Sized), entry: &EntryName) -> Result<()> {
    match store.erase(entry).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
