//! Keys that move from store to store: embedded stores, keys of several versions, and what was sealed under them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::store::KeyStore;
use kms_core::{CacheConfig, Client, Identity, KeyName, KeyRing};
use kms_fs::{FsConfig, FsStore, OpenMode, RootKey};

use crate::shell::{Shell, text};

/// An embedded store, and the config that names it.
pub struct Local {
    store: PathBuf,
    root_key: PathBuf,
    /// The config file.
    pub config: PathBuf,
}

impl Local {
    /// Describes a store `name` in `directory`. The store itself is made when it is opened first.
    pub fn new(directory: &Path, name: &str) -> Self {
        let file = |ending: &str| directory.join(format!("{name}{ending}"));
        let local = Self { store: file(""), root_key: file(".root-key"), config: file(".toml") };
        let mut bytes = [0; 32];
        kms_core::primitives::fill_random(&mut bytes).unwrap();
        fs::write(&local.root_key, STANDARD.encode(bytes)).unwrap();
        fs::set_permissions(&local.root_key, fs::Permissions::from_mode(0o600)).unwrap();
        let config = format!(
            "[keystore.fs]\npath = \"{}\"\nroot_key_file = \"{}\"\ncreate = true\n",
            local.store.display(),
            local.root_key.display()
        );
        fs::write(&local.config, config).unwrap();
        local
    }

    /// Returns whether the store was made.
    pub fn is_there(&self) -> bool {
        self.store.exists()
    }

    /// Opens the store in this process. No other process can open it until it is dropped.
    pub fn open(&self) -> Arc<FsStore> {
        let root_key = RootKey::from_file(&self.root_key).unwrap().key;
        Arc::new(kms_fs::open(&FsConfig::new(&self.store), &root_key, OpenMode::CreateOrOpen).unwrap().store)
    }
}

/// Runs `kms check` on a config of a key store alone, to which this adds what else a server needs. Returns what it prints.
pub fn checked(directory: &Path, config: &Path) -> String {
    let node = directory.join("checked");
    if !node.exists() {
        Shell::default().run(&["init", text(&node)]).ok();
    }
    let made = fs::read_to_string(node.join("config.toml")).unwrap();
    let sections = made.split("\n[").filter(|section| !section.starts_with("keystore"));
    let whole =
        format!("{}\n{}", sections.collect::<Vec<_>>().join("\n["), fs::read_to_string(config).unwrap());
    let file = node.join("whole.toml");
    fs::write(&file, whole).unwrap();
    Shell::default().run(&["check", "--config", text(&file)]).stdout
}

/// Returns a client of a store, under which a new version seals at once.
pub fn client(store: impl KeyStore) -> Client {
    let any = Duration::from_millis(1);
    let config = CacheConfig::default().with_any(any).with_unused(any);
    KeyRing::new(store, config).client(Identity::of_program("a test"))
}

/// A ciphertext of each version of keys, and an HMAC of each key.
pub struct Sealed {
    ciphertexts: Vec<(KeyName, Vec<u8>)>,
    macs: Vec<(KeyName, [u8; 32])>,
}

/// What each ciphertext holds.
const TEXT: &[u8] = b"sealed before the move";

impl Sealed {
    /// Makes `count` keys of 1 to 5 versions, 16 at once, and seals under each version.
    pub async fn under_new_keys(store: impl KeyStore + Clone, count: usize) -> Self {
        let mut sealed = Self { ciphertexts: Vec::new(), macs: Vec::new() };
        let numbers: Vec<usize> = (0..count).collect();
        for numbers in numbers.chunks(16) {
            let tasks: Vec<_> =
                numbers.iter().map(|n| tokio::spawn(one_key(client(store.clone()), *n))).collect();
            for task in tasks {
                let (name, ciphertexts, mac) = task.await.unwrap();
                sealed
                    .ciphertexts
                    .extend(ciphertexts.into_iter().map(|ciphertext| (name.clone(), ciphertext)));
                sealed.macs.push((name, mac));
            }
        }
        sealed
    }

    /// Returns the number of keys.
    pub fn keys(&self) -> usize {
        self.macs.len()
    }

    /// Returns the number of ciphertexts.
    pub fn len(&self) -> usize {
        self.ciphertexts.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ciphertexts.is_empty()
    }

    /// Checks that each ciphertext opens in this store, and that each HMAC is the same there.
    pub async fn assert_opens(&self, store: impl KeyStore) {
        self.assert_opens_as(store, Clone::clone).await;
    }

    /// Checks the same of keys that have another name in this store.
    pub async fn assert_opens_as(&self, store: impl KeyStore, named: impl Fn(&KeyName) -> KeyName) {
        let client = KeyRing::new(store, CacheConfig::default()).client(Identity::of_program("a test"));
        for (name, ciphertext) in &self.ciphertexts {
            let name = &named(name);
            let opened = client.decrypt(name, ciphertext, b"context").await;
            assert!(opened.as_ref().is_ok_and(|text| text.expose() == TEXT), "{name}: {:?}", opened.err());
        }
        for (name, mac) in &self.macs {
            assert_eq!(client.hmac(&named(name), b"message").await.unwrap(), *mac, "{name}");
        }
    }
}

async fn one_key(client: Client, n: usize) -> (KeyName, Vec<Vec<u8>>, [u8; 32]) {
    let name = KeyName::new(format!("key-{n:05}")).unwrap();
    client.create(&name).await.unwrap();
    let mut sealed = vec![client.encrypt(&name, TEXT, b"context").await.unwrap()];
    for _ in 0..n % 5 {
        client.rotate(&name).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        sealed.push(client.encrypt(&name, TEXT, b"context").await.unwrap());
    }
    let mac = client.hmac(&name, b"message").await.unwrap();
    (name, sealed, mac)
}
