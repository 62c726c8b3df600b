//! The one error of the library: a kind that callers match, and the chain that operators read.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of every operation in this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as far as a caller can act on it.
///
/// Callers match kinds, never texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such key.
    NotFound,
    /// A key of that name is there already; it was left as it was.
    AlreadyExists,
    /// The ciphertext was not made with this key and this context, or was changed since.
    NotAuthentic,
    /// The key has no HMAC key: its record was written before KES 0.24.
    NoHmacKey,
    /// The request itself is malformed: a name, a size, an algorithm.
    InvalidInput,
    /// The backend knows us and refuses this operation (a 403).
    Denied,
    /// The backend refuses our credentials, or there are none to show it.
    LoginRefused,
    /// The key exists but is disabled or pending deletion in the backend.
    Disabled,
    /// No connection to the backend, or it answered with a server error, or with what makes no sense.
    Unreachable,
    /// The backend is there but sealed, or not initialised yet.
    Sealed,
    /// The backend or a limit of ours asks to come back later.
    Throttled,
    /// The answer did not come within the deadline. A write may still have happened.
    Timeout,
    /// What the store holds cannot be what was written to it: damaged, or sealed by another root key.
    Corrupt,
    /// The store cannot take writes: a full disk, a failed sync. Reads go on.
    ReadOnly,
    /// The backend cannot do this at all.
    Unsupported,
    /// The caller left before anything had begun.
    Abandoned,
    /// A defect of this program or of a library under it.
    Internal,
}

impl ErrorKind {
    /// Tells whether the backend could not be asked, so that a key read earlier is as good as can be had.
    ///
    /// A 404, a refused login, a disabled key and a 403 are answers; no connection, a timeout, a server
    /// error, throttling and a seal are not.
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Unreachable | Self::Sealed | Self::Throttled | Self::Timeout)
    }

    /// Tells whether the same request may succeed later without anybody changing anything.
    pub fn is_retryable(self) -> bool {
        self.is_outage() || matches!(self, Self::ReadOnly)
    }

    /// Tells whether an operation that failed so may have taken effect all the same.
    pub fn leaves_outcome_unknown(self) -> bool {
        self.is_outage() || matches!(self, Self::Internal)
    }

    /// Tells whether this answers what a client asked about a key or a ciphertext.
    ///
    /// Whoever knows nothing of the client's key, as the holder of a root key does, must not let its own errors pass as
    /// such an answer: a root key that is missing would make every key look absent.
    pub(crate) fn is_answer(self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::AlreadyExists
                | Self::NotAuthentic
                | Self::NoHmacKey
                | Self::InvalidInput
                | Self::Unsupported
        )
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "key does not exist",
            Self::AlreadyExists => "key already exists",
            Self::NotAuthentic => "ciphertext is not authentic",
            Self::NoHmacKey => "key does not support HMAC",
            Self::InvalidInput => "invalid input",
            Self::Denied => "permission denied by the key store",
            Self::LoginRefused => "login failed",
            Self::Disabled => "key is disabled",
            Self::Unreachable => "key store is not available",
            Self::Sealed => "key store is sealed",
            Self::Throttled => "too many requests",
            Self::Timeout => "deadline exceeded",
            Self::Corrupt => "stored data is corrupt",
            Self::ReadOnly => "key store does not take writes",
            Self::Unsupported => "operation is not supported by the key store",
            Self::Abandoned => "the caller left before it began",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A failed operation: its [`ErrorKind`], what was being done, and the backend's own error as source.
///
/// Clones share one allocation, so that many requests can wait for one read and all hear its outcome.
/// `Display` prints this error alone; [`Error::chain`] prints it with its sources, for a log.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind` in `operation`, told as what was being done: `read key 'my-key'`.
    pub fn new(kind: ErrorKind, operation: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, operation: operation.into(), source: None }))
    }

    /// Makes an error with the error underneath, which may be a plain text.
    pub fn with_source(
        kind: ErrorKind,
        operation: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, operation: operation.into(), source: Some(source.into()) }))
    }

    /// Returns what went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns what was being done.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Returns an adapter that prints this error and all its sources in one line.
    pub fn chain(&self) -> impl fmt::Display + '_ {
        Chain(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.kind)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.0.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

struct Chain<'a>(&'a Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}
