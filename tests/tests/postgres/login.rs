//! Logins: a password that is changed, in the config and in a file.

use std::os::unix::fs::PermissionsExt as _;

use kms_core::ErrorKind;
use kms_core::store::KeyStore;
use kms_postgres::{Environment, Host, Level, PostgresConfig, PostgresOptions, Secret, SecretSource};
use kms_tests::postgres::{PASSWORD, Postgres};

use super::common::{entry, open, record, told};

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'kms'";

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_is_read_again_at_each_connection() {
    let server = Postgres::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let from_file =
        open(PostgresConfig { password: Some(SecretSource::File(file.clone())), ..server.config() });
    let from_config = open(server.config());
    from_file.create(&entry("key"), &record()).await.unwrap();
    assert!(from_config.get(&entry("key")).await.unwrap() == record());
    server.sql("ALTER ROLE kms PASSWORD 'another-pw'");
    assert!(from_file.get(&entry("key")).await.unwrap() == record(), "connections that are there go on");
    std::fs::write(&file, "another-pw").unwrap();
    server.sql(TERMINATE);
    assert!(from_file.get(&entry("key")).await.unwrap() == record());
    let (kind, text) = told(from_config.get(&entry("key")).await);
    assert_eq!(kind, ErrorKind::LoginRefused, "{text}");
    assert!(text.contains("28P01") && text.contains("pg_hba.conf"), "{text}");
    std::fs::remove_file(&file).unwrap();
    server.sql(TERMINATE);
    let (kind, text) = told(from_file.get(&entry("key")).await);
    assert_eq!(kind, ErrorKind::LoginRefused, "{text}");
    assert!(text.contains("password"), "the file is named: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_of_libpq_gives_each_login_its_line_unless_others_may_read_it() {
    let server = Postgres::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pgpass");
    let (port, chmod) = (server.port().to_string(), |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    });
    std::fs::write(&file, format!("127.0.0.1:1:*:*:pw-secret\n127.0.0.1:{port}:keys:kms:{PASSWORD}\n"))
        .unwrap();
    chmod(0o600);
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", port.as_str()),
        ("PGDATABASE", "keys"),
        ("PGUSER", "kms"),
        ("PGSSLMODE", "disable"),
        ("PGPASSFILE", file.to_str().unwrap()),
    ];
    let config = PostgresOptions::default().resolve(&Environment::from_pairs(&variables)).unwrap();
    let store = open(config.clone());
    store.create(&entry("key"), &record()).await.unwrap();
    server.sql("ALTER ROLE kms PASSWORD 'a:new\\one'");
    std::fs::write(&file, r"*:*:*:kms:a\:new\\one").unwrap();
    server.sql(TERMINATE);
    assert!(store.get(&entry("key")).await.unwrap() == record(), "the file is read again");

    chmod(0o640);
    server.sql(TERMINATE);
    let (kind, text) = told(store.get(&entry("key")).await);
    assert_eq!(kind, ErrorKind::LoginRefused, "{text}");
    assert!(text.contains("chmod 600") && text.contains("pgpass"), "{text}");
    // A login that asks for no password works, and the check tells what is ignored.
    let findings = kms_postgres::check(PostgresConfig {
        hosts: vec![Host::new(server.path().to_str().unwrap(), server.port())],
        ..config
    })
    .await;
    let ignored = findings.iter().find(|finding| finding.detail.contains("chmod 600"));
    assert_eq!(ignored.map(|finding| finding.level), Some(Level::Warning), "{findings:?}");
    chmod(0o600);
    std::fs::write(&file, "other:*:*:*:pw-secret").unwrap();
    let (kind, text) = told(store.get(&entry("key")).await);
    assert_eq!(kind, ErrorKind::LoginRefused, "{text}");
    assert!(text.contains("no line for this login") && !text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_in_no_error_and_in_no_log() {
    let server =
        Postgres::start_with(&["log_statement=all", "log_connections=on", "log_min_messages=debug1"]).await;
    for password in [None, Some("pw-secret")] {
        let password = password.map(|text| SecretSource::Value(Secret::from(text)));
        let config = PostgresConfig { password, ..server.config() };
        let shown = format!("{config:?}");
        let (kind, text) = told(open(config.clone()).get(&entry("key")).await);
        assert_eq!(kind, ErrorKind::LoginRefused, "{text}");
        let findings = format!("{:?}", kms_postgres::check(config).await);
        for text in [shown, text, findings, server.log()] {
            assert!(!text.contains("pw-secret"), "{text}");
        }
    }
    let nowhere = PostgresConfig { database: "missing".to_owned(), ..server.config() };
    let (kind, text) = told(open(nowhere).get(&entry("key")).await);
    assert_eq!(kind, ErrorKind::NotSetUp, "{text}");
    assert!(text.contains("'database'"), "{text}");
}
