//! Why requests were denied, by the policies of a config.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kms_core::Identity;
use serde::Serialize;

use super::super::narrow::{Narrowest, can_be_named, patterns};
use super::log::{ByPath, Denied};
use crate::access::policy::{AccessRules, Denial, Policy, Role, Target};
use crate::api::Routes;
use crate::cli::failure::Failure;
use crate::config::{self, Environment, Flags};
use crate::settings::PolicySettings;

/// Judges by the policies of a config, or without one.
pub struct Judge {
    routes: Routes,
    rules: Option<Rules>,
}

struct Rules {
    config: PathBuf,
    access: AccessRules,
    policies: BTreeMap<String, PolicySettings>,
}

/// The denied requests of an identity, and what would allow them.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// The identity, or an empty text for a client without one.
    pub identity: String,
    /// The policy of the identity, if there is a config and it names one.
    pub policy: Option<String>,
    /// The requests.
    pub requests: Vec<JudgedRequest>,
    /// The patterns that would allow those that no rule denies, and nothing else.
    pub allow: Vec<String>,
    /// Patterns that may take the place of many of `allow`. They also allow names that nobody asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shorter: Vec<String>,
    /// The policies of the config that allow all of these requests, if the identity has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies_that_allow: Vec<String>,
}

/// Equal denied requests.
#[derive(Debug, Serialize)]
pub struct JudgedRequest {
    /// The path.
    pub path: String,
    /// The number of the requests.
    pub count: u64,
    /// When the first one came.
    pub first: String,
    /// When the last one came.
    pub last: String,
    /// The kind of the reason.
    pub why: Why,
    /// The reason in words.
    pub reason: String,
}

/// The kind of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A rule is missing that allows it.
    NotAllowed,
    /// A rule denies it. No further rule can allow it.
    DeniedByRule,
    /// The identity has no policy.
    NoPolicy,
    /// The config has changed since: it is allowed.
    AllowedNow,
    /// There is no such route.
    NoRoute,
    /// No key, policy or identity can have the name.
    NoSuchName,
    /// The client has no identity that a policy could name.
    NoIdentity,
    /// There is no config that could tell.
    Unknown,
}

impl Judge {
    /// Loads the policies of a config, if there is one.
    pub fn new(
        config: Option<&Path>,
        root: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let Some(config) = config else { return Ok(Self { routes: Routes::standard(), rules: None }) };
        let flags = Flags { root: root.map(str::to_owned), ..Flags::default() };
        let settings = config::load_with(config, &flags, environment)?.settings;
        let access = AccessRules::new(settings.admin, &settings.policies)
            .map_err(|error| Failure::new(error.to_string()))?;
        let routes = Routes::standard().with_settings(&settings.routes);
        let rules = Rules { config: config.to_owned(), access, policies: settings.policies };
        Ok(Self { routes, rules: Some(rules) })
    }

    /// Returns the config, if there is one.
    pub fn config(&self) -> Option<&Path> {
        self.rules.as_ref().map(|rules| rules.config.as_path())
    }

    /// Judges the denied requests of an identity.
    pub fn judge(&self, identity: &str, denied: &ByPath) -> Judged {
        let parsed = Identity::from_hex(identity);
        let role = self.rules.as_ref().zip(parsed).map(|(rules, parsed)| rules.access.role(&parsed));
        let mut requests: Vec<_> =
            denied.iter().map(|(path, denied)| self.request(path, denied, role.as_ref())).collect();
        if parsed.is_none() {
            for request in &mut requests {
                request.why = Why::NoIdentity;
                "the client has no identity that a policy can name".clone_into(&mut request.reason);
            }
        }
        let helped =
            |request: &&JudgedRequest| matches!(request.why, Why::NotAllowed | Why::NoPolicy | Why::Unknown);
        let missing = requests.iter().filter(helped).map(|request| request.path.as_str());
        let Narrowest { patterns: allow, shorter } = patterns(&self.routes, missing);
        let policy = match &role {
            Some(Role::Policy(policy)) => Some(policy.name().to_owned()),
            _ => None,
        };
        let policies_that_allow = match role {
            Some(Role::None) => self.policies_that_allow(&requests),
            _ => Vec::new(),
        };
        Judged { identity: identity.to_owned(), policy, requests, allow, shorter, policies_that_allow }
    }

    fn request(&self, path: &str, denied: &Denied, role: Option<&Role>) -> JudgedRequest {
        let (why, reason) = self.why(path, denied.is_cut, role);
        JudgedRequest {
            path: path.to_owned(),
            count: denied.count,
            first: format!("{:.0}", denied.first),
            last: format!("{:.0}", denied.last),
            why,
            reason,
        }
    }

    fn why(&self, path: &str, is_cut: bool, role: Option<&Role>) -> (Why, String) {
        let found = self.routes.find(path);
        let nowhere = Target::of(path);
        let target = found.map_or(nowhere, |(route, rest)| route.target(path, rest));
        match role {
            _ if found.is_none() => {
                (Why::NoRoute, "no route has this path, so nothing needs to allow it".to_owned())
            }
            _ if is_cut || found.is_some_and(|(route, rest)| !can_be_named(route, rest)) => {
                (Why::NoSuchName, "nothing can have this name, so nothing needs to allow it".to_owned())
            }
            None => (
                Why::Unknown,
                "with --config this says whether a rule denied it, or none allowed it".to_owned(),
            ),
            Some(Role::Admin) => (
                Why::AllowedNow,
                "allowed by now: the identity is the admin, who may do everything".to_owned(),
            ),
            Some(Role::None) => {
                (Why::NoPolicy, "the identity has no policy, and is not the admin".to_owned())
            }
            Some(Role::Policy(policy)) => match policy.rule_for(&target) {
                Ok(allowing) => (
                    Why::AllowedNow,
                    format!("allowed by now: policy '{}' allows '{allowing}'", policy.name()),
                ),
                Err(denial @ Denial::Rule { .. }) => {
                    (Why::DeniedByRule, format!("{denial}: no further allow helps, as a deny always wins"))
                }
                Err(denial) => (Why::NotAllowed, denial.to_string()),
            },
        }
    }

    fn policies_that_allow(&self, requests: &[JudgedRequest]) -> Vec<String> {
        let Some(Rules { access, policies, .. }) = &self.rules else { return Vec::new() };
        let allows_all = |policy: &Policy| {
            requests.iter().filter(|request| request.why == Why::NoPolicy).all(|request| {
                let found = self.routes.find(&request.path);
                found.is_some_and(|(route, rest)| policy.rule_for(&route.target(&request.path, rest)).is_ok())
            })
        };
        let names = policies.keys().filter(|name| access.policy(name).is_some_and(allows_all));
        names.cloned().collect()
    }
}
