//! Does the key store open, and does it keep what it is given?

use std::path::Path;

use kms_core::{
    EntryName, Fingerprint, KeyRecord, KeyStore, ListQuery, SecretBytes, SecretKey, Wrapped, Wrapper,
};
use kms_fs::{FsConfig, OpenError, OpenMode};

use super::Finding;
use crate::config::{BareStore, KeyStoreSettings, OuterKms, RootKeySource};
use crate::{backend, kes_directory};

const SUBJECT: &str = "key store";

/// Checks the chosen key store.
pub async fn check(settings: &KeyStoreSettings) -> Vec<Finding> {
    match settings {
        KeyStoreSettings::Memory => vec![Finding::ok(SUBJECT, "memory: nothing to check")],
        KeyStoreSettings::Fs { path, root_key } => check_fs(path, root_key).await,
        KeyStoreSettings::KesDirectory { path, root_key } => {
            check_kes_directory(path, root_key.as_ref()).await
        }
        KeyStoreSettings::Wrapped { store, kms } => check_wrapped(store, kms).await,
        KeyStoreSettings::AwsKms(config) => {
            kms_aws::check((**config).clone()).await.iter().map(of_aws).collect()
        }
        KeyStoreSettings::AwsSecrets(config) => {
            kms_aws::check_secrets((**config).clone()).await.iter().map(of_aws).collect()
        }
        KeyStoreSettings::Vault(config) => {
            kms_vault::check((**config).clone()).await.iter().map(of_vault).collect()
        }
    }
}

fn of_vault(finding: &kms_vault::Finding) -> Finding {
    let message = format!("vault: {finding}");
    match finding.level {
        kms_vault::Level::Good => Finding::ok(SUBJECT, message),
        kms_vault::Level::Warning => Finding::warning(SUBJECT, message),
        kms_vault::Level::Problem => Finding::error(SUBJECT, message),
    }
}

fn of_aws(finding: &kms_aws::Finding) -> Finding {
    let message = format!("aws: {finding}");
    match finding.level {
        kms_aws::Level::Good => Finding::ok(SUBJECT, message),
        kms_aws::Level::Warning => Finding::warning(SUBJECT, message),
        kms_aws::Level::Problem => Finding::error(SUBJECT, message),
    }
}

async fn check_kes_directory(path: &Path, root_key: Option<&RootKeySource>) -> Vec<Finding> {
    let files = match kes_directory::read_files(path) {
        Ok(files) => files,
        Err(error) => return vec![Finding::error(SUBJECT, error.to_string())],
    };
    let mut findings: Vec<_> =
        files.broken.iter().map(|broken| Finding::error(SUBJECT, format!("key file {broken}"))).collect();
    let message = format!("{}: {} key files in the clear", path.display(), files.len());
    findings.push(if files.len() == 0 {
        Finding::ok(SUBJECT, message)
    } else {
        Finding::warning(SUBJECT, message)
    });
    let store = kes_directory::store_path(path);
    if kes_directory::has_store(&store) {
        findings.extend(check_fs(&store, &kes_directory::root_key_source(path, root_key)).await);
    } else {
        let message = format!("{}: none yet, the server makes it at its first start", name_of(&store));
        findings.push(Finding::ok(SUBJECT, message));
    }
    findings
}

async fn check_fs(path: &Path, root_key: &RootKeySource) -> Vec<Finding> {
    let loaded = match root_key.load() {
        Ok(loaded) => loaded,
        Err(error) => return vec![Finding::error(SUBJECT, error.to_string())],
    };
    let mut findings: Vec<_> =
        loaded.warnings.into_iter().map(|warning| Finding::warning(SUBJECT, warning)).collect();
    findings.push(match kms_fs::open(&FsConfig::new(path), &loaded.key, OpenMode::Existing) {
        Ok(opened) => exercised(path, &opened.store).await,
        Err(error) => not_opened(path, &error),
    });
    findings
}

/// Checks a root key that lives elsewhere, and then the records under it.
async fn check_wrapped(store: &BareStore, kms: &OuterKms) -> Vec<Finding> {
    let holder = match kms {
        OuterKms::Aws(config) => format!("root key '{}' in AWS KMS", config.key),
        OuterKms::Vault(config) => format!("root key in the transit engine of {}", config.endpoint),
    };
    let wrapper = match backend::open_outer(kms).await {
        Ok(wrapper) => wrapper,
        Err(error) => return vec![Finding::error(SUBJECT, format!("{holder}: {}", error.chain()))],
    };
    if let Err(message) = wraps(wrapper.as_ref()).await {
        return vec![Finding::error(SUBJECT, format!("{holder}: {message}"))];
    }
    let mut findings = vec![Finding::ok(SUBJECT, format!("{holder}: wraps and unwraps"))];
    match store {
        BareStore::Fs(path) => {
            findings.push(match kms_fs::open_bare(&FsConfig::new(path), OpenMode::Existing) {
                Ok(opened) => exercised(path, &Wrapped::new(opened.store, wrapper)).await,
                Err(error) => not_opened(path, &error),
            });
        }
        BareStore::Vault(config) => {
            findings.extend(kms_vault::check((**config).clone()).await.iter().map(of_vault));
            if findings.iter().all(Finding::is_no_error) {
                let read = match kms_vault::open((**config).clone()) {
                    Ok(store) => read_all(&Wrapped::new(store, wrapper)).await,
                    Err(error) => Err(error.chain().to_string()),
                };
                findings.push(match read {
                    Ok(keys) => Finding::ok(SUBJECT, format!("vault: {keys} keys, all can be unwrapped")),
                    Err(message) => Finding::error(SUBJECT, format!("vault: {message}")),
                });
            }
        }
    }
    findings
}

async fn exercised(path: &Path, store: &impl KeyStore) -> Finding {
    match exercise(store).await {
        Ok(1) => Finding::ok(SUBJECT, format!("{}: 1 key, {WELL}", name_of(path))),
        Ok(keys) => Finding::ok(SUBJECT, format!("{}: {keys} keys, {WELL}", name_of(path))),
        Err(message) => Finding::error(SUBJECT, format!("{}: {message}", name_of(path))),
    }
}

fn not_opened(path: &Path, error: &OpenError) -> Finding {
    match error {
        OpenError::NoStore { .. } => no_store(path),
        OpenError::InUse { pid, .. } => {
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let message = format!("{}: in use by {holder}, a running server; not looked into", name_of(path));
            Finding::ok(SUBJECT, message)
        }
        error => Finding::error(SUBJECT, error.to_string()),
    }
}

/// What is told of a store that passed.
const WELL: &str = "all can be read, an entry can be written, read and deleted";

fn name_of(path: &Path) -> String {
    format!("sled in {}", path.display())
}

fn no_store(path: &Path) -> Finding {
    match something_in(path) {
        None => Finding::ok(
            SUBJECT,
            format!("{}: none yet, the server makes it at its first start", name_of(path)),
        ),
        Some(found) => Finding::error(
            SUBJECT,
            format!("{}: no store but '{found}', expected a directory of its own", path.display()),
        ),
    }
}

/// Names something that lies in a directory, other than what a start that failed leaves there.
fn something_in(directory: &Path) -> Option<String> {
    let names = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .find(|name| !["lock", "lost+found"].contains(&&**name))
}

/// Wraps and unwraps an entry of no meaning.
async fn wraps(root: &dyn Wrapper) -> Result<(), String> {
    let (name, probe) = probe().map_err(describe)?;
    let wrapped = root.wrap(&name, &probe).await.map_err(describe)?;
    if root.unwrap(&name, &wrapped).await.map_err(describe)? != probe {
        return Err("an entry was unwrapped that is not the one wrapped".to_owned());
    }
    Ok(())
}

/// Makes an entry of no meaning, under a name that listings hide.
fn probe() -> kms_core::Result<(EntryName, SecretBytes)> {
    let mut random = [0; 16];
    kms_core::fill_random(&mut random)?;
    let name = EntryName::slot(&Fingerprint::from_bytes(random), 2);
    Ok((name, SecretBytes::from(SecretKey::random()?.expose().as_slice())))
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn describe(error: kms_core::Error) -> String {
    error.chain().to_string()
}

/// Writes, reads and deletes an entry that listings hide, and reads all keys. Returns their number.
async fn exercise(store: &impl KeyStore) -> Result<usize, String> {
    let (name, probe) = probe().map_err(describe)?;
    store.create(&name, &probe).await.map_err(describe)?;
    let read = store.get(&name).await.map_err(describe);
    store.delete(&name).await.map_err(describe)?;
    if read? != probe {
        return Err("an entry was read back that is not the one written".to_owned());
    }
    read_all(store).await
}

async fn read_all(store: &impl KeyStore) -> Result<usize, String> {
    let (mut count, mut after) = (0, None::<String>);
    loop {
        let query = ListQuery { after: after.as_deref(), ..ListQuery::prefix("") };
        let page = store.list(&query).await.map_err(|error| error.chain().to_string())?;
        for name in &page.names {
            let record = store.get(&EntryName::from(name)).await;
            record
                .and_then(|record| KeyRecord::decode(record.expose()))
                .map_err(|error| format!("key '{name}' cannot be read: {}", error.chain()))?;
        }
        count += page.names.len();
        match page.names.last().filter(|_| page.more) {
            None => return Ok(count),
            Some(last) => after = Some(last.as_str().to_owned()),
        }
    }
}
