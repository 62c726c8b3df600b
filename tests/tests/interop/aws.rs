//! Key stores in an AWS account of their own.

use std::sync::atomic::{AtomicU64, Ordering};

use kms_tests::localstack::LocalStack;

/// Returns the section of the config for keys in AWS KMS, and what `kms check` prints for it.
pub fn kms() -> (String, &'static str) {
    (section("kms"), "aws: list: 0 keys")
}

/// Returns the section of the config for keys in Secrets Manager, and what `kms check` prints for it.
pub fn secrets_manager() -> (String, &'static str) {
    (section("secretsmanager"), "aws: list: 0 secrets whose names are those of keys")
}

/// Returns a section in the form of KES, with an account of LocalStack that nobody else uses.
fn section(service: &str) -> String {
    static ACCOUNTS: AtomicU64 = AtomicU64::new(200_000_000_000);
    format!(
        r#"[keystore.aws.{service}]
endpoint = "{}"
region = "eu-central-1"
[keystore.aws.{service}.credentials]
accesskey = "{}"
secretkey = "secret-access-key"
"#,
        LocalStack::shared().endpoint(),
        ACCOUNTS.fetch_add(1, Ordering::Relaxed)
    )
}
