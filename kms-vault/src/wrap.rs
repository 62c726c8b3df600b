//! The transit engine as a wrapper: Vault seals records before they are stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, Wrapper};
use kms_core::{Error, ErrorKind, Result, StoreStatus};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;
use vaultrs::api::transit::requests::{DecryptDataRequest, EncryptDataRequest};
use zeroize::Zeroizing;

use crate::config::{TransitConfig, VaultConfig, invalid};
use crate::error::Failure;
use crate::http::{Call, Envelope, json_body, secret_text};
use crate::session::Session;

/// A key of Vault's transit engine as a root key.
///
/// Beside Vault's own K/V, records have KES's form, which carries no associated data. Such a record opens under
/// any name, so whoever can write to the K/V engine can put one key in the place of another. Under every other
/// store ([`bound`](Transit::bound)) the name is associated data.
pub struct Transit {
    session: Arc<Session>,
    engine: String,
    key: String,
    form: Form,
    plain_records: AtomicU64,
}

/// The form of the ciphertexts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// KES's form, in its own store: without associated data. Records that are not sealed may be read.
    Kes { plain_too: bool },
    /// The form with the name as associated data. Every record is sealed.
    Bound,
}

/// The body of a request to seal. vaultrs defines only the route, since nobody wipes the record in its bodies.
#[derive(Serialize)]
struct ToSeal<'a> {
    plaintext: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    associated_data: Option<String>,
}

#[derive(Deserialize)]
struct Sealed {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Opened<'a> {
    #[serde(borrow)]
    plaintext: &'a RawValue,
}

impl Transit {
    /// Opens the transit key that `config` names, for a store outside of Vault.
    ///
    /// The K/V settings of `config` are not used.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the configuration cannot be used, or names no transit key.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn bound(config: &VaultConfig) -> Result<Self> {
        let transit = config.transit.as_ref().ok_or_else(|| invalid("transit", "it is not given"))?;
        Ok(Self::new(Session::open(config)?, transit, Form::Bound))
    }

    /// Returns how many unsealed records were read.
    pub fn plain_records(&self) -> u64 {
        self.plain_records.load(Ordering::Relaxed)
    }

    pub(crate) fn beside_store(session: Arc<Session>, config: &TransitConfig) -> Self {
        Self::new(session, config, Form::Kes { plain_too: !config.require })
    }

    fn new(session: Arc<Session>, config: &TransitConfig, form: Form) -> Self {
        let engine = config.engine.trim_matches('/').to_owned();
        Self { session, engine, key: config.key.clone(), form, plain_records: AtomicU64::new(0) }
    }

    fn associated_data(&self, name: &EntryName) -> Option<String> {
        (self.form == Form::Bound).then(|| STANDARD.encode(name.as_str()))
    }

    /// Creates the request to seal, still without the record.
    fn to_seal(&self) -> Call {
        let (mount, name) = (self.engine.clone(), self.key.clone());
        Call::to(&EncryptDataRequest { mount, name, ..EncryptDataRequest::default() })
    }

    fn to_open(&self, ciphertext: &str, associated_data: Option<String>) -> Result<Call> {
        let (mount, name, ciphertext) = (self.engine.clone(), self.key.clone(), ciphertext.to_owned());
        let request =
            DecryptDataRequest { mount, name, ciphertext, associated_data, ..DecryptDataRequest::default() };
        Call::with_body_of(&request)
    }

    /// Creates the error of a failed request. A 403 names the capability that the policy lacks.
    fn failed(operation: String, path: &str, of_400: ErrorKind, failure: Failure) -> Error {
        match &failure {
            Failure::Status { code: 403, .. } => failure.into_denied(operation, "update", path),
            Failure::Status { code: 400, .. } => Error::with_source(of_400, operation, failure),
            _ => failure.into_error(operation),
        }
    }
}

#[async_trait]
impl Wrapper for Transit {
    fn binds_name(&self) -> bool {
        self.form == Form::Bound
    }

    async fn wrap(&self, name: &EntryName, record: &SecretBytes) -> Result<Vec<u8>> {
        let plaintext = Zeroizing::new(STANDARD.encode(record.expose()));
        let operation = format!("seal '{name}' with transit key '{}'", self.key);
        let request = ToSeal { plaintext: &plaintext, associated_data: self.associated_data(name) };
        let call = Call { body: Some(json_body(&operation, &request)?), ..self.to_seal() };
        let answer = self.session.ask(&operation, &call).await?;
        if !answer.is_success() {
            return Err(Self::failed(operation, &call.path, ErrorKind::Denied, answer.failure()));
        }
        match answer.json::<Envelope<Sealed>>() {
            Ok(Envelope { data: Sealed { ciphertext } }) if is_sealed(ciphertext.as_bytes()) => {
                Ok(ciphertext.into_bytes())
            }
            Ok(_) => Err(Error::with_source(ErrorKind::Internal, operation, "the answer is no ciphertext")),
            Err(failure) => Err(failure.into_error(operation)),
        }
    }

    async fn unwrap(&self, name: &EntryName, wrapped: &[u8]) -> Result<SecretBytes> {
        let operation = format!("open '{name}' with transit key '{}'", self.key);
        let corrupt = |why: &'static str| Error::with_source(ErrorKind::Corrupt, &*operation, why);
        let sealed = std::str::from_utf8(wrapped).ok().filter(|text| is_sealed(text.as_bytes()));
        let Some(sealed) = sealed else {
            if self.form == (Form::Kes { plain_too: true }) {
                self.plain_records.fetch_add(1, Ordering::Relaxed);
                warn!(entry = %name, "a record is stored without transit; anybody who can read the K/V engine has its key");
                return Ok(SecretBytes::from(wrapped));
            }
            return Err(corrupt("it is not sealed by transit, and such records are refused"));
        };
        let call = self.to_open(sealed, self.associated_data(name))?;
        let answer = self.session.ask(&operation, &call).await?;
        if !answer.is_success() {
            return Err(Self::failed(operation, &call.path, ErrorKind::Corrupt, answer.failure()));
        }
        let opened =
            answer.json::<Envelope<Opened<'_>>>().map_err(|failure| failure.into_error(&operation))?;
        let plaintext = secret_text(opened.data.plaintext).ok_or_else(|| corrupt("the answer is no text"))?;
        STANDARD.decode(&*plaintext).map(SecretBytes::new).map_err(|_| corrupt("the answer is no base64"))
    }

    fn login_ends(&self) -> Option<Timestamp> {
        self.session.auth().login_ends()
    }

    async fn status(&self) -> Result<StoreStatus> {
        match self.form {
            Form::Bound => self.session.status().await,
            // The store asks the same Vault for its state.
            Form::Kes { .. } => Ok(StoreStatus::ok(Duration::ZERO)),
        }
    }
}

/// Returns whether a text is a ciphertext of transit, under any version of its key: `vault:v<N>:…`.
fn is_sealed(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"vault:v") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest.get(digits) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;
    use kms_core::primitives::Secret;

    use crate::config::{AppRole, Login};

    #[tokio::test]
    async fn requests_to_transit_are_those_of_kes() {
        let login = Login::AppRole(AppRole::new("role-id", Secret::from("secret-id")));
        let mut config = VaultConfig::new("http://127.0.0.1:1", login);
        config.transit =
            Some(TransitConfig { engine: "/a/transit/".to_owned(), ..TransitConfig::new("root") });
        let transit = Transit::bound(&config).unwrap();
        let seal = transit.to_seal();
        assert_eq!((seal.method, seal.path.as_str()), (Method::POST, "a/transit/encrypt/root"));
        for (associated_data, body) in [
            (None, r#"{"ciphertext":"vault:v1:abc"}"#),
            (Some("bmFtZQ=="), r#"{"ciphertext":"vault:v1:abc","associated_data":"bmFtZQ=="}"#),
        ] {
            let open = transit.to_open("vault:v1:abc", associated_data.map(str::to_owned)).unwrap();
            assert_eq!((open.method, open.path.as_str()), (Method::POST, "a/transit/decrypt/root"));
            assert_eq!(open.body.unwrap(), body);
        }
    }

    #[test]
    fn ciphertexts_of_every_key_version_are_known() {
        for sealed in ["vault:v1:abc", "vault:v2:abc", "vault:v117:abc"] {
            assert!(is_sealed(sealed.as_bytes()), "{sealed}");
        }
        for plain in
            ["", "CiQKIN", "{\"bytes\":\"\"}", "vault:", "vault:v", "vault:v:", "vault:v1", "vault:vx:abc"]
        {
            assert!(!is_sealed(plain.as_bytes()), "{plain}");
        }
    }
}
