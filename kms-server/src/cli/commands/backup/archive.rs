//! An archive in a file, and who opens it.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use age::DecryptError;
use age::stream::StreamReader;
use aws_lc_rs::digest::{Context, SHA256};
use kms_core::primitives::open_file;

use crate::backup::{ArchiveReader, Manifest, Stored};
use crate::cli::failure::Failure;
use crate::cli::password;
use crate::host::files;
use crate::recipients::{Bounded, Identities};

/// The flags that open an archive.
#[derive(clap::Args)]
pub struct OpenFlags {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The file with a secret key of age that opens the backup, as age-keygen makes it.
    #[arg(long, value_name = "FILE", required_unless_present = "passphrase", conflicts_with = "passphrase")]
    identity: Option<PathBuf>,
    /// Ask for the passphrase that opens the backup.
    #[arg(long)]
    passphrase: bool,
    /// Refuse the backup unless its file has this SHA-256, which 'kms backup create' printed.
    #[arg(long, value_name = "HEX", value_parser = parse_sha256)]
    sha256: Option<String>,
}

/// Parses SHA-256 in hexadecimal.
fn parse_sha256(text: &str) -> Result<String, String> {
    match hex::decode(text) {
        Ok(hash) if hash.len() == 32 => Ok(hex::encode(hash)),
        _ => Err("no SHA-256, expected 64 hexadecimal digits".to_owned()),
    }
}

/// An archive in a file. It can be read several times, and is checked each time.
pub struct Archive<'a> {
    path: &'a Path,
    file: File,
    identities: Identities,
    sha256: String,
    len: u64,
}

/// The reader of an archive from its beginning.
type Reader<'a> = ArchiveReader<BufReader<StreamReader<Bounded<BufReader<&'a File>>>>>;

impl<'a> Archive<'a> {
    /// Opens the file, and asks for the passphrase if one opens it.
    pub fn open(flags: &'a OpenFlags) -> Result<Self, Failure> {
        let identities = match &flags.identity {
            Some(identity) => Identities::from_file(identity).map_err(Failure::new)?,
            None => Identities::of_passphrase(password::ask_passphrase(&flags.file)?),
        };
        let archive = Self::of(&flags.file, identities)?;
        match &flags.sha256 {
            Some(expected) if *expected != archive.sha256 => Err(archive.fails(&format!(
                "its SHA-256 is {}, and {expected} is expected: it is another backup, or was changed",
                archive.sha256
            ))),
            _ => Ok(archive),
        }
    }

    /// Opens a file that one of these opens.
    pub fn of(path: &'a Path, identities: Identities) -> Result<Self, Failure> {
        let file = open_file(path).map_err(|error| Failure::new(files::failed(path, &error)))?;
        let (sha256, len) = hash(&file).map_err(|error| Failure::new(files::failed(path, &error)))?;
        Ok(Self { path, file, identities, sha256, len })
    }

    /// Returns SHA-256 of the file in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Returns the size of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Begins to read.
    pub fn reader(&self) -> Result<Reader<'_>, Failure> {
        let mut file = &self.file;
        file.rewind().map_err(|error| self.unreadable(&error))?;
        let opened = self.identities.open(BufReader::new(file)).map_err(|error| match error {
            DecryptError::NoMatchingKeys => self.fails("it is sealed to others"),
            DecryptError::DecryptionFailed => self.fails("the passphrase is not the one of this backup"),
            DecryptError::Io(error) => self.fails(&format!("it is no backup, or was cut off: {error}")),
            error => self.fails(&format!("it is no backup, or was changed: {error}")),
        })?;
        Ok(ArchiveReader::new(BufReader::new(opened)))
    }

    /// Returns the next key of a reader.
    pub fn next(&self, reader: &mut Reader<'_>) -> Result<Option<Stored>, Failure> {
        reader.next().map_err(|why| self.fails(&why))
    }

    /// Returns the manifest of a reader that has come to its end.
    pub fn manifest(&self, reader: Reader<'_>) -> Result<Manifest, Failure> {
        reader.into_manifest().ok_or_else(|| self.fails("it was not read to its end"))
    }

    /// Checks everything.
    pub fn verify(&self) -> Result<Manifest, Failure> {
        let mut reader = self.reader()?;
        while self.next(&mut reader)?.is_some() {}
        self.manifest(reader)
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::new(files::failed(self.path, error))
    }

    fn fails(&self, why: &str) -> Failure {
        Failure::new(format!("{}: {why}", self.path.display()))
    }
}

/// Returns SHA-256 of a file in hexadecimal, and its size.
fn hash(mut file: &File) -> io::Result<(String, u64)> {
    let (mut hash, mut size) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hex::encode(hash.finish()), size)),
            count => {
                hash.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// Returns words for a number of things, such as `1 key` and `2 keys`.
pub fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
