//! What has to be known to use AWS Secrets Manager.

use kms_core::Result;

use crate::config::{AwsConnection, invalid};

/// Where the keys are in AWS Secrets Manager, and what becomes of those that are deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsConfig {
    /// How AWS is reached, and who asks.
    pub connection: AwsConnection,
    /// Id, alias or ARN of the KMS key that encrypts the secrets; AWS's own, `aws/secretsmanager`, if absent.
    pub kms_key: Option<String>,
    /// For how many days a deleted key can be restored, 7 to 30; 7. Zero erases it at once, as KES does.
    pub recovery_window: u32,
}

impl SecretsConfig {
    /// What a recovery window has to be, for messages.
    pub const RECOVERY_WINDOW: &str = "0 (a deleted key is erased at once) or 7 to 30 days";

    /// Makes the configuration that a server has by default.
    pub fn new(connection: AwsConnection) -> Self {
        Self { connection, kms_key: None, recovery_window: 7 }
    }

    /// Tells whether AWS takes this number of days, or it is zero.
    pub fn is_recovery_window(days: u32) -> bool {
        days == 0 || (7..=30).contains(&days)
    }

    /// Checks what can be checked without AWS; fails with `InvalidInput`, told with the field's name.
    pub fn validate(&self) -> Result<()> {
        self.connection.validate()?;
        if !Self::is_recovery_window(self.recovery_window) {
            return Err(invalid("recovery_window", &format!("expected {}", Self::RECOVERY_WINDOW)));
        }
        match self.kms_key.as_deref() {
            Some("") => Err(invalid("kmskey", "it is empty")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recovery_window_is_that_of_aws_or_none() {
        for (days, good) in [(0, true), (1, false), (6, false), (7, true), (30, true), (31, false)] {
            let config =
                SecretsConfig { recovery_window: days, ..SecretsConfig::new(AwsConnection::default()) };
            assert_eq!(config.validate().is_ok(), good, "{days}");
        }
    }
}
