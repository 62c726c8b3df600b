//! `kms identity`: API keys and certificates are made, and told whose they are.

use std::io::Read as _;
use std::net::{AddrParseError, IpAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use kms_core::Identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::listing::{self, Kind, Patterns};
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::{Failure, block_on, client, duration, password};
use crate::config::parse_duration;
use crate::credentials::apikey::{self, ApiKey, InvalidApiKey};
use crate::credentials::certificate::{self, Facts, NewCertificate};
use crate::credentials::private_key::{self, Unreadable};
use crate::host::files;
use crate::text::mask::Secret;

/// The arguments of `kms identity`: a command, or what to tell the identity of.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// An API key or the file of a certificate, whose identity is told, or of a private key, whose API key is; '-' reads any of
    /// these from stdin. Without it a new API key is made.
    #[arg(value_name = "API-KEY|FILE")]
    of: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// The commands of `kes tool identity`, of 2020.
#[derive(Subcommand)]
pub enum ToolCommand {
    /// Make a certificate and its private key.
    New(NewArgs),
    /// Tell the identity of a certificate.
    Of(ToolOfArgs),
}

#[derive(clap::Args)]
pub struct ToolOfArgs {
    /// The file of a certificate, or an API key; stdin if it is not told.
    #[arg(value_name = "API-KEY|CERTIFICATE", default_value = "-")]
    of: String,
    /// The hash function of the identity. Servers know SHA-256 alone.
    #[arg(long, hide = true, ignore_case = true, value_parser = ["SHA256", "SHA-256"])]
    hash: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

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
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
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
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = parse_ip)]
    ip: Vec<IpAddr>,
    /// A host name that the certificate is for.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    dns: Vec<String>,
    /// How long the certificate is valid, 720h if not told.
    #[arg(long, short_alias = 't', alias = "time", value_name = "DURATION", value_parser = parse_duration)]
    expiry: Option<Duration>,
    /// Without effect: every certificate is for servers, too, as since 2021.
    #[arg(long, hide = true)]
    server: bool,
    /// Ask for a password, and encrypt the private key with it.
    #[arg(long)]
    encrypt: bool,
    /// Overwrite files that exist.
    #[arg(short, long)]
    force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Reads an address, which may have blanks about it: `127.0.0.1, ::1`.
fn parse_ip(text: &str) -> Result<IpAddr, AddrParseError> {
    text.trim().parse()
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

impl NewArgs {
    /// Takes the blanks from the names of a list, and out of it what a variable without a value left there: an empty name is
    /// none of a host.
    fn without_empty_names(mut self) -> Self {
        let names = self.dns.iter().map(|name| name.trim().to_owned());
        self.dns = names.filter(|name| !name.is_empty()).collect();
        self
    }
}

/// Runs one of the commands.
pub fn run(args: Args, call: Call<'_>) -> Result<(), Failure> {
    match args.command {
        None => match &args.of {
            None => print_new_key(args.json, call),
            Some(of) => tell(of, args.json, call),
        },
        Some(Command::New(args)) => new(&args.without_empty_names(), None, call),
        Some(Command::Of(args)) => of(&args.of, args.json, call),
        Some(Command::Info(args)) => info(&args, call),
        Some(Command::Ls(args)) => {
            listing::print(Kind::Identities, &args.pattern, &args.connection.client(call)?, args.json, call)
        }
    }
}

/// Runs one of the commands of 2020.
pub fn run_tool(command: ToolCommand, call: Call<'_>) -> Result<(), Failure> {
    match command {
        // There were no API keys: without names the files have these.
        ToolCommand::New(args) => {
            new(&args.without_empty_names(), Some((Path::new("private.key"), Path::new("public.crt"))), call)
        }
        ToolCommand::Of(args) => of(&args.of, args.json, call),
    }
}

fn info(args: &InfoArgs, call: Call<'_>) -> Result<(), Failure> {
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
    let client = args.connection.client(call)?;
    let answer = block_on(client.send(Method::GET, &path, None))??;
    let output = call.output(args.json);
    if output.is_json() {
        return output.received_json(&answer);
    }
    let info: Info = client::parse(&answer)?;
    let named = args.identity.clone().unwrap_or(info.identity);
    output.details(&[
        ("Identity", &named),
        ("Policy", &info.policy),
        ("Created At", &duration::date(&info.created_at)),
        ("Role", if info.admin { "Admin" } else { "User" }),
        ("Created By", &info.created_by),
    ])?;
    for (title, patterns) in [("Allow", &info.allow), ("Deny", &info.deny)] {
        if !patterns.is_empty() {
            output.row(&[(Style::Label, title)])?;
            output.lines(patterns.keys().map(|pattern| format!("  {pattern}")))?;
        }
    }
    Ok(())
}

/// Makes an API key and prints it: alone for a script, and for people with what it is.
fn print_new_key(json: bool, call: Call<'_>) -> Result<(), Failure> {
    let made = New::generate(None)?;
    let output = call.output(json);
    if !output.is_json() && !output.is_terminal() {
        return output.line(&*made.api_key);
    }
    made.print(output, call)
}

/// Tells the identity of an API key or a certificate, or the API key that a file's private key is.
fn tell(of: &str, json: bool, call: Call<'_>) -> Result<(), Failure> {
    let output = call.output(json);
    let api_key = match read(of)? {
        Read::Identity(identity) => return tell_identity(&identity, output),
        Read::ApiKey(api_key) => api_key,
    };
    let text = api_key.to_text();
    if output.is_json() {
        return output.json(&json!({ "api_key": *text, "identity": api_key.identity().to_string() }));
    }
    if !output.is_terminal() {
        return output.line(&*text);
    }
    output.text("Your API key:\n")?;
    output.row(&[(Style::Plain, "   "), (Style::Strong, &text)])?;
    output.line("")?;
    output.line(format_args!("It corresponds to the private key in: {of}."))?;
    output.line("Keep it secret and secure!")
}

fn new(args: &NewArgs, default_files: Option<(&Path, &Path)>, call: Call<'_>) -> Result<(), Failure> {
    let files = match (&args.key, &args.cert, default_files) {
        (Some(key), Some(cert), _) => Some((key.as_path(), cert.as_path())),
        (None, None, None) => None,
        (key, cert, Some((default_key, default_cert))) => {
            Some((key.as_deref().unwrap_or(default_key), cert.as_deref().unwrap_or(default_cert)))
        }
        (Some(_), None, None) => {
            return Err(Failure::new(
                "private key file specified but no certificate file. Set the '--cert' flag",
            ));
        }
        (None, Some(_), None) => {
            return Err(Failure::new(
                "certificate file specified but no private key file. Set the '--key' flag",
            ));
        }
    };
    if files.is_none() {
        // A subject is none of these: scripts give it to what is an API key alone.
        let flags = [
            ("--ip", !args.ip.is_empty()),
            ("--dns", !args.dns.is_empty()),
            ("--expiry", args.expiry.is_some()),
            ("--force", args.force),
            ("--encrypt", args.encrypt),
        ];
        if let Some((flag, _)) = flags.into_iter().find(|(_, is_given)| *is_given) {
            return Err(Failure::new(format!(
                "'{flag}' requires a private key and certificate file. Set the '--cert' and '--key' flag"
            )));
        }
    }
    let made = New::generate(files)?;
    if let Some((key, cert)) = files {
        write_certificate(args, &made.key, key, cert)?;
    }
    made.print(call.output(args.json), call)
}

fn write_certificate(args: &NewArgs, api_key: &ApiKey, key: &Path, cert: &Path) -> Result<(), Failure> {
    if !args.force
        && let Some(path) = [key, cert].into_iter().find(|path| path.exists())
    {
        return Err(Failure::new(format!(
            "{}: the file exists, add --force to overwrite it",
            path.display()
        )));
    }
    // The target of a link may be missing.
    let write = |path: &Path, content: &[u8], mode| {
        let is_new = !args.force && path.symlink_metadata().is_err();
        if is_new { files::write_new(path, content, mode) } else { files::overwrite(path, content, mode) }
    };
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
    let key_pem = if args.encrypt {
        let password = password::ask_for_new(key)?;
        let mut iv = [0; 16];
        kms_core::primitives::fill_random(&mut iv)?;
        Zeroizing::new(private_key::encrypt(made.key.secret_der(), password.as_bytes(), iv))
    } else {
        made.key_pem()
    };
    write(key, key_pem.as_bytes(), files::PRIVATE).map_err(failed(key))?;
    write(cert, made.chain_pem().as_bytes(), files::PUBLIC).map_err(|error| {
        if !args.force && !key.is_symlink() {
            // A key without its certificate would only be in the way of the next attempt.
            let _ = std::fs::remove_file(key);
        }
        failed(cert)(error)
    })
}

/// How long a certificate is valid unless told: 30 days, as with KES.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(720 * 3600);

/// What was made.
struct New<'a> {
    key: ApiKey,
    api_key: Zeroizing<String>,
    identity: Identity,
    files: Option<(&'a Path, &'a Path)>,
}

impl<'a> New<'a> {
    fn generate(files: Option<(&'a Path, &'a Path)>) -> Result<Self, Failure> {
        let key = ApiKey::generate()?;
        Ok(Self { api_key: key.to_text(), identity: key.identity(), key, files })
    }

    /// Prints what KES prints, whose lines and labels scripts cut with sed and awk; what looks like an API key, and the last 64
    /// hex digits, are taken by others.
    fn print(&self, output: Output, call: Call<'_>) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&json!({
                "api_key": *self.api_key,
                "identity": self.identity.to_string(),
                "key": self.files.map(|(key, _)| key),
                "cert": self.files.map(|(_, cert)| cert),
            }));
        }
        let identity = self.identity.to_string();
        let program = call.name.as_str();
        output.text("Your API key:\n")?;
        output.row(&[(Style::Plain, "   "), (Style::Strong, &self.api_key)])?;
        output.text("\nThis is the only time it is shown. Keep it secret and secure!\n")?;
        output.text("Your Identity:\n")?;
        output.row(&[(Style::Plain, "   "), (Style::Strong, &identity)])?;
        output.text(
            "\nThe identity is not a secret. It can be shared. Any peer\n\
             needs this identity in order to verify your API key.\n",
        )?;
        if let Some((key, cert)) = self.files {
            output.line(format_args!("The generated TLS private key is stored at: {}", key.display()))?;
            output.line(format_args!("The generated TLS certificate is stored at: {}", cert.display()))?;
            output.line("")?;
        }
        output.text("The identity can be computed again via:\n")?;
        output.line(format_args!("    {program} identity of {}", *self.api_key))?;
        match self.files {
            Some((_, cert)) => output.line(format_args!("    {program} identity of {}", cert.display())),
            None => output.line(""),
        }
    }
}

fn of(of: &str, json: bool, call: Call<'_>) -> Result<(), Failure> {
    tell_identity(&identity_of(of)?, call.output(json))
}

fn tell_identity(identity: &Identity, output: Output) -> Result<(), Failure> {
    let identity = identity.to_string();
    if output.is_json() {
        return output.json(&json!({ "identity": identity }));
    }
    if !output.is_terminal() {
        return output.line(identity);
    }
    output.text("Identity:\n")?;
    output.row(&[(Style::Plain, "   "), (Style::Strong, &identity)])
}

/// What a text or a file is.
enum Read {
    /// A certificate, or an API key, of this identity.
    Identity(Identity),
    /// A private key, which is this API key.
    ApiKey(ApiKey),
}

/// Reads an API key, or what comes first in a file: a certificate, or the private key of one.
fn read(of: &str) -> Result<Read, Failure> {
    let from = Source::of(of)?;
    let private_key = |content: &[u8]| {
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(content);
        let mut sections = sections.map_while(Result::ok).filter_map(|(kind, der)| match kind {
            SectionKind::Certificate => Some(None),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Some(Some(Zeroizing::new(der)))
            }
            _ => None,
        });
        sections.next().flatten()
    };
    if let Source::Content { name, content } = &from
        && let Some(der) = encrypted_key(name, content)?.or_else(|| private_key(content))
    {
        let unsupported = || {
            Failure::new(format!(
                "'{name}' contains unsupported private key. Only ed25519 private keys are supported"
            ))
        };
        return ApiKey::of_private_key(&der).map(Read::ApiKey).ok_or_else(unsupported);
    }
    from.identity().map(Read::Identity)
}

/// Reads the private key of a file that begins with an encrypted one, by the password that is asked for.
fn encrypted_key(name: &str, content: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    // Beside a certificate it takes no password to tell whose it is.
    if !private_key::is_encrypted(content) || CertificateDer::from_pem_slice(content).is_ok() {
        return Ok(None);
    }
    let password = password::ask(Path::new(name))?;
    let unreadable = |why: Unreadable| Failure::new(format!("{name}: {}", why.with_password_asked()));
    let key = private_key::read(content, Some(&password)).map_err(unreadable)?;
    Ok(Some(Zeroizing::new(key.secret_der().to_vec())))
}

/// Finds the identity of an API key, or of the certificate in a file.
pub fn identity_of(text: &str) -> Result<Identity, Failure> {
    Source::of(text)?.identity()
}

/// Where an identity is looked for.
enum Source {
    /// In an API key.
    ApiKey(ApiKey),
    /// In what a file, or stdin, holds.
    Content { name: String, content: Zeroizing<Vec<u8>> },
}

impl Source {
    /// Reads an argument: an API key, the name of a file, or `-` for stdin.
    fn of(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            let mut content = Zeroizing::new(Vec::new());
            std::io::stdin()
                .lock()
                .read_to_end(&mut content)
                .map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
            let text = std::str::from_utf8(&content).map(str::trim).unwrap_or_default();
            if text.starts_with(apikey::PREFIX) {
                return Ok(Self::ApiKey(ApiKey::parse(text)?));
            }
            return Ok(Self::Content { name: "stdin".to_owned(), content });
        }
        if text.starts_with(apikey::PREFIX) {
            return Ok(Self::ApiKey(ApiKey::parse(text)?));
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
        Ok(Self::Content { name: text.to_owned(), content: Zeroizing::new(content) })
    }

    fn identity(&self) -> Result<Identity, Failure> {
        match self {
            Self::ApiKey(api_key) => Ok(api_key.identity()),
            Self::Content { name, content } => {
                let facts = certificate::first_of(content).and_then(|der| Facts::of(&der));
                Ok(facts.map_err(|error| Failure::new(format!("{name}: {error}")))?.identity)
            }
        }
    }
}
