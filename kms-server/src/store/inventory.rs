//! The keys in a key store, as the start counts them.

use std::fmt;
use std::time::Duration;

use kms_core::{Identity, Kms, ListQuery, Request};

/// How long the start may wait for each answer of the key store.
pub const START_TIMEOUT: Duration = Duration::from_secs(15);

/// The most pages of names that the start counts.
const MAX_COUNTED_PAGES: usize = 100;

/// The number of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCount {
    /// Exactly this many.
    Exactly(usize),
    /// More than this many, because counting stopped.
    MoreThan(usize),
}

impl fmt::Display for KeyCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}

/// Counts the keys of `kms`, up to 102,400 of them.
pub async fn count_keys(kms: &dyn Kms) -> kms_core::Result<KeyCount> {
    let mut count = 0;
    let mut after = None;
    for _ in 0..MAX_COUNTED_PAGES {
        let request = Request::new(nobody(), START_TIMEOUT);
        let query = ListQuery { prefix: "", after: after.as_deref(), limit: ListQuery::MAX_LIMIT };
        let page = kms.list(&request, &query).await?;
        count += page.names.len();
        match page.names.last().filter(|_| page.more) {
            None => return Ok(KeyCount::Exactly(count)),
            Some(last) => after = Some(last.as_str().to_owned()),
        }
    }
    Ok(KeyCount::MoreThan(count))
}

/// Returns the identity of the server itself if there is no admin. No certificate has it.
pub fn nobody() -> Identity {
    Identity::from_hex("0000000000000000000000000000000000000000000000000000000000000000")
        .unwrap_or_else(|| Identity::of_public_key(&[]))
}
