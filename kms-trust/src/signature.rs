//! The signature by which a peer proves at the handshake that it holds the private key of its certificate.
//!
//! Only the certificate's public key takes part. rustls's own functions read the whole certificate. They refuse a good
//! key in a certificate of version 1, or in one with an unknown critical extension.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::der_parser::asn1_rs::{Oid, Tag, oid};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The sizes in bits of the RSA keys whose signatures can be verified.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The reason why no signature of a certificate's key can be verified here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnusableKey {
    /// An RSA key with this number of bits; 0 for one whose encoding is wrong.
    Rsa(usize),
    /// An elliptic curve, by its object identifier. `None` is a curve whose parameters are spelled out.
    Curve(Option<String>),
    /// Another algorithm, by its object identifier.
    Algorithm(String),
}

impl UnusableKey {
    /// Checks that signatures of a certificate's key can be verified.
    ///
    /// # Errors
    ///
    /// - [`CertificateError::BadEncoding`]: the certificate cannot be read.
    /// - [`CertificateError::Other`] with an [`UnusableKey`]: no signature of its key can be verified.
    pub fn check(certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let (_, certificate) = parse(certificate)?;
        match Self::of(certificate.public_key()) {
            None => Ok(()),
            Some(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
        }
    }

    /// Returns what is wrong with the key of a certificate.
    ///
    /// Returns `None` where the key can be used, and where the certificate cannot be read.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        Self::of(parse(certificate).ok()?.1.public_key())
    }

    /// Returns the reason from the error of a handshake, if it is in there.
    pub fn in_error(error: &Error) -> Option<&Self> {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(why))) = error else { return None };
        why.downcast_ref()
    }

    fn of(key: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let algorithm = &key.algorithm;
        if algorithm.algorithm == RSA {
            // RFC 3279, section 2.3.1: the parameters have to be NULL.
            let is_regular =
                algorithm.parameters.as_ref().is_some_and(|parameters| parameters.tag() == Tag::Null);
            let bits = match key.parsed() {
                Ok(PublicKey::RSA(key)) if is_regular => bit_len(key.modulus),
                _ => 0,
            };
            return (!RSA_BITS.contains(&bits)).then_some(Self::Rsa(bits));
        }
        if algorithm.algorithm == EC {
            let curve = algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let is_known = curve.as_ref().is_some_and(|curve| CURVES.contains(curve));
            return (!is_known).then(|| Self::Curve(curve.map(|curve| curve.to_id_string())));
        }
        (algorithm.algorithm != ED25519).then(|| Self::Algorithm(algorithm.algorithm.to_id_string()))
    }
}

/// Returns the number of bits of a big-endian number.
fn bit_len(number: &[u8]) -> usize {
    let significant = number.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &number[first..]);
    let unused = significant.first().map_or(0, |first| first.leading_zeros() as usize);
    8 * significant.len() - unused
}

// RFC 8017, appendix C; RFC 5480, section 2.1; RFC 8410, section 3.
const RSA: Oid<'_> = oid!(1.2.840.113549.1.1.1);
const EC: Oid<'_> = oid!(1.2.840.10045.2.1);
const ED25519: Oid<'_> = oid!(1.3.101.112);
/// P-256, P-384 and P-521.
const CURVES: [Oid<'_>; 3] = [oid!(1.2.840.10045.3.1.7), oid!(1.3.132.0.34), oid!(1.3.132.0.35)];

impl fmt::Display for UnusableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(0) => f.write_str("an RSA key that is not encoded as it should be (RFC 3279)"),
            Self::Rsa(bits) => write!(f, "an RSA key of {bits} bits"),
            Self::Curve(None) => f.write_str("an elliptic curve that has no name"),
            Self::Curve(Some(curve)) => match curve.as_str() {
                "1.3.132.0.33" => f.write_str("the elliptic curve P-224"),
                "1.3.132.0.10" => f.write_str("the elliptic curve secp256k1"),
                curve => write!(f, "the elliptic curve {curve}"),
            },
            Self::Algorithm(algorithm) => match algorithm.as_str() {
                "1.3.101.113" => f.write_str("an Ed448 key"),
                "1.2.840.10040.4.1" => f.write_str("a DSA key"),
                "1.2.840.113549.1.1.10" => f.write_str("a key for RSASSA-PSS alone"),
                algorithm => write!(f, "a key of the algorithm {algorithm}"),
            },
        }?;
        f.write_str("; make one of ECDSA P-256, P-384, P-521, Ed25519, or RSA of 2048 to 8192 bits")
    }
}

impl std::error::Error for UnusableKey {}

/// Implements the signature methods of rustls's `ClientCertVerifier` and `ServerCertVerifier`, which are the same.
///
/// The argument is the path from `self` to the supported algorithms.
macro_rules! verify_by_public_key {
    ($($algorithms:ident).+) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $crate::signature::verify_tls12(message, certificate, signed, &self.$($algorithms).+)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $crate::signature::verify_tls13(message, certificate, signed, &self.$($algorithms).+)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.$($algorithms).+.supported_schemes()
        }
    };
}

pub(crate) use verify_by_public_key;

/// Verifies a signature of TLS 1.2 by the public key of `certificate`.
pub fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = key_of(certificate)?;
    let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
    let with_scheme = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let (_, of_scheme) = with_scheme.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    // A scheme of TLS 1.2 names no curve, so the algorithm is the one that fits the key.
    for algorithm in *of_scheme {
        match key.verify_signature(*algorithm, message, signed.signature()) {
            Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => return Err(CertificateError::BadSignature.into()),
        }
    }
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

/// Verifies a signature of TLS 1.3 by the public key of `certificate`.
pub fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature_with_raw_key(message, &key_of(certificate)?, signed, algorithms)
}

/// Returns whether `signature` signs `message` by the public key `key` (a `SubjectPublicKeyInfo`) and a supported algorithm.
pub fn is_signature_of(
    key: &[u8],
    message: &[u8],
    signature: &[u8],
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else { return false };
    // An algorithm that does not fit the key fails before it reads the signature.
    algorithms.all.iter().any(|algorithm| key.verify_signature(*algorithm, message, signature).is_ok())
}

fn key_of<'a>(certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'a>, CertificateError> {
    let (_, certificate) = parse(certificate)?;
    Ok(SubjectPublicKeyInfoDer::from(certificate.tbs_certificate.subject_pki.raw))
}

fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<(&'a [u8], X509Certificate<'a>), CertificateError> {
    X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)
}
