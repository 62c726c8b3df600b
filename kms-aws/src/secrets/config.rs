//! The settings of AWS Secrets Manager.

use kms_core::Result;

use crate::config::{AwsConnection, invalid};

/// The place of the keys in AWS Secrets Manager, and the fate of those that are deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsConfig {
    /// The connection to AWS.
    pub connection: AwsConnection,
    /// Id, alias or ARN of the KMS key that encrypts the secrets. If absent, it is AWS's own, `aws/secretsmanager`.
    pub kms_key: Option<String>,
    /// The number of days for which a deleted key can be restored, from 7 to 30. Zero erases it at once, as KES does.
    /// The default is 7.
    pub recovery_window: u32,
}

impl SecretsConfig {
    /// The values of a recovery window, for messages.
    pub const RECOVERY_WINDOW: &str = "0 (a deleted key is erased at once) or 7 to 30 days";

    /// Creates the configuration that a server has by default.
    pub fn new(connection: AwsConnection) -> Self {
        Self { connection, kms_key: None, recovery_window: 7 }
    }

    /// Returns whether the number of days is zero, or one that AWS takes.
    pub fn is_recovery_window(days: u32) -> bool {
        days == 0 || (7..=30).contains(&days)
    }

    /// Checks all that can be checked without AWS.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`](kms_core::ErrorKind::InvalidInput): a setting cannot be used. The error names it.
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
