//! When a certificate is valid.

use std::time::Duration;

use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Dates {
    not_before: UnixTime,
    pub not_after: UnixTime,
}

impl Dates {
    /// Reads them.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        // What lies before 1970 is as good as its first second.
        let time = |seconds: i64| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
        };
        let validity = certificate.validity();
        Ok(Self {
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Fails when `time` is not in them.
    pub fn check(self, time: UnixTime) -> Result<(), CertificateError> {
        let Self { not_before, not_after } = self;
        if time < not_before {
            return Err(CertificateError::NotValidYetContext { time, not_before });
        }
        if time > not_after {
            return Err(CertificateError::ExpiredContext { time, not_after });
        }
        Ok(())
    }
}
