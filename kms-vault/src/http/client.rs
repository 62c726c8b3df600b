//! The client: the connections to one Vault, and their bounds.

use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::{Semaphore, SemaphorePermit};
use vaultrs::api::sys::requests::ReadHealthRequest;

use super::answer::Answer;
use super::body::{Parts, read_body};
use super::call::{Call, Credentials, RECORD_LIMIT, Share};
use super::health::Health;
use super::tls;
use crate::config::{VaultConfig, invalid};
use crate::error::Failure;

/// The largest number of requests at once. Each has a connection of its own.
///
/// A key ring makes up to 64 reads and 32 writes at once.
const REQUESTS: usize = 128;

/// The largest number of listings at once. Their answers are large.
const LISTINGS: usize = 4;

/// The largest number of requests about our token at once, beside all others.
const ABOUT_TOKEN: usize = 4;

/// The largest number of idle connections that are kept.
const IDLE: usize = 32;

/// The connections to one Vault.
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    timeout: Duration,
    requests: Semaphore,
    listings: Semaphore,
    about_token: Semaphore,
}

impl Client {
    /// Creates the client. It connects to nothing yet.
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
            // Without compression the bytes that are read are the bytes that were sent: a few cannot become
            // many.
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

    /// Sends a request once.
    ///
    /// A [`Failure`] is an answer that means failure for every operation. See [`Answer`] for the others.
    pub async fn send(&self, call: &Call, credentials: Option<&Credentials<'_>>) -> Result<Answer, Failure> {
        let answer = self.exchange(call, credentials).await?;
        match answer.code {
            200..300 => Ok(answer),
            400 | 403 | 404 | 405 if answer.is_vaults() => Ok(answer),
            _ => Err(self.explain(answer.failure()).await),
        }
    }

    /// Finds out what a 503 means: a seal, or a proxy's own answer.
    pub async fn explain(&self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::Status { code: 503, .. }) {
            return failure;
        }
        match self.health().await {
            Ok(health) => health.as_failure().unwrap_or(failure),
            Err(_) => failure,
        }
    }

    /// Asks Vault for its state.
    ///
    /// The request has no token, and no namespace, since the route does not exist in one.
    pub async fn health(&self) -> Result<Health, Failure> {
        Health::of(&self.exchange(&Call::to(&ReadHealthRequest::default()), None).await?)
    }

    /// Sends a request once. Returns the answer whatever its status is.
    pub async fn exchange(
        &self,
        call: &Call,
        credentials: Option<&Credentials<'_>>,
    ) -> Result<Answer, Failure> {
        // The time includes the wait for a place: a late write on K/V version 1 would not be safe.
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
        // An error is short, whatever the request was.
        let limit = if response.status().is_success() { call.limit } else { call.limit.min(RECORD_LIMIT) };
        let mut parts = Parts::default();
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

    /// Returns the address of Vault.
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

/// Returns whether the endpoint is this machine. The environment's proxy is not for it.
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
    use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};

    use super::*;
    use kms_core::primitives::Secret;

    use crate::config::{AppRole, Login};

    /// A release of vaultrs must not move a route, and the tab in one of its paths must not be sent.
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
}
