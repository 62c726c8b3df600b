//! The rules for peers that nobody vouches for: they only have to hold the key of their certificate.

use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::signature::{UnusableKey, verify_by_public_key};

/// Accepts any client that proves to hold the key of its certificate.
///
/// The version, the extensions, the issuer and the dates of the certificate do not matter.
#[derive(Debug)]
pub struct ProvenKey {
    algorithms: WebPkiSupportedAlgorithms,
    is_mandatory: bool,
}

impl ProvenKey {
    /// Creates a verifier. Clients have to show a certificate where that `is_mandatory`.
    pub fn new(is_mandatory: bool, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms, is_mandatory })
    }
}

impl ClientCertVerifier for ProvenKey {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        UnusableKey::check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    verify_by_public_key!(algorithms);
}

/// Accepts any server that proves to hold the key of its certificate.
#[derive(Debug)]
pub struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyServer {
    /// Creates a verifier.
    pub fn new(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    verify_by_public_key!(algorithms);
}
