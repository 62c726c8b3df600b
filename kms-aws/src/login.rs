//! Credentials. The SDK's chain finds them, and the login keeps them until they end. If there are none, the error says
//! why in an operator's words.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_kms::config::Credentials;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::SdkError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use kms_core::single_flight::{Held, SingleFlight, Wanted};
use kms_core::{Error, ErrorKind, Result};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::config;
use crate::error::{Failure, source_of};
use crate::sources::{Sources, instance};

/// How long a call waits for credentials. It is less than the time of an attempt, so that the error has the reason and
/// is no timeout.
const PATIENCE: Duration = Duration::from_millis(3500);
/// How long the chain may take. Calls that wait for it come and go meanwhile.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long before their end credentials are fetched again in the background.
const RENEWAL: Duration = Duration::from_secs(300);
/// How long credentials without an end are used.
const WITHOUT_END: Duration = Duration::from_secs(900);
/// The least time for which credentials are used, however soon they end.
const SHORTEST: Duration = Duration::from_secs(10);
/// The operation, for errors.
const WHAT: &str = "find credentials for AWS";

/// The identity that this process has at AWS.
///
/// After a failure the next call makes the chain anew, so that a token, a profile or a role that comes late is found.
pub struct Login {
    /// The credentials of the configuration. With these the login looks for nothing.
    fixed: Option<Credentials>,
    region: OnceLock<Region>,
    found: Arc<SingleFlight<Credentials>>,
    chain: Mutex<Option<SharedCredentialsProvider>>,
    /// The source of the credentials in use, in words.
    origin: Mutex<String>,
}

impl Login {
    /// Creates a login that has looked for nothing yet.
    pub fn new(keys: Option<&config::Credentials>) -> Arc<Self> {
        let fixed = keys.map(|keys| {
            let token = keys.token.as_ref().map(|token| token.to_string());
            Credentials::new(keys.access_key.as_str(), keys.secret_key.as_str(), token, None, "configuration")
        });
        let origin = if fixed.is_some() { "the configuration" } else { "" };
        Arc::new(Self {
            fixed,
            region: OnceLock::new(),
            found: Arc::default(),
            chain: Mutex::default(),
            origin: Mutex::new(origin.to_owned()),
        })
    }

    /// Sets the region in which the chain asks for roles.
    pub fn set_region(&self, region: &Region) {
        let _ = self.region.set(region.clone());
    }

    /// Notes that AWS refused the credentials: those of a file or a role may have been replaced.
    ///
    /// Returns the failure with words on the source of the credentials.
    pub fn refused(&self, failure: Failure) -> Failure {
        if self.found.get().is_some_and(|held| held.began().elapsed() >= SHORTEST) {
            lock(&self.chain).take();
            self.found.clear();
        }
        match lock(&self.origin).as_str() {
            "" => failure,
            origin => failure.with(&format!("; the credentials are those of {origin}")),
        }
    }

    async fn credentials(self: Arc<Self>) -> Result<Credentials> {
        if let Some(held) = self.found.get() {
            let left = time_left(&held);
            // Some credentials end soon although they are new. The pause of a refresh keeps each call from asking for others.
            if left < RENEWAL {
                self.found.refresh(|| Arc::clone(&self).ask());
            }
            if !left.is_zero() {
                return Ok(held.value().clone());
            }
        }
        let wanted = Wanted { after: None, deadline: Instant::now() + PATIENCE, operation: WHAT };
        let is_fresh = |held: &Held<Credentials>| !time_left(held).is_zero();
        let fetched = self.found.fetch(wanted, is_fresh, async || Ok(()), || Arc::clone(&self).ask()).await;
        match fetched {
            Ok(held) => Ok(held.value().clone()),
            Err(error) if error.kind() == ErrorKind::Timeout => Err(unfinished().await),
            Err(error) => Err(error),
        }
    }

    /// Asks the chain.
    async fn ask(self: Arc<Self>) -> Result<Credentials> {
        // The SDK logs debug text here, which may hold a container's token. All that matters is in the error.
        let asked = async {
            let chain = lock(&self.chain).clone();
            let chain = match chain {
                Some(chain) => chain,
                None => self.new_chain().await?,
            };
            let credentials = chain.provide_credentials().await?;
            Ok((chain, credentials))
        };
        let asked = asked.with_subscriber(NoSubscriber::default());
        let asked = tokio::time::timeout(CHAIN_TIMEOUT, asked).await;
        let failed = match asked {
            Ok(Ok((chain, credentials))) => {
                // A chain whose credentials have no end has read them from a file, which may change. It is not kept.
                *lock(&self.chain) = credentials.expiry().map(|_| chain);
                *lock(&self.origin) = origin_of(&credentials);
                return Ok(credentials);
            }
            Ok(Err(error)) => explain(&error).await,
            Err(_) => unfinished().await,
        };
        lock(&self.chain).take();
        // A failed refresh is no fault yet: the credentials in use last a while.
        tracing::debug!(cause = failed.as_dyn());
        Err(failed)
    }

    async fn new_chain(&self) -> std::result::Result<SharedCredentialsProvider, CredentialsError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = self.region.get() {
            loader = loader.region(region.clone());
        }
        let chain = loader.load().await.credentials_provider();
        chain.ok_or_else(CredentialsError::not_loaded_no_source)
    }
}

/// A login as the SDK wants it.
#[derive(Clone)]
pub struct Provider(pub Arc<Login>);

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        if let Some(fixed) = &self.0.fixed {
            return future::ProvideCredentials::ready(Ok(fixed.clone()));
        }
        let found = Arc::clone(&self.0).credentials();
        future::ProvideCredentials::new(async { found.await.map_err(CredentialsError::provider_error) })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn time_left(held: &Held<Credentials>) -> Duration {
    let age = held.began().elapsed();
    match held.expiry() {
        None => WITHOUT_END.saturating_sub(age),
        Some(end) => {
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            left.max(SHORTEST.saturating_sub(age))
        }
    }
}

/// Returns the source of credentials in words. Only the debug text of the SDK names it.
fn origin_of(credentials: &Credentials) -> String {
    let text = format!("{credentials:?}");
    for (provider, origin) in [
        ("\"EnvironmentVariable\"", "the environment (AWS_ACCESS_KEY_ID)".to_owned()),
        ("\"ProfileFile\"", format!("the profile '{}'", Sources::profile_name())),
        (
            "\"AssumeRoleProvider\"",
            format!("the profile '{}', which assumes a role", Sources::profile_name()),
        ),
        ("\"WebIdentityToken\"", "the web identity token".to_owned()),
        ("\"EcsContainer\"", "the container's endpoint".to_owned()),
        ("\"IMDSv2\"", "the instance's role".to_owned()),
    ] {
        if text.contains(provider) {
            return origin;
        }
    }
    String::new()
}

fn none(why: String) -> Error {
    Error::with_source(ErrorKind::LoginRefused, WHAT, why)
}

/// Creates the error of a chain that takes too long.
async fn unfinished() -> Error {
    let sources = Sources::look().await;
    if sources.asks_sts() {
        let why = "AWS STS, which gives the credentials of a role, did not answer in time";
        return Error::with_source(ErrorKind::Unreachable, WHAT, why);
    }
    let why = match sources.container() {
        Some(container) => sources.upto_container(&format!("{container} did not answer in time")),
        None => sources.upto_instance("instance metadata did not answer in time"),
    };
    none(why)
}

/// Creates the error of a chain that failed.
async fn explain(error: &CredentialsError) -> Error {
    if let Some((failure, by_token)) = refusal_of_sts(error) {
        return of_sts(&failure, by_token);
    }
    let sources = Sources::look().await;
    let reason = reason_of(error);
    let is_nested = error.source().and_then(|source| source.downcast_ref::<CredentialsError>()).is_some();
    let of_profile = reason.strip_prefix("ProfileFile provider could not be built: ");
    none(match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let instance = instance().await;
            sources.upto_instance(&instance)
        }
        _ if of_profile.is_some() || is_nested => {
            sources.upto_profile(&without_features(of_profile.unwrap_or(&reason)))
        }
        _ if sources.has_token() => sources.upto_token(&reason),
        _ => match sources.container() {
            // The text of this error may hold the token.
            Some(container) if matches!(error, CredentialsError::InvalidConfiguration(_)) => sources
                .upto_container(&format!(
                    "{container}: the address, or the authorization token, is malformed"
                )),
            Some(container) => sources.upto_container(&format!("{container}: {reason}")),
            None => sources.upto_instance(&format!("instance metadata: {reason}")),
        },
    })
}

/// Returns the failure of AWS STS or of the network before it, and whether a web identity token was shown to it.
fn refusal_of_sts(error: &CredentialsError) -> Option<(Failure, bool)> {
    if let Some(error) = source_of::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>(error) {
        return Some((Failure::new(error), true));
    }
    let error = source_of::<SdkError<AssumeRoleError, HttpResponse>>(error)?;
    Some((Failure::new(error), false))
}

fn of_sts(failure: &Failure, by_token: bool) -> Error {
    let by = if by_token {
        Sources::role_by_token()
    } else {
        format!("the role of the profile '{}'", Sources::profile_name())
    };
    if failure.kind.is_outage() {
        let why = format!("AWS STS, which gives the credentials of {by}, is not reachable: {failure}");
        return Error::with_source(failure.kind, WHAT, why);
    }
    none(format!("no credentials: AWS STS does not give us {by}: {failure}"))
}

/// Returns the cause of an error, in words that are not the SDK's debug text.
fn reason_of(error: &CredentialsError) -> String {
    if let Some(error) = source_of::<std::io::Error>(error) {
        return error.to_string();
    }
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(source) = next {
        text = source.to_string();
        next = source.source();
    }
    // Before the status the SDK prints what it sent and received.
    let status = text.split("StatusCode(").nth(1).or_else(|| text.split("(code: ").nth(1));
    if let Some(status) = status.and_then(|rest| rest.split(')').next()) {
        return format!("it answers with status {status}");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// Returns the words for a profile that wants something that is not built in.
fn without_features(reason: &str) -> String {
    for (feature, wants) in [
        ("enabled: sso", "it signs on by single sign-on"),
        ("enabled: credentials-process", "it names a credential_process"),
        ("enabled: credentials-login", "it uses the session of a person's console"),
    ] {
        if reason.contains(feature) {
            return format!("{wants}, which is for people and not for servers");
        }
    }
    reason.to_owned()
}
