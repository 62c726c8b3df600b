//! Listings of key names: the query, and one page of the answer.

use crate::name::KeyName;

/// A query for key names.
#[derive(Clone, Copy, Debug)]
pub struct ListQuery<'a> {
    /// The prefix of the names; empty for all.
    pub prefix: &'a str,
    /// The last name of the previous page. The names up to this one, and itself, are left out.
    pub after: Option<&'a str>,
    /// The maximal number of names on the page, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub limit: usize,
}

impl<'a> ListQuery<'a> {
    /// The maximal number of names on one page.
    pub const MAX_LIMIT: usize = 1024;

    /// Creates a query for the first page of the names that begin with `prefix`.
    pub fn prefix(prefix: &'a str) -> Self {
        Self { prefix, after: None, limit: Self::MAX_LIMIT }
    }

    /// Returns `true` if `name` matches the query. The limit does not count.
    pub fn matches(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && self.after.is_none_or(|after| name > after)
    }
}

/// A query that outlives its caller.
pub(crate) struct OwnedQuery {
    prefix: String,
    after: Option<String>,
    limit: usize,
}

impl OwnedQuery {
    pub fn of(query: &ListQuery<'_>) -> Self {
        let ListQuery { prefix, after, limit } = *query;
        Self { prefix: prefix.to_owned(), after: after.map(str::to_owned), limit }
    }

    pub fn query(&self) -> ListQuery<'_> {
        ListQuery { prefix: &self.prefix, after: self.after.as_deref(), limit: self.limit }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The names, in byte order.
    pub names: Vec<KeyName>,
    /// Whether further names follow the last of these.
    pub more: bool,
}
