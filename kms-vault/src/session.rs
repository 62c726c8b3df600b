//! A connection to one Vault with a login. Store, transit and check share it.

use std::sync::Arc;
use std::time::Duration;

use kms_core::{Result, StoreStatus};

use crate::auth::{Auth, Token};
use crate::config::VaultConfig;
use crate::error::Failure;
use crate::http::{Answer, Call, Client};

/// How often a request that changes nothing is sent in all, if a failure is passing.
const TRIES: u32 = 3;
/// The pause before the second attempt. It doubles for the third.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections, the token and the namespace.
pub struct Session {
    client: Arc<Client>,
    auth: Arc<Auth>,
    namespace: Option<String>,
}

/// An answer to a write, and the token that the write was sent with.
pub struct Written {
    /// The answer.
    pub answer: Answer,
    token: Arc<Token>,
}

impl Session {
    /// Checks the configuration, and begins to log in.
    pub fn open(config: &VaultConfig) -> Result<Arc<Self>> {
        config.validate()?;
        config.look_for_token_of_pod()?;
        let client = Arc::new(Client::new(config)?);
        let auth = Auth::start(Arc::clone(&client), config);
        let namespace = config.namespace.as_deref().map(|text| text.trim_matches('/').to_owned());
        Ok(Arc::new(Self { client, auth, namespace: namespace.filter(|text| !text.is_empty()) }))
    }

    /// Returns the client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the keeper of the token.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Sends a request that may be sent twice, and sends it again if that can help.
    pub async fn ask(&self, operation: &str, call: &Call) -> Result<Answer> {
        let mut tries = Tries::begin(self.auth.token().await?);
        loop {
            match self.send(call, &tries.token).await {
                Ok(answer) if answer.code != 403 => return Ok(answer),
                Ok(forbidden) => {
                    if !self.may_try_again(&mut tries, &forbidden.failure()).await? {
                        return Ok(forbidden);
                    }
                }
                Err(failure) => {
                    if !self.may_try_again(&mut tries, &failure).await? {
                        return Err(failure.into_error(operation));
                    }
                }
            }
        }
    }

    /// Returns a token that should be good, for [`write_once`](Session::write_once).
    pub async fn token(&self) -> Result<Arc<Token>> {
        self.auth.token().await
    }

    /// Sends a request exactly once.
    pub async fn write_once(&self, operation: &str, call: &Call, token: Arc<Token>) -> Result<Written> {
        let answer = self.send(call, &token).await.map_err(|failure| failure.into_error(operation))?;
        Ok(Written { answer, token })
    }

    /// Returns whether another token came into use since `written` was sent.
    pub async fn has_new_token(&self, written: &Written) -> Result<bool> {
        Ok(!self.auth.token().await?.is_same(&written.token))
    }

    /// Asks Vault for its state, and checks that the login works.
    pub async fn status(&self) -> Result<StoreStatus> {
        const OPERATION: &str = "ask Vault how it is";
        let began = std::time::Instant::now();
        let health = self.client.health().await.map_err(|failure| failure.into_error(OPERATION))?;
        let latency = began.elapsed();
        if let Some(failure) = health.as_failure() {
            return Err(failure.into_error(OPERATION));
        }
        self.auth.token().await?;
        let status = StoreStatus::ok(latency);
        Ok(match health.remark() {
            Some(remark) => status.degraded(remark),
            None => status,
        })
    }

    async fn send(&self, call: &Call, token: &Token) -> std::result::Result<Answer, Failure> {
        self.client.send(call, Some(&token.credentials(self.namespace.as_deref()))).await
    }

    /// Prepares the next attempt: after a pause, or with another token if Vault no longer knows the present
    /// one.
    async fn may_try_again(&self, tries: &mut Tries, failure: &Failure) -> Result<bool> {
        if failure.is_forbidden() && !tries.replaced {
            let another = self.auth.instead_of(&tries.token).await?;
            tries.replaced = another.is_some();
            tries.token = another.unwrap_or_else(|| Arc::clone(&tries.token));
            return Ok(tries.replaced);
        }
        tries.failed += 1;
        if tries.failed == TRIES || !failure.is_passing() {
            return Ok(false);
        }
        tokio::time::sleep(backoff(tries.failed)).await;
        Ok(true)
    }
}

/// The attempts so far for one operation.
struct Tries {
    token: Arc<Token>,
    replaced: bool,
    failed: u32,
}

impl Tries {
    fn begin(token: Arc<Token>) -> Self {
        Self { token, replaced: false, failed: 0 }
    }
}

/// Returns the pause before the next attempt, between half of its step and the whole.
fn backoff(tries: u32) -> Duration {
    let mut jitter = [0_u8];
    let _ = kms_core::primitives::fill_random(&mut jitter); // without randomness all wait equally long
    (PAUSE * 2_u32.saturating_pow(tries - 1)).mul_f64(0.5 + 0.5 * f64::from(jitter[0]) / 255.0)
}
