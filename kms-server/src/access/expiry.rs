//! The end of a client's certificates: found at its handshake, kept in its session tickets, and waited for.
//!
//! This applies only where clients are verified. Elsewhere the dates of certificates are ignored, as in KES.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kms_trust::ClientVerifier;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::ProducesTickets;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::conn::timer::Timer;

/// The longest sleep. The system's clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How many earlier ends of intermediates are checked. The next one counts as the client's end without a check.
const MAX_LOOKS: usize = 4;

/// The last second, since 1970, in which a client's certificates are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(u64);

impl Expiry {
    /// The value in the ticket of a client without an expiry.
    const NEVER: u64 = u64::MAX;

    /// Returns the expiry of a chain that `verifier` accepts now.
    ///
    /// An expired certificate does not matter if the chain works without it. That may be a surplus certificate that the
    /// client sent, or an authority. So for each end before the leaf's own, `verifier` judges the chain after that end.
    pub fn of(
        verifier: &ClientVerifier,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Self, rustls::Error> {
        let leaf_end = end_of(leaf).ok_or(CertificateError::BadEncoding)?;
        let mut ends: Vec<_> =
            intermediates.iter().filter_map(end_of).filter(|&end| end < leaf_end).collect();
        ends.sort_unstable();
        ends.dedup();
        let is_accepted_after = |end: u64| {
            let after = UnixTime::since_unix_epoch(Duration::from_secs(end.saturating_add(1)));
            verifier.verify_client_cert(leaf, intermediates, after).is_ok()
        };
        let mut looks = ends.into_iter().enumerate();
        let first = looks.find(|(index, end)| *index == MAX_LOOKS || !is_accepted_after(*end));
        let end = first.map_or(leaf_end, |(_, end)| end);
        // There may be many authorities, so this is a binary search. After the end of the needed one, the chain is always
        // refused.
        let now = UnixTime::now().as_secs();
        let ends = verifier.ends_of_authorities().map(|end| end.as_secs());
        let mut ends: Vec<_> = ends.filter(|other| (now..end).contains(other)).collect();
        ends.sort_unstable();
        let accepted = ends.partition_point(|end| is_accepted_after(*end));
        Ok(Self(ends.get(accepted).copied().unwrap_or(end)))
    }

    /// Waits until the expiry has passed, on a timer of the current runtime.
    pub fn passed(self) -> Passed {
        let end = Duration::from_secs(self.0.saturating_add(1));
        Passed { end, timer: Timer::new(next_look(end)) }
    }
}

/// A wait for an expiry.
pub struct Passed {
    /// Since 1970.
    end: Duration,
    timer: Timer,
}

impl Future for Passed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.poll(cx));
            if left_until(self.end).is_zero() {
                return Poll::Ready(());
            }
            let next = next_look(self.end);
            self.timer.set(next);
        }
    }
}

fn next_look(end: Duration) -> Instant {
    Instant::now() + left_until(end).min(LONGEST_SLEEP)
}

fn left_until(end: Duration) -> Duration {
    end.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn end_of(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

tokio::task_local! {
    /// The client of the handshake that is being polled. rustls does not tell its verifier or its tickets whose they are.
    static CLIENT: Cell<Option<Expiry>>;
}

/// Runs a handshake with the verifier and the tickets below. Also returns the expiry of the client's certificates.
pub async fn of_client<T>(handshake: impl Future<Output = T>) -> (T, Option<Expiry>) {
    let noted = async {
        let outcome = handshake.await;
        (outcome, CLIENT.with(Cell::get))
    };
    CLIENT.scope(Cell::new(None), noted).await
}

/// Verifies clients, and notes the expiry of those that it accepts.
#[derive(Debug)]
pub struct NotingVerifier(pub Arc<ClientVerifier>);

impl ClientCertVerifier for NotingVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        let expiry = Expiry::of(&self.0, end_entity, intermediates)?;
        let unnoted = |_| rustls::Error::General("a handshake outside of its task".to_owned());
        CLIENT.try_with(|client| client.set(Some(expiry))).map_err(unnoted)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Session tickets that end with the client's certificates.
///
/// A resumed session never reaches the verifier. So an expired ticket is ignored: the client makes a full handshake, in
/// which it may present a renewed certificate. If resumed connections were closed instead, such a client would try the
/// same ticket again and again.
#[derive(Debug)]
pub struct EndingTickets(pub Arc<dyn ProducesTickets>);

impl ProducesTickets for EndingTickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let expiry = CLIENT.try_with(Cell::get).ok()?;
        let end = expiry.map_or(Expiry::NEVER, |Expiry(end)| end);
        let mut dated = Zeroizing::new(Vec::with_capacity(8 + plain.len()));
        dated.extend_from_slice(&end.to_be_bytes());
        dated.extend_from_slice(plain);
        self.0.encrypt(&dated)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let dated = Zeroizing::new(self.0.decrypt(cipher)?);
        let (end, plain) = dated.split_first_chunk()?;
        let end = u64::from_be_bytes(*end);
        if UnixTime::now().as_secs() > end {
            return None;
        }
        let expiry = (end != Expiry::NEVER).then_some(Expiry(end));
        CLIENT.try_with(|client| client.set(expiry)).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use kms_trust::Trusted;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::credentials::certificate::certificate_pem;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Creates a certificate that is valid for `hours` and signed by `by`, or by itself.
    fn certificate(
        name: &str,
        hours: u32,
        is_ca: IsCa,
        by: Option<&Issuer<'static, KeyPair>>,
    ) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + hours * HOUR).into();
        let made = match by {
            Some(issuer) => params.signed_by(&key, issuer),
            None => params.self_signed(&key),
        };
        (made.unwrap().der().clone(), Issuer::new(params, key))
    }

    #[test]
    fn a_client_ends_with_the_first_certificate_that_its_chain_needs() {
        let ca = || IsCa::Ca(BasicConstraints::Unconstrained);
        let (root, root_key) = certificate("root", 20, ca(), None);
        let (short, short_key) = certificate("short", 3, ca(), None);
        let (middle, middle_key) = certificate("middle", 5, ca(), Some(&root_key));
        let (leaf, _) = certificate("leaf", 9, IsCa::ExplicitNoCa, Some(&middle_key));
        let (direct, _) = certificate("direct", 9, IsCa::ExplicitNoCa, Some(&root_key));
        let (outlives, _) = certificate("outlives", 9, IsCa::ExplicitNoCa, Some(&short_key));
        let others: Vec<_> = (2..8).map(|hours| certificate("other", hours, ca(), None).0).collect();
        let more: Vec<_> = (1..9).map(|hours| certificate("one more", hours, ca(), None).0).collect();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let trusted: Vec<_> =
            [&root, &short].into_iter().chain(&more).map(|der| certificate_pem(der)).collect();
        std::fs::write(&file, trusted.concat()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = ClientVerifier::new(Trusted::of(&file).unwrap(), true, &provider);
        let of = |leaf: &CertificateDer<'static>, chain: &[&CertificateDer<'static>]| {
            let chain: Vec<_> = chain.iter().copied().cloned().collect();
            verifier.verify_client_cert(leaf, &chain, UnixTime::now()).unwrap();
            Expiry::of(&verifier, leaf, &chain).unwrap()
        };
        let end = |certificate| Expiry(end_of(certificate).unwrap());
        assert_eq!(of(&direct, &[]), end(&direct), "other authorities end before");
        assert_eq!(of(&outlives, &[]), end(&short), "whom its authority ends, ends");
        assert_eq!(of(&leaf, &[&middle]), end(&middle));
        assert_eq!(of(&direct, &[&middle, &others[0]]), end(&direct), "it needs neither");
        assert_eq!(of(&leaf, &[&others[0], &middle, &others[5]]), end(&middle));
        // The effort is bounded. Beyond the bound a client ends too early, and never too late.
        let all: Vec<_> = others.iter().collect();
        assert_eq!(of(&direct, &all), end(&others[MAX_LOOKS]));
    }
}
