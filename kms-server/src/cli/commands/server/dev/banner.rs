//! The text that a development server prints when it is up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::state::{State, WAYS_OUT};
use crate::cli::failure::Failure;
use crate::credentials::apikey::ApiKey;
use crate::host::process;
use crate::host::shell::shell_quote;
use crate::store::inventory::KeyCount;

/// The name of the key for MinIO in the exported variables. MinIO creates the key by itself.
const MINIO_KEY: &str = "minio-default-key";

/// The facts about a development server that are printed when it is up.
pub struct Banner {
    pub admin: ApiKey,
    pub cert: PathBuf,
    pub state: State,
}

impl Banner {
    /// Returns the text for stdout, for a server that listens on `address` and has `keys`.
    ///
    /// Scripts take the third word of the line `API Key`, and wait for `Server is up and running`.
    pub fn text(&self, address: SocketAddr, keys: KeyCount) -> impl fmt::Display + '_ {
        Text { banner: self, endpoint: format!("https://{}", reachable(address)), keys }
    }

    /// Adds advice about the directory to a failure of the start.
    pub fn explain(&self, failure: Failure) -> Failure {
        match &self.state {
            State::Directory { path, .. } => {
                failure.context(&format!("cannot use the state in {} ({WAYS_OUT})", path.display()))
            }
            State::Memory { .. } => failure,
        }
    }
}

struct Text<'a> {
    banner: &'a Banner,
    endpoint: String,
    keys: KeyCount,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { banner: Banner { admin, cert, state }, endpoint, keys } = self;
        let (api_key, certificate) = (admin.to_text(), shell_quote(cert));
        let api_key = api_key.as_str();
        writeln!(f, "Version     {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "Endpoint    {endpoint}")?;
        match state {
            State::Directory { path, existing } => {
                let path = path.display();
                match (existing, keys) {
                    (false, _) => writeln!(f, "Store       new store in {path}")?,
                    (true, KeyCount::Exactly(1)) => {
                        writeln!(f, "Store       existing store, 1 key, in {path}")?;
                    }
                    (true, _) => writeln!(f, "Store       existing store, {keys} keys, in {path}")?,
                }
                writeln!(
                    f,
                    "            The root key lies beside the store, so this directory is not protected by"
                )?;
                writeln!(f, "            its encryption: for development only.")?;
            }
            State::Memory { .. } => {
                writeln!(f, "Store       IN MEMORY ONLY")?;
                writeln!(
                    f,
                    "            EVERY KEY DIES WITH THIS PROCESS, and with it all data encrypted under it."
                )?;
            }
        }
        if let Some(protection) = process::protection() {
            writeln!(f, "Memory      {}", protection.held().join(", "))?;
        }
        writeln!(f)?;
        writeln!(f, "API Key     {api_key}")?;
        writeln!(f, "Admin       {}", admin.identity())?;
        writeln!(f)?;
        writeln!(f, "For MinIO:")?;
        writeln!(f, "export MINIO_KMS_KES_ENDPOINT={endpoint}")?;
        writeln!(f, "export MINIO_KMS_KES_API_KEY={api_key}")?;
        writeln!(f, "export MINIO_KMS_KES_CAPATH={certificate}")?;
        writeln!(f, "export MINIO_KMS_KES_KEY_NAME={MINIO_KEY}")?;
        writeln!(f)?;
        writeln!(f, "For this command line:")?;
        writeln!(f, "export KES_SERVER={endpoint}")?;
        writeln!(f, "export KES_API_KEY={api_key}")?;
        writeln!(f, "export KES_CA_CERT={certificate}")?;
        writeln!(f)?;
        write!(f, "=> Server is up and running...")
    }
}

/// Returns the address by which clients on this machine reach a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
