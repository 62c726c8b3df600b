//! The contract suite, plain, under roots and through PgBouncer.

use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::{Cipher, SealingKey, SecretKey};
use kms_core::roots::{LocalRoot, Making, Root, Roots, WrappedOneByOne};
use kms_core::store::{EntryName, KeyStore, Notes};
use kms_core::{CacheConfig, ErrorKind, KeyRing, ListQuery, contract};
use kms_postgres::{Host, PostgresConfig};
use kms_tests::postgres::{PgBouncer, Postgres, config};

use super::common::{bytes, entry, fingerprint, key, kind, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_table_keeps_the_contract() {
    let server = Postgres::empty(&[]).await;
    check(|table| made(table, server.config())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_keep_the_contract() {
    let server = Postgres::start().await;
    contract::key_store(&Arc::new(open(server.config()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_behind_a_pooler_keeps_the_contract() {
    let server = Postgres::empty(&[]).await;
    let pooler = PgBouncer::start(server.port()).await;
    let listen_hosts = vec![Host::new("127.0.0.1", server.port())];
    let through = PostgresConfig { listen_hosts, ..config(&[pooler.port()]) };
    check(|table| made(table, through.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_under_roots_keeps_the_contract() {
    let server = Postgres::empty(&[]).await;
    let rooted = async |table: &str| {
        let root = LocalRoot::new(SealingKey::new(SecretKey::take(&mut [7; 32]), Cipher::Aes256));
        let all = vec![Root::new(root.id(), Arc::new(root))];
        let form = Arc::new(WrappedOneByOne::new(&all));
        let roots = Roots::new(open(made(table, server.config())), all, form).unwrap();
        roots.open(Making::OnEmpty).await.unwrap().store
    };
    contract::key_store(&rooted("store").await).await;
    contract::shared_store(&rooted("shared").await, &rooted("shared").await).await;
    contract::kms(Arc::new(KeyRing::new(rooted("forgets").await, CacheConfig::default()))).await;
    // Two servers that start on one empty table end with one store key.
    let (one, other) = tokio::join!(rooted("twice"), rooted("twice"));
    one.create(&entry("key"), &bytes("text")).await.unwrap();
    assert!(other.get(&entry("key")).await.unwrap() == bytes("text"));
    let row = server.sql("SELECT encode(record, 'escape') FROM kms.twice WHERE name = 'key'");
    assert!(!row.contains("text"), "records rest sealed");
}

/// All names are ASCII, so every encoding has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_encoding_keeps_the_contract() {
    let server = Postgres::empty(&[]).await;
    server.sql("CREATE DATABASE western ENCODING 'LATIN1' TEMPLATE template0 OWNER kms");
    let config = PostgresConfig { database: "western".to_owned(), ..server.config() };
    contract::key_store(&Arc::new(open(made("store", config)))).await;
}

/// Names sort by bytes, whatever the locale of the database is.
#[tokio::test(flavor = "multi_thread")]
async fn segments_and_pages_of_many_entries_are_whole() {
    let server = Postgres::start().await;
    let store = open(server.config());
    server.sql(
        "INSERT INTO kms.kms_keys (name, record) SELECT 'key-' || n, 'r' FROM generate_series(1, 5000) n;
         INSERT INTO kms.kms_keys (name, record) SELECT '.d/key-' || n || '/ab', 'r' FROM generate_series(1, 3000) n;
         INSERT INTO kms.kms_keys (name, record) VALUES ('.d/a-b/x', 'r'), ('.d/a/x', 'r'), ('.d/a/y', 'r'), ('.d/a_b', 'r'),
           ('.v/a/x/2', 'r'), ('not a key', 'r'), ('zz!', 'r')",
    );
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().cloned();
        let query = ListQuery { after: after.as_deref(), ..ListQuery::prefix("") };
        let page = store.list(&query).await.unwrap();
        names.extend(page.names.iter().map(ToString::to_string));
        if !page.more {
            break;
        }
    }
    let mut expected: Vec<_> = (1..=5000).map(|n| format!("key-{n}")).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let segments = store.segments(".d/").await.unwrap();
    assert_eq!(segments.len(), 3003);
    assert!(
        segments.is_sorted() && ["a", "a-b", "a_b"].iter().all(|name| segments.contains(&(*name).to_owned()))
    );
    assert_eq!(store.segments(".d/a/").await.unwrap(), ["x", "y"]);
    assert!(store.segments(".d/nothing/").await.unwrap().is_empty());
}

/// Entry and note change in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn removals_leave_notes_and_bringing_back_takes_them_away() {
    let server = Postgres::start().await;
    let store = open(server.config());
    let (name, gone, record) = (entry("key"), EntryName::gone(&key("key"), &fingerprint()), bytes("record"));
    assert_eq!(kind(store.remove(&name, &gone, &bytes("note")).await), Some(ErrorKind::NotFound));
    assert_eq!(kind(store.get(&gone).await), Some(ErrorKind::NotFound), "no note of what was not there");
    store.create(&name, &record).await.unwrap();
    store.remove(&name, &gone, &bytes("note")).await.unwrap();
    assert_eq!(kind(store.get(&name).await), Some(ErrorKind::NotFound));
    assert!(store.get(&gone).await.unwrap() == bytes("note"));

    store.create(&name, &bytes("other")).await.unwrap();
    assert_eq!(kind(store.bring_back(&name, &record, &gone).await), Some(ErrorKind::AlreadyExists));
    assert!(store.get(&gone).await.unwrap() == bytes("note"), "a refused creation leaves the note");
    let other = EntryName::gone(&key("key"), &kms_core::primitives::Fingerprint::from_bytes([8; 16]));
    let notes = Notes { gone: &other, record: &bytes("note of the other"), back: &gone };
    store.replace(&name, &record, &notes).await.unwrap();
    assert!(store.get(&name).await.unwrap() == record);
    assert!(store.get(&other).await.unwrap() == bytes("note of the other"));
    assert_eq!(kind(store.get(&gone).await), Some(ErrorKind::NotFound));

    store.remove(&name, &gone, &bytes("note")).await.unwrap();
    store.bring_back(&name, &record, &gone).await.unwrap();
    assert_eq!(kind(store.get(&gone).await), Some(ErrorKind::NotFound));
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys"), "2");
}

fn made(table: &str, config: PostgresConfig) -> PostgresConfig {
    PostgresConfig { table: table.to_owned(), create_schema: true, ..config }
}

async fn check(config: impl Fn(&str) -> PostgresConfig) {
    contract::key_store(&Arc::new(open(config("store")))).await;
    contract::shared_store(&Arc::new(open(config("shared"))), &Arc::new(open(config("shared")))).await;
    let forgetting = Arc::new(KeyRing::new(open(config("forgets")), CacheConfig::default()));
    let keeping = |table| {
        let uncached = CacheConfig::default().with_any(Duration::ZERO);
        Arc::new(KeyRing::keeping_deleted(open(config(table)), uncached, Duration::from_secs(3600)))
    };
    tokio::join!(
        contract::kms(forgetting),
        contract::kms(keeping("Keeps \"quoted\"")),
        contract::deletions(keeping("two"), keeping("two")),
    );
}
