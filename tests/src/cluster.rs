//! Key servers that share one PostgreSQL, as processes with one certificate, one admin and one root key.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_server::credentials::apikey::ApiKey;
use tempfile::TempDir;

use crate::postgres::{DATABASE, PASSWORD, ROLE};
use crate::server::server_certificate;
use crate::shell::{Done, Serving, Shell, text};
use crate::{Client, Protocol, TestIdentity};

/// What the servers share, and their configs.
pub struct Cluster {
    dir: TempDir,
    api_key: ApiKey,
    root_key: [u8; 32],
}

impl Cluster {
    /// Makes certificate, admin and root key.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pair = server_certificate();
        fs::write(dir.path().join("server.crt"), pair.chain_pem()).unwrap();
        fs::write(dir.path().join("server.key"), pair.key_pem().as_bytes()).unwrap();
        let mut root_key = [0; 32];
        kms_core::primitives::fill_random(&mut root_key).unwrap();
        let cluster = Self { dir, api_key: ApiKey::generate().unwrap(), root_key };
        cluster.write_root_key("root.key", &root_key);
        cluster
    }

    /// Returns the root key.
    pub fn root_key(&self) -> &[u8; 32] {
        &self.root_key
    }

    /// Returns the path of a file beside the configs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a root key to a file.
    pub fn write_root_key(&self, name: &str, key: &[u8; 32]) {
        fs::write(self.path(name), STANDARD.encode(key)).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Returns the section of a store on servers at these ports, with more lines in it, and of its root.
    pub fn store(&self, ports: &[u16], more: &str) -> String {
        format!("{}{}", keystore(ports, more), self.root("root.key"))
    }

    /// Returns the section of a root whose key is in this file.
    pub fn root(&self, name: &str) -> String {
        format!("[[kms]]\nlocal.root_key_file = \"{}\"\n", text(&self.path(name)))
    }

    /// Writes a config with these sections.
    pub fn config(&self, name: &str, sections: &str) -> PathBuf {
        let mut config = format!(
            "address = \"127.0.0.1:0\"\n[admin]\nidentity = \"{}\"\n[tls]\ncert = \"{}\"\nkey = \"{}\"\n",
            self.api_key.identity(),
            text(&self.path("server.crt")),
            text(&self.path("server.key"))
        );
        config.write_str(sections).unwrap();
        let file = self.path(name);
        fs::write(&file, config).unwrap();
        file
    }

    /// Runs a command with this config, which its last flag names.
    pub fn run(&self, arguments: &[&str], config: &Path) -> Done {
        Shell::default().run(&[arguments, &["--config", text(config)]].concat())
    }

    /// Starts a server that refuses to start, and returns why.
    pub fn refused(&self, config: &Path) -> String {
        let done = self.run(&["server"], config);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        // Before it are the warnings of the config.
        done.stderr.lines().last().unwrap().to_owned()
    }

    /// Starts a server and waits until it is up.
    pub fn serve(&self, config: &Path) -> Member {
        let serving = Shell::default().serve(&["--config", text(config)]);
        let stdout = serving.stdout();
        let address = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
        let shell = Shell::default()
            .set("KES_SERVER", format!("https://{address}"))
            .set("KES_CA_CERT", text(&self.path("server.crt")))
            .set("KES_API_KEY", self.api_key.to_text().as_str());
        let admin = self.api_key.client_certificate().unwrap().into();
        Member { address: address.parse().unwrap(), serving, shell, admin }
    }
}

/// Returns the section of a store on servers at these ports, with more lines in it.
pub fn keystore(ports: &[u16], more: &str) -> String {
    let hosts = vec!["127.0.0.1"; ports.len()];
    format!(
        "[keystore.postgres]\nhost = {hosts:?}\nport = {ports:?}\ndatabase = \"{DATABASE}\"\nuser = \"{ROLE}\"\n\
         password = \"{PASSWORD}\"\ntls.mode = \"disable\"\n{more}\n"
    )
}

/// A server that runs. It is killed when it is dropped.
pub struct Member {
    /// The process.
    pub serving: Serving,
    /// Where it listens.
    pub address: SocketAddr,
    /// Runs commands as the admin.
    pub shell: Shell,
    admin: TestIdentity,
}

impl Member {
    /// Creates a client with the certificate of the admin.
    pub fn client(&self) -> Client {
        Client::new(self.address, Protocol::Http1, &self.admin)
    }
}
