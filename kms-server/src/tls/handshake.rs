//! Describes a failed handshake for operators, with a hint for common causes.

use jiff::Timestamp;
use kms_trust::UnusableKey;
use rustls::{CertificateError, Error, OtherError, PeerMisbehaved};
use rustls_pki_types::UnixTime;

/// Returns the description of a failure, or `None` if it is not worth a line: the peer left, or does not speak TLS.
pub fn describe_failure(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    if let Some(why) = UnusableKey::in_error(error) {
        return Some(format!(
            "signatures by the key of the client's certificate cannot be verified: it is {why}"
        ));
    }
    Some(match error {
        Error::NoCertificatesPresented => {
            "the client presented no certificate, or has one with a key of another kind than \
             ECDSA P-256, P-384, P-521, Ed25519 and RSA"
                .to_owned()
        }
        Error::InvalidCertificate(error) => {
            format!("the client's certificate was refused: {}", describe_certificate_error(error))
        }
        Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
            "the client signed by an algorithm that was not offered, such as SHA-1".to_owned()
        }
        Error::PeerIncompatible(_) => format!("no common TLS parameters: {error}"),
        _ => return None,
    })
}

fn describe_certificate_error(error: &CertificateError) -> String {
    use CertificateError as E;
    let text = match error {
        E::BadEncoding => "it is damaged",
        E::ExpiredContext { not_after, .. } => {
            return format!("it, or a CA that it needs, expired at {}", time(*not_after));
        }
        E::NotValidYetContext { not_before, .. } => {
            return format!("it, or a CA that it needs, is not valid before {}", time(*not_before));
        }
        E::Expired => "it, or a CA that it needs, has expired",
        E::NotValidYet => "it, or a CA that it needs, is not valid yet",
        E::UnknownIssuer => "no CA in tls.ca has signed it, or the client did not send the CAs between",
        E::BadSignature => "a signature is not that of the key: of the client, or of a CA of its chain",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "its extended key usage is for something else than clients (clientAuth)"
        }
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed by an algorithm that is not accepted, such as SHA-1, or its key is encoded in an odd way"
        }
        E::Other(OtherError(error)) => match error.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "it is a CA (basic constraints CA:TRUE): 'kms identity new' makes one that is none"
            }
            Some(webpki::Error::EndEntityUsedAsCa) => "what signed it is no CA (basic constraints)",
            Some(webpki::Error::UnsupportedCriticalExtension) => {
                "it, or a CA that it needs, has a critical extension that is not known"
            }
            Some(webpki::Error::UnsupportedCertVersion) => {
                "it, or a CA that it needs, is not of X.509 version 3"
            }
            Some(webpki::Error::PathLenConstraintViolated) => {
                "a CA of its chain may not sign other CAs (path length)"
            }
            Some(webpki::Error::NameConstraintViolation) => {
                "a CA of its chain may not sign for its names (name constraints)"
            }
            Some(webpki::Error::EmptyEkuExtension) => "its extended key usage is empty",
            _ => "its chain cannot be verified",
        },
        _ => "its chain cannot be verified",
    };
    text.to_owned()
}

fn time(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}
