//! No key and no root key reaches the database, its WAL or its logs, in any form.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use kms_tests::cluster::Cluster;
use kms_tests::postgres::Postgres;
use kms_tests::shell::field;
use kms_tests::spoilt::ask;

/// A log that holds as much as a log can.
const VERBOSE: [&str; 6] = [
    "log_statement=all",
    "log_min_messages=debug2",
    "log_min_duration_statement=0",
    "log_parameter_max_length=-1",
    "log_parameter_max_length_on_error=-1",
    "wal_level=logical",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_database_its_wal_and_its_logs_hold_no_key() {
    let server = Postgres::start_with(&VERBOSE).await;
    let cluster = Cluster::new();
    let config = cluster.config("config.toml", &cluster.store(&[server.port()], ""));
    let member = cluster.serve(&config);
    let mut client = member.client();
    let mut secrets = vec![("the root key".to_owned(), cluster.root_key().to_vec())];
    for n in 0..5 {
        let mut key = [0; 32];
        kms_core::primitives::fill_random(&mut key).unwrap();
        let body = format!("{{\"key\": \"{}\", \"cipher\": \"AES256\"}}", STANDARD.encode(key));
        assert_eq!(ask(&mut client, "PUT", &format!("/v1/key/import/key-{n}"), &body).await.0, 200);
        secrets.push((format!("key-{n}"), key.to_vec()));
        let answer = client.send("PUT", &format!("/v1/key/generate/key-{n}"), "").await.unwrap();
        let plaintext = field(answer.text(), "plaintext");
        secrets.push((format!("a data key of key-{n}"), STANDARD.decode(plaintext).unwrap()));
    }
    member.shell.run(&["key", "rotate", "key-0"]).ok();
    member.shell.run(&["key", "rm", "key-1"]).ok();
    member.shell.run(&["key", "restore", "key-1"]).ok();
    server.sql("CHECKPOINT");
    drop(member);

    let mut looked = 0;
    let mut look = |place: &str, content: &[u8]| {
        looked += content.len();
        for (what, secret) in &secrets {
            for (form, bytes) in forms(secret) {
                assert!(!holds(content, &bytes), "{place} holds {what} as {form}");
            }
        }
    };
    let rows = server.sql("SELECT encode(record, 'hex') FROM kms.kms_keys");
    assert!(rows.lines().count() > 7, "{rows}");
    for row in rows.lines() {
        let row = hex::decode(row).unwrap();
        look("a row", &row);
        // Rows are text: what is inside?
        let text = String::from_utf8_lossy(&row).into_owned();
        let sealed = text.strip_prefix("kms:sealed:v1:").map(|text| STANDARD.decode(text).unwrap());
        look("what a row seals", &sealed.unwrap_or_default());
    }
    look("a dump", server.dump().as_bytes());
    let log = server.log();
    assert!(log.contains("INSERT INTO"), "the log has no statements");
    look("the log", log.as_bytes());
    every_file(server.path(), &mut |path, content| look(&path.display().to_string(), content));
    eprintln!("{} secrets, {looked} bytes looked through", secrets.len());
}

/// Returns the forms in which a secret may appear. Base64 has three, by the place where it begins.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![
        ("bytes", secret.to_vec()),
        ("hex", hex::encode(secret).into_bytes()),
        ("hex", hex::encode_upper(secret).into_bytes()),
    ];
    for before in 0..3 {
        let text = STANDARD_NO_PAD.encode([&vec![0; before], secret].concat());
        // The first and the last characters depend on what stands beside the secret.
        let inner = text.as_bytes()[if before == 0 { 0 } else { before + 1 }..text.len() - 1].to_vec();
        forms.push(("base64", inner));
    }
    // A dump has bytea in hex, also of text.
    let of_text = hex::encode(STANDARD.encode(secret).trim_end_matches('=')).into_bytes();
    forms.push(("hex of base64", of_text[..of_text.len() - 2].to_vec()));
    forms
}

fn holds(content: &[u8], part: &[u8]) -> bool {
    let first = part[0];
    let mut rest = content;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(part) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn every_file(directory: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            every_file(&path, look);
        } else if kind.is_file() && !is_of_system(&path) {
            look(&path, &fs::read(&path).unwrap());
        }
    }
}

/// Returns whether a file is one of the catalogs of other databases, which are large and have nothing of ours.
fn is_of_system(path: &Path) -> bool {
    let path = path.to_string_lossy();
    path.contains("/base/1/") || path.contains("/base/4/") || path.contains("/base/5/")
}
