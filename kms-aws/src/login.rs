//! Credentials: found by the SDK's chain, kept until they end; and where there are none, why, in an operator's words.

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
use kms_core::{Error, ErrorKind, Result};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::cell::{Cell, Held};
use crate::config;
use crate::error::Failure;
use crate::sources::{Sources, instance};

/// How long a call waits for credentials: less than an attempt may take, so that the reason is told and not a timeout.
const PATIENCE: Duration = Duration::from_millis(3500);
/// How long the chain may take, while calls come and go.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long before their end credentials are fetched anew, beside the calls.
const RENEWAL: Duration = Duration::from_secs(300);
/// How long credentials are believed that do not say when they end.
const WITHOUT_END: Duration = Duration::from_secs(900);
/// How long credentials are used at the least, however soon they end.
const SHORTEST: Duration = Duration::from_secs(10);
/// What is being done, in errors.
const WHAT: &str = "find credentials for AWS";

/// Who we are to AWS.
///
/// A chain that failed is made anew at the next call, so that a token, a profile or a role that comes late is found.
pub struct Login {
    /// Those of the configuration, for which nothing is looked for.
    fixed: Option<Credentials>,
    region: OnceLock<Region>,
    cell: Arc<Cell<Credentials>>,
    chain: Mutex<Option<SharedCredentialsProvider>>,
    /// Where the credentials in use come from.
    origin: Mutex<String>,
}

impl Login {
    /// Makes a login that has looked for nothing yet.
    pub fn new(keys: Option<&config::Credentials>) -> Arc<Self> {
        let fixed = keys.map(|keys| {
            let token = keys.token.as_ref().map(|token| token.to_string());
            Credentials::new(keys.access_key.as_str(), keys.secret_key.as_str(), token, None, "configuration")
        });
        let origin = if fixed.is_some() { "the configuration" } else { "" };
        Arc::new(Self {
            fixed,
            region: OnceLock::new(),
            cell: Arc::default(),
            chain: Mutex::default(),
            origin: Mutex::new(origin.to_owned()),
        })
    }

    /// Tells in which region roles are asked for.
    pub fn set_region(&self, region: &Region) {
        let _ = self.region.set(region.clone());
    }

    /// Takes in that AWS refused our credentials: those of a file or a role may have been replaced.
    ///
    /// Returns the failure with words on where they come from.
    pub fn refused(&self, failure: Failure) -> Failure {
        if self.cell.get().is_some_and(|held| held.began.elapsed() >= SHORTEST) {
            lock(&self.chain).take();
            self.cell.clear();
        }
        match lock(&self.origin).as_str() {
            "" => failure,
            origin => failure.with(&format!("; the credentials are those of {origin}")),
        }
    }

    async fn credentials(self: Arc<Self>) -> Result<Credentials> {
        if let Some(held) = self.cell.get() {
            let left = time_left(&held);
            if left < RENEWAL {
                self.cell.refresh(|| Arc::clone(&self).ask());
            }
            if !left.is_zero() {
                return Ok(held.value.clone());
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let fresh = |held: &Held<Credentials>| !time_left(held).is_zero();
        let fetched = self.cell.fetch(None, deadline, fresh, || Arc::clone(&self).ask()).await;
        match fetched {
            Ok(held) => Ok(held.value.clone()),
            Err(error) if error.kind() == ErrorKind::Timeout => Err(unfinished().await),
            Err(error) => Err(error),
        }
    }

    /// Asks the chain.
    async fn ask(self: Arc<Self>) -> Result<Credentials> {
        // What the SDK logs of it is debug text, in which a container's token may be; what matters is in the error.
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
                // One whose credentials do not end has read them from a file that may change.
                *lock(&self.chain) = credentials.expiry().map(|_| chain);
                *lock(&self.origin) = origin_of(&credentials);
                return Ok(credentials);
            }
            Ok(Err(error)) => explain(&error).await,
            Err(_) => unfinished().await,
        };
        lock(&self.chain).take();
        // What a refresh fails of is not over yet.
        tracing::debug!("{}", failed.chain());
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

/// Lends a login to the SDK.
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

/// Finds the error of a login among the sources of an error of the SDK.
pub fn error_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    source_of(error)
}

fn source_of<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn time_left(held: &Held<Credentials>) -> Duration {
    let age = held.began.elapsed();
    match held.value.expiry() {
        None => WITHOUT_END.saturating_sub(age),
        Some(end) => {
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            left.max(SHORTEST.saturating_sub(age))
        }
    }
}

/// Tells where credentials come from; the SDK has a name for it in its debug text alone.
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

/// Makes the error of a chain that does not end.
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

/// Makes the error of a chain that failed.
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
            // Its text may hold the token.
            Some(container) if matches!(error, CredentialsError::InvalidConfiguration(_)) => sources
                .upto_container(&format!(
                    "{container}: the address, or the authorization token, is malformed"
                )),
            Some(container) => sources.upto_container(&format!("{container}: {reason}")),
            None => sources.upto_instance(&format!("instance metadata: {reason}")),
        },
    })
}

/// Finds what AWS STS, or the network before it, says; and whether a web identity token was shown to it.
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

/// Returns what lies under an error, in words that are not the SDK's debug text.
fn reason_of(error: &CredentialsError) -> String {
    if let Some(error) = source_of::<std::io::Error>(error) {
        return error.to_string();
    }
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(source) = next {
        text = source.to_string();
        next = source.source();
    }
    // Before it stands what was sent and received, as the SDK prints it for its authors.
    let status = text.split("StatusCode(").nth(1).or_else(|| text.split("(code: ").nth(1));
    if let Some(status) = status.and_then(|rest| rest.split(')').next()) {
        return format!("it answers with status {status}");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

/// Says what a profile wants that is not built in.
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
