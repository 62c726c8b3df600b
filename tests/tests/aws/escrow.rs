//! `kms escrow verify` over Secrets Manager, which keeps a deleted key and shows nobody which one it is.

use std::fs;

use kms_tests::escrow::EscrowKey;
use kms_tests::localstack::LocalStack;
use kms_tests::shell::Shell;
use kms_tests::{Client, Protocol, TestIdentity};

#[test]
fn a_deleted_key_whose_lines_are_lost_is_told() {
    told_of_lost_lines("331000000001", "[deletion]\ngrace = \"0s\"\n");
}

#[test]
fn a_key_that_was_marked_as_deleted_and_whose_lines_are_lost_is_told() {
    told_of_lost_lines("331000000002", "[deletion]\ngrace = \"30d\"\n");
}

fn told_of_lost_lines(account: &str, deletion: &str) {
    let (directory, key, admin) = (tempfile::tempdir().unwrap(), EscrowKey::new(), TestIdentity::new());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (server_key, cert, escrow, config) =
        (file("server.key"), file("server.crt"), file("volume/escrow"), file("config.toml"));
    fs::create_dir(directory.path().join("volume")).unwrap();
    let new = ["identity", "new", "--key", &server_key, "--cert", &cert, "--ip", "127.0.0.1", "localhost"];
    Shell::default().run(&new).ok();
    let settings = format!(
        "address = \"127.0.0.1:0\"\n[admin]\nidentity = \"{}\"\n[tls]\nkey = \"{server_key}\"\ncert = \"{cert}\"\n\
         [keystore.aws.secretsmanager]\nregion = \"eu-central-1\"\nendpoint = \"{}\"\n\
         [keystore.aws.secretsmanager.credentials]\naccesskey = \"{account}\"\nsecretkey = \"secret\"\n\
         [escrow]\nrecipients = [\"{}\"]\npath = \"{escrow}\"\n{deletion}",
        admin.identity(),
        LocalStack::shared().endpoint(),
        key.recipient()
    );
    fs::write(&config, settings).unwrap();
    let server = Shell::default().serve(&["--config", &config]);
    let stdout = server.stdout();
    let endpoint = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
    let mut client = Client::new(endpoint.parse().unwrap(), Protocol::Http1, &admin);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut ask =
        |method: &str, path: &str| runtime.block_on(kms_tests::spoilt::ask(&mut client, method, path, ""));
    for name in ["stays", "goes"] {
        assert_eq!(ask("PUT", &format!("/v1/key/create/{name}")).0, 200);
    }
    assert_eq!(ask("DELETE", "/v1/key/delete/goes").0, 200);
    assert!(server.stop().success());

    let verify = || Shell::default().run(&["escrow", "verify", &escrow, "--config", &config]);
    let whole = fs::read_to_string(&escrow).unwrap();
    verify().ok();

    // Without the lines of its removal a restore would bring the key back.
    let is_entry = |line: &&str| line.contains(" entry ") || line.contains(" stored ");
    let of_goes = |line: &&str| line.contains(" goes ");
    let without_removal: Vec<_> = whole.lines().filter(|line| !of_goes(line) || is_entry(line)).collect();
    assert!(without_removal.len() < whole.lines().count(), "{whole}");
    fs::write(&escrow, without_removal.join("\n") + "\n").unwrap();
    let done = verify();
    let expected = "key 'goes' is deleted in the key store, and a restore from escrow would bring it back";
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let told = format!("{}{}", done.stdout, done.stderr);
    assert!(told.contains(expected) && !told.contains("'stays'"), "{told}");
}
