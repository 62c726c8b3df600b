//! TLS for the driver: what the server has to prove, and what binds a login to the connection.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use kms_core::store::InvalidSetting;
use kms_core::{Error, Result};
use kms_trust::{AnyServer, ServerVerifier, Trusted, describe_io_error, describe_pem_error, read_file};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::config::{TlsConfig, TlsMode};

impl TlsConfig {
    /// Reads the files and checks that they can be used.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](kms_core::ErrorKind::InvalidInput): a file cannot be used. The error names it and its
    ///   setting.
    pub fn check(&self) -> Result<()> {
        Tls::new(self).map(drop)
    }
}

/// The client's side of TLS, ready for connections.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Reads the files that `config` names. Fails with `InvalidInput`; the error names the file.
    pub fn new(config: &TlsConfig) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match (config.mode, &config.ca) {
            (TlsMode::VerifyFull, ca) => ServerVerifier::new(trusted(ca.as_deref())?, &provider),
            // As with libpq, the CAs count in this mode if they are named.
            (TlsMode::VerifyCa, ca) | (TlsMode::Require, ca @ Some(_)) => {
                Arc::new(AnyName(ServerVerifier::new(trusted(ca.as_deref())?, &provider)))
            }
            (TlsMode::Require | TlsMode::Prefer | TlsMode::Disable, _) => AnyServer::new(&provider),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable("tls", "TLS", &error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
            return Ok(Self(Arc::new(builder.with_no_client_auth())));
        };
        let chain = certificates(cert)?;
        let private = PrivateKeyDer::from_pem_slice(&read("tls.key", key)?)
            .map_err(|error| wrong("tls.key", key, &describe_pem_error(&error, "private key")))?;
        let with_certificate = builder.with_client_auth_cert(chain, private);
        let config = with_certificate.map_err(|error| wrong("tls.cert", cert, &error.to_string()))?;
        Ok(Self(Arc::new(config)))
    }
}

/// Accepts what another verifier accepts, and also a certificate for another name (`verify-ca`).
#[derive(Debug)]
struct AnyName(Arc<ServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is checked last, behind chain and dates.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Handshake> {
        // The driver asks for this also where no handshake follows, as over a socket, which has no name.
        let name = ServerName::try_from(domain.to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
        Ok(Handshake { name, config: Arc::clone(&self.0) })
    }
}

/// A handshake to be made with one server.
pub struct Handshake {
    name: io::Result<ServerName<'static>>,
    config: Arc<ClientConfig>,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let stream = TlsConnector::from(self.config).connect(self.name?, stream).await?;
            Ok(Stream(Box::new(stream)))
        })
    }
}

/// A stream in TLS.
pub struct Stream<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let (_, session) = self.0.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        match leaf.and_then(|leaf| end_point(leaf)) {
            Some(digest) => ChannelBinding::tls_server_end_point(digest),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Returns the channel binding `tls-server-end-point` (RFC 5929): the digest of the server's certificate by the hash
/// function of its signature, and by SHA-256 instead of MD5 and SHA-1. `None` if the signature has no such function.
fn end_point(leaf: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    Some(match algorithm.as_str() {
        // md5, sha1 and sha256 with RSA; sha1 and sha256 with ECDSA
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(leaf).to_vec(),
        // sha384 with RSA and with ECDSA
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(leaf).to_vec(),
        // sha512 with RSA and with ECDSA
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(leaf).to_vec(),
        _ => return None,
    })
}

/// Reads the trusted authorities and pins.
fn trusted(ca: Option<&Path>) -> Result<Trusted> {
    match ca {
        Some(path) => Trusted::of(path).map_err(|why| unusable("tls.ca", "'tls.ca'", &why.to_string())),
        None => Trusted::of_system().map_err(|why| {
            let why = format!("{why}; name the database's in 'tls.ca'");
            unusable("tls.ca", "the system's CA certificates", &why)
        }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let content = read("tls.cert", path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|error| wrong("tls.cert", path, &describe_pem_error(&error, "certificate")))?;
    if found.is_empty() {
        return Err(wrong("tls.cert", path, "it holds no certificate in PEM"));
    }
    Ok(found)
}

fn read(setting: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    read_file(path).map_err(|error| wrong(setting, path, &describe_io_error(&error)))
}

fn wrong(setting: &str, path: &Path, why: &str) -> Error {
    unusable(setting, &format!("'{setting}'"), &format!("{}: {why}", path.display()))
}

fn unusable(field: &str, what: &str, why: &str) -> Error {
    InvalidSetting::error(format!("use {what} for the connection to PostgreSQL"), field, why)
}
