//! A server in the process of the test.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kms_core::store::{KeyStore, MemoryStore};
use kms_core::{CacheConfig, Identity, KeyName, KeyRing, Kms};
use kms_server::credentials::certificate::{CertifiedKey, NewCertificate};
use kms_server::settings::{
    BackupSettings, KeyStoreSettings, LogSettings, PolicySettings, Settings, TlsSettings,
};
use kms_server::{Bounds, Limits, Server, StartError};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{Client, Protocol, TestIdentity};

/// Longer than a server caches the status of its key store.
pub const STATUS_KEPT: Duration = Duration::from_millis(1100);

/// Creates a certificate of a server at 127.0.0.1 with its private key.
pub fn server_certificate() -> CertifiedKey {
    let certificate = NewCertificate {
        common_name: "localhost".to_owned(),
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec![IpAddr::from([127, 0, 0, 1])],
        validity: Duration::from_secs(24 * 3600),
        server: true,
    };
    certificate.with_new_key().unwrap()
}

/// A running server. It is aborted when it is dropped; [`stop`](Self::stop) ends it in order.
pub struct TestServer {
    address: SocketAddr,
    probes: Option<SocketAddr>,
    admin: TestIdentity,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl TestServer {
    /// Starts a server whose keys are in memory.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder for a server on a free port of 127.0.0.1 with an admin.
    pub fn builder() -> TestServerBuilder {
        let directory = tempfile::tempdir().unwrap();
        let pair = server_certificate();
        let (cert, key) = (directory.path().join("server.crt"), directory.path().join("server.key"));
        std::fs::write(&cert, pair.chain_pem()).unwrap();
        std::fs::write(&key, pair.key_pem().as_bytes()).unwrap();
        let admin = TestIdentity::new();
        let settings = Settings {
            grace: Duration::ZERO,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: None,
            admin: Some(admin.identity()),
            tls: TlsSettings { cert, key, password: None, ca: None, verify_clients: false, proxy: None },
            policies: BTreeMap::new(),
            cache: CacheConfig::default(),
            keys: Vec::new(),
            rotate_after: Vec::new(),
            is_for_kes: false,
            key_store: KeyStoreSettings::Memory,
            escrow: None,
            log: LogSettings::default(),
            routes: BTreeMap::new(),
            probes: None,
            backup: BackupSettings::default(),
        };
        TestServerBuilder { settings, admin, kms: None, limits: Limits::default(), directory }
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the listener for probes, if there is one.
    pub fn probes_address(&self) -> Option<SocketAddr> {
        self.probes
    }

    /// Creates a client with the certificate of the admin.
    pub fn admin(&self, protocol: Protocol) -> Client {
        self.client(protocol, &self.admin)
    }

    /// Returns the certificate of the admin.
    pub fn admin_identity(&self) -> &TestIdentity {
        &self.admin
    }

    /// Creates a client with this certificate.
    pub fn client(&self, protocol: Protocol, identity: &TestIdentity) -> Client {
        Client::new(self.address, protocol, identity)
    }

    /// Asks the server to stop and does not wait.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Stops the server and waits until it has ended.
    pub async fn stop(mut self) {
        self.begin_stop();
        (&mut self.task).await.unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The settings of a server that has not started yet.
pub struct TestServerBuilder {
    /// All settings. Tests change here what has no method.
    pub settings: Settings,
    admin: TestIdentity,
    kms: Option<Arc<dyn Kms>>,
    limits: Limits,
    directory: TempDir,
}

impl TestServerBuilder {
    /// Adds a policy.
    #[must_use]
    pub fn policy(mut self, name: &str, allow: &[&str], deny: &[&str], identities: &[Identity]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let policy = PolicySettings {
            allow: owned(allow),
            deny: owned(deny),
            identities: identities.to_vec(),
            ..PolicySettings::default()
        };
        self.settings.policies.insert(name.to_owned(), policy);
        self
    }

    /// Sets the key management service.
    #[must_use]
    pub fn kms(mut self, kms: Arc<dyn Kms>) -> Self {
        self.kms = Some(kms);
        self
    }

    /// Sets the key store.
    #[must_use]
    pub fn store(self, store: impl KeyStore) -> Self {
        let cache = self.settings.cache;
        {
            let grace = self.settings.grace;
            self.kms(Arc::new(KeyRing::keeping_deleted(store, cache, grace)))
        }
    }

    /// Sets the timeout of every route.
    #[must_use]
    pub fn route_timeout(mut self, timeout: Duration) -> Self {
        self.limits.route_timeout = Some(timeout);
        self
    }

    /// Sets the number of threads that serve connections.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = NonZeroUsize::new(threads);
        self
    }

    /// Sets the highest number of connections.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections;
        self
    }

    /// Sets the bounds of connections.
    #[must_use]
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.limits.bounds = bounds;
        self
    }

    /// Makes the server verify clients against the CAs in this PEM text.
    #[must_use]
    pub fn verify_clients(mut self, ca_pem: &str) -> Self {
        let ca = self.path("ca.crt");
        std::fs::write(&ca, ca_pem).unwrap();
        self.settings.tls.ca = Some(ca);
        self.settings.tls.verify_clients = true;
        self
    }

    /// Adds a key that the server creates at its start.
    #[must_use]
    pub fn key(mut self, name: &str) -> Self {
        self.settings.keys.push(KeyName::new(name).unwrap());
        self
    }

    /// Returns a path in the directory of the server.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the server and expects success.
    pub async fn start(self) -> TestServer {
        self.try_start().await.unwrap()
    }

    /// Starts the server.
    pub async fn try_start(self) -> Result<TestServer, StartError> {
        let kms = self.kms.unwrap_or_else(|| {
            Arc::new(KeyRing::keeping_deleted(MemoryStore::new(), self.settings.cache, self.settings.grace))
        });
        let server = Server::with_kms(self.settings, kms).await?.with_limits(self.limits);
        let listening = server.listen().await?;
        let (address, probes) = (listening.local_addr(), listening.probes_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(listening.serve(async {
            // If the sender is dropped, the server runs until its task is aborted.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Ok(TestServer {
            address,
            probes,
            admin: self.admin,
            stop: Some(stop),
            task,
            _directory: self.directory,
        })
    }
}
