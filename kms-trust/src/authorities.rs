//! The authorities among trusted certificates, each between its dates.
//!
//! webpki does not look at the dates of a root, so an expired one would vouch for ever.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::dates::Dates;

/// All authorities, and the latest verifier. It knows those that were valid when it was made.
#[derive(Debug)]
pub struct Authorities<V: ?Sized> {
    all: Vec<Authority>,
    last: Mutex<Option<Made<V>>>,
}

#[derive(Debug)]
struct Authority {
    certificate: CertificateDer<'static>,
    /// The subject in DER, which is the issuer of what it signs.
    subject: Vec<u8>,
    dates: Option<Dates>,
}

impl Authority {
    fn is_valid_at(&self, now: UnixTime) -> bool {
        self.dates.is_some_and(|dates| dates.check(now).is_ok())
    }
}

#[derive(Debug)]
struct Made<V: ?Sized> {
    /// For each authority, whether the verifier was made of it.
    of: Vec<bool>,
    /// `None` where none of them was valid.
    verifier: Option<Arc<V>>,
}

impl<V: ?Sized> Authorities<V> {
    /// Reads the subjects and the dates of authorities.
    pub fn new(authorities: impl Iterator<Item = CertificateDer<'static>>) -> Self {
        let all = authorities.map(|certificate| {
            let parsed = X509Certificate::from_der(&certificate).ok();
            let subject = parsed.map(|(_, parsed)| parsed.subject().as_raw().to_vec()).unwrap_or_default();
            Authority { dates: Dates::of(&certificate).ok(), subject, certificate }
        });
        Self { all: all.collect(), last: Mutex::new(None) }
    }

    /// Returns the last second of each authority.
    pub fn ends(&self) -> impl Iterator<Item = UnixTime> {
        self.all.iter().filter_map(|authority| Some(authority.dates?.not_after))
    }

    /// Returns the authorities with this subject that are valid at `now`.
    pub fn named(&self, subject: &[u8], now: UnixTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        let named = self.all.iter().filter(move |authority| authority.subject == subject);
        named.filter(move |authority| authority.is_valid_at(now)).map(|authority| &authority.certificate)
    }

    /// Returns a verifier by the authorities that are valid at `now`.
    ///
    /// The last verifier is returned again while the same authorities are valid.
    pub fn at(&self, now: UnixTime, make: impl FnOnce(RootCertStore) -> Option<Arc<V>>) -> Option<Arc<V>> {
        let of: Vec<_> = self.all.iter().map(|authority| authority.is_valid_at(now)).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = last.as_ref().filter(|made| made.of == of) {
            return made.verifier.clone();
        }
        let mut roots = RootCertStore::empty();
        let valid = self.all.iter().zip(&of).filter(|(_, is_valid)| **is_valid);
        roots.add_parsable_certificates(valid.map(|(authority, _)| authority.certificate.clone()));
        let verifier = if roots.is_empty() { None } else { make(roots) };
        *last = Some(Made { of, verifier: verifier.clone() });
        verifier
    }
}
