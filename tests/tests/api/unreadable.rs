//! Entries of the embedded store that exist and cannot be used, as clients see them.

use kms_core::KeyName;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore};
use kms_fs::{FsConfig, OpenMode, RootKey, open};
use kms_tests::spoilt::{Seen, ask, is};
use kms_tests::{Protocol, TestServer};

/// How an entry is damaged.
#[derive(Clone, Copy, Debug)]
enum Spoilt {
    /// The bytes were never sealed in this store.
    Unreadable,
    /// The sealed bytes are no record of a key.
    Undecodable,
    /// The sealed record is empty.
    Empty,
}

/// The row of the embedded store in the table of stores and states.
///
/// Two states do not exist there. One process has the files, so no entry is denied, and a deleted entry
/// cannot be restored.
#[tokio::test(flavor = "multi_thread")]
async fn clients_never_hear_that_an_entry_of_the_embedded_store_is_absent_which_is_there() {
    for state in [Spoilt::Unreadable, Spoilt::Undecodable, Spoilt::Empty] {
        let (dir, root_key) = (tempfile::tempdir().unwrap(), RootKey::random().unwrap());
        let store =
            open(&FsConfig::new(dir.path().join("store")), &root_key, OpenMode::Create).unwrap().store;
        let name = EntryName::from(&KeyName::new("spoilt").unwrap());
        let bytes = |text: &str| SecretBytes::from(text.as_bytes());
        match state {
            Spoilt::Unreadable => store.store().create(&name, &bytes("never sealed")).await.unwrap(),
            Spoilt::Undecodable => store.create(&name, &bytes("no record of a key")).await.unwrap(),
            Spoilt::Empty => store.create(&name, &bytes("")).await.unwrap(),
        }
        let server = TestServer::builder().store(store).start().await;
        let mut client = server.admin(Protocol::Http1);
        assert_eq!(ask(&mut client, "PUT", "/v1/key/create/beside", "").await.0, 200);
        let seen = Seen::of(&server, "spoilt").await;
        for read in &seen.reads {
            assert!(is(read, 502, "failed to read key"), "{state:?}: {read:?}");
        }
        for made in [&seen.create, &seen.import] {
            assert!(is(made, 400, "key already exists"), "{state:?}: {made:?}");
        }
        let deleted = ask(&mut client, "DELETE", "/v1/key/delete/spoilt", "").await;
        assert!(is(&deleted, 502, "failed to delete key"), "{state:?}: {deleted:?}");
        let listed = ask(&mut client, "GET", "/v1/key/list/", "").await;
        assert!(listed.1.contains("\"spoilt\""), "{state:?}: {listed:?}");
        let ready = ask(&mut client, "GET", "/v1/ready", "").await;
        assert!(is(&ready, 200, "1 key cannot be read: spoilt"), "{state:?}: {ready:?}");
        assert_eq!(ask(&mut client, "PUT", "/v1/key/generate/beside", "").await.0, 200, "{state:?}");
    }
}
