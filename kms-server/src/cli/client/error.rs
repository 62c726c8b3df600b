//! Errors between the command line and a server, with hints of what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use kms_core::Identity;
use kms_trust::describe_io_error;
use rustls::{AlertDescription, CertificateError};

/// The reason why a request failed, in one line.
pub enum ClientError {
    /// The client cannot be created: an address, a certificate or a file is bad.
    Setup(String),
    /// There is no connection to the server.
    Connect {
        /// The server's address.
        server: String,
        /// The error of the system.
        reason: String,
    },
    /// The TLS handshake failed.
    Handshake {
        /// The server's address.
        server: String,
        /// The reason, and what to do about it.
        reason: String,
    },
    /// There was no answer, or none that could be parsed.
    Answer(String),
    /// The server answered with an error.
    Refused {
        /// The status of the answer.
        status: u16,
        /// The server's message.
        message: String,
        /// The identity of the client.
        identity: Identity,
        /// The path of the request.
        path: String,
    },
}

impl ClientError {
    pub(super) fn connect(server: &impl fmt::Display, error: &io::Error) -> Self {
        Self::Connect { server: server.to_string(), reason: describe_io_error(error) }
    }

    pub(super) fn handshake(server: &impl fmt::Display, error: &io::Error) -> Self {
        let reason = match find_tls_error(error) {
            Some(error) => describe_tls_error(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the server closed the connection".to_owned()
            }
            None => describe_io_error(error),
        };
        Self::Handshake { server: server.to_string(), reason }
    }

    /// Creates the error of a connection that broke after the handshake.
    ///
    /// This may still be an error of TLS: in TLS 1.3 a server refuses a client's certificate only then.
    pub(super) fn broken(server: &impl fmt::Display, error: &hyper::Error) -> Self {
        match find_tls_error(error) {
            Some(error) => Self::Handshake { server: server.to_string(), reason: describe_tls_error(error) },
            None => Self::answer(server, error.to_string()),
        }
    }

    pub(super) fn answer(server: &impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self::Answer(format!("no answer from {server}: {reason}"))
    }

    /// Returns whether the request may go to another server. It may not if the first server may have received it.
    pub(super) fn tries_next_server(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(reason) | Self::Answer(reason) => f.write_str(reason),
            Self::Connect { server, reason } => write!(f, "cannot connect to {server}: {reason}"),
            Self::Handshake { server, reason } => write!(f, "TLS handshake with {server} failed: {reason}"),
            Self::Refused { status: 403, message, identity, path } => {
                write!(f, "{message} (no policy of the server lets identity {identity} do {path})")
            }
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

fn find_tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // `source()` of an `io::Error` skips the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|wrapped| wrapped.downcast_ref::<rustls::Error>()) {
            return Some(tls);
        }
        next = error.source();
    }
    None
}

fn describe_tls_error(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => describe_certificate_error(reason),
        rustls::Error::AlertReceived(alert) => describe_alert(*alert),
        rustls::Error::InvalidMessage(_) => "what listens there does not speak TLS".to_owned(),
        error => error.to_string(),
    }
}

fn describe_certificate_error(error: &CertificateError) -> String {
    let reason = match error {
        // The other three come up where a trusted authority merely has the name of the issuer.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the server's certificate is signed by an unknown authority: name its CA, or the certificate itself, \
             with --ca-cert FILE or KES_CA_CERT, or skip the check with -k"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another host name or address: \
             use a name that is in it, or skip the check with -k"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it, or skip the check with -k"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: check the clocks, or skip the check with -k"
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is a CA (CA:TRUE), which only a server may have whose certificate itself is \
             trusted: name it with --ca-cert FILE or KES_CA_CERT, make another with 'kms identity new', \
             or skip the check with -k"
        }
        error => return format!("the server's certificate cannot be used: {error}, skip the check with -k"),
    };
    reason.to_owned()
}

fn describe_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => {
            format!("the server demands another client certificate (alert {alert:?})")
        }
        AlertDescription::UnknownCA => {
            "the server does not accept the client certificate: it verifies certificates (tls.auth = 'on') \
             and does not know the authority that signed this one (alert UnknownCA)"
                .to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => {
            format!("the server does not accept the client certificate (alert {alert:?})")
        }
        alert => format!("the server broke it off (alert {alert:?})"),
    }
}
