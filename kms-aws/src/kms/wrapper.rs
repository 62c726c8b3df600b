//! A CMK as the root key of a store.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, EncryptionAlgorithmSpec, KeyState};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_core::cache::policy::CALL_TIMEOUT;
use kms_core::primitives::{Cipher, SealingKey, SecretBytes};
use kms_core::store::{EntryName, Wrapper};
use kms_core::{Error, ErrorKind, Result, StoreStatus};

use super::config::WrapperConfig;
use super::format;
use super::lifecycle::{describe, secret_key};
use crate::client::{STATUS_AGE, Upstream, load};
use crate::error::Failure;

/// The member of the encryption context that holds the entry's name.
const CONTEXT_ENTRY: &str = "kms:entry";

/// A CMK of AWS KMS as a [`Wrapper`]: any store keeps its records under it.
///
/// Each record is sealed in this process under a key of its own, which `GenerateDataKey` gives and AWS wraps. So each
/// read of a record costs one `Decrypt`, and AWS never sees a record. The entry's name is in the encryption context and
/// in the associated data.
///
/// A wrapped record is text, as K/V engines want it: the base64 of 4 magic bytes, the kind 4, the length of the blob (2
/// bytes, big-endian), the blob, and the sealing of [`SealingKey`]. Records that the outer KMS of KES's releases of
/// 2020 wrapped have another form. They are not read.
pub struct AwsWrapper {
    key: String,
    upstream: Upstream,
}

impl AwsWrapper {
    /// Creates a wrapper with the settings of `config`. Nothing is asked of AWS KMS yet.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: a setting cannot be used, or no region was found.
    pub async fn open(config: WrapperConfig) -> Result<Self> {
        config.validate()?;
        let upstream = Upstream::new(&load(&config.connection).await?);
        Ok(Self { key: config.key, upstream })
    }

    fn encryption_context(name: &EntryName) -> HashMap<String, String> {
        HashMap::from([(CONTEXT_ENTRY.to_owned(), name.as_str().to_owned())])
    }

    /// Creates the error of a call that needs the right `action`.
    fn failed(&self, operation: String, action: &str, failure: Failure) -> Error {
        let why = match failure.kind {
            // The CMK is missing, and no key of a client.
            ErrorKind::NotFound => {
                let why = format!("the CMK '{}' is not there ({failure})", self.key);
                return Error::with_source(ErrorKind::Disabled, operation, why);
            }
            ErrorKind::Denied => format!("we lack '{action}' on '{}' ({failure})", self.key),
            _ => return failure.into_error(operation),
        };
        Error::with_source(ErrorKind::Denied, operation, why)
    }

    /// Returns whether AWS refuses the blob. An emulator uses the same code for a CMK that is missing.
    async fn refuses(&self, failure: &Failure, deadline: Instant) -> bool {
        match failure.kind {
            ErrorKind::NotAuthentic => true,
            ErrorKind::NotFound => describe(&self.upstream, deadline, &self.key).await.is_ok(),
            _ => false,
        }
    }
}

#[async_trait]
impl Wrapper for AwsWrapper {
    fn binds_name(&self) -> bool {
        true
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        let operation = || format!("wrap entry '{name}' with AWS KMS");
        let call = self
            .upstream
            .client()
            .generate_data_key()
            .key_id(&self.key)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(Self::encryption_context(name)));
        let answer = self.upstream.call(Instant::now() + CALL_TIMEOUT, call.send()).await;
        let answer = answer.map_err(|failure| self.failed(operation(), "kms:GenerateDataKey", failure))?;
        let key = secret_key(answer.plaintext).map_err(|failure| failure.into_error(operation()))?;
        let header = answer.ciphertext_blob.and_then(|blob| format::record_header(blob.as_ref()));
        let header = header.ok_or_else(|| {
            Failure::of(ErrorKind::Unreachable, "an answer of AWS KMS without a wrapped key")
                .into_error(operation())
        })?;
        let key = SealingKey::new(key, Cipher::Aes256);
        let sealed =
            key.seal(record.expose(), &format::associated_data(&header, name.as_str().as_bytes()))?;
        Ok(STANDARD.encode([header, sealed].concat()).into_bytes())
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        let operation = || format!("unwrap entry '{name}' with AWS KMS");
        let corrupt = |why: &str| Error::with_source(ErrorKind::Corrupt, operation(), why.to_owned());
        let bytes = STANDARD.decode(wrapped).unwrap_or_default();
        let Some(parts) = format::parse_record(&bytes) else {
            return Err(corrupt(
                "it was not wrapped here; records in the clear, and those that the outer KMS of KES of 2020 wrapped, \
                 are not read",
            ));
        };
        let deadline = Instant::now() + CALL_TIMEOUT;
        let call = self
            .upstream
            .client()
            .decrypt()
            .key_id(&self.key)
            .ciphertext_blob(Blob::new(parts.blob))
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
            .set_encryption_context(Some(Self::encryption_context(name)));
        let answer = match self.upstream.call(deadline, call.send()).await {
            Ok(answer) => answer,
            Err(failure) if self.refuses(&failure, deadline).await => {
                return Err(corrupt(&format!(
                    "it was wrapped under another CMK than '{}', for another entry, or was changed ({failure})",
                    self.key
                )));
            }
            Err(failure) => return Err(self.failed(operation(), "kms:Decrypt", failure)),
        };
        let key = secret_key(answer.plaintext).map_err(|failure| failure.into_error(operation()))?;
        let associated = format::associated_data(parts.header, name.as_str().as_bytes());
        SealingKey::new(key, Cipher::Aes256)
            .open(parts.sealed, &associated)
            .map_err(|_| corrupt("it was changed, or wrapped for another entry"))
    }

    async fn status(&self) -> Result<StoreStatus> {
        if self.upstream.answered_within(STATUS_AGE) {
            return Ok(StoreStatus::ok(Duration::ZERO));
        }
        let (began, operation) = (Instant::now(), "ask AWS KMS how its CMK is");
        match describe(&self.upstream, began + CALL_TIMEOUT, &self.key).await {
            Ok(metadata) if metadata.key_state.as_ref().is_none_or(|state| *state == KeyState::Enabled) => {
                Ok(StoreStatus::ok(began.elapsed()))
            }
            Ok(metadata) => {
                let state = metadata.key_state.as_ref().map_or("disabled", KeyState::as_str);
                let why = format!("the CMK '{}' cannot be used: {state}", self.key);
                Err(Error::with_source(ErrorKind::Disabled, operation, why))
            }
            // AWS answers, and this right is not needed to serve.
            Err(failure) if failure.kind == ErrorKind::Denied => Ok(StoreStatus::ok(began.elapsed())),
            Err(failure) => Err(self.failed(operation.to_owned(), "kms:DescribeKey", failure)),
        }
    }
}
