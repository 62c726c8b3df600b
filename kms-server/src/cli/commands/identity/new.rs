//! `kms identity new`: creates an API key, and a certificate for it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_core::Identity;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::colour::Style;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::password;
use crate::cli::reachable::{parse_host_name, parse_ip};
use crate::config::parse_duration;
use crate::credentials::apikey::ApiKey;
use crate::credentials::certificate::NewCertificate;
use crate::credentials::private_key;
use crate::host::files;

/// The default validity of a certificate: 30 days, as with KES.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(720 * 3600);

#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct NewArgs {
    /// The common name in the certificate [default: the identity].
    subject: Option<String>,
    /// Write the private key to this file.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Write the certificate to this file.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// An IP address of the certificate.
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = parse_ip)]
    ip: Vec<IpAddr>,
    /// A host name of the certificate.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', value_parser = parse_dns)]
    dns: Vec<String>,
    /// The validity of the certificate [default: 720h].
    #[arg(long, short_alias = 't', alias = "time", value_name = "DURATION", value_parser = parse_duration)]
    expiry: Option<Duration>,
    /// Has no effect: since 2021 every certificate is for servers, too.
    #[arg(long, hide = true)]
    server: bool,
    /// Encrypt the private key with a password, which is asked for.
    #[arg(long)]
    encrypt: bool,
    /// Overwrite files that exist.
    #[arg(short, long)]
    force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Parses a host name. As with KES, an address may take its place, and it may be empty.
fn parse_dns(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() || parse_ip(text).is_ok() { Ok(text.to_owned()) } else { parse_host_name(text) }
}

/// The files of a certificate and its private key.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    pub key: &'a Path,
    pub cert: &'a Path,
}

/// Creates an API key, and also writes a certificate and its private key if the arguments or `default_files` name files.
pub fn run(args: NewArgs, default_files: Option<Files<'_>>, call: Call<'_>) -> Result<(), Failure> {
    let args = args.without_empty_names();
    let files = args.files(default_files)?;
    if files.is_none() {
        args.refuse_flags_of_certificates()?;
    }
    let created = Created::generate(files)?;
    if let Some(files) = files {
        write_certificate(&args, &created.key, files)?;
    }
    created.print(call.output(args.json), call)
}

/// Creates an API key. A pipe gets the key alone, and a terminal an explanation, too.
pub fn run_without_arguments(json: bool, call: Call<'_>) -> Result<(), Failure> {
    let created = Created::generate(None)?;
    let output = call.output(json);
    if !output.is_json() && !output.is_terminal() {
        return output.line(&*created.api_key);
    }
    created.print(output, call)
}

impl NewArgs {
    /// Removes empty host names, which come from variables without a value.
    fn without_empty_names(mut self) -> Self {
        self.dns.retain(|name| !name.is_empty());
        self
    }

    /// Returns the files to write, or `None` if the result is an API key alone.
    fn files<'a>(&'a self, default: Option<Files<'a>>) -> Result<Option<Files<'a>>, Failure> {
        match (&self.key, &self.cert, default) {
            (Some(key), Some(cert), _) => Ok(Some(Files { key, cert })),
            (None, None, None) => Ok(None),
            (key, cert, Some(default)) => Ok(Some(Files {
                key: key.as_deref().unwrap_or(default.key),
                cert: cert.as_deref().unwrap_or(default.cert),
            })),
            (Some(_), None, None) => {
                Err(Failure::new("private key file specified but no certificate file. Set the '--cert' flag"))
            }
            (None, Some(_), None) => {
                Err(Failure::new("certificate file specified but no private key file. Set the '--key' flag"))
            }
        }
    }

    /// Refuses flags that need a certificate. A subject is allowed, since scripts give one to an API key alone.
    fn refuse_flags_of_certificates(&self) -> Result<(), Failure> {
        let flags = [
            ("--ip", !self.ip.is_empty()),
            ("--dns", !self.dns.is_empty()),
            ("--expiry", self.expiry.is_some()),
            ("--force", self.force),
            ("--encrypt", self.encrypt),
        ];
        match flags.into_iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((flag, _)) => Err(Failure::new(format!(
                "'{flag}' requires a private key and certificate file. Set the '--cert' and '--key' flag"
            ))),
        }
    }
}

fn write_certificate(args: &NewArgs, api_key: &ApiKey, files: Files<'_>) -> Result<(), Failure> {
    let Files { key, cert } = files;
    if !args.force
        && let Some(path) = [key, cert].into_iter().find(|path| path.exists())
    {
        return Err(Failure::new(format!(
            "{}: the file exists, add --force to overwrite it",
            path.display()
        )));
    }
    // `exists` is false for a link whose target is missing. Such a link is written through, and not replaced.
    let write = |path: &Path, content: &[u8], mode| {
        let is_new = !args.force && path.symlink_metadata().is_err();
        if is_new { files::write_new(path, content, mode) } else { files::overwrite(path, content, mode) }
    };
    let certified = api_key.certify(&NewCertificate {
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
        Zeroizing::new(private_key::encrypt(certified.key.secret_der(), password.as_bytes(), iv))
    } else {
        certified.key_pem()
    };
    write(key, key_pem.as_bytes(), files::PRIVATE).map_err(failed(key))?;
    write(cert, certified.chain_pem().as_bytes(), files::PUBLIC).map_err(|error| {
        if !args.force && !key.is_symlink() {
            // Without its certificate, the key would only get in the way of the next attempt.
            let _ = std::fs::remove_file(key);
        }
        failed(cert)(error)
    })
}

/// The result: a new API key, and the files that were written for it.
struct Created<'a> {
    key: ApiKey,
    api_key: Zeroizing<String>,
    identity: Identity,
    files: Option<Files<'a>>,
}

impl<'a> Created<'a> {
    fn generate(files: Option<Files<'a>>) -> Result<Self, Failure> {
        let key = ApiKey::generate()?;
        Ok(Self { api_key: key.to_text(), identity: key.identity(), key, files })
    }

    /// Prints what KES prints.
    ///
    /// Some scripts cut its lines and labels with sed and awk. Others search for an API key, and for the last 64 hex digits.
    fn print(&self, output: Output, call: Call<'_>) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(&json!({
                "api_key": *self.api_key,
                "identity": self.identity.to_string(),
                "key": self.files.map(|files| files.key),
                "cert": self.files.map(|files| files.cert),
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
        if let Some(Files { key, cert }) = self.files {
            output.line(format_args!("The generated TLS private key is stored at: {}", key.display()))?;
            output.line(format_args!("The generated TLS certificate is stored at: {}", cert.display()))?;
            output.line("")?;
        }
        output.text("The identity can be computed again via:\n")?;
        output.line(format_args!("    {program} identity of {}", *self.api_key))?;
        match self.files {
            Some(Files { cert, .. }) => {
                output.line(format_args!("    {program} identity of {}", cert.display()))
            }
            None => output.line(""),
        }
    }
}
