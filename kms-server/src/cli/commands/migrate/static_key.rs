//! MinIO's static key: the one key of a MinIO without a key server, in an environment variable or a file.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::{Cipher, SecretKey, read_secret_file};
use kms_core::store::{EntryName, HmacKey, KeyRecord, KeyStore};
use kms_core::{ErrorKind, Identity, KeyName};
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::config::Environment;
use crate::host::files::failed;

/// The variables in which MinIO looks for its static key, and their forms. The last ones are of 2020.
const VARIABLES: [(&str, Form); 4] = [
    ("MINIO_KMS_SECRET_KEY", Form { is_file: false, is_hex: false }),
    ("MINIO_KMS_SECRET_KEY_FILE", Form { is_file: true, is_hex: false }),
    ("MINIO_KMS_MASTER_KEY", Form { is_file: false, is_hex: true }),
    ("MINIO_KMS_MASTER_KEY_FILE", Form { is_file: true, is_hex: true }),
];

#[derive(Clone, Copy)]
struct Form {
    is_file: bool,
    is_hex: bool,
}

/// A static key. It has no `Debug`, and is wiped when it is dropped.
pub struct StaticKey {
    variable: &'static str,
    name: KeyName,
    key: SecretKey,
    keeps_hmac: bool,
}

impl StaticKey {
    /// Reads the key from the one variable that is set.
    pub fn read(environment: &Environment, keeps_hmac: bool) -> Result<Self, Failure> {
        let set: Vec<_> = VARIABLES
            .iter()
            .filter_map(|(name, form)| environment.first_of(&[name]).map(|value| (*name, *form, value)))
            .collect();
        let [(variable, form, value)] = set.as_slice() else {
            let names: Vec<_> = set.iter().map(|(name, ..)| *name).collect();
            return Err(Failure::new(if names.is_empty() {
                "--from-static: none of MINIO_KMS_SECRET_KEY and MINIO_KMS_SECRET_KEY_FILE is set".to_owned()
            } else {
                format!("--from-static: {} are set, expected one of them", names.join(" and "))
            }));
        };
        if !form.is_file {
            return Self::parse(value, variable, form.is_hex, keeps_hmac);
        }
        let content = read_secret_file(Path::new(value), MOST_BYTES)
            .map_err(|error| Failure::new(format!("{variable}: {}", failed(Path::new(value), &error))))?;
        let text = std::str::from_utf8(&content)
            .map_err(|_| Failure::new(format!("{variable}: {value}: expected {}", expected(form.is_hex))))?;
        Self::parse(text.trim(), variable, form.is_hex, keeps_hmac)
    }

    /// Reads `NAME:KEY`. No error shows a part of a text that may be a key.
    fn parse(text: &str, variable: &'static str, is_hex: bool, keeps_hmac: bool) -> Result<Self, Failure> {
        let invalid = || Failure::new(format!("{variable}: expected {}", expected(is_hex)));
        let (name, key) = text.split_once(':').ok_or_else(invalid)?;
        let bytes = if is_hex { hex::decode(key).ok() } else { STANDARD.decode(key).ok() };
        let bytes = Zeroizing::new(bytes.ok_or_else(invalid)?);
        let key = SecretKey::from_slice(&bytes).ok_or_else(invalid)?;
        let name = KeyName::new(name).map_err(|error| {
            Failure::new(format!(
                "{variable}: {error}; KES refuses such a name, too, and MinIO asks for the key by this name: give MinIO a \
                 static key with another name, re-encrypt its objects under it, and move that one"
            ))
        })?;
        Ok(Self { variable, name, key, keeps_hmac })
    }

    /// Creates the key in `store`. Where `to` has the key already, its HMAC key is that one, unless it has to be kept.
    pub async fn create_in(&self, store: &dyn KeyStore, to: &dyn KeyStore) -> Result<(), Failure> {
        let entry = EntryName::from(&self.name);
        let creator = Identity::of_program("kms migrate").to_string();
        let mut record = KeyRecord::new(self.copy()?, Cipher::Aes256, creator)?;
        if self.keeps_hmac {
            record.hmac_key = Some(HmacKey(self.copy()?));
        } else {
            match to.get(&entry).await {
                Ok(there) => {
                    let there = KeyRecord::decode_at(there.expose(), || to.place(&entry))?;
                    if there.key == self.key {
                        record.hmac_key = there.hmac_key;
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(store.create(&entry, &record.encode()).await?)
    }

    fn copy(&self) -> Result<SecretKey, Failure> {
        SecretKey::from_slice(self.key.expose()).ok_or_else(|| Failure::new("a key has 32 bytes"))
    }

    /// Returns the variable from which the key came.
    pub fn place(&self) -> &str {
        self.variable
    }

    /// Returns what the move means for what MinIO derives from the key.
    pub fn told(&self) -> &'static str {
        if self.keeps_hmac {
            "The HMAC key is the static key itself, as in MinIO: root credentials that MinIO derives from it stay the same, and \
             STS sessions go on. An HMAC of exactly 16 bytes is refused."
        } else {
            "The HMAC key is a new one: root credentials that MinIO derives from its key change, and STS sessions that they \
             signed end. --keep-hmac keeps them."
        }
    }
}

/// The most bytes of a file with a key.
const MOST_BYTES: usize = 4096;

fn expected(is_hex: bool) -> &'static str {
    if is_hex { "NAME:KEY with 32 bytes in hexadecimal" } else { "NAME:KEY with 32 bytes in base64" }
}
