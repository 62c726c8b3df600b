//! `kms init`: creates everything that a single server needs, in one directory or in the layout of the packages.

mod paths;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_core::Identity;
use kms_fs::FsConfig;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::paths::Paths;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::reachable::{parse_host_name, parse_ip};
use crate::credentials::apikey::ApiKey;
use crate::credentials::certificate::NewCertificate;
use crate::host::files;
use crate::host::shell::{shell_quote, variable_quote};

/// The validity of the server's certificate: five years.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// Where the packages put the page on installing.
const INSTALLED_PAGE: &str = "/usr/share/doc/kms/docs/install.md";

/// The arguments of `kms init`.
#[derive(clap::Args)]
pub struct Args {
    /// The directory to create everything in.
    #[arg(value_name = "DIR", required_unless_present = "system", conflicts_with = "system")]
    directory: Option<PathBuf>,
    /// Complete the installation of a package: files in /etc/kms, the store in /var/lib/kms, for the service kms.
    #[arg(long)]
    system: bool,
    /// The directory of the key store, such as a volume apart from the root key [default: data in DIR].
    #[arg(long, value_name = "DIR", conflicts_with = "system")]
    data: Option<PathBuf>,
    /// Also create an API key and a policy for a MinIO, and write its variables to the file minio.env.
    #[arg(long)]
    minio: bool,
    /// A host name by which clients reach the server [default without --ip: localhost and the name of this machine].
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', value_parser = parse_host_name)]
    dns: Vec<String>,
    /// An address by which clients reach the server [default without --dns: 127.0.0.1].
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = parse_address)]
    ip: Vec<IpAddr>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Creates everything and prints where it is.
pub fn run(args: &Args) -> Result<(), Failure> {
    let created = create(args)?;
    let output = Output::new(args.json);
    if output.is_json() { output.json(&created.to_json()) } else { output.text(created) }
}

/// The result. It holds the admin's API key, which is in no file.
struct Created {
    api_key: Zeroizing<String>,
    admin: Identity,
    minio: Option<Identity>,
    paths: Paths,
    host: String,
}

/// Creates a key store with its root key, a certificate with its private key, an API key for the admin, and a config that
/// uses them.
///
/// Nothing that exists is overwritten: if any of the files exists, nothing is created. There is one exception. If an earlier
/// call was cut off before the root key got its final name, the store is completed.
fn create(args: &Args) -> Result<Created, Failure> {
    let paths = args.paths().map_err(Failure::new)?;
    let found = kms_fs::look(&paths.data, &paths.root_key)?;
    if let Some(path) = paths.in_the_way(found.begun && !found.root_key) {
        let instead = match args.system {
            true if Path::new(INSTALLED_PAGE).exists() => format!("see {INSTALLED_PAGE}"),
            true => "see docs/install.md".to_owned(),
            false => "choose another directory".to_owned(),
        };
        let path = path.display();
        return Err(Failure::new(format!(
            "{path}: it exists already, and nothing is overwritten: {instead}"
        )));
    }
    paths.refuse_closed().map_err(Failure::new)?;
    let (dns, ip) = args.names();
    let host = host(&dns, &ip)?;
    let certified = NewCertificate {
        common_name: host.clone(),
        dns_names: dns,
        ip_addresses: ip,
        validity: CERTIFICATE_VALIDITY,
        server: true,
    }
    .with_new_key()?;
    let admin = ApiKey::generate()?;
    let minio = args.minio.then(ApiKey::generate).transpose()?;

    let write = |path: &Path, content: &[u8], mode| {
        files::write_new(path, content, mode).map_err(|error| Failure::new(files::failed(path, &error)))
    };
    paths.make_directory().map_err(Failure::new)?;
    drop(kms_fs::create_with_root_key_file(&FsConfig::new(&paths.data), &paths.root_key)?);
    paths.hand_over_store().map_err(Failure::new)?;
    write(&paths.key, certified.key_pem().as_bytes(), files::PRIVATE)?;
    write(&paths.cert, certified.chain_pem().as_bytes(), files::PUBLIC)?;
    if let Some(minio) = &minio {
        write(&paths.minio, minio_variables(&paths, &host, minio).as_bytes(), files::PRIVATE)?;
    }
    let minio = minio.map(|minio| minio.identity());
    let config_mode = if paths.is_of_packages() { files::FOR_GROUP } else { files::PUBLIC };
    // The last one: the unit starts the service as soon as there is a config.
    write(&paths.config, config(&paths, admin.identity(), minio).as_bytes(), config_mode)?;
    paths.let_server_read(&paths.config).map_err(Failure::new)?;
    Ok(Created { api_key: admin.to_text(), admin: admin.identity(), minio, paths, host })
}

impl Args {
    /// Returns where everything goes.
    fn paths(&self) -> Result<Paths, String> {
        match &self.directory {
            Some(directory) => Paths::of_node(directory, self.data.as_deref()),
            None => Paths::of_packages(),
        }
    }

    /// Returns the host names and addresses for the certificate.
    fn names(&self) -> (Vec<String>, Vec<IpAddr>) {
        if !self.dns.is_empty() || !self.ip.is_empty() {
            return (self.dns.clone(), self.ip.clone());
        }
        let mut dns = vec!["localhost".to_owned()];
        // A machine may have a name that no certificate can have.
        let host = parse_host_name(&rustix::system::uname().nodename().to_string_lossy());
        dns.extend(host.ok().filter(|host| host != "localhost"));
        (dns, vec![IpAddr::from([127, 0, 0, 1])])
    }
}

impl Created {
    fn to_json(&self) -> Value {
        let mut made = json!({
            "api_key": *self.api_key,
            "identity": self.admin.to_string(),
            "config": self.paths.config,
            "root_key": self.paths.root_key,
            "data": self.paths.data,
            "cert": self.paths.cert,
            "key": self.paths.key,
        });
        if let Some(minio) = self.minio {
            made["minio"] = json!({ "identity": minio.to_string(), "variables": self.paths.minio });
        }
        made
    }
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Paths { config, root_key, data, cert, key, .. } = &self.paths;
        writeln!(f, "Config            {}", config.display())?;
        writeln!(f, "Certificate       {}", cert.display())?;
        writeln!(f, "Private key       {}", key.display())?;
        writeln!(f, "Key store         {}", data.display())?;
        writeln!(f, "Root key          {}", root_key.display())?;
        writeln!(
            f,
            "                  Back this file up elsewhere than the store; losing it is losing all data.\n"
        )?;
        writeln!(f, "Admin's API key   {}", *self.api_key)?;
        writeln!(f, "                  It is shown this once; the config holds only its identity:")?;
        writeln!(f, "                  {}\n", self.admin)?;
        if self.minio.is_some() {
            let minio = &self.paths.minio;
            writeln!(f, "MinIO's variables {}", minio.display())?;
            writeln!(f, "                  They hold an API key for keys whose names begin with minio-.\n")?;
        }
        writeln!(f, "Start the server:\n")?;
        if self.paths.is_of_packages() {
            writeln!(f, "    systemctl enable --now kms\n")?;
            writeln!(f, "Then:\n")?;
        } else {
            writeln!(f, "    kms server --config {}\n", shell_quote(config))?;
            writeln!(f, "Then, in another shell:\n")?;
        }
        writeln!(f, "    export KES_SERVER=https://{}:7373", bracketed(&self.host))?;
        writeln!(f, "    export KES_CA_CERT={}", shell_quote(cert))?;
        writeln!(f, "    export KES_API_KEY={}", *self.api_key)?;
        write!(f, "    kms key create my-key")
    }
}

/// Parses an address, which has to be that of one machine.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address = parse_ip(text).map_err(|error| error.to_string())?;
    let canonical = address.to_canonical();
    if canonical.is_unspecified() || canonical.is_multicast() {
        return Err("expected an address by which clients reach the server".to_owned());
    }
    Ok(address)
}

/// Returns the host by which clients are told to reach the server: the first that is no wildcard.
fn host(dns: &[String], ip: &[IpAddr]) -> Result<String, Failure> {
    let name = dns.iter().find(|name| !name.starts_with("*."));
    name.cloned().or_else(|| ip.first().map(ToString::to_string)).ok_or_else(|| {
        let wildcard = dns.first().map_or("", String::as_str);
        Failure::new(format!(
            "--dns: '{wildcard}' is a wildcard, and no server has this name itself: also give a host name, or an address by --ip"
        ))
    })
}

/// Returns a host as a URL has it, with an IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Returns the variables by which a MinIO uses this server, as shells and systemd read them.
///
/// They are appended to files whose last line may have no end. So the first line here is an empty one.
fn minio_variables(paths: &Paths, host: &str, api_key: &ApiKey) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "\n# For the MinIO of this node: made by `kms init --minio`. The API key is the identity of [policy.minio].\n\
         MINIO_KMS_KES_ENDPOINT=https://{}:7373\n\
         MINIO_KMS_KES_API_KEY={}\n\
         MINIO_KMS_KES_CAPATH={}\n\
         MINIO_KMS_KES_KEY_NAME=minio-default-key\n",
        bracketed(host),
        *api_key.to_text(),
        variable_quote(&paths.cert),
    ))
}

/// Returns the text of the config. The policy of a MinIO is a comment if there is none.
fn config(paths: &Paths, admin: Identity, minio: Option<Identity>) -> String {
    let quoted = |path: &Path| toml_edit::Value::from(path.display().to_string()).to_string();
    let Paths { cert, key, root_key, data, .. } = paths;
    let (cert, key, root_key, data) = (quoted(cert), quoted(key), quoted(root_key), quoted(data));
    let hash = if minio.is_some() { "" } else { "# " };
    let minio = minio.map_or("<the 64 hex digits of the identity>".to_owned(), |minio| minio.to_string());
    format!(
        r#"# Made by `kms init`. `kms check --config` tells what is wrong with it.
address = "0.0.0.0:7373"

# May do everything. Its API key was printed once and is stored nowhere.
[admin]
identity = "{admin}"

[tls]
cert = {cert}
key = {key}

[keystore.fs]
path = {data}
# Back this file up elsewhere than the store; losing it is losing all data.
root_key_file = {root_key}

# An application gets an identity by `kms identity new`, and what it may do by a policy:
{hash}[policy.minio]
{hash}allow = [
{hash}    "/v1/key/create/minio-*",
{hash}    "/v1/key/describe/minio-*",
{hash}    "/v1/key/generate/minio-*",
{hash}    "/v1/key/decrypt/minio-*",
{hash}    "/v1/key/list/*",
{hash}    "/v1/status",
{hash}]
{hash}identities = ["{minio}"]
"#
    )
}
