//! The keeper of the token: it logs in, renews in time, and replaces a token that Vault no longer knows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use kms_core::{ErrorKind, Result};
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tracing::{debug, error, info, warn};

use super::gate::{FIRST_PAUSE, Gate};
use super::login::{Authenticator, Refused};
use super::token::{Lease, Token};
use crate::config::{VaultConfig, longest_pause};
use crate::http::Client;

/// A token younger than this is not replaced because of a 403: it was good a moment ago.
const FRESH: Duration = Duration::from_secs(1);

/// The keeper of the token.
pub struct Auth {
    authenticator: Authenticator,
    longest_pause: Duration,
    token: ArcSwapOption<Token>,
    /// Lets one login through at a time, and none right after one that failed.
    gate: Mutex<Gate>,
    changed: Arc<Notify>,
    keeper: OnceLock<AbortHandle>,
    /// Whether the last renewal failed and was logged.
    renewal_fails: AtomicBool,
    this: Weak<Self>,
}

impl Auth {
    /// Starts to keep a token. The first login begins at once, in the background.
    pub fn start(client: Arc<Client>, config: &VaultConfig) -> Arc<Self> {
        let auth = Arc::new_cyclic(|this| Self {
            authenticator: Authenticator::new(client, config),
            longest_pause: longest_pause(config),
            token: ArcSwapOption::empty(),
            gate: Mutex::default(),
            changed: Arc::default(),
            keeper: OnceLock::new(),
            renewal_fails: AtomicBool::new(false),
            this: Weak::clone(this),
        });
        let keeper = tokio::spawn(Self::keep(Arc::downgrade(&auth)));
        let _ = auth.keeper.set(keeper.abort_handle());
        auth
    }

    /// Returns a token that should be good, after a login if there is none.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::LoginRefused`]: Vault refuses the login.
    /// - The kinds of an outage: Vault cannot be asked.
    pub async fn token(&self) -> Result<Arc<Token>> {
        match self.at_hand() {
            Some(token) => Ok(token),
            None => self
                .replace(None)
                .await?
                .ok_or_else(|| self.authenticator.failed(ErrorKind::Internal, "no token")),
        }
    }

    /// Returns the token to use instead of one that Vault answered with 403.
    ///
    /// Returns `None` where the token is good, so that the policy forbids the request. Fails when Vault cannot say whether
    /// the token is good, or when it is not and the login for another one fails.
    pub async fn instead_of(&self, refused: &Arc<Token>) -> Result<Option<Arc<Token>>> {
        self.replace(Some(Arc::clone(refused))).await
    }

    /// Returns when the lease of the token ends, and 1970 while there is no token. `None` if it has no end.
    pub fn login_ends(&self) -> Option<Timestamp> {
        let Some(token) = self.at_hand() else { return Some(Timestamp::UNIX_EPOCH) };
        let lease = token.lease();
        lease.length.and_then(|_| Timestamp::now().checked_add(lease.left()).ok())
    }

    /// Describes the login for messages.
    pub fn method(&self) -> String {
        self.authenticator.method()
    }

    fn at_hand(&self) -> Option<Arc<Token>> {
        self.token.load_full().filter(|token| !token.lease().has_ended())
    }

    /// Logs in unless there is a token other than `refused`.
    ///
    /// The login runs in a task of its own, so it goes on when its caller gives up.
    async fn replace(&self, refused: Option<Arc<Token>>) -> Result<Option<Arc<Token>>> {
        let Some(this) = self.this.upgrade() else {
            return Err(self.authenticator.failed(ErrorKind::Internal, "the store was closed"));
        };
        let task = tokio::spawn(async move {
            let mut gate = this.gate.lock().await;
            let Some(refused) = refused else {
                return match this.at_hand() {
                    Some(token) => Ok(Some(token)),
                    None => this.log_in(&mut gate).await.map(Some),
                };
            };
            match this.at_hand() {
                Some(token) if !token.is_same(&refused) => return Ok(Some(token)),
                Some(_) if refused.age() < FRESH || this.authenticator.is_known(&refused).await? => {
                    return Ok(None);
                }
                Some(_) => warn!("vault no longer knows our token"),
                None => {}
            }
            this.log_in(&mut gate).await.map(Some)
        });
        task.await
            .unwrap_or_else(|_| Err(self.authenticator.failed(ErrorKind::Internal, "the login was ended")))
    }

    async fn log_in(&self, gate: &mut Gate) -> Result<Arc<Token>> {
        if let Some(error) = gate.is_closed(self.authenticator.login()) {
            return Err(error);
        }
        let began = Instant::now();
        let secret = self.authenticator.read_secret();
        let granted = match &secret {
            Ok(secret) => self.authenticator.log_in(secret).await,
            Err(error) => Err(Refused { error: error.clone(), counts: false }),
        };
        let outcome = granted.and_then(|granted| {
            let lease = Lease::new(began, granted.terms);
            Token::new(&granted.token, gate.next_serial(), began, lease).ok_or_else(|| {
                let why = "the token has characters that no HTTP header can hold";
                Refused { error: self.authenticator.failed(ErrorKind::LoginRefused, why), counts: false }
            })
        });
        match outcome {
            Ok(token) => {
                info!(lease = token.lease().told(), "logged in to vault {}", self.method());
                gate.open();
                let token = Arc::new(token);
                self.put(Arc::clone(&token));
                Ok(token)
            }
            Err(refused) => {
                let is_news = gate.close(&refused, secret.ok(), self.longest_pause);
                let why = refused.error;
                match is_news {
                    true if why.kind().is_outage() => warn!(cause = why.as_dyn()),
                    true => error!(cause = why.as_dyn()),
                    false => debug!(cause = why.as_dyn()),
                }
                self.token.store(None);
                Err(why)
            }
        }
    }

    fn put(&self, token: Arc<Token>) {
        self.token.store(Some(token));
        self.changed.notify_one();
    }

    /// Does what is due about the token, again and again.
    async fn keep(this: Weak<Self>) {
        while let Some(auth) = this.upgrade() {
            let (pause, changed) = (auth.attend().await, Arc::clone(&auth.changed));
            drop(auth); // nobody else may hold it any more
            let _ = tokio::time::timeout(pause, changed.notified()).await;
        }
    }

    /// Does what is due now, and returns the time until something is due again.
    async fn attend(&self) -> Duration {
        let now = Instant::now();
        let Some(token) = self.at_hand() else {
            if let Ok(token) = self.token().await {
                return token.lease().due_in(now);
            }
            let until = self.gate.lock().await.closed_until().unwrap_or(now);
            // Not longer than a ping, so as to see a new secret.
            return until.saturating_duration_since(Instant::now()).min(self.longest_pause).max(FIRST_PAUSE);
        };
        let due_in = token.lease().due_in(now);
        if !due_in.is_zero() {
            return due_in;
        }
        match self.renew(&token).await {
            Ok(renewed) => {
                self.renewal_fails.store(false, Ordering::Relaxed);
                renewed.lease().due_in(Instant::now()).max(FIRST_PAUSE)
            }
            Err(why) => {
                // An outage is a warning once, however often a renewal is tried in it.
                if self.renewal_fails.swap(true, Ordering::Relaxed) {
                    debug!(cause = why.as_dyn(), "the token could still not be renewed");
                } else {
                    warn!(cause = why.as_dyn(), "the token could not be renewed and is used while it lasts");
                }
                (token.lease().left() / 4).min(self.longest_pause).max(FIRST_PAUSE)
            }
        }
    }

    /// Makes the lease longer, or logs in anew where that is not possible.
    async fn renew(&self, token: &Arc<Token>) -> Result<Arc<Token>> {
        let mut gate = self.gate.lock().await;
        if let Some(current) = self.at_hand().filter(|current| !current.is_same(token)) {
            return Ok(current);
        }
        let before = token.lease();
        if before.renewable {
            let began = Instant::now();
            match self.authenticator.renew(token).await? {
                Ok(terms) => {
                    let lease = Lease::new(began, terms);
                    // Near the end of its longest life a token gets less and less.
                    if lease.length >= before.length.map(|length| length / 2) {
                        debug!(lease = lease.told(), "renewed the token");
                        // The next leases are compared with the first one.
                        let renewed = Arc::new(token.renewed(lease.with_length(before.length)));
                        self.put(Arc::clone(&renewed));
                        return Ok(renewed);
                    }
                    self.put(Arc::new(token.renewed(lease)));
                }
                Err(failure) if failure.kind_of_login() == ErrorKind::LoginRefused => {
                    warn!("vault refuses to renew the token: {failure}");
                }
                Err(failure) => return Err(failure.into_error("renew the token")),
            }
        }
        let before = self.token.load_full();
        let outcome = self.log_in(&mut gate).await;
        if outcome.is_err() {
            self.token.store(before);
        }
        outcome
    }
}

impl Drop for Auth {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}
