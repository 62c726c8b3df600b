//! The admin, the policies, and their identities.

use std::collections::BTreeMap;

use kms_core::Identity;

use super::super::node::{Key as _, KeyPath};
use super::super::problem::Problem;
use super::super::schema::RawPolicy;
use super::context::Context;
use super::{pattern, tls};
use crate::access::glob::Glob;
use crate::settings::{PolicySettings, ProxySettings};
use crate::text::mask::NoIdentity;

/// The word that switches the admin off.
const NO_ADMIN: &str = "disabled";

/// The word that did so in configs of 2020 and 2021.
const NO_ADMIN_ONCE: &str = "_";

/// Checks the identity of the admin; `None` if there is no admin.
pub fn admin(text: Option<&str>, context: &mut Context<'_>) -> Result<Option<Identity>, Problem> {
    let key = "admin.identity";
    let expected = format!("expected 64 hex digits as 'kms identity of' prints them, or '{NO_ADMIN}'");
    let text = match text {
        None => return Err(context.problem(key, format!("no admin identity, {expected}"))),
        Some("") => return Err(context.problem(key, format!("it is empty, {expected}"))),
        Some(text) => text,
    };
    let admin = Identity::from_hex(text);
    if admin.is_none() && ![NO_ADMIN, NO_ADMIN_ONCE].contains(&text) {
        let message = format!("{} is no identity, so there is no admin: {expected}", NoIdentity(text));
        context.warn_no_effect(key, message);
    }
    Ok(admin)
}

/// The keys of all identities. An identity may have one key only.
#[derive(Default)]
pub struct Owners(BTreeMap<String, KeyPath>);

impl Owners {
    /// Collects the identities of the admin and of the TLS proxies.
    ///
    /// `written` holds the proxies as they are in the config.
    pub fn new(
        admin: Option<&str>,
        proxy: Option<&ProxySettings>,
        written: &[String],
        context: &Context<'_>,
    ) -> Result<Self, Problem> {
        let mut owners = Self::default();
        if let Some(admin) = admin {
            owners.add(admin, &"admin.identity".path(), context)?;
        }
        for identity in proxy.into_iter().flat_map(|proxy| proxy.identities.iter()) {
            let index = written.iter().position(|text| Identity::from_hex(text) == Some(*identity));
            let key = tls::proxy_key(index.unwrap_or_default());
            owners.add(&identity.to_string(), &key.path(), context)?;
        }
        Ok(owners)
    }

    /// Adds an identity. A text that is none is compared as it is.
    fn add(&mut self, text: &str, key: &[String], context: &Context<'_>) -> Result<(), Problem> {
        let identity = Identity::from_hex(text).map(|identity| identity.to_string());
        let Some(owner) = self.0.insert(identity.clone().unwrap_or_else(|| text.to_owned()), key.to_vec())
        else {
            return Ok(());
        };
        let identity = identity.unwrap_or_else(|| NoIdentity(text).to_string());
        let rule = match owner[0].as_str() {
            "admin" => "the admin, who needs no policy and is no proxy",
            "tls" => "a TLS proxy, which has no policy of its own",
            _ => "in a policy already, expected at most one for an identity",
        };
        let (name, place) = (context.layers.name_of(&owner), context.layers.place_of(&owner));
        Err(context.problem(key, format!("{identity} is {rule} (see {name} at {place})")))
    }
}

/// Checks the policies.
pub fn policies(
    raw: BTreeMap<String, RawPolicy>,
    mut owners: Owners,
    context: &mut Context<'_>,
) -> Result<BTreeMap<String, PolicySettings>, Problem> {
    let mut policies = BTreeMap::new();
    for (name, policy) in raw {
        let section = ["policy".to_owned(), name.clone()];
        let at = |list: &str, index: usize| [&section[..], &[list.to_owned(), index.to_string()]].concat();
        if !pattern::is_policy_name(&name) {
            let message = "invalid policy name, expected 1 to 80 characters of 0-9 A-Z a-z - _";
            return Err(context.problem(&section[..], message));
        }
        for (index, pattern) in policy.deny.iter().enumerate() {
            check_deny(pattern, &at("deny", index), context)?;
        }
        for (index, pattern) in policy.allow.iter().enumerate() {
            check_allow(pattern, &at("allow", index), context);
        }
        for (index, pattern) in policy.paths.iter().enumerate() {
            if let Err(why) = Glob::new(pattern) {
                let message = format!("invalid pattern '{}': {why}", pattern.escape_debug());
                return Err(context.problem(&at("paths", index), message));
            }
        }
        let mut identities = Vec::new();
        for (index, text) in policy.identities.iter().enumerate() {
            identities.extend(policy_identity(text, &at("identities", index), &mut owners, context)?);
        }
        let RawPolicy { allow, deny, paths, .. } = policy;
        policies.insert(name, PolicySettings { allow, deny, paths, identities });
    }
    Ok(policies)
}

/// Checks an identity of a policy; `None` for a text that is passed over.
fn policy_identity(
    text: &str,
    key: &[String],
    owners: &mut Owners,
    context: &mut Context<'_>,
) -> Result<Option<Identity>, Problem> {
    let identity = Identity::from_hex(text);
    if identity.is_none() && !pattern::is_policy_name(text) {
        let what = if text.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("{} cannot be an identity", NoIdentity(text))
        };
        let message = format!("{what}, expected 64 hex digits as 'kms identity of' prints them");
        return Err(context.problem(key, message));
    }
    owners.add(text, key, context)?;
    if identity.is_none() {
        let message =
            format!("{} is no identity and is passed over, expected 64 hex digits", NoIdentity(text));
        context.warn_no_effect(key, message);
    }
    Ok(identity)
}

/// Checks a pattern of `deny`.
///
/// A wildcard without effect is an error: it would leave open what somebody wanted to close.
fn check_deny(pattern: &str, key: &[String], context: &mut Context<'_>) -> Result<(), Problem> {
    if let Some(replacements) = pattern::replacements(pattern) {
        let replacements: Vec<_> = replacements.iter().map(|pattern| format!("'{pattern}'")).collect();
        let message = format!(
            "pattern '{pattern}' would deny nothing: only a '*' at the end is a wildcard, write {} instead",
            replacements.join(", ")
        );
        return Err(context.problem(key, message));
    }
    if pattern::matches_nothing(pattern) {
        let message = format!("pattern '{pattern}' denies nothing, expected it to begin with '/'");
        context.warn_no_effect(key, message);
    }
    Ok(())
}

fn check_allow(pattern: &str, key: &[String], context: &mut Context<'_>) {
    let why = if pattern::replacements(pattern).is_some() {
        ": only a '*' at the end is a wildcard"
    } else if pattern::matches_nothing(pattern) {
        ", expected it to begin with '/'"
    } else {
        return;
    };
    context.warn_no_effect(key, format!("pattern '{pattern}' allows nothing{why}"));
}
