//! The rule by which a client's certificate is accepted.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Version;

use crate::authorities::Authorities;
use crate::certificates::Trusted;
use crate::dates::Dates;
use crate::signature::{UnusableKey, is_signature_of, verify_tls12, verify_tls13};

/// Accepts a client whose chain leads to a trusted authority, or whose certificate is a trusted one itself, in its time.
#[derive(Debug)]
pub struct ClientVerifier {
    trusted: Trusted,
    chains: Authorities<dyn ClientCertVerifier>,
    /// What clients are told that they may choose among: authorities and pins.
    hints: Vec<DistinguishedName>,
    is_mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    /// Makes the verifier of connections from clients, which have to show a certificate where that `is_mandatory`.
    pub fn new(trusted: Trusted, is_mandatory: bool, provider: &Arc<CryptoProvider>) -> Arc<Self> {
        let chains = Authorities::new(trusted.authorities());
        let hints = trusted.subjects();
        Arc::new(Self { trusted, chains, hints, is_mandatory, provider: Arc::clone(provider) })
    }
}

impl ClientVerifier {
    /// Returns the last seconds of the authorities, after which nobody is accepted by them.
    pub fn ends_of_authorities(&self) -> impl Iterator<Item = UnixTime> {
        self.chains.ends()
    }
}

/// Fails unless one of the authorities that are in their time signed `leaf`, a certificate of version 1, itself.
///
/// webpki reads version 3 alone. Plain `openssl x509 -req -CA` makes version 1 up to OpenSSL 3.3, and a client may well have
/// such a one: it has no extension that could restrict it, and can sign no other.
fn check_version_1(
    leaf: &CertificateDer<'_>,
    authorities: &Authorities<dyn ClientCertVerifier>,
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), CertificateError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    Dates::of(leaf)?.check(now)?;
    let issuer = certificate.issuer().as_raw();
    let (signed, signature) = (certificate.tbs_certificate.as_ref(), &certificate.signature_value.data);
    let is_signed_by = |authority: &CertificateDer<'_>| {
        let Ok((_, authority)) = X509Certificate::from_der(authority) else { return false };
        // Which names it may sign for is not looked at here.
        let is_bounded = !matches!(authority.name_constraints(), Ok(None));
        !is_bounded && is_signature_of(authority.public_key().raw, signed, signature, algorithms)
    };
    authorities.named(issuer, now).any(is_signed_by).then_some(()).ok_or(CertificateError::UnknownIssuer)
}

fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.version() == X509Version::V1)
}

/// Fails where a certificate says what it is for, and that is not to identify clients.
fn check_usage(certificate: &CertificateDer<'_>) -> Result<(), CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let usage = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_none_or(|usage| usage.value.any || usage.value.client_auth) {
        return Ok(());
    }
    Err(CertificateError::InvalidPurpose)
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        UnusableKey::check(end_entity)?;
        let chains = self.chains.at(now, |roots| {
            let roots = Arc::new(roots);
            let built =
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
            built.ok()
        });
        let by_chain = match chains {
            Some(chains) => chains.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        if by_chain.is_ok() {
            return by_chain;
        }
        if !self.trusted.holds(end_entity) {
            if !is_version_1(end_entity) {
                return by_chain;
            }
            let algorithms = &self.provider.signature_verification_algorithms;
            check_version_1(end_entity, &self.chains, now, algorithms)?;
            return Ok(ClientCertVerified::assertion());
        }
        Dates::of(end_entity)?.check(now)?;
        check_usage(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
