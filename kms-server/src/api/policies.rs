//! `/v1/policy/…` and `/v1/identity/…`: the access rules of the configuration.

use std::collections::BTreeSet;

use http::StatusCode;
use jiff::Timestamp;
use kms_core::{Identity, KeyName, ListQuery};
use serde::{Serialize, Serializer};

use super::answer::{Answer, Reject};
use super::call::Call;
use super::route::CONTINUES;
use crate::access::identify::Refusal;
use crate::access::policy::{AccessRules, Pattern, Policy, Role};
use crate::json::Displayed;

/// Answers when and by whom a policy was made.
pub fn describe_policy(call: &Call<'_>) -> Result<Answer, Reject> {
    let policy = call.policy()?;
    Ok(Answer::json(&PolicyAnswer { name: policy.name(), rules: None, origin: Origin::of(call.access) }))
}

/// Answers what a policy allows and denies.
pub fn read_policy(call: &Call<'_>) -> Result<Answer, Reject> {
    let policy = call.policy()?;
    let (rules, origin) = (Some(RulesAnswer::of(policy)), Origin::of(call.access));
    Ok(Answer::json(&PolicyAnswer { name: policy.name(), rules, origin }))
}

/// Lists policies by a prefix.
pub fn list_policies(call: &Call<'_>) -> Result<Answer, Reject> {
    let names = call.access.policy_names().map(str::to_owned).collect();
    list(call, names, Listed::Policies)
}

/// Answers whether an identity is the admin, or else which policy it has.
pub fn describe_identity(call: &Call<'_>) -> Result<Answer, Reject> {
    if !KeyName::is_valid(call.rest) {
        let message = format!("identity '{}' is empty, too long or contains invalid characters", call.rest);
        return Err(Reject::bad_request(message));
    }
    let access = call.access;
    let identity = Identity::from_hex(call.rest).filter(|known| known.to_string() == call.rest);
    let role = identity.map_or(Role::None, |identity| access.role(&identity));
    match &role {
        Role::Admin => Ok(Answer::json(&IdentityAnswer::of_admin(None, access))),
        Role::Policy(policy) => Ok(Answer::json(&IdentityAnswer::of_holder(None, policy, access))),
        Role::None => Err(no_such_identity()),
    }
}

/// Lists the admin and the identities with a policy, by a prefix.
pub fn list_identities(call: &Call<'_>) -> Result<Answer, Reject> {
    let mut identities: Vec<_> = call.access.identities().map(ToString::to_string).collect();
    identities.sort_unstable();
    list(call, identities, Listed::Identities)
}

/// Answers a client's own identity and permissions. A client without permissions is told that it does not exist.
///
/// KES 0.24 answers the admin only.
pub fn describe_self(call: &Call<'_>) -> Result<Answer, Reject> {
    if let Err(refusal @ (Refusal::UnreadableHeader(_) | Refusal::NotAccepted)) = call.account.caller.identity
    {
        // The client has a certificate. An answer of 404 would not say what is wrong with it.
        return Err(Reject::bad_request(refusal.message()));
    }
    let Some(identity) = &call.identity else { return Err(no_such_identity()) };
    let (access, shown) = (call.access, Some(Displayed(identity)));
    match &access.role(identity) {
        Role::Admin => Ok(Answer::json(&IdentityAnswer::of_admin(shown, access))),
        Role::Policy(policy) => {
            let answer = IdentityAnswer::of_holder(shown, policy, access);
            Ok(Answer::json(&IdentityAnswer { rules: Some(RulesAnswer::of(policy)), ..answer }))
        }
        Role::None => Err(no_such_identity()),
    }
}

impl Call<'_> {
    /// Returns the policy that the path names.
    fn policy(&self) -> Result<&Policy, Reject> {
        if !KeyName::is_valid(self.rest) {
            let message =
                format!("policy name '{}' is empty, too long or contains invalid characters", self.rest);
            return Err(Reject::bad_request(message));
        }
        let missing = || Reject::new(StatusCode::NOT_FOUND, "policy does not exist");
        self.access.policy(self.rest).ok_or_else(missing)
    }
}

fn no_such_identity() -> Reject {
    Reject::new(StatusCode::NOT_FOUND, "identity does not exist")
}

/// Answers with a page of sorted `names`.
///
/// Unlike in a listing of keys, the last page has the member `continue_at` too.
fn list(call: &Call<'_>, names: Vec<String>, listed: fn(Vec<String>) -> Listed) -> Result<Answer, Reject> {
    let (prefix, after) = call.listing()?;
    let mut page: Vec<_> = names
        .into_iter()
        .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after))
        .take(ListQuery::MAX_LIMIT + 1)
        .collect();
    let more = page.len() > ListQuery::MAX_LIMIT;
    page.truncate(ListQuery::MAX_LIMIT);
    let last = page.last().filter(|_| more);
    let continue_at = last.map(|last| format!("{prefix}{CONTINUES}{last}")).unwrap_or_default();
    Ok(Answer::json(&PageAnswer { listed: listed(page), continue_at }))
}

#[derive(Serialize)]
struct PageAnswer {
    #[serde(flatten)]
    listed: Listed,
    continue_at: String,
}

/// The names of a page. Their kind decides the name of the member.
#[derive(Serialize)]
enum Listed {
    #[serde(rename = "names")]
    Policies(Vec<String>),
    #[serde(rename = "identities")]
    Identities(Vec<String>),
}

#[derive(Serialize)]
struct PolicyAnswer<'a> {
    name: &'a str,
    #[serde(flatten)]
    rules: Option<RulesAnswer>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

/// The permissions of an identity, and their origin.
#[derive(Serialize)]
struct IdentityAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Displayed<&'a Identity>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(flatten)]
    rules: Option<RulesAnswer>,
    #[serde(flatten)]
    origin: Origin<'a>,
}

impl<'a> IdentityAnswer<'a> {
    /// Describes the admin, whom nobody made.
    fn of_admin(identity: Option<Displayed<&'a Identity>>, access: &'a AccessRules) -> Self {
        let origin = Origin { created_by: None, ..Origin::of(access) };
        Self { identity, admin: Some(true), policy: None, rules: None, origin }
    }

    /// Describes an identity with `policy`.
    fn of_holder(
        identity: Option<Displayed<&'a Identity>>,
        policy: &'a Policy,
        access: &'a AccessRules,
    ) -> Self {
        let (policy, origin) = (Some(policy.name()), Origin::of(access));
        Self { identity, admin: None, policy, rules: None, origin }
    }
}

/// What a policy allows and denies. An empty list is omitted.
#[derive(Serialize)]
struct RulesAnswer {
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    allow: Patterns,
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    deny: Patterns,
}

impl RulesAnswer {
    fn of(policy: &Policy) -> Self {
        Self { allow: Patterns::of(policy.allow()), deny: Patterns::of(policy.deny()) }
    }
}

/// Patterns, which KES writes as the members of an object.
struct Patterns(BTreeSet<String>);

impl Patterns {
    fn of(patterns: &[Pattern]) -> Self {
        Self(patterns.iter().map(Pattern::to_string).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Empty {}
        serializer.collect_map(self.0.iter().map(|pattern| (pattern, Empty {})))
    }
}

/// The time when the configuration was read, and the admin as its author.
#[derive(Serialize)]
struct Origin<'a> {
    created_at: Displayed<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<Displayed<&'a Identity>>,
}

impl<'a> Origin<'a> {
    fn of(access: &'a AccessRules) -> Self {
        Self { created_at: Displayed(access.created_at()), created_by: access.admin().map(Displayed) }
    }
}
