//! Whose signature under the server's certificate is believed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ClientError;
use crate::certificate::{describe_io_error, describe_pem_error};

/// Loads the certificate authorities of the system.
pub fn system_roots() -> Result<RootCertStore, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        Some(error) if roots.is_empty() => {
            Err(ClientError::Setup(format!("the system's certificate authorities: {error}")))
        }
        _ => Ok(roots),
    }
}

/// Loads the certificates of a PEM file, or of all files in a directory.
pub fn roots_of(path: &Path) -> Result<RootCertStore, ClientError> {
    let files = if path.is_dir() { files_in(path)? } else { vec![path.to_owned()] };
    let mut roots = RootCertStore::empty();
    for file in files {
        let failed = |message: String| ClientError::Setup(format!("{}: {message}", file.display()));
        let certificates = CertificateDer::pem_file_iter(&file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(describe_pem_error(error, "certificate")))?;
        for certificate in certificates {
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        return Err(ClientError::Setup(format!("{}: it holds no certificate, expected PEM", path.display())));
    }
    Ok(roots)
}

/// Makes a verifier that believes every certificate; that the server holds its key is still verified.
pub fn nothing(provider: &CryptoProvider) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Nothing(provider.signature_verification_algorithms))
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, ClientError> {
    let failed = |error: std::io::Error| {
        ClientError::Setup(format!("{}: {}", directory.display(), describe_io_error(&error)))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

#[derive(Debug)]
struct Nothing(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Nothing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
