//! Reads an archive and believes nothing. It keeps one key in memory, and puts nothing on a disk.

use std::io::Read;

use aws_lc_rs::digest::{Context, SHA256};
use kms_core::primitives::SecretBytes;
use kms_core::transfer::{Probe, StoredKey};
use kms_core::{KeyName, MAX_VERSIONS};

use super::facts::{FORMAT, KEY_FILE, KEYS, KeyFacts, MANIFEST, Manifest, entry_of};
use super::tar_file;
use super::time::Time;

/// The most bytes of all entries of a key: a thousand versions, all of them disabled, take a quarter.
const MAX_KEY: usize = 4 << 20;

/// The most files of a key before the one that describes it: each version, the mark that disables it, the mark of the deletion.
const MAX_FILES: usize = 2 * MAX_VERSIONS as usize + 1;

/// A key of an archive: whole, and with probes that it opens.
pub struct Stored {
    /// The key.
    pub key: StoredKey,
    /// A probe of each version.
    pub probes: Vec<Probe>,
}

/// Reads the tar of an archive from `R`, which opens it.
///
/// Each text of an error says what is wrong with the archive, and begins so that it can follow the archive's name.
pub struct ArchiveReader<R> {
    input: R,
    /// What was read so far, as a manifest counts it.
    counted: Manifest,
    hash: Context,
    last: Option<KeyName>,
    manifest: Option<Manifest>,
}

/// The files of a key before the one that describes it.
type Files = Vec<(String, SecretBytes)>;

impl<R: Read> ArchiveReader<R> {
    /// Begins to read.
    pub fn new(input: R) -> Self {
        let counted = Manifest::new(String::new(), "", Time::now());
        Self { input, counted, hash: Context::new(&SHA256), last: None, manifest: None }
    }

    /// Reads the next key and checks it: its hashes, its fingerprints, its probes. Returns `None` after the last key, if the
    /// manifest is there and true, and nothing follows it.
    ///
    /// # Errors
    ///
    /// What is wrong with the archive.
    pub fn next(&mut self) -> Result<Option<Stored>, String> {
        let mut files = Files::new();
        let mut current: Option<KeyName> = None;
        let mut size = 0;
        loop {
            let (path, content) = tar_file::read(&mut self.input)?;
            if path == MANIFEST {
                return match current {
                    None => self.end(&content).map(|()| None),
                    Some(name) => Err(format!("key '{name}' is not described")),
                };
            }
            let unexpected = || format!("it holds the file '{}', which no backup has", path.escape_debug());
            let (name, file) =
                path.strip_prefix(KEYS).and_then(|rest| rest.split_once('/')).ok_or_else(unexpected)?;
            let name = KeyName::new(name).map_err(|_| unexpected())?;
            match &current {
                Some(current) if *current != name => return Err(format!("key '{current}' is not described")),
                Some(_) => {}
                None if self.last.as_ref().is_some_and(|last| *last >= name) => {
                    return Err(format!("key '{name}' is there twice, or out of order"));
                }
                None => current = Some(name.clone()),
            }
            if file == KEY_FILE {
                let read = self.describe(&name, files, &content);
                self.last = Some(name.clone());
                return read.map(Some).map_err(|why| format!("key '{name}': {why}"));
            }
            size += content.len();
            if size > MAX_KEY || files.len() == MAX_FILES {
                return Err(format!("key '{name}': it is larger than any key"));
            }
            files.push((file.to_owned(), SecretBytes::from(content.as_slice())));
        }
    }

    /// Puts a key together, and compares it with what the archive says of it.
    fn describe(&mut self, name: &KeyName, files: Files, described: &[u8]) -> Result<Stored, String> {
        let not_read = |error| format!("its description cannot be read: {error}");
        let facts: KeyFacts = serde_json::from_slice(described).map_err(not_read)?;
        let probes = facts.probes()?;
        let first = facts.fingerprints.first().map_or("", String::as_str);
        let count = files.len();
        let mut entries = Vec::with_capacity(count);
        for (file, bytes) in files {
            let entry = entry_of(name, first, &file);
            let entry = entry.ok_or_else(|| format!("it has the file '{}'", file.escape_debug()))?;
            entries.push((entry, bytes));
        }
        let in_words = |error: kms_core::Error| error.chain().to_string();
        let key = StoredKey::from_entries(name, entries).map_err(in_words)?;
        // This compares the hash of each file and the fingerprint of each version, too.
        if facts != KeyFacts::of(&key, &probes) || facts.files.len() != count {
            return Err("it is not what its description says".to_owned());
        }
        key.open_probes(&probes).map_err(in_words)?;
        self.hash.update(described);
        self.counted.count(&facts);
        Ok(Stored { key, probes })
    }

    /// Compares the manifest with what was read.
    fn end(&mut self, content: &[u8]) -> Result<(), String> {
        let not_read = |error| format!("its manifest cannot be read: {error}");
        let manifest: Manifest = serde_json::from_slice(content).map_err(not_read)?;
        if manifest.format != FORMAT {
            let format = manifest.format.escape_debug();
            return Err(format!("its format is '{format}', and this program reads '{FORMAT}'"));
        }
        tar_file::read_end(&mut self.input)?;
        if !manifest.names_what_it_left_out()
            || manifest.unreadable.saturating_add(manifest.deleted_meanwhile) > manifest.left_out
        {
            return Err("its manifest does not name the keys that it leaves out".to_owned());
        }
        let counted = &self.counted;
        let said = (manifest.keys, manifest.versions, manifest.deleted, manifest.files);
        let hash = hex::encode(self.hash.clone().finish());
        if said != (counted.keys, counted.versions, counted.deleted, counted.files) || manifest.sha256 != hash
        {
            return Err(format!(
                "its manifest tells of {} keys with {} versions in {} files, and {} with {} in {} were found, or others",
                manifest.keys,
                manifest.versions,
                manifest.files,
                counted.keys,
                counted.versions,
                counted.files
            ));
        }
        self.manifest = Some(manifest);
        Ok(())
    }

    /// Returns the manifest, after [`next`](Self::next) has returned `None`.
    pub fn into_manifest(self) -> Option<Manifest> {
        self.manifest
    }
}
