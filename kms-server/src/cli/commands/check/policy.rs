//! Reports the paths that a policy denies without naming them: a route with several paths is denied under all of them.

use kms_core::store::Finding;
use std::collections::BTreeMap;

use crate::api::Routes;
use crate::settings::PolicySettings;

const SUBJECT: &str = "policy";

/// Returns a finding for each path that the deny patterns of `policies` deny beyond their text.
pub fn check(policies: &BTreeMap<String, PolicySettings>) -> Vec<Finding> {
    let routes = Routes::standard();
    let mut findings = Vec::new();
    for (name, policy) in policies {
        for deny in &policy.deny {
            let paths =
                routes.iter().flat_map(|route| route.aliases.iter().map(|alias| (route.path, *alias)));
            for (path, alias) in paths {
                let Some(implied) = implied(deny, path, alias) else { continue };
                if policy.deny.iter().any(|other| covers(other, &implied)) {
                    continue;
                }
                let message =
                    format!("policy '{name}': '{deny}' denies '{implied}', too: it leads to the same");
                // A policy that allows the other path by its name was hardly meant to deny it.
                let contrary =
                    policy.allow.iter().find(|allow| allow.starts_with(alias) && overlap(allow, &implied));
                findings.push(match contrary {
                    Some(allow) => {
                        Finding::warning(SUBJECT, format!("{message}, although '{allow}' is allowed"))
                    }
                    None => Finding::good(SUBJECT, message),
                });
            }
        }
    }
    findings
}

/// Returns the pattern that `deny` implies under `alias`, because it denies something under `path`.
///
/// Returns `None` if there is none, or if `deny` matches it itself.
fn implied(deny: &str, path: &str, alias: &str) -> Option<String> {
    let (text, has_star) = split(deny);
    if has_star && path.starts_with(text) {
        let all = if alias.ends_with('/') { "*" } else { "" };
        return (!alias.starts_with(text)).then(|| format!("{alias}{all}"));
    }
    let rest = text.strip_prefix(path)?;
    let names_something = path.ends_with('/') && !rest.is_empty();
    let star = if has_star { "*" } else { "" };
    (names_something || deny == path).then(|| format!("{alias}{rest}{star}"))
}

/// Returns whether `outer` matches every path that `inner` matches.
fn covers(outer: &str, inner: &str) -> bool {
    let (text, has_star) = split(outer);
    if has_star { split(inner).0.starts_with(text) } else { outer == inner }
}

/// Returns whether some path matches both patterns.
fn overlap(one: &str, other: &str) -> bool {
    covers(one, other) || covers(other, one)
}

/// Splits a pattern into its text and whether it ends in a wildcard.
fn split(pattern: &str) -> (&str, bool) {
    pattern.strip_suffix('*').map_or((pattern, false), |text| (text, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deny_reaches_as_far_under_the_other_path() {
        let (decrypt, bulk) = ("/v1/key/decrypt/", "/v1/key/bulk/decrypt/");
        for (deny, expected) in [
            ("/v1/key/decrypt/a", Some("/v1/key/bulk/decrypt/a")),
            ("/v1/key/decrypt/a*", Some("/v1/key/bulk/decrypt/a*")),
            ("/v1/key/decrypt/*", Some("/v1/key/bulk/decrypt/*")),
            ("/v1/key/d*", Some("/v1/key/bulk/decrypt/*")),
            ("/v1/key/*", None),
            ("/v1/key/decrypt", None),
            ("/v1/key/generate/*", None),
        ] {
            assert_eq!(implied(deny, decrypt, bulk).as_deref(), expected, "{deny}");
        }
        for (deny, path, alias, expected) in [
            ("/v1/metrics", "/v1/metrics", "/metrics", Some("/metrics")),
            ("/metrics*", "/metrics", "/v1/metrics", Some("/v1/metrics")),
            ("/v1/metrics/x", "/v1/metrics", "/metrics", None),
            ("/v1/log/audit*", "/v1/log/audit", "/v1/log/audit/trace", None),
            ("/v1/log/audit/*", "/v1/log/audit/trace", "/v1/log/audit", Some("/v1/log/audit")),
        ] {
            assert_eq!(implied(deny, path, alias).as_deref(), expected, "{deny}");
        }
    }
}
