//! Failed calls to Vault, and the kinds of error that they are.
//!
//! A status is judged in three places: `foreign` if it has no body of Vault's, `is_passing` for whether the same request
//! is sent again now, and `kind` for what callers hear. An unknown status is an outage.

use kms_core::primitives::texts;
use kms_core::{Error, ErrorKind};

/// A call without an answer, or without a useful one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There was no complete answer.
    #[error("{why}")]
    Transport {
        /// Whether the time ran out.
        timeout: bool,
        /// Whether there was no connection, so that nothing was sent.
        connect: bool,
        /// The texts of the error and its sources.
        why: String,
    },
    /// The answer has a status that means failure.
    #[error("vault answers {code}{}", behind_colon(.says))]
    Status {
        /// The HTTP status.
        code: u16,
        /// The text of Vault, or an empty one.
        says: String,
    },
    /// Vault is sealed or was never initialised.
    #[error("{0}")]
    Sealed(&'static str),
    /// Too many requests are under way, and none of them ended in time. Nothing was sent.
    #[error("as many requests to vault as may be are under way")]
    Busy,
    /// The answer is longer than any that is expected.
    #[error("no usable answer of a vault: its answer to '{path}' is longer than {limit} bytes")]
    TooLong {
        /// The path of the request.
        path: String,
        /// The bound in bytes.
        limit: usize,
    },
    /// The peer is no Vault, or not one that can serve.
    #[error("no usable answer of a vault: {0}")]
    NotVault(String),
}

impl Failure {
    /// Creates a failure from an error of reqwest. The URL is left out, since it is always the same.
    pub fn transport(error: reqwest::Error) -> Self {
        let (timeout, connect) = (error.is_timeout(), error.is_connect());
        Self::Transport { timeout, connect, why: texts(&error.without_url()) }
    }

    /// Creates a failure from a status without a body of Vault's. Something between us and Vault sent it.
    ///
    /// Only statuses by which proxies report an outage are statuses of Vault. All others say that this is no Vault.
    pub fn foreign(code: u16) -> Self {
        match code {
            429 | 500.. => Self::Status { code, says: String::new() },
            300..400 => {
                Self::NotVault(format!("a redirect ({code}), and those are not followed with the token"))
            }
            _ => Self::NotVault(format!("status {code} without a body of vault's")),
        }
    }

    /// Returns whether the same request may succeed at once, and is sent again now. After a timeout it is not: that took its time.
    ///
    /// `ErrorKind::is_retryable` is about later: it tells callers that another request may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Transport { timeout, connect, .. } => !timeout && !connect,
            Self::Status { code, .. } => matches!(code, 412 | 429 | 500 | 502 | 504),
            Self::Sealed(_) | Self::Busy | Self::TooLong { .. } | Self::NotVault(_) => false,
        }
    }

    /// Returns whether Vault refuses the token, or a request with it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { code: 401 | 403, .. })
    }

    /// Returns whether this is Vault's answer to a wrong secret.
    pub fn is_refused_secret(&self) -> bool {
        matches!(self, Self::Status { code: 400 | 401 | 403, .. })
    }

    /// Returns the kind of error for an operation on an entry.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Transport { timeout: true, .. } => ErrorKind::Timeout,
            Self::Sealed(_) => ErrorKind::Sealed,
            Self::Busy | Self::Status { code: 429, .. } => ErrorKind::Throttled,
            Self::Status { code: 400 | 401 | 403 | 404 | 405 | 413, .. } => ErrorKind::Denied,
            Self::Transport { .. } | Self::Status { .. } | Self::TooLong { .. } | Self::NotVault(_) => {
                ErrorKind::Unreachable
            }
        }
    }

    /// Returns the kind of error for a login. Every answer to a login is a refusal, whatever it says.
    pub fn kind_of_login(&self) -> ErrorKind {
        match self.kind() {
            ErrorKind::Denied => ErrorKind::LoginRefused,
            kind => kind,
        }
    }

    /// Creates the error of a 403 in `operation`. The policy lacks `capability` on `path`.
    pub fn into_denied(self, operation: impl Into<String>, capability: &str, path: &str) -> Error {
        let why = format!("the policy of our token lacks the capability '{capability}' on '{path}' ({self})");
        Error::with_source(ErrorKind::Denied, operation, why)
    }

    /// Creates the error of `operation`.
    pub fn into_error(self, operation: impl Into<String>) -> Error {
        Error::with_source(self.kind(), operation, self)
    }
}

/// Puts a colon before a text of Vault, unless the text is empty.
fn behind_colon(says: &str) -> String {
    if says.is_empty() { String::new() } else { format!(": {says}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Failure {
        Failure::Status { code, says: String::new() }
    }

    #[test]
    fn statuses_have_their_kinds() {
        for (code, kind) in [
            (403, ErrorKind::Denied),
            (429, ErrorKind::Throttled),
            (500, ErrorKind::Unreachable),
            (502, ErrorKind::Unreachable),
            (503, ErrorKind::Unreachable),
            (307, ErrorKind::Unreachable),
            (412, ErrorKind::Unreachable),
        ] {
            assert_eq!(status(code).kind(), kind, "{code}");
        }
        for code in [400, 403, 404] {
            assert_eq!(status(code).kind_of_login(), ErrorKind::LoginRefused, "{code}");
        }
        assert_eq!(status(503).kind_of_login(), ErrorKind::Unreachable);
    }
}
