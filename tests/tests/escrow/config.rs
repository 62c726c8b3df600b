//! The section `escrow` of a config, in TOML and in KES's form.

use std::path::Path;

use kms_server::config::{Environment, load_text};
use kms_server::settings::{EscrowFailure, EscrowSettings};
use kms_tests::escrow::EscrowKey;

const TOML: &str = "admin.identity = 'disabled'\ntls.cert = 'c'\ntls.key = 'k'\nkeystore.memory = {}\n";

fn section(name: &str, text: &str) -> Result<Option<EscrowSettings>, String> {
    let loaded = load_text(text, name, &Environment::default());
    loaded.map(|loaded| loaded.settings.escrow).map_err(|problem| problem.to_string())
}

#[test]
fn the_section_means_the_same_in_both_forms() {
    let key = EscrowKey::new();
    let recipient = key.recipient();
    assert_eq!(section("kms.toml", TOML).unwrap(), None);
    let toml =
        format!("{TOML}[escrow]\nrecipients = ['{recipient}']\npath = '/e/escrow'\non_failure = 'warn'\n");
    let found = section("kms.toml", &toml).unwrap().unwrap();
    assert_eq!(found, key.settings(Path::new("/e/escrow"), EscrowFailure::Warn));
    let yaml = format!(
        "version: v1\nadmin: {{identity: disabled}}\ntls: {{cert: c, key: k}}\nkeystore: {{fs: {{path: d}}}}\n\
         escrow:\n  recipients: [{recipient}]\n  path: /e/escrow\n"
    );
    let found = section("config.yml", &yaml).unwrap().unwrap();
    assert_eq!(found, key.settings(Path::new("/e/escrow"), EscrowFailure::Refuse));
}

#[test]
fn each_mistake_names_its_key_and_its_place() {
    let key = EscrowKey::new();
    let recipient = key.recipient();
    let aws = TOML.replace("keystore.memory = {}", "keystore.aws.kms.region = 'eu-central-1'");
    let good = format!("recipients = ['{recipient}']\npath = 'e'\n");
    let two = format!("recipients = ['{recipient}', 'age1nobody']\npath = 'e'\n");
    let secret = std::fs::read_to_string(key.file()).unwrap();
    let secret = secret.lines().last().unwrap();
    for (config, lines, expected) in [
        (TOML, two.as_str(), "kms.toml:6: escrow.recipients[1]: no recipient of age"),
        (
            TOML,
            "recipients = []\npath = 'e'\n",
            "kms.toml:6: escrow.recipients: no recipient, expected at least one",
        ),
        (TOML, "path = 'e'\n", "escrow.recipients: no recipient, expected at least one"),
        (TOML, &format!("recipients = ['{secret}']\n"), "escrow.recipients[0]: a secret key of age"),
        (
            TOML,
            &format!("recipients = ['{recipient}']\n"),
            "escrow.path: missing, expected the file for sealed keys",
        ),
        (
            TOML,
            &format!("{good}on_failure = 'drop'\n"),
            "escrow.on_failure: 'drop' is unknown, expected 'refuse' or 'warn'",
        ),
        (
            TOML,
            &format!("{good}file = 'e'\n"),
            "escrow.file: unknown key, expected one of recipients, path, on_failure",
        ),
        (aws.as_str(), &good, "kms.toml:5: escrow: the keys of AWS KMS never leave it"),
    ] {
        let told = section("kms.toml", &format!("{config}[escrow]\n{lines}")).unwrap_err();
        assert!(told.contains(expected), "{told}\nexpected: {expected}");
        assert!(!told.contains(secret), "{told}");
    }
}
