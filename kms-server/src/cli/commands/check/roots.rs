//! Checks the roots of a key store, and then the records under them.

use kms_core::roots::{RootState, RootsStatus};
use kms_core::store::{Finding, KeyStore, Level, Wrapped, survey};
use kms_fs::{OpenError, OpenMode};

use super::local_store::not_opened;
use super::probe::{SUBJECT, exercised, surveyed, wraps};
use crate::error::StartError;
use crate::settings::{BareStore, KeyStoreSettings, OuterKms, RootSettings};
use crate::store::roots::{HeaderKey, Local, Prepared, open_outer, prepare};

/// The subject of findings about roots.
const ROOT: &str = "root";

/// The first release that knows roots.
const FIRST_WITH_ROOTS: &str = "0.1.0";

/// Checks each root, and then the store under them.
pub async fn check_roots(key_store: &KeyStoreSettings) -> Vec<Finding> {
    let mut findings = match key_store {
        KeyStoreSettings::Wrapped { kms, .. } => check_holders(kms, false).await,
        KeyStoreSettings::FsWithRoots { kms, .. } => check_holders(kms, true).await,
        _ => return Vec::new(),
    };
    if findings.iter().any(|finding| finding.level == Level::Problem) {
        return findings;
    }
    if let KeyStoreSettings::Wrapped { store, .. } = key_store {
        let (name, of_store) = match store {
            BareStore::Vault(config) => ("vault", kms_vault::check((**config).clone()).await),
            BareStore::Postgres(config) => ("postgres", kms_postgres::check((**config).clone()).await),
            BareStore::Fs(_) => ("sled", Vec::new()),
        };
        findings.extend(
            of_store.iter().map(|finding| Finding::new(finding.level, SUBJECT, format!("{name}: {finding}"))),
        );
        if findings.iter().any(|finding| finding.level == Level::Problem) {
            return findings;
        }
    }
    match prepare(key_store, OpenMode::Existing).await {
        Ok(Some(prepared)) => findings.extend(check_prepared(&prepared).await),
        Ok(None) => {}
        Err(error) => findings.push(not_prepared(key_store, &error)),
    }
    findings
}

/// Has each root wrap and unwrap an entry. One that does not is a problem only if no other does.
async fn check_holders(kms: &[RootSettings], has_another: bool) -> Vec<Finding> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for RootSettings { section, kms, .. } in kms {
        let holder = match kms {
            OuterKms::Aws(config) => format!("root key '{}' in AWS KMS", config.key),
            OuterKms::Vault(config) => format!("root key in the transit engine of {}", config.endpoint),
            OuterKms::Local(_) => format!("local root key of {section}"),
        };
        let outcome = match open_outer(kms).await {
            Ok(wrapper) => wraps(wrapper.as_ref()).await,
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(()) => good.push(Finding::good(SUBJECT, format!("{holder}: wraps and unwraps"))),
            Err(why) => bad.push(format!("{holder}: {why}")),
        }
    }
    let level = if good.is_empty() && !has_another { Level::Problem } else { Level::Warning };
    good.extend(bad.into_iter().map(|why| Finding::new(level, SUBJECT, why)));
    good
}

async fn check_prepared(prepared: &Prepared) -> Vec<Finding> {
    let mut findings: Vec<_> =
        prepared.warnings.iter().map(|warning| Finding::warning(SUBJECT, warning)).collect();
    let peeked = prepared.roots.peek().await;
    if peeked.is_err() && matches!(prepared.is_to_be_made().await, Ok(true)) {
        let detail =
            "the store is empty: the first start of a server gives it a store key, which each root opens";
        findings.push(Finding::good(ROOT, detail));
        return findings;
    }
    match prepared.roots.status().await {
        Ok(status) => findings.extend(told(&status, prepared)),
        Err(error) => {
            findings.push(Finding::problem(ROOT, error.chain().to_string()));
            return findings;
        }
    }
    let wrapper = match peeked {
        Ok(wrapper) => wrapper,
        Err(error) => {
            findings.push(Finding::problem(ROOT, error.chain().to_string()));
            return findings;
        }
    };
    let store = Wrapped::new(prepared.roots.store(), wrapper);
    match &prepared.local {
        Some(local) => findings.extend(exercised(&local.path, &store).await),
        None => match survey(&store).await {
            Ok(survey) => findings.extend(surveyed(store.capabilities().name, &survey)),
            Err(error) => {
                let name = store.capabilities().name;
                findings.push(Finding::problem(SUBJECT, format!("{name}: {}", error.chain())));
            }
        },
    }
    findings
}

/// Says which roots open, which records need one root alone, and which releases read the store.
fn told(status: &RootsStatus, prepared: &Prepared) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.anchor.is_some() {
        for root in &status.roots {
            let level = match root.state {
                RootState::Opens => Level::Good,
                _ if status.open() > 0 => Level::Warning,
                _ => Level::Problem,
            };
            findings.push(Finding::new(level, ROOT, format!("'{}' {}", root.id, root.detail)));
        }
    } else if let Some(lost) = lost_anchor(status, prepared) {
        let level = if status.open() > 0 { Level::Warning } else { Level::Problem };
        findings.push(Finding::new(level, ROOT, lost));
    } else if prepared.roots.roots().len() > 1 {
        let detail =
            "the store has no store key under its roots: 'kms root adopt' has each of them protect it";
        findings.push(Finding::warning(ROOT, detail));
    }
    if let Some(under_way) = &status.under_way {
        findings.push(Finding::warning(ROOT, under_way.clone()));
    }
    if let Some(earlier) = earlier_records(status) {
        findings.push(Finding::warning(ROOT, earlier));
    }
    findings.push(Finding::good(ROOT, oldest_release(status, prepared)));
    findings
}

/// Says that the store had a store key and has no anchor any more: its records are sealed, and no header has the key.
pub fn lost_anchor(status: &RootsStatus, prepared: &Prepared) -> Option<String> {
    let sealed = status.records.as_ref().map_or(0, |records| records.sealed);
    if status.anchor.is_some() || sealed == 0 || header_of(prepared).is_some() {
        return None;
    }
    let what = if status.open() > 0 {
        "if the store key in the entry of a root opens one, the next start of a server or 'kms root init' makes the anchor again"
    } else {
        "no root here opens a store key: bring the entries back from a backup of the store, or the root that has one into the config"
    };
    Some(format!(
        "the anchor of the store is lost, and {sealed} records are sealed under a store key: {what}"
    ))
}

fn header_of(prepared: &Prepared) -> Option<&HeaderKey> {
    prepared.local.as_ref().and_then(|Local { header, .. }| header.as_ref())
}

/// Says how many records open with one root only.
pub fn earlier_records(status: &RootsStatus) -> Option<String> {
    match &status.records {
        Ok(records) if records.earlier > 0 && (status.anchor.is_some() || status.roots.len() > 1) => {
            Some(format!(
                "{} records were wrapped one by one and open with one root only: a second root does not protect them; \
                 'kms migrate' moves them to a store whose roots do",
                records.earlier
            ))
        }
        Ok(_) => None,
        Err(error) => {
            Some(format!("how many records open with one root only is not known: {}", error.chain()))
        }
    }
}

/// Names the oldest release that reads the store.
fn oldest_release(status: &RootsStatus, prepared: &Prepared) -> String {
    let needs_roots = match header_of(prepared) {
        Some(HeaderKey::Of(_) | HeaderKey::Closed) => false,
        Some(HeaderKey::Nothing) => true,
        None => status.anchor.is_some() || lost_anchor(status, prepared).is_some(),
    };
    if needs_roots {
        format!(
            "the oldest release that reads this store is {FIRST_WITH_ROOTS} with roots; builds before it refuse it, or \
             its records"
        )
    } else {
        "builds before roots read this store, too".to_owned()
    }
}

fn not_prepared(key_store: &KeyStoreSettings, error: &StartError) -> Finding {
    use std::error::Error as _;
    let path = match key_store {
        KeyStoreSettings::Wrapped { store: BareStore::Fs(path), .. }
        | KeyStoreSettings::FsWithRoots { path, .. } => Some(path),
        _ => None,
    };
    match (path, error.source().and_then(|source| source.downcast_ref::<OpenError>())) {
        (Some(path), Some(error)) => not_opened(path, error),
        _ => Finding::problem(SUBJECT, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kms_core::KeyName;
    use kms_core::primitives::SecretBytes;
    use kms_core::roots::{Anchor, Making, Roots, WrappedOneByOne};
    use kms_core::store::{EntryName, MemoryStore};
    use kms_fs::RootKey;

    use super::*;

    #[tokio::test]
    async fn a_store_whose_anchor_is_lost_is_told_as_that() {
        let store = Arc::new(MemoryStore::new());
        let root = RootKey::random().unwrap().to_root().unwrap();
        let entry = root.id().entry();
        let prepared = || {
            let all = vec![root.clone()];
            let form = Arc::new(WrappedOneByOne::new(&all));
            let roots = Roots::new(Arc::clone(&store) as Arc<dyn KeyStore>, all, form).unwrap();
            Prepared { roots, making: Making::OnEmpty, warnings: Vec::new(), local: None, hindrance: None }
        };
        let told = async || {
            let prepared = prepared();
            let status = prepared.roots.status().await.unwrap();
            (lost_anchor(&status, &prepared), told(&status, &prepared))
        };
        let has =
            |findings: &[Finding], what| findings.iter().any(|finding| finding.to_string().contains(what));
        assert!(has(&told().await.1, "builds before roots read this store, too"));
        let opened = prepared().roots.open(Making::OnEmpty).await.unwrap();
        let name = EntryName::from(&KeyName::new("my-key").unwrap());
        opened.store.create(&name, &SecretBytes::from(b"record".as_slice())).await.unwrap();
        assert_eq!(told().await.0, None);

        store.delete(&Anchor::entry()).await.unwrap();
        let (lost, findings) = told().await;
        assert!(lost.unwrap().contains("makes the anchor again"));
        assert!(has(&findings, "builds before it refuse it") && !has(&findings, "adopt"));
        store.delete(&entry).await.unwrap();
        let (lost, findings) = told().await;
        assert!(lost.unwrap().contains("no root here opens a store key"));
        assert!(findings.iter().any(|finding| finding.level == Level::Problem));
    }
}
