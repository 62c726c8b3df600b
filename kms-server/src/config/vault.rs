//! The section `keystore.vault`.

use std::path::PathBuf;

use kms_vault::{
    AppRole, Kubernetes, KvVersion, Login, Secret, SecretSource, TlsConfig, TransitConfig, VaultConfig,
};

use super::places::{Places, path};
use super::problem::Problem;
use super::sections::{RawAppRole, RawKubernetes, RawTransit, RawVault, RawVaultTls};

/// Reads the section; what is not told is as with KES.
pub fn vault(raw: RawVault, places: &Places) -> Result<VaultConfig, Problem> {
    let problem = |key: &str, message: &str| places.problem(&path(&format!("keystore.vault{key}")), message);
    let endpoint = raw.endpoint.filter(|text| !text.is_empty());
    let endpoint = endpoint.ok_or_else(|| {
        problem(".endpoint", "missing, expected the address of Vault, such as 'https://vault:8200'")
    })?;
    let login = match (raw.approle, raw.kubernetes) {
        (Some(_), Some(_)) => {
            return Err(problem(".kubernetes", "two ways to log in, expected either approle or kubernetes"));
        }
        (Some(raw), None) => app_role(raw),
        (None, Some(raw)) => kubernetes(raw),
        (None, None) => return Err(problem("", "no way to log in, expected approle or kubernetes")),
    };
    let default = VaultConfig::new(endpoint, login);
    let config = VaultConfig {
        engine: raw.engine.unwrap_or(default.engine),
        version: match raw.version.as_deref() {
            None | Some("" | "v1") => KvVersion::V1,
            Some("v2") => KvVersion::V2,
            Some(_) => {
                return Err(problem(".version", "unknown version of the engine, expected 'v1' or 'v2'"));
            }
        },
        namespace: raw.namespace.filter(|text| !text.is_empty()),
        prefix: raw.prefix.unwrap_or_default(),
        transit: raw.transit.map(transit),
        tls: tls(raw.tls),
        ping: raw.status.ping.map_or(default.ping, |ping| ping.0),
        ..default
    };
    config.validate().map_err(|error| problem("", &error.chain().to_string()))?;
    Ok(config)
}

fn app_role(raw: RawAppRole) -> Login {
    let default = AppRole::new(raw.id.unwrap_or_default(), Secret::from(raw.secret.unwrap_or_default()));
    Login::AppRole(AppRole {
        engine: raw.engine.unwrap_or(default.engine),
        namespace: raw.namespace.filter(|text| !text.is_empty()),
        retry: raw.retry.map(|retry| retry.0),
        ..default
    })
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
        engine: raw.engine.unwrap_or(default.engine),
        namespace: raw.namespace.filter(|text| !text.is_empty()),
        ..default
    })
}

fn transit(raw: RawTransit) -> TransitConfig {
    let default = TransitConfig::new(raw.key.unwrap_or_default());
    TransitConfig { engine: raw.engine.unwrap_or(default.engine), ..default }
}

fn tls(raw: RawVaultTls) -> TlsConfig {
    let file = |text: Option<String>| text.filter(|text| !text.is_empty()).map(PathBuf::from);
    TlsConfig { ca: file(raw.ca), cert: file(raw.cert), key: file(raw.key) }
}
