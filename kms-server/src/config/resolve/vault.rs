//! The section `keystore.vault`, and what `kms.vault` has in common with it.

use std::path::PathBuf;

use kms_vault::{
    AppRole, Kubernetes, KvVersion, Login, Secret, SecretSource, TlsConfig, TransitConfig, VaultConfig,
};

use super::super::problem::Problem;
use super::super::schema::{RawAppRole, RawKubernetes, RawToken, RawTransit, RawVault, RawVaultTls};
use super::aws::refused;
use super::context::{Context, given};

const ONE_LOGIN: &str = "more than one way to log in, expected approle, kubernetes or token";

/// Checks the section called `section`. The defaults are those of KES.
pub fn vault(raw: RawVault, section: &str, context: &Context<'_>) -> Result<VaultConfig, Problem> {
    let problem = |key: &str, message: &str| context.problem(&format!("{section}{key}"), message);
    let endpoint = given(raw.endpoint);
    let endpoint = endpoint.ok_or_else(|| {
        problem(".endpoint", "missing, expected the address of Vault, such as 'https://vault:8200'")
    })?;
    let login = match (raw.approle, raw.kubernetes, raw.token) {
        (Some(raw), None, None) => app_role(raw, &problem)?,
        (None, Some(raw), None) => kubernetes(raw),
        (None, None, Some(raw)) => token(raw, &problem)?,
        (None, None, None) => {
            return Err(problem("", "no way to log in, expected approle, kubernetes or token"));
        }
        (Some(_), Some(_), _) => return Err(problem(".kubernetes", ONE_LOGIN)),
        _ => return Err(problem(".token", ONE_LOGIN)),
    };
    let default = VaultConfig::new(endpoint, login);
    let config = VaultConfig {
        engine: given(raw.engine).unwrap_or(default.engine),
        version: match raw.version.as_deref() {
            None | Some("" | "v1") => KvVersion::V1,
            Some("v2") => KvVersion::V2,
            Some(_) => {
                return Err(problem(".version", "unknown version of the engine, expected 'v1' or 'v2'"));
            }
        },
        namespace: given(raw.namespace),
        prefix: raw.prefix.unwrap_or_default(),
        transit: raw.transit.map(transit),
        tls: tls(raw.tls),
        // As in KES, zero means the default.
        ping: raw.status.ping.map(|ping| ping.0).filter(|ping| !ping.is_zero()).unwrap_or(default.ping),
        ..default
    };
    config.validate().map_err(|error| refused(&error, section, context))?;
    Ok(config)
}

fn app_role(raw: RawAppRole, problem: &impl Fn(&str, &str) -> Problem) -> Result<Login, Problem> {
    let default = AppRole::new(raw.id.unwrap_or_default(), Secret::from(String::new()));
    let both = || problem(".approle.secret_file", "two secrets, expected secret or secret_file");
    let secret = secret_source(raw.secret, raw.secret_file, both)?;
    Ok(Login::AppRole(AppRole {
        engine: given(raw.engine).unwrap_or(default.engine),
        namespace: given(raw.namespace),
        secret: secret.unwrap_or(default.secret),
        retry: raw.retry.map(|retry| retry.0),
        ..default
    }))
}

fn token(raw: RawToken, problem: &impl Fn(&str, &str) -> Problem) -> Result<Login, Problem> {
    let both = || problem(".token.file", "two tokens, expected value or file");
    let token = secret_source(raw.value, raw.file, both)?;
    token.map(Login::Token).ok_or_else(|| problem(".token", "no token, expected value or file"))
}

fn secret_source(
    value: Option<String>,
    file: Option<String>,
    both: impl FnOnce() -> Problem,
) -> Result<Option<SecretSource>, Problem> {
    match (given(value), given(file)) {
        (Some(_), Some(_)) => Err(both()),
        (Some(value), None) => Ok(Some(SecretSource::Value(Secret::from(value)))),
        (None, Some(file)) => Ok(Some(SecretSource::File(PathBuf::from(file)))),
        (None, None) => Ok(None),
    }
}

fn kubernetes(raw: RawKubernetes) -> Login {
    let jwt = raw.jwt.unwrap_or_default();
    let jwt = if jwt.contains('/') {
        SecretSource::File(PathBuf::from(jwt))
    } else {
        SecretSource::Value(Secret::from(jwt))
    };
    let default = Kubernetes::new(raw.role.unwrap_or_default(), jwt);
    Login::Kubernetes(Kubernetes {
        engine: given(raw.engine).unwrap_or(default.engine),
        namespace: given(raw.namespace),
        ..default
    })
}

fn transit(raw: RawTransit) -> TransitConfig {
    let default = TransitConfig::new(raw.key.unwrap_or_default());
    TransitConfig {
        engine: given(raw.engine).unwrap_or(default.engine),
        require: raw.require.is_some_and(|require| require.0),
        ..default
    }
}

fn tls(raw: RawVaultTls) -> TlsConfig {
    let file = |text: Option<String>| given(text).map(PathBuf::from);
    TlsConfig { ca: file(raw.ca), cert: file(raw.cert), key: file(raw.key) }
}
