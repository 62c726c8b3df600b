//! The embedded store with its root key in AWS KMS or in Vault's transit engine.

use std::fs;

use kms_tests::bao::Bao;
use kms_tests::localstack::{Aws, LocalStack};
use kms_tests::shell::kms;
use kms_vault::{AppRole, Login, SecretSource};
use serde_json::json;

use super::setup::{KeyServer, attempt, text};

#[test]
fn the_embedded_store_has_its_root_key_in_aws_kms() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let endpoint = LocalStack::shared().endpoint();
    let (aws, arns) = runtime.block_on(async {
        let aws = Aws::before(endpoint).await;
        let mut arns = Vec::new();
        for _ in 0..2 {
            let made = aws.ask("CreateKey", json!({})).await;
            arns.push(made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned());
        }
        (aws, arns)
    });
    let outer = |key: &str| {
        let credentials = aws.connection().credentials.unwrap();
        format!(
            "[kms.aws]\nkey = \"{key}\"\nendpoint = \"{}\"\nregion = \"eu-central-1\"\n\
             [kms.aws.credentials]\naccesskey = \"{}\"\nsecretkey = \"s3cr3t\"\n",
            aws.endpoint(),
            credentials.access_key
        )
    };
    keys_outlive_a_restart_and_another_root_key_is_refused(
        &outer(&arns[0]),
        &outer(&arns[1]),
        &format!("root key '{}' in AWS KMS: wraps and unwraps", arns[0]),
    );
}

#[test]
fn the_embedded_store_has_its_root_key_in_vault() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bao, login) = runtime.block_on(async {
        let bao = Bao::start().await;
        bao.mount_transit("minio").await;
        bao.ask(reqwest::Method::POST, "transit/keys/other", json!({})).await;
        let policy = "path \"transit/+/+\" { capabilities = [\"update\"] }";
        let login = bao.approle(policy, "5m").await;
        (bao, login)
    });
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = login else {
        unreachable!()
    };
    let outer = |key: &str| {
        format!(
            "[kms.vault]\nendpoint = \"{}\"\n[kms.vault.approle]\nid = \"{id}\"\nsecret = \"{}\"\n\
             [kms.vault.transit]\nkey = \"{key}\"\n",
            bao.endpoint(),
            secret.expose()
        )
    };
    let told = format!("root key in the transit engine of {}: wraps and unwraps", bao.endpoint());
    keys_outlive_a_restart_and_another_root_key_is_refused(&outer("minio"), &outer("other"), &told);
}

fn keys_outlive_a_restart_and_another_root_key_is_refused(outer: &str, other: &str, told: &str) {
    let dir = tempfile::tempdir().unwrap();
    let key_store = format!("[keystore.fs]\npath = \"{}\"\n", dir.path().join("store").display());
    let mut server = KeyServer::start_on(dir, &format!("{key_store}{outer}"), told, &[], &[]);
    server.admin(&["key", "create", "my-key"]);
    let dek = json(&server.admin(&["key", "dek", "my-key", "--json"]));
    server.restart();
    let ciphertext = dek["ciphertext"].as_str().unwrap();
    let opened = json(&server.admin(&["key", "decrypt", "my-key", ciphertext, "--json"]));
    assert_eq!(opened["plaintext"], dek["plaintext"]);
    server.stop();

    let config = server.dir.path().join("config.toml");
    let of_config = |arguments: [&str; 3]| {
        let output = attempt(kms(), &arguments, &[]);
        (output.status.success(), text(&output))
    };
    let path = config.display().to_string();
    let (good, found) = of_config(["check", "--config", &path]);
    assert!(good && found.contains(told) && found.contains("1 key read and decoded"), "{found}");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace(outer, other)).unwrap();
    let (good, found) = of_config(["server", "--config", &path]);
    assert!(!good && found.contains("no root opens it") && found.contains("has no entry"), "{found}");
    let (good, found) = of_config(["check", "--config", &path]);
    assert!(!good && found.contains("has no entry"), "{found}");
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}
