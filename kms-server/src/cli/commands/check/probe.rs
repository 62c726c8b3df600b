//! Tries an open key store, and a root key that lives elsewhere.

use std::path::Path;

use kms_core::KeyName;
use kms_core::primitives::{SecretBytes, SecretKey};
use kms_core::store::{EntryName, Finding, KeyStore, Survey, Wrapper, survey};

/// The subject of all findings about the key store.
pub const SUBJECT: &str = "key store";

/// The message of a store that passed.
const WELL: &str = "an entry can be written, read and deleted";

/// Returns the name of a local store in messages.
pub fn name_of(path: &Path) -> String {
    format!("sled in {}", path.display())
}

/// Reads all keys of a local store, and then writes, reads and deletes an entry.
pub async fn exercised(path: &Path, store: &impl KeyStore) -> Vec<Finding> {
    let name = name_of(path);
    let mut findings = match survey(store).await {
        Ok(survey) => surveyed(&name, &survey),
        Err(error) => vec![Finding::problem(SUBJECT, format!("{name}: {}", error.chain()))],
    };
    findings.push(match exercise(store).await {
        Ok(()) => Finding::good(SUBJECT, format!("{name}: {WELL}")),
        Err(message) => Finding::problem(SUBJECT, format!("{name}: {message}")),
    });
    findings
}

/// Returns a finding for each key that cannot be used, and one with the number of the others.
pub fn surveyed(store: &str, survey: &Survey) -> Vec<Finding> {
    let mut findings: Vec<_> = survey
        .unusable
        .iter()
        .map(|(name, error)| {
            Finding::problem(SUBJECT, format!("{store}: key '{name}' cannot be used: {}", error.chain()))
        })
        .collect();
    findings.extend(survey.deleted.iter().map(|name| {
        let detail =
            format!("{store}: key '{name}' is deleted and kept: 'kms key restore {name}' brings it back");
        Finding::warning(SUBJECT, detail)
    }));
    findings.extend(survey.cut_off.iter().map(|name| cut_off(store, name)));
    findings.extend(survey.remnants.iter().map(|(name, fingerprint)| {
        // A check writes its probes under this name.
        let or_of_check = if name.as_str() == "kms-check" { ", or of a check that was cut off" } else { "" };
        let detail = format!(
            "{store}: something is left of a key '{name}' that is gone{or_of_check}: 'kms key purge {name} --fingerprint \
             {fingerprint:?}' removes it, with --resume if a purge was cut off"
        );
        Finding::warning(SUBJECT, detail)
    }));
    let keys = if survey.good == 1 { "1 key".to_owned() } else { format!("{} keys", survey.good) };
    findings.push(Finding::good(SUBJECT, format!("{store}: {keys} read and decoded")));
    findings
}

/// Tells of a key whose replacement by another one was cut off.
pub fn cut_off(store: &str, name: &KeyName) -> Finding {
    let detail = format!(
        "{store}: the replacement of key '{name}' by another key was cut off: 'kms migrate --force', from where it came and to \
         this config, completes it; start no server before"
    );
    Finding::warning(SUBJECT, detail)
}

/// Wraps and unwraps an entry.
pub async fn wraps(root: &dyn Wrapper) -> Result<(), String> {
    let (name, probe) = probe().map_err(describe)?;
    let wrapped = root.wrap(&name, &probe).await.map_err(describe)?;
    if root.unwrap(&name, &wrapped).await.map_err(describe)? != probe {
        return Err("an entry was unwrapped that is not the one wrapped".to_owned());
    }
    Ok(())
}

/// Writes, reads and deletes an entry.
async fn exercise(store: &impl KeyStore) -> Result<(), String> {
    let (name, probe) = probe().map_err(describe)?;
    store.create(&name, &probe).await.map_err(describe)?;
    let read = store.get(&name).await.map_err(describe);
    store.delete(&name).await.map_err(describe)?;
    if read? == probe {
        return Ok(());
    }
    Err("an entry was read back that is not the one written".to_owned())
}

/// Creates a random entry, under a name that listings hide.
fn probe() -> kms_core::Result<(EntryName, SecretBytes)> {
    Ok((EntryName::probe()?, SecretBytes::from(SecretKey::random()?.expose().as_slice())))
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn describe(error: kms_core::Error) -> String {
    error.chain().to_string()
}

#[cfg(test)]
mod tests {
    use kms_core::store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_probe_that_a_check_left_is_told_as_that() {
        let store = MemoryStore::new();
        let (name, probe) = probe().unwrap();
        store.create(&name, &probe).await.unwrap();
        let findings = surveyed("here", &survey(&store).await.unwrap());
        let told = findings.first().unwrap();
        assert!(told.detail.contains("or of a check that was cut off"), "{told:?}");
        assert!(told.detail.contains("kms key purge kms-check --fingerprint"), "{told:?}");
    }
}
