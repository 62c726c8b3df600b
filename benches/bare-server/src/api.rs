//! The two routes, by axum and serde.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keys::{self, Keys};
use crate::tls::Identity;

/// Returns the routes. Generate and decrypt work; the others are there so that the router has as many as a key server has.
pub fn router(keys: Arc<Keys>) -> Router {
    let mut router = Router::new()
        .route("/v1/key/generate/{name}", post(generate))
        .route("/v1/key/decrypt/{name}", post(decrypt));
    for other in ["create", "import", "describe", "list", "delete", "encrypt", "bulk/decrypt"] {
        router = router.route(&format!("/v1/key/{other}/{{name}}"), post(decrypt));
    }
    for other in ["describe", "assign", "write", "read", "list", "delete"] {
        router = router.route(&format!("/v1/policy/{other}/{{name}}"), post(decrypt));
    }
    router.with_state(keys)
}

/// Answers with a new data key. The identity is there for whoever would ask what its client may do.
async fn generate(
    State(keys): State<Arc<Keys>>,
    Path(name): Path<String>,
    Extension(_client): Extension<Identity>,
    body: Bytes,
) -> Response {
    answer(generated(&keys, &name, &body))
}

/// Answers with a data key that was sealed.
async fn decrypt(
    State(keys): State<Arc<Keys>>,
    Path(name): Path<String>,
    Extension(_client): Extension<Identity>,
    body: Bytes,
) -> Response {
    answer(decrypted(&keys, &name, &body))
}

fn answer(result: Result<Bytes, StatusCode>) -> Response {
    match result {
        Ok(body) => ([("content-type", "application/json")], body).into_response(),
        Err(status) => status.into_response(),
    }
}

#[derive(Deserialize)]
struct GenerateRequest<'a> {
    #[serde(default, borrow)]
    context: Cow<'a, str>,
}

#[derive(Serialize)]
struct GenerateAnswer<'a> {
    plaintext: &'a str,
    ciphertext: &'a str,
}

#[derive(Deserialize)]
struct DecryptRequest<'a> {
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
    #[serde(default, borrow)]
    context: Cow<'a, str>,
}

#[derive(Serialize)]
struct DecryptAnswer<'a> {
    plaintext: &'a str,
}

fn generated(keys: &Keys, name: &str, body: &[u8]) -> Result<Bytes, StatusCode> {
    let keys = keys.all.load();
    let key = keys.get(name).ok_or(StatusCode::NOT_FOUND)?;
    let request: GenerateRequest<'_> = read(body)?;
    let mut context = [0; 1024];
    let length = decode(&request.context, &mut context)?;
    let mut random = Zeroizing::new([0; 60]);
    aws_lc_rs::rand::fill(&mut random[..]).unwrap();
    let (data_key, rest) = random.split_first_chunk::<32>().unwrap();
    let (iv, nonce) = rest.split_first_chunk::<16>().unwrap();
    let sealed = keys::seal(key, &context[..length], data_key, iv, nonce.try_into().unwrap());
    let mut plaintext = Zeroizing::new([0; 44]);
    STANDARD.encode_slice(data_key, &mut plaintext[..]).unwrap();
    let mut ciphertext = [0; 104];
    STANDARD.encode_slice(sealed, &mut ciphertext).unwrap();
    let plaintext = std::str::from_utf8(&plaintext[..]).unwrap();
    let ciphertext = std::str::from_utf8(&ciphertext).unwrap();
    Ok(write(&GenerateAnswer { plaintext, ciphertext }, 192))
}

fn decrypted(keys: &Keys, name: &str, body: &[u8]) -> Result<Bytes, StatusCode> {
    let keys = keys.all.load();
    let key = keys.get(name).ok_or(StatusCode::NOT_FOUND)?;
    let request: DecryptRequest<'_> = read(body)?;
    let mut context = [0; 1024];
    let length = decode(&request.context, &mut context)?;
    let mut sealed = [0; 256];
    let sealed_length = decode(&request.ciphertext, &mut sealed)?;
    let opened = keys::open(key, &context[..length], &sealed[..sealed_length]);
    let data_key = opened.ok_or(StatusCode::BAD_REQUEST)?;
    let mut plaintext = Zeroizing::new([0; 44]);
    STANDARD.encode_slice(&data_key[..], &mut plaintext[..]).unwrap();
    Ok(write(&DecryptAnswer { plaintext: std::str::from_utf8(&plaintext[..]).unwrap() }, 64))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StatusCode> {
    serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)
}

fn decode(text: &str, into: &mut [u8]) -> Result<usize, StatusCode> {
    STANDARD.decode_slice(text.as_bytes(), into).map_err(|_| StatusCode::BAD_REQUEST)
}

fn write<T: Serialize>(answer: &T, capacity: usize) -> Bytes {
    let mut body = Vec::with_capacity(capacity);
    serde_json::to_writer(&mut body, answer).unwrap();
    Bytes::from(body)
}
