//! A time as archives and evidence write it: RFC 3339 in UTC.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Timestamp);

impl Time {
    /// Returns the present time.
    pub fn now() -> Self {
        Self(Timestamp::now())
    }

    /// Returns how many whole seconds have passed since then. A time to come was just now.
    pub fn age(self, now: Self) -> i64 {
        now.0.duration_since(self.0).as_secs().max(0)
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.0.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "a time is not one of RFC 3339".to_owned())
    }
}
