//! A token and its lease.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use super::grant::Terms;
use crate::http::Credentials;

/// How long nothing has to be done about a token without end.
pub const FAR: Duration = Duration::from_secs(3600);

/// A token with its lease.
pub struct Token {
    /// The token itself. Its bytes are wiped with the last copy.
    header: HeaderValue,
    /// The number of the login. A renewed token keeps it.
    serial: u64,
    obtained: Instant,
    lease: Lease,
}

/// How long a token lasts.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Its length when it was granted; `None` if it has no end.
    pub length: Option<Duration>,
    /// Whether it can be made longer.
    pub renewable: bool,
    ends: Option<Instant>,
    renew_at: Option<Instant>,
}

impl Token {
    /// Creates the token of login number `serial`, which began at `obtained`.
    ///
    /// Returns `None` if no HTTP header can hold `text`.
    pub fn new(text: &Zeroizing<String>, serial: u64, obtained: Instant, lease: Lease) -> Option<Self> {
        Some(Self { header: header(text)?, serial, obtained, lease })
    }

    /// Returns the same token with another lease.
    pub fn renewed(&self, lease: Lease) -> Self {
        let (serial, obtained) = (self.serial, self.obtained);
        Self { header: self.header.clone(), serial, obtained, lease }
    }

    /// Returns the token as the value of a header.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Returns the credentials of a request in `namespace`.
    pub fn credentials<'a>(&'a self, namespace: Option<&'a str>) -> Credentials<'a> {
        Credentials { token: Some(&self.header), namespace }
    }

    /// Returns whether both tokens come from the same login.
    pub fn is_same(&self, other: &Self) -> bool {
        self.serial == other.serial
    }

    /// Returns the time since the login.
    pub fn age(&self) -> Duration {
        self.obtained.elapsed()
    }

    /// Returns how long the token lasts.
    pub fn lease(&self) -> Lease {
        self.lease
    }
}

impl Lease {
    /// Creates the lease that was granted at `began`. Zero seconds mean that it has no end.
    ///
    /// It is due for renewal after 50 to 70% of its length.
    pub fn new(began: Instant, terms: Terms) -> Self {
        let length = (terms.seconds > 0).then(|| Duration::from_secs(terms.seconds));
        let mut jitter = [0_u8];
        let _ = kms_core::primitives::fill_random(&mut jitter); // without randomness all servers renew at 50%
        let part = 0.5 + 0.2 * f64::from(jitter[0]) / 255.0;
        let renew_at = length.and_then(|length| began.checked_add(length.mul_f64(part)));
        let ends = length.and_then(|length| began.checked_add(length));
        Self { length, renewable: terms.renewable, ends, renew_at }
    }

    /// Returns the same lease with the length of an earlier one, with which the next lease is compared.
    pub fn with_length(self, length: Option<Duration>) -> Self {
        Self { length, ..self }
    }

    /// Returns whether the lease has ended.
    pub fn has_ended(&self) -> bool {
        self.ends.is_some_and(|end| Instant::now() >= end)
    }

    /// Returns the time that is left of the lease.
    pub fn left(&self) -> Duration {
        self.ends.map_or(FAR, |end| end.saturating_duration_since(Instant::now()))
    }

    /// Returns the time from `now` until the lease has to be renewed.
    pub fn due_in(&self, now: Instant) -> Duration {
        self.renew_at.map_or(FAR, |moment| moment.saturating_duration_since(now)).min(FAR)
    }

    /// Returns the length for the log.
    pub fn told(&self) -> String {
        self.length.map_or_else(|| "without end".to_owned(), |length| format!("{}s", length.as_secs()))
    }
}

/// Creates a header of a token. All copies of the header share one buffer.
///
/// Returns `None` if no header can hold the token.
pub fn header(token: &Zeroizing<String>) -> Option<HeaderValue> {
    let bytes = Bytes::from_owner(Zeroizing::new(token.as_bytes().to_vec()));
    let mut header = HeaderValue::from_maybe_shared(bytes).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(began: Instant, seconds: u64) -> Lease {
        Lease::new(began, Terms { seconds, renewable: true })
    }

    #[test]
    fn a_lease_is_told_in_seconds() {
        let told = |seconds| lease(Instant::now(), seconds).told();
        assert_eq!((told(2_764_800).as_str(), told(0).as_str()), ("2764800s", "without end"));
    }

    #[test]
    fn a_lease_is_renewed_in_its_second_half_and_not_by_all_at_once() {
        let began = Instant::now();
        let leases: Vec<_> = (0..64).map(|_| lease(began, 300).due_in(began)).collect();
        for due in &leases {
            assert!((Duration::from_secs(150)..=Duration::from_secs(210)).contains(due), "{due:?}");
        }
        assert!(leases.iter().any(|due| due != &leases[0]), "no jitter");
        assert_eq!(lease(began, 0).due_in(began), FAR);
    }
}
