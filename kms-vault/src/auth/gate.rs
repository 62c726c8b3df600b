//! Failed logins, and the pauses after them.

use std::time::{Duration, Instant};

use kms_core::Error;
use kms_core::primitives::Secret;

use super::login::Refused;
use crate::config::Login;

/// The shortest pause after a failed login. It doubles with each further one.
pub const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often the file of a secret is read again while the secret that was in it is refused.
const LOOK: Duration = FIRST_PAUSE;
/// The pause after AppRole refused the same secret twice.
///
/// Vault locks a role for 15 minutes, for everybody who logs in by it, once five logins failed with less than 15 minutes
/// between them (`user_lockout`, Vault 1.13 and OpenBao).
const LOCKOUT: Duration = Duration::from_secs(16 * 60);
/// After this number of failures in a row the pause no longer grows.
const MOST_FAILURES: u32 = 16;

/// Guards the login: the number of logins so far, and how the last one failed.
#[derive(Default)]
pub struct Gate {
    logins: u64,
    failures: u32,
    failed: Option<Failed>,
}

/// A failed login, and until when none is tried with the same secret.
struct Failed {
    error: Error,
    secret: Option<Secret>,
    until: Instant,
    looked: Instant,
}

impl Gate {
    /// Returns the number of a login that succeeded.
    pub fn next_serial(&mut self) -> u64 {
        self.logins += 1;
        self.logins
    }

    /// Forgets the failures before a login that succeeded.
    pub fn open(&mut self) {
        (self.failures, self.failed) = (0, None);
    }

    /// Closes the gate for a while after a failed login.
    ///
    /// Returns whether the failure is of another kind than the one before.
    pub fn close(&mut self, refused: &Refused, secret: Option<Secret>, longest_pause: Duration) -> bool {
        let pause = match self.failures {
            0 if refused.counts => longest_pause,
            _ if refused.counts => LOCKOUT,
            failures => (FIRST_PAUSE * 2_u32.saturating_pow(failures)).min(longest_pause),
        };
        self.failures = (self.failures + 1).min(MOST_FAILURES);
        let error = refused.error.clone();
        let is_news = self.failed.as_ref().is_none_or(|before| before.error.kind() != error.kind());
        let now = Instant::now();
        let secret = secret.filter(|_| refused.counts);
        self.failed = Some(Failed { error, secret, until: now + pause, looked: now });
        is_news
    }

    /// Returns the last error while there is no reason to try again: the pause lasts, and the secret is the same.
    pub fn is_closed(&mut self, login: &Login) -> Option<Error> {
        self.failed.as_mut()?.still_holds(login)
    }

    /// Returns when the pause ends, if there is one.
    pub fn closed_until(&self) -> Option<Instant> {
        self.failed.as_ref().map(|failed| failed.until)
    }
}

impl Failed {
    fn still_holds(&mut self, login: &Login) -> Option<Error> {
        let now = Instant::now();
        if now >= self.until {
            return None;
        }
        if let (Some(refused), Login::AppRole(role)) = (&self.secret, login)
            && now.duration_since(self.looked) >= LOOK
        {
            self.looked = now;
            if role.secret.read().is_ok_and(|current| current.expose() != refused.expose()) {
                return None;
            }
        }
        Some(self.error.clone())
    }
}
