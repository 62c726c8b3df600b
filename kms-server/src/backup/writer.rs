//! Writes an archive, key by key. It keeps one key in memory.

use std::io::{self, Write};

use aws_lc_rs::digest::{Context, SHA256};
use kms_core::KeyName;
use kms_core::transfer::StoredKey;

use super::facts::{KEY_FILE, KEYS, KeyFacts, MANIFEST, Manifest};
use super::tar_file;
use super::time::Time;
use crate::host::platform::VERSION;

/// Writes the tar of an archive to `W`, which seals it.
pub struct ArchiveWriter<W> {
    out: W,
    manifest: Manifest,
    /// Of all files `key.json` so far.
    hash: Context,
    last: Option<KeyName>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins the archive of a store of this kind.
    pub fn new(out: W, store: &str, began: Time) -> Self {
        let manifest = Manifest::new(format!("kms {VERSION}"), store, began);
        Self { out, manifest, hash: Context::new(&SHA256), last: None }
    }

    /// Returns what was written so far.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes a key, with a new probe of each version. Keys come in byte order of their names.
    ///
    /// # Errors
    ///
    /// Those of the writer below, and an error that says why the key cannot be in an archive.
    pub fn key(&mut self, key: &StoredKey) -> io::Result<()> {
        self.in_order(key.name())?;
        let probes = key.seal_probes().map_err(|error| io::Error::other(error.chain().to_string()))?;
        let facts = KeyFacts::of(key, &probes);
        let directory = format!("{KEYS}{}/", key.name());
        for (file, (_, bytes)) in facts.files.iter().zip(key.entries()) {
            tar_file::write(&mut self.out, &format!("{directory}{}", file.path), bytes.expose())?;
        }
        let described = serde_json::to_vec(&facts).map_err(io::Error::from)?;
        tar_file::write(&mut self.out, &format!("{directory}{KEY_FILE}"), &described)?;
        self.hash.update(&described);
        self.manifest.count(&facts);
        Ok(())
    }

    /// Notes a key that was listed and cannot be in the archive.
    pub fn leave_out(&mut self, name: &KeyName, why: &str) {
        self.manifest.count_left_out(name, why);
    }

    /// Notes a key that was deleted for ever since it was listed.
    pub fn deleted_meanwhile(&mut self, name: &KeyName) {
        self.manifest.count_deleted_meanwhile(name);
    }

    /// Notes a key that was listed and cannot be read.
    pub fn unreadable(&mut self, name: &KeyName, why: &str) {
        self.manifest.count_unreadable(name, why);
    }

    /// Writes the manifest and the end of the tar.
    ///
    /// # Errors
    ///
    /// Those of the writer below.
    pub fn finish(self) -> io::Result<(W, Manifest)> {
        let Self { mut out, mut manifest, hash, .. } = self;
        manifest.ended = Time::now();
        manifest.sha256 = hex::encode(hash.finish());
        let described = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
        tar_file::write(&mut out, MANIFEST, &described)?;
        tar_file::write_end(&mut out)?;
        Ok((out, manifest))
    }

    /// Fails for a key that would make the archive unreadable: a key has one place in it.
    fn in_order(&mut self, name: &KeyName) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|last| last >= name) {
            let why = format!("the key store lists its keys out of order: '{name}' comes too late");
            return Err(io::Error::other(why));
        }
        self.last = Some(name.clone());
        Ok(())
    }
}
