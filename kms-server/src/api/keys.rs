//! `/v1/key/…`: the operations with keys.

use http::StatusCode;
use hyper::body::Incoming;
use kms_core::primitives::{Cipher, SecretKey};
use kms_core::{ImportedKey, KeyName, ListQuery};
use serde::Serialize;

use super::answer::{Answer, Reject};
use super::call::Call;
use super::effects;
use super::route::CONTINUES;
use crate::json;

/// The most ciphertexts of one request.
const MAX_BULK: usize = 1000;

/// The time of creation that KES reports for keys of old records, whose time is not known.
const UNKNOWN_TIME: &str = "0001-01-01T00:00:00Z";

/// Creates a key.
pub async fn create(call: &Call<'_>) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    effects::run(call, request, |kms, request| async move { kms.create(&request, &name).await }).await
}

/// Imports a key of the client: `{"key", "cipher"}`, or `{"bytes"}` as in 2020.
pub async fn import(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let body = call.read(body).await?;
    let [key, cipher, bytes] =
        json::members(&body, ["key", "cipher", "bytes"]).map_err(|error| call.invalid(error))?;
    let key_bytes = key.decode().map_err(|error| call.invalid(error))?;
    let (cipher, key_bytes) = if bytes.is_present() && !key.is_present() && !cipher.is_present() {
        (Cipher::preferred(), bytes.decode().map_err(|error| call.invalid(error))?)
    } else {
        let not_supported = || {
            let message = format!("algorithm '{}' is not supported", cipher.as_str());
            Reject::new(StatusCode::NOT_ACCEPTABLE, message)
        };
        (cipher_by_name(cipher.as_str()).ok_or_else(not_supported)?, key_bytes)
    };
    let key = SecretKey::from_slice(&key_bytes).ok_or_else(|| {
        Reject::new(StatusCode::NOT_ACCEPTABLE, format!("invalid key size for '{}'", cipher.name()))
    })?;
    let key = ImportedKey::new(key, cipher);
    effects::run(call, request, |kms, request| async move { kms.import(&request, &name, key).await }).await
}

/// Describes a key.
pub async fn describe(call: &Call<'_>) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let info = call.client.api.kms.describe(&request, &name).await.map_err(|error| call.failed(&error))?;
    let created_at = info.created_at.map(|time| time.to_string());
    Ok(Answer::json(&KeyAnswer {
        name: info.name.as_str(),
        algorithm: info.cipher.name(),
        created_at: created_at.as_deref().unwrap_or(UNKNOWN_TIME),
        created_by: &info.created_by,
    }))
}

#[derive(Serialize)]
struct KeyAnswer<'a> {
    name: &'a str,
    algorithm: &'a str,
    created_at: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    created_by: &'a str,
}

/// Lists keys by a prefix, a prefix with `*`, or the token that continues a listing.
///
/// The token is the prefix, a `~` and the last name. So a policy that allows the first page allows the next one.
pub async fn list(call: &Call<'_>) -> Result<Answer, Reject> {
    let (prefix, after) = call.listing()?;
    let request = call.request()?;
    let query = ListQuery { after, ..ListQuery::prefix(prefix) };
    let page = call.client.api.kms.list(&request, &query).await.map_err(|error| call.failed(&error))?;
    let last = page.names.last().filter(|_| page.more);
    let continue_at = last.map(|last| format!("{prefix}{CONTINUES}{last}"));
    let names = page.names.iter().map(KeyName::as_str).collect();
    Ok(Answer::json(&PageAnswer { names, continue_at }))
}

#[derive(Serialize)]
struct PageAnswer<'a> {
    names: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continue_at: Option<String>,
}

/// Generates a data encryption key: `{"context"?}`, or no body.
pub async fn generate(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let mut body = call.read(body).await?;
    let [context] = if body.is_empty() { Default::default() } else { call.decode(&body, ["context"])? };
    let kms = &call.client.api.kms;
    let key = kms.generate(&request, &name, &context).await.map_err(|error| call.failed(&error))?;
    let members = [("plaintext", key.plaintext.expose().as_slice()), ("ciphertext", &key.ciphertext)];
    Ok(base64_members(&members).holding(body.take_permit()))
}

/// Encrypts a few bytes: `{"plaintext", "context"?}`.
pub async fn encrypt(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let mut body = call.read(body).await?;
    let [plaintext, context] = call.decode(&body, ["plaintext", "context"])?;
    let kms = &call.client.api.kms;
    let ciphertext = kms.encrypt(&request, &name, &plaintext, &context).await;
    let ciphertext = ciphertext.map_err(|error| call.failed(&error))?;
    Ok(base64_members(&[("ciphertext", &ciphertext)]).holding(body.take_permit()))
}

/// Decrypts a ciphertext: `{"ciphertext", "context"?}`.
pub async fn decrypt(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let mut body = call.read(body).await?;
    let [ciphertext, context] = call.decode(&body, ["ciphertext", "context"])?;
    let kms = &call.client.api.kms;
    let plaintext = kms.decrypt(&request, &name, &ciphertext, &context).await;
    let plaintext = plaintext.map_err(|error| call.failed(&error))?;
    Ok(base64_members(&[("plaintext", plaintext.expose())]).holding(body.take_permit()))
}

/// Decrypts many ciphertexts: an array of `{"ciphertext", "context"?}`. The first failure fails the request.
pub async fn bulk_decrypt(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let mut body = call.read(body).await?;
    let members = json::array_of_members(&body, ["ciphertext", "context"], MAX_BULK);
    let members = members.map_err(|error| call.invalid(error))?;
    let mut out = Vec::with_capacity(body.len() + 3);
    out.push(b'[');
    for [ciphertext, context] in members {
        let ciphertext = ciphertext.decode().map_err(|error| call.invalid(error))?;
        let context = context.decode().map_err(|error| call.invalid(error))?;
        let plaintext = call.client.api.kms.decrypt(&request, &name, &ciphertext, &context).await;
        let plaintext = plaintext.map_err(|error| call.failed(&error))?;
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"plaintext\":");
        json::push_base64(&mut out, plaintext.expose());
        out.push(b'}');
    }
    out.extend_from_slice(b"]\n");
    Ok(Answer::json_line(out).holding(body.take_permit()))
}

/// Computes a MAC: `{"message"}`.
pub async fn hmac(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    let name = call.key_name()?;
    let request = call.request()?;
    let body = call.read(body).await?;
    let [message] = call.decode(&body, ["message"])?;
    let kms = &call.client.api.kms;
    let mac = kms.hmac(&request, &name, &message).await.map_err(|error| call.failed(&error))?;
    Ok(base64_members(&[("hmac", &mac)]))
}

/// Returns a cipher by its current name, or by its name in KES 0.19 to 0.22.
fn cipher_by_name(name: &str) -> Option<Cipher> {
    match name {
        "AES256" | "AES256-GCM_SHA256" => Some(Cipher::Aes256),
        "ChaCha20" | "XCHACHA20-POLY1305" => Some(Cipher::ChaCha20),
        _ => None,
    }
}

/// Answers with an object of base64 members. It is written into one buffer of the exact size, which is wiped.
pub fn base64_members(members: &[(&str, &[u8])]) -> Answer {
    // {"name":"base64","name":"base64"} and a line end
    let len =
        members.iter().map(|(name, bytes)| name.len() + json::base64_len(bytes.len()) + 6).sum::<usize>();
    let mut out = Vec::with_capacity(len + 2);
    let mut before = b'{';
    for (name, bytes) in members {
        out.push(before);
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        json::push_base64(&mut out, bytes);
        before = b',';
    }
    out.extend_from_slice(b"}\n");
    Answer::json_line(out)
}
