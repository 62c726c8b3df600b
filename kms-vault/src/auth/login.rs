//! One login, and the other requests about a token.

use std::result::Result as StdResult;
use std::sync::Arc;

use kms_core::primitives::Secret;
use kms_core::{Error, ErrorKind, Result};
use reqwest::header::HeaderValue;
use serde::Serialize;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};
use zeroize::Zeroizing;

use super::grant::{Grant, Terms};
use super::token::{Token, header};
use crate::config::{Login, VaultConfig};
use crate::error::Failure;
use crate::http::{Answer, Call, Client, Credentials, json_body};

/// How to log in, over which connections, and in which namespace.
pub struct Authenticator {
    client: Arc<Client>,
    login: Login,
    /// The namespace of the login, which may be another one than that of the engines.
    namespace: Option<String>,
}

/// A login that failed.
pub struct Refused {
    /// The reason.
    pub error: Error,
    /// Whether Vault counts the login as an attempt to guess the secret.
    pub counts: bool,
}

impl Refused {
    fn uncounted(error: Error) -> Self {
        Self { error, counts: false }
    }
}

/// The body of a login. vaultrs defines only the route, since nobody wipes the secret in its bodies.
#[derive(Serialize)]
#[serde(untagged)]
enum Proof<'a> {
    AppRole { role_id: &'a str, secret_id: &'a str },
    Kubernetes { role: &'a str, jwt: &'a str },
}

impl Authenticator {
    /// Describes the login that `config` configures.
    pub fn new(client: Arc<Client>, config: &VaultConfig) -> Self {
        let own = match &config.login {
            Login::AppRole(login) => login.namespace.as_deref(),
            Login::Kubernetes(login) => login.namespace.as_deref(),
            Login::Token(_) => None,
        };
        let namespace = own.or(config.namespace.as_deref()).map(|text| text.trim_matches('/'));
        let namespace = namespace.filter(|text| !text.is_empty()).map(str::to_owned);
        Self { client, login: config.login.clone(), namespace }
    }

    /// Returns how to log in.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Describes the login for messages.
    pub fn method(&self) -> String {
        match &self.login {
            Login::AppRole(login) => format!("by AppRole at 'auth/{}'", login.engine.trim_matches('/')),
            Login::Kubernetes(login) => format!("as Kubernetes role '{}'", login.role),
            Login::Token(_) => "with a token".to_owned(),
        }
    }

    /// Reads the secret that proves who we are.
    pub fn read_secret(&self) -> Result<Secret> {
        self.login.secret().read().map_err(|error| self.failed(ErrorKind::LoginRefused, error))
    }

    /// Logs in: exchanges the secret for a token.
    pub async fn log_in(&self, secret: &Secret) -> StdResult<Grant, Refused> {
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
            Login::Token(_) => return self.adopt(secret).await.map_err(Refused::uncounted),
        };
        let body = json_body("write a login as JSON", &proof).map_err(Refused::uncounted)?;
        let granted = match self.send(Call { body: Some(body), ..route }, None).await {
            Ok(answer) => Grant::of(&answer),
            Err(failure) => Err(failure),
        };
        match granted {
            Ok(granted) => Ok(granted),
            Err(failure) => {
                let counts = matches!(&self.login, Login::AppRole(_)) && failure.is_refused_secret();
                Err(Refused { error: self.refused(failure).await, counts })
            }
        }
    }

    /// Takes over a token that somebody gave us.
    async fn adopt(&self, secret: &Secret) -> Result<Grant> {
        let token = Zeroizing::new(secret.expose().to_owned());
        let Some(header) = header(&token) else {
            return Err(
                self.failed(ErrorKind::LoginRefused, "it has characters that no HTTP header can hold")
            );
        };
        match self.look_up(&header).await {
            Ok(terms) => Ok(Grant { token, terms }),
            Err(failure) => Err(self.refused(failure).await),
        }
    }

    /// Makes the lease of a token longer, and returns the new terms.
    ///
    /// The outer error says that there is no request to send. The inner result is the outcome of the request.
    pub async fn renew(&self, token: &Token) -> Result<StdResult<Terms, Failure>> {
        let call = Call::with_body_of(&RenewTokenSelfRequest::default())?;
        Ok(match self.send(call, Some(token.header())).await {
            Ok(answer) => Grant::of(&answer).map(|granted| granted.terms),
            Err(failure) => Err(failure),
        })
    }

    /// Asks Vault whether it knows the token.
    pub async fn is_known(&self, token: &Token) -> Result<bool> {
        match self.look_up(token.header()).await {
            Ok(_) => Ok(true),
            Err(Failure::Status { code: 401 | 403 | 404, .. }) => Ok(false),
            Err(failure) => Err(self.client.explain(failure).await.into_error("look up our token in Vault")),
        }
    }

    async fn look_up(&self, token: &HeaderValue) -> StdResult<Terms, Failure> {
        Terms::of_known_token(&self.send(Call::to(&LookupTokenSelfRequest {}), Some(token)).await?)
    }

    /// Sends a request about a token once. Every answer without success is a failure.
    async fn send(&self, call: Call, token: Option<&HeaderValue>) -> StdResult<Answer, Failure> {
        let credentials = Credentials { token, namespace: self.namespace.as_deref() };
        let answer = self.client.exchange(&call.about_token(), Some(&credentials)).await?;
        if answer.is_success() { Ok(answer) } else { Err(answer.failure()) }
    }

    async fn refused(&self, failure: Failure) -> Error {
        let failure = self.client.explain(failure).await;
        self.failed(failure.kind_of_login(), failure)
    }

    /// Creates the error of a login that failed.
    pub fn failed(&self, kind: ErrorKind, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::with_source(kind, format!("log in to vault {}", self.method()), why)
    }
}
