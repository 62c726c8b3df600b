//! Key stores in an AWS account of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kms_aws::{AwsConnection, Credentials, SecretsConfig, SecretsManager};
use kms_core::store::KeyStore;
use kms_tests::localstack::LocalStack;

/// Returns the section of the config for keys in AWS KMS, and what `kms check` prints for it.
pub fn kms() -> (String, &'static str) {
    (section("kms"), "aws: list: 0 keys")
}

/// Returns the section of the config for keys in Secrets Manager, and what `kms check` prints for it.
pub fn secrets_manager() -> (String, &'static str) {
    (section("secretsmanager"), "aws: list: 0 secrets whose names are those of keys")
}

/// Returns the section of the config for keys in Secrets Manager, and the same store as a test opens it.
pub async fn opened_secrets_manager() -> (String, Arc<dyn KeyStore>) {
    let account = account();
    let connection = AwsConnection {
        endpoint: Some(LocalStack::shared().endpoint()),
        region: Some("eu-central-1".to_owned()),
        credentials: Some(Credentials {
            access_key: account.clone(),
            secret_key: "secret-access-key".to_owned().into(),
            token: None,
        }),
    };
    let store = SecretsManager::open(SecretsConfig::new(connection)).await.unwrap();
    (section_of("secretsmanager", &account), Arc::new(store))
}

/// Returns a section in the form of KES, with an account of LocalStack that nobody else uses.
fn section(service: &str) -> String {
    section_of(service, &account())
}

fn account() -> String {
    static ACCOUNTS: AtomicU64 = AtomicU64::new(200_000_000_000);
    ACCOUNTS.fetch_add(1, Ordering::Relaxed).to_string()
}

fn section_of(service: &str, account: &str) -> String {
    format!(
        r#"[keystore.aws.{service}]
endpoint = "{}"
region = "eu-central-1"
[keystore.aws.{service}.credentials]
accesskey = "{account}"
secretkey = "secret-access-key"
"#,
        LocalStack::shared().endpoint(),
    )
}
