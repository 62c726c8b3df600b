//! The routes as data: method, path, limits, permission and operation.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::access::policy::Target;
use crate::settings::{DEFAULT_ROUTE_TIMEOUT, RouteSettings};
use crate::telemetry::metrics::Tally;

/// Separates the prefix from the last name in the token that continues a listing. No name contains it.
pub const CONTINUES: char = '~';

/// The most bytes of any request body: one million.
pub const MAX_BODY: usize = 1_000_000;

/// The most bytes of a body that holds a few words.
const MAX_WORDS: usize = 4096;

const SHORT_TIMEOUT: Duration = Duration::from_secs(10);

/// One route of the API.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method.
    pub verb: Verb,
    /// The path. If it ends in `/`, a name or pattern follows.
    pub path: &'static str,
    /// The paths of other routes to the same object. A policy that denies one of them denies this route.
    pub aliases: &'static [&'static str],
    /// The paths of routes that do a part of what this one does. A policy that denies one of them denies this route.
    pub includes: &'static [&'static str],
    /// Whether an allow has to be meant for this route: one for all of `/v1/key/` is older than the route.
    pub needs_own_allow: bool,
    /// Whether only an allow of exactly its path suffices.
    pub needs_exact_allow: bool,
    /// The most bytes of a request body, or 0 for no body.
    pub max_body: usize,
    /// The time from the headers of a request to its answer.
    pub timeout: Duration,
    /// Who may call it.
    pub gate: Gate,
    /// Whether a configuration may open it to everybody.
    pub may_skip_auth: bool,
    /// The operation.
    pub operation: Operation,
}

impl Route {
    /// Returns whether KES 0.24 has it. The routes of 2020 to 2022 and our own are not in KES 0.24.
    pub fn is_listed(&self) -> bool {
        !matches!(
            self.operation,
            Operation::BulkDecrypt
                | Operation::AllMetrics
                | Operation::Rotate
                | Operation::Rewrap
                | Operation::Versions
                | Operation::Retire
                | Operation::Enable
                | Operation::Deleted
                | Operation::Restore
                | Operation::Purge
                | Operation::Backup
        ) && !self.path.ends_with("/trace")
    }

    /// Returns where a request for it is counted, as in KES 0.24.
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

    /// Returns whether it needs no policy.
    pub fn is_open(&self) -> bool {
        self.gate == Gate::Anyone
    }

    /// Returns the beginning of the names that a request asks for; `None` if the route lists none.
    pub fn listed<'a>(&self, rest: &'a str) -> Option<&'a str> {
        use Operation::{Deleted, List, ListIdentities, ListPolicies};
        let lists = matches!(self.operation, List | Deleted | ListPolicies | ListIdentities);
        let pattern = rest.split_once(CONTINUES).map_or(rest, |(pattern, _)| pattern);
        lists.then(|| pattern.strip_suffix('*').unwrap_or(pattern))
    }

    /// Returns the target of a request for `path`, as policies see it. `rest` is the part after the route's own path.
    ///
    /// A listing of `my-`, a listing of `my-*` and each further page of them are the same target.
    pub fn target<'a>(&self, path: &'a str, rest: &'a str) -> Target<'a> {
        let rest = self.listed(rest).unwrap_or(rest);
        let Self { aliases, includes, needs_own_allow, needs_exact_allow, .. } = *self;
        Target { path, aliases, includes, needs_own_allow, needs_exact_allow, rest }
    }

    /// Sets the paths of routes to the same object. A route is its own alias if several rests lead to the same.
    fn with_aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// Sets the paths of routes that do a part of what this one does.
    fn including(self, includes: &'static [&'static str]) -> Self {
        Self { includes, ..self }
    }

    /// Returns whether its answer has no end, or none that a timeout knows.
    pub fn is_endless(&self) -> bool {
        matches!(self.operation, Operation::ErrorLog | Operation::AuditLog | Operation::Backup)
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
    /// Returns the method's name, as KES writes it to a client that used another method.
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

    /// Returns whether the route answers `method`.
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
    /// Everybody who completed the handshake.
    Anyone,
    /// An identity that is the admin, or whose policy allows the path.
    Policy,
}

/// The operation of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Version and commit.
    Version,
    /// Whether the key store can serve.
    Ready,
    /// Facts about the process and its key store.
    Status,
    /// Creates a key.
    Create,
    /// Imports a key of the client.
    Import,
    /// Describes a key.
    Describe,
    /// Lists keys.
    List,
    /// Deletes a key.
    Delete,
    /// Generates a data encryption key.
    Generate,
    /// Encrypts a few bytes.
    Encrypt,
    /// Decrypts a ciphertext.
    Decrypt,
    /// Decrypts many ciphertexts, as MinIO of 2021 to 2023 requests it.
    BulkDecrypt,
    /// Computes a MAC.
    Hmac,
    /// Makes a new version of a key.
    Rotate,
    /// Seals a ciphertext anew, under the version that seals.
    Rewrap,
    /// Describes the versions of a key.
    Versions,
    /// Disables a version of a key.
    Retire,
    /// Enables a version of a key.
    Enable,
    /// Lists deleted keys.
    Deleted,
    /// Restores a deleted key.
    Restore,
    /// Removes a deleted key for ever.
    Purge,
    /// When and by whom a policy was made.
    DescribePolicy,
    /// What a policy allows and denies.
    ReadPolicy,
    /// Lists policies.
    ListPolicies,
    /// The policy of an identity.
    DescribeIdentity,
    /// Lists identities.
    ListIdentities,
    /// The client's own identity and permissions.
    DescribeSelf,
    /// Lists the routes.
    Api,
    /// The metrics of KES.
    Metrics,
    /// All metrics.
    AllMetrics,
    /// Errors, as they happen.
    ErrorLog,
    /// Requests, as they are answered.
    AuditLog,
    /// All keys, sealed to the recipients in the config.
    Backup,
}

/// The routes of a server, in the order in which they are tried. MinIO's most frequent requests come first.
#[derive(Clone, Debug)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Returns all routes with their default limits.
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
            // KES has no versions.
            route(Put, "/v1/key/rewrap/", MAX_BODY, Op::Rewrap)
                .including(&["/v1/key/decrypt/", "/v1/key/bulk/decrypt/"]),
            Route { needs_own_allow: true, ..route(Put, "/v1/key/rotate/", MAX_WORDS, Op::Rotate) },
            route(Get, "/v1/key/versions/", 0, Op::Versions).including(&["/v1/key/describe/"]),
            Route { needs_own_allow: true, ..route(Put, "/v1/key/retire/", MAX_WORDS, Op::Retire) }
                .including(&["/v1/key/delete/"]),
            Route { needs_own_allow: true, ..route(Put, "/v1/key/enable/", MAX_WORDS, Op::Enable) },
            // KES has no deleted keys.
            route(Get, "/v1/key/deleted/", 0, Op::Deleted)
                .with_aliases(&["/v1/key/deleted/"])
                .including(&["/v1/key/list/"]),
            Route { needs_own_allow: true, ..route(Put, "/v1/key/restore/", MAX_WORDS, Op::Restore) },
            Route { needs_own_allow: true, ..route(Put, "/v1/key/purge/", MAX_WORDS, Op::Purge) }
                .including(&["/v1/key/delete/"]),
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
            // These routes are ours. KES has none like them.
            Route { needs_exact_allow: true, ..route(Put, "/v1/backup/create", 1 << 10, Op::Backup) },
            route(Get, "/metrics", 0, Op::AllMetrics).with_aliases(&["/v1/metrics"]),
        ])
    }

    /// Applies the settings of the configuration, by the routes' paths.
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

    /// Returns the routes in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// Sets the same timeout for all routes.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        for route in &mut self.0 {
            route.timeout = timeout;
        }
        self
    }

    /// Returns the shortest timeout of all routes.
    pub fn shortest_timeout(&self) -> Duration {
        self.0.iter().map(|route| route.timeout).min().unwrap_or(DEFAULT_ROUTE_TIMEOUT)
    }

    /// Returns the timeout of the route with this operation.
    pub fn timeout_of(&self, operation: Operation) -> Duration {
        let route = self.0.iter().find(|route| route.operation == operation);
        route.map_or(DEFAULT_ROUTE_TIMEOUT, |route| route.timeout)
    }

    /// Returns the longest timeout of all routes.
    pub fn longest_timeout(&self) -> Duration {
        self.0.iter().map(|route| route.timeout).max().unwrap_or(DEFAULT_ROUTE_TIMEOUT)
    }

    /// Returns the route of a [decoded](decode) path, and the rest of the path after the route's own.
    ///
    /// A path with an empty segment, `.` or `..` has no route.
    pub fn find<'r, 'p>(&'r self, path: &'p str) -> Option<(&'r Route, &'p str)> {
        self.0.iter().find_map(|route| {
            let rest = path.strip_prefix(route.path)?;
            let found = if route.path.ends_with('/') { is_clean(rest) } else { rest.is_empty() };
            found.then_some((route, rest))
        })
    }

    /// Returns the route whose path lacks only the `/` at the end. The SDK requests a list of all keys that way.
    pub fn find_without_slash(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.path.strip_suffix('/') == Some(path))
    }
}

fn route(verb: Verb, path: &'static str, max_body: usize, operation: Operation) -> Route {
    Route {
        verb,
        path,
        aliases: &[],
        includes: &[],
        needs_own_allow: false,
        needs_exact_allow: false,
        max_body,
        timeout: DEFAULT_ROUTE_TIMEOUT,
        gate: Gate::Policy,
        may_skip_auth: false,
        operation,
    }
}

/// A percent-encoded `/`, as it stands in a decoded path.
const ENCODED_SLASH: &str = "%2F";

/// Decodes the path of a request once, for routes, policies, handlers and logs.
///
/// A percent-encoded `/` belongs to a segment and does not end it (RFC 3986, section 2.2). It stays encoded. No route and
/// no name can contain it.
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

/// Returns whether no segment of `rest` leads elsewhere. The check of names judges a `/` at the very end.
fn is_clean(rest: &str) -> bool {
    let mut segments = rest.split('/');
    let last = segments.next_back().unwrap_or_default();
    segments.all(|segment| !matches!(segment, "" | "." | "..")) && !matches!(last, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> Option<(Operation, &str)> {
        // The routes are leaked, so that the result can borrow from them.
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
