//! The routes as data: method, path, limits, who may call, and what is done.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::access::policy::Target;
use crate::settings::{DEFAULT_ROUTE_TIMEOUT, RouteSettings};
use crate::telemetry::metrics::Tally;

/// Stands between the prefix and the last name in the token that continues a listing; no name has it.
pub const CONTINUES: char = '~';

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
    /// The paths of routes that lead to the same: a policy that denies one of them denies this one.
    pub aliases: &'static [&'static str],
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

    /// Tells where a request for it is counted, as KES 0.24 does.
    pub fn tally(&self) -> Tally {
        match self.operation {
            Operation::Version
            | Operation::Ready
            | Operation::Status
            | Operation::Api
            | Operation::Metrics
            | Operation::AllMetrics
            | Operation::ErrorLog
            | Operation::AuditLog => Tally::Monitoring,
            _ => Tally::Request,
        }
    }

    /// Tells whether no policy is asked about it.
    pub fn is_open(&self) -> bool {
        self.gate == Gate::Anyone
    }

    /// Describes to a policy a request for `path`, in which `rest` follows the route's own path.
    ///
    /// A listing of `my-`, of `my-*` and each further page of it are one.
    pub fn target<'a>(&self, path: &'a str, rest: &'a str) -> Target<'a> {
        let rest = match self.operation {
            Operation::List | Operation::ListPolicies | Operation::ListIdentities => {
                let pattern = rest.split_once(CONTINUES).map_or(rest, |(pattern, _)| pattern);
                pattern.strip_suffix('*').unwrap_or(pattern)
            }
            _ => rest,
        };
        Target { path, aliases: self.aliases, rest }
    }

    /// Names paths that lead to the same; its own, where not only one rest does.
    fn with_aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
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
            route(Put, "/v1/key/decrypt/", MAX_BODY, Op::Decrypt).with_aliases(&["/v1/key/bulk/decrypt/"]),
            route(Put, "/v1/key/generate/", MAX_BODY, Op::Generate),
            route(Put, "/v1/key/encrypt/", MAX_BODY, Op::Encrypt),
            route(Put, "/v1/key/bulk/decrypt/", MAX_BODY, Op::BulkDecrypt)
                .with_aliases(&["/v1/key/decrypt/"]),
            route(Put, "/v1/key/hmac/", MAX_BODY, Op::Hmac),
            route(Get, "/v1/key/describe/", 0, Op::Describe),
            route(Put, "/v1/key/create/", 0, Op::Create),
            route(Put, "/v1/key/import/", MAX_BODY, Op::Import),
            route(Get, "/v1/key/list/", 0, Op::List).with_aliases(&["/v1/key/list/"]),
            route(Delete, "/v1/key/delete/", 0, Op::Delete),
            Route { may_skip_auth: true, ..route(Get, "/v1/ready", 0, Op::Ready) },
            Route { may_skip_auth: true, ..route(Get, "/v1/status", 0, Op::Status) },
            Route {
                may_skip_auth: true,
                ..route(Get, "/v1/metrics", 0, Op::Metrics).with_aliases(&["/metrics"])
            },
            Route { may_skip_auth: true, timeout: SHORT_TIMEOUT, ..route(Get, "/v1/api", 0, Op::Api) },
            Route { gate: Gate::Anyone, timeout: SHORT_TIMEOUT, ..route(Get, "/version", 0, Op::Version) },
            route(Get, "/v1/policy/describe/", 0, Op::DescribePolicy),
            route(Get, "/v1/policy/read/", 0, Op::ReadPolicy),
            route(Get, "/v1/policy/list/", 0, Op::ListPolicies).with_aliases(&["/v1/policy/list/"]),
            route(Get, "/v1/identity/describe/", 0, Op::DescribeIdentity),
            route(Get, "/v1/identity/list/", 0, Op::ListIdentities).with_aliases(&["/v1/identity/list/"]),
            Route { gate: Gate::Anyone, ..route(Get, "/v1/identity/self/describe", 0, Op::DescribeSelf) },
            route(Get, "/v1/log/error", 0, Op::ErrorLog).with_aliases(&["/v1/log/error/trace"]),
            route(Get, "/v1/log/audit", 0, Op::AuditLog).with_aliases(&["/v1/log/audit/trace"]),
            // Their names in 2020.
            route(Get, "/v1/log/error/trace", 0, Op::ErrorLog).with_aliases(&["/v1/log/error"]),
            route(Get, "/v1/log/audit/trace", 0, Op::AuditLog).with_aliases(&["/v1/log/audit"]),
            // Ours; KES has none such.
            route(Get, "/metrics", 0, Op::AllMetrics).with_aliases(&["/v1/metrics"]),
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

    /// Returns the time of the route that does this.
    pub fn timeout_of(&self, operation: Operation) -> Duration {
        let route = self.0.iter().find(|route| route.operation == operation);
        route.map_or(DEFAULT_ROUTE_TIMEOUT, |route| route.timeout)
    }

    /// Returns the longest time that any route has.
    pub fn longest_timeout(&self) -> Duration {
        self.0.iter().map(|route| route.timeout).max().unwrap_or(DEFAULT_ROUTE_TIMEOUT)
    }

    /// Finds the route of a [decoded](decode) path, and what follows the route's own path in it.
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
        aliases: &[],
        max_body,
        timeout: DEFAULT_ROUTE_TIMEOUT,
        gate: Gate::Policy,
        may_skip_auth: false,
        operation,
    }
}

/// How a `/` that a client percent-encoded stands in a decoded path.
const ENCODED_SLASH: &str = "%2F";

/// Decodes the path of a request, once, to what routes, policies, handlers and logs see.
///
/// A percent-encoded `/` is part of a segment and ends none (RFC 3986, section 2.2). It stays encoded, which no
/// route and no name can have in it.
pub fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut left = path;
    loop {
        let slash = left.match_indices('%').find_map(|(at, _)| {
            let escape = left.get(at..at + ENCODED_SLASH.len())?;
            escape.eq_ignore_ascii_case(ENCODED_SLASH).then_some(at)
        });
        bytes.extend(percent_decode_str(&left[..slash.unwrap_or(left.len())]));
        let Some(at) = slash else { break };
        bytes.extend_from_slice(ENCODED_SLASH.as_bytes());
        left = &left[at + ENCODED_SLASH.len()..];
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
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
    fn routes_that_lead_to_the_same_name_each_other() {
        let routes = Routes::standard();
        for route in routes.iter() {
            for alias in route.aliases {
                let other = routes.iter().find(|other| other.path == *alias).unwrap();
                assert!(other.aliases.contains(&route.path), "{alias} does not name {}", route.path);
                assert_eq!(route.path.ends_with('/'), alias.ends_with('/'), "{alias}");
            }
            for other in routes.iter().filter(|other| other.operation == route.operation) {
                assert!(other.path == route.path || route.aliases.contains(&other.path), "{}", other.path);
            }
        }
    }

    #[test]
    fn a_path_is_decoded_once_and_an_encoded_slash_is_none() {
        for (path, decoded) in [
            ("/v1/key/create/my-key", "/v1/key/create/my-key"),
            ("/v1/%6Bey/%63reate/a%20b", "/v1/key/create/a b"),
            ("/v1%2Fkey/create/x", "/v1%2Fkey/create/x"),
            ("/v1/key/create%2fx", "/v1/key/create%2Fx"),
            ("%2f%2F", "%2F%2F"),
            ("/%252F/%252e", "/%2F/%2e"),
            ("/%25%32%46", "/%2F"),
            ("/%/%2/%zz/%C3%BC", "/%/%2/%zz/\u{fc}"),
            ("/%C3%2F%BC", "/\u{fffd}%2F\u{fffd}"),
            ("/%2", "/%2"),
            ("/\u{fc}%\u{fc}", "/\u{fc}%\u{fc}"),
        ] {
            assert_eq!(decode(path), decoded, "{path}");
        }
        assert!(matches!(decode("/v1/status"), Cow::Borrowed(_)));
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
            "/v1%2Fkey/create/a",
            "/v1/key%2Fcreate/a",
            "/v1/key/create%2Fa",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
