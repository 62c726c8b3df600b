//! The TLS of a client: its certificate, and how it verifies the server's.

use std::path::PathBuf;
use std::sync::Arc;

use kms_trust::{AnyServer, ServerVerifier, Trusted, Unusable};
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use tokio_rustls::TlsConnector;

use super::error::ClientError;
use crate::credentials::certificate::CertifiedKey;

/// How a client verifies the server's certificate.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By the certificate authorities of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
    System,
    /// By the certificates in a PEM file, or in the files of a directory. The server's own may be among them.
    File(PathBuf),
    /// Not at all.
    Nobody,
}

/// Creates a connector that shows `certificate` to servers.
pub fn connector(certificate: CertifiedKey, trust: &Trust) -> Result<TlsConnector, ClientError> {
    let setup = |error: rustls::Error| ClientError::Setup(format!("TLS: {error}"));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let unusable = |why: Unusable| ClientError::Setup(why.to_string());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::System => ServerVerifier::new(Trusted::of_system().map_err(unusable)?, &provider),
        Trust::File(path) => ServerVerifier::new(Trusted::of(path).map_err(unusable)?, &provider),
        Trust::Nobody => AnyServer::new(&provider),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = builder.with_client_auth_cert(certificate.chain, certificate.key).map_err(|error| {
        ClientError::Setup(match error {
            rustls::Error::InconsistentKeys(_) => {
                "the client's private key is not that of its certificate".to_owned()
            }
            error => format!("the client's certificate and private key: {error}"),
        })
    })?;
    Ok(TlsConnector::from(Arc::new(config)))
}
