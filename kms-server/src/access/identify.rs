//! The identity that a client's certificates prove.

use std::net::IpAddr;
use std::time::Duration;

use kms_core::Identity;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate_header::HeaderFault;
use super::expiry::Expiry;
use crate::telemetry::log_limit::{LeftOut, LogLimit};

/// The client of a connection, or of a proxy there.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The identity, or the reason why there is none.
    pub identity: Result<Identity, Refusal>,
    /// The expiry of its certificates, where clients are verified.
    pub expiry: Option<Expiry>,
}

/// Returns the identity of the first certificate of `chain`, whose key the handshake proved.
///
/// The first certificate must not be a CA, and all others must be. The rule is stricter than that of KES 0.24. KES takes
/// the one certificate that is not a CA, wherever it stands, and so may take a certificate whose key was never proven.
pub fn identify(chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
    let (first, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    let (_, leaf) = X509Certificate::from_der(first).map_err(|_| Refusal::Unreadable)?;
    let proven = Identity::of_public_key(leaf.public_key().raw);
    match is_ca(&leaf) {
        Some(false) => {}
        Some(true) if others.is_empty() => return Err(Refusal::OnlyCa(proven)),
        Some(true) => return Err(Refusal::CaFirst(proven)),
        None => return Err(Refusal::Unreadable),
    }
    for other in others {
        let (_, other) = X509Certificate::from_der(other).map_err(|_| Refusal::ManyCertificates(proven))?;
        if is_ca(&other) != Some(true) {
            return Err(Refusal::ManyCertificates(proven));
        }
    }
    Ok(proven)
}

/// Why a client that finished the handshake has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It presented no certificate.
    NoCertificate,
    /// Its certificate cannot be read.
    Unreadable,
    /// It presented a CA alone. The identity is that of the proven key.
    OnlyCa(Identity),
    /// It presented a CA first, and others behind it. The identity is that of the proven key.
    CaFirst(Identity),
    /// It presented a second certificate that is not a CA. The identity is that of the proven key.
    ManyCertificates(Identity),
    /// The header in which a proxy passes the certificate on cannot be read.
    UnreadableHeader(HeaderFault),
    /// The certificate that a proxy passed on is not accepted.
    NotAccepted,
}

impl Refusal {
    /// Returns the message for the client, in the words of KES 0.24.
    pub fn message(self) -> &'static str {
        match self {
            Self::ManyCertificates(_) => "tls: received more than one client certificate",
            Self::NoCertificate
            | Self::Unreadable
            | Self::OnlyCa(_)
            | Self::CaFirst(_)
            | Self::UnreadableHeader(_)
            | Self::NotAccepted => "tls: client certificate is required",
        }
    }

    /// Logs a refusal of the certificates of the client at `ip`, unless too many were logged lately.
    pub fn tell(self, ip: IpAddr) {
        let (limit, proven, what) = match self {
            Self::OnlyCa(proven) => (
                &MISTAKES,
                Some(proven),
                "the client's certificate is a CA (basic constraints CA:TRUE), which has no identity: \
                 'kms identity new' makes a right one",
            ),
            Self::Unreadable => (&MISTAKES, None, "the client's certificate cannot be read"),
            Self::CaFirst(proven) => (
                &ATTEMPTS,
                Some(proven),
                "the client sent a CA and other certificates behind it, whose keys it did not prove: \
                 it has the identity of none of them",
            ),
            Self::ManyCertificates(proven) => (
                &ATTEMPTS,
                Some(proven),
                "the client sent a second certificate that is no CA, and did not prove its key: \
                 it has no identity",
            ),
            Self::NoCertificate | Self::UnreadableHeader(_) | Self::NotAccepted => return,
        };
        let Some(left_out) = limit.allow().map(LeftOut) else { return };
        let proven_key = proven.map(tracing::field::display);
        tracing::warn!(%ip, proven_key, "refused: {what}{left_out}");
    }
}

static MISTAKES: LogLimit = LogLimit::new(TOLD_PER, TOLD);
static ATTEMPTS: LogLimit = LogLimit::new(TOLD_PER, TOLD);

/// Logs how many lines about clients' certificates were left out last.
pub fn tell_left_out(at_the_end: bool) {
    let kinds = [(&MISTAKES, "cannot be used"), (&ATTEMPTS, "try for another's identity")];
    for (limit, what) in kinds {
        if let Some(count) = limit.ended(at_the_end) {
            tracing::warn!("refused: {count} more chains of certificates that {what}");
        }
    }
}

/// The most lines about clients' certificates in [`TOLD_PER`], for each kind.
pub const TOLD: u32 = 5;
/// The time in which there are at most [`TOLD`] lines.
pub const TOLD_PER: Duration = Duration::from_secs(10);

/// Returns whether the basic constraints say `CA:TRUE`, or `None` if they cannot be read.
fn is_ca(certificate: &X509Certificate<'_>) -> Option<bool> {
    let constraints = certificate.basic_constraints().ok()?;
    Some(constraints.is_some_and(|constraints| constraints.value.ca))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_there_is_no_identity_takes_no_more_room_than_one() {
        assert_eq!(size_of::<Result<Identity, Refusal>>(), size_of::<Identity>() + 1);
    }
}
