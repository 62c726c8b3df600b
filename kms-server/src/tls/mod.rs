//! TLS of the server: versions, ciphers, its own certificate, and the verification of clients.

pub mod handshake;

use std::path::Path;
use std::sync::Arc;

use kms_trust::{ClientVerifier, ProvenKey, Trusted, UnusableKey, read_file};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{self, SingleCertAndKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::access::expiry::{EndingTickets, NotingVerifier};
use crate::access::policy::Proxies;
use crate::credentials::certificate::{self, CertifiedKey, Facts};
use crate::error::StartError;
use crate::settings::TlsSettings;

/// Builds the TLS configuration: TLS 1.2 and 1.3, `h2` before `http/1.1`, and client certificates.
///
/// A client may omit its certificate only if some route needs none. An error names the file and what was expected in it.
pub fn server_config(settings: &TlsSettings, needs_certificates: bool) -> Result<ServerConfig, StartError> {
    let provider = Arc::new(provider());
    let verifier: Arc<dyn ClientCertVerifier> = if settings.verify_clients {
        Arc::new(NotingVerifier(client_verifier(settings, needs_certificates, &provider)?))
    } else {
        // A configured file has to be readable, even while nobody is verified by it.
        if let Some(ca) = &settings.ca {
            Trusted::of(ca).map_err(|why| StartError::with_source(format!("tls.ca: {why}"), why))?;
        }
        ProvenKey::new(needs_certificates, &provider)
    };
    let pair = certificate::read_pair(&settings.cert, &settings.key, settings.password())
        .map_err(StartError::new)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::with_source(format!("TLS: {error}"), error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(settings, pair)?)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    // One ticket for each handshake, because each ticket holds the client's certificate.
    config.send_tls13_tickets = 1;
    if settings.verify_clients {
        // Otherwise clients without tickets could resume sessions of TLS 1.2 by their id, after their certificates ended.
        // TLS 1.3 resumes by tickets only.
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(config)
}

/// The session tickets, which replace a session cache. A resumed handshake costs a third less.
///
/// The first use of the provider's random generator takes tens of milliseconds. So the tickets are made on a thread of
/// their own while the key store is opened.
pub struct Tickets(std::thread::JoinHandle<Result<Arc<dyn ProducesTickets>, rustls::Error>>);

impl Tickets {
    /// Begins to make the tickets.
    pub fn begin() -> Self {
        Self(std::thread::spawn(aws_lc_rs::Ticketer::new))
    }

    /// Waits until the tickets are ready, and sets them in `config`, which was made from `settings`.
    pub fn give(self, config: &mut ServerConfig, settings: &TlsSettings) -> Result<(), StartError> {
        let made = self.0.join().map_err(|_| StartError::new("TLS tickets: their thread panicked"))?;
        let tickets =
            made.map_err(|error| StartError::with_source(format!("TLS tickets: {error}"), error))?;
        config.ticketer = if settings.verify_clients { Arc::new(EndingTickets(tickets)) } else { tickets };
        Ok(())
    }
}

/// Returns the faults of the server's certificate that clients may refuse it for, one line each.
pub fn certificate_warnings(cert: &Path) -> Vec<String> {
    let Some(facts) = facts_of(cert) else { return Vec::new() };
    let file = cert.display();
    let mut warnings = Vec::new();
    if facts.is_ca {
        warnings.push(format!("{file}: the certificate is a CA (basic constraints CA:TRUE), clients may refuse it as a server's; `kms identity new` makes a right one"));
    }
    if facts.names_nothing() {
        warnings.push(format!("{file}: the certificate has no subject alternative name, MinIO and other Go clients will refuse it; `kms identity new --ip ADDRESS --dns NAME` makes a right one"));
    }
    let now = jiff::Timestamp::now();
    if facts.not_after < now {
        warnings.push(format!("{file}: the certificate expired at {}", facts.not_after));
    }
    if facts.not_before > now {
        warnings.push(format!("{file}: the certificate is not valid before {}", facts.not_before));
    }
    warnings
}

/// Returns the end of the certificate in `cert`, in seconds since 1970.
pub fn certificate_end(cert: &Path) -> Option<i64> {
    Some(facts_of(cert)?.not_after.as_second())
}

fn facts_of(cert: &Path) -> Option<Facts> {
    let content = read_file(cert).ok()?;
    Facts::of(&CertificateDer::from_pem_slice(&content).ok()?).ok()
}

/// Returns rustls's provider with AES-128 as the first cipher suite, because its key schedule uses SHA-256.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let first = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    provider
}

/// Creates the rule for clients' certificates that proxies pass on. Returns `None` without proxies.
pub fn proxies(settings: &TlsSettings) -> Result<Option<Proxies>, StartError> {
    let Some(proxy) = settings.proxy.clone() else { return Ok(None) };
    let verifier = if settings.verify_clients {
        Some(client_verifier(settings, true, &Arc::new(provider()))?)
    } else {
        None
    };
    Ok(Some(Proxies { settings: proxy, verifier }))
}

fn client_verifier(
    settings: &TlsSettings,
    mandatory: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientVerifier>, StartError> {
    Ok(ClientVerifier::new(trusted(settings.ca.as_deref())?, mandatory, provider))
}

/// Reads the CAs of clients from a PEM file or a directory of such files, or else from the system.
fn trusted(ca: Option<&Path>) -> Result<Trusted, StartError> {
    match ca {
        Some(ca) => Trusted::of(ca).map_err(|why| StartError::with_source(format!("tls.ca: {why}"), why)),
        None => Trusted::of_system().map_err(|why| {
            let line = format!("TLS: clients are to be verified, and tls.ca is not set: {why}");
            StartError::with_source(line, why)
        }),
    }
}

/// Checks the server's key pair for rustls.
///
/// rustls's own constructor would refuse a certificate of version 1. Whether to accept it is up to the clients.
fn certified(settings: &TlsSettings, pair: CertifiedKey) -> Result<sign::CertifiedKey, StartError> {
    let (cert, key) = (settings.cert.display(), settings.key.display());
    let signer = aws_lc_rs::default_provider().key_provider.load_private_key(pair.key.clone_key());
    let signer = signer.map_err(|error| {
        // The certificate also tells the kind of its key.
        let kind = pair.chain.first().and_then(UnusableKey::of_certificate);
        let kind =
            kind.map_or_else(|| "expected ECDSA, Ed25519 or RSA".to_owned(), |kind| format!("it is {kind}"));
        StartError::with_source(format!("{key}: the private key cannot be used: {kind}"), error)
    })?;
    let is_match = pair.matches().map_err(|error| {
        let line = format!("{cert}: the first certificate cannot be used: {error}");
        StartError::with_source(line, error)
    })?;
    if !is_match {
        let message = format!("{key}: the private key does not belong to the first certificate of {cert}");
        return Err(StartError::new(message));
    }
    Ok(sign::CertifiedKey::new(pair.chain, signer))
}
