//! Keys of which the file says that they live, and whose name another key has in the store.
//!
//! A restore takes neither of two keys that live under one name. What settles it is a `replaced` line for the one in whose place
//! the store has another one. It does not say that the key was removed: somebody may have moved another key there, or the store may
//! have lost it. So a restore brings back what the store had under the name, and tells of the former key, whose data may need it.

use std::collections::BTreeSet;

use kms_core::store::{EntryName, KeyStore as _};
use kms_core::{ErrorKind, KeyName, Result};
use tracing::{info, warn};

use super::escrowed::Escrowed;
use super::line::{Says, Subject};
use super::seal;
use super::writer::Draft;

/// Settles which key of a name is current, for names whose key was read from the store: `present`. The file has these.
///
/// Returns the names that have to be looked at again, because the store changed meanwhile. Fails if the store is away, or the
/// file cannot be written.
pub async fn settle(escrow: &Escrowed, present: &[Subject]) -> std::result::Result<Vec<KeyName>, String> {
    let former: Vec<Subject> = present
        .iter()
        .flat_map(|present| {
            let others = escrow.known.others(present);
            // Records of one key with different HMAC keys open the same data, so nothing is said of them unasked.
            others.into_iter().filter(|other| other.fingerprint != present.fingerprint)
        })
        .collect();
    let mut again = Vec::new();
    let replaced = replaced(escrow, former).await?;
    if !replaced.is_empty() {
        // A store that settles may show for a while what was there before.
        tokio::time::sleep(escrow.inner.capabilities().settle).await;
        for former in self::replaced(escrow, replaced).await? {
            note(escrow, &former).await?;
            again.extend(came_back(escrow, &former).await);
        }
    }
    for present in present {
        let Ok(name) = KeyName::new(&*present.name) else { continue };
        let others = escrow.known.others(present);
        // What was read may be gone since, and noted as that.
        let is_ambiguous = !others.is_empty() && escrow.known.is_stored(present);
        if escrow.known.set_ambiguous(&name, is_ambiguous) {
            if others.iter().any(|other| other.fingerprint != present.fingerprint) {
                // The store has changed since.
                again.push(name.clone());
                continue;
            }
            let mut all: BTreeSet<String> = others.iter().map(Subject::what).collect();
            all.insert(present.what());
            let all: Vec<_> = all.into_iter().collect();
            warn!(
                key = %name, in_store = %present.what(),
                "escrow: several keys of this name live by the file, and nothing says that one was removed, so a restore takes none \
                 without '--fingerprint': {}",
                all.join(", ")
            );
        }
    }
    Ok(again)
}

/// Returns those of some keys in whose place the store has another one.
async fn replaced(escrow: &Escrowed, former: Vec<Subject>) -> std::result::Result<Vec<Subject>, String> {
    let mut replaced = Vec::new();
    for former in former {
        match escrow.is_replaced(&former).await {
            Ok(true) => replaced.push(former),
            Ok(false) => {}
            Err(error) => return Err(error.chain().to_string()),
        }
    }
    Ok(replaced)
}

async fn note(escrow: &Escrowed, former: &Subject) -> std::result::Result<(), String> {
    let line = Draft::Line(Says::Replaced(former.clone()));
    let written = escrow.writer.write(vec![line]).await;
    written.map_err(|why| format!("the file cannot be written: {why}"))?;
    escrow.known.drop_stored(former, None);
    let Subject { name, fingerprint, .. } = former;
    info!(key = %name, %fingerprint, "escrow: another key has the name of this one in the store: noted");
    Ok(())
}

/// Returns the name of a key that was noted as replaced, if the store may have it again.
async fn came_back(escrow: &Escrowed, former: &Subject) -> Option<KeyName> {
    let is_replaced = escrow.is_replaced(former).await.unwrap_or(false);
    KeyName::new(&*former.name).ok().filter(|_| !is_replaced)
}

impl Escrowed {
    /// Returns whether the store has a readable key of another fingerprint in the place of a key. Fails if it is away.
    async fn is_replaced(&self, former: &Subject) -> Result<bool> {
        let Ok(name) = KeyName::new(&*former.name) else { return Ok(false) };
        let entry = EntryName::from(&name);
        match self.inner.get(&entry).await {
            Ok(there) => {
                let there = seal::subject(&former.name, &there);
                Ok(there.is_known() && there.fingerprint != former.fingerprint)
            }
            Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::LoginRefused => Err(error),
            Err(_) => Ok(false),
        }
    }
}
