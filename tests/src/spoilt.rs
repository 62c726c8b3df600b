//! What a client sees of a key that exists and cannot be used.

use serde_json::Value;

use crate::{Client, Protocol, TestServer};

/// A status code and a message.
pub type Heard = (u16, String);

/// The answers to every use of a key, and to a create and an import of its name.
pub struct Seen {
    /// The answers to describe, generate, encrypt, decrypt and hmac.
    pub reads: Vec<Heard>,
    /// The answer to a create.
    pub create: Heard,
    /// The answer to an import.
    pub import: Heard,
}

impl Seen {
    /// Sends every request about the key `name` except a delete.
    pub async fn of(server: &TestServer, name: &str) -> Self {
        let mut client = server.admin(Protocol::Http1);
        let mut reads = Vec::new();
        for (method, operation, body) in [
            ("GET", "describe", ""),
            ("PUT", "generate", ""),
            ("PUT", "encrypt", r#"{"plaintext":"cGxhaW50ZXh0"}"#),
            ("PUT", "decrypt", r#"{"ciphertext":"Y2lwaGVydGV4dA=="}"#),
            ("PUT", "hmac", r#"{"message":"bWVzc2FnZQ=="}"#),
        ] {
            reads.push(ask(&mut client, method, &format!("/v1/key/{operation}/{name}"), body).await);
        }
        let key = r#"{"key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","cipher":"AES256"}"#;
        Self {
            reads,
            create: ask(&mut client, "PUT", &format!("/v1/key/create/{name}"), "").await,
            import: ask(&mut client, "PUT", &format!("/v1/key/import/{name}"), key).await,
        }
    }
}

/// Sends a request and returns the status with the message. Without a message, the body is returned.
pub async fn ask(client: &mut Client, method: &str, path: &str, body: &str) -> Heard {
    let answer = client.send(method, path, body.to_owned()).await.unwrap();
    let text = answer.text();
    let message = serde_json::from_str::<Value>(text).ok();
    let message = message.and_then(|value| value["message"].as_str().map(str::to_owned));
    (answer.code(), message.unwrap_or_else(|| text.to_owned()))
}

/// Returns whether an answer has this status and this message.
pub fn is(answer: &Heard, code: u16, message: &str) -> bool {
    answer.0 == code && answer.1 == message
}
