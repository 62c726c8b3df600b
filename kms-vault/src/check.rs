//! A check of everything between us and a Vault, step by step.

use std::collections::HashMap;
use std::time::Duration;

use kms_core::primitives::SecretBytes;
use kms_core::store::{At as _, EntryName, FailedStep, Finding, Findings, KeyStore, Wrapper};
use kms_core::{Error, ErrorKind, ListQuery, Result};
use serde::Deserialize;
use serde_json::json;

use crate::auth::Lease;
use crate::config::{KvVersion, Login, VaultConfig};
use crate::http::{Call, json_body};
use crate::store::VaultStore;

/// Checks everything between us and the Vault that `config` names, in the order in which things fail.
///
/// The check writes, reads and deletes one probe entry that no listing shows. It ends at the first problem,
/// since the further steps depend on it. So only the last finding may be a problem.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
pub async fn check(config: VaultConfig) -> Vec<Finding> {
    let mut findings = Findings::default();
    let outcome = look(&config, &mut findings).await;
    findings.end(outcome)
}

async fn look(config: &VaultConfig, findings: &mut Findings) -> std::result::Result<(), FailedStep> {
    config.validate().at("configuration")?;
    config.tls.check().at("tls files")?;
    address(config, findings).await.at("address")?;
    let store = VaultStore::connect(config.clone()).at("configuration")?;
    connection(config, &store, findings).await.at("connection")?;
    let token = store.engine().session().token().await.at("login")?;
    findings.good("login", format!("logged in {}", store.engine().session().auth().method()));
    lease(&config.login, token.lease(), findings);
    store.engine().check().await.at("engine")?;
    engine(config, findings);
    capabilities(&store, findings).await.at("capabilities")?;
    probe(&store).await.at("probe entry")?;
    findings.good("probe entry", "written, read back and deleted");
    keys(&store, findings).await.at("keys")?;
    transit(config, &store, findings).await.at("transit")
}

async fn address(config: &VaultConfig, findings: &mut Findings) -> Result<()> {
    let url = config.url()?;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let operation = || format!("look up '{host}'");
    let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|error| Error::with_source(ErrorKind::Unreachable, operation(), error))?;
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(Error::with_source(ErrorKind::Unreachable, operation(), "it has no address"));
    }
    findings.good("address", format!("'{host}' is {}", addresses.join(", ")));
    Ok(())
}

async fn connection(config: &VaultConfig, store: &VaultStore, findings: &mut Findings) -> Result<()> {
    const OPERATION: &str = "ask Vault how it is";
    let client = store.engine().session().client();
    let health = client.health().await.map_err(|failure| failure.into_error(OPERATION))?;
    if let Some(failure) = health.as_failure() {
        return Err(failure.into_error(OPERATION));
    }
    match (client.endpoint().scheme(), &config.tls.ca) {
        ("https", Some(ca)) => {
            findings.good("tls", format!("the certificate is accepted by '{}'", ca.display()));
        }
        ("https", None) => findings.good("tls", "the certificate is accepted by the system's CAs"),
        _ => findings.warn("tls", "there is none: keys and the token travel in the clear"),
    }
    match health.remark() {
        Some(remark) => findings.warn("health", remark),
        None => findings.good("health", "unsealed and active"),
    }
    Ok(())
}

fn lease(login: &Login, lease: Lease, findings: &mut Findings) {
    match (lease.length, login) {
        (None, _) => findings.warn("lease", "the token has no end: one that leaks is good for ever"),
        (Some(length), Login::Token(_)) if !lease.renewable => {
            findings.warn("lease", format!("the token ends in {} and cannot be renewed", seconds(length)));
        }
        (Some(length), _) if lease.renewable => {
            findings.good("lease", format!("{}, renewed in time", seconds(length)));
        }
        (Some(length), _) => findings.good("lease", format!("{}, then a new login", seconds(length))),
    }
}

fn engine(config: &VaultConfig, findings: &mut Findings) {
    match config.version {
        KvVersion::V2 => findings.good("engine", format!("'{}' is K/V version 2", config.engine)),
        KvVersion::V1 => findings.warn(
            "engine",
            format!(
                "'{}' is K/V version 1, which has no atomic create: every create waits {:?} and is read back; \
                 version 2 is better",
                config.engine, config.settle
            ),
        ),
    }
}

/// Compares the capabilities that the policy grants with those that are needed.
async fn capabilities(store: &VaultStore, findings: &mut Findings) -> Result<()> {
    let operation = "ask Vault for our capabilities";
    let name = EntryName::probe()?;
    let (record, removal, listing) =
        (store.engine().path(&name), store.engine().path_to_delete(&name), store.engine().path_to_list());
    let body = json_body(operation, &json!({"paths": [record, removal, listing]}))?;
    // This is a write in HTTP terms, but it changes nothing and may be repeated.
    let answer = store.engine().session().ask(operation, &Call::put("sys/capabilities-self", body)).await?;
    if !answer.is_success() {
        findings.warn(
            "capabilities",
            format!(
                "unknown: {}",
                answer.failure().into_denied(operation, "update", "sys/capabilities-self").chain()
            ),
        );
        return Ok(());
    }
    let data = answer.json::<Capabilities>().map_err(|failure| failure.into_error(operation))?.data;
    let has = |path: &str, capability: &str| {
        data.get(path).is_some_and(|list| list.iter().any(|have| have == capability || have == "root"))
    };
    let mut missing = Vec::new();
    for (path, capability) in [(&record, "create"), (&record, "read"), (&removal, "delete")] {
        if !has(path, capability) {
            missing.push(format!("'{capability}' on '{path}'"));
        }
    }
    if !missing.is_empty() {
        let why = format!("the policy lacks {}", missing.join(", "));
        return Err(Error::with_source(ErrorKind::Denied, operation, why));
    }
    if data.get(&record).is_some_and(|list| list.iter().any(|have| have == "root")) {
        findings.warn("capabilities", "the token is a root token; a policy of its own is safer");
        return Ok(());
    }
    if has(&record, "update") {
        findings.warn(
            "capabilities",
            format!("the token may 'update' on '{record}': whoever has it can replace keys"),
        );
    }
    if has(&listing, "list") {
        findings.good("capabilities", "create, read, delete, list");
    } else {
        findings
            .warn("capabilities", format!("the policy lacks 'list' on '{listing}': keys cannot be listed"));
    }
    Ok(())
}

async fn probe(store: &VaultStore) -> Result<()> {
    let (name, record) = (EntryName::probe()?, SecretBytes::from(b"probe of kms check".as_slice()));
    store.create(&name, &record).await?;
    let read = store.get(&name).await;
    store.delete(&name).await?;
    if read? == record {
        return Ok(());
    }
    let operation = format!("read '{}' from Vault", store.engine().path(&name));
    Err(Error::with_source(ErrorKind::Corrupt, operation, "it is not what was written"))
}

async fn keys(store: &VaultStore, findings: &mut Findings) -> Result<()> {
    match store.list(&ListQuery { limit: usize::MAX, ..ListQuery::prefix("") }).await {
        Ok(page) => {
            findings.good("keys", format!("{} at '{}'", page.names.len(), store.engine().path_to_list()));
        }
        Err(error) if error.kind() == ErrorKind::Denied => {
            findings.warn("keys", format!("their number is not known: {}", error.chain()));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn transit(config: &VaultConfig, store: &VaultStore, findings: &mut Findings) -> Result<()> {
    let (Some(settings), Some(transit)) = (&config.transit, store.transit()) else { return Ok(()) };
    let (name, record) = (EntryName::probe()?, SecretBytes::from(b"probe of kms check".as_slice()));
    let sealed = transit.wrap(&name, &record).await?;
    if transit.unwrap(&name, &sealed).await? != record {
        let operation = format!("use transit key '{}'", settings.key);
        return Err(Error::with_source(
            ErrorKind::Corrupt,
            operation,
            "it opens to another text than was sealed",
        ));
    }
    findings.good("transit", format!("key '{}' seals and opens", settings.key));
    findings.warn(
        "transit",
        "KES's form does not bind a record to its name: whoever may write to the K/V engine can swap keys",
    );
    if !settings.require {
        findings.warn("transit", "records that are not sealed are read too, unless 'require' is set");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Capabilities {
    data: HashMap<String, Vec<String>>,
}

fn seconds(length: Duration) -> String {
    format!("{} s", length.as_secs())
}
