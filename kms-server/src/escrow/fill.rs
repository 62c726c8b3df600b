//! Adds in the background what the escrow file lacks.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kms_core::store::EntryName;
use kms_core::transfer::{StoredKey, names};
use kms_core::{Error, ErrorKind, KeyName, Result};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::known::Digest;
use super::line::{Says, Subject};
use super::lives::{Held, State};
use super::store::Escrowed;
use super::writer::{Draft, Unwritten};

/// How long after the start the store is looked through. The first clients have waited for the start already.
const BEGIN_AFTER: Duration = Duration::from_millis(500);

/// How many keys are looked at before a pause, and that pause: at most some 1,600 keys a second.
const CHUNK: usize = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// The pause after a key could not be added, or the store did not answer. It doubles each time, up to the longest one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The most names in a message.
const TOLD: usize = 3;

/// The keys of which the file holds something, at the start.
pub struct Named(HashSet<Digest>);

impl Named {
    /// Takes in what the file held at the start.
    pub fn new(held: &[Held]) -> Self {
        let stored = held.iter().filter(|held| matches!(held.state, State::Stored | State::Deleted));
        Self(stored.map(|held| Digest::of(&held.subject.name, b"")).collect())
    }

    fn has(&self, name: &KeyName) -> bool {
        self.0.contains(&Digest::of(name.as_str(), b""))
    }
}

/// Looks through the store once, and then adds keys as they are found to be missing. It ends with the store.
pub async fn run(escrow: Weak<Escrowed>, named: Named) {
    sleep(BEGIN_AFTER).await;
    look_through(&escrow, named).await;
    let mut retry = FIRST_RETRY;
    loop {
        let Some(this) = escrow.upgrade() else { return };
        let known = Arc::clone(&this.known);
        let lacking = known.first_lacking(CHUNK);
        if lacking.is_empty() {
            drop(this);
            // Now and then it looks whether the store is still there.
            let _ = timeout(LONGEST_RETRY, known.lacks_more.notified()).await;
            continue;
        }
        let outcome = add(&this, &lacking).await;
        drop(this);
        match outcome {
            Ok(_) => {
                retry = FIRST_RETRY;
                sleep(PAUSE).await;
            }
            Err(why) => {
                warn!("escrow: keys could not be added yet, trying again: {why}");
                sleep(retry).await;
                retry = LONGEST_RETRY.min(retry * 2);
            }
        }
    }
}

/// Adds all keys of the store that the file lacks.
async fn look_through(escrow: &Weak<Escrowed>, named: Named) {
    let (mut added, mut unreadable) = (0, Vec::new());
    let Some(all) = list(escrow).await else { return };
    if let Some(this) = escrow.upgrade() {
        this.known.add_all_lacking(all.iter().filter(|name| !named.has(name)).cloned());
    }
    drop(named);
    for chunk in all.chunks(CHUNK) {
        let mut retry = FIRST_RETRY;
        loop {
            let Some(this) = escrow.upgrade() else { return };
            let outcome = add(&this, chunk).await;
            drop(this);
            match outcome {
                Ok(done) => {
                    added += done.added;
                    unreadable.extend(done.unreadable);
                    break;
                }
                Err(why) => {
                    warn!("escrow: keys could not be added yet, trying again: {why}");
                    sleep(retry).await;
                    retry = LONGEST_RETRY.min(retry * 2);
                }
            }
        }
        sleep(PAUSE).await;
    }
    let Some(this) = escrow.upgrade() else { return };
    this.known.is_complete.store(true, Ordering::Relaxed);
    if unreadable.is_empty() {
        info!(keys = all.len(), added, "escrow: the file holds every key of the store");
        return;
    }
    let count = unreadable.len();
    unreadable.truncate(TOLD);
    warn!(
        keys = all.len(),
        added,
        unreadable = count,
        "escrow: the store was looked through, and some keys could not be read, such as {}",
        unreadable.join("; ")
    );
}

/// Lists the keys of the store. Returns `None` if that is denied, or if the store was closed.
async fn list(escrow: &Weak<Escrowed>) -> Option<Vec<KeyName>> {
    let mut retry = FIRST_RETRY;
    loop {
        let this = escrow.upgrade()?;
        let listed = names(&this.inner).await;
        drop(this);
        match listed {
            Ok(names) => return Some(names),
            Err(error) if error.kind() == ErrorKind::Denied || error.kind() == ErrorKind::Unsupported => {
                let why = error.chain();
                warn!(
                    "escrow: the store cannot be listed, so each key is added when it is first read: {why}"
                );
                return None;
            }
            Err(error) => {
                warn!("escrow: the store cannot be listed yet, trying again: {}", error.chain());
                sleep(retry).await;
                retry = LONGEST_RETRY.min(retry * 2);
            }
        }
    }
}

/// What came of some keys.
#[derive(Default)]
struct Done {
    /// The number of entries that were added.
    added: usize,
    /// The keys that cannot be read, with the reason.
    unreadable: Vec<String>,
}

/// An entry that the file lacks.
struct Lacking {
    subject: Subject,
    record: Digest,
}

/// Adds what the file lacks of some keys. Fails if the store is away, or the file cannot be written.
async fn add(escrow: &Escrowed, names: &[KeyName]) -> std::result::Result<Done, String> {
    let mut done = Done::default();
    let (mut lacking, mut drafts) = (Vec::new(), Vec::new());
    for name in names {
        match collect(escrow, name, &mut lacking, &mut drafts).await {
            Ok(()) => {}
            Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::LoginRefused => {
                return Err(error.chain().to_string());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => done.unreadable.push(format!("'{name}': {}", error.chain())),
        }
    }
    if !drafts.is_empty() {
        let failed = |why: Unwritten| format!("the file cannot be written: {why}");
        escrow.writer.write(drafts).await.map_err(failed)?;
    }
    done.added = lacking.len();
    for Lacking { subject, record } in lacking {
        escrow.known.add_stored(&subject, record);
    }
    for name in names {
        escrow.known.drop_lacking(name);
    }
    Ok(done)
}

/// Collects what the file lacks of one key. Of a key that is not whole, it takes what can be read.
async fn collect(
    escrow: &Escrowed,
    name: &KeyName,
    lacking: &mut Vec<Lacking>,
    drafts: &mut Vec<Draft>,
) -> Result<()> {
    let mut add = |entry: &EntryName, content| {
        let text = entry.as_str();
        let (subject, draft) = escrow.in_store(text, content)?;
        if !subject.is_known() {
            // It may stand in the place of a key that is in escrow.
            let why = "it is no key";
            return Err(Error::with_source(ErrorKind::Corrupt, format!("read entry '{text}'"), why));
        }
        if !escrow.known.is_stored(&subject) {
            lacking.push(Lacking { subject, record: Digest::of(text, content.expose()) });
            drafts.push(draft);
            return Ok(true);
        }
        Ok(false)
    };
    let whole = match StoredKey::read(&escrow.inner, name).await {
        Ok(key) => key,
        Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::NotFound => return Err(error),
        Err(error) => {
            let entry = EntryName::from(name);
            let content = escrow.inner.get(&entry).await?;
            add(&entry, &content)?;
            return Err(error);
        }
    };
    let mut is_new = false;
    for (entry, content) in whole.entries() {
        if !entry.is_hidden() || entry.as_str().starts_with(".v/") {
            is_new |= add(&entry, content)?;
        }
    }
    if is_new && whole.is_deleted() {
        let fingerprint = hex::encode(whole.fingerprint().as_bytes());
        let key = Subject::new(name.as_str(), Some(&fingerprint));
        drafts.push(Draft::Line(Says::Deleted(key)));
    }
    Ok(())
}
