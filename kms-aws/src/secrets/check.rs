//! The check of AWS Secrets Manager: step by step, from the settings to the keys.

use std::time::{Duration, Instant};

use kms_core::store::{EntryName, Finding, Findings, KeyRecord, KeyStore};
use kms_core::{Error, ErrorKind, KeyName, Result};

use super::config::SecretsConfig;
use super::presence::Presence;
use super::refusals::{Right, refused};
use super::store::SecretsManager;
use crate::client::load;
use crate::identity::{self, Look};

/// The longest time of a look for one secret.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most secrets that are read.
const MOST_READ: usize = 500;
/// The most names in one finding.
const MOST_TOLD: usize = 5;
/// A name that hardly any key has.
const NOBODY: &str = "kms-check-probe";

/// Checks all that lies between this process and the Secrets Manager that `config` names, in the order in which things
/// fail.
///
/// Nothing is written, because a deleted secret stays for days. The check ends at a problem on which the further steps
/// depend.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
pub async fn check_secrets(config: SecretsConfig) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Err((what, error)) = look(config, &mut findings).await {
        findings.problem(what, error.chain().to_string());
    }
    findings.into_vec()
}

async fn look(config: SecretsConfig, findings: &mut Findings) -> Look<()> {
    let settings = |error| ("settings", error);
    config.validate().map_err(settings)?;
    let sdk = load(&config.connection).await.map_err(settings)?;
    identity::look(&sdk, findings).await?;

    let window = config.recovery_window;
    let store = SecretsManager::open(config).await.map_err(settings)?;
    let listed = names(&store, false).await.map_err(|error| ("list", error))?;
    let names: Vec<_> = listed.into_iter().map(|(name, _)| name).collect();
    findings.good("list", format!("{} secrets whose names are those of keys", names.len()));
    read(&store, &names, findings).await.map_err(|error| ("read", error))?;
    describe(&store, findings).await;
    deleted(&store, findings).await;
    if window == 0 {
        findings.warn("recovery window", "0: a key that is deleted is erased at once");
    }
    Ok(())
}

/// Lists the secrets whose names keys can have, with the time of their deletion.
async fn names(store: &SecretsManager, deleted: bool) -> Result<Vec<(KeyName, Option<String>)>> {
    let secrets = store.secrets("", deleted).await?.into_iter();
    let named = secrets.filter_map(|secret| {
        let when = SecretsManager::deletion_of(&secret);
        Some((KeyName::new(secret.name?).ok()?, when))
    });
    let mut named: Vec<_> = named.filter(|(_, when)| when.is_some() == deleted).collect();
    named.sort_unstable();
    Ok(named)
}

/// Reads each record, as serving does.
///
/// Fails when AWS does not answer.
async fn read(store: &SecretsManager, names: &[KeyName], findings: &mut Findings) -> Result<()> {
    let (mut strangers, mut unreadable) = (Vec::new(), Vec::new());
    let some = &names[..names.len().min(MOST_READ)];
    for name in some {
        let record = match store.get(&EntryName::from(name)).await {
            Ok(record) => record,
            // It was deleted since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::LoginRefused => {
                return Err(error);
            }
            Err(error) => {
                unreadable.push(error.chain().to_string());
                continue;
            }
        };
        if KeyRecord::decode(record.expose()).is_err() {
            strangers.push(name.as_str());
        }
    }
    let of = if some.len() < names.len() { format!(" (the first {MOST_READ})") } else { String::new() };
    for why in unreadable.iter().take(MOST_TOLD) {
        findings.problem("read", why);
    }
    if unreadable.len() > MOST_TOLD {
        let detail = format!("{} more cannot be read{of}", unreadable.len() - MOST_TOLD);
        findings.problem("read", detail);
    }
    if strangers.is_empty() {
        let read = some.len() - unreadable.len();
        findings.good("read", format!("{read} can be read and hold keys{of}"));
    } else {
        let detail = format!(
            "{} of {} hold no key of ours, or a damaged one{of}: {}",
            strangers.len(),
            some.len(),
            list(&strangers)
        );
        findings.warn("read", detail);
    }
    Ok(())
}

/// Uses the one right that KES does not need.
async fn describe(store: &SecretsManager, findings: &mut Findings) {
    match store.look(Instant::now() + PATIENCE, NOBODY).await {
        Ok(Presence::Absent | Presence::There(_) | Presence::Deleted(_)) => {}
        Err(failure) => {
            let error: Error = refused(failure, "look for a secret", Right::Describe);
            let detail =
                format!("deletes read the key first, and the end of a window is not told: {}", error.chain());
            findings.warn("describe", detail);
        }
    }
}

/// Looks for keys that were deleted and can be restored.
async fn deleted(store: &SecretsManager, findings: &mut Findings) {
    let deleted = match names(store, true).await {
        Ok(deleted) => deleted,
        Err(error) => {
            findings.warn("deleted", error.chain().to_string());
            return;
        }
    };
    for (name, when) in deleted.iter().take(MOST_TOLD) {
        let detail = format!(
            "'{name}' was deleted{}; no key of that name can be made until AWS erases it; what restores it is '{}'",
            when.as_deref().unwrap_or_default(),
            store.restore_command(name.as_str())
        );
        findings.warn("deleted", detail);
    }
    if deleted.len() > MOST_TOLD {
        let more: Vec<_> = deleted[MOST_TOLD..].iter().map(|(name, _)| name.as_str()).collect();
        findings.warn("deleted", format!("{} more: {}", more.len(), list(&more)));
    }
}

fn list(names: &[&str]) -> String {
    let told = names[..names.len().min(MOST_TOLD)].join(", ");
    if names.len() > MOST_TOLD { format!("{told}, …") } else { told }
}
