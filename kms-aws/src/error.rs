//! Failures of calls to AWS, and the kinds of error that they are.

use std::error::Error as StdError;
use std::fmt;

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use kms_core::primitives::{quote, texts};
use kms_core::{Error, ErrorKind};

/// The outcome of a call.
pub type Attempt<T> = std::result::Result<T, Failure>;

/// A call that brought no result.
#[derive(Debug)]
pub struct Failure {
    /// The kind of error that this is.
    pub kind: ErrorKind,
    /// AWS's name for the failure, such as `AccessDeniedException`. It is empty if the answer has none.
    pub code: String,
    /// The text of AWS or of the network.
    why: String,
}

impl Failure {
    /// Converts an error of the SDK.
    pub fn new<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let plain =
            |kind, error: &dyn StdError| Self { kind, code: String::new(), why: quote(&texts(error)) };
        if !matches!(error, SdkError::ServiceError(_))
            && let Some(login) = source_of::<Error>(error)
        {
            // This text is short, and says where credentials were looked for. An operator needs no more.
            let why = login.source().map_or_else(|| login.to_string(), ToString::to_string);
            return Self { kind: login.kind(), code: String::new(), why };
        }
        match error {
            SdkError::TimeoutError(_) => plain(ErrorKind::Timeout, error),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => plain(ErrorKind::Timeout, error),
            SdkError::DispatchFailure(failure) if failure.is_io() => plain(ErrorKind::Unreachable, error),
            SdkError::DispatchFailure(failure) if failure.is_user() => plain(ErrorKind::LoginRefused, error),
            SdkError::ConstructionFailure(_) => plain(ErrorKind::LoginRefused, error),
            SdkError::ServiceError(answer) => {
                let code = answer.err().code().unwrap_or_default().to_owned();
                let status = answer.raw().status().as_u16();
                let why = match answer.err().message() {
                    Some(message) => quote(message),
                    None => format!("status {status} without an error of AWS's"),
                };
                Self { kind: kind_of(&code, status), code, why }
            }
            _ => plain(ErrorKind::Unreachable, error),
        }
    }

    /// Creates a failure that was seen here, and not by the SDK.
    pub fn of(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self { kind, code: String::new(), why: why.into() }
    }

    /// Adds words at the end of the text.
    #[must_use]
    pub fn with(mut self, words: &str) -> Self {
        self.why.push_str(words);
        self
    }

    /// Corrects the kind of a failure of AWS KMS, which has another code than other services for something that is
    /// absent.
    #[must_use]
    pub fn of_kms(mut self) -> Self {
        if self.kind == ErrorKind::NotFound && self.code != "NotFoundException" {
            self.kind = ErrorKind::Denied;
        }
        self
    }

    /// Returns whether AWS answered, and refuses the credentials.
    pub fn is_refused_login(&self) -> bool {
        self.kind == ErrorKind::LoginRefused && !self.code.is_empty()
    }

    /// Returns whether AWS refuses a ciphertext.
    ///
    /// `NotFoundException` counts too: an emulator gives it for a blob from which it cannot read the key. AWS gives it
    /// for a CMK that is absent.
    pub fn is_refused_ciphertext(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InvalidCiphertextException" | "IncorrectKeyException" | "NotFoundException"
        )
    }

    /// Returns whether Secrets Manager refuses because of the state of the secret.
    pub fn is_about_state(&self) -> bool {
        self.code == "InvalidRequestException"
    }

    /// Returns whether Secrets Manager refuses because the secret is scheduled for deletion. AWS has no code for this,
    /// so the text decides.
    pub fn is_about_deletion(&self) -> bool {
        let texts = ["scheduled for deletion", "marked for deletion", "marked deleted"];
        // The same texts may be about the KMS key.
        self.is_about_state() && !self.why.contains("KMS") && texts.iter().any(|text| self.why.contains(text))
    }

    /// Returns whether Secrets Manager says that there is no such secret, by a text that it uses for nothing else.
    pub fn is_about_no_secret(&self) -> bool {
        self.is_about_absence() && self.why.contains("find the specified secret") && !self.is_about_no_value()
    }

    /// Returns whether Secrets Manager says that the secret or its value is absent.
    pub fn is_about_absence(&self) -> bool {
        self.code == "ResourceNotFoundException"
    }

    /// Returns whether Secrets Manager says that a secret has no value.
    pub fn is_about_no_value(&self) -> bool {
        self.is_about_absence()
            && ["secret value", "staging label", "VersionId"].iter().any(|text| self.why.contains(text))
    }

    /// Returns whether the text is about a KMS key that cannot be used in its state.
    pub fn is_about_disabled_key(&self) -> bool {
        ["is disabled", "pending deletion", "pending import"].iter().any(|text| self.why.contains(text))
    }

    /// Converts the failure into the error of `operation`.
    pub fn into_error(self, operation: impl Into<String>) -> Error {
        Error::with_source(self.kind, operation, self)
    }
}

fn kind_of(code: &str, status: u16) -> ErrorKind {
    match code {
        "NotFoundException" | "ResourceNotFoundException" => ErrorKind::NotFound,
        "AlreadyExistsException" | "ResourceExistsException" => ErrorKind::AlreadyExists,
        "InvalidCiphertextException" | "IncorrectKeyException" => ErrorKind::NotAuthentic,
        "DisabledException" | "KMSInvalidStateException" => ErrorKind::Disabled,
        "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "KMSInternalException"
        | "InternalServiceError" => ErrorKind::Unreachable,
        "ThrottlingException" | "Throttling" | "RequestLimitExceeded" | "TooManyRequestsException" => {
            ErrorKind::Throttled
        }
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "InvalidIdentityToken"
        | "InvalidToken"
        | "RequestExpired"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => ErrorKind::LoginRefused,
        "" if status != 429 => ErrorKind::Unreachable,
        _ => match status {
            429 => ErrorKind::Throttled,
            500.. => ErrorKind::Unreachable,
            _ => ErrorKind::Denied,
        },
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() { f.write_str(&self.why) } else { write!(f, "{}: {}", self.code, self.why) }
    }
}

impl StdError for Failure {}

/// Finds an error among the sources of another.
pub fn source_of<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, status, kind) in [
            ("AccessDeniedException", 400, ErrorKind::Denied),
            ("DisabledException", 400, ErrorKind::Disabled),
            ("ThrottlingException", 400, ErrorKind::Throttled),
            ("KMSInternalException", 500, ErrorKind::Unreachable),
            ("UnrecognizedClientException", 400, ErrorKind::LoginRefused),
            ("", 404, ErrorKind::Unreachable),
            ("", 429, ErrorKind::Throttled),
            ("SomethingNew", 503, ErrorKind::Unreachable),
            ("LimitExceededException", 400, ErrorKind::Denied),
            ("ResourceNotFoundException", 400, ErrorKind::NotFound),
            ("ResourceExistsException", 400, ErrorKind::AlreadyExists),
            ("DecryptionFailure", 400, ErrorKind::Denied),
            ("EncryptionFailure", 400, ErrorKind::Denied),
            ("InvalidRequestException", 400, ErrorKind::Denied),
            ("InternalServiceError", 500, ErrorKind::Unreachable),
            ("InternalServiceError", 400, ErrorKind::Unreachable),
        ] {
            assert_eq!(kind_of(code, status), kind, "{code} {status}");
        }
    }

    #[test]
    fn a_deletion_is_told_from_other_states() {
        let failure = |code: &str, why: &str| Failure {
            kind: ErrorKind::Denied,
            code: code.to_owned(),
            why: why.to_owned(),
        };
        for why in [
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
            "You can't perform this operation on the secret because it was marked for deletion.",
            "You tried to perform the operation on a secret that's currently marked deleted.",
        ] {
            assert!(failure("InvalidRequestException", why).is_about_deletion(), "{why}");
            assert!(!failure("AccessDeniedException", why).is_about_deletion(), "{why}");
        }
        let of_kms = failure("InvalidRequestException", "The KMS key is scheduled for deletion.");
        assert!(!of_kms.is_about_deletion());
        let other = failure("InvalidRequestException", "You can't enable rotation without a function.");
        assert!(other.is_about_state() && !other.is_about_deletion());
    }

    #[test]
    fn a_secret_without_a_value_is_told_from_none() {
        let failure = |code: &str, why: &str| Failure {
            kind: ErrorKind::NotFound,
            code: code.to_owned(),
            why: why.to_owned(),
        };
        let absent = |why| failure("ResourceNotFoundException", why);
        assert!(absent("Secrets Manager can't find the specified secret.").is_about_no_secret());
        for why in [
            "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT",
            "Secrets Manager can't find the specified secret value for VersionId: 0",
        ] {
            assert!(absent(why).is_about_no_value() && !absent(why).is_about_no_secret(), "{why}");
        }
        assert!(!absent("some other text").is_about_no_secret());
        assert!(!failure("NotFoundException", "can't find the specified secret").is_about_no_secret());
    }
}
