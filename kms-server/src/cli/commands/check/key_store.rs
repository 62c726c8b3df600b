//! Does the key store open, and does it keep what it is given?

use std::path::Path;
use std::time::Duration;

use kms_aws::{AwsKms, SecretsManager};
use kms_core::primitives::{Fingerprint, SecretBytes, SecretKey};
use kms_core::store::{EntryName, Finding, KeyStore, Level, Survey, Wrapped, Wrapper, survey, survey_kms};
use kms_fs::{FsConfig, OpenError, OpenMode};
use kms_vault::VaultConfig;

use crate::error::StartError;
use crate::settings::{BareStore, KeyStoreSettings, OuterKms, RootKeySource};
use crate::store::kes_directory::{self, Directory, Looked, OwnRootKey};
use crate::store::{self, embedded};

const SUBJECT: &str = "key store";

/// How long one key may take to be tried where that is up to another machine.
const KEY_PATIENCE: Duration = Duration::from_secs(15);

/// Checks the chosen key store; with `all` each of its keys.
pub async fn check(settings: &KeyStoreSettings, all: bool) -> Vec<Finding> {
    let mut findings = look(settings).await;
    if all {
        findings.extend(check_all(settings).await);
    }
    if all && let Some(in_use) = findings.iter().find(|finding| finding.detail.contains(NOT_LOOKED_INTO)) {
        findings.push(Finding::problem(SUBJECT, format!("--all: {}; stop the server first", in_use.detail)));
    }
    findings
}

/// Tries each key of a backend elsewhere; those of a local store are read in any case.
async fn check_all(settings: &KeyStoreSettings) -> Vec<Finding> {
    let surveyed = match settings {
        KeyStoreSettings::Vault(config) => match kms_vault::open((**config).clone()) {
            Ok(store) => ("vault", survey(store.as_ref()).await),
            Err(error) => ("vault", Err(error)),
        },
        KeyStoreSettings::AwsSecrets(config) => match SecretsManager::open((**config).clone()).await {
            Ok(store) => ("aws", survey(&store).await),
            Err(error) => ("aws", Err(error)),
        },
        KeyStoreSettings::AwsKms(config) => match AwsKms::open((**config).clone()).await {
            Ok(kms) => ("aws", survey_kms(&kms, KEY_PATIENCE).await),
            Err(error) => ("aws", Err(error)),
        },
        _ => return Vec::new(),
    };
    match surveyed {
        (name, Ok(survey)) => told(name, &survey),
        (name, Err(error)) => vec![Finding::problem(SUBJECT, format!("{name}: {}", error.chain()))],
    }
}

/// Tells of each key that cannot be used, and how many can.
fn told(store: &str, survey: &Survey) -> Vec<Finding> {
    let mut findings: Vec<_> = survey
        .unusable
        .iter()
        .map(|(name, error)| {
            Finding::problem(SUBJECT, format!("{store}: key '{name}' cannot be used: {}", error.chain()))
        })
        .collect();
    let keys = if survey.good == 1 { "1 key".to_owned() } else { format!("{} keys", survey.good) };
    findings.push(Finding::good(SUBJECT, format!("{store}: {keys} read and decoded")));
    findings
}

async fn look(settings: &KeyStoreSettings) -> Vec<Finding> {
    if let Err(error) = refuse_at_once(settings) {
        return vec![Finding::problem(SUBJECT, error.to_string())];
    }
    match settings {
        KeyStoreSettings::Salvage(_) => vec![Finding::good(SUBJECT, "salvaged: nothing to check")],
        KeyStoreSettings::Memory => vec![Finding::good(SUBJECT, "memory: nothing to check")],
        KeyStoreSettings::Fs { path, root_key, create } => check_fs(path, root_key, *create).await,
        KeyStoreSettings::KesDirectory { path, root_key, create } => {
            check_kes_directory(path, root_key.as_ref(), *create).await
        }
        KeyStoreSettings::Wrapped { store, kms } => check_wrapped(store, kms).await,
        KeyStoreSettings::AwsKms(config) => kms_aws::check((**config).clone())
            .await
            .iter()
            .map(|finding| of_backend("aws", finding))
            .collect(),
        KeyStoreSettings::AwsSecrets(config) => kms_aws::check_secrets((**config).clone())
            .await
            .iter()
            .map(|finding| of_backend("aws", finding))
            .collect(),
        KeyStoreSettings::Vault(config) => kms_vault::check((**config).clone())
            .await
            .iter()
            .map(|finding| of_backend("vault", finding))
            .collect(),
    }
}

/// Refuses what a server refuses at its start before it opens a key store.
fn refuse_at_once(settings: &KeyStoreSettings) -> Result<(), StartError> {
    let files = |config: &VaultConfig, section| {
        config.tls.check().map_err(|error| StartError::of_section(section, &error))
    };
    match settings {
        KeyStoreSettings::Fs { path, .. } | KeyStoreSettings::KesDirectory { path, .. } => {
            embedded::refuse_no_directory(path)
        }
        KeyStoreSettings::Vault(config) => files(config, "keystore.vault"),
        KeyStoreSettings::Wrapped { store, kms } => {
            match store {
                BareStore::Fs(path) => embedded::refuse_no_directory(path)?,
                BareStore::Vault(config) => files(config, "keystore.vault")?,
            }
            if let OuterKms::Vault(config) = kms { files(config, "kms.vault") } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Converts a finding of a backend into one of the key store.
fn of_backend(backend: &str, finding: &Finding) -> Finding {
    Finding { level: finding.level, what: SUBJECT, detail: format!("{backend}: {finding}") }
}

async fn check_kes_directory(path: &Path, root_key: Option<&RootKeySource>, create: bool) -> Vec<Finding> {
    let mut findings = check_key_files(path);
    let store = kes_directory::store_path(path);
    let own = match root_key {
        Some(root_key) => {
            findings.extend(check_fs(&store, root_key, create).await);
            return findings;
        }
        None => OwnRootKey::look(path),
    };
    let own = match own {
        Ok(own) => own,
        Err(error) => {
            findings.push(Finding::problem(SUBJECT, error.to_string()));
            return findings;
        }
    };
    let first = own.present().next().map(Path::to_owned);
    let file = match (own.has_store(), first) {
        (false, None) => {
            let message = format!("{}: none yet, the server makes it at its first start", name_of(&store));
            findings.push(Finding::good(SUBJECT, message));
            return findings;
        }
        // Nothing is opened for a file that is none, and what is missing is told by name.
        (_, Some(file)) => kes_directory::root_key_in_force(path).unwrap_or(file),
        (true, None) => {
            if let Some(file) = own.begun().next() {
                file.to_owned()
            } else {
                let error = kes_directory::root_key_in_force(path).err().map(|error| error.to_string());
                findings.push(Finding::problem(SUBJECT, error.unwrap_or_default()));
                return findings;
            }
        }
    };
    if let Some(dubious) = kes_directory::dubious_place(path, &file) {
        findings.push(Finding::warning(SUBJECT, dubious.to_string()));
    }
    findings.extend(check_fs(&store, &RootKeySource::File(file), create).await);
    findings
}

/// Looks at the key files of a directory; one that is not there holds none.
fn check_key_files(path: &Path) -> Vec<Finding> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return vec![Finding::good(SUBJECT, format!("{}: 0 key files in the clear", path.display()))];
    }
    let directory = Directory::at(path);
    let names = match directory.names() {
        Ok(names) => names,
        Err(unusable) => return vec![Finding::problem(SUBJECT, unusable.why)],
    };
    let (mut keys, mut findings) = (0, Vec::new());
    findings.extend(names.misnamed.iter().map(|file| Finding::problem(SUBJECT, format!("key file {file}"))));
    for name in &names.keys {
        match directory.look(name.as_str()) {
            Ok(Looked::Nothing) => {}
            Ok(Looked::Key(_)) => keys += 1,
            Ok(Looked::Unusable(unusable)) | Err(unusable) => {
                let file = directory.file(name.as_str());
                let message = format!("key file {} cannot be used: {}", file.display(), unusable.why);
                findings.push(Finding::problem(SUBJECT, message));
            }
        }
    }
    let message = format!("{}: {keys} key files in the clear", path.display());
    findings.push(if keys == 0 {
        Finding::good(SUBJECT, message)
    } else {
        Finding::warning(SUBJECT, message)
    });
    findings
}

async fn check_fs(path: &Path, root_key: &RootKeySource, create: bool) -> Vec<Finding> {
    if let RootKeySource::File(file) = root_key
        && let Some(finding) = missing_half(path, file, create)
    {
        return vec![finding];
    }
    let loaded = match root_key.load() {
        Ok(loaded) => loaded,
        Err(error) => return vec![Finding::problem(SUBJECT, error.to_string())],
    };
    let mut findings: Vec<_> =
        loaded.warnings.into_iter().map(|warning| Finding::warning(SUBJECT, warning)).collect();
    match kms_fs::open(&FsConfig::new(path), &loaded.key, OpenMode::Existing) {
        Ok(opened) => {
            findings.extend(opened.warnings.iter().map(|warning| Finding::warning(SUBJECT, warning)));
            findings.extend(exercised(path, &opened.store).await);
            if opened.keys == 0 && !matches!(root_key, RootKeySource::File(_)) {
                findings.push(Finding::warning(SUBJECT, embedded::emptiness(path)));
            }
        }
        Err(error) => findings.push(not_opened(path, &error)),
    }
    findings
}

/// Tells of a store, or of the file of its root key, that is not there.
fn missing_half(path: &Path, file: &Path, create: bool) -> Option<Finding> {
    let found = match kms_fs::look(path, file) {
        Ok(found) => found,
        Err(error) => return Some(Finding::problem(SUBJECT, error.to_string())),
    };
    let made_at_the_start = || {
        Finding::good(SUBJECT, format!("{}: none yet, the server makes it at its first start", name_of(path)))
    };
    match (found.store, found.root_key) {
        (true, true) => None,
        (_, false) if found.begun => Some(Finding::warning(
            SUBJECT,
            format!(
                "{}: a first start was cut off, the next one completes it with the root key {}.new",
                name_of(path),
                file.display()
            ),
        )),
        (false, true) if create => match RootKeySource::File(file.to_owned()).load() {
            Ok(_) => Some(made_at_the_start()),
            Err(error) => Some(Finding::problem(SUBJECT, error.to_string())),
        },
        (false, true) => Some(Finding::problem(SUBJECT, embedded::is_it_mounted(path, file).to_string())),
        (true, false) => {
            Some(Finding::problem(SUBJECT, embedded::root_key_missing(path, &[file]).to_string()))
        }
        (false, false) if create => Some(made_at_the_start()),
        (false, false) => Some(Finding::problem(SUBJECT, embedded::neither(path, file).to_string())),
    }
}

/// Checks a root key that lives elsewhere, and then the records under it.
async fn check_wrapped(store: &BareStore, kms: &OuterKms) -> Vec<Finding> {
    let holder = match kms {
        OuterKms::Aws(config) => format!("root key '{}' in AWS KMS", config.key),
        OuterKms::Vault(config) => format!("root key in the transit engine of {}", config.endpoint),
    };
    let wrapper = match store::open_outer(kms).await {
        Ok(wrapper) => wrapper,
        Err(error) => return vec![Finding::problem(SUBJECT, format!("{holder}: {}", error.chain()))],
    };
    if let Err(message) = wraps(wrapper.as_ref()).await {
        return vec![Finding::problem(SUBJECT, format!("{holder}: {message}"))];
    }
    let mut findings = vec![Finding::good(SUBJECT, format!("{holder}: wraps and unwraps"))];
    match store {
        BareStore::Fs(path) => {
            findings.extend(match kms_fs::open_bare(&FsConfig::new(path), OpenMode::Existing) {
                Ok(opened) => exercised(path, &Wrapped::new(opened.store, wrapper)).await,
                Err(error) => vec![not_opened(path, &error)],
            });
        }
        BareStore::Vault(config) => {
            findings.extend(
                kms_vault::check((**config).clone()).await.iter().map(|finding| of_backend("vault", finding)),
            );
            if findings.iter().all(|finding| finding.level != Level::Problem) {
                let read = match kms_vault::open((**config).clone()) {
                    Ok(store) => survey(&Wrapped::new(store, wrapper)).await,
                    Err(error) => Err(error),
                };
                match read {
                    Ok(survey) => findings.extend(told("vault", &survey)),
                    Err(error) => {
                        findings.push(Finding::problem(SUBJECT, format!("vault: {}", error.chain())))
                    }
                }
            }
        }
    }
    findings
}

async fn exercised(path: &Path, store: &impl KeyStore) -> Vec<Finding> {
    let name = name_of(path);
    let mut findings = match survey(store).await {
        Ok(survey) => told(&name, &survey),
        Err(error) => vec![Finding::problem(SUBJECT, format!("{name}: {}", error.chain()))],
    };
    findings.push(match exercise(store).await {
        Ok(()) => Finding::good(SUBJECT, format!("{name}: {WELL}")),
        Err(message) => Finding::problem(SUBJECT, format!("{name}: {message}")),
    });
    findings
}

fn not_opened(path: &Path, error: &OpenError) -> Finding {
    match error {
        OpenError::NoStore { .. } => no_store(path),
        OpenError::InUse { pid, .. } => {
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let message = format!("{}: in use by {holder}, {NOT_LOOKED_INTO}", name_of(path));
            Finding::good(SUBJECT, message)
        }
        error => Finding::problem(SUBJECT, error.to_string()),
    }
}

/// What is told of a store that passed.
const WELL: &str = "an entry can be written, read and deleted";

/// What is told of a store that a running server has.
const NOT_LOOKED_INTO: &str = "a running server; not looked into";

fn name_of(path: &Path) -> String {
    format!("sled in {}", path.display())
}

fn no_store(path: &Path) -> Finding {
    match something_in(path) {
        None => Finding::good(
            SUBJECT,
            format!("{}: none yet, the server makes it at its first start", name_of(path)),
        ),
        Some(found) => Finding::problem(
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
    kms_core::primitives::fill_random(&mut random)?;
    let name = EntryName::slot(&Fingerprint::from_bytes(random), 2);
    Ok((name, SecretBytes::from(SecretKey::random()?.expose().as_slice())))
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn describe(error: kms_core::Error) -> String {
    error.chain().to_string()
}

/// Writes, reads and deletes an entry that listings hide.
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
