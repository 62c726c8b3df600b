//! The routes as data: method, path, limits, who may call, and what is done.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;

use crate::config::settings::{DEFAULT_ROUTE_TIMEOUT, RouteSettings};

/// The most bytes of a request body that is read at all: one megabyte, of a thousand thousand.
pub const MAX_BODY: usize = 1_000_000;

const SHORT_TIMEOUT: Duration = Duration::from_secs(10);

/// One route of the API.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method that it answers.
    pub verb: Verb,
    /// The path; one that ends in `/` is followed by a name or pattern.
    pub path: &'static str,
    /// The most bytes of a request body; 0 when it takes none.
    pub max_body: usize,
    /// How long a request may take from its headers to its answer.
    pub timeout: Duration,
    /// Who may call it.
    pub gate: Gate,
    /// Whether a configuration may open it to everybody.
    pub may_skip_auth: bool,
    /// What it does.
    pub operation: Operation,
}

impl Route {
    /// Tells whether KES 0.24 has it: not the routes of 2020 to 2022, nor ours.
    pub fn is_listed(&self) -> bool {
        !matches!(self.operation, Operation::BulkDecrypt | Operation::AllMetrics)
            && !self.path.ends_with("/trace")
    }

    /// Tells whether its answer has no end.
    pub fn is_endless(&self) -> bool {
        matches!(self.operation, Operation::ErrorLog | Operation::AuditLog)
    }
}

/// The method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `GET`.
    Get,
    /// `PUT`, or `POST`, which the SDK sends.
    Put,
    /// `DELETE`.
    Delete,
}

impl Verb {
    /// Returns the method's name, as KES names it to a client that used another.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    /// Returns the value of the header `Allow` (RFC 9110, section 10.2.1).
    pub fn allow(self) -> &'static str {
        match self {
            Self::Put => "PUT, POST",
            other => other.name(),
        }
    }

    /// Tells whether `method` is one of the route's.
    pub fn accepts(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET,
            Self::Put => method == Method::POST || method == Method::PUT,
            Self::Delete => method == Method::DELETE,
        }
    }
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Whoever finished the handshake.
    Anyone,
    /// An identity that is the admin, or whose policy allows the path.
    Policy,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Tells version and commit.
    Version,
    /// Tells whether the key store can serve.
    Ready,
    /// Tells about the process and its key store.
    Status,
    /// Makes a key.
    Create,
    /// Stores a key that the client brings.
    Import,
    /// Describes a key.
    Describe,
    /// Lists keys.
    List,
    /// Removes a key.
    Delete,
    /// Makes a data encryption key.
    Generate,
    /// Encrypts a few bytes.
    Encrypt,
    /// Decrypts.
    Decrypt,
    /// Decrypts many at once, as MinIO of 2021 to 2023 asks.
    BulkDecrypt,
    /// Computes a MAC.
    Hmac,
    /// Tells when and by whom a policy was made.
    DescribePolicy,
    /// Tells what a policy allows and denies.
    ReadPolicy,
    /// Lists policies.
    ListPolicies,
    /// Tells the policy of an identity.
    DescribeIdentity,
    /// Lists identities.
    ListIdentities,
    /// Tells a client who it is and what it may do.
    DescribeSelf,
    /// Lists the routes.
    Api,
    /// Tells the metrics of KES.
    Metrics,
    /// Tells all metrics.
    AllMetrics,
    /// Sends errors as they happen.
    ErrorLog,
    /// Sends requests as they are answered.
    AuditLog,
}

/// The routes of a server, in the order in which they are tried: what MinIO sends most stands first.
#[derive(Clone, Debug)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Returns all routes with their usual limits.
    pub fn standard() -> Self {
        use Operation as Op;
        use Verb::{Delete, Get, Put};
        Self(vec![
            route(Put, "/v1/key/decrypt/", MAX_BODY, Op::Decrypt),
            route(Put, "/v1/key/generate/", MAX_BODY, Op::Generate),
            route(Put, "/v1/key/encrypt/", MAX_BODY, Op::Encrypt),
            route(Put, "/v1/key/bulk/decrypt/", MAX_BODY, Op::BulkDecrypt),
            route(Put, "/v1/key/hmac/", MAX_BODY, Op::Hmac),
            route(Get, "/v1/key/describe/", 0, Op::Describe),
            route(Put, "/v1/key/create/", 0, Op::Create),
            route(Put, "/v1/key/import/", MAX_BODY, Op::Import),
            route(Get, "/v1/key/list/", 0, Op::List),
            route(Delete, "/v1/key/delete/", 0, Op::Delete),
            Route { may_skip_auth: true, ..route(Get, "/v1/ready", 0, Op::Ready) },
            Route { may_skip_auth: true, ..route(Get, "/v1/status", 0, Op::Status) },
            Route { may_skip_auth: true, ..route(Get, "/v1/metrics", 0, Op::Metrics) },
            Route { may_skip_auth: true, timeout: SHORT_TIMEOUT, ..route(Get, "/v1/api", 0, Op::Api) },
            Route { gate: Gate::Anyone, timeout: SHORT_TIMEOUT, ..route(Get, "/version", 0, Op::Version) },
            route(Get, "/v1/policy/describe/", 0, Op::DescribePolicy),
            route(Get, "/v1/policy/read/", 0, Op::ReadPolicy),
            route(Get, "/v1/policy/list/", 0, Op::ListPolicies),
            route(Get, "/v1/identity/describe/", 0, Op::DescribeIdentity),
            route(Get, "/v1/identity/list/", 0, Op::ListIdentities),
            Route { gate: Gate::Anyone, ..route(Get, "/v1/identity/self/describe", 0, Op::DescribeSelf) },
            route(Get, "/v1/log/error", 0, Op::ErrorLog),
            route(Get, "/v1/log/audit", 0, Op::AuditLog),
            // Their names in 2020.
            route(Get, "/v1/log/error/trace", 0, Op::ErrorLog),
            route(Get, "/v1/log/audit/trace", 0, Op::AuditLog),
            // Ours; KES has none such.
            route(Get, "/metrics", 0, Op::AllMetrics),
        ])
    }

    /// Applies what a configuration says of routes, by their paths.
    #[must_use]
    pub fn with_settings(mut self, settings: &BTreeMap<String, RouteSettings>) -> Self {
        for route in &mut self.0 {
            let Some(settings) = settings.get(route.path) else { continue };
            route.timeout = settings.timeout.unwrap_or(route.timeout);
            if settings.skip_auth && route.may_skip_auth {
                route.gate = Gate::Anyone;
            }
        }
        self
    }

    /// Goes through the routes.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// Gives every route the same time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        for route in &mut self.0 {
            route.timeout = timeout;
        }
        self
    }

    /// Returns the shortest time that any route has.
    pub fn shortest_timeout(&self) -> Duration {
        self.0.iter().map(|route| route.timeout).min().unwrap_or(DEFAULT_ROUTE_TIMEOUT)
    }

    /// Returns the longest time that any route has.
    pub fn longest_timeout(&self) -> Duration {
        self.0.iter().map(|route| route.timeout).max().unwrap_or(DEFAULT_ROUTE_TIMEOUT)
    }

    /// Finds the route of a percent-decoded path, and what follows the route's own path in it.
    ///
    /// A path with an empty segment, `.` or `..` in it is never found.
    pub fn find<'r, 'p>(&'r self, path: &'p str) -> Option<(&'r Route, &'p str)> {
        self.0.iter().find_map(|route| {
            let rest = path.strip_prefix(route.path)?;
            let found = if route.path.ends_with('/') { is_clean(rest) } else { rest.is_empty() };
            found.then_some((route, rest))
        })
    }

    /// Finds the route that a path means which lacks the `/` at the end, as the SDK asks for a list of all keys.
    pub fn find_without_slash(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.path.strip_suffix('/') == Some(path))
    }
}

fn route(verb: Verb, path: &'static str, max_body: usize, operation: Operation) -> Route {
    Route {
        verb,
        path,
        max_body,
        timeout: DEFAULT_ROUTE_TIMEOUT,
        gate: Gate::Policy,
        may_skip_auth: false,
        operation,
    }
}

/// Tells whether no segment of `rest` means another place; a `/` at its very end is left to the name's check.
fn is_clean(rest: &str) -> bool {
    let mut segments = rest.split('/');
    let last = segments.next_back().unwrap_or_default();
    segments.all(|segment| !matches!(segment, "" | "." | "..")) && !matches!(last, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> Option<(Operation, &str)> {
        // Leaked so that the test can look at what was found.
        let routes: &'static Routes = Box::leak(Box::new(Routes::standard()));
        routes.find(path).map(|(route, rest)| (route.operation, rest))
    }

    #[test]
    fn paths_find_their_routes() {
        assert_eq!(find("/version"), Some((Operation::Version, "")));
        assert_eq!(find("/v1/key/create/my-key"), Some((Operation::Create, "my-key")));
        assert_eq!(find("/v1/key/create/"), Some((Operation::Create, "")));
        assert_eq!(find("/v1/key/create/a/b"), Some((Operation::Create, "a/b")));
        assert_eq!(find("/v1/key/create/a/"), Some((Operation::Create, "a/")));
        assert_eq!(find("/v1/key/create/..."), Some((Operation::Create, "...")));
    }

    #[test]
    fn paths_that_mean_another_place_find_none() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/",
            "/v1/status/",
            "/V1/status",
            "/v1//status",
            "/v1/../v1/status",
            "//version",
            "/v1/key/create",
            "/v1/key/create//a",
            "/v1/key/create/a//b",
            "/v1/key/create/..",
            "/v1/key/create/.",
            "/v1/key/create/../delete/x",
            "/v1/key/create/a/../b",
            "/v1/key/./create/a",
            "/v1/key/create/a//",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
