//! A key store in an AWS KMS of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::emulator::LocalStack;

/// What `kms check` tells of it.
pub const TOLD: &str = "aws: list: 0 keys";

/// Returns the section of the config for a key store in an account of LocalStack that nobody else uses.
pub fn key_store() -> String {
    static ACCOUNTS: AtomicU64 = AtomicU64::new(200_000_000_000);
    format!(
        r#"[keystore.aws.kms]
endpoint = "{}"
region = "eu-central-1"
[keystore.aws.kms.credentials]
accesskey = "{}"
secretkey = "secret-access-key"
"#,
        LocalStack::shared().endpoint(),
        ACCOUNTS.fetch_add(1, Ordering::Relaxed)
    )
}
