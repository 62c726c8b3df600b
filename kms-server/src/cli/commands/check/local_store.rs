//! Checks a store in a local directory.

use kms_core::store::Finding;
use std::path::Path;

use kms_fs::{FsConfig, OpenError, OpenMode};

use super::probe::{SUBJECT, exercised, name_of};
use crate::settings::RootKeySource;
use crate::store::embedded;
use crate::store::kes_directory::{self, Directory, Looked, OwnRootKey};

/// The words in the message of a store that a running server has open.
pub const NOT_LOOKED_INTO: &str = "a running server; not looked into";

/// Checks a store and its root key.
pub async fn check_fs(path: &Path, root_key: &RootKeySource, create: bool) -> Vec<Finding> {
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

/// Returns a finding if the store, or the file of its root key, is missing.
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

/// Checks a directory of key files of KES, and the store that the server makes of them.
pub async fn check_kes_directory(
    path: &Path,
    root_key: Option<&RootKeySource>,
    create: bool,
) -> Vec<Finding> {
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
        // If no file opens the store, the check of the first one says why.
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

/// Checks the key files of a directory. A missing directory holds none.
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

/// Returns the finding for a store that does not open.
pub fn not_opened(path: &Path, error: &OpenError) -> Finding {
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

/// Returns the finding for a directory without a store.
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

/// Returns the name of a file in a directory, other than the files that a failed start leaves there.
fn something_in(directory: &Path) -> Option<String> {
    let names = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .find(|name| !["lock", "lost+found"].contains(&&**name))
}
