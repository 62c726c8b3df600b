//! The one rule by which a server's certificate is accepted.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::authorities::Authorities;
use crate::certificates::Trusted;
use crate::dates::Dates;
use crate::signature::{verify_tls12, verify_tls13};

/// Accepts a server whose chain leads to a trusted authority, or whose certificate is a trusted one itself: a pin.
///
/// A pin may be what no chain allows: a CA (`openssl req -x509` makes those). Its name and dates are checked all the
/// same, since what lies beside the CA need not be this server's. They are waived where the trust is one file with one
/// certificate: who names that says "this one". That the server holds the private key is always verified.
#[derive(Debug)]
pub struct ServerVerifier {
    trusted: Trusted,
    chains: Authorities<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    /// Makes the verifier of connections to servers.
    pub fn new(trusted: Trusted, provider: &Arc<CryptoProvider>) -> Arc<Self> {
        let chains = Authorities::new(trusted.authorities());
        Arc::new(Self { trusted, chains, provider: Arc::clone(provider) })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chains = self.chains.at(now, |roots| {
            let roots = Arc::new(roots);
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build().ok()
        });
        let by_chain = match chains {
            Some(chains) => {
                chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        if by_chain.is_ok() || !self.trusted.holds(end_entity) {
            return by_chain;
        }
        if !self.trusted.is_one_certificate() {
            Dates::of(end_entity)?.check(now)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
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
