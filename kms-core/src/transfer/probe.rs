//! The proof that a key is the same after a move: what one copy sealed, the other one opens.

use super::parts::StoredKey;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::header::Header;
use crate::primitives::mac;
use crate::store::KeyRecord;

/// The text that a probe seals.
const TEXT: &[u8] = b"kms probe v1";

/// A ciphertext that one version of a key sealed, as a proof of that version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The number of the version.
    pub version: u32,
    /// The ciphertext, in the form that clients get. Its context is the name of the key.
    pub ciphertext: Vec<u8>,
    /// An HMAC of the same text. Only the first version has a key for it, and not that of a record from before KES 0.24.
    pub hmac: Option<[u8; 32]>,
}

impl Probe {
    /// Creates a probe from its parts, such as those of an archive.
    pub fn new(version: u32, ciphertext: Vec<u8>, hmac: Option<[u8; 32]>) -> Self {
        Self { version, ciphertext, hmac }
    }

    /// Returns the text that every probe seals, and whose HMAC it has. A key service that decrypts a probe has to return it.
    pub fn text() -> &'static [u8] {
        TEXT
    }
}

impl StoredKey {
    /// Seals a probe under each version, disabled ones too.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Internal`]: the system has no random bytes.
    pub fn seal_probes(&self) -> Result<Vec<Probe>> {
        let context = self.name.as_str().as_bytes();
        let mut probes = vec![Probe::new(1, self.first.seal(TEXT, context)?, self.hmac()?)];
        for (number, slot) in (2..).zip(&self.slots) {
            let header = Header { first: self.fingerprint(), version: number }.to_bytes();
            probes.push(Probe::new(number, slot.key.seal_behind(&header, TEXT, context)?, None));
        }
        Ok(probes)
    }

    /// Opens the probes that another copy of the key sealed under the same name.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotAuthentic`]: a probe does not open, or its HMAC is another one. The error names its version.
    pub fn open_probes(&self, probes: &[Probe]) -> Result<()> {
        probes.iter().try_for_each(|probe| self.open_probe(probe))
    }

    fn open_probe(&self, probe: &Probe) -> Result<()> {
        let context = self.name.as_str().as_bytes();
        let opened = match probe.version {
            1 => self.first.open(&probe.ciphertext, context).ok(),
            number => Header::parse(&probe.ciphertext)
                .filter(|(header, _)| header.first == self.fingerprint() && header.version == number)
                .and_then(|(header, sealed)| {
                    let slot = usize::try_from(number).ok()?.checked_sub(2)?;
                    let key = &self.slots.get(slot)?.key;
                    key.open_behind(&header.to_bytes(), sealed, context).ok()
                }),
        };
        let is_same_hmac = probe.version != 1 || self.hmac()? == probe.hmac;
        if is_same_hmac && opened.is_some_and(|text| text.expose() == TEXT) {
            return Ok(());
        }
        let operation = format!("open the probe of version {} of key '{}'", probe.version, self.name);
        Err(Error::new(ErrorKind::NotAuthentic, operation))
    }

    fn hmac(&self) -> Result<Option<[u8; 32]>> {
        let record = KeyRecord::decode(self.record.expose())?;
        Ok(record.hmac_key.map(|key| mac::tag(&key.0, TEXT).into()))
    }
}
