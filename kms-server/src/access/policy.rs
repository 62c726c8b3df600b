//! The access rules: the admin, and a policy of path patterns for everybody else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use kms_core::Identity;
use kms_trust::ClientVerifier;
use prometheus::Histogram;

use super::glob::Glob;
use crate::settings::{PolicySettings, ProxySettings};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::policy_durations::OfPolicies;

/// The access rules of a server. A clone is cheap, however many rules there are.
#[derive(Clone, Debug)]
pub struct AccessRules {
    admin: Option<Identity>,
    /// By identity.
    policies: Arc<HashMap<Identity, Arc<Policy>>>,
    by_name: Arc<BTreeMap<String, Arc<Policy>>>,
    proxies: Option<Proxies>,
    durations: OfPolicies,
    created_at: Timestamp,
}

impl AccessRules {
    /// Compiles the policies of a configuration.
    ///
    /// Fails if an identity has two policies, or if the admin has one.
    pub fn new(
        admin: Option<Identity>,
        policies: &BTreeMap<String, PolicySettings>,
    ) -> Result<Self, AmbiguousIdentity> {
        let identities = policies.values().map(|settings| settings.identities.len()).sum();
        let (mut of_identity, mut by_name) = (HashMap::with_capacity(identities), BTreeMap::new());
        for (rank, (name, settings)) in policies.iter().enumerate() {
            let policy = Arc::new(Policy::new(name, rank, settings));
            by_name.insert(name.clone(), Arc::clone(&policy));
            for identity in &settings.identities {
                if admin == Some(*identity) {
                    return Err(AmbiguousIdentity {
                        identity: *identity,
                        first: "the admin".to_owned(),
                        second: name.clone(),
                    });
                }
                if let Some(other) = of_identity.insert(*identity, Arc::clone(&policy)) {
                    let first = format!("policy '{}'", Policy::name(&other));
                    return Err(AmbiguousIdentity { identity: *identity, first, second: name.clone() });
                }
            }
        }
        Ok(Self {
            admin,
            policies: Arc::new(of_identity),
            by_name: Arc::new(by_name),
            proxies: None,
            durations: OfPolicies::default(),
            created_at: Timestamp::now(),
        })
    }

    /// Allows proxies to speak for other clients.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Option<Proxies>) -> Self {
        self.proxies = proxies;
        self
    }

    /// Returns the proxies' settings if `identity` is a proxy.
    pub fn proxy(&self, identity: &Identity) -> Option<&Proxies> {
        self.proxies.as_ref().filter(|proxies| proxies.settings.identities.contains(identity))
    }

    /// Returns the admin's identity, unless the admin is switched off.
    pub fn admin(&self) -> Option<&Identity> {
        self.admin.as_ref()
    }

    /// Returns whether `identity` may do anything, for itself or for others. All other identities are strangers.
    pub fn knows(&self, identity: &Identity) -> bool {
        self.admin.as_ref() == Some(identity)
            || self.policies.contains_key(identity)
            || self.proxy(identity).is_some()
    }

    /// Returns when these rules were made from the configuration.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Returns the policy with this name.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.by_name.get(name).map(Arc::as_ref)
    }

    /// Returns the names of the policies in byte order.
    pub fn policy_names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Returns everybody who may do anything, in no particular order.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.admin.iter().chain(self.policies.keys())
    }

    /// Returns the role of `identity`.
    pub fn role(&self, identity: &Identity) -> Role {
        if self.admin.as_ref() == Some(identity) {
            return Role::Admin;
        }
        self.policies.get(identity).map_or(Role::None, |policy| Role::Policy(Arc::clone(policy)))
    }

    /// Returns the policy by which `identity` may make a request for `target`. The admin needs none.
    pub fn authorize(&self, identity: &Identity, target: &Target<'_>) -> Result<Option<&Policy>, Denial<'_>> {
        if self.admin.as_ref() == Some(identity) {
            return Ok(None);
        }
        let policy = self.policies.get(identity).ok_or(Denial::NoPolicy)?;
        policy.rule_for(target).map(|_| Some(&**policy))
    }

    /// Has the requests of each policy counted. Until then they are not.
    #[must_use]
    pub fn counted_by(self, metrics: &Metrics) -> Self {
        Self { durations: metrics.of_policies(self.policy_names()), ..self }
    }

    /// Returns the histogram of the policy with this rank.
    pub fn durations(&self, rank: usize) -> Option<&Histogram> {
        self.durations.get(rank)
    }
}

/// Proxies that speak for other clients.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// Their identities, and the header in which they pass certificates on.
    pub settings: ProxySettings,
    /// Verifies these certificates, where clients' certificates are verified.
    pub verifier: Option<Arc<ClientVerifier>>,
}

/// What an identity may do.
#[derive(Clone, Debug)]
pub enum Role {
    /// Everything.
    Admin,
    /// What a policy allows.
    Policy(Arc<Policy>),
    /// Nothing: the identity stands in no policy.
    None,
}

/// The object of a request, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The decoded path of the request.
    pub path: &'a str,
    /// The other routes to the same object, by the beginnings of their paths.
    pub aliases: &'static [&'static str],
    /// The routes that do a part of what the request does, by the beginnings of their paths.
    pub includes: &'static [&'static str],
    /// Whether an allow for all operations with keys does not suffice.
    pub needs_own_allow: bool,
    /// Whether only an allow of exactly this path suffices.
    pub needs_exact_allow: bool,
    /// The rest of the path, which follows each alias.
    pub rest: &'a str,
}

/// The path of all operations with keys. A rule for it is from before there were some of them.
const ALL_KEYS: &str = "/v1/key/";

impl<'a> Target<'a> {
    /// Creates the target of a path that only its own rules are about.
    pub fn of(path: &'a str) -> Self {
        Self { path, aliases: &[], includes: &[], needs_own_allow: false, needs_exact_allow: false, rest: "" }
    }
}

/// A named list of path patterns.
///
/// A request passes if an allow pattern matches its own path, and no deny pattern matches that path or one of its
/// aliases. So an object that is denied under one name is denied under all. What a request includes is denied with it.
#[derive(Debug)]
pub struct Policy {
    name: Box<str>,
    rank: usize,
    allow: Box<[Pattern]>,
    deny: Box<[Pattern]>,
}

impl Policy {
    fn new(name: &str, rank: usize, settings: &PolicySettings) -> Self {
        let compile = |patterns: &[String]| patterns.iter().map(|text| Pattern::new(text)).collect();
        let globs = settings.paths.iter().filter_map(|text| Pattern::glob(text));
        let allow: Box<[Pattern]> = compile(&settings.allow);
        Self {
            name: name.into(),
            rank,
            allow: allow.into_iter().chain(globs).collect(),
            deny: compile(&settings.deny),
        }
    }

    /// Returns the name of the policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the place of its name among those of all policies, in byte order.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the patterns of which one has to match.
    pub fn allow(&self) -> &[Pattern] {
        &self.allow
    }

    /// Returns the patterns of which none may match.
    pub fn deny(&self) -> &[Pattern] {
        &self.deny
    }

    /// Returns the rule that allows `target`, unless a rule denies it.
    pub fn rule_for(&self, target: &Target<'_>) -> Result<&Pattern, Denial<'_>> {
        let Target { path, aliases, includes, needs_own_allow, needs_exact_allow, rest } = *target;
        for pattern in &self.deny {
            let matches = |other: &&str| pattern.matches_joined(other, rest);
            let relation = if pattern.matches(path) {
                Relation::Same
            } else if aliases.iter().any(matches) {
                Relation::Alias
            } else if includes.iter().any(matches) {
                Relation::Part
            } else {
                continue;
            };
            return Err(Denial::Rule { policy: &self.name, pattern, relation });
        }
        let suffices = |pattern: &&Pattern| match pattern {
            _ if needs_exact_allow => pattern.is_exactly(path),
            _ => !needs_own_allow || pattern.literal().len() > ALL_KEYS.len(),
        };
        let allows = self.allow.iter().filter(suffices).find(|pattern| pattern.matches(path));
        allows.ok_or(Denial::NotAllowed { policy: &self.name })
    }
}

/// A path, a prefix (written with a `*` at the end), or a [`Glob`] in policies of 2020.
#[derive(Debug)]
pub enum Pattern {
    /// Exactly this path.
    Exact(Box<str>),
    /// All paths with this prefix.
    Prefix(Box<str>),
    /// All paths that match the glob, and the pattern as it was written.
    Glob(Glob, Box<str>),
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        }
    }

    /// Reads a pattern of 2020. A broken pattern allows nothing, but no configuration lets one through.
    fn glob(text: &str) -> Option<Self> {
        Some(Self::Glob(Glob::new(text).ok()?, text.into()))
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
            Self::Glob(glob, _) => glob.matches(path),
        }
    }

    /// Returns whether the pattern is this path, without a wildcard.
    fn is_exactly(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) | Self::Glob(_, text) => &**text == path,
            Self::Prefix(_) => false,
        }
    }

    /// Returns the text before the first wildcard.
    fn literal(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Glob(_, text) => text.split(['*', '?', '[', '\\']).next().unwrap_or_default(),
        }
    }

    /// Returns whether the pattern matches `start` and `rest` joined, without joining them.
    fn matches_joined(&self, start: &str, rest: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.strip_prefix(start) == Some(rest),
            Self::Prefix(prefix) => match prefix.strip_prefix(start) {
                Some(more) => rest.starts_with(more),
                None => start.starts_with(&**prefix),
            },
            Self::Glob(glob, _) => glob.matches(&format!("{start}{rest}")),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Glob(_, text) => f.write_str(text),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// How a denied path is related to that of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It is that path.
    Same,
    /// It leads to the same object.
    Alias,
    /// What it does is a part of the request.
    Part,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "",
            Self::Alias => ", which leads to the same",
            Self::Part => ", which is a part of it",
        })
    }
}

/// Why a request was denied, for the log. The client learns only that it was denied.
#[derive(Debug, thiserror::Error)]
pub enum Denial<'a> {
    /// The identity has no policy.
    #[error("the identity has no policy")]
    NoPolicy,
    /// This rule of its policy denies the path.
    #[error("policy '{policy}' denies '{pattern}'{relation}")]
    Rule {
        /// The policy's name.
        policy: &'a str,
        /// The rule.
        pattern: &'a Pattern,
        /// How the path that the rule names is related to that of the request.
        relation: Relation,
    },
    /// No rule of its policy allows the path.
    #[error("no rule of policy '{policy}' allows the path")]
    NotAllowed {
        /// The policy's name.
        policy: &'a str,
    },
}

/// An identity with two roles, so that its permissions are ambiguous.
#[derive(Debug, thiserror::Error)]
#[error("identity '{identity}' is {first} and stands in policy '{second}', too")]
pub struct AmbiguousIdentity {
    identity: Identity,
    first: String,
    second: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone() -> Identity {
        Identity::of_public_key(b"someone")
    }

    fn policy(allow: &[&str], deny: &[&str]) -> PolicySettings {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        PolicySettings {
            allow: owned(allow),
            deny: owned(deny),
            identities: vec![someone()],
            ..PolicySettings::default()
        }
    }

    /// Returns the target of a route without aliases.
    fn only(path: &str) -> Target<'_> {
        Target::of(path)
    }

    fn access(allow: &[&str], deny: &[&str]) -> AccessRules {
        let policies = BTreeMap::from([("minio".to_owned(), policy(allow, deny))]);
        AccessRules::new(None, &policies).unwrap()
    }

    #[test]
    fn a_star_is_a_wildcard_only_at_the_end() {
        let access = access(&["/v1/key/create/my-*", "/v1/status", "/v1/*/x"], &[]);
        for path in
            ["/v1/key/create/my-", "/v1/key/create/my-key", "/v1/key/create/my-a/b", "/v1/status", "/v1/*/x"]
        {
            assert!(access.authorize(&someone(), &only(path)).is_ok(), "{path}");
        }
        for path in ["/v1/key/create/my", "/v1/key/create/other", "/v1/status/", "/v1/statu", "/v1/key/x", ""]
        {
            assert!(access.authorize(&someone(), &only(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn deny_wins_over_allow_and_nothing_allows_nothing() {
        let access = access(&["/v1/key/*"], &["/v1/key/generate/my-internal*", "/v1/key/delete/a"]);
        assert!(access.authorize(&someone(), &only("/v1/key/delete/ab")).is_ok());
        let denial = access.authorize(&someone(), &only("/v1/key/delete/a")).unwrap_err().to_string();
        assert_eq!(denial, "policy 'minio' denies '/v1/key/delete/a'");
        assert!(access.authorize(&someone(), &only("/v1/key/generate/my-internal1")).is_err());
        assert!(super::tests::access(&[], &[]).authorize(&someone(), &only("/v1/status")).is_err());
        let stranger = Identity::of_public_key(b"stranger");
        assert!(access.authorize(&stranger, &only("/v1/status")).is_err());
    }

    #[test]
    fn a_deny_holds_for_every_path_of_a_route_and_an_allow_for_its_own() {
        let target = |rest| Target {
            path: if rest == "a" { "/v1/key/decrypt/a" } else { "/v1/key/decrypt/ab" },
            aliases: &["/v1/key/bulk/decrypt/"],
            rest,
            ..Target::of("")
        };
        for (deny, a, ab) in [
            ("/v1/key/bulk/decrypt/a", false, true),
            ("/v1/key/bulk/decrypt/a*", false, false),
            ("/v1/key/bulk/decrypt/ab*", true, false),
            ("/v1/key/bulk/decrypt/b*", true, true),
            ("/v1/key/bulk/decrypt/", true, true),
            ("/v1/key/bulk/decrypt/*", false, false),
            ("/v1/key/bulk*", false, false),
            ("/v1/key/decrypt/a", false, true),
            ("/v1/key/decrypt/ab*", true, false),
            ("/v1/key/bulk/generate/*", true, true),
        ] {
            let access = access(&["/v1/key/*"], &[deny]);
            let passes = |rest| access.authorize(&someone(), &target(rest)).is_ok();
            assert_eq!((passes("a"), passes("ab")), (a, ab), "{deny}");
        }
        let access = access(&["/v1/key/bulk/decrypt/*"], &[]);
        assert!(access.authorize(&someone(), &target("a")).is_err());
    }

    #[test]
    fn an_identity_stands_in_one_place() {
        let twice = BTreeMap::from([("a".to_owned(), policy(&[], &[])), ("b".to_owned(), policy(&[], &[]))]);
        let error = AccessRules::new(None, &twice).unwrap_err().to_string();
        assert!(error.contains("policy 'a'") && error.contains("policy 'b'"), "{error}");
        let once = BTreeMap::from([("a".to_owned(), policy(&[], &[]))]);
        assert!(AccessRules::new(Some(someone()), &once).unwrap_err().to_string().contains("is the admin"));
    }
}
