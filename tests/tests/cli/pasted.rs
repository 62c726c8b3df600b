//! Secrets that somebody pasted in place of an identity.

use std::path::Path;

use kms_server::credentials::apikey::ApiKey;
use kms_tests::shell::{Done, Shell, text};

use super::fake::{Fake, Pair};

/// Returns the pasted texts, each with the part that nobody may see.
fn secrets() -> Vec<(String, String)> {
    let api_key = ApiKey::generate().unwrap().to_text();
    let (_, seed) = api_key.rsplit_once(':').unwrap();
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let body = pem.lines().nth(1).unwrap();
    vec![
        (api_key.to_string(), seed.to_owned()),
        (seed.to_owned(), seed.to_owned()),
        (format!(" {}\n", &*api_key), seed.to_owned()),
        (api_key[..30].to_owned(), seed[..20].to_owned()),
        (pem.clone(), body.to_owned()),
        (pem.replace('\n', " "), body.to_owned()),
        (body.to_owned(), body.to_owned()),
    ]
}

#[track_caller]
fn is_told_and_not_shown(done: &Done, secret: &str) -> String {
    let told = format!("{}{}", done.stdout, done.stderr);
    assert!(!told.contains(secret), "{told}");
    assert!(told.contains("(not shown"), "{told}");
    told
}

fn config(directory: &Path, admin: &str, rest: &str) -> std::path::PathBuf {
    let path = directory.join("config.toml");
    let content = format!(
        "admin.identity = {}\ntls.cert = 'none'\ntls.key = 'none'\n{rest}\n",
        serde_json::json!(admin)
    );
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_config_with_a_secret_for_an_identity_is_told_of_without_the_secret() {
    let directory = tempfile::tempdir().unwrap();
    for (pasted, secret) in secrets() {
        let list = serde_json::json!([pasted]);
        for (admin, rest, key) in [
            (pasted.as_str(), String::new(), "admin.identity"),
            ("disabled", format!("[policy.app]\nidentities = {list}"), "policy.app.identities[0]"),
            (
                "disabled",
                format!("[tls.proxy]\nidentities = {list}\nheader.cert = 'x-cert'"),
                "tls.proxy.identities[0]",
            ),
        ] {
            let config = config(directory.path(), admin, &format!("{rest}\n[keystore.memory]"));
            for flags in [&[][..], &["--json"]] {
                let check = Shell::default().run(&[&["check", "--config", text(&config)], flags].concat());
                let told = is_told_and_not_shown(&check, &secret);
                assert!(told.contains(key), "{told}");
            }
            let start = Shell::default().run(&["server", "--config", text(&config)]);
            is_told_and_not_shown(&start, &secret);
        }
        let config = config(directory.path(), "disabled", "[keystore.memory]");
        let root = Shell::default().run(&["server", "--config", text(&config), "--root", &pasted]);
        is_told_and_not_shown(&root, &secret);
    }
}

#[test]
fn an_argument_that_is_a_secret_is_neither_shown_nor_sent() {
    let made = rcgen::generate_simple_self_signed([super::fake::ADDRESS.to_owned()]).unwrap();
    let pair = Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() };
    let fake = Fake::start(&pair, |_| (200, "{}".to_owned()));
    let shell = Shell::default()
        .set("KES_SERVER", fake.address)
        .set("KES_API_KEY", &*ApiKey::generate().unwrap().to_text());
    for (pasted, secret) in secrets() {
        for command in [&["identity", "info"][..], &["identity", "ls"], &["ls", "--identities"]] {
            let done = shell.run(&[command, &["-k", "--", pasted.as_str()]].concat());
            is_told_and_not_shown(&done, &secret);
            done.error();
            assert_eq!(fake.take_requests(), [""; 0]);
        }
        // Both commands take API keys and files.
        for command in
            [&["identity", "of"][..], &["policy", "test", "--config", "/none", "/v1/status", "--identity"]]
        {
            let done = Shell::default().run(&[command, &[pasted.as_str()]].concat());
            let told = format!("{}{}", done.stdout, done.stderr);
            assert!(!told.contains(&secret), "{told}");
        }
    }
    let api_key = ApiKey::generate().unwrap();
    let done = shell.run(&["identity", "info", "-k", &api_key.to_text()]);
    assert!(done.error().contains(&api_key.identity().to_string()), "the mistake is easily mended");
    let done = shell.run(&["identity", "new", "a", &api_key.to_text()]);
    is_told_and_not_shown(&done, &api_key.to_text());
}
