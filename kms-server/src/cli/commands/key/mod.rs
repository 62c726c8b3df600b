//! `kms key`: keys are made, listed and used on a server.

mod discard;

use std::io::{self, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use http::Method;
use kms_core::KeyName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize as _, Zeroizing};

use crate::cli::client::{self, Client, ClientError};
use crate::cli::connection::Connection;
use crate::cli::listing::{self, Kind};
use crate::cli::name::Call;
use crate::cli::output::note;
use crate::cli::{Failure, block_on, duration};

/// The commands of `kms key`.
#[derive(Subcommand)]
pub enum Command {
    /// Create keys.
    Create(NamesArgs),
    /// Import a key that exists already.
    Import(ImportArgs),
    /// Tell what is known of a key.
    Info(InfoArgs),
    /// List keys.
    #[command(alias = "list")]
    Ls(LsArgs),
    /// Delete keys for ever, and with them all that was encrypted under them.
    #[command(alias = "delete")]
    Rm(NamesArgs),
    /// Give up a key of a local store that cannot be read; the server must not run.
    Discard(discard::DiscardArgs),
    /// Make a new data encryption key.
    #[command(alias = "derive")]
    Dek(DekArgs),
    /// Encrypt a message.
    Encrypt(EncryptArgs),
    /// Decrypt what 'dek' or 'encrypt' made.
    Decrypt(DecryptArgs),
    /// Compute the HMAC-SHA256 of a message.
    Hmac(HmacArgs),
}

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
    /// 32 bytes in base64; '-' reads them from stdin, where other users of this machine do not see them.
    key: String,
    /// The cipher to use the key with.
    #[arg(long, default_value = "AES256", value_name = "AES256|ChaCha20")]
    cipher: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct InfoArgs {
    /// The name of the key.
    name: String,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct LsArgs {
    /// What the names begin with; may end in '*'.
    #[arg(default_value = "*")]
    pattern: String,
    /// Print the names as a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct DekArgs {
    /// The name of the key.
    name: String,
    /// What the new key is bound to, in base64.
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
    /// What the ciphertext is bound to, in base64.
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
    /// What the ciphertext is bound to, in base64.
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
pub struct ResultArgs {
    /// Print JSON on a terminal, too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Runs one of the commands.
pub fn run(command: Command, call: Call<'_>) -> Result<(), Failure> {
    let environment = call.environment;
    match command {
        Command::Create(args) => create(&args, call),
        Command::Discard(args) => discard::run(&args, environment),
        Command::Import(args) => {
            import(&args.connection.client(call)?, &args.name, &argument_or_stdin(&args.key)?, &args.cipher)
        }
        Command::Info(args) => info(&args, call),
        Command::Ls(args) => {
            listing::print(Kind::Keys, &args.pattern, &args.connection.client(call)?, args.json, call)
        }
        Command::Rm(args) => remove(&args, call),
        Command::Dek(args) => {
            let body = with_context(Map::new(), args.context.as_deref())?;
            let client = args.result.connection.client(call)?;
            let answer = put(&client, "generate", &args.name, &body, "failed to derive key")?;
            print_answer(&answer, args.result.json, call)
        }
        Command::Encrypt(args) => {
            let message = if args.message == "-" { stdin_bytes()? } else { args.message.into_bytes().into() };
            let body = Map::from_iter([("plaintext".to_owned(), STANDARD.encode(&*message).into())]);
            let body = with_context(body, args.context.as_deref())?;
            let client = args.result.connection.client(call)?;
            let answer = put(&client, "encrypt", &args.name, &body, "failed to encrypt message")?;
            print_answer(&answer, args.result.json, call)
        }
        Command::Decrypt(args) => {
            let ciphertext = argument_or_stdin(&args.ciphertext)?;
            check_base64(&ciphertext, "ciphertext")?;
            let body = Map::from_iter([("ciphertext".to_owned(), ciphertext.as_str().into())]);
            let body = with_context(body, args.context.as_deref())?;
            let client = args.result.connection.client(call)?;
            let answer = put(&client, "decrypt", &args.name, &body, "failed to decrypt ciphertext")?;
            print_answer(&answer, args.result.json, call)
        }
        Command::Hmac(args) => {
            let message = if args.message == "-" { stdin_bytes()? } else { args.message.into_bytes().into() };
            let client = args.result.connection.client(call)?;
            let body = json!({ "message": STANDARD.encode(&*message) });
            let answer = put(&client, "hmac", &args.name, &body, "failed to compute the HMAC")?;
            print_answer(&answer, args.result.json, call)
        }
    }
}

fn create(args: &NamesArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    // In 2020 `key create NAME KEY` was an import; a key in base64 is no name.
    if let [name, key] = args.names.as_slice()
        && KeyName::new(key.as_str()).is_err()
        && decode_key(key).is_ok()
    {
        return import(&client, name, key, "AES256");
    }
    block_on(async {
        for name in &args.names {
            let sent = client.send(Method::PUT, &key_path("create", name), None).await;
            sent.map_err(|error| failed(&format!("failed to create key \"{name}\""), error))?;
        }
        Ok(())
    })?
}

fn import(client: &Client, name: &str, key: &str, cipher: &str) -> Result<(), Failure> {
    let key = decode_key(key)?;
    let body = json!({ "key": STANDARD.encode(&*key), "cipher": cipher });
    let sent = block_on(client.send(Method::PUT, &key_path("import", name), Some(&body)))?;
    sent.map(drop).map_err(|error| failed(&format!("failed to import \"{name}\""), error))
}

fn info(args: &InfoArgs, call: Call<'_>) -> Result<(), Failure> {
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
    let info: Info = client::parse(&answer)?;
    output.lines([
        format_args!("Name        {}", info.name),
        format_args!("Algorithm   {}", info.algorithm),
        format_args!("Date        {}", duration::date(&info.created_at)),
        format_args!("Owner       {}", info.created_by),
    ])
}

fn remove(args: &NamesArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    block_on(async {
        for name in &args.names {
            let sent = client.send(Method::DELETE, &key_path("delete", name), None).await;
            sent.map_err(|error| failed(&format!("failed to remove key \"{name}\""), error))?;
        }
        Ok::<_, Failure>(())
    })??;
    // KES says nothing, and scripts take what is on stderr for a failure.
    if !call.is_kes() {
        note(
            "note: other servers of the same key store may go on sealing with it \
             for at most their cache.expiry.any (5m by default)",
        );
    }
    Ok(())
}

fn put(client: &Client, operation: &str, name: &str, body: &Value, failure: &str) -> Result<Answer, Failure> {
    let answer = block_on(client.json(Method::PUT, &key_path(operation, name), Some(body)))?;
    answer.map_err(|error| failed(failure, error))
}

/// What a server computes: some of these, in the order in which KES prints them.
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

/// Prints as KES does: labelled on a terminal, else JSON.
fn print_answer(answer: &Answer, json: bool, call: Call<'_>) -> Result<(), Failure> {
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

fn with_context(mut body: Map<String, Value>, context: Option<&str>) -> Result<Value, Failure> {
    if let Some(context) = context {
        check_base64(context, "context")?;
        body.insert("context".to_owned(), context.into());
    }
    Ok(Value::Object(body))
}

fn key_path(operation: &str, name: &str) -> String {
    listing::path_of(&format!("key/{operation}"), name)
}

fn failed(doing: &str, error: ClientError) -> Failure {
    Failure::from(error).context(doing)
}

fn check_base64(text: &str, what: &str) -> Result<(), Failure> {
    match STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(format!("invalid {what}: expected standard base64"))),
    }
}

fn decode_key(text: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let invalid = || Failure::new("invalid key: expected 32 bytes in standard base64");
    let bytes = STANDARD.decode(text).map(Zeroizing::new).map_err(|_| invalid())?;
    if bytes.len() == 32 { Ok(bytes) } else { Err(invalid()) }
}

/// Takes an argument, or the text on stdin without the line end if it is `-`.
fn argument_or_stdin(argument: &str) -> Result<Zeroizing<String>, Failure> {
    if argument != "-" {
        return Ok(Zeroizing::new(argument.to_owned()));
    }
    let bytes = stdin_bytes()?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::new("stdin: expected base64"))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn stdin_bytes() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
    Ok(bytes)
}
