//! A process that writes to a local store and prints what the store acknowledged. The durability tests kill
//! it.
//!
//! Usage: `store-writer DIR ROOT_KEY_FILE PREFIX TASKS ROUNDS DELETED`. If the root key file is missing, the
//! process creates it together with the store. Each task creates one entry in each round and deletes one in
//! DELETED of them again.
//!
//! With `STORE_WRITER_ESCROW=FILE` each entry is also sealed to `STORE_WRITER_RECIPIENT`, in that file.
//!
//! The process prints `ok NAME` after a create, `del NAME` before a delete, `gone NAME` after a delete, and
//! `err NAME KIND` after a create that failed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of tests")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kms_core::store::KeyStore;
use kms_fs::{FsConfig, OpenMode, RootKey};
use kms_server::escrow;
use kms_server::settings::{EscrowFailure, EscrowSettings};
use kms_tests::content;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, root_key, prefix, tasks, rounds, deleted] = arguments.as_slice() else {
        panic!("usage: store-writer DIR ROOT_KEY_FILE PREFIX TASKS ROUNDS DELETED");
    };
    let root_key = Path::new(root_key);
    let config = FsConfig { ballast: content::BALLAST, ..FsConfig::new(directory) };
    let opened = if root_key.exists() {
        kms_fs::open(&config, &RootKey::from_file(root_key).unwrap().key, OpenMode::CreateOrOpen)
    } else {
        kms_fs::create_with_root_key_file(&config, root_key)
    };
    let opened = opened.unwrap_or_else(|error| panic!("{error}"));
    say(&format!("open {}", opened.keys));
    let store: Arc<dyn KeyStore> = Arc::new(opened.store);
    let store = match std::env::var("STORE_WRITER_ESCROW") {
        Ok(path) => {
            let recipients = vec![std::env::var("STORE_WRITER_RECIPIENT").unwrap()];
            let settings =
                EscrowSettings { recipients, path: path.into(), on_failure: EscrowFailure::Refuse };
            escrow::open(&settings, store).unwrap_or_else(|error| panic!("{error}")).0
        }
        Err(_) => store,
    };
    let (rounds, deleted): (usize, usize) = (rounds.parse().unwrap(), deleted.parse().unwrap());
    let tasks: Vec<_> = (0..tasks.parse::<usize>().unwrap())
        .map(|task| {
            let (store, prefix) = (Arc::clone(&store), prefix.clone());
            tokio::spawn(async move {
                for round in 0..rounds {
                    let name = content::entry(&format!("{prefix}-{task}-{round}"));
                    if let Err(error) = store.create(&name, &content::record(name.as_str())).await {
                        say(&format!("err {name} {:?}", error.kind()));
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                    say(&format!("ok {name}"));
                    if round % deleted == deleted - 1 {
                        say(&format!("del {name}"));
                        if store.delete(&name).await.is_ok() {
                            say(&format!("gone {name}"));
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Prints a line with one system call, so that a kill cuts no line.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}
