//! What refusals of Secrets Manager mean.

use kms_core::{Error, ErrorKind};

use crate::error::Failure;

/// The right that a call needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Create,
    Get,
    Describe,
    Delete,
    Restore,
    List,
}

impl Right {
    fn of_secrets_manager(self) -> &'static str {
        match self {
            Self::Create => "secretsmanager:CreateSecret",
            Self::Get => "secretsmanager:GetSecretValue",
            Self::Describe => "secretsmanager:DescribeSecret",
            Self::Delete => "secretsmanager:DeleteSecret",
            Self::Restore => "secretsmanager:RestoreSecret",
            Self::List => "secretsmanager:ListSecrets",
        }
    }

    fn of_kms(self) -> &'static str {
        match self {
            Self::Create => "kms:GenerateDataKey and kms:Decrypt",
            _ => "kms:Decrypt",
        }
    }
}

/// Creates the failure of an answer that cannot be one of Secrets Manager.
pub(super) fn no_answer() -> Failure {
    Failure::of(ErrorKind::Unreachable, "an answer of AWS Secrets Manager without what was asked for")
}

/// Creates the error of a call that failed. If AWS refuses the call, the error says which right is missing.
pub(super) fn refused(failure: Failure, operation: impl Into<String>, right: Right) -> Error {
    let lacks = match failure.code.as_str() {
        "AccessDeniedException" if failure.to_string().contains("KMS") => right.of_kms(),
        "AccessDeniedException" => right.of_secrets_manager(),
        "DecryptionFailure" | "EncryptionFailure" | "InvalidRequestException"
            if failure.is_about_disabled_key() =>
        {
            let why = format!("the KMS key of the secret cannot be used: {failure}");
            return Error::with_source(ErrorKind::Disabled, operation, why);
        }
        "DecryptionFailure" | "EncryptionFailure" => right.of_kms(),
        "ResourceNotFoundException" if right == Right::Create => {
            let why = format!("the KMS key 'kmskey' is not there: {failure}");
            return Error::with_source(ErrorKind::Denied, operation, why);
        }
        _ => return failure.into_error(operation),
    };
    let why = if lacks.starts_with("kms:") {
        format!("the KMS key of the secret is disabled, or we lack the right {lacks} on it ({failure})")
    } else {
        format!("we lack the right {lacks} on it ({failure})")
    };
    Error::with_source(failure.kind, operation, why)
}
