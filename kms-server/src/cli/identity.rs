//! `kms identity`: API keys and certificates are made, and told whose they are.

use std::fmt;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use kms_core::Identity;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::connection::Connection;
use super::listing::{self, Kind, Patterns};
use super::{Failure, Output, block_on};
use crate::apikey::{self, ApiKey, InvalidApiKey};
use crate::certificate::{self, Facts, NewCertificate};
use crate::config::{Environment, parse_duration};
use crate::files;
use crate::mask::Secret;

/// The commands of `kms identity`.
#[derive(Subcommand)]
pub enum Command {
    /// Make an API key, and on request a certificate and its private key for it.
    New(NewArgs),
    /// Tell the identity of an API key or of a certificate.
    Of(OfArgs),
    /// Tell what an identity may do on a server; your own if none is named.
    Info(InfoArgs),
    /// List the identities that a server knows.
    #[command(alias = "list")]
    Ls(LsArgs),
}

#[derive(clap::Args)]
pub struct InfoArgs {
    /// The identity.
    identity: Option<String>,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args)]
pub struct LsArgs {
    /// What the identities begin with; may end in '*'.
    #[arg(default_value = "*")]
    pattern: String,
    /// Print them as a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args)]
pub struct NewArgs {
    /// The common name in the certificate; the identity if not told.
    subject: Option<String>,
    /// Write the private key to this file.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Write the certificate to this file.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// An address that the certificate is for.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    ip: Vec<IpAddr>,
    /// A host name that the certificate is for.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    dns: Vec<String>,
    /// How long the certificate is valid, 720h if not told.
    #[arg(long, alias = "time", value_name = "DURATION", value_parser = parse_duration)]
    expiry: Option<Duration>,
    /// Not supported: keep the file of the private key where nobody else can read it.
    #[arg(long, hide = true)]
    encrypt: bool,
    /// Overwrite files that exist.
    #[arg(short, long)]
    force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct OfArgs {
    /// An API key, or the file of a certificate; '-' reads either from stdin.
    #[arg(value_name = "API-KEY|CERTIFICATE")]
    of: String,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub fn run(command: Command, environment: &Environment) -> Result<(), Failure> {
    match command {
        Command::New(args) => new(&args),
        Command::Of(args) => of(&args),
        Command::Info(args) => info(&args, environment),
        Command::Ls(args) => listing::print(
            Kind::Identities,
            &args.pattern,
            &args.connection.client(environment)?,
            Output::new(args.json),
        ),
    }
}

fn info(args: &InfoArgs, environment: &Environment) -> Result<(), Failure> {
    /// What a server tells of an identity; of the caller more than of others.
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Info {
        identity: String,
        admin: bool,
        policy: String,
        created_at: String,
        created_by: String,
        allow: Patterns,
        deny: Patterns,
    }

    let path = match &args.identity {
        None => "/v1/identity/self/describe".to_owned(),
        Some(identity) => {
            listing::refuse_secret(identity)?;
            listing::path_of("identity/describe", identity)
        }
    };
    let client = args.connection.client(environment)?;
    let answer = block_on(client.send(Method::GET, &path, None))?
        .map_err(|error| Failure::from(error).context("failed to describe identity"))?;
    let output = Output::new(args.json);
    if output.is_json() {
        return output.received_json(&answer);
    }
    let info: Info = serde_json::from_slice(&answer)
        .map_err(|error| Failure::new(format!("the server's answer: {error}")))?;
    let named = args.identity.clone().unwrap_or(info.identity);
    let role = if info.admin { "admin" } else { "user" };
    let values = [
        ("Identity", named.as_str()),
        ("Role", role),
        ("Policy", &info.policy),
        ("Created At", &info.created_at),
        ("Created By", &info.created_by),
    ];
    output.lines(listing::details(&values, &[("Allow", &info.allow), ("Deny", &info.deny)]))
}

fn new(args: &NewArgs) -> Result<(), Failure> {
    if args.encrypt {
        return Err(Failure::new(
            "--encrypt is not supported: the private key file is made readable by its owner only, keep it so",
        ));
    }
    let files = match (&args.key, &args.cert) {
        (Some(key), Some(cert)) => Some((key.as_path(), cert.as_path())),
        (None, None) => None,
        (Some(_), None) => {
            return Err(Failure::new(
                "a file for the private key but none for the certificate: add --cert FILE",
            ));
        }
        (None, Some(_)) => {
            return Err(Failure::new(
                "a file for the certificate but none for the private key: add --key FILE",
            ));
        }
    };
    if files.is_none() {
        let flag = match args {
            NewArgs { ip, .. } if !ip.is_empty() => Some("--ip"),
            NewArgs { dns, .. } if !dns.is_empty() => Some("--dns"),
            NewArgs { expiry: Some(_), .. } => Some("--expiry"),
            NewArgs { subject: Some(_), .. } => Some("a subject"),
            _ => None,
        };
        if let Some(flag) = flag {
            return Err(Failure::new(format!("{flag} is for a certificate: add --key FILE and --cert FILE")));
        }
    }
    let api_key = ApiKey::generate()?;
    if let Some((key, cert)) = files {
        write_certificate(args, &api_key, key, cert)?;
    }
    let made = New { api_key: api_key.to_text(), identity: api_key.identity(), files };
    let output = Output::new(args.json);
    if output.is_json() {
        return output.json(&json!({
            "api_key": *made.api_key,
            "identity": made.identity.to_string(),
            "key": args.key,
            "cert": args.cert,
        }));
    }
    output.text(made)
}

fn write_certificate(args: &NewArgs, api_key: &ApiKey, key: &Path, cert: &Path) -> Result<(), Failure> {
    let write = if args.force { files::replace } else { files::write_new };
    if !args.force
        && let Some(path) = [key, cert].into_iter().find(|path| path.symlink_metadata().is_ok())
    {
        return Err(Failure::new(format!(
            "{}: the file exists, add --force to overwrite it",
            path.display()
        )));
    }
    let made = api_key.certify(&NewCertificate {
        common_name: args.subject.clone().unwrap_or_else(|| api_key.identity().to_string()),
        dns_names: args.dns.clone(),
        ip_addresses: args.ip.clone(),
        validity: args.expiry.unwrap_or(DEFAULT_EXPIRY),
        server: true,
    })?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Failure::new(files::failed(&path, &error))
    };
    write(key, made.key_pem().as_bytes(), files::PRIVATE).map_err(failed(key))?;
    write(cert, made.chain_pem().as_bytes(), files::PUBLIC).map_err(failed(cert))
}

/// How long a certificate is valid unless told: 30 days, as with KES.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(720 * 3600);

/// What was made. Scripts take what looks like an API key from the text, and its last 64 hex digits.
struct New<'a> {
    api_key: Zeroizing<String>,
    identity: Identity,
    files: Option<(&'a Path, &'a Path)>,
}

impl fmt::Display for New<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Your API key:\n\n   {}\n", *self.api_key)?;
        writeln!(f, "It is shown this once. Whoever has it can do what its identity may: keep it secret.\n")?;
        if let Some((key, cert)) = self.files {
            writeln!(
                f,
                "The same key is in {} (private key) and {} (certificate).\n",
                key.display(),
                cert.display()
            )?;
        }
        write!(
            f,
            "Your identity, which is no secret and goes into the server's config:\n\n   {}",
            self.identity
        )
    }
}

fn of(args: &OfArgs) -> Result<(), Failure> {
    let identity = identity_of(&args.of)?;
    let output = Output::new(args.json);
    if output.is_json() {
        return output.json(&json!({ "identity": identity.to_string() }));
    }
    if output.is_terminal() {
        output.line(format_args!("Identity: {identity}"))
    } else {
        output.line(identity)
    }
}

/// Finds the identity of an API key, or of the certificate in a file.
pub fn identity_of(text: &str) -> Result<Identity, Failure> {
    if text == "-" {
        let mut content = Zeroizing::new(Vec::new());
        std::io::stdin()
            .lock()
            .read_to_end(&mut content)
            .map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
        let text = std::str::from_utf8(&content).map(str::trim).unwrap_or_default();
        if text.starts_with(apikey::PREFIX) {
            return Ok(ApiKey::parse(text)?.identity());
        }
        return identity_of_certificate("stdin", &content);
    }
    if text.starts_with(apikey::PREFIX) {
        return Ok(ApiKey::parse(text)?.identity());
    }
    let path = Path::new(text);
    // An API key that lost its prefix is no file name to be printed.
    if let Some(secret) = Secret::in_text(text).filter(|_| !path.exists()) {
        return Err(match secret {
            Secret::ApiKey(_) => InvalidApiKey::Prefix.into(),
            secret => Failure::new(format!("there is no such file: {secret}")),
        });
    }
    let content = std::fs::read(path).map_err(|error| Failure::new(files::failed(path, &error)))?;
    identity_of_certificate(text, &content)
}

fn identity_of_certificate(name: &str, content: &[u8]) -> Result<Identity, Failure> {
    let facts = certificate::first_of(content).and_then(|der| Facts::of(&der));
    Ok(facts.map_err(|error| Failure::new(format!("{name}: {error}")))?.identity)
}
