//! CMKs: what one is to us, how it is made behind an alias, and how it goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kms::types::{KeyMetadata, KeySpec, KeyState, KeyUsageType, Tag};
use jiff::Timestamp;
use kms_core::{DataKey, Error, ErrorKind, KeyName, Result, SealingKey};
use tokio::sync::OnceCell;

use crate::cell::Cell;
use crate::client::{CALL_TIMEOUT, Upstream, once};
use crate::config::Reuse;
use crate::error::Failure;
use crate::format;

/// The tag that holds the key's name.
pub const TAG_NAME: &str = "kms:name";
/// The tag that holds the identity of who made it.
pub const TAG_CREATOR: &str = "kms:creator";

/// How long AWS may take until everyone sees what was made.
pub const CONSISTENCY: Duration = Duration::from_secs(300);
/// How long to wait before something that has to become visible is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The aliases of one prefix.
#[derive(Clone, Debug)]
pub struct Aliases {
    keys: String,
    siblings: String,
}

impl Aliases {
    /// Derives the aliases from the configured prefix: beside `…/k/`, or below any other.
    ///
    /// No key's name has a '/', so siblings below the prefix are never keys.
    pub fn new(prefix: &str) -> Self {
        let siblings = match prefix.strip_suffix("k/") {
            Some(parent) if parent.is_empty() || parent.ends_with('/') => parent,
            _ => prefix,
        };
        Self { keys: format!("alias/{prefix}"), siblings: format!("alias/{siblings}") }
    }

    /// Names the alias of a key.
    pub fn key(&self, name: &KeyName) -> String {
        format!("{}{name}", self.keys)
    }

    /// Names the alias of the CMK that makes a key's HMACs.
    pub fn hmac(&self, name: &KeyName) -> String {
        format!("{}hmac/{name}", self.siblings)
    }

    /// Returns the prefix below which `kms check` has its key, which is none of the server's.
    pub fn check_prefix(&self) -> String {
        format!("{}check/", self.siblings.trim_start_matches("alias/"))
    }

    /// Reads a key's name off an alias; `None` for any other alias.
    pub fn name_of(&self, alias: &str) -> Option<KeyName> {
        KeyName::new(alias.strip_prefix(&self.keys)?).ok()
    }
}

/// A CMK under the name of one key, with all that is cached of it: under another name nothing of it is found.
pub struct Cmk {
    pub name: KeyName,
    pub arn: String,
    pub id: String,
    pub created_at: Option<Timestamp>,
    /// Who made it; its tag is read once.
    pub creator: OnceCell<String>,
    /// The working key that seals.
    pub sealing: Arc<Cell<Arc<Working>>>,
    /// The one that will seal when that one has ended.
    pub next: Arc<Cell<Arc<Working>>>,
    renewal: Mutex<()>,
    /// The opened working keys, by the blob in which each is wrapped.
    pub opened: papaya::HashMap<Box<[u8]>, Arc<Opened>>,
    /// Digests of what AWS calls inauthentic, and since when.
    pub refused: Mutex<HashMap<[u8; 32], Instant>>,
    /// The ARN of the CMK that makes the HMACs.
    pub hmac: Arc<Cell<String>>,
    /// Deleted here, so that it is not used whatever AWS still shows.
    deleted: AtomicBool,
}

/// A working key that seals.
pub struct Working {
    /// What each ciphertext under it begins with.
    pub header: Vec<u8>,
    pub key: Arc<SealingKey>,
    pub uses: AtomicU64,
    /// How long it was fetched before it was needed: by as much later it ends, so that there is one in each `max_age`.
    pub lead: Duration,
}

impl Working {
    /// Seals `plaintext` under this key.
    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.key.seal(plaintext, &format::associated_data(&self.header, context))?;
        Ok([self.header.as_slice(), &sealed].concat())
    }

    /// Makes a fresh data key, and seals it under this key.
    pub fn generate(&self, context: &[u8]) -> Result<DataKey> {
        let DataKey { plaintext, ciphertext } =
            self.key.generate(&format::associated_data(&self.header, context))?;
        Ok(DataKey { plaintext, ciphertext: [self.header.as_slice(), &ciphertext].concat() })
    }
}

/// A working key that opens.
#[derive(Default)]
pub struct Opened {
    pub cell: Arc<Cell<Arc<SealingKey>>>,
    /// When it was used last, in milliseconds since the start.
    pub used: AtomicU64,
}

impl Cmk {
    fn new(name: &KeyName, metadata: &KeyMetadata) -> Self {
        let created = metadata.creation_date();
        Self {
            name: name.clone(),
            arn: metadata.arn().unwrap_or(metadata.key_id()).to_owned(),
            id: metadata.key_id().to_owned(),
            created_at: created.and_then(|time| Timestamp::new(time.secs(), 0).ok()),
            creator: OnceCell::new(),
            sealing: Arc::default(),
            next: Arc::default(),
            renewal: Mutex::default(),
            opened: papaya::HashMap::new(),
            refused: Mutex::default(),
            hmac: Arc::default(),
            deleted: AtomicBool::new(false),
        }
    }

    /// Notes whether it was deleted here.
    pub fn set_deleted(&self, deleted: bool) {
        self.deleted.store(deleted, Ordering::Release);
    }

    /// Tells whether it was deleted here.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Tells whether AWS said of this digest that it is not authentic, less than `any` ago.
    pub fn has_refused(&self, digest: &[u8; 32], any: Duration) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(digest).is_some_and(|since| since.elapsed() < any)
    }

    /// Remembers that AWS said so. Of very many the memory begins anew.
    pub fn remember_refused(&self, digest: [u8; 32]) {
        const MOST: usize = 10_000;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MOST {
            refused.clear();
        }
        refused.insert(digest, Instant::now());
    }

    /// Tells whether there is a working key that may still seal.
    pub fn is_sealing(&self, reuse: Reuse) -> bool {
        self.sealing.get().is_some_and(|held| {
            held.began.elapsed() < reuse.max_age && held.value.uses.load(Ordering::Relaxed) < reuse.max_uses
        })
    }

    /// Lets the next working key seal if the present one has ended; false if there is no next one.
    pub fn renew(&self, reuse: Reuse) -> bool {
        let _one_at_a_time = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_sealing(reuse) {
            return true;
        }
        let Some(next) = self.next.take() else { return false };
        self.sealing.put(Arc::clone(&next.value), next.began + next.value.lead);
        true
    }

    /// Forgets every key that is in memory.
    pub fn wipe(&self) {
        self.next.clear();
        self.sealing.clear();
        for opened in self.opened.pin().values() {
            opened.cell.clear();
        }
        self.opened.pin().clear();
    }
}

impl Opened {
    /// Notes that it is used now.
    pub fn touch(&self, millis: u64) {
        self.used.store(millis, Ordering::Relaxed);
    }
}

/// What a name stands for, as AWS said when it was asked.
pub struct View {
    pub cmk: Arc<Cmk>,
    pub state: KeyState,
    /// Until when a CMK that is pending deletion can be restored.
    until: Option<Timestamp>,
    /// What a CMK is for that cannot wrap keys.
    foreign: Option<String>,
}

impl View {
    /// Takes in what AWS says; a CMK that is `known` already keeps what is cached of it.
    pub fn new(name: &KeyName, metadata: &KeyMetadata, known: Option<&Arc<Cmk>>) -> Self {
        let cmk = match known {
            Some(known) if known.id == metadata.key_id() => Arc::clone(known),
            _ => Arc::new(Cmk::new(name, metadata)),
        };
        let state = match metadata.key_state() {
            Some(state) => state.clone(),
            None if metadata.enabled() => KeyState::Enabled,
            None => KeyState::Disabled,
        };
        let until = metadata.deletion_date().and_then(|time| Timestamp::new(time.secs(), 0).ok());
        // Made by hand, or an alias that was moved.
        let is_ours = metadata.key_spec().is_none_or(|spec| *spec == KeySpec::SymmetricDefault)
            && metadata.key_usage().is_none_or(|usage| *usage == KeyUsageType::EncryptDecrypt);
        let foreign = (!is_ours).then(|| {
            let spec = metadata.key_spec().map_or("", KeySpec::as_str);
            format!("{spec} {}", metadata.key_usage().map_or("", KeyUsageType::as_str)).trim().to_owned()
        });
        Self { cmk, state, until, foreign }
    }

    /// Makes the view of a CMK that is scheduled for deletion.
    pub fn pending(cmk: Arc<Cmk>, until: Option<Timestamp>) -> Self {
        Self { cmk, state: KeyState::PendingDeletion, until, foreign: None }
    }

    /// Tells whether the CMK goes.
    pub fn is_pending(&self) -> bool {
        self.state == KeyState::PendingDeletion || self.cmk.is_deleted()
    }

    /// Fails with `Disabled` if the CMK cannot be used.
    pub fn usable(&self) -> Result<&Arc<Cmk>> {
        match self.unusable() {
            None => Ok(&self.cmk),
            Some(why) => {
                Err(Error::with_source(ErrorKind::Disabled, format!("use key '{}'", self.cmk.name), why))
            }
        }
    }

    /// Tells why the CMK cannot be used, if it cannot, and what helps.
    pub fn unusable(&self) -> Option<String> {
        let (arn, id) = (&self.cmk.arn, &self.cmk.id);
        if self.is_pending() {
            let until =
                self.until.map(|until| format!(", which erases it after {until}")).unwrap_or_default();
            return Some(format!(
                "the CMK {arn} is pending deletion in AWS KMS{until}; what restores it until then is \
                 'aws kms cancel-key-deletion --key-id {id}' and 'aws kms enable-key --key-id {id}'"
            ));
        }
        if let Some(foreign) = &self.foreign {
            return Some(format!("the alias stands for the CMK {arn}, which is of another kind ({foreign})"));
        }
        match &self.state {
            KeyState::Enabled => None,
            KeyState::Disabled => Some(format!(
                "the CMK {arn} is disabled in AWS KMS; what enables it is 'aws kms enable-key --key-id {id}'"
            )),
            state => {
                Some(format!("the CMK {arn} cannot be used in its state in AWS KMS ({})", state.as_str()))
            }
        }
    }
}

/// What a new CMK is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To wrap working keys.
    Key,
    /// To make HMACs.
    Hmac,
}

/// Asks AWS what an alias, an id or an ARN stands for.
pub async fn describe(
    upstream: &Upstream,
    deadline: Instant,
    key: &str,
) -> std::result::Result<KeyMetadata, Failure> {
    let answer = upstream.call(deadline, upstream.client().describe_key().key_id(key).send()).await;
    let answer = answer.map_err(Failure::of_kms)?;
    let missing = || Failure::of(ErrorKind::Unreachable, "an answer of AWS KMS without the CMK asked for");
    answer.key_metadata.ok_or_else(missing)
}

/// Makes a CMK, and puts it behind `alias` if nothing is there.
///
/// Fails as `AlreadyExists` if there is; then this CMK is given back.
pub async fn make(
    upstream: &Upstream,
    name: &KeyName,
    creator: &str,
    alias: &str,
    purpose: Purpose,
) -> std::result::Result<KeyMetadata, Failure> {
    let tags = [(TAG_NAME, name.as_str()), (TAG_CREATOR, creator)];
    let tags = tags.map(|(key, value)| Tag::builder().tag_key(key).tag_value(value).build().ok());
    let (spec, usage) = match purpose {
        Purpose::Key => (KeySpec::SymmetricDefault, KeyUsageType::EncryptDecrypt),
        Purpose::Hmac => (KeySpec::Hmac256, KeyUsageType::GenerateVerifyMac),
    };
    let create = upstream
        .client()
        .create_key()
        .description(format!("kms: {}", alias.trim_start_matches("alias/")))
        .key_spec(spec)
        .key_usage(usage)
        .set_tags(Some(tags.into_iter().flatten().collect()))
        .customize()
        .config_override(once());
    let made = upstream.call(soon(), create.send()).await?.key_metadata;
    let made =
        made.ok_or_else(|| Failure::of(ErrorKind::Unreachable, "an answer of AWS KMS without the CMK made"))?;
    match put_behind(upstream, alias, made.key_id()).await {
        Ok(()) => Ok(made),
        Err(failure) if failure.kind == ErrorKind::AlreadyExists => {
            give_back(upstream, made.key_id()).await;
            Err(failure)
        }
        // It may have worked: what the alias stands for decides, and nothing is given back on a guess.
        Err(failure) if failure.kind.leaves_outcome_unknown() => {
            match describe(upstream, soon(), alias).await {
                Ok(there) if there.key_id() == made.key_id() => Ok(made),
                _ => {
                    tracing::warn!(
                        cmk = made.key_id(),
                        alias,
                        "a CMK was made, and whether its alias was is not known; 'kms check' lists such CMKs"
                    );
                    Err(failure)
                }
            }
        }
        Err(failure) => {
            give_back(upstream, made.key_id()).await;
            Err(failure)
        }
    }
}

/// Schedules the deletion of a CMK, whose alias stays until AWS erases both; returns when that will be.
///
/// One whose deletion is scheduled already is left as it is.
pub async fn retire(
    upstream: &Upstream,
    window: u32,
    id: &str,
) -> std::result::Result<Option<Timestamp>, Failure> {
    match schedule_deletion(upstream, id, window).await {
        Ok(until) => Ok(until),
        Err(failure) if failure.kind == ErrorKind::Disabled => {
            let there = describe(upstream, soon(), id).await?;
            if there.key_state != Some(KeyState::PendingDeletion) {
                return Err(failure);
            }
            Ok(there.deletion_date().and_then(|time| Timestamp::new(time.secs(), 0).ok()))
        }
        Err(failure) => Err(failure),
    }
}

/// A CMK that is gone, or not seen, although it is ours to name, is no key that does not exist.
pub fn not_seen(mut failure: Failure) -> Failure {
    if failure.kind == ErrorKind::NotFound {
        failure.kind = ErrorKind::Disabled;
    }
    failure
}

/// Waits before something that has to become visible is looked for again; false when there is no time left.
pub async fn look_again(deadline: Instant) -> bool {
    let next = Instant::now() + LOOK_AGAIN;
    if next >= deadline {
        return false;
    }
    tokio::time::sleep_until(next.into()).await;
    true
}

/// Returns until when a call may take that is a part of an effect, which goes on whoever waits for it.
fn soon() -> Instant {
    Instant::now() + CALL_TIMEOUT
}

async fn put_behind(upstream: &Upstream, alias: &str, id: &str) -> std::result::Result<(), Failure> {
    let deadline = soon();
    loop {
        let create = upstream.client().create_alias().alias_name(alias).target_key_id(id);
        let create = create.customize().config_override(once());
        match upstream.call(deadline, create.send()).await {
            Ok(_) => return Ok(()),
            // Not yet seen everywhere, or not done: neither left anything behind.
            Err(failure)
                if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Throttled)
                    && look_again(deadline).await => {}
            Err(failure) => return Err(not_seen(failure)),
        }
    }
}

async fn schedule_deletion(
    upstream: &Upstream,
    id: &str,
    window: u32,
) -> std::result::Result<Option<Timestamp>, Failure> {
    let days = i32::try_from(window).unwrap_or(30);
    let schedule = upstream.client().schedule_key_deletion().key_id(id).pending_window_in_days(days);
    let answer = upstream.call(soon(), schedule.send()).await?;
    if answer.key_id.is_none() {
        let why = "an answer of AWS KMS without the CMK to be deleted";
        return Err(Failure::of(ErrorKind::Unreachable, why));
    }
    Ok(answer.deletion_date.and_then(|time| Timestamp::new(time.secs(), 0).ok()))
}

/// Gives back a CMK that nobody has used.
async fn give_back(upstream: &Upstream, id: &str) {
    const SHORTEST_WINDOW: u32 = 7;
    if let Err(failure) = schedule_deletion(upstream, id, SHORTEST_WINDOW).await {
        tracing::warn!(cmk = id, "a CMK that is not used could not be scheduled for deletion: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_stand_beside_k_or_below_the_prefix() {
        let name = KeyName::new("my-key").unwrap();
        let aliases = Aliases::new("kms/k/");
        assert_eq!(aliases.key(&name), "alias/kms/k/my-key");
        assert_eq!(aliases.hmac(&name), "alias/kms/hmac/my-key");
        assert_eq!(aliases.name_of("alias/kms/deleted/my-key/id"), None, "as former releases made them");
        assert_eq!(aliases.check_prefix(), "kms/check/");
        let aliases = Aliases::new("team/disk/");
        assert_eq!(aliases.hmac(&name), "alias/team/disk/hmac/my-key");
        assert_eq!(aliases.name_of("alias/team/disk/hmac/my-key"), None);
        assert_eq!(aliases.name_of("alias/team/disk/my-key"), Some(name));
    }
}
