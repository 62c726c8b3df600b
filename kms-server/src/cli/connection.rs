//! The server that a command talks to, and the identity that it has there.
//!
//! Flags decide, then KES's environment variables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;

use super::client::{Client, Trust, certificate_from_files};
use super::failure::Failure;
use super::name::Call;
use super::password;
use crate::config::Environment;
use crate::credentials::apikey::ApiKey;
use crate::credentials::certificate::CertifiedKey;

/// The default port of a server.
const PORT: u16 = 7373;

/// The default port of a URL.
const HTTPS_PORT: u16 = 443;

/// The server if neither a flag nor a variable names one.
const DEFAULT_SERVER: &str = "https://127.0.0.1:7373";

// The variables are in KES's order. The first that is set wins.
const SERVER: [&str; 3] = ["MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT"];
const API_KEY: [&str; 3] = ["MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"];
const CLIENT_KEY: [&str; 3] = ["MINIO_KES_KEY_FILE", "KES_CLIENT_KEY", "MINIO_KES_CLIENT_KEY"];
const CLIENT_CERT: [&str; 3] = ["MINIO_KES_CERT_FILE", "KES_CLIENT_CERT", "MINIO_KES_CLIENT_CERT"];
// KES 0.24 does not know these of 2020. So unlike the others, they may be set beside an API key.
const FORMER_CLIENT_KEY: [&str; 1] = ["KES_CLIENT_TLS_KEY_FILE"];
const FORMER_CLIENT_CERT: [&str; 1] = ["KES_CLIENT_TLS_CERT_FILE"];
const CA_CERT: [&str; 2] = ["KES_CA_CERT", "MINIO_KMS_KES_CAPATH"];

/// The flags of all commands that talk to a server.
#[derive(Args)]
pub struct Connection {
    /// Connect to this server instead of $KES_SERVER; of several, separated by commas, to the first that can be reached.
    /// 'key info' and 'key retire' ask all of them how versions are used.
    #[arg(short = 's', long, value_name = "HOST[:PORT]")]
    server: Option<String>,
    #[command(flatten)]
    access: AccessFlags,
}

/// The flags that say as whom a command connects, and whether it trusts the server.
#[derive(Args)]
pub struct AccessFlags {
    /// Authenticate with this API key instead of $KES_API_KEY. Other users of this machine can see it.
    #[arg(short = 'a', long, value_name = "KEY")]
    api_key: Option<String>,
    /// Do not verify the server's certificate.
    #[arg(short = 'k', long)]
    insecure: bool,
    /// Trust the certificates in this file or directory instead of those of the system.
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Has no effect, as in KES 0.24: there are no enclaves any more.
    #[arg(short, long, hide = true, value_name = "NAME")]
    enclave: Option<String>,
}

impl Connection {
    /// Creates the client that the flags and the environment describe.
    pub fn client(&self, call: Call<'_>) -> Result<Client, Failure> {
        self.access.client(self.server.as_deref(), call)
    }

    /// Creates the client, for the server at `address` of this machine if neither flag nor variable names one.
    pub fn client_or_at(&self, address: SocketAddr, call: Call<'_>) -> Result<Client, Failure> {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let here = SocketAddr::new(ip, address.port()).to_string();
        let named = self.server.as_deref().or_else(|| call.environment.first_of(&SERVER));
        self.access.client(Some(named.unwrap_or(&here)), call)
    }

    /// Creates a client of each of these servers alone, or of each that the flag or the environment names if there are
    /// none, with the server's name.
    pub fn clients(&self, servers: &[&str], call: Call<'_>) -> Result<Vec<(String, Client)>, Failure> {
        let named = Some(servers.join(",")).filter(|servers| !servers.is_empty());
        Ok(self.access.client(named.as_deref().or(self.server.as_deref()), call)?.each())
    }

    /// Returns whether a flag or a variable says as whom to connect.
    pub fn names_identity(&self, call: Call<'_>) -> bool {
        let variables = [&API_KEY[..], &CLIENT_CERT, &CLIENT_KEY, &FORMER_CLIENT_CERT, &FORMER_CLIENT_KEY];
        self.access.api_key.is_some()
            || variables.iter().any(|variables| call.environment.first_of(variables).is_some())
    }
}

fn default_port(call: Call<'_>) -> u16 {
    // An endpoint is a URL to KES's SDK.
    if call.is_kes() { HTTPS_PORT } else { PORT }
}

fn servers<'a>(flag: Option<&'a str>, environment: &'a Environment) -> Vec<&'a str> {
    let servers = flag.or_else(|| environment.first_of(&SERVER)).unwrap_or(DEFAULT_SERVER);
    servers.split(',').map(str::trim).filter(|server| !server.is_empty()).collect()
}

impl AccessFlags {
    /// Creates the client for `server`, or for the server of the environment if that is `None`.
    pub fn client(&self, server: Option<&str>, call: Call<'_>) -> Result<Client, Failure> {
        let environment = call.environment;
        let servers = servers(server, environment);
        Ok(Client::new(&servers, default_port(call), self.certificate(call)?, &self.trust(environment))?)
    }

    fn certificate(&self, call: Call<'_>) -> Result<CertifiedKey, Failure> {
        let environment = call.environment;
        let api_key = self.api_key.as_deref().or_else(|| environment.first_of(&API_KEY));
        let files = (environment.first_of(&CLIENT_CERT), environment.first_of(&CLIENT_KEY));
        if let Some(text) = api_key {
            let both = match files {
                (_, Some(_)) => "private key",
                (Some(_), None) => "certificate",
                (None, None) => return Ok(ApiKey::parse(text)?.client_certificate()?),
            };
            return Err(Failure::new(format!("API key and {both} file cannot be used at the same time")));
        }
        let (cert, key) = files;
        let files = (
            cert.or_else(|| environment.first_of(&FORMER_CLIENT_CERT)),
            key.or_else(|| environment.first_of(&FORMER_CLIENT_KEY)),
        );
        match files {
            (Some(cert), Some(key)) => certificate_from_files(Path::new(cert), Path::new(key), password::ask),
            (None, None) if call.is_kes() => {
                Err(Failure::new("no API key specified. Consider setting MINIO_KES_API_KEY"))
            }
            (None, None) => Err(Failure::new(
                "no API key: set KES_API_KEY, \
                 or KES_CLIENT_CERT and KES_CLIENT_KEY to the files of a certificate and its key",
            )),
            (Some(_), None) => {
                Err(Failure::new("a client certificate without its private key: set KES_CLIENT_KEY"))
            }
            (None, Some(_)) => {
                Err(Failure::new("a private key without its client certificate: set KES_CLIENT_CERT"))
            }
        }
    }

    fn trust(&self, environment: &Environment) -> Trust {
        if self.insecure {
            return Trust::Nobody;
        }
        let file = self.ca_cert.clone().or_else(|| environment.first_of(&CA_CERT).map(PathBuf::from));
        file.map_or(Trust::System, Trust::File)
    }
}
