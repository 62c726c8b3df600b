//! Path patterns of policies: which are sound, and what to write for those that are not.

use kms_core::KeyName;

/// What is wrong with a pattern that has a wildcard elsewhere than at its end.
///
/// A pattern equals the path, or ends in `*` and is a prefix of it. Up to KES 0.22 patterns were shell globs,
/// so files that use `*`, `?` and `[…]` in the middle exist.
pub struct Glob {
    /// Patterns that together match at least what the glob matched.
    pub replacements: Vec<String>,
}

/// Tells whether `pattern` has a wildcard where it is none any more.
pub fn glob(pattern: &str) -> Option<Glob> {
    let start = wildcard(pattern)?;
    let expanded = expand_operation(pattern);
    let replacements = if expanded.is_empty() { vec![format!("{}*", &pattern[..start])] } else { expanded };
    Some(Glob { replacements })
}

/// Tells whether no request can match `pattern`, since no path begins so.
pub fn matches_nothing(pattern: &str) -> bool {
    !pattern.starts_with('/') && pattern != "*"
}

/// The operations on keys, as they stand in a path after `/v1/key/`.
const KEY_OPERATIONS: [&str; 9] =
    ["create", "import", "describe", "list", "delete", "generate", "encrypt", "decrypt", "hmac"];

/// Finds the first wildcard that is not a single `*` at the end.
fn wildcard(pattern: &str) -> Option<usize> {
    let body = pattern.strip_suffix('*').unwrap_or(pattern);
    body.find(['*', '?', '['])
}

/// Writes `/v1/key/*/<name>` out, one pattern for each operation that the glob matches.
fn expand_operation(pattern: &str) -> Vec<String> {
    let Some((operation, rest)) = pattern.strip_prefix("/v1/key/").and_then(|rest| rest.split_once('/'))
    else {
        return Vec::new();
    };
    if operation.contains(['?', '[']) || !operation.contains('*') {
        return Vec::new();
    }
    let rest = match wildcard(rest) {
        Some(start) => format!("{}*", &rest[..start]),
        None => rest.to_owned(),
    };
    let matching = KEY_OPERATIONS.iter().filter(|name| glob_matches(operation, name));
    matching.map(|name| format!("/v1/key/{name}/{rest}")).collect()
}

/// Matches a glob whose only wildcard is `*`, in time that does not depend on how many there are.
fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Tells whether a policy may have this name; the rule is that of key names.
pub fn is_policy_name(text: &str) -> bool {
    KeyName::is_valid(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacements(pattern: &str) -> Vec<String> {
        glob(pattern).unwrap().replacements
    }

    #[test]
    fn a_star_at_the_end_is_sound() {
        for pattern in ["/v1/key/create/my-key", "/v1/key/create/*", "/v1/key/*", "/*", "*"] {
            assert!(glob(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn a_glob_over_operations_is_written_out() {
        assert_eq!(
            replacements("/v1/key/de*/my-*"),
            ["/v1/key/describe/my-*", "/v1/key/delete/my-*", "/v1/key/decrypt/my-*"]
        );
        assert_eq!(replacements("/v1/key/*/my-key").len(), KEY_OPERATIONS.len());
    }

    #[test]
    fn stars_cost_nothing() {
        assert_eq!(replacements(&format!("/v1/key/{}e/a", "*".repeat(200))).len(), 4); // create, describe, delete, generate
        assert_eq!(replacements(&format!("/v1/key/{}q/a", "*".repeat(200))), ["/v1/key/*"]);
        let wide = |glob| KEY_OPERATIONS.iter().filter(|name| glob_matches(glob, name)).count();
        assert_eq!((wide("*e*e*"), wide("de*te"), wide("d*e*"), wide("list*list")), (4, 1, 3, 0));
    }

    #[test]
    fn any_other_glob_is_cut_at_its_first_wildcard() {
        assert_eq!(replacements("/v1/key/delete/*-prod"), ["/v1/key/delete/*"]);
        assert_eq!(replacements("/v1/key/delete/my-?"), ["/v1/key/delete/my-*"]);
        assert_eq!(replacements("/v1/key/delete/[ab]*"), ["/v1/key/delete/*"]);
        assert_eq!(replacements("/v1/*/list"), ["/v1/*"]);
    }
}
