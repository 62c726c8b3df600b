//! Calls to AWS. Each has a deadline, one at a time runs while AWS is away, and none is repeated blindly.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use kms_core::cache::Away;
use kms_core::cache::policy::CALL_TIMEOUT;
use kms_core::{ErrorKind, Result};
use tokio::sync::Semaphore;

use crate::config::{AwsConnection, invalid};
use crate::error::{Attempt, Failure};
use crate::login::{Login, Provider};

/// The longest time of one attempt of a call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest time until there is a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A call that had less time than this does not show whether AWS is away.
const FAIR_TIME: Duration = Duration::from_secs(2);
/// How long after an answer AWS counts as reachable without another call.
pub const STATUS_AGE: Duration = Duration::from_secs(5);
/// The wait before another look for something that has to become visible.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// All that a client of AWS is made from.
pub struct Connected {
    pub sdk: SdkConfig,
    pub login: Arc<Login>,
}

/// Loads the settings of the SDK: region, endpoint and login.
///
/// Fails with `InvalidInput` if there is no region. The first call looks for credentials.
pub async fn load(connection: &AwsConnection) -> Result<Connected> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(CALL_TIMEOUT)
        .build();
    let login = Login::new(connection.credentials.as_ref());
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::adaptive().with_max_attempts(3))
        .timeout_config(timeouts)
        .credentials_provider(Provider(Arc::clone(&login)))
        // The login keeps the credentials, since it learns when AWS refuses them.
        .identity_cache(IdentityCache::no_cache());
    if let Some(region) = &connection.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &connection.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let sdk = loader.load().await;
    let Some(region) = sdk.region() else {
        let why = "none in the configuration, the environment (AWS_REGION), the profile or the instance";
        return Err(invalid("region", why));
    };
    login.set_region(region);
    Ok(Connected { sdk, login })
}

type Answer<T, E> = std::result::Result<T, SdkError<E, HttpResponse>>;

/// The client of one service of AWS. It knows whether the service answers.
pub struct Upstream<C = Client> {
    client: C,
    service: &'static str,
    login: Arc<Login>,
    away: Away,
    probe: Semaphore,
    last_good: Mutex<Option<Instant>>,
}

impl Upstream {
    /// Creates a client of AWS KMS. Nothing is asked of AWS yet.
    pub fn new(connected: &Connected) -> Self {
        Self::of(Client::new(&connected.sdk), "AWS KMS", Arc::clone(&connected.login))
    }
}

impl<C: Sync> Upstream<C> {
    /// Takes over the client of `service`. The name is for messages; the client asks as `login`.
    pub fn of(client: C, service: &'static str, login: Arc<Login>) -> Self {
        Self {
            client,
            service,
            login,
            away: Away::default(),
            probe: Semaphore::new(1),
            last_good: Mutex::default(),
        }
    }

    /// Returns the client, for [`call`](Self::call).
    pub fn client(&self) -> &C {
        &self.client
    }

    /// Returns whether AWS is away: it did not answer the last call.
    pub fn is_away(&self) -> bool {
        self.away.is_away()
    }

    /// Returns whether AWS answered within the last `age`.
    pub fn answered_within(&self, age: Duration) -> bool {
        let last = *self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_away() && last.is_some_and(|last| last.elapsed() < age)
    }

    /// Makes a call that ends at `deadline`.
    ///
    /// While AWS is away, one call at a time goes through to see whether it is back. The others fail at once.
    pub fn call<T, E>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Answer<T, E>> + Send,
    ) -> impl Future<Output = Attempt<T>> + Send
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        // The SDK's futures have some 20 KB. Unboxed, they would be a part of every request that may need a call.
        self.watch(deadline, Box::pin(call))
    }

    async fn watch<T, E>(
        &self,
        deadline: Instant,
        call: Pin<Box<impl Future<Output = Answer<T, E>> + Send>>,
    ) -> Attempt<T>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let _probe = if self.is_away() {
            let Ok(probe) = self.probe.try_acquire() else {
                return Err(Failure::of(ErrorKind::Unreachable, "AWS is away, and is being asked already"));
            };
            Some(probe)
        } else {
            None
        };
        let time = deadline.saturating_duration_since(Instant::now());
        let outcome = match tokio::time::timeout(time, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => match Failure::new(&error) {
                failure if failure.is_refused_login() => Err(self.login.refused(failure)),
                failure => Err(failure),
            },
            Err(_) => Err(Failure::of(ErrorKind::Timeout, "AWS did not answer in time")),
        };
        match outcome.as_ref().err().map(|failure| failure.kind) {
            Some(ErrorKind::Unreachable) => self.note_away(&outcome),
            Some(ErrorKind::Timeout) if time >= FAIR_TIME => self.note_away(&outcome),
            Some(ErrorKind::Timeout) => {}
            // A refused login is an answer, also where the login itself gives it. So nothing is served as if AWS were
            // away.
            Some(ErrorKind::LoginRefused) => {
                self.away.note_here();
            }
            _ => self.note_here(),
        }
        outcome
    }

    fn note_away<T>(&self, outcome: &Attempt<T>) {
        if self.away.note_away().is_some()
            && let Err(failure) = outcome
        {
            tracing::error!("{} is away: {failure}", self.service);
        }
    }

    fn note_here(&self) {
        *self.last_good.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if self.away.note_here() {
            tracing::warn!("{} is back", self.service);
        }
    }
}

/// Waits until it is time to look again for something that has to become visible. Returns false at once if the deadline
/// comes first.
pub async fn look_again(deadline: Instant) -> bool {
    let next = Instant::now() + LOOK_AGAIN;
    if next >= deadline {
        return false;
    }
    tokio::time::sleep_until(next.into()).await;
    true
}

/// Returns the settings of a call that makes something, and so is sent once.
pub fn once() -> aws_sdk_kms::config::Builder {
    aws_sdk_kms::config::Builder::default().retry_config(RetryConfig::disabled())
}
