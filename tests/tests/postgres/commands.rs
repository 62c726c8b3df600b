//! The commands of an operator on a store in PostgreSQL.

use std::fs;

use kms_tests::cluster::{Cluster, keystore};
use kms_tests::escrow::EscrowKey;
use kms_tests::moving::{Local, Sealed};
use kms_tests::postgres::Postgres;
use kms_tests::recipient::OWNER;
use kms_tests::shell::{Shell, field, text};

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_sql_makes_a_table_on_which_the_check_finds_nothing() {
    let server = Postgres::empty(&[]).await;
    let cluster = Cluster::new();
    let config =
        cluster.config("config.toml", &cluster.store(&[server.port()], "schema = \"vault\"\ntable = \"t\""));
    let sql = cluster.run(&["postgres", "schema", "--owner", "dba", "--reader", "backup"], &config).ok();
    assert!(sql.contains("GRANT SELECT ON TABLE \"vault\".\"t\" TO \"backup\""), "{sql}");
    let before = cluster.run(&["check"], &config);
    assert!(!before.status.success() && before.stdout.contains("kms postgres schema"), "{before:?}");
    server.sql("ALTER DATABASE keys OWNER TO postgres");
    server.sql(&sql);
    let checked = cluster.run(&["check"], &config).ok();
    for told in [
        "postgres: connection: ",
        "postgres: rights: select, insert and delete",
        "postgres: durability: ",
        "postgres: changes: deletions by other servers are heard at once",
        "the store is empty: the first start of a server gives it a store key",
    ] {
        assert!(checked.contains(told), "'{told}' is not in {checked}");
    }
    assert_eq!(server.sql("SELECT count(*) FROM vault.t"), "0", "a check leaves nothing behind");
    drop(cluster.serve(&config));
    let checked = cluster.run(&["check", "--all"], &config).ok();
    assert!(checked.contains("0 keys read and decoded") && checked.contains("opens"), "{checked}");
    // Once a row is changed, the right to do so is told.
    server.sql("GRANT UPDATE ON vault.t TO kms");
    let checked = cluster.run(&["check"], &config).ok();
    assert!(checked.contains("may update"), "{checked}");
}

#[test]
fn the_sql_is_printed_without_a_config_and_odd_roles_are_refused() {
    let run = |more: &[&str]| Shell::default().run(&[&["postgres", "schema"], more].concat());
    let sql = run(&["--schema", "s", "--table", "t", "--server", "srv"]).ok();
    assert!(sql.contains("GRANT SELECT, INSERT, DELETE ON TABLE \"s\".\"t\" TO \"srv\""), "{sql}");
    let told = run(&["--server", "same", "--owner", "same"]).error();
    assert!(told.contains("have to be different"), "{told}");
    let told = run(&["--reader", &"r".repeat(64)]).error();
    assert!(told.contains("--reader"), "{told}");
    let dir = tempfile::tempdir().unwrap();
    let local = Local::new(dir.path(), "local");
    let told = run(&["--config", text(&local.config)]).error();
    assert!(told.contains("expected [keystore.postgres]"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_root_is_added_and_the_first_removed() {
    let server = Postgres::start().await;
    let cluster = Cluster::new();
    cluster.write_root_key("second.key", &[5; 32]);
    let (one, other) = (cluster.root("root.key"), cluster.root("second.key"));
    let store = keystore(&[server.port()], "");
    let first = cluster.config("first.toml", &format!("{store}{one}"));
    let both = cluster.config("both.toml", &format!("{store}{one}{other}"));
    let second = cluster.config("second.toml", &format!("{store}{other}"));
    let member = cluster.serve(&first);
    member.shell.run(&["key", "create", "my-key"]).ok();
    let sealed = field(&member.shell.run(&["key", "encrypt", "my-key", "hello"]).ok(), "ciphertext");
    let status = cluster.run(&["root", "status", "--json"], &both).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let ids: Vec<_> = (0..2).map(|n| status["roots"][n]["id"].as_str().unwrap()).collect();
    // The server goes on meanwhile.
    cluster.run(&["root", "add", ids[1]], &both).ok();
    cluster.run(&["root", "remove", ids[0]], &both).ok();
    member.shell.run(&["key", "decrypt", "my-key", &sealed]).ok();
    drop(member);
    let member = cluster.serve(&second);
    member.shell.run(&["key", "decrypt", "my-key", &sealed]).ok();
    let told = cluster.refused(&first);
    assert!(told.contains("no root opens it"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_in_and_out_and_a_dry_run_writes_nothing() {
    let server = Postgres::start().await;
    let cluster = Cluster::new();
    let config = cluster.config("config.toml", &cluster.store(&[server.port()], ""));
    let dir = tempfile::tempdir().unwrap();
    let (from, back) = (Local::new(dir.path(), "from"), Local::new(dir.path(), "back"));
    let sealed = Sealed::under_new_keys(from.open(), 10).await;
    let run = |from: &str, to: &str, more: &[&str]| {
        Shell::default().run(&[&["migrate", "--from", from, "--to", to], more].concat()).ok()
    };
    let (from, config) = (text(&from.config), text(&config));
    run(from, config, &["--dry-run"]);
    assert_eq!(server.sql("SELECT count(*) FROM kms.kms_keys"), "0");
    let told = run(from, config, &[]);
    assert!(told.contains("10 keys in ") && told.contains("Proof: 10 keys read back"), "{told}");
    run(config, text(&back.config), &[]);
    sealed.assert_opens(back.open()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_an_escrow_file_bring_the_keys_back_into_an_empty_table() {
    let server = Postgres::empty(&[]).await;
    let cluster = Cluster::new();
    let escrow = EscrowKey::new();
    let table =
        |table: &str| cluster.store(&[server.port()], &format!("table = \"{table}\"\ncreate_schema = true"));
    let sections = format!(
        "[backup]\nrecipients = [\"{}\"]\n[escrow]\nrecipients = [\"{}\"]\npath = \"{}\"\n{}",
        OWNER.public,
        escrow.recipient(),
        text(&cluster.path("escrow")),
        table("first")
    );
    let member = cluster.serve(&cluster.config("first.toml", &sections));
    member.shell.run(&["key", "create", "my-key"]).ok();
    member.shell.run(&["key", "rotate", "my-key"]).ok();
    let sealed = field(&member.shell.run(&["key", "encrypt", "my-key", "hello"]).ok(), "ciphertext");
    let archive = cluster.path("backup");
    member.shell.run(&["backup", "create", "-o", text(&archive)]).ok();
    drop(member);
    server.sql("DROP TABLE kms.first");

    let identity = OWNER.file(&cluster.path(""), "identity");
    let of_escrow = escrow.file();
    for (name, command) in [
        ("of_backup", ["backup", "restore", text(&archive), "--identity", text(&identity)]),
        ("of_escrow", ["escrow", "restore", text(&cluster.path("escrow")), "--identity", text(&of_escrow)]),
    ] {
        let config = cluster.config(&format!("{name}.toml"), &table(name));
        let done = Shell::default().run(&[&command[..], &["--to", text(&config)]].concat());
        done.ok();
        let member = cluster.serve(&config);
        member.shell.run(&["key", "decrypt", "my-key", &sealed]).ok();
    }
    assert!(fs::metadata(cluster.path("escrow")).unwrap().len() > 0);
}
