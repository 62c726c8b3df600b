//! The findings of a check: each names a thing that was looked at, and says whether it is in order.

use std::fmt;

use serde::Serialize;

use crate::error::Error;

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    /// It is as it should be.
    #[serde(rename = "ok")]
    Good,
    /// It works, and an operator should know or do something about it.
    #[serde(rename = "warning")]
    Warning,
    /// It does not work.
    #[serde(rename = "error")]
    Problem,
}

/// The words of reports: `ok`, `warning` and `error`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Problem => "error",
        })
    }
}

/// One thing that a check looked at.
///
/// ```
/// use kms_core::store::{Findings, Level};
///
/// let mut findings = Findings::default();
/// findings.good("login", "logged in by token");
/// findings.warn("lease", "the token has no end");
/// let findings = findings.into_vec();
/// assert_eq!(findings[1].level, Level::Warning);
/// assert_eq!(findings[1].to_string(), "lease: the token has no end");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The thing, in a word or two.
    #[serde(rename = "subject")]
    pub what: &'static str,
    /// What the check found.
    #[serde(rename = "message")]
    pub detail: String,
}

impl Finding {
    /// Creates a finding.
    pub fn new(level: Level, what: &'static str, detail: impl Into<String>) -> Self {
        Self { level, what, detail: detail.into() }
    }

    /// Creates a finding of something that is as it should be.
    pub fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Level::Good, what, detail)
    }

    /// Creates a finding of something that works and deserves attention.
    pub fn warning(what: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Level::Warning, what, detail)
    }

    /// Creates a finding of something that does not work.
    pub fn problem(what: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Level::Problem, what, detail)
    }
}

/// Prints the thing and what was found, without the level.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.detail)
    }
}

/// The findings of a check so far, in the order in which it looked.
#[derive(Clone, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding.
    pub fn add(&mut self, level: Level, what: &'static str, detail: impl Into<String>) {
        self.0.push(Finding::new(level, what, detail));
    }

    /// Adds a finding of something that is as it should be.
    pub fn good(&mut self, what: &'static str, detail: impl Into<String>) {
        self.add(Level::Good, what, detail);
    }

    /// Adds a finding of something that works and deserves attention.
    pub fn warn(&mut self, what: &'static str, detail: impl Into<String>) {
        self.add(Level::Warning, what, detail);
    }

    /// Adds a finding of something that does not work.
    pub fn problem(&mut self, what: &'static str, detail: impl Into<String>) {
        self.add(Level::Problem, what, detail);
    }

    /// Returns the findings.
    pub fn into_vec(self) -> Vec<Finding> {
        self.0
    }

    /// Returns the findings of a check whose steps ended with `outcome`. The step that failed is the last of them.
    pub fn end(mut self, outcome: Result<(), FailedStep>) -> Vec<Finding> {
        if let Err(FailedStep { what, error }) = outcome {
            self.problem(what, error.chain().to_string());
        }
        self.into_vec()
    }
}

/// A step that ended a check, since the further ones depend on it. [`At::at`] makes it of an error.
#[derive(Debug)]
pub struct FailedStep {
    what: &'static str,
    error: Error,
}

/// An error that can end a check.
pub trait StepError {
    /// Returns it as an error of the check of `what`.
    fn into_error_at(self, what: &'static str) -> Error;
}

impl StepError for Error {
    fn into_error_at(self, _: &'static str) -> Error {
        self
    }
}

/// Names the step of a check that a result is of.
///
/// ```
/// use kms_core::store::{At as _, FailedStep, Findings};
/// use kms_core::{Error, ErrorKind};
///
/// fn connect() -> kms_core::Result<()> {
///     Err(Error::with_source(ErrorKind::Unreachable, "connect to 'db'", "refused"))
/// }
///
/// fn look(findings: &mut Findings) -> Result<(), FailedStep> {
///     connect().at("connection")?;
///     findings.good("connection", "it is there");
///     Ok(())
/// }
///
/// let mut findings = Findings::default();
/// let outcome = look(&mut findings);
/// let findings = findings.end(outcome);
/// assert_eq!(findings[0].what, "connection");
/// assert!(findings[0].detail.contains("refused"));
/// ```
pub trait At<T> {
    /// Has an error end the check at `what`.
    ///
    /// # Errors
    ///
    /// That of the result.
    fn at(self, what: &'static str) -> Result<T, FailedStep>;
}

impl<T, E: StepError> At<T> for Result<T, E> {
    fn at(self, what: &'static str) -> Result<T, FailedStep> {
        self.map_err(|error| FailedStep { what, error: error.into_error_at(what) })
    }
}
