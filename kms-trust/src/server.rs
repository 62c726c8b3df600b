//! The rule by which a server's certificate is accepted.

use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::authorities::Authorities;
use crate::certificates::Trusted;
use crate::dates::Dates;
use crate::signature::verify_by_public_key;

/// Accepts a server whose chain leads to a trusted authority, or whose certificate is itself trusted: a pin.
///
/// webpki judges the chain first. A pin may be a certificate that no chain allows, such as a CA (`openssl req -x509`
/// makes those).
///
/// The name and the dates of a pin are checked, since a certificate that lies beside the CA need not be this server's.
/// The check is left out where one file with one certificate is trusted: whoever names that file means this very
/// certificate. The server always has to prove that it holds the private key.
#[derive(Debug)]
pub struct ServerVerifier {
    trusted: Trusted,
    chains: Authorities<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    /// Creates the verifier of connections to servers.
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

    verify_by_public_key!(provider.signature_verification_algorithms);
}
