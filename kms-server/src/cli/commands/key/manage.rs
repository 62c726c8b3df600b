//! Keys and what is known of them: `kms key create`, `import` and `info`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Method;
use kms_core::KeyName;
use serde::Deserialize;
use serde_json::json;

use super::input::{base64_text, decode_key};
use super::request::{failed, key_path};
use super::versions;
use crate::cli::client::{Client, parse};
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::name::Call;
use crate::cli::runtime::block_on;

#[derive(Args)]
pub struct NamesArgs {
    /// The names of the keys.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct ImportArgs {
    /// The name of the key.
    name: String,
    /// The key: 32 bytes in base64; '-' reads them from stdin, where other users of this machine cannot see them.
    key: String,
    /// The cipher of the key.
    #[arg(long, default_value = "AES256", value_name = "AES256|ChaCha20")]
    cipher: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct InfoArgs {
    /// The name of the key.
    name: String,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Creates keys.
pub fn create(args: &NamesArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    // In 2020, `key create NAME KEY` imported a key. Such a key in base64 is not a valid name.
    if let [name, key] = args.names.as_slice()
        && KeyName::new(key.as_str()).is_err()
        && decode_key(key).is_ok()
    {
        return send_import(&client, name, key, "AES256");
    }
    block_on(async {
        for name in &args.names {
            let sent = client.send(Method::PUT, &key_path("create", name), None).await;
            sent.map_err(|error| failed(&format!("failed to create key \"{name}\""), error))?;
        }
        Ok(())
    })?
}

/// Imports a key.
pub fn import(args: &ImportArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    send_import(&client, &args.name, &base64_text(&args.key)?, &args.cipher)
}

fn send_import(client: &Client, name: &str, key: &str, cipher: &str) -> Result<(), Failure> {
    let key = decode_key(key)?;
    let body = json!({ "key": STANDARD.encode(&*key), "cipher": cipher });
    let sent = block_on(client.send(Method::PUT, &key_path("import", name), Some(&body)))?;
    sent.map(drop).map_err(|error| failed(&format!("failed to import \"{name}\""), error))
}

/// Prints the metadata of a key.
pub fn info(args: &InfoArgs, call: Call<'_>) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Info {
        name: String,
        #[serde(default)]
        algorithm: String,
        #[serde(default)]
        created_at: String,
        #[serde(default)]
        created_by: String,
    }

    let client = args.connection.client(call)?;
    let answer = block_on(client.send(Method::GET, &key_path("describe", &args.name), None))?
        .map_err(|error| failed("failed to describe keys", error))?;
    let output = call.output(args.json);
    if output.is_json() {
        return output.received_json(&answer);
    }
    let info: Info = parse(&answer)?;
    output.lines([
        format_args!("Name        {}", info.name),
        format_args!("Algorithm   {}", info.algorithm),
        format_args!("Date        {}", format::date(&info.created_at)),
        format_args!("Owner       {}", info.created_by),
    ])?;
    if call.is_kes() { Ok(()) } else { versions::print(&client.each(), &args.name, output) }
}
