//! API keys: an Ed25519 seed as text, from which a client makes its certificate.

use std::time::Duration;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::SecretKey;
use kms_core::{Error, ErrorKind, Identity};
use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::certificate::{self, CertifiedKey, NewCertificate};

/// The beginning of every API key.
pub const PREFIX: &str = "kes:v1:";

/// The validity of the certificate that a client makes from its API key: 90 days, as in KES's SDK.
const CLIENT_CERTIFICATE_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

/// The type byte of an Ed25519 seed, which is the only type.
const TYPE_ED25519: u8 = 0;

/// An API key of KES: `kes:v1:` and the base64 of a zero byte and a 32-byte Ed25519 seed.
///
/// The holder of an API key has the [`Identity`] of its public key. The type has no `Debug`, and is wiped when dropped.
pub struct ApiKey {
    seed: SecretKey,
    signer: Signer,
}

impl ApiKey {
    /// Creates an API key from the operating system's random generator.
    pub fn generate() -> kms_core::Result<Self> {
        Self::of_seed(SecretKey::random()?)
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
    }

    /// Reads an API key as KES prints it, without white space around it.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidApiKey::Prefix)?;
        let mut bytes = Zeroizing::new(vec![0; encoded.len()]);
        let len = STANDARD.decode_slice(encoded, &mut bytes).map_err(|_| InvalidApiKey::Base64)?;
        match bytes.get(..len) {
            Some([TYPE_ED25519, seed @ ..]) => {
                Self::of_seed(SecretKey::from_slice(seed).ok_or(InvalidApiKey::Length(len))?)
            }
            Some([other, ..]) => Err(InvalidApiKey::Type(*other)),
            _ => Err(InvalidApiKey::Length(0)),
        }
    }

    /// Creates an API key from the private key of a certificate. Returns `None` unless that is an Ed25519 key.
    ///
    /// `pkcs8` is the DER of PKCS #8.
    pub fn of_private_key(pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
        let seed = pair.seed().ok()?.as_be_bytes().ok()?;
        Self::of_seed(SecretKey::from_slice(seed.as_ref())?).ok()
    }

    /// Returns the API key as text, which is a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; 33]);
        bytes[1..].copy_from_slice(self.seed.expose());
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 44));
        text.push_str(PREFIX);
        STANDARD.encode_string(*bytes, &mut text);
        text
    }

    /// Returns the identity of the API key's holder.
    pub fn identity(&self) -> Identity {
        Identity::of_public_key(&self.signer.subject_public_key_info())
    }

    /// Creates a short-lived client certificate as KES's SDK does: self-signed, named by the identity, valid for 90 days.
    pub fn client_certificate(&self) -> kms_core::Result<CertifiedKey> {
        let name = self.identity().to_string();
        let certificate = NewCertificate::client(name, CLIENT_CERTIFICATE_VALIDITY);
        self.certify(&certificate)
    }

    /// Creates a self-signed certificate for the key pair of this API key.
    pub fn certify(&self, certificate: &NewCertificate) -> kms_core::Result<CertifiedKey> {
        let failed = |_| Error::new(ErrorKind::Internal, "encode the private key of an API key");
        let pkcs8 = self.signer.0.to_pkcs8v1().map_err(failed)?;
        Ok(CertifiedKey {
            chain: vec![certificate::self_sign(certificate, &self.signer)?],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec())),
        })
    }

    fn of_seed(seed: SecretKey) -> Result<Self, InvalidApiKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| InvalidApiKey::Seed)?;
        Ok(Self { seed, signer: Signer(pair) })
    }
}

/// Why a text is not an API key. No part of the text is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiKey {
    /// It does not begin with `kes:v1:`.
    #[error("invalid API key: expected it to begin with '{PREFIX}'")]
    Prefix,
    /// What follows is not standard base64.
    #[error("invalid API key: expected standard base64 with padding, and nothing else, after '{PREFIX}'")]
    Base64,
    /// Its first byte names a type that is not Ed25519.
    #[error("invalid API key: type {0} is not supported, expected 0 (Ed25519)")]
    Type(u8),
    /// It does not hold exactly a type byte and 32 bytes of seed.
    #[error("invalid API key: it holds {0} bytes, expected 33")]
    Length(usize),
    /// The cryptographic library refused the seed.
    #[error("invalid API key: the seed is not usable")]
    Seed,
}

/// Signs certificates with the key pair itself, so that [`rcgen`] needs no copy of it.
struct Signer(Ed25519KeyPair);

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "kes:v1:ADoyz5jvBx2JOblmzuQnnV7AP79nWRi5UkU1qCGKACyh";
    const IDENTITY: &str = "0a1df7f479f3c22075d1a9d4fe65e19db38e9da8ecdbd4e7264ba665aaa16a84";

    #[test]
    fn an_api_key_of_kes_has_the_identity_that_kes_gives_it() {
        let key = ApiKey::parse(KEY).unwrap();
        assert_eq!(key.identity().to_string(), IDENTITY);
        assert_eq!(*key.to_text(), KEY);
    }

    #[test]
    fn the_private_key_of_its_certificate_is_the_api_key_again() {
        let certified = ApiKey::parse(KEY).unwrap().client_certificate().unwrap();
        let again = ApiKey::of_private_key(certified.key.secret_der()).unwrap();
        assert_eq!(*again.to_text(), KEY);
        assert!(ApiKey::of_private_key(b"nonsense").is_none());
    }

    #[test]
    fn the_client_certificate_has_the_identity_and_name_of_the_api_key() {
        let certified = ApiKey::parse(KEY).unwrap().client_certificate().unwrap();
        let facts = certificate::Facts::of(&certified.chain[0]).unwrap();
        assert_eq!(facts.identity.to_string(), IDENTITY);
        assert_eq!(facts.subject, format!("CN={IDENTITY}"));
        assert!(!facts.is_ca);
        let days = facts.not_after.duration_since(jiff::Timestamp::now()).as_hours() / 24;
        assert!((89..=90).contains(&days), "{days}");
    }

    #[test]
    fn what_is_no_api_key_is_refused_with_the_reason() {
        for (text, reason) in [
            ("ADoyz5jvBx2JOblmzuQnnV7AP79nWRi5UkU1qCGKACyh", InvalidApiKey::Prefix),
            ("kes:v1:AToyz5jvBx2JOblmzuQnnV7AP79nWRi5UkU1qCGKACyh", InvalidApiKey::Type(1)),
            ("kes:v1:ADoyz5jvBx2JOblmzuQnnV7AP79nWRi5UkU1qCGKACw=", InvalidApiKey::Length(32)),
            ("kes:v1:!!!!", InvalidApiKey::Base64),
            ("kes:v1:", InvalidApiKey::Length(0)),
            ("kes:v1:ADoyz5jvBx2JOblmzuQnnV7AP79nWRi5UkU1qCGKACyh ", InvalidApiKey::Base64),
        ] {
            assert_eq!(ApiKey::parse(text).err(), Some(reason), "{text}");
        }
    }
}
