//! The rule by which a client's certificate is accepted.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Version;

use crate::authorities::Authorities;
use crate::certificates::Trusted;
use crate::dates::Dates;
use crate::signature::{UnusableKey, is_signature_of, verify_by_public_key};

/// Accepts a client whose chain leads to a trusted authority, or whose certificate is itself trusted: a pin.
///
/// webpki judges the chain first. A client is accepted by a certificate of version 1, too, where a trusted authority
/// signed it. A pin is accepted between its dates and unless it says that it is for another purpose.
#[derive(Debug)]
pub struct ClientVerifier {
    trusted: Trusted,
    chains: Authorities<dyn ClientCertVerifier>,
    /// The subjects of authorities and pins. Clients choose a certificate by them.
    hints: Vec<DistinguishedName>,
    is_mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    /// Creates a verifier. Clients have to show a certificate where that `is_mandatory`.
    pub fn new(trusted: Trusted, is_mandatory: bool, provider: &Arc<CryptoProvider>) -> Arc<Self> {
        let chains = Authorities::new(trusted.authorities());
        let hints = trusted.subjects();
        Arc::new(Self { trusted, chains, hints, is_mandatory, provider: Arc::clone(provider) })
    }

    /// Returns the last second of each authority. After it, the authority vouches for nobody.
    pub fn ends_of_authorities(&self) -> impl Iterator<Item = UnixTime> {
        self.chains.ends()
    }
}

/// Checks that a valid authority signed `leaf`, a certificate of version 1.
///
/// webpki reads version 3 only, and plain `openssl x509 -req -CA` makes version 1 up to OpenSSL 3.3. Such a certificate
/// is safe to accept from a client: it has no extension that could restrict it, and it cannot sign another one.
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
        // Nobody checks here whether the authority may sign for this name, so one with name constraints signs none.
        let is_bounded = !matches!(authority.name_constraints(), Ok(None));
        !is_bounded && is_signature_of(authority.public_key().raw, signed, signature, algorithms)
    };
    authorities.named(issuer, now).any(is_signed_by).then_some(()).ok_or(CertificateError::UnknownIssuer)
}

fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.version() == X509Version::V1)
}

/// Checks that a certificate is for identifying clients, or does not say what it is for.
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

    verify_by_public_key!(provider.signature_verification_algorithms);
}
