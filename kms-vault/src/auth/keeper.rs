//! The token: got by a login, renewed in time, replaced when Vault no longer knows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use kms_core::{Error, ErrorKind, Result};
use reqwest::header::HeaderValue;
use serde::Serialize;
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tracing::{debug, error, info, warn};
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};
use zeroize::Zeroizing;

use crate::client::{Answer, Call, Client, Credentials, json_body};
use crate::config::{Login, Secret, VaultConfig, longest_pause};
use crate::error::Failure;
use crate::json::{Fields, secret_text};

/// The shortest wait after a failed login; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How often a secret in a file is looked at while the one that was there is refused.
const LOOK: Duration = FIRST_PAUSE;
/// The pause after AppRole refused the same secret twice. Vault locks a role for 15 minutes, for all who log in by it,
/// once five logins failed with less than 15 minutes between them (`user_lockout`, Vault 1.13 and OpenBao).
const LOCKOUT: Duration = Duration::from_secs(16 * 60);
/// A token younger than this is not replaced because of a 403: it was good a moment ago.
const FRESH: Duration = Duration::from_secs(1);
/// How long nothing has to be done about a token without end.
const FAR: Duration = Duration::from_secs(3600);

/// Keeps a token at hand.
pub struct Auth {
    client: Arc<Client>,
    login: Login,
    /// The namespace of the login, which may be another than that of the engines.
    namespace: Option<String>,
    longest_pause: Duration,
    token: ArcSwapOption<Token>,
    /// One login at a time, and none right after one that failed.
    gate: Mutex<Gate>,
    changed: Arc<Notify>,
    keeper: OnceLock<AbortHandle>,
    /// The last renewal failed, and was told.
    renewal_fails: AtomicBool,
    this: Weak<Self>,
}

/// A token with its lease.
pub struct Token {
    /// The token itself; its bytes are wiped with the last copy.
    header: HeaderValue,
    /// The same for a renewed token, another one for each login.
    serial: u64,
    obtained: Instant,
    lease: Lease,
}

/// How long a token lasts.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Its length when it was given; none is for ever.
    pub length: Option<Duration>,
    /// Whether it can be made longer.
    pub renewable: bool,
    ends: Option<Instant>,
    renew_at: Option<Instant>,
}

/// What a login sends; of vaultrs is only the route, since nobody wipes the secret in its bodies.
#[derive(Serialize)]
#[serde(untagged)]
enum Proof<'a> {
    AppRole { role_id: &'a str, secret_id: &'a str },
    Kubernetes { role: &'a str, jwt: &'a str },
}

#[derive(Default)]
struct Gate {
    logins: u64,
    failures: u32,
    failed: Option<Failed>,
}

/// A login that failed, and until when none is tried with the same secret.
struct Failed {
    error: Error,
    secret: Option<Secret>,
    until: Instant,
    looked: Instant,
}

impl Auth {
    /// Begins to keep a token: logs in in the background, now.
    pub fn start(client: Arc<Client>, config: &VaultConfig) -> Arc<Self> {
        let own = match &config.login {
            Login::AppRole(login) => login.namespace.as_deref(),
            Login::Kubernetes(login) => login.namespace.as_deref(),
            Login::Token(_) => None,
        };
        let namespace = own.or(config.namespace.as_deref()).map(|text| text.trim_matches('/'));
        let auth = Arc::new_cyclic(|this| Self {
            client,
            login: config.login.clone(),
            namespace: namespace.filter(|text| !text.is_empty()).map(str::to_owned),
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
    /// Fails with `LoginRefused`, and with the kinds of an outage.
    pub async fn token(&self) -> Result<Arc<Token>> {
        match self.at_hand() {
            Some(token) => Ok(token),
            None => self.replace(None).await?.ok_or_else(|| self.failed(ErrorKind::Internal, "no token")),
        }
    }

    /// Returns the token to use instead of one with which Vault answered 403.
    ///
    /// `None` says that the token is good: what was asked is not allowed. Fails when Vault cannot tell, or when
    /// the token is not good and the login for another one fails.
    pub async fn instead_of(&self, refused: &Arc<Token>) -> Result<Option<Arc<Token>>> {
        self.replace(Some(Arc::clone(refused))).await
    }

    /// Describes how the login goes, for messages.
    pub fn method(&self) -> String {
        match &self.login {
            Login::AppRole(login) => format!("by AppRole at 'auth/{}'", login.engine.trim_matches('/')),
            Login::Kubernetes(login) => format!("as Kubernetes role '{}'", login.role),
            Login::Token(_) => "with a token".to_owned(),
        }
    }

    fn at_hand(&self) -> Option<Arc<Token>> {
        self.token.load_full().filter(|token| token.lease.ends.is_none_or(|end| Instant::now() < end))
    }

    /// Logs in unless there is a token other than `refused`, in a task: who waits may give up, the login goes on.
    async fn replace(&self, refused: Option<Arc<Token>>) -> Result<Option<Arc<Token>>> {
        let Some(this) = self.this.upgrade() else {
            return Err(self.failed(ErrorKind::Internal, "the store was closed"));
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
                Some(token) if token.serial != refused.serial => return Ok(Some(token)),
                Some(_) if refused.obtained.elapsed() < FRESH || this.is_known(&refused).await? => {
                    return Ok(None);
                }
                Some(_) => warn!("vault no longer knows our token"),
                None => {}
            }
            this.log_in(&mut gate).await.map(Some)
        });
        task.await.unwrap_or_else(|_| Err(self.failed(ErrorKind::Internal, "the login was ended")))
    }

    /// Asks Vault whether it knows the token.
    async fn is_known(&self, token: &Token) -> Result<bool> {
        match self.look_up(&token.header).await {
            Ok(_) => Ok(true),
            Err(Failure::Status { code: 401 | 403 | 404, .. }) => Ok(false),
            Err(failure) => Err(self.client.explain(failure).await.into_error("look up our token in Vault")),
        }
    }

    async fn look_up(&self, token: &HeaderValue) -> std::result::Result<(u64, bool), Failure> {
        lease_in(&self.send(Call::to(&LookupTokenSelfRequest {}), Some(token)).await?)
    }

    /// Sends a request about a token, once; every answer but a good one is a failure.
    async fn send(&self, call: Call, token: Option<&HeaderValue>) -> std::result::Result<Answer, Failure> {
        let credentials = Credentials { token, namespace: self.namespace.as_deref() };
        let answer = self.client.exchange(&call.about_token(), Some(&credentials)).await?;
        if answer.is_success() { Ok(answer) } else { Err(answer.failure()) }
    }

    async fn log_in(&self, gate: &mut Gate) -> Result<Arc<Token>> {
        if let Some(failed) = &mut gate.failed
            && let Some(error) = failed.still_holds(&self.login)
        {
            return Err(error);
        }
        let began = Instant::now();
        let secret = self.read_secret();
        let asked = match &secret {
            Ok(secret) => self.ask_for_token(secret).await,
            Err(error) => Err((error.clone(), false)),
        };
        let outcome = asked.and_then(|(text, length, renewable)| {
            gate.logins += 1;
            Token::new(&text, gate.logins, began, Lease::new(began, length, renewable)).ok_or_else(|| {
                (
                    self.failed(
                        ErrorKind::LoginRefused,
                        "the token has characters that no HTTP header can hold",
                    ),
                    false,
                )
            })
        });
        match outcome {
            Ok(token) => {
                info!(lease = token.lease.told(), "logged in to vault {}", self.method());
                (gate.failures, gate.failed) = (0, None);
                let token = Arc::new(token);
                self.put(Arc::clone(&token));
                Ok(token)
            }
            Err((why, counts)) => {
                let pause = match gate.failures {
                    0 if counts => self.longest_pause,
                    _ if counts => LOCKOUT,
                    failures => (FIRST_PAUSE * 2_u32.saturating_pow(failures)).min(self.longest_pause),
                };
                gate.failures = (gate.failures + 1).min(16);
                let news = gate.failed.as_ref().is_none_or(|before| before.error.kind() != why.kind());
                match news {
                    true if why.kind().is_outage() => warn!("{}", why.chain()),
                    true => error!("{}", why.chain()),
                    false => debug!("{}", why.chain()),
                }
                let now = Instant::now();
                let secret = secret.ok().filter(|_| counts);
                gate.failed = Some(Failed { error: why.clone(), secret, until: now + pause, looked: now });
                self.token.store(None);
                Err(why)
            }
        }
    }

    /// Asks for a token, its lease in seconds, and whether it can be renewed.
    ///
    /// An error comes with whether Vault counts it as an attempt to guess the secret.
    async fn ask_for_token(
        &self,
        secret: &Secret,
    ) -> std::result::Result<(Zeroizing<String>, u64, bool), (Error, bool)> {
        let (mount, none) = (|engine: &str| engine.trim_matches('/').to_owned(), String::new);
        let (route, proof) = match &self.login {
            Login::AppRole(login) => {
                let mount = mount(&login.engine);
                let route = LoginWithApproleRequest { mount, role_id: none(), secret_id: none() };
                let proof = Proof::AppRole { role_id: &login.id, secret_id: secret.expose() };
                (Call::to(&route), proof)
            }
            Login::Kubernetes(login) => {
                let mount = mount(&login.engine);
                let route = LoginWithKubernetesRequest { mount, role: none(), jwt: none() };
                let proof = Proof::Kubernetes { role: &login.role, jwt: secret.expose() };
                (Call::to(&route), proof)
            }
            Login::Token(_) => return self.adopt(secret).await.map_err(|error| (error, false)),
        };
        let body = json_body("write a login as JSON", &proof).map_err(|error| (error, false))?;
        let granted = match self.send(Call { body: Some(body), ..route }, None).await {
            Ok(answer) => grant_in(&answer),
            Err(failure) => Err(failure),
        };
        match granted {
            Ok(granted) => Ok(granted),
            Err(failure) => {
                let counts = matches!(&self.login, Login::AppRole(_)) && failure.is_refused_secret();
                Err((self.refused(failure).await, counts))
            }
        }
    }

    /// Takes a token that was given to us.
    async fn adopt(&self, secret: &Secret) -> Result<(Zeroizing<String>, u64, bool)> {
        let text = Zeroizing::new(secret.expose().to_owned());
        let Some(header) = header(&text) else {
            return Err(
                self.failed(ErrorKind::LoginRefused, "it has characters that no HTTP header can hold")
            );
        };
        match self.look_up(&header).await {
            Ok((seconds, renewable)) => Ok((text, seconds, renewable)),
            Err(failure) => Err(self.refused(failure).await),
        }
    }

    fn read_secret(&self) -> Result<Secret> {
        self.login.secret().read().map_err(|error| self.failed(ErrorKind::LoginRefused, error))
    }

    async fn refused(&self, failure: Failure) -> Error {
        let failure = self.client.explain(failure).await;
        self.failed(failure.kind_of_login(), failure)
    }

    fn failed(&self, kind: ErrorKind, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::with_source(kind, format!("log in to vault {}", self.method()), why)
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

    /// Does what is due now, and tells how long nothing more will be.
    async fn attend(&self) -> Duration {
        let now = Instant::now();
        let Some(token) = self.at_hand() else {
            if let Ok(token) = self.token().await {
                return token.lease.due_in(now);
            }
            let gate = self.gate.lock().await;
            let until = gate.failed.as_ref().map_or(now, |failed| failed.until);
            // Not longer than a ping, so as to see a new secret.
            return until.saturating_duration_since(Instant::now()).min(self.longest_pause).max(FIRST_PAUSE);
        };
        let due_in = token.lease.due_in(now);
        if !due_in.is_zero() {
            return due_in;
        }
        match self.renew(&token).await {
            Ok(renewed) => {
                self.renewal_fails.store(false, Ordering::Relaxed);
                renewed.lease.due_in(Instant::now()).max(FIRST_PAUSE)
            }
            Err(why) => {
                // An outage is told once, however often a renewal is tried in it.
                if self.renewal_fails.swap(true, Ordering::Relaxed) {
                    debug!("the token could still not be renewed: {}", why.chain());
                } else {
                    warn!("the token could not be renewed and is used while it lasts: {}", why.chain());
                }
                let left = token.lease.ends.map_or(FAR, |end| end.saturating_duration_since(Instant::now()));
                (left / 4).min(self.longest_pause).max(FIRST_PAUSE)
            }
        }
    }

    /// Makes the lease longer, or gets another token where that cannot be.
    async fn renew(&self, token: &Arc<Token>) -> Result<Arc<Token>> {
        let mut gate = self.gate.lock().await;
        if let Some(current) = self.at_hand().filter(|current| current.serial != token.serial) {
            return Ok(current);
        }
        if token.lease.renewable {
            let began = Instant::now();
            let call = Call::with_body_of(&RenewTokenSelfRequest::default())?;
            let renewed = match self.send(call, Some(&token.header)).await {
                Ok(answer) => grant_in(&answer),
                Err(failure) => Err(failure),
            };
            match renewed {
                Ok((_, seconds, renewable)) => {
                    let lease = Lease::new(began, seconds, renewable);
                    let renewed = Token { lease, ..token.copy() };
                    // Near the end of its longest life a token gets less and less.
                    if lease.length >= token.lease.length.map(|length| length / 2) {
                        debug!(lease = lease.told(), "renewed the token");
                        let renewed = Arc::new(renewed.with_length(token.lease.length));
                        self.put(Arc::clone(&renewed));
                        return Ok(renewed);
                    }
                    self.put(Arc::new(renewed));
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

/// Takes a token, its lease in seconds, and whether it can be renewed out of an answer.
fn grant_in(answer: &Answer) -> std::result::Result<(Zeroizing<String>, u64, bool), Failure> {
    let auth = answer.json::<Fields<'_>>()?.object("auth")?;
    let token = secret_text(auth.needed("client_token")?).filter(|token| !token.is_empty());
    let no_text =
        || Failure::NotVault("'auth.client_token' in its answer is no text, or an empty one".to_owned());
    let token = token.ok_or_else(no_text)?;
    // As with KES a token without a lease, or with one below zero, lasts for ever, and without the other field is not renewed.
    let lease: Option<i64> = auth.optional("lease_duration")?;
    let seconds = lease.map_or(0, |seconds| seconds.max(0).unsigned_abs());
    Ok((token, seconds, auth.optional("renewable")?.unwrap_or(false)))
}

/// Takes the lease of a token in seconds, and whether it can be renewed, out of what Vault knows of it.
fn lease_in(answer: &Answer) -> std::result::Result<(u64, bool), Failure> {
    let known = answer.json::<Fields<'_>>()?.object("data")?;
    let missing = || Failure::NotVault("the field 'ttl' is missing in its answer".to_owned());
    let seconds: i64 = known.optional("ttl")?.ok_or_else(missing)?;
    Ok((seconds.max(0).unsigned_abs(), known.optional("renewable")?.unwrap_or(false)))
}

/// Makes a header of a token, all of whose copies share one buffer; `None` if no header can hold it.
fn header(token: &Zeroizing<String>) -> Option<HeaderValue> {
    let bytes = Bytes::from_owner(Zeroizing::new(token.as_bytes().to_vec()));
    let mut header = HeaderValue::from_maybe_shared(bytes).ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl Failed {
    /// Returns the error while there is no reason to try again: the pause lasts, and the secret is the same.
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

impl Drop for Auth {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}

impl Token {
    fn new(text: &Zeroizing<String>, serial: u64, obtained: Instant, lease: Lease) -> Option<Self> {
        Some(Self { header: header(text)?, serial, obtained, lease })
    }

    /// Returns what a request in `namespace` needs.
    pub fn credentials<'a>(&'a self, namespace: Option<&'a str>) -> Credentials<'a> {
        Credentials { token: Some(&self.header), namespace }
    }

    /// Tells whether `other` is of the same login.
    pub fn is_same(&self, other: &Self) -> bool {
        self.serial == other.serial
    }

    /// Returns how long it lasts.
    pub fn lease(&self) -> Lease {
        self.lease
    }

    fn copy(&self) -> Self {
        let (serial, obtained, lease) = (self.serial, self.obtained, self.lease);
        Self { header: self.header.clone(), serial, obtained, lease }
    }

    /// Keeps the length of the first lease, with which the next ones are compared.
    fn with_length(mut self, length: Option<Duration>) -> Self {
        self.lease.length = length;
        self
    }
}

impl Lease {
    /// Makes a lease of `seconds` from `began`; zero is without end. It is to be renewed at 50 to 70% of it.
    fn new(began: Instant, seconds: u64, renewable: bool) -> Self {
        let length = (seconds > 0).then(|| Duration::from_secs(seconds));
        let mut jitter = [0_u8];
        let _ = kms_core::fill_random(&mut jitter); // without randomness all servers renew at 50%
        let part = 0.5 + 0.2 * f64::from(jitter[0]) / 255.0;
        let renew_at = length.and_then(|length| began.checked_add(length.mul_f64(part)));
        Self { length, renewable, ends: length.and_then(|length| began.checked_add(length)), renew_at }
    }

    /// Tells its length, for the log.
    fn told(&self) -> String {
        self.length.map_or_else(|| "without end".to_owned(), |length| format!("{}s", length.as_secs()))
    }

    fn due_in(&self, now: Instant) -> Duration {
        self.renew_at.map_or(FAR, |moment| moment.saturating_duration_since(now)).min(FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(body: &str) -> std::result::Result<(String, u64, bool), String> {
        let answer = Answer { code: 200, body: Zeroizing::new(body.as_bytes().to_vec()) };
        let told =
            |(token, seconds, renewable): (Zeroizing<String>, _, _)| ((*token).clone(), seconds, renewable);
        grant_in(&answer).map(told).map_err(|failure| failure.to_string())
    }

    #[test]
    fn of_a_login_only_the_token_is_needed() {
        let token = |seconds, renewable| Ok(("t".to_owned(), seconds, renewable));
        assert_eq!(granted(r#"{"auth":{"client_token":"t"}}"#), token(0, false));
        assert_eq!(
            granted(
                r#"{"auth":{"client_token":"t","lease_duration":null,"policies":null,"renewable":null}}"#
            ),
            token(0, false)
        );
        assert_eq!(
            granted(r#"{"request_id":"x","auth":{"lease_duration":60,"client_token":"t","renewable":true}}"#),
            token(60, true)
        );
    }

    /// Beside each what KES 0.24 does with it.
    #[test]
    fn a_login_is_read_as_kes_reads_it() {
        for (body, expected) in [
            (r#"{"auth":{"client_token":"t","lease_duration":-1,"renewable":true}}"#, Some((0, true))),
            (r#"{"Auth":{"Client_Token":"t","LEASE_DURATION":60,"Renewable":true}}"#, Some((60, true))),
            (r#"{"auth":{"client_token":"u","client_token":"t","lease_duration":7}}"#, Some((7, false))),
            (
                r#"{"auth":{"client_token":"t","lease_duration":2147483648000}}"#,
                Some((2_147_483_648_000, false)),
            ),
            (r#"{"auth":{"client_token":"t","lease_duration":60.0}}"#, None),
            (r#"{"auth":{"client_token":"t","lease_duration":99999999999999999999}}"#, None),
            (r#"{"auth":["t",60,true]}"#, None),
            (r#"[["t"]]"#, None),
        ] {
            let told = granted(body);
            let read = told.as_ref().ok().map(|(token, seconds, renewable)| {
                assert_eq!(token, "t", "{body}");
                (*seconds, *renewable)
            });
            assert_eq!(read, expected, "{body}: {told:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_token_is_read_like_a_login() {
        let known = |body: &str| {
            lease_in(&Answer { code: 200, body: Zeroizing::new(body.as_bytes().to_vec()) })
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(known(r#"{"Data":{"TTL":5,"renewable":true}}"#), Ok((5, true)));
        assert_eq!(known(r#"{"data":{"ttl":-1}}"#), Ok((0, false)));
        for body in [r#"{"data":{}}"#, r#"{"data":{"ttl":null}}"#] {
            assert!(known(body).unwrap_err().contains("'ttl' is missing"), "{body}");
        }
    }

    #[test]
    fn a_lease_is_told_in_seconds() {
        let told = |seconds| Lease::new(Instant::now(), seconds, true).told();
        assert_eq!((told(2_764_800).as_str(), told(0).as_str()), ("2764800s", "without end"));
    }

    #[test]
    fn a_login_that_cannot_be_read_is_told_with_its_field_and_no_value() {
        for (body, field) in [
            (r#"{"auth":{"lease_duration":1}}"#, "'client_token' is missing"),
            (r#"{"data":{}}"#, "'auth' is missing"),
            (r#"{"auth":null}"#, "'auth' in its answer has another type"),
            (
                r#"{"auth":{"client_token":"s.secret","lease_duration":"s.other"}}"#,
                "'lease_duration' in its answer has another type",
            ),
            (
                r#"{"auth":{"client_token":"s.secret","renewable":"s.other"}}"#,
                "'renewable' in its answer has another type",
            ),
            (
                "{\"auth\":{\n\"client_token\":\"s.secret\",\n\"lease_duration\":1.5}}",
                "'lease_duration' in its answer has another",
            ),
            ("[]", "it is no JSON object"),
            ("7", "it is no JSON object"),
            (r#""s.secret""#, "it is no JSON object"),
            ("", "it is no JSON"),
            ("<html>s.secret</html>", "it is no JSON"),
            (r#"{"auth":{"client_token":7}}"#, "'auth.client_token'"),
            (r#"{"auth":{"client_token":""}}"#, "'auth.client_token'"),
            (r#"{"auth":{"client_token":"s.secret"#, "it is no JSON"),
        ] {
            let told = granted(body).unwrap_err();
            assert!(told.contains(field), "{field} in {told}");
            assert!(!told.contains("s.") && !told.contains("struct"), "{told}");
        }
    }

    #[test]
    fn a_lease_is_renewed_in_its_second_half_and_not_by_all_at_once() {
        let began = Instant::now();
        let leases: Vec<_> = (0..64).map(|_| Lease::new(began, 300, true).due_in(began)).collect();
        for due in &leases {
            assert!((Duration::from_secs(150)..=Duration::from_secs(210)).contains(due), "{due:?}");
        }
        assert!(leases.iter().any(|due| due != &leases[0]), "no jitter");
        assert_eq!(Lease::new(began, 0, false).due_in(began), FAR);
    }
}
