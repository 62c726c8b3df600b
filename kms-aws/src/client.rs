//! Calls to AWS: with a time each, few at once while AWS is away, and none that is replayed blindly.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
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
use kms_core::{ErrorKind, Result};
use tokio::sync::Semaphore;

use crate::config::{AwsConnection, invalid};
use crate::error::Failure;
use crate::login::{Login, Provider};

/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a call may take with all that is tried again; less than a request has.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A call that had less time says nothing of whether AWS is away.
const FAIR_TIME: Duration = Duration::from_secs(2);

/// What a client of AWS is made from.
pub struct Connected {
    pub sdk: SdkConfig,
    pub login: Arc<Login>,
}

/// Loads what the SDK needs: region, endpoint, and who asks.
///
/// Fails with `InvalidInput` when there is no region. Credentials are looked for at the first call.
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
        // The login keeps them, and can be told that AWS refuses them.
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

/// The client of one service of AWS, and whether that answers it.
pub struct Upstream<C = Client> {
    client: C,
    service: &'static str,
    login: Arc<Login>,
    away: AtomicBool,
    probe: Semaphore,
    last_good: Mutex<Option<Instant>>,
}

impl Upstream {
    /// Makes a client of AWS KMS; nothing is asked of AWS yet.
    pub fn new(connected: &Connected) -> Self {
        Self::of(Client::new(&connected.sdk), "AWS KMS", Arc::clone(&connected.login))
    }
}

impl<C: Sync> Upstream<C> {
    /// Takes over the client of `service`, a name for messages, that asks as `login`.
    pub fn of(client: C, service: &'static str, login: Arc<Login>) -> Self {
        Self {
            client,
            service,
            login,
            away: AtomicBool::new(false),
            probe: Semaphore::new(1),
            last_good: Mutex::default(),
        }
    }

    /// Lends the client, for [`call`](Self::call).
    pub fn client(&self) -> &C {
        &self.client
    }

    /// Tells whether AWS did not answer the last call.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Tells whether AWS answered within the last `age`.
    pub fn answered_within(&self, age: Duration) -> bool {
        let last = *self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_away() && last.is_some_and(|last| last.elapsed() < age)
    }

    /// Makes a call that ends at `deadline`.
    ///
    /// While AWS is away one call at a time is let through, to see whether it is back; the others fail at once.
    pub fn call<T, E>(
        &self,
        deadline: Instant,
        call: impl Future<Output = Answer<T, E>> + Send,
    ) -> impl Future<Output = std::result::Result<T, Failure>> + Send
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        // The SDK's futures have some 20 KB, which would be part of every request that may come to need a call.
        self.watch(deadline, Box::pin(call))
    }

    async fn watch<T, E>(
        &self,
        deadline: Instant,
        call: Pin<Box<impl Future<Output = Answer<T, E>> + Send>>,
    ) -> std::result::Result<T, Failure>
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
            // An answer, also where it is our own: nothing is served on the grounds that AWS is away.
            Some(ErrorKind::LoginRefused) => self.away.store(false, Ordering::Relaxed),
            _ => self.note_here(),
        }
        outcome
    }

    fn note_away<T>(&self, outcome: &std::result::Result<T, Failure>) {
        if !self.away.swap(true, Ordering::Relaxed)
            && let Err(failure) = outcome
        {
            tracing::error!("{} is away: {failure}", self.service);
        }
    }

    fn note_here(&self) {
        *self.last_good.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if self.is_away() && self.away.swap(false, Ordering::Relaxed) {
            tracing::warn!("{} is back", self.service);
        }
    }
}

/// Asks AWS who we are; returns the ARN.
///
/// An endpoint of AWS's own is that of one service, and STS has another; an emulator has one for all.
pub async fn identity_of(connected: &Connected) -> Result<String> {
    let config = &connected.sdk;
    let mut builder = aws_sdk_sts::config::Builder::from(config);
    if config.endpoint_url().is_some_and(|endpoint| endpoint.contains(".amazonaws.com")) {
        builder.set_endpoint_url(None);
    }
    let sts = aws_sdk_sts::Client::from_conf(builder.build());
    let answer = sts.get_caller_identity().send().await;
    let answer = answer.map_err(|error| {
        let failure = Failure::new(&error);
        let failure = if failure.is_refused_login() { connected.login.refused(failure) } else { failure };
        failure.into_error("ask AWS who we are")
    })?;
    Ok(answer.arn.unwrap_or_default())
}

/// Returns the settings of a call that is sent once: one that makes something.
pub fn once() -> aws_sdk_kms::config::Builder {
    aws_sdk_kms::config::Builder::default().retry_config(RetryConfig::disabled())
}
