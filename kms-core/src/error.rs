//! The error of the library: a kind for callers to match, and a chain of messages for operators to read.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of every operation in this library.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of an [`Error`].
///
/// Callers match kinds and never the text of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such key.
    NotFound,
    /// There is a key of that name already. It was left as it was.
    AlreadyExists,
    /// The ciphertext was not made with this key and this context, or was changed later.
    NotAuthentic,
    /// The key has no HMAC key: its record was written before KES 0.24.
    NoHmacKey,
    /// The request itself is malformed, such as a name, a size or an algorithm.
    InvalidInput,
    /// The backend accepts the credentials and refuses this operation (an HTTP 403).
    Denied,
    /// The backend refuses the credentials, or there are none.
    LoginRefused,
    /// The key exists, and the backend has disabled it.
    Disabled,
    /// The key was deleted and can be restored. Its name is taken until then.
    Deleted,
    /// No connection to the backend, or it answered with a server error or with an answer that makes no sense.
    Unreachable,
    /// The backend is sealed, or not initialised yet.
    Sealed,
    /// The backend answers, and the place of the records is not there or not fit for them: a table, a schema, a database.
    /// Nobody knows which keys were in it.
    NotSetUp,
    /// A replica answered and does not have it. Others may: it is behind them, or they are behind it.
    Behind,
    /// The backend, or a limit of this library, asks the caller to come back later.
    Throttled,
    /// The answer did not come within the deadline. A write may still have happened.
    Timeout,
    /// The stored data is not what was written: it is damaged, or sealed under another root key.
    Corrupt,
    /// The store cannot take writes, for example because a sync failed or a standby answered. Reads go on.
    ReadOnly,
    /// The disk of the store is full, or a quota on it, so nothing can be written. Reads go on.
    DiskFull,
    /// The state of the key does not allow the operation. The source of the error says why, in words for the caller.
    Conflict,
    /// The backend does not have this operation.
    Unsupported,
    /// The caller left before the operation began.
    Abandoned,
    /// A defect of this program, or of a library under it.
    Internal,
}

impl ErrorKind {
    /// Returns `true` if the backend gave no answer. A key that was read earlier is then the best available.
    ///
    /// No connection, a timeout, a server error, throttling, a sealed backend, one that is not set up and what a replica does
    /// not have are outages. An absent key (HTTP 404), a denial (403), a refused login and a disabled key are answers.
    pub fn is_outage(self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::Sealed
                | Self::NotSetUp
                | Self::Behind
                | Self::Throttled
                | Self::Timeout
        )
    }

    /// Returns `true` if the backend refuses every write now. Reads may go on.
    pub fn is_of_writes(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DiskFull)
    }

    /// Returns `true` if the same request may succeed later without any change of configuration.
    pub fn is_retryable(self) -> bool {
        self.is_outage() || self.is_of_writes()
    }

    /// Returns `true` if an operation with this error may have taken effect.
    pub fn leaves_outcome_unknown(self) -> bool {
        self.is_outage() || matches!(self, Self::Internal)
    }

    /// Returns `true` if the kind is an answer to a client's question about a key or a ciphertext.
    ///
    /// The holder of a root key knows nothing of the client's key, so its errors must not pass as such an answer: a
    /// missing root key would make every key look absent.
    pub(crate) fn is_answer(self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::AlreadyExists
                | Self::Deleted
                | Self::NotAuthentic
                | Self::NoHmacKey
                | Self::InvalidInput
                | Self::Conflict
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
            Self::Deleted => "key is deleted",
            Self::Unreachable => "key store is not available",
            Self::Sealed => "key store is sealed",
            Self::NotSetUp => "key store is not set up",
            Self::Behind => "the replica that answered does not have it",
            Self::Throttled => "too many requests",
            Self::Timeout => "deadline exceeded",
            Self::Corrupt => "stored data is corrupt",
            Self::ReadOnly => "key store does not take writes",
            Self::DiskFull => "the disk of the key store is full",
            Self::Conflict => "the state of the key does not allow it",
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

/// A failed operation: its [`ErrorKind`], the operation, and the backend's own error as the source.
///
/// Clones share one allocation, so that many requests can wait for one read and all receive its error.
/// `Display` prints this error alone. [`Error::chain`] prints it with its sources, for a log.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind` in `operation`, which is a phrase such as `read key 'my-key'`.
    pub fn new(kind: ErrorKind, operation: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, operation: operation.into(), source: None }))
    }

    /// Creates an error with a source: an error, or a plain text.
    pub fn with_source(
        kind: ErrorKind,
        operation: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, operation: operation.into(), source: Some(source.into()) }))
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Returns it as the standard library's trait, for a log that keeps the sources apart.
    ///
    /// In this workspace the field `cause` of an event is the error that ends its message, and `error` is one beside it.
    pub fn as_dyn(&self) -> &(dyn StdError + 'static) {
        self
    }

    /// Returns an adapter that prints this error and all of its sources on one line.
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
