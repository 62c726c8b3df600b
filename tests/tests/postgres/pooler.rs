//! A PgBouncer in transaction mode between us and the server.

use std::time::Duration;

use kms_core::store::{Change, KeyStore, Level};
use kms_postgres::{Host, PostgresConfig};
use kms_tests::postgres::{PgBouncer, Postgres, config};

use super::common::{bytes, entry, key, open, record, until_it_works};

/// The settings of a create must not stay in a session that the pooler hands to somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_in_a_session() {
    let server = Postgres::start().await;
    let pooler = PgBouncer::start(server.port()).await;
    server.sql("ALTER ROLE kms SET statement_timeout = '7s'; ALTER ROLE kms SET synchronous_commit = 'off'");
    let store = open(config(&[pooler.port()]));
    let creates: Vec<_> = (0..40)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.create(&entry(&format!("key-{n}")), &bytes("record")).await })
        })
        .collect();
    for create in creates {
        create.await.unwrap().unwrap();
    }
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys"), "40");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'kms'";
    assert!(server.sql(sessions).parse::<u32>().unwrap() <= 4, "the pooler's sessions, and no others");
    let settings = "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('synchronous_commit'), \
                    current_setting('client_min_messages')) FROM pg_sleep(2)";
    // All sessions at once, so that each is looked at.
    let all: Vec<_> = std::thread::scope(|scope| {
        let asked = [(); 4].map(|()| scope.spawn(|| pooler.sql(settings)));
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(all, ["7s off notice"; 4]);
    server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'kms'");
    // The pooler may not know yet which of its sessions are gone.
    let (read, _) = until_it_works(Duration::from_secs(5), async || store.get(&entry("key-1")).await).await;
    assert!(read == record());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_listens_has_its_own_host() {
    let server = Postgres::start().await;
    let pooler = PgBouncer::start(server.port()).await;
    let through = config(&[pooler.port()]);
    let direct =
        PostgresConfig { listen_hosts: vec![Host::new("127.0.0.1", server.port())], ..through.clone() };
    let (one, other) = (open(through.clone()), open(direct.clone()));
    let mut changes = other.changes().unwrap();
    one.create(&entry("key"), &record()).await.unwrap();
    let heard = async |changes: &mut kms_core::store::Changes| {
        let next = std::future::poll_fn(|cx| changes.as_mut().poll_next(cx));
        tokio::time::timeout(Duration::from_secs(5), next).await.unwrap().unwrap()
    };
    assert_eq!(heard(&mut changes).await, Change::Missed);
    one.delete(&entry("key")).await.unwrap();
    assert_eq!(heard(&mut changes).await, Change::Key(key("key")));

    let about = async |config| {
        let findings = kms_postgres::check(config).await;
        assert!(findings.iter().all(|finding| finding.level != Level::Problem), "{findings:?}");
        findings.into_iter().find(|finding| finding.what == "changes").unwrap()
    };
    assert_eq!(about(direct).await.level, Level::Good);
    let warned = about(through).await;
    assert!(warned.level == Level::Warning && warned.detail.contains("listen_host"), "{warned:?}");
}
