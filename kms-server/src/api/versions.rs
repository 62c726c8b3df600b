//! `/v1/key/rotate`, `rewrap`, `versions`, `retire` and `enable`: the versions of a key. KES has none.

use std::collections::BTreeMap;

use http::StatusCode;
use hyper::body::Incoming;
use kms_core::primitives::Cipher;
use kms_core::{KeyName, Request};
use serde::Serialize;

use super::answer::{Answer, Reject};
use super::call::Call;
use super::{effects, keys};
use crate::json;

/// Makes a new version of a key: `{"confirm"?}`, or no body. Answers with its number, and after how many milliseconds it
/// seals.
///
/// Where the configuration is one of KES, the client has to confirm the name of the key: KES cannot read what a later
/// version seals, so there may be no way back.
pub async fn rotate(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    #[derive(Serialize)]
    struct Made {
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u32>,
        seals_after_ms: u128,
    }

    let name = call.key_name()?;
    let request = call.request()?;
    let body = call.read(body).await?;
    let is_confirmed = if body.is_empty() {
        false
    } else {
        let [confirm] = json::members(&body, ["confirm"]).map_err(|error| call.invalid(error))?;
        confirm.as_str() == name.as_str()
    };
    if call.client.api.is_for_kes() && !is_confirmed {
        let message = "KES cannot read what a new version seals: repeat with 'kms key rotate --yes'";
        return Err(Reject::new(StatusCode::CONFLICT, message));
    }
    let rotate = |kms: std::sync::Arc<dyn kms_core::Kms>, request| async move {
        kms.rotate(&request, &name, None).await
    };
    effects::run_for(call, request, rotate, |made| {
        Answer::json(&Made { version: made.version, seals_after_ms: made.seals_after.as_millis() })
    })
    .await
}

/// Seals a ciphertext anew, under the version that seals: `{"ciphertext", "context"?}`. The plaintext stays here.
pub async fn rewrap(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let mut body = call.read(body).await?;
    let [ciphertext, context] = call.decode(&body, ["ciphertext", "context"])?;
    let kms = &call.client.api.kms;
    let rewrapped = kms.rewrap(&request, &name, &ciphertext, &context).await;
    let rewrapped = rewrapped.map_err(|error| call.failed(&error))?;
    Ok(keys::base64_members(&[("ciphertext", &rewrapped)]).holding(body.take_permit()))
}

/// Disables a version of a key: `{"version"}`.
pub async fn retire(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let (name, request, version) = version(call, body).await?;
    effects::run(call, request, |kms, request| async move { kms.retire(&request, &name, version).await })
        .await
}

/// Enables a version of a key: `{"version"}`.
pub async fn enable(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let (name, request, version) = version(call, body).await?;
    effects::run(call, request, |kms, request| async move { kms.enable(&request, &name, version).await })
        .await
}

async fn version(call: &Call<'_>, body: &mut Incoming) -> Result<(KeyName, Request, u32), Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let body = call.read(body).await?;
    let members: BTreeMap<String, u32> =
        serde_json::from_slice(&body).map_err(|_| call.invalid(json::Malformed))?;
    match members.get("version") {
        Some(version) if members.len() == 1 => Ok((name, request, *version)),
        _ => Err(call.invalid(json::Malformed)),
    }
}

/// Describes the versions of a key, the oldest first.
pub async fn list(call: &Call<'_>) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let versions =
        call.client.api.kms.versions(&request, &name).await.map_err(|error| call.failed(&error))?;
    let versions = versions.iter().map(|version| VersionAnswer {
        version: version.version,
        algorithm: version.cipher.map(Cipher::name),
        created_at: version.created_at.map(|time| time.to_string()),
        created_by: &version.created_by,
        fingerprint: version.fingerprint.map(|fingerprint| hex::encode(fingerprint.as_bytes())),
        is_readable: version.unreadable.is_none(),
        is_disabled: version.is_disabled,
        used: version.used.map(|used| UseAnswer {
            since: used.since.to_string(),
            opened: used.opened,
            last_opened: used.last_opened.map(|time| time.to_string()),
            sealed: used.sealed,
            last_sealed: used.last_sealed.map(|time| time.to_string()),
        }),
    });
    let last_used = call.client.api.kms.last_use(&name).map(|time| time.to_string());
    Ok(Answer::json(&ListAnswer { name: name.as_str(), last_used, versions: versions.collect() }))
}

#[derive(Serialize)]
struct ListAnswer<'a> {
    name: &'a str,
    /// When this server sealed or opened something with the key last, as far as it remembers.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<String>,
    versions: Vec<VersionAnswer<'a>>,
}

#[derive(Serialize)]
struct VersionAnswer<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    created_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    /// Whether it can be read from the key store.
    #[serde(rename = "readable")]
    is_readable: bool,
    #[serde(rename = "disabled")]
    is_disabled: bool,
    /// How often this server used it. Absent for a key of one version.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<UseAnswer>,
}

#[derive(Serialize)]
struct UseAnswer {
    since: String,
    opened: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_opened: Option<String>,
    sealed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sealed: Option<String>,
}
