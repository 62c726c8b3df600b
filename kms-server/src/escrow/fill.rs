//! Adds in the background what the escrow file lacks.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kms_core::primitives::SecretBytes;
use kms_core::store::EntryName;
use kms_core::transfer::{StoredKey, names};
use kms_core::{Error, ErrorKind, KeyName, Result};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::escrowed::Escrowed;
use super::known::Digest;
use super::line::{Says, Subject};
use super::lives::{Held, State};
use super::replaced;
use super::seal;
use super::writer::{Draft, MOST_BYTES, Unwritten};

/// How many keys are looked at before a pause, and that pause: at most some 1,600 keys a second.
const CHUNK: usize = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// The pause after a key could not be added, or the store did not answer. It doubles each time, up to the longest one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// When the store is looked through.
pub struct Pace {
    /// How long after the start it begins. The first clients have waited for the start already.
    pub begin_after: Duration,
    /// How long after a look the next one begins. It finds what other programs brought or deleted.
    pub again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { begin_after: Duration::from_millis(500), again: Duration::from_secs(6 * 60 * 60) }
    }
}

/// The most names in a message.
const TOLD: usize = 3;

/// The names of keys of which the file holds something, at the start.
pub struct Named {
    /// Those that a restore would bring back.
    live: BTreeSet<KeyName>,
    /// Those that are deleted, or may be gone.
    others: BTreeSet<KeyName>,
}

impl Named {
    /// Takes in what the file held at the start.
    pub fn new(held: &[Held]) -> Self {
        let names = |wanted: &[State]| -> BTreeSet<KeyName> {
            let held = held.iter().filter(|held| wanted.contains(&held.state) && !held.is_damaged);
            held.filter_map(|held| KeyName::new(&*held.subject.name).ok()).collect()
        };
        Self { live: names(&[State::Stored]), others: names(&[State::Deleted, State::Removing]) }
    }

    fn has(&self, name: &KeyName) -> bool {
        self.live.contains(name) || self.others.contains(name)
    }
}

/// Looks through the store now and then, and adds keys as they are found to be missing. It ends with the store.
pub async fn run(escrow: Weak<Escrowed>, named: Named, pace: Pace) {
    sleep(pace.begin_after).await;
    look_through(&escrow, Some(named)).await;
    let mut retry = FIRST_RETRY;
    let (mut looked, mut tried, mut patience) = (Instant::now(), Instant::now(), FIRST_RETRY);
    loop {
        let Some(this) = escrow.upgrade() else { return };
        let known = Arc::clone(&this.known);
        let lacking = known.first_lacking(CHUNK);
        if lacking.is_empty() {
            drop(this);
            // Now and then it looks whether the store is still there.
            let _ = timeout(patience.min(pace.again), known.lacks_more.notified()).await;
            if tried.elapsed() >= patience {
                known.retry_unreadable();
                settle_doubts(&escrow).await;
                (tried, patience) = (Instant::now(), LONGEST_RETRY.min(patience * 2));
            }
            if looked.elapsed() >= pace.again {
                look_through(&escrow, None).await;
                looked = Instant::now();
            }
            continue;
        }
        let outcome = add(&this, &lacking).await;
        drop(this);
        match outcome {
            Ok(Done { unreadable, .. }) => {
                if !unreadable.is_empty() {
                    warn!("escrow: keys cannot be read, trying again: {}", unreadable.join("; "));
                    patience = FIRST_RETRY;
                }
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
async fn look_through(escrow: &Weak<Escrowed>, named: Option<Named>) {
    let is_first = named.is_some();
    let (mut added, mut absent, mut unreadable) = (0, 0, Vec::new());
    settle_doubts(escrow).await;
    let Some(all) = list(escrow).await else { return };
    let mut unlisted = Vec::new();
    if let (Some(this), Some(named)) = (escrow.upgrade(), named) {
        this.known.add_all_lacking(all.iter().filter(|name| !named.has(name)).cloned());
        // A store may keep deleted keys and not list them.
        unlisted.extend(named.live.into_iter().filter(|name| all.binary_search(name).is_err()));
    }
    for chunk in all.chunks(CHUNK).chain(unlisted.chunks(CHUNK)) {
        let mut retry = FIRST_RETRY;
        loop {
            let Some(this) = escrow.upgrade() else { return };
            let outcome = add(&this, chunk).await;
            drop(this);
            match outcome {
                Ok(done) => {
                    added += done.added;
                    absent += done.absent;
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
    this.known.is_looked_through.store(true, Ordering::Relaxed);
    if absent != 0 {
        info!(
            keys = absent,
            "escrow: the file holds keys that the store does not have, and does not say that they were removed: \
             'kms escrow verify --config' names them"
        );
    }
    let ambiguous = this.known.count_ambiguous();
    if ambiguous != 0 {
        warn!(ambiguous, "escrow: a restore would ask which key some names mean: 'kms escrow verify' tells");
    }
    if unreadable.is_empty() {
        if ambiguous == 0 && (is_first || added != 0) {
            info!(keys = all.len(), added, "escrow: the file holds every key of the store");
        } else {
            debug!(keys = all.len(), "escrow: the store was looked through again");
        }
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

/// Finds out which keys were removed of which only is noted that they would be.
async fn settle_doubts(escrow: &Weak<Escrowed>) {
    let Some(this) = escrow.upgrade() else { return };
    for subject in this.known.in_doubt() {
        if let Err(error) = this.settle_doubt(&subject).await {
            let Subject { name, fingerprint, .. } = &subject;
            warn!(
                entry = %name, %fingerprint,
                "escrow: whether this entry was removed is not known yet, trying again: {}", error.chain()
            );
        }
    }
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
                warn!(cause = error.as_dyn(), "escrow: the store cannot be listed yet, trying again");
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
    /// The number of keys that the store does not have.
    absent: usize,
    /// The keys of which it is new that they cannot be read, with the reason.
    unreadable: Vec<String>,
}

/// An entry that the file lacks.
struct Lacking {
    entry: EntryName,
    subject: Subject,
    record: Digest,
}

/// What is to be written of some keys.
#[derive(Default)]
struct Parts {
    lacking: Vec<Lacking>,
    drafts: Vec<Draft>,
    /// The keys that are deleted, of which the file does not say so. Those that the store keeps are named without a fingerprint.
    deleted: Vec<(KeyName, Subject)>,
    /// The keys that are not deleted, of which the file says so.
    live: Vec<Subject>,
    /// The record of each key that was read.
    present: Vec<Subject>,
}

/// Adds what the file lacks of some keys. Fails if the store is away, or the file cannot be written.
async fn add(escrow: &Escrowed, names: &[KeyName]) -> std::result::Result<Done, String> {
    let mut done = Done::default();
    let (mut parts, mut unreadable) = (Parts::default(), HashSet::new());
    for name in names {
        match collect(escrow, name, &mut parts).await {
            Ok(()) => {}
            Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::LoginRefused => {
                return Err(error.chain().to_string());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                escrow.known.set_ambiguous(name, false);
                done.absent += 1;
            }
            Err(error) if error.kind() == ErrorKind::Deleted => {
                if !escrow.known.is_name_deleted(name.as_str()) {
                    parts.deleted.push((name.clone(), Subject::new(name.as_str(), None)));
                }
            }
            Err(error) => {
                unreadable.insert(name);
                if escrow.known.add_unreadable(name) {
                    done.unreadable.push(format!("'{name}': {}", error.chain()));
                }
            }
        }
    }
    let Parts { lacking, drafts, deleted, live, present } = parts;
    write(escrow, drafts).await?;
    done.added = lacking.len();
    for Lacking { subject, record, .. } in &lacking {
        escrow.known.add_stored(subject, *record);
    }
    for subject in &live {
        escrow.known.set_deleted(subject, false);
    }
    for (_, subject) in &deleted {
        escrow.known.set_deleted(subject, true);
    }
    let lines = deleted.iter().map(|(_, subject)| Draft::Line(Says::Deleted(subject.clone())));
    write(escrow, lines.collect()).await?;
    // Somebody may have removed or restored a key since it was read.
    for Lacking { entry, subject, record } in &lacking {
        escrow.look_again(entry, subject, *record).await;
    }
    for (name, subject) in deleted {
        match StoredKey::read(&escrow.inner, &name).await {
            Ok(key) if key.is_deleted() => continue,
            Err(error) if error.kind() == ErrorKind::Deleted => continue,
            Err(error) if error.kind() == ErrorKind::NotFound && !subject.is_known() => continue,
            _ => {}
        }
        write(escrow, vec![Draft::Line(Says::Restored(subject.clone()))]).await?;
        escrow.known.set_deleted(&subject, false);
    }
    let again = replaced::settle(escrow, &present).await?;
    for name in names.iter().filter(|name| !unreadable.contains(name)) {
        escrow.known.drop_lacking(name);
    }
    for name in again {
        escrow.known.add_lacking(name);
    }
    Ok(done)
}

/// Writes drafts, no more at once than a start brings to the disk anew.
async fn write(escrow: &Escrowed, drafts: Vec<Draft>) -> std::result::Result<(), String> {
    let failed = |why: Unwritten| format!("the file cannot be written: {why}");
    let (mut part, mut bytes) = (Vec::new(), 0);
    for draft in drafts {
        bytes += draft.bytes();
        part.push(draft);
        if bytes >= MOST_BYTES {
            escrow.writer.write(std::mem::take(&mut part)).await.map_err(failed)?;
            bytes = 0;
        }
    }
    if !part.is_empty() {
        escrow.writer.write(part).await.map_err(failed)?;
    }
    Ok(())
}

/// Collects what the file lacks of one key. Of a key that is not whole, it takes what can be read.
async fn collect(escrow: &Escrowed, name: &KeyName, parts: &mut Parts) -> Result<()> {
    let whole = match StoredKey::read(&escrow.inner, name).await {
        Ok(key) => key,
        Err(error) if error.kind().is_outage() || error.kind() == ErrorKind::NotFound => return Err(error),
        Err(error) => {
            let entry = EntryName::from(name);
            let content = escrow.inner.get(&entry).await?;
            collect_entry(escrow, entry, &content, parts)?;
            return Err(error);
        }
    };
    let mut is_new = false;
    for (entry, content) in whole.entries() {
        if !entry.is_hidden() || entry.as_str().starts_with(".v/") {
            let is_first = !entry.is_hidden();
            if is_first {
                parts.present.push(seal::subject(entry.as_str(), content));
            }
            is_new |= collect_entry(escrow, entry, content, parts)? && is_first;
        }
    }
    let fingerprint = hex::encode(whole.fingerprint().as_bytes());
    let key = Subject::new(name.as_str(), Some(&fingerprint));
    let is_noted = !is_new && escrow.known.is_deleted(&key);
    match (whole.is_deleted(), is_noted) {
        (true, false) => parts.deleted.push((name.clone(), key)),
        (false, true) => {
            // Escrow would leave it out, and it is in use.
            warn!(key = %name, %fingerprint, "escrow: the file said that this key is deleted, and it is not: noted");
            parts.drafts.push(Draft::Line(Says::Restored(key.clone())));
            parts.live.push(key);
        }
        _ => {}
    }
    Ok(())
}

/// Collects an entry if the file lacks it. Returns whether that is so.
fn collect_entry(
    escrow: &Escrowed,
    entry: EntryName,
    content: &SecretBytes,
    parts: &mut Parts,
) -> Result<bool> {
    let text = entry.as_str();
    let subject = seal::subject(text, content);
    if !subject.is_known() {
        // It may stand in the place of a key that is in escrow.
        let why = "it is no key";
        return Err(Error::with_source(ErrorKind::Corrupt, format!("read entry '{text}'"), why));
    }
    if escrow.known.is_stored(&subject) {
        return Ok(false);
    }
    let record = Digest::of(text, content.expose());
    parts.drafts.push(escrow.in_store(&subject, content)?);
    parts.lacking.push(Lacking { entry, subject, record });
    Ok(true)
}
