//! Sessions that end, servers that restart, networks that drop, disks that are full, rights and tables that are missing.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kms_core::store::KeyStore;
use kms_core::{ErrorKind, ListQuery};
use kms_postgres::PostgresConfig;
use kms_tests::cable::{Cable, State};
use kms_tests::postgres::{Postgres, config, give};
use kms_tests::programs::until;

use super::common::{bytes, entry, kind, open, record, told, until_it_works};

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'kms'";

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_terminated_and_a_restart_cost_nothing_that_was_acknowledged() {
    let mut server = Postgres::start().await;
    let store = open(server.config());
    store.create(&entry("key"), &record()).await.unwrap();
    for _ in 0..5 {
        server.sql(TERMINATE);
        assert!(store.get(&entry("key")).await.unwrap() == record(), "a read is made again at once");
        server.sql(TERMINATE);
        let name = entry(&format!("key-{}", server.sql("SELECT count(*) FROM kms.kms_keys")));
        store.create(&name, &record()).await.unwrap();
    }
    server.stop();
    let (outage, _) = told(store.get(&entry("key")).await);
    assert_eq!(outage, ErrorKind::Unreachable);
    server.run().await;
    assert!(store.get(&entry("key")).await.unwrap() == record());
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys"), "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_drops_is_an_outage_within_the_timeout() {
    let server = Postgres::start().await;
    let cable = Cable::to(server.port()).await;
    let quick = PostgresConfig {
        timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_millis(500),
        ..config(&[cable.port()])
    };
    let store = open(quick);
    store.create(&entry("key"), &record()).await.unwrap();
    cable.set(State::Dropping);
    let began = Instant::now();
    let (read, text) = told(store.get(&entry("key")).await);
    assert!(read.is_outage(), "{text}");
    assert!(began.elapsed() < Duration::from_secs(3), "a read ends in time: {:?}", began.elapsed());
    let written = told(store.create(&entry("second"), &record()).await).0;
    assert!(written.is_outage(), "{written:?}");
    assert!(began.elapsed() < Duration::from_secs(7), "and so does a write: {:?}", began.elapsed());
    cable.set(State::Whole);
    let (read, _) = until_it_works(Duration::from_secs(10), async || store.get(&entry("key")).await).await;
    assert!(read == record());
    // The write was not sent, so nothing is in doubt.
    assert_eq!(kind(store.get(&entry("second")).await), Some(ErrorKind::NotFound));
}

/// The first server takes connections and answers none, as with a disk that hangs. Another one has its place by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_does_not_hide_the_one_that_took_its_place() {
    let server = Postgres::start().await;
    let standby = server.standby("spare").await;
    let cable = Cable::to(server.port()).await;
    let store = open(PostgresConfig {
        timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        ..config(&[cable.port(), standby.port()])
    });
    store.create(&entry("key"), &record()).await.unwrap();
    cable.set(State::Dropping);
    standby.promote();
    let write = async || store.create(&entry("second"), &record()).await;
    let ((), took) = until_it_works(Duration::from_secs(10), write).await;
    assert!(took < Duration::from_secs(5), "writes were back after {took:?}");
    assert!(store.get(&entry("key")).await.unwrap() == record());
}

/// The creates wait for a standby, and never hear from their server again.
#[tokio::test(flavor = "multi_thread")]
async fn creates_at_a_server_that_hangs_hold_nobody_up_once_another_has_its_place() {
    let server = Postgres::start().await;
    let standby = server.standby("spare").await;
    server.set("synchronous_standby_names", "nobody");
    let cable = Cable::to(server.port()).await;
    let store = open(PostgresConfig { pool: 4, ..config(&[cable.port(), standby.port()]) });
    let creates: Vec<_> = (0..2)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.create(&entry(&format!("waiting-{n}")), &record()).await })
        })
        .collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("both wait", async || server.sql(waiting) == "2").await;
    let there = "SELECT count(*) FROM kms.kms_keys";
    until("the standby has both", async || standby.sql(there) == "2").await;
    cable.set(State::Dropping);
    standby.promote();
    let write = async || store.create(&entry("second"), &record()).await;
    let ((), took) = until_it_works(Duration::from_secs(30), write).await;
    assert!(took < Duration::from_secs(10), "writes were back after {took:?}");
    for (n, create) in creates.into_iter().enumerate() {
        // Whoever was told that nobody knows hears it from the next read.
        let created = create.await.unwrap();
        assert!(created.is_ok() || kind(created) == Some(ErrorKind::Timeout), "{n}");
        assert!(store.get(&entry(&format!("waiting-{n}"))).await.unwrap() == record());
    }
    assert_eq!(server.sql(waiting), "2", "nobody cancelled them");
}

/// As an advisor of a hosted database asks it of every table.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_row_level_security_hides_are_not_taken_for_absent() {
    let server = Postgres::start().await;
    let store = open(server.config());
    store.create(&entry("key"), &record()).await.unwrap();
    server.sql("ALTER TABLE kms.kms_keys ENABLE ROW LEVEL SECURITY");
    for name in ["key", "absent"] {
        let (kind, text) = told(store.get(&entry(name)).await);
        assert_eq!(kind, ErrorKind::NotSetUp, "{text}");
        assert!(text.contains("row level security"), "{text}");
    }
    assert!(store.list(&ListQuery::prefix("")).await.is_err());
    assert!(store.segments(".v/").await.is_err());
    let (_, text) = told(store.status().await);
    assert!(text.contains("row level security"), "{text}");
    let findings = kms_postgres::check(server.config()).await;
    let last = findings.last().unwrap();
    assert!(last.what == "rights" && last.detail.contains("BYPASSRLS"), "{findings:?}");
    // A row that a policy shows is there.
    server.sql("CREATE POLICY all_rows ON kms.kms_keys USING (true)");
    assert!(store.get(&entry("key")).await.unwrap() == record());
    assert_eq!(kind(store.get(&entry("absent")).await), Some(ErrorKind::NotSetUp));
    server.sql("ALTER ROLE kms BYPASSRLS");
    assert_eq!(kind(store.get(&entry("absent")).await), Some(ErrorKind::NotFound));
}

/// The table lies on a file system of some megabytes, and the server's log on another.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_takes_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path()) else {
        eprintln!("a small file system cannot be mounted here; see the test with the mock");
        return;
    };
    let server = Postgres::start().await;
    server.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display()));
    server.sql("ALTER TABLE kms.kms_keys SET TABLESPACE small");
    let store = open(server.config());
    store.create(&entry("key"), &record()).await.unwrap();
    let big = bytes(&noise(200_000));
    let (mut kept, mut refused) = (Vec::new(), None);
    for n in 0..200 {
        let name = entry(&format!("big-{n}"));
        match store.create(&name, &big).await {
            Ok(()) => kept.push(name),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let refused = refused.expect("the disk is full");
    assert_eq!(refused.kind(), ErrorKind::DiskFull, "{refused:?}");
    assert!(refused.chain().to_string().contains("disk is full"), "{refused:?}");
    assert!(store.get(&entry("key")).await.unwrap() == record(), "reads go on");
    assert!(!kept.is_empty());
    for name in &kept {
        assert!(store.get(name).await.unwrap() == big, "{name} was acknowledged");
    }
    server.sql("ALTER TABLE kms.kms_keys SET TABLESPACE pg_default");
    store.create(&entry("after"), &big).await.unwrap();
    drop(server);
}

/// A mock of a full disk: a trigger that fails as the server does then.
#[tokio::test(flavor = "multi_thread")]
async fn a_mocked_full_disk_has_a_kind_of_its_own() {
    let server = Postgres::start().await;
    let store = open(server.config());
    store.create(&entry("key"), &record()).await.unwrap();
    server.sql(
        "CREATE FUNCTION mock() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER mock BEFORE INSERT ON kms.kms_keys EXECUTE FUNCTION mock()",
    );
    let (kind_of_create, text) = told(store.create(&entry("new"), &record()).await);
    assert_eq!(kind_of_create, ErrorKind::DiskFull, "{text}");
    assert!(text.contains("disk is full"), "{text}");
    assert_eq!(kind(store.get(&entry("new")).await), Some(ErrorKind::NotFound), "nothing is in doubt");
    server.sql("DROP TRIGGER mock ON kms.kms_keys");
    store.create(&entry("new"), &record()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_has_a_kind_and_an_advice() {
    let server = Postgres::start_with(&["max_connections=12", "superuser_reserved_connections=3"]).await;
    let store = open(server.config());
    store.create(&entry("key"), &record()).await.unwrap();
    let refused = async |sql: &str, undo: &str, expected: ErrorKind, text: &str| {
        server.sql(sql);
        let (kind, told) = told(store.create(&entry("new"), &record()).await);
        assert_eq!(kind, expected, "{told}");
        assert!(told.contains(text), "{told}");
        server.sql(undo);
    };
    let (table, role) = ("kms.kms_keys", "kms");
    refused(
        &format!("REVOKE INSERT ON {table} FROM {role}"),
        &format!("GRANT INSERT ON {table} TO {role}"),
        ErrorKind::Denied,
        "kms postgres schema",
    )
    .await;
    refused(
        "ALTER TABLE kms.kms_keys RENAME TO away",
        "ALTER TABLE kms.away RENAME TO kms_keys",
        ErrorKind::NotSetUp,
        "kms postgres schema",
    )
    .await;
    refused(
        "ALTER SCHEMA kms RENAME TO away",
        "ALTER SCHEMA away RENAME TO kms",
        ErrorKind::NotSetUp,
        "kms postgres schema",
    )
    .await;
    refused(
        "ALTER TABLE kms.kms_keys DROP CONSTRAINT kms_keys_pkey",
        "ALTER TABLE kms.kms_keys ADD PRIMARY KEY (name)",
        ErrorKind::NotSetUp,
        "primary key",
    )
    .await;
    let elsewhere = open(PostgresConfig { database: "nowhere".to_owned(), ..server.config() });
    let (kind_of_read, text) = told(elsewhere.get(&entry("key")).await);
    assert_eq!(kind_of_read, ErrorKind::NotSetUp, "{text}");
    assert!(text.contains("kms postgres schema"), "{text}");
    server.sql("ALTER TABLE kms.kms_keys RENAME TO away");
    assert_eq!(kind(store.get(&entry("key")).await), Some(ErrorKind::NotSetUp), "no absence");
    let (kind_of_status, text) = told(store.status().await);
    assert_eq!(kind_of_status, ErrorKind::NotSetUp, "{text}");
    assert!(text.contains("kms postgres schema"), "{text}");
    assert!(store.list(&ListQuery::prefix("")).await.is_err());
    server.sql("ALTER TABLE kms.away RENAME TO kms_keys");
    // Transactions are read-only for the role from the next connection on.
    server.sql("ALTER ROLE kms SET default_transaction_read_only = on");
    server.sql(TERMINATE);
    let (kind_of_read, text) = told(store.get(&entry("absent")).await);
    assert_eq!(kind_of_read, ErrorKind::Unreachable, "{text}");
    let (kind_of_create, text) = told(store.create(&entry("new"), &record()).await);
    assert_eq!(kind_of_create, ErrorKind::ReadOnly, "{text}");
    server.sql("ALTER ROLE kms RESET default_transaction_read_only");

    let held: Vec<_> = (0..12).map(|_| server.config()).map(open).collect();
    let mut busy = None;
    for other in &held {
        if let Err(error) = other.status().await {
            busy = Some(error);
        }
    }
    let busy = busy.expect("there are more stores than connections");
    assert_eq!(busy.kind(), ErrorKind::Throttled, "{busy:?}");
    assert!(busy.chain().to_string().contains("max_connections"), "{busy:?}");
}

/// A server that replays its log takes no connections yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_up_says_so() {
    let server = Postgres::start().await;
    let mut standby = server.standby("spare").await;
    standby.stop();
    // It replays for ever, and says the same as one that starts up.
    standby.add_setting("hot_standby=off");
    standby.run_unheard();
    let store = open(PostgresConfig { timeout: Duration::from_secs(1), ..standby.config() });
    let began = Instant::now();
    loop {
        let (kind, text) = told(store.get(&entry("key")).await);
        if kind == ErrorKind::Sealed {
            assert!(text.contains("57P03") && text.contains("starts up"), "{text}");
            return;
        }
        assert_eq!(kind, ErrorKind::Unreachable, "{text}");
        assert!(began.elapsed() < Duration::from_secs(30), "it never said that it starts up: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A primary takes no writes any more, and the sessions stay: as before a planned switch.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_read_only_says_nothing_of_absences_and_loses_its_connections() {
    let server = Postgres::start().await;
    let reading = open(server.config());
    let writing = open(PostgresConfig { application_name: "writing".to_owned(), ..server.config() });
    let (key, absent) = (entry("key"), entry("absent"));
    writing.create(&key, &record()).await.unwrap();
    let _ = tokio::join!(writing.get(&key), writing.get(&absent), writing.get(&key));
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'writing'";
    assert!(server.sql(sessions).parse::<u32>().unwrap() > 1);
    assert_eq!(kind(reading.get(&absent).await), Some(ErrorKind::NotFound));
    server.set("default_transaction_read_only", "on");
    // The server takes a setting in a moment later.
    let mut number = 0;
    let refused = loop {
        number += 1;
        if let Err(error) = writing.create(&entry(&format!("new-{number}")), &record()).await {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::ReadOnly, "{refused:?}");
    until("they are given up", async || server.sql(sessions) == "0").await;
    until("it is no absence", async || kind(reading.get(&absent).await) == Some(ErrorKind::Unreachable))
        .await;
    server.set("default_transaction_read_only", "off");
    let write = async || writing.create(&entry("after"), &record()).await;
    until_it_works(Duration::from_secs(5), write).await;
}

/// A file system of 8 MiB in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(directory: &Path) -> Option<Self> {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let place = directory.join("disk");
        std::fs::create_dir(&place).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&place).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            return None;
        }
        give(&place);
        Some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

/// Returns text that does not compress.
fn noise(length: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        write!(text, "{:08x}", state >> 32).unwrap();
    }
    text
}
