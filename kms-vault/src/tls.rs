//! The TLS connection to Vault: whom to trust, and what to show.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_core::{Error, ErrorKind, Result, open_file, read_secret_file};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::TlsConfig;

/// The most bytes of the file of a private key.
const MAX_KEY_FILE_LEN: usize = 1 << 20;

/// Reads the files and makes the client's side of TLS.
///
/// Fails with `InvalidInput`, told with the file's name.
pub fn client_config(config: &TlsConfig) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Pinning::new(config.ca.as_deref(), Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("TLS", &error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let private = read_secret_file(key, MAX_KEY_FILE_LEN).map_err(pem::Error::Io);
    let private = private.and_then(|text| PrivateKeyDer::from_pem_slice(&text));
    let private = private.map_err(|error| invalid_file(key, &error.to_string()))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| invalid_file(cert, &error.to_string()))
}

/// Verifies chains against the CAs, and accepts a certificate that is itself among them.
///
/// The guide of 2020 makes Vault's certificate with `openssl req -x509`: a CA without any subjectAltName, which
/// no verification of a chain accepts as a server's. Who configures that very certificate as `ca` says: this one.
#[derive(Debug)]
struct Pinning {
    pins: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Pinning {
    fn new(ca: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Self> {
        let pins = match ca {
            Some(path) => certificates_of(path)?,
            None => Vec::new(),
        };
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca {
            let (_, unusable) = roots.add_parsable_certificates(pins.iter().cloned());
            if unusable > 0 {
                return Err(invalid_file(path, &format!("{unusable} of its certificates cannot be read")));
            }
        } else {
            // What cannot be read among the system's roots is of no concern while others can.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|_| {
                invalid("the system's CA certificates", "there are none; name Vault's in 'tls.ca'")
            })?;
        Ok(Self { pins, chains, provider })
    }
}

impl ServerCertVerifier for Pinning {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.pins.iter().any(|pin| pin == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Reads the certificates of a file, or of all files of a directory.
fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    if !path.is_dir() {
        return certificates(path);
    }
    let failed = |error: std::io::Error| invalid_file(path, &error.to_string());
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .map_err(failed)?;
    files.sort();
    let mut found = Vec::new();
    // Directories of CAs hold other things too (Kubernetes: links to directories), so files without any are passed over.
    for file in files.iter().filter(|file| file.is_file()) {
        found.extend(certificates(file).unwrap_or_default());
    }
    if found.is_empty() {
        return Err(invalid_file(path, "no file in it holds a certificate in PEM"));
    }
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = open_file(path)
        .map_err(pem::Error::Io)
        .and_then(|file| CertificateDer::pem_reader_iter(file).collect())
        .map_err(|error| invalid_file(path, &error.to_string()))?;
    if found.is_empty() {
        return Err(invalid_file(path, "it holds no certificate in PEM"));
    }
    Ok(found)
}

fn invalid_file(path: &Path, why: &str) -> Error {
    invalid(&format!("'{}'", path.display()), why)
}

fn invalid(what: &str, why: &str) -> Error {
    Error::with_source(
        ErrorKind::InvalidInput,
        format!("use {what} for the connection to Vault"),
        why.to_owned(),
    )
}
