//! HTTP to Vault: every request and answer is bounded, in number, size and time.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kms_core::{Error, ErrorKind};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use rustify::endpoint::Endpoint;
use rustify::enums::RequestMethod;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::{Zeroize, Zeroizing};

use crate::config::{VaultConfig, invalid};
use crate::error::{Failure, quote};
use crate::{health, tls};

/// The most bytes of an answer that holds one record, or an error.
pub const RECORD_LIMIT: usize = 1 << 20;
/// The most bytes of an answer that lists keys; 80 a name, so for half a million of them.
pub const LIST_LIMIT: usize = 64 << 20;

/// The most requests at once; each has a connection of its own. A key ring makes up to 64 reads and 32 writes at once.
const REQUESTS: usize = 128;
/// The most listings at once, whose answers are large.
const LISTINGS: usize = 4;
/// The requests about our token that may be under way beside all others.
const ABOUT_TOKEN: usize = 4;
/// The most connections that are kept while nothing is asked.
const IDLE: usize = 32;

/// The most characters that are told of the name of a field.
const MAX_KEY: usize = 80;

/// How often, and after which pauses, the wiping of a buffer is tried that a connection has still in use.
const WIPES: u32 = 20;
const WIPE_PAUSE: Duration = Duration::from_millis(20);

/// The connections to one Vault.
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    timeout: Duration,
    requests: Semaphore,
    listings: Semaphore,
    about_token: Semaphore,
}

/// With whom a request shares the connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// With all that have none of the others.
    Ordinary,
    /// With other listings.
    Listing,
    /// With other requests about our token, so that reads of keys never keep us from a login.
    Token,
}

/// One request of ours.
#[derive(Clone)]
pub struct Call {
    /// The HTTP method.
    pub method: Method,
    /// The path under `/v1/`, as it is and not percent-encoded.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<&'static str>,
    /// A JSON body.
    pub body: Option<Bytes>,
    /// How long it may take; the configured time if absent.
    pub timeout: Option<Duration>,
    /// The most bytes that the answer may have.
    pub limit: usize,
    /// With whom it shares the connections.
    pub share: Share,
}

/// Whom a request is from: the token, and the namespace that it is for.
pub struct Credentials<'a> {
    /// The token, for a header; none for a login.
    pub token: Option<&'a HeaderValue>,
    /// The namespace.
    pub namespace: Option<&'a str>,
}

/// An answer of Vault: 2xx, or one of 400, 403, 404, 405 whose body is Vault's.
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The body; wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// The parts of a body that tell why there is no data.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Complaint {
    errors: Option<Vec<String>>,
    warnings: Option<Vec<String>>,
    request_id: Option<String>,
}

impl Call {
    /// Makes a request to read, on a route that vaultrs does not define.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Makes a request to write: a record, or on a route that vaultrs does not define.
    pub fn put(path: impl Into<String>, body: Bytes) -> Self {
        Self { body: Some(body), ..Self::new(Method::PUT, path) }
    }

    /// Makes a request of the method and the path that vaultrs defines.
    ///
    /// A body with a secret is ours: vaultrs would write it into a vector that grows, and copy it, and wipe none of them.
    pub fn to(endpoint: &impl Endpoint) -> Self {
        let path = endpoint.path();
        // Some of vaultrs's paths begin with a slash, one of them with a tab before it. No path of ours does.
        let path = path.trim_start_matches(['\t', '/']);
        match endpoint.method() {
            // The method LIST means the same, but not every proxy lets it pass.
            RequestMethod::LIST => {
                Self { query: Some("list=true"), limit: LIST_LIMIT, share: Share::Listing, ..Self::get(path) }
            }
            method => Self::new(method.into(), path),
        }
    }

    /// Makes the request that vaultrs defines, with its body, which must hold no secret.
    pub fn with_body_of(endpoint: &impl Endpoint) -> kms_core::Result<Self> {
        let body = endpoint.body().map_err(|error| {
            Error::with_source(ErrorKind::Internal, "write a request to Vault", error.to_string())
        })?;
        // Of an object without fields vaultrs makes an empty body, which is no JSON.
        let body = body.map(|body| if body.is_empty() { Bytes::from_static(b"{}") } else { body.into() });
        Ok(Self { body, ..Self::to(endpoint) })
    }

    /// Makes it one about our token.
    #[must_use]
    pub fn about_token(self) -> Self {
        Self { share: Share::Token, ..self }
    }

    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: None,
            body: None,
            timeout: None,
            limit: RECORD_LIMIT,
            share: Share::Ordinary,
        }
    }
}

impl Client {
    /// Makes the client; connects nothing yet.
    pub fn new(config: &VaultConfig) -> kms_core::Result<Self> {
        let endpoint = config.url()?;
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&config.tls)?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(IDLE)
            // What is read is what was sent: a few bytes cannot become many.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .tcp_keepalive(Duration::from_secs(10))
            .tcp_keepalive_interval(Duration::from_secs(2))
            .tcp_keepalive_retries(3)
            .tcp_user_timeout(config.timeout)
            .referer(false)
            .user_agent(concat!("kms/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&endpoint) {
            http = http.no_proxy();
        }
        let http =
            http.build().map_err(|error| invalid("endpoint", &Failure::transport(error).to_string()))?;
        let [requests, listings, about_token] = [REQUESTS, LISTINGS, ABOUT_TOKEN].map(Semaphore::new);
        Ok(Self { http, endpoint, timeout: config.timeout, requests, listings, about_token })
    }

    /// Sends one request once.
    ///
    /// Answers that mean failure for every operation come back as [`Failure`]; see [`Answer`] for the others.
    pub async fn send(&self, call: &Call, credentials: Option<&Credentials<'_>>) -> Result<Answer, Failure> {
        let answer = self.exchange(call, credentials).await?;
        match answer.code {
            200..300 => Ok(answer),
            400 | 403 | 404 | 405 if answer.is_vaults() => Ok(answer),
            _ => Err(self.explain(answer.failure()).await),
        }
    }

    /// Finds out what a 503 means: a seal, or something between.
    pub async fn explain(&self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::Status { code: 503, .. }) {
            return failure;
        }
        match health::ask(self).await {
            Ok(health) => health.as_failure().unwrap_or(failure),
            Err(_) => failure,
        }
    }

    /// Sends one request once, whatever the status of the answer.
    pub async fn exchange(
        &self,
        call: &Call,
        credentials: Option<&Credentials<'_>>,
    ) -> Result<Answer, Failure> {
        // The wait for a place is part of the time: a write on K/V version 1 that came late would be no safe one.
        let deadline = Instant::now() + call.timeout.unwrap_or(self.timeout);
        let _place = self.place(call.share, deadline).await?;
        let mut request = self
            .http
            .request(call.method.clone(), self.url(call))
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .header("X-Vault-Request", "true");
        if let Some(credentials) = credentials {
            if let Some(token) = credentials.token {
                request = request.header("X-Vault-Token", token);
            }
            if let Some(namespace) = credentials.namespace {
                request = request.header("X-Vault-Namespace", namespace);
            }
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = request.send().await.map_err(Failure::transport)?;
        let code = response.status().as_u16();
        // An error is short, whatever was asked.
        let limit = if response.status().is_success() { call.limit } else { call.limit.min(RECORD_LIMIT) };
        let mut parts = Parts(Vec::new());
        let keeps = (call.share != Share::Listing).then_some(&mut parts);
        Ok(Answer { code, body: read_body(response, &call.path, limit, keeps).await? })
    }

    /// Waits until there is room for one more request.
    async fn place(&self, share: Share, deadline: Instant) -> Result<SemaphorePermit<'_>, Failure> {
        let room = match share {
            Share::Ordinary => &self.requests,
            Share::Listing => &self.listings,
            Share::Token => &self.about_token,
        };
        match tokio::time::timeout_at(deadline.into(), room.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Failure::Busy),
        }
    }

    /// Returns where Vault is.
    pub fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    fn url(&self, call: &Call) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(call.path.split('/'));
        }
        url.set_query(call.query);
        url
    }
}

impl Answer {
    /// Tells whether the request was done.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Tells whether this is Vault's plain "there is nothing at this path", which is `{"errors": []}` and no more.
    ///
    /// A wrong engine, a wrong namespace, and a deleted version of K/V v2 are 404s too, and say something; so does what
    /// stands between us and Vault.
    pub fn is_absent(&self) -> bool {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {
            errors: [(); 0],
        }
        self.code == 404
            && serde_json::from_slice::<Nothing>(&self.body).is_ok_and(|Nothing { errors: [] }| true)
    }

    /// Makes a failure of an answer that is none of those expected.
    pub fn failure(&self) -> Failure {
        if !self.is_vaults() {
            return Failure::foreign(self.code);
        }
        let complaint = self.complaint();
        let says: Vec<String> =
            [complaint.errors, complaint.warnings].into_iter().flatten().flatten().collect();
        Failure::Status { code: self.code, says: quote(&says) }
    }

    /// Reads the body as `T`; the error tells nothing of what is in it.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        // serde would take an array for an object whose fields have no names.
        let is_object = self.body.trim_ascii_start().first() == Some(&b'{');
        if !is_object && serde_json::from_slice::<IgnoredAny>(&self.body).is_ok() {
            let why = "its answer is not of the expected form: it is no JSON object";
            return Err(Failure::NotVault(why.to_owned()));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let text = error.to_string();
            let missing = text.strip_prefix("missing field `").and_then(|text| text.split_once('`'));
            let why = match (missing, last_key(&self.body, error.line(), error.column())) {
                (Some((field, _)), _) => format!("the field '{field}' is missing"),
                (None, Some(field)) if error.is_data() => format!("the field '{field}' has another type"),
                _ => "it is no JSON".to_owned(),
            };
            Failure::NotVault(format!("its answer is not of the expected form at {place}: {why}"))
        })
    }

    /// Tells whether the body is one of Vault's.
    pub fn is_vaults(&self) -> bool {
        let complaint = self.complaint();
        complaint.errors.is_some() || complaint.request_id.is_some()
    }

    fn complaint(&self) -> Complaint {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Finds the last key of an object that ends before a place in a JSON text.
///
/// What stands after a key is nobody's business here: it may be a secret.
fn last_key(json: &[u8], line: usize, column: usize) -> Option<String> {
    let before: usize =
        json.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let text = json.get(..(before + column).min(json.len()))?;
    let (mut key, mut at) = (None, 0);
    while let Some(start) = text.get(at..)?.iter().position(|&byte| byte == b'"').map(|found| at + found + 1)
    {
        let mut end = start;
        while *text.get(end).unwrap_or(&b'"') != b'"' {
            end += if text[end] == b'\\' { 2 } else { 1 };
        }
        let after = text.get(end + 1..).unwrap_or_default().iter().find(|byte| !byte.is_ascii_whitespace());
        if after == Some(&b':') {
            key = Some(start..end);
        }
        at = (end + 1).min(text.len());
    }
    let name = str::from_utf8(text.get(key?)?).ok()?;
    Some(name.chars().take(MAX_KEY).collect::<String>().escape_debug().to_string())
}

async fn read_body(
    mut response: reqwest::Response,
    path: &str,
    limit: usize,
    mut parts: Option<&mut Parts>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let too_long = || Failure::NotVault(format!("its answer to '{path}' is longer than {limit} bytes"));
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if announced > limit {
        return Err(too_long());
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(chunk) = response.chunk().await.map_err(Failure::transport)? {
        let len = body.len() + chunk.len();
        if len > limit {
            return Err(too_long());
        }
        if len > body.capacity() {
            // A vector that grows by itself leaves its old bytes behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(len.max(2 * body.capacity())));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
        if let Some(parts) = &mut parts {
            parts.0.push(chunk);
        }
    }
    Ok(body)
}

/// The parts of a body as they came, in buffers of the connection; wiped there some time after this is dropped.
struct Parts(Vec<Bytes>);

impl Drop for Parts {
    fn drop(&mut self) {
        let mut parts = std::mem::take(&mut self.0);
        // Without a runtime there is no connection left either, nor anybody to wait.
        let Ok(runtime) = Handle::try_current() else { return };
        if parts.is_empty() {
            return;
        }
        runtime.spawn(async move {
            for _ in 0..WIPES {
                // A connection that waits for the next answer takes another buffer, while this one is held here.
                tokio::time::sleep(WIPE_PAUSE).await;
                parts = parts.into_iter().filter_map(|part| wipe(part).err()).collect();
                if parts.is_empty() {
                    return;
                }
            }
        });
    }
}

/// Wipes bytes that nobody else has; gives them back if somebody does.
fn wipe(part: Bytes) -> Result<(), Bytes> {
    part.try_into_mut().map(|mut bytes| bytes.as_mut().zeroize())
}

/// Makes a JSON body that is wiped when it has been sent.
pub fn json_body(operation: &str, value: &impl serde::Serialize) -> kms_core::Result<Bytes> {
    let write = |to: &mut dyn io::Write| {
        serde_json::to_writer(to, value)
            .map_err(|error| Error::with_source(ErrorKind::Internal, operation, error.to_string()))
    };
    // Written twice: a vector that grows leaves its old bytes behind.
    let mut length = Length(0);
    write(&mut length)?;
    let mut body = Zeroizing::new(Vec::with_capacity(length.0));
    write(&mut *body)?;
    Ok(Bytes::from_owner(body))
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells whether the endpoint is this machine, which no proxy of the environment is for.
fn is_loopback(endpoint: &Url) -> bool {
    let Some(host) = endpoint.host_str() else { return false };
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
    use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
    use vaultrs::api::kv2::requests::ListSecretsRequest;
    use vaultrs::api::sys::requests::ReadHealthRequest;
    use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};

    use super::*;
    use crate::config::{AppRole, Login, Secret};

    fn answer(code: u16, body: &str) -> Answer {
        Answer { code, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    /// A 404 that is taken for an absent key has a client make that key anew.
    #[test]
    fn only_vaults_own_404_says_that_there_is_nothing() {
        for body in [r#"{"errors":[]}"#, "{\"errors\": []}\n"] {
            assert!(answer(404, body).is_absent(), "{body}");
        }
        for (code, body) in [
            (404, r#"{"errors":["no handler for route 'kv/key'"]}"#),
            (404, r#"{"errors":["1 error occurred:\n\t* no namespace"]}"#),
            (404, r#"{"errors":[],"warnings":["Invalid path for a versioned K/V secrets engine"]}"#),
            (404, r#"{"errors":[],"data":{"data":null,"metadata":{"destroyed":true}}}"#),
            (404, r#"{"data":{"data":null,"metadata":{"deletion_time":"2024-01-01T00:00:00Z"}}}"#),
            (404, r#"{"errors":null}"#),
            (404, r#"{"errors":{}}"#),
            (404, r#"{"errors":[[]]}"#),
            (404, r#"{"errors":[],"code":404,"message":"no such route"}"#),
            (404, r#"{"request_id":"1","message":"no route matched with those values"}"#),
            (404, r#"{"error":"not found"}"#),
            (404, "{}"),
            (404, "[]"),
            (404, ""),
            (404, "<html>404 Not Found</html>"),
            (404, "default backend - 404"),
            (200, r#"{"errors":[]}"#),
            (400, r#"{"errors":[]}"#),
            (403, r#"{"errors":[]}"#),
            (405, r#"{"errors":[]}"#),
            (410, r#"{"errors":[]}"#),
        ] {
            assert!(!answer(code, body).is_absent(), "{code} {body}");
        }
    }

    /// Another release of vaultrs must not move a route, nor may one of its paths be sent with the tab that is in it.
    #[test]
    fn requests_of_vaultrs_are_those_of_vaults_documentation() {
        let login = Login::AppRole(AppRole::new("role-id", Secret::from("secret-id")));
        let client = Client::new(&VaultConfig::new("http://127.0.0.1:8200/a/proxy/", login)).unwrap();
        let (role_id, secret_id) = ("role-id".to_owned(), "secret-id".to_owned());
        let (role, jwt) = ("role".to_owned(), "jwt".to_owned());
        let mount = || "team a/x/mount".to_owned();
        let renewal = Call::with_body_of(&RenewTokenSelfRequest::default()).unwrap();
        for (call, expected) in [
            (Call::to(&ReadHealthRequest::default()), "GET sys/health"),
            (Call::to(&LookupTokenSelfRequest {}), "GET auth/token/lookup-self"),
            (renewal, "POST auth/token/renew-self {}"),
            (
                Call::to(&LoginWithApproleRequest { mount: mount(), role_id, secret_id }),
                "POST auth/team%20a/x/mount/login",
            ),
            (
                Call::to(&LoginWithKubernetesRequest { mount: mount(), role, jwt }),
                "POST auth/team%20a/x/mount/login",
            ),
            (
                Call::to(&ListSecretsRequest { mount: mount(), path: "minio/".to_owned() }),
                "GET team%20a/x/mount/metadata/minio/?list=true",
            ),
        ] {
            let url = client.url(&call);
            let path = url.as_str().strip_prefix("http://127.0.0.1:8200/a/proxy/v1/").unwrap();
            let mut sent = format!("{} {path}", call.method);
            if let Some(body) = &call.body {
                sent = format!("{sent} {}", String::from_utf8_lossy(body));
            }
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn no_failure_is_told_as_an_absent_key() {
        for code in 100..600 {
            for body in ["", "{}", r#"{"errors":[]}"#, r#"{"errors":["no handler for route"]}"#, "<html>"] {
                let kinds =
                    [answer(code, body).failure().kind(), answer(code, body).failure().kind_of_login()];
                for kind in kinds {
                    let is_fault = matches!(
                        kind,
                        ErrorKind::Denied
                            | ErrorKind::LoginRefused
                            | ErrorKind::Throttled
                            | ErrorKind::Unreachable
                    );
                    assert!(is_fault, "{code} {body}: {kind:?}");
                }
            }
        }
    }
}
