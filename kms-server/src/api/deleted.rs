//! `/v1/key/deleted`, `restore` and `purge`: keys that were deleted and are kept for a time. KES has none.

use http::StatusCode;
use hyper::body::Incoming;
use kms_core::primitives::Fingerprint;
use kms_core::{DeletedKey, KeyName, ListQuery, Purge};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Reject};
use super::call::Call;
use super::effects;
use super::route::CONTINUES;
use crate::json;

/// Deletes a key. Answers without a body as KES does, or with the time until which the key can be restored.
pub async fn delete(call: &Call<'_>) -> Result<Answer, Reject> {
    #[derive(Serialize)]
    struct Kept {
        restorable: bool,
        /// Whether a program that does not know the mark still uses the key.
        marked: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<String>,
    }

    let name = call.key_name()?;
    let request = call.request()?;
    let delete =
        |kms: std::sync::Arc<dyn kms_core::Kms>, request| async move { kms.delete(&request, &name).await };
    effects::run_for(call, request, delete, |deletion| {
        if !deletion.is_restorable {
            return Answer::done();
        }
        let until = deletion.until.map(|time| time.to_string());
        Answer::json(&Kept { restorable: true, marked: deletion.is_marked, until })
    })
    .await
}

/// Restores a deleted key: `{"resume"?}`, or no body.
pub async fn restore(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        #[serde(default)]
        resume: bool,
    }

    let name = call.key_name()?;
    let request = call.request()?;
    let Asked { resume } = read(call, body).await?;
    effects::run(call, request, |kms, request| async move { kms.restore(&request, &name, resume).await })
        .await
}

/// Removes a deleted key for ever: `{"fingerprint"?, "now"?, "confirm"?, "resume"?}`, or no body.
///
/// A client that does not wait until the time of the key is over has to confirm its name.
pub async fn purge(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        #[serde(default)]
        fingerprint: Option<String>,
        #[serde(default)]
        now: bool,
        #[serde(default)]
        confirm: Option<String>,
        #[serde(default)]
        resume: bool,
    }

    #[derive(Serialize)]
    struct Gone {
        fingerprint: String,
        versions: u32,
    }

    let name = call.key_name()?;
    let request = call.request()?;
    let asked: Asked = read(call, body).await?;
    if asked.now && asked.confirm.as_deref() != Some(name.as_str()) {
        let message = "to purge a key before its time is over, confirm its name";
        return Err(Reject::new(StatusCode::CONFLICT, message));
    }
    let fingerprint = asked.fingerprint.as_deref().map(|text| {
        let mut bytes = [0; 16];
        let decoded = hex::decode_to_slice(text, &mut bytes).map(|()| Fingerprint::from_bytes(bytes));
        decoded.map_err(|_| Reject::bad_request("the fingerprint of a key has 32 hexadecimal digits"))
    });
    let purge = Purge { fingerprint: fingerprint.transpose()?, now: asked.now, resume: asked.resume };
    let purge = |kms: std::sync::Arc<dyn kms_core::Kms>, request| async move {
        let purged = kms.purge(&request, &name, &purge).await?;
        let fingerprint = hex::encode(purged.fingerprint.as_bytes());
        tracing::warn!(key = %name, fingerprint, "a deleted key was removed for ever");
        Ok(purged)
    };
    effects::run_for(call, request, purge, |purged| {
        Answer::json(&Gone {
            fingerprint: hex::encode(purged.fingerprint.as_bytes()),
            versions: purged.versions,
        })
    })
    .await
}

/// Reads a body of JSON that may be empty.
pub(super) async fn read<T: Default + for<'a> Deserialize<'a>>(
    call: &Call<'_>,
    body: &mut Incoming,
) -> Result<T, Reject> {
    let body = call.read(body).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    // serde would read an array as an object whose members have no names.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(call.invalid(json::Malformed));
    }
    serde_json::from_slice(&body).map_err(|_| call.invalid(json::Malformed))
}

/// Lists the deleted keys, as [`keys::list`](super::keys::list) does the others.
pub async fn list(call: &Call<'_>) -> Result<Answer, Reject> {
    let (prefix, after) = call.listing()?;
    let request = call.request()?;
    // Each of them takes some reads of the key store.
    let query = ListQuery { after, limit: 100, ..ListQuery::prefix(prefix) };
    let page = call.client.api.kms.deleted(&request, &query).await.map_err(|error| call.failed(&error))?;
    let continue_at = page.continue_at.as_ref().map(|last| format!("{prefix}{CONTINUES}{last}"));
    Ok(Answer::json(&PageAnswer { keys: page.keys.iter().map(KeyAnswer::of).collect(), continue_at }))
}

#[derive(Serialize)]
struct PageAnswer<'a> {
    keys: Vec<KeyAnswer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continue_at: Option<String>,
}

#[derive(Serialize)]
struct KeyAnswer<'a> {
    name: &'a str,
    fingerprint: String,
    /// Whether it can be restored. If not, its purge has begun.
    restorable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    deleted_by: &'a str,
    /// Before this a purge has to be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
    /// A server that is cut off from the key store may use the key until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    under_way: Option<&'static str>,
}

impl<'a> KeyAnswer<'a> {
    fn of(key: &'a DeletedKey) -> Self {
        Self {
            name: KeyName::as_str(&key.name),
            fingerprint: hex::encode(key.fingerprint.as_bytes()),
            restorable: key.is_restorable,
            deleted_at: key.deleted_at.map(|time| time.to_string()),
            deleted_by: &key.deleted_by,
            kept_until: key.kept_until.map(|time| time.to_string()),
            in_use_until: key.in_use_until.map(|time| time.to_string()),
            under_way: key.under_way.map(kms_core::Resolution::as_str),
        }
    }
}
