//! Who is at the other end: the identity that a client's certificates prove.

use std::fmt;

use kms_core::Identity;
use percent_encoding::percent_decode_str;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::expiry::Expiry;

/// Who is at the other end of a connection, or behind a proxy there.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The identity, or why there is none.
    pub identity: Result<Identity, Refusal>,
    /// When its certificates end, where clients are verified.
    pub expiry: Option<Expiry>,
}

/// Returns the identity of the first certificate of `chain`, the one whose key the handshake proved.
///
/// It must not be a CA, and every further one must be. The rule is stricter than that of KES 0.24, which
/// takes the one certificate that is no CA wherever it stands, and so the identity of a certificate whose key
/// was never proven.
pub fn identify(chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
    let (first, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    let (_, leaf) = X509Certificate::from_der(first).map_err(|_| Refusal::NoCertificate)?;
    if is_ca(&leaf) != Some(false) {
        return Err(Refusal::NoCertificate);
    }
    for other in others {
        let (_, other) = X509Certificate::from_der(other).map_err(|_| Refusal::ManyCertificates)?;
        if is_ca(&other) != Some(true) {
            return Err(Refusal::ManyCertificates);
        }
    }
    Ok(Identity::of_public_key(leaf.public_key().raw))
}

/// Returns the client for whom a proxy speaks: `header` holds its certificate, URL-escaped PEM.
///
/// Where clients are verified, these are too, by `verifier`.
pub fn identify_forwarded(header: &str, verifier: Option<&dyn ClientCertVerifier>) -> Result<Peer, Refusal> {
    let pem = percent_decode_str(header).decode_utf8().map_err(|_| Refusal::NoCertificate)?;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| Refusal::NoCertificate)?;
    let (leaf, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    let verify = |verifier: &dyn ClientCertVerifier| {
        verifier.verify_client_cert(leaf, others, UnixTime::now())?;
        Expiry::of(verifier, leaf, others)
    };
    let expiry = verifier.map(verify).transpose().map_err(|_| Refusal::NoCertificate)?;
    Ok(Peer { identity: identify(&chain), expiry })
}

/// Why a client that finished the handshake has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It presented no certificate, or a CA first.
    NoCertificate,
    /// It presented a second certificate that is no CA.
    ManyCertificates,
}

impl Refusal {
    /// Returns what the client is told, as KES 0.24 puts it.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoCertificate => "tls: client certificate is required",
            Self::ManyCertificates => "tls: received more than one client certificate",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

/// Tells whether the basic constraints say `CA:TRUE`; `None` when they cannot be read.
fn is_ca(certificate: &X509Certificate<'_>) -> Option<bool> {
    let constraints = certificate.basic_constraints().ok()?;
    Some(constraints.is_some_and(|constraints| constraints.value.ca))
}
