//! Why a command failed.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use kms_fs::OpenError;

use super::client::ClientError;
use super::colour::Colour;
use crate::config::Problem;
use crate::credentials::apikey::InvalidApiKey;
use crate::error::StartError;
use crate::text::mask::mask;
use crate::text::terminal;

/// Why a command failed.
pub struct Failure(Why);

enum Why {
    /// In one line.
    Told(String),
    /// All was told on stdout.
    Silent,
    /// Nobody is left to be told: the reader of stdout went away.
    Unread,
}

impl Failure {
    /// Makes a failure with a message. Line ends in it are replaced by blanks, what else a terminal would obey is escaped, and
    /// API keys and private keys are hidden.
    pub fn new(message: impl AsRef<str>) -> Self {
        let message = mask(message.as_ref());
        let words: Vec<_> = message.split(['\r', '\n']).map(str::trim).collect();
        Self(Why::Told(terminal::escape(&words.join(" ")).into_owned()))
    }

    /// Makes a failure of which all was told on stdout.
    pub fn silent() -> Self {
        Self(Why::Silent)
    }

    /// Tells whether the reader of stdout went away.
    pub fn is_unread(&self) -> bool {
        matches!(self.0, Why::Unread)
    }

    /// Puts what was being done before the message.
    #[must_use]
    pub fn context(self, doing: &str) -> Self {
        match self.0 {
            Why::Told(message) => Self::new(format!("{doing}: {message}")),
            _ => self,
        }
    }

    /// Prints it to stderr.
    pub fn print(&self) {
        let Why::Told(message) = &self.0 else { return };
        let mut stderr = io::stderr().lock();
        let _ = if Colour::AutoOrForced.are_wanted(stderr.is_terminal()) {
            writeln!(stderr, "\x1b[31mError:\x1b[0m {message}")
        } else {
            writeln!(stderr, "Error: {message}")
        };
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::Told(message) => f.write_str(message),
            Why::Silent | Why::Unread => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    /// Takes an error of writing to stdout; a reader that went away is no news.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self(Why::Unread)
        } else {
            Self::new(format!("cannot write: {error}"))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(problem.to_string())
    }
}

impl From<InvalidApiKey> for Failure {
    fn from(error: InvalidApiKey) -> Self {
        Self::new(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<kms_core::Error> for Failure {
    fn from(error: kms_core::Error) -> Self {
        Self::new(error.chain().to_string())
    }
}
