//! The sections of key stores: Vault, Secrets Manager, and those that this server does not have.

use std::path::Path;
use std::time::Duration;

use kms_server::config::load_text;
use kms_server::settings::KeyStoreSettings;

use super::loading::{START, environment, good, warnings, yaml};

#[test]
fn each_value_of_a_vault_lands_where_it_should() {
    let loaded = good("kes-0.24-vault.yml");
    assert_eq!(warnings(&loaded), "");
    let debug = format!("{:?}", loaded.settings);
    assert!(!debug.contains("very-secret"), "{debug}");
    let KeyStoreSettings::Vault(vault) = loaded.settings.key_store else { panic!() };
    assert_eq!(vault.endpoint, "https://vault.example:8200");
    assert_eq!((vault.engine.as_str(), vault.prefix.as_str()), ("secrets", "my-minio"));
    assert_eq!(vault.version, kms_vault::KvVersion::V2);
    assert_eq!(vault.namespace.as_deref(), Some("team/a"));
    assert_eq!(vault.ping, Duration::from_secs(20));
    let transit = vault.transit.unwrap();
    assert_eq!((transit.engine.as_str(), transit.key.as_str()), ("transit-engine", "my-transit-key"));
    assert_eq!(vault.tls.ca.as_deref(), Some(Path::new("/etc/kes/vault-ca.crt")));
    assert_eq!(vault.tls.key.as_deref(), Some(Path::new("/etc/kes/vault.key")));
    assert_eq!(vault.tls.cert.as_deref(), Some(Path::new("/etc/kes/vault.crt")));
    let kms_vault::Login::AppRole(login) = vault.login else { panic!() };
    assert_eq!((login.engine.as_str(), login.id.as_str()), ("approle-engine", "role"));
    assert_eq!(login.namespace.as_deref(), Some("team/b"));
}

#[test]
fn our_own_settings_of_vault_land_where_they_should() {
    let vault = |login: &str| {
        let tls = "tls:\n  key: a\n  cert: b\n";
        let start = "admin:\n  identity: disabled\n";
        let text = format!("{start}{tls}keystore:\n  vault:\n    endpoint: https://vault:8200\n{login}");
        yaml(&text).map(|loaded| match loaded.settings.key_store {
            KeyStoreSettings::Vault(vault) => vault,
            _ => panic!(),
        })
    };
    let config =
        vault("    approle: {id: a, secret_file: /etc/secret}\n    transit: {key: k, require: on}\n")
            .unwrap();
    assert!(config.transit.unwrap().require);
    let kms_vault::Login::AppRole(login) = config.login else { panic!() };
    assert!(matches!(login.secret, kms_vault::SecretSource::File(path) if path == Path::new("/etc/secret")));
    let config = vault("    token: {file: /etc/token}\n").unwrap();
    assert!(matches!(config.login, kms_vault::Login::Token(kms_vault::SecretSource::File(_))));
    let config = vault("    token: {value: s.x}\n").unwrap();
    assert!(matches!(config.login, kms_vault::Login::Token(kms_vault::SecretSource::Value(_))));
    for (login, words) in [
        (
            "    approle: {id: a, secret: b, secret_file: c}\n",
            "secret_file: two secrets, expected secret or secret_file",
        ),
        ("    token: {value: a, file: b}\n", "token.file: two tokens"),
        ("    token: {}\n", "token: no token, expected value or file"),
        ("    token: {value: a}\n    approle: {id: a, secret: b}\n", "token: more than one way to log in"),
    ] {
        let told = vault(login).unwrap_err().to_string();
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn each_form_of_secrets_manager_lands_where_it_should() {
    let loaded = good("guide-aws.yml");
    let debug = format!("{:?}", loaded.settings.key_store);
    let KeyStoreSettings::AwsSecrets(secrets) = loaded.settings.key_store else { panic!() };
    let connection = &secrets.connection;
    assert_eq!(connection.endpoint.as_deref(), Some("https://secretsmanager.us-east-1.amazonaws.com"));
    assert_eq!(connection.region.as_deref(), Some("us-east-1"));
    let keys = connection.credentials.as_ref().unwrap();
    assert_eq!((keys.access_key.as_str(), keys.secret_key.as_str()), ("x", "very-secret"));
    assert!(keys.token.is_none() && !debug.contains("very-secret"), "{debug}");
    assert_eq!((secrets.kms_key.as_deref(), secrets.recovery_window), (None, 7));

    let secrets = |store: &str| {
        yaml(&format!("{START}keystore:\n  {store}\n")).map(|loaded| match loaded.settings.key_store {
            KeyStoreSettings::AwsSecrets(secrets) => secrets,
            other => panic!("{other:?}"),
        })
    };
    let config = secrets(
        "aws: {secretsmanager: {endpoint: 'http://127.0.0.1:4566', region: '', kmskey: alias/kes, \
         credentials: {accesskey: '', secretkey: ''}, recovery_window: 0}}",
    )
    .unwrap();
    assert_eq!(config.connection.endpoint.as_deref(), Some("http://127.0.0.1:4566"));
    assert!(config.connection.region.is_none() && config.connection.credentials.is_none());
    assert_eq!((config.kms_key.as_deref(), config.recovery_window), (Some("alias/kes"), 0));
    assert_eq!(secrets("aws: {secrets_manager: {recovery_window: 30}}").unwrap().recovery_window, 30);
    let aws_kms = yaml(&format!(
        "{START}keystore: {{aws: {{kms: {{deletion_window: 7, reuse: {{max_uses: 1000}}}}}}}}\n"
    ));
    let KeyStoreSettings::AwsKms(aws_kms) = aws_kms.unwrap().settings.key_store else { panic!() };
    assert_eq!((aws_kms.deletion_window, aws_kms.reuse.max_uses), (7, 1000));
    let toml = "admin = {identity = 'disabled'}\ntls = {key = 'k', cert = 'c'}\n\
        [keystore.aws.secretsmanager]\nrecovery_window = ";
    let loaded = load_text(&format!("{toml}14\n"), "kms.toml", &environment()).unwrap();
    let KeyStoreSettings::AwsSecrets(config) = loaded.settings.key_store else { panic!() };
    assert_eq!(config.recovery_window, 14);
    let told = load_text(&format!("{toml}-1\n"), "kms.toml", &environment()).unwrap_err().to_string();
    assert!(told.starts_with("kms.toml:4: keystore.aws.secretsmanager.recovery_window: "), "{told}");
    for (store, words) in [
        (
            "aws:\n    secretsmanager:\n      recovery_window: 5",
            "kes.yml:6: keystore.aws.secretsmanager.recovery_window: 5 is not possible, expected 0 (",
        ),
        (
            "aws:\n    secretsmanager:\n      recovery_window: a week",
            "kes.yml:6: keystore.aws.secretsmanager.recovery_window: invalid value 'a week', expected a whole number",
        ),
        (
            "secretsmanager:\n    recovery_window: 31",
            "kes.yml:5: keystore.secretsmanager.recovery_window: 31 is not possible",
        ),
        (
            "secretsmanager: {credentials: {accesskey: x}}",
            "kes.yml:4: keystore.secretsmanager.credentials: 'accesskey' and 'secretkey' belong together",
        ),
        (
            "aws:\n    secretsmanager: {region: x}\n    kms: {region: x}",
            "kes.yml:5: keystore.aws.secretsmanager: two key stores, expected one: keystore.aws.kms is at kes.yml:6",
        ),
        (
            "aws: {}",
            "kes.yml:4: keystore.aws: empty, expected keystore.aws.kms or keystore.aws.secretsmanager",
        ),
    ] {
        let told = secrets(store).unwrap_err().to_string();
        assert!(told.starts_with(words), "{words:?} in {told:?}");
    }
}

#[test]
fn sections_without_a_key_store_are_none() {
    for others in ["aws: {}", "azure: {}", "gcp: {}", "fortanix: {}", "gemalto: {}", "entrust: {}"] {
        let text = format!("{START}keystore:\n  fs: {{path: p}}\n  {others}\n");
        assert!(matches!(yaml(&text).unwrap().settings.key_store, KeyStoreSettings::KesDirectory { .. }));
    }
    let loaded = yaml(&format!("{START}keystore:\n  fs: {{path: p}}\n  generic: {{endpoint: x}}\n")).unwrap();
    assert!(warnings(&loaded).contains("keystore.generic: no effect"), "{}", warnings(&loaded));
    let told = yaml(&format!("{START}keystore: {{kes: {{endpoint: [x]}}}}\n")).unwrap_err().to_string();
    assert!(told.contains("keystore.kes: another KES is not supported"), "{told}");
}

#[test]
fn a_key_store_that_we_lack_is_an_error_with_its_name() {
    for (store, what) in [
        ("azure: {keyvault: {endpoint: x}}", "Azure Key Vault"),
        ("gcp: {secretmanager: {project_id: x}}", "GCP Secret Manager"),
        ("fortanix: {sdkms: {endpoint: x}}", "Fortanix SDKMS"),
        ("gemalto: {keysecure: {endpoint: x}}", "KeySecure"),
        ("entrust: {keycontrol: {endpoint: x}}", "Entrust KeyControl"),
    ] {
        let told = yaml(&format!("{START}keystore:\n  {store}\n")).unwrap_err().to_string();
        assert!(told.starts_with("kes.yml:4: keystore.") && told.contains(what), "{told}");
    }
    let outer = format!("{START}keystore: {{fs: {{path: p}}}}\nkms:\n  aws: {{address: x, key: y}}\n");
    let told = yaml(&outer).unwrap_err().to_string();
    assert!(told.starts_with("kes.yml:5: kms.aws: an outer KMS of KES"), "{told}");
    let ours = yaml(&outer.replace("address", "region")).unwrap().settings.key_store;
    assert!(matches!(ours, KeyStoreSettings::Wrapped { .. }), "{ours:?}");
    let outer = "root = 'disabled'\n[kms.aws]\nregion = 'x'\n[keystore.fs]\npath = 'x'\n";
    let told = load_text(outer, "kes.toml", &environment()).unwrap_err().to_string();
    assert!(told.starts_with("kes.toml:2: kms.aws: an outer KMS"), "{told}");
}
