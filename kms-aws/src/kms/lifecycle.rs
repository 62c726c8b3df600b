//! How a CMK is looked up, how it is made behind an alias, and how it is deleted.

use std::time::Instant;

use aws_sdk_kms::primitives::{Blob, DateTime};
use aws_sdk_kms::types::{AliasListEntry, KeyMetadata, KeySpec, KeyState, KeyUsageType, Tag};
use jiff::Timestamp;
use kms_core::cache::policy::CALL_TIMEOUT;
use kms_core::primitives::SecretKey;
use kms_core::{ErrorKind, KeyName, Result};
use zeroize::Zeroizing;

use crate::client::{Upstream, look_again, once};
use crate::error::{Attempt, Failure};

/// The tag that holds the key's name.
pub const TAG_NAME: &str = "kms:name";
/// The tag that holds the identity of the key's creator.
pub const TAG_CREATOR: &str = "kms:creator";

/// The use of a new CMK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It wraps working keys.
    Key,
    /// It makes HMACs.
    Hmac,
}

/// Asks AWS what an alias, an id or an ARN stands for.
pub async fn describe(upstream: &Upstream, deadline: Instant, key: &str) -> Attempt<KeyMetadata> {
    let answer = upstream.call(deadline, upstream.client().describe_key().key_id(key).send()).await;
    let answer = answer.map_err(Failure::of_kms)?;
    let missing = || Failure::of(ErrorKind::Unreachable, "an answer of AWS KMS without the CMK asked for");
    answer.key_metadata.ok_or_else(missing)
}

/// Lists all aliases.
pub async fn aliases(upstream: &Upstream, deadline: Instant, operation: &str) -> Result<Vec<AliasListEntry>> {
    let (mut aliases, mut marker) = (Vec::new(), None);
    loop {
        let call = upstream.client().list_aliases().limit(100).set_marker(marker);
        let answer = upstream.call(deadline, call.send()).await;
        let answer = answer.map_err(|failure| failure.into_error(operation))?;
        aliases.extend(answer.aliases.unwrap_or_default());
        marker = answer.next_marker.filter(|_| answer.truncated);
        if marker.is_none() {
            return Ok(aliases);
        }
    }
}

/// Makes a CMK, and puts it behind `alias` if nothing is there.
///
/// Fails as `AlreadyExists` if something is there. The new CMK is given back then.
pub async fn make(
    upstream: &Upstream,
    name: &KeyName,
    creator: &str,
    alias: &str,
    purpose: Purpose,
) -> Attempt<KeyMetadata> {
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
    let Err(failure) = put_behind(upstream, alias, made.key_id()).await else { return Ok(made) };
    if failure.kind == ErrorKind::AlreadyExists || !failure.kind.leaves_outcome_unknown() {
        give_back(upstream, made.key_id()).await;
        return Err(failure);
    }
    // The alias may have been made: what it stands for decides, and nothing is given back on a guess.
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

/// Schedules the deletion of a CMK, and returns when AWS will erase it. The alias stays until then.
///
/// A CMK whose deletion is scheduled already is left as it is.
pub async fn retire(upstream: &Upstream, window: u32, id: &str) -> Attempt<Option<Timestamp>> {
    match schedule_deletion(upstream, id, window).await {
        Err(failure) if failure.kind == ErrorKind::Disabled => {
            let there = describe(upstream, soon(), id).await?;
            if there.key_state != Some(KeyState::PendingDeletion) {
                return Err(failure);
            }
            Ok(timestamp(there.deletion_date()))
        }
        outcome => outcome,
    }
}

/// Cancels the deletion of a CMK, and enables it.
///
/// AWS leaves a CMK disabled whose deletion was cancelled. One that nobody would delete any more is left to be enabled.
pub async fn bring_back(upstream: &Upstream, id: &str) -> Attempt<()> {
    let cancel = upstream.client().cancel_key_deletion().key_id(id);
    match upstream.call(soon(), cancel.send()).await {
        Ok(_) => {}
        Err(failure) if failure.kind == ErrorKind::Disabled => {
            if describe(upstream, soon(), id).await?.key_state == Some(KeyState::PendingDeletion) {
                return Err(failure);
            }
        }
        Err(failure) => return Err(failure),
    }
    upstream.call(soon(), upstream.client().enable_key().key_id(id).send()).await.map(drop)
}

/// Turns the failure for a CMK that is gone, or not seen, although a key has it: the key exists all the same.
pub fn not_seen(mut failure: Failure) -> Failure {
    if failure.kind == ErrorKind::NotFound {
        failure.kind = ErrorKind::Disabled;
    }
    failure
}

/// Converts a time of AWS's.
pub fn timestamp(time: Option<&DateTime>) -> Option<Timestamp> {
    Timestamp::new(time?.secs(), 0).ok()
}

/// Takes a key out of an answer of AWS.
pub fn secret_key(plaintext: Option<Blob>) -> Attempt<SecretKey> {
    let bytes = Zeroizing::new(plaintext.map(Blob::into_inner).unwrap_or_default());
    SecretKey::from_slice(&bytes)
        .ok_or_else(|| Failure::of(ErrorKind::Unreachable, "AWS KMS answered with a key of another size"))
}

/// Returns the deadline of a call that is a part of an effect, which goes on whoever waits for it.
fn soon() -> Instant {
    Instant::now() + CALL_TIMEOUT
}

async fn put_behind(upstream: &Upstream, alias: &str, id: &str) -> Attempt<()> {
    let deadline = soon();
    loop {
        let create = upstream.client().create_alias().alias_name(alias).target_key_id(id);
        let create = create.customize().config_override(once());
        match upstream.call(deadline, create.send()).await {
            Ok(_) => return Ok(()),
            // The CMK is not yet seen everywhere, or nothing was done. Neither left anything behind.
            Err(failure)
                if matches!(failure.kind, ErrorKind::NotFound | ErrorKind::Throttled)
                    && look_again(deadline).await => {}
            Err(failure) => return Err(not_seen(failure)),
        }
    }
}

async fn schedule_deletion(upstream: &Upstream, id: &str, window: u32) -> Attempt<Option<Timestamp>> {
    let days = i32::try_from(window).unwrap_or(30);
    let schedule = upstream.client().schedule_key_deletion().key_id(id).pending_window_in_days(days);
    let answer = upstream.call(soon(), schedule.send()).await?;
    if answer.key_id.is_none() {
        let why = "an answer of AWS KMS without the CMK to be deleted";
        return Err(Failure::of(ErrorKind::Unreachable, why));
    }
    Ok(timestamp(answer.deletion_date()))
}

/// Gives back a CMK that nobody has used.
async fn give_back(upstream: &Upstream, id: &str) {
    const SHORTEST_WINDOW: u32 = 7;
    if let Err(failure) = schedule_deletion(upstream, id, SHORTEST_WINDOW).await {
        tracing::warn!(cmk = id, "a CMK that is not used could not be scheduled for deletion: {failure}");
    }
}
