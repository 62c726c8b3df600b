//! `/v1/policy/…` and `/v1/identity/…`: who may do what, as the configuration has it.

use http::StatusCode;
use kms_core::{KeyName, ListQuery};

use super::answer::{Answer, Reject};
use super::call::Call;
use super::route::CONTINUES;
use crate::access::identify::Refusal;
use crate::access::policy::{Access, Pattern, Policy, Role};
use crate::json;

/// Tells when and by whom a policy was made.
pub fn describe_policy(call: &Call<'_>) -> Result<Answer, Reject> {
    let (access, policy) = (call.access, call.policy()?);
    let mut out = b"{\"name\":".to_vec();
    json::push_string(&mut out, policy.name());
    push_origin(&mut out, access, true);
    Ok(finish(out))
}

/// Tells what a policy allows and denies.
pub fn read_policy(call: &Call<'_>) -> Result<Answer, Reject> {
    let (access, policy) = (call.access, call.policy()?);
    let mut out = b"{\"name\":".to_vec();
    json::push_string(&mut out, policy.name());
    push_rules(&mut out, policy);
    push_origin(&mut out, access, true);
    Ok(finish(out))
}

/// Lists policies by a prefix.
pub fn list_policies(call: &Call<'_>) -> Result<Answer, Reject> {
    list(call, "names", call.access.policy_names().map(str::to_owned).collect())
}

/// Tells whether an identity is the admin, or else its policy.
pub fn describe_identity(call: &Call<'_>) -> Result<Answer, Reject> {
    if !KeyName::is_valid(call.rest) {
        let message = format!("identity '{}' is empty, too long or contains invalid characters", call.rest);
        return Err(Reject::bad_request(message));
    }
    let access = call.access;
    let identity = kms_core::Identity::from_hex(call.rest).filter(|known| known.to_string() == call.rest);
    let role = identity.map_or(Role::None, |identity| access.role(&identity));
    let mut out = b"{".to_vec();
    let is_admin = matches!(role, Role::Admin);
    match role {
        Role::Admin => out.extend_from_slice(b"\"admin\":true"),
        Role::Policy(policy) => push_policy(&mut out, &policy),
        Role::None => return Err(no_such_identity()),
    }
    push_origin(&mut out, access, !is_admin);
    Ok(finish(out))
}

/// Lists the admin and the identities that have a policy, by a prefix.
pub fn list_identities(call: &Call<'_>) -> Result<Answer, Reject> {
    let mut identities: Vec<_> = call.access.identities().map(ToString::to_string).collect();
    identities.sort_unstable();
    list(call, "identities", identities)
}

/// Tells a client who it is and what it may do; one that may do nothing is told that it does not exist.
///
/// KES 0.24 tells the admin only.
pub fn describe_self(call: &Call<'_>) -> Result<Answer, Reject> {
    if let Err(refusal @ (Refusal::UnreadableHeader(_) | Refusal::NotAccepted)) = call.account.caller.identity
    {
        // There is a certificate, and nobody could be told by 404 what is wrong with it.
        return Err(Reject::bad_request(refusal.message()));
    }
    let Some(identity) = &call.identity else { return Err(no_such_identity()) };
    let access = call.access;
    let mut out = b"{\"identity\":".to_vec();
    json::push_string(&mut out, &identity.to_string());
    out.push(b',');
    match access.role(identity) {
        Role::Admin => {
            out.extend_from_slice(b"\"admin\":true");
            push_origin(&mut out, access, false);
        }
        Role::Policy(policy) => {
            push_policy(&mut out, &policy);
            push_rules(&mut out, &policy);
            push_origin(&mut out, access, true);
        }
        Role::None => return Err(no_such_identity()),
    }
    Ok(finish(out))
}

impl Call<'_> {
    /// Finds the policy that the path names.
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

/// Answers with a page of sorted `names`; unlike for keys, the member that continues is there at the end, too.
fn list(call: &Call<'_>, member: &str, names: Vec<String>) -> Result<Answer, Reject> {
    let (prefix, after) = call.listing()?;
    let mut page: Vec<_> = names
        .into_iter()
        .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after))
        .take(ListQuery::MAX_LIMIT + 1)
        .collect();
    let more = page.len() > ListQuery::MAX_LIMIT;
    page.truncate(ListQuery::MAX_LIMIT);
    let mut out = format!("{{\"{member}\":[").into_bytes();
    for (index, name) in page.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::push_string(&mut out, name);
    }
    out.extend_from_slice(b"],\"continue_at\":");
    match page.last().filter(|_| more) {
        Some(last) => json::push_string(&mut out, &format!("{prefix}{CONTINUES}{last}")),
        None => out.extend_from_slice(b"\"\""),
    }
    Ok(finish(out))
}

fn push_policy(out: &mut Vec<u8>, policy: &Policy) {
    out.extend_from_slice(b"\"policy\":");
    json::push_string(out, policy.name());
}

/// Appends the rules as objects whose members are the patterns; what is empty is left out.
fn push_rules(out: &mut Vec<u8>, policy: &Policy) {
    for (member, patterns) in [("allow", policy.allow()), ("deny", policy.deny())] {
        if patterns.is_empty() {
            continue;
        }
        let mut texts: Vec<_> = patterns.iter().map(Pattern::to_string).collect();
        texts.sort_unstable();
        texts.dedup();
        out.extend_from_slice(format!(",\"{member}\":{{").as_bytes());
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json::push_string(out, text);
            out.extend_from_slice(b":{}");
        }
        out.push(b'}');
    }
}

/// Appends when the configuration was read, and the admin as the one who wrote it.
fn push_origin(out: &mut Vec<u8>, access: &Access, by_admin: bool) {
    out.extend_from_slice(b",\"created_at\":");
    json::push_string(out, &access.created_at().to_string());
    if let Some(admin) = access.admin().filter(|_| by_admin) {
        out.extend_from_slice(b",\"created_by\":");
        json::push_string(out, &admin.to_string());
    }
}

fn finish(mut out: Vec<u8>) -> Answer {
    out.extend_from_slice(b"}\n");
    Answer::json(out)
}
