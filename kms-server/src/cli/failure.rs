//! The failure of a command.

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

/// The reason why a command failed, as users read it.
pub struct Failure(Why);

enum Why {
    /// A message of one line.
    Message(String),
    /// No message, as stdout has the reason already.
    Silent,
    /// No message, as the reader of stdout went away.
    Unread,
}

impl Failure {
    /// Creates a failure with a message, which is made safe to print.
    ///
    /// Blanks take the place of line ends, other characters that a terminal would obey are escaped, and API keys and private
    /// keys are hidden.
    pub fn new(message: impl AsRef<str>) -> Self {
        let message = mask(message.as_ref());
        let words: Vec<_> = message.split(['\r', '\n']).map(str::trim).collect();
        Self(Why::Message(terminal::escape(&words.join(" ")).into_owned()))
    }

    /// Creates a failure without a message, for a reason that stdout has already.
    pub fn silent() -> Self {
        Self(Why::Silent)
    }

    /// Returns whether the reader of stdout went away.
    pub fn is_unread(&self) -> bool {
        matches!(self.0, Why::Unread)
    }

    /// Puts a context before the message.
    #[must_use]
    pub fn context(self, doing: &str) -> Self {
        match self.0 {
            Why::Message(message) => Self::new(format!("{doing}: {message}")),
            _ => self,
        }
    }

    /// Prints the message to stderr.
    pub fn print(&self) {
        let Why::Message(message) = &self.0 else { return };
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
            Why::Message(message) => f.write_str(message),
            Why::Silent | Why::Unread => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    /// Converts an error of writing to stdout. If the reader went away there is nobody to read a message.
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
