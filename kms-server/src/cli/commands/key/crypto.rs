//! The use of a key: `kms key dek`, `encrypt`, `decrypt` and `hmac`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroize as _;

use super::input::{base64_text, check_base64, message};
use super::request::{failed, key_path};
use crate::cli::client::Client;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::runtime::block_on;

#[derive(Args)]
pub struct DekArgs {
    /// The name of the key.
    name: String,
    /// The context that the new key is bound to, in base64.
    context: Option<String>,
    #[command(flatten)]
    result: ResultArgs,
}

#[derive(Args)]
pub struct EncryptArgs {
    /// The name of the key.
    name: String,
    /// The message; '-' reads it from stdin.
    message: String,
    /// The context that the ciphertext is bound to, in base64.
    context: Option<String>,
    #[command(flatten)]
    result: ResultArgs,
}

#[derive(Args)]
pub struct DecryptArgs {
    /// The name of the key.
    name: String,
    /// The ciphertext in base64; '-' reads it from stdin.
    ciphertext: String,
    /// The context that the ciphertext is bound to, in base64.
    context: Option<String>,
    #[command(flatten)]
    result: ResultArgs,
}

#[derive(Args)]
pub struct HmacArgs {
    /// The name of the key.
    name: String,
    /// The message; '-' reads it from stdin.
    message: String,
    #[command(flatten)]
    result: ResultArgs,
}

#[derive(Args)]
struct ResultArgs {
    /// Print the result as JSON on a terminal, too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Generates a data encryption key.
pub fn dek(args: &DekArgs, call: Call<'_>) -> Result<(), Failure> {
    let body = with_context(Map::new(), args.context.as_deref())?;
    let client = args.result.connection.client(call)?;
    let answer = put(&client, "generate", &args.name, &body, "failed to derive key")?;
    print(&answer, args.result.json, call)
}

/// Encrypts a message.
pub fn encrypt(args: EncryptArgs, call: Call<'_>) -> Result<(), Failure> {
    let message = message(args.message)?;
    let body = Map::from_iter([("plaintext".to_owned(), STANDARD.encode(&*message).into())]);
    let body = with_context(body, args.context.as_deref())?;
    let client = args.result.connection.client(call)?;
    let answer = put(&client, "encrypt", &args.name, &body, "failed to encrypt message")?;
    print(&answer, args.result.json, call)
}

/// Decrypts a ciphertext.
pub fn decrypt(args: &DecryptArgs, call: Call<'_>) -> Result<(), Failure> {
    let ciphertext = base64_text(&args.ciphertext)?;
    check_base64(&ciphertext, "ciphertext")?;
    let body = Map::from_iter([("ciphertext".to_owned(), ciphertext.as_str().into())]);
    let body = with_context(body, args.context.as_deref())?;
    let client = args.result.connection.client(call)?;
    let answer = put(&client, "decrypt", &args.name, &body, "failed to decrypt ciphertext")?;
    print(&answer, args.result.json, call)
}

/// Computes an HMAC.
pub fn hmac(args: HmacArgs, call: Call<'_>) -> Result<(), Failure> {
    let message = message(args.message)?;
    let client = args.result.connection.client(call)?;
    let body = json!({ "message": STANDARD.encode(&*message) });
    let answer = put(&client, "hmac", &args.name, &body, "failed to compute the HMAC")?;
    print(&answer, args.result.json, call)
}

fn put(client: &Client, operation: &str, name: &str, body: &Value, failure: &str) -> Result<Answer, Failure> {
    let answer = block_on(client.json(Method::PUT, &key_path(operation, name), Some(body)))?;
    answer.map_err(|error| failed(failure, error))
}

fn with_context(mut body: Map<String, Value>, context: Option<&str>) -> Result<Value, Failure> {
    if let Some(context) = context {
        check_base64(context, "context")?;
        body.insert("context".to_owned(), context.into());
    }
    Ok(Value::Object(body))
}

/// The result of an operation. It has some of these fields, in the order in which KES prints them.
#[derive(Deserialize, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hmac: Option<String>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
}

/// Prints an answer as KES does: with labels on a terminal, and otherwise as JSON.
fn print(answer: &Answer, json: bool, call: Call<'_>) -> Result<(), Failure> {
    let output = call.output(json);
    if output.is_json() || !output.is_terminal() {
        return output.json(answer);
    }
    let fields =
        [("plaintext:", &answer.plaintext), ("ciphertext:", &answer.ciphertext), ("hmac:", &answer.hmac)];
    for (label, value) in fields {
        if let Some(value) = value {
            output.line(format_args!("{label:<11} {value}"))?;
        }
    }
    Ok(())
}
