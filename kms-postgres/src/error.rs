//! Failed calls to PostgreSQL, and the kinds of error that they are.
//!
//! A failure is judged in three places: `Failure::of` takes from the driver's error what may be shown, `kind` is what
//! callers hear, and `is_lost` says whether the connection is of no use any more. An unknown SQLSTATE is an outage.

use std::io;

use kms_core::primitives::{quote, texts};
use kms_core::{Error, ErrorKind};
use tokio_postgres::error::{DbError, Severity};

/// A call without an answer, or without a useful one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server refuses or cannot do it. Details are left out: they may quote a row.
    #[error("postgresql answers {code}: {says}{}", advice(.code))]
    Server {
        /// The SQLSTATE.
        code: String,
        /// The server's text.
        says: String,
        /// Whether the server also ended the connection.
        fatal: bool,
    },
    /// There is no connection, or it ended.
    #[error("{0}")]
    Lost(String),
    /// The login cannot be made with what we have.
    #[error("{0}")]
    Login(String),
    /// No answer came in time.
    #[error("no answer came within {0} ms")]
    Timeout(u128),
    /// As many calls as may be are under way. Nothing was sent.
    #[error("as many {0} as may be are under way, see the setting 'pool'")]
    Busy(&'static str),
    /// None of several servers is one that takes writes.
    #[error("no server takes writes: {says}")]
    NoServer {
        /// The kind that says most.
        kind: ErrorKind,
        /// What each of them said.
        says: String,
    },
    /// The server answers and takes no writes, so it may be behind another one.
    #[error("the server takes no writes (it is a standby, or transactions are read-only there)")]
    ReadOnly,
    /// A server took the place of the one that was asked, which did not answer.
    #[error("another server takes writes now, and the one that was asked did not answer")]
    Replaced,
    /// The transaction ended, and the server warned that it may not be kept.
    #[error("the server does not vouch for the transaction: {0}")]
    Warned(String),
    /// The table is not one for keys.
    #[error("{0} (see the SQL of 'kms postgres schema')")]
    Unfit(String),
    /// A defect of this program.
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    /// Creates a failure from an error of the driver.
    pub fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::of_server(db);
        }
        // The driver's errors hold no password.
        let why = texts(error);
        let is_about_password = why.contains("password missing") || why.contains("authentication");
        if is_about_password && !error.is_closed() {
            return Self::Login(why);
        }
        Self::Lost(why)
    }

    /// Creates the failure of a table that was looked for and is not there, as the server tells it.
    pub fn no_table(table: &str) -> Self {
        let says = format!("the table {table} does not exist");
        Self::Server { code: "42P01".to_owned(), says, fatal: false }
    }

    /// Creates the failure of a table of which not every row is to be seen.
    pub fn hidden() -> Self {
        let why = "row level security is on for this role, so rows may be hidden and nothing can be said to be absent: \
                   disable it for the table, or give the role BYPASSRLS";
        Self::Unfit(why.to_owned())
    }

    fn of_server(db: &DbError) -> Self {
        let code = db.code().code().to_owned();
        // A pooler's errors have no severity that is not translated. Those of class 08 end connections in any case.
        let fatal = db.parsed_severity() != Some(Severity::Error) || code.starts_with("08");
        Self::Server { code, says: quote(db.message()), fatal }
    }

    /// Returns whether nothing more can be asked over this connection, or should be.
    pub fn is_lost(&self) -> bool {
        match self {
            // A connection to a server that became read-only leads to no primary any more.
            Self::Server { code, fatal, .. } => *fatal || code == "25006",
            Self::Busy(_) | Self::Warned(_) | Self::Unfit(_) => false,
            Self::Lost(_)
            | Self::Login(_)
            | Self::NoServer { .. }
            | Self::Timeout(_)
            | Self::ReadOnly
            | Self::Replaced
            | Self::Internal(_) => true,
        }
    }

    /// Returns whether the same read may succeed at once over another connection.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Lost(_) | Self::ReadOnly => true,
            Self::Server { .. } => self.is_lost() && self.kind() != ErrorKind::LoginRefused,
            _ => false,
        }
    }

    /// Returns whether a transaction that failed so may have been committed.
    ///
    /// An error that leaves the connection open rolled the transaction back.
    pub fn leaves_outcome_unknown(&self) -> bool {
        match self {
            Self::Server { fatal, .. } => *fatal,
            Self::Lost(_) | Self::Timeout(_) | Self::Replaced | Self::Warned(_) => true,
            Self::Login(_)
            | Self::Busy(_)
            | Self::NoServer { .. }
            | Self::ReadOnly
            | Self::Unfit(_)
            | Self::Internal(_) => false,
        }
    }

    /// Returns the kind of error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Server { code, .. } => kind_of(code),
            Self::Login(_) => ErrorKind::LoginRefused,
            Self::Timeout(_) | Self::Replaced | Self::Warned(_) => ErrorKind::Timeout,
            Self::Busy(_) => ErrorKind::Throttled,
            Self::Lost(_) => ErrorKind::Unreachable,
            Self::NoServer { kind, .. } => *kind,
            Self::ReadOnly => ErrorKind::ReadOnly,
            Self::Unfit(_) => ErrorKind::NotSetUp,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// Creates the error of `operation`.
    pub fn into_error(self, operation: impl Into<String>) -> Error {
        Error::with_source(self.kind(), operation, self)
    }

    /// Creates the error of `operation`, which is a read. One that is refused as a write would be brought no answer: what a
    /// server without writes does not have may be elsewhere.
    pub fn into_error_of_read(self, operation: impl Into<String>) -> Error {
        let kind = if self.kind().is_of_writes() { ErrorKind::Unreachable } else { self.kind() };
        Error::with_source(kind, operation, self)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::of(&error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Returns the kind of a SQLSTATE (PostgreSQL 15, appendix A). A table that is missing or unfit is an outage and no absence:
/// nobody knows which keys were in it.
fn kind_of(code: &str) -> ErrorKind {
    match code {
        "57P03" => ErrorKind::Sealed,
        "25006" => ErrorKind::ReadOnly,
        "53100" => ErrorKind::DiskFull,
        "3D000" | "3F000" | "42P01" | "42703" | "42P10" => ErrorKind::NotSetUp,
        "53300" | "53400" | "55P03" | "40001" | "40P01" | "57014" => ErrorKind::Throttled,
        "42501" => ErrorKind::Denied,
        _ if code.starts_with("28") => ErrorKind::LoginRefused,
        _ => ErrorKind::Unreachable,
    }
}

/// Returns what an operator should do about a SQLSTATE.
fn advice(code: &str) -> &'static str {
    match code {
        "57P03" => " (it starts up or shuts down, and is asked again)",
        "25006" => {
            " (it is a standby or read-only; the next connection looks for the server that takes writes)"
        }
        "53100" => " (its disk is full: nothing is created or deleted until there is room)",
        "53300" => " (raise max_connections, or lower 'pool')",
        "42501" => {
            " (a right is missing: 'kms postgres schema' prints the grants, and 'kms check' names the right)"
        }
        "42P01" | "3F000" => " (make it by the SQL of 'kms postgres schema', or set 'create_schema')",
        "3D000" => " (see the setting 'database'; the SQL of 'kms postgres schema' makes the table in it)",
        "42P10" => {
            " (the table has no primary key on its names: make it by the SQL of 'kms postgres schema')"
        }
        "42703" => " (the table is not one for keys: make it by the SQL of 'kms postgres schema')",
        _ if code.starts_with("28") => " (see user, password and the server's pg_hba.conf)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, fatal: bool) -> Failure {
        Failure::Server { code: code.to_owned(), says: "text".to_owned(), fatal }
    }

    #[test]
    fn states_have_their_kinds_and_tell_what_to_do() {
        for (code, kind, advice) in [
            ("57P03", ErrorKind::Sealed, "starts up"),
            ("25006", ErrorKind::ReadOnly, "standby"),
            ("53300", ErrorKind::Throttled, "max_connections"),
            ("53100", ErrorKind::DiskFull, "disk is full"),
            ("28P01", ErrorKind::LoginRefused, "password"),
            ("28000", ErrorKind::LoginRefused, "pg_hba.conf"),
            ("42501", ErrorKind::Denied, "right"),
            ("42P01", ErrorKind::NotSetUp, "kms postgres schema"),
            ("3F000", ErrorKind::NotSetUp, "kms postgres schema"),
            ("3D000", ErrorKind::NotSetUp, "kms postgres schema"),
            ("42P10", ErrorKind::NotSetUp, "kms postgres schema"),
            ("42703", ErrorKind::NotSetUp, "kms postgres schema"),
            ("57P01", ErrorKind::Unreachable, "57P01"),
            ("XX000", ErrorKind::Unreachable, "XX000"),
        ] {
            let failure = server(code, false);
            assert_eq!(failure.kind(), kind, "{code}");
            assert!(failure.to_string().contains(advice), "{failure}");
        }
    }

    #[test]
    fn a_read_that_is_refused_like_a_write_is_an_outage() {
        for failure in [server("25006", false), server("53100", false), Failure::ReadOnly] {
            assert!(failure.kind().is_of_writes());
            assert_eq!(failure.into_error_of_read("read").kind(), ErrorKind::Unreachable);
        }
        assert_eq!(server("42501", false).into_error_of_read("read").kind(), ErrorKind::Denied);
    }

    #[test]
    fn no_failure_is_ever_an_absence() {
        for class in 0..60 {
            for code in [format!("{class:02}000"), format!("{class:02}P01"), format!("{class:02}P02")] {
                assert!(!matches!(kind_of(&code), ErrorKind::NotFound | ErrorKind::AlreadyExists), "{code}");
            }
        }
    }

    #[test]
    fn only_an_end_of_the_connection_leaves_a_commit_open() {
        assert!(server("57P01", true).leaves_outcome_unknown());
        assert!(!server("53100", false).leaves_outcome_unknown());
        assert!(Failure::Warned("canceling wait".to_owned()).leaves_outcome_unknown());
        assert!(!Failure::Busy("writes").leaves_outcome_unknown());
    }
}
