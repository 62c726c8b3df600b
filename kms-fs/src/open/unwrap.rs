//! Finding the header of a store that a root key opens.

use std::path::Path;

use crate::error::OpenError;
use crate::keys::{Header, Root, RootKey, RootKeyChange, StoreKey, remove_unfinished};

/// Unwraps the store key of the first header that opens under this very root key. Also returns its position.
pub fn unwrap_with(
    headers: &[Header],
    root_key: &RootKey,
    path: &Path,
) -> Result<(usize, StoreKey), OpenError> {
    // Where the local root key was removed, no header that still has it counts.
    if let Some(removed) = headers.iter().find(|header| matches!(header.root, Root::Entries)) {
        removed.unwrap_store_key(root_key, path)?;
    }
    for (n, header) in headers.iter().enumerate() {
        match header.unwrap_store_key(root_key, path) {
            Err(OpenError::WrongRootKey { .. }) => {}
            unwrapped => return Ok((n, unwrapped?)),
        }
    }
    Err(OpenError::WrongRootKey { path: path.to_owned() })
}

/// Unwraps the store key of the first header that opens under the root key or its successor.
///
/// An interrupted change of the root key is completed.
pub fn unwrap_any(
    headers: &[Header],
    root_key: &RootKey,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<(usize, StoreKey), OpenError> {
    match unwrap_with(headers, root_key, path) {
        Err(OpenError::WrongRootKey { .. }) => {}
        unwrapped => {
            if let Some(file) = root_key.file().filter(|_| unwrapped.is_ok()) {
                warnings.extend(unfinished_change(file));
                remove_unfinished(file, |key| unwrap_with(headers, key, path).is_ok());
            }
            return unwrapped;
        }
    }
    for (n, header) in headers.iter().enumerate() {
        if let Some(store_key) = open_with_successor(header, root_key, path, warnings) {
            return Ok((n, store_key));
        }
    }
    Err(OpenError::WrongRootKey { path: path.to_owned() })
}

/// Tries the key that an interrupted change left beside `root_key`, and completes the change.
fn open_with_successor(
    header: &Header,
    root_key: &RootKey,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Option<StoreKey> {
    let file = root_key.file()?;
    let change = RootKeyChange::of(file);
    let successor = RootKey::from_file(&change.new_file).ok()?.key;
    let store_key = header.unwrap_store_key(&successor, path).ok()?;
    let file = file.display();
    warnings.push(match change.finish() {
        Ok(()) => format!(
            "an interrupted change of the root key was completed: the new one is in '{file}', the old one in '{}'",
            change.old_file.display()
        ),
        Err(why) => format!(
            "an interrupted change of the root key could not be completed, the one in '{}' is in force: {why}",
            change.new_file.display()
        ),
    });
    Some(store_key)
}

fn unfinished_change(file: &Path) -> Option<String> {
    let new_file = RootKeyChange::of(file).new_file;
    new_file.exists().then(|| {
        format!(
            "a change of the root key was begun and not completed: '{}' is not in force",
            new_file.display()
        )
    })
}
