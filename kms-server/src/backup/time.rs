//! A time as archives and evidence write it: RFC 3339 in UTC.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How far the clocks of two machines may differ, in seconds.
pub const CLOCKS: i64 = 300;

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

    /// Returns how many whole seconds have passed since then. `None` for a time to come that no difference of clocks explains: a
    /// clock is wrong, and nobody knows which.
    pub fn age_if_past(self, now: Self) -> Option<i64> {
        (now.age(self) <= CLOCKS).then(|| self.age(now))
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
