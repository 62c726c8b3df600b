//! Whether there is a secret of a name, and how one was deleted.

use std::fmt;

use aws_sdk_secretsmanager::primitives::DateTime;
use jiff::Timestamp;

use crate::error::Failure;

/// The state of the secret of a name.
pub(super) enum Presence {
    Absent,
    /// The ids of its versions, if they could be seen.
    There(Vec<String>),
    Deleted(Option<Deletion>),
}

/// When a secret that is scheduled for deletion was deleted, or will be.
#[derive(Clone, Copy)]
pub(super) struct Deletion(DateTime);

impl Deletion {
    /// Takes a time of AWS's.
    pub fn at(date: DateTime) -> Self {
        Self(date)
    }

    /// Returns whether the time is yet to come. By AWS's documents it is the time of the delete, or the end of the
    /// window.
    pub fn is_ahead(self) -> bool {
        self.0.secs() > Timestamp::now().as_second() + 60
    }
}

/// Prints the time with words before it, such as ` and can be restored until 2026-01-31T08:00:00Z` or
/// ` at 2026-01-24T08:00:00Z`.
impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_ahead() { "and can be restored until" } else { "at" };
        match Timestamp::from_second(self.0.secs()) {
            Ok(time) => write!(f, " {word} {time}"),
            Err(_) => Ok(()),
        }
    }
}

/// Returns the state of a secret, if the text of a failure says it.
pub(super) fn told_by(failure: &Failure) -> Option<Presence> {
    if failure.is_about_no_value() {
        Some(Presence::There(Vec::new()))
    } else if failure.is_about_no_secret() {
        Some(Presence::Absent)
    } else if failure.is_about_deletion() {
        Some(Presence::Deleted(None))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_as_what_it_is() {
        let now = Timestamp::now().as_second();
        let past = Deletion(DateTime::from_secs(now - 10)).to_string();
        assert!(past.starts_with(" at 2") && past.ends_with('Z'), "{past}");
        let ahead = Deletion(DateTime::from_secs(now + 7 * 86_400)).to_string();
        assert!(ahead.starts_with(" and can be restored until 2"), "{ahead}");
    }
}
