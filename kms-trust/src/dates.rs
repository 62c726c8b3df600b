//! The dates of a certificate.

use std::time::Duration;

use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The time from the first to the last second in which a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Dates {
    not_before: UnixTime,
    pub not_after: UnixTime,
}

impl Dates {
    /// Reads the dates of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        // A date before 1970 counts as the first second of 1970.
        let time = |seconds: i64| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
        };
        let validity = certificate.validity();
        Ok(Self {
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }

    /// Checks that `time` is not before the first and not after the last second.
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
