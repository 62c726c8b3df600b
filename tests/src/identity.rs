//! Certificates of clients.

use std::sync::Arc;
use std::time::Duration;

use kms_core::Identity;
use kms_server::credentials::certificate::{CertifiedKey, Facts, NewCertificate};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// The certificates of a client and its private key.
pub struct TestIdentity {
    /// The certificates in the order in which the client presents them, leaf first. A client without a
    /// certificate has none.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: Option<PrivateKeyDer<'static>>,
}

impl TestIdentity {
    /// Creates a self-signed certificate that is no CA.
    pub fn new() -> Self {
        NewCertificate::client("test".to_owned(), Duration::from_secs(3600)).with_new_key().unwrap().into()
    }

    /// Returns a client that presents no certificate.
    pub fn none() -> Self {
        Self { chain: Vec::new(), key: None }
    }

    /// Reads a chain of certificates in PEM and a private key in PKCS #8 DER.
    pub fn from_pem_and_der(chain: &str, key: &[u8]) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        Self { chain, key: Some(PrivateKeyDer::try_from(key.to_vec()).unwrap()) }
    }

    /// Returns the identity that the server has to see.
    pub fn identity(&self) -> Identity {
        Facts::of(&self.chain[0]).unwrap().identity
    }

    /// Returns the certificates as PEM text.
    pub fn certificate_pem(&self) -> String {
        let key = self.key.as_ref().map(PrivateKeyDer::clone_key).unwrap();
        CertifiedKey { chain: self.chain.clone(), key }.chain_pem()
    }

    /// Returns a verifier that accepts any server certificate.
    pub fn any_server() -> Arc<dyn ServerCertVerifier> {
        Arc::new(AnyServer)
    }

    /// Returns the TLS configuration of a client that offers `alpn` and accepts any server certificate.
    pub fn client_config(&self, alpn: &[&str]) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Self::any_server());
        let mut config = match &self.key {
            Some(key) => builder.with_client_auth_cert(self.chain.clone(), key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

impl Default for TestIdentity {
    fn default() -> Self {
        Self::new()
    }
}

impl From<CertifiedKey> for TestIdentity {
    fn from(pair: CertifiedKey) -> Self {
        Self { chain: pair.chain, key: Some(pair.key) }
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
