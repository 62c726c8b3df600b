//! The settings of a connection to AWS.

use std::fmt;

use kms_core::store::InvalidSetting;
use kms_core::{Error, Result};
use zeroize::Zeroizing;

/// The connection to AWS, and the identity behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsConnection {
    /// The address of a VPC endpoint or an emulator. If absent, the address follows from the region.
    pub endpoint: Option<String>,
    /// The region. If absent, it is that of the environment, the profile or the instance.
    pub region: Option<String>,
    /// The credentials. If absent, the SDK's default chain finds them: environment, profile, web identity, container,
    /// instance.
    pub credentials: Option<Credentials>,
}

/// A static access key of AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The id of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Zeroizing<String>,
    /// The session's token, for temporary credentials.
    pub token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

impl AwsConnection {
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("https://")
            && !endpoint.starts_with("http://")
        {
            return Err(invalid(
                "endpoint",
                "expected it to begin with 'https://' or 'http://', such as 'https://host:port'",
            ));
        }
        if self.region.as_deref().is_some_and(str::is_empty) {
            return Err(invalid("region", "it is empty"));
        }
        match &self.credentials {
            Some(keys) if keys.access_key.is_empty() || keys.secret_key.is_empty() => Err(invalid(
                "credentials",
                "'accesskey' and 'secretkey' belong together, one of them is missing",
            )),
            _ => Ok(()),
        }
    }
}

pub(crate) fn invalid(field: &str, why: &str) -> Error {
    InvalidSetting::error(format!("use the AWS setting '{field}'"), field, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_tells_no_secret() {
        let credentials = Credentials {
            access_key: "AKIA".to_owned(),
            secret_key: "s3cr3t".to_owned().into(),
            token: Some("t0k3n".to_owned().into()),
        };
        let connection = AwsConnection { credentials: Some(credentials), ..AwsConnection::default() };
        let text = format!("{connection:?}");
        assert!(text.contains("AKIA") && !text.contains("s3cr3t") && !text.contains("t0k3n"), "{text}");
    }
}
