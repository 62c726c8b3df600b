//! The TLS connection to Vault: the certificates to trust and to show.

use std::path::Path;
use std::sync::Arc;

use kms_core::store::InvalidSetting;
use kms_core::{Error, Result};
use kms_trust::{ServerVerifier, Trusted, describe_io_error, describe_pem_error, read_file};
use rustls::ClientConfig;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::config::TlsConfig;

impl TlsConfig {
    /// Reads the files and checks that they can be used.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](kms_core::ErrorKind::InvalidInput): a file cannot be used. The error names it and its
    ///   setting.
    pub fn check(&self) -> Result<()> {
        client_config(self).map(drop)
    }
}

/// Reads the files, and creates the client's side of TLS.
///
/// Fails with `InvalidInput`. The error names the file.
pub fn client_config(config: &TlsConfig) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ServerVerifier::new(trusted(config.ca.as_deref())?, &provider);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("tls", "TLS", &error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let (cert, key) = (File { setting: "tls.cert", path: cert }, File { setting: "tls.key", path: key });
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| key.invalid(&describe_pem_error(&error, "private key")))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| cert.invalid(&error.to_string()))
}

/// Reads the trusted authorities and pins.
fn trusted(ca: Option<&Path>) -> Result<Trusted> {
    match ca {
        Some(path) => Trusted::of(path).map_err(|why| invalid("tls.ca", "'tls.ca'", &why.to_string())),
        None => Trusted::of_system().map_err(|why| {
            let why = format!("{why}; name Vault's in 'tls.ca'");
            invalid("tls.ca", "the system's CA certificates", &why)
        }),
    }
}

/// A file that a setting names.
#[derive(Clone, Copy)]
struct File<'a> {
    setting: &'static str,
    path: &'a Path,
}

impl File<'_> {
    fn invalid(self, why: &str) -> Error {
        let file = self.path.display();
        let doing = format!("use '{}' for the connection to Vault", self.setting);
        InvalidSetting::error(doing, self.setting, format!("{file}: {why}"))
    }
}

fn certificates(file: File<'_>) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| unusable(file, &error, "certificate"))?;
    if found.is_empty() {
        return Err(file.invalid("it holds no certificate in PEM"));
    }
    Ok(found)
}

fn read(file: File<'_>) -> Result<Zeroizing<Vec<u8>>> {
    read_file(file.path).map_err(|error| file.invalid(&describe_io_error(&error)))
}

fn unusable(file: File<'_>, error: &pem::Error, what: &str) -> Error {
    file.invalid(&describe_pem_error(error, what))
}

fn invalid(field: &str, what: &str, why: &str) -> Error {
    InvalidSetting::error(format!("use {what} for the connection to Vault"), field, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the key were joined by a careless paste, so the wrong line is the key.
    #[test]
    fn no_error_quotes_a_private_key() {
        let file = File { setting: "tls.cert", path: Path::new("client.pem") };
        let text = b"-----BEGIN PRIVATE KEY-----c2VjcmV0-----END PRIVATE KEY-----\n";
        for error in [
            CertificateDer::from_pem_slice(text).unwrap_err(),
            PrivateKeyDer::from_pem_slice(text).unwrap_err(),
        ] {
            let error = unusable(file, &error, "private key");
            let told = format!("{error:?} {}", error.chain());
            let bytes = format!("{:?}", b"c2VjcmV0").trim_matches(['[', ']']).to_owned();
            assert!(!told.contains("c2VjcmV0") && !told.contains(&bytes), "{told}");
        }
    }
}
