//! Authorities among trusted certificates, each in its time: webpki looks at no date of a root.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::dates::Dates;

/// Authorities, and the verifier that was last made of those in their time.
#[derive(Debug)]
pub struct Authorities<V: ?Sized> {
    all: Vec<Authority>,
    last: Mutex<Option<Made<V>>>,
}

#[derive(Debug)]
struct Authority {
    certificate: CertificateDer<'static>,
    /// The name that it signs by, in DER.
    subject: Vec<u8>,
    dates: Option<Dates>,
}

impl Authority {
    fn is_in_time(&self, now: UnixTime) -> bool {
        self.dates.is_some_and(|dates| dates.check(now).is_ok())
    }
}

#[derive(Debug)]
struct Made<V: ?Sized> {
    /// Which of them it was made of.
    of: Vec<bool>,
    /// `None` where it can be made of none of them.
    verifier: Option<Arc<V>>,
}

impl<V: ?Sized> Authorities<V> {
    /// Takes authorities.
    pub fn new(authorities: impl Iterator<Item = CertificateDer<'static>>) -> Self {
        let all = authorities.map(|certificate| {
            let parsed = X509Certificate::from_der(&certificate).ok();
            let subject = parsed.map(|(_, parsed)| parsed.subject().as_raw().to_vec()).unwrap_or_default();
            Authority { dates: Dates::of(&certificate).ok(), subject, certificate }
        });
        Self { all: all.collect(), last: Mutex::new(None) }
    }

    /// Returns their last seconds.
    pub fn ends(&self) -> impl Iterator<Item = UnixTime> {
        self.all.iter().filter_map(|authority| Some(authority.dates?.not_after))
    }

    /// Returns those of this name that are in their time at `now`.
    pub fn named(&self, subject: &[u8], now: UnixTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        let named = self.all.iter().filter(move |authority| authority.subject == subject);
        named.filter(move |authority| authority.is_in_time(now)).map(|authority| &authority.certificate)
    }

    /// Returns a verifier by those that are in their time at `now`; it is made where it is not yet.
    pub fn at(&self, now: UnixTime, make: impl FnOnce(RootCertStore) -> Option<Arc<V>>) -> Option<Arc<V>> {
        let of: Vec<_> = self.all.iter().map(|authority| authority.is_in_time(now)).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = last.as_ref().filter(|made| made.of == of) {
            return made.verifier.clone();
        }
        let mut roots = RootCertStore::empty();
        let in_time = self.all.iter().zip(&of).filter(|(_, is_in_time)| **is_in_time);
        roots.add_parsable_certificates(in_time.map(|(authority, _)| authority.certificate.clone()));
        let verifier = if roots.is_empty() { None } else { make(roots) };
        *last = Some(Made { of, verifier: verifier.clone() });
        verifier
    }
}
