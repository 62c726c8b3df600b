//! What an entry holds sealed, and how it is opened.

use std::io::{Read as _, Write as _};

use kms_core::primitives::{SealingKey, SecretBytes};
use kms_core::store::KeyRecord;
use zeroize::Zeroizing;

use super::contents::{Contents, Fact};
use super::line::{Says, Sealed, Subject};
use crate::recipients::{Identities, Recipients};

/// What comes before the name of the entry. The record follows the end of that line.
const MAGIC: &str = "kms-escrow-record 1 ";

/// The most that an entry may hold, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// The length of the tag and the space before the record of a later version.
const TAG_LEN: usize = 65;

/// Seals a record with the name of its entry.
pub fn seal(recipients: &Recipients, name: &str, record: &SecretBytes) -> Result<Vec<u8>, String> {
    let sealed = |record: &SecretBytes| {
        let mut writer = recipients.seal(Vec::new())?;
        writer.write_all(format!("{MAGIC}{name}\n").as_bytes())?;
        writer.write_all(record.expose())?;
        writer.finish()
    };
    sealed(record).map_err(|error| format!("seal the record of entry '{name}': {error}"))
}

/// Opens a sealed record. Fails if it is that of another entry or of another key than its line says.
pub fn open(identities: &Identities, subject: &Subject, sealed: &[u8]) -> Result<SecretBytes, String> {
    let text = read(identities, sealed)?;
    let expected = format!("{MAGIC}{}\n", subject.name);
    let record = text
        .strip_prefix(expected.as_bytes())
        .ok_or_else(|| "it holds the record of another entry than its line says".to_owned())?;
    let record = SecretBytes::from(record);
    let found = self::subject(&subject.name, &record);
    if found.may_be(subject) {
        Ok(record)
    } else if found.fingerprint == subject.fingerprint {
        Err("it holds another record of its key than its line says".to_owned())
    } else {
        Err("it holds another key than its line says".to_owned())
    }
}

/// Opens the records whose lines do not tell them from others of their key, as in the first files, and finds out which they are.
pub fn tell_apart(contents: &mut Contents, identities: &Identities) {
    for Fact { says, .. } in &mut contents.facts {
        let Says::Entry { subject, sealed: Sealed::Whole(sealed) } = says else { continue };
        if subject.record.is_some() || !subject.is_known() || sealed.is_empty() {
            continue;
        }
        // What does not open is told when it is needed.
        if let Ok(record) = open(identities, subject, sealed) {
            *subject = self::subject(&subject.name, &record);
        }
    }
}

fn read(identities: &Identities, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let reader = identities.open(sealed).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => "it was sealed to others".to_owned(),
        error => error.to_string(),
    })?;
    // The capacity suffices from the start: a vector that grows leaves its old bytes behind.
    let mut text = Zeroizing::new(Vec::with_capacity(sealed.len()));
    reader.take(MAX_RECORD).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Returns what a record is that an entry of this name holds. Its fingerprint is not known if it holds no key.
pub fn subject(name: &str, record: &SecretBytes) -> Subject {
    let bytes = record.expose();
    let bytes = if name.starts_with(".v/") { bytes.get(TAG_LEN..) } else { Some(bytes) };
    let Some(record) = bytes.and_then(|bytes| KeyRecord::decode(bytes).ok()) else {
        return Subject::new(name, None);
    };
    let mark = record.mark();
    let fingerprint = hex::encode(SealingKey::new(record.key, record.cipher).fingerprint().as_bytes());
    Subject { record: Some(mark), ..Subject::new(name, Some(&fingerprint)) }
}
