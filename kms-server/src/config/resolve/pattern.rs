//! Path patterns of policies: which ones are sound, and what to write instead of the others.

use kms_core::KeyName;

use crate::access::glob::Glob;

/// Returns what to write instead of a pattern with a wildcard that is not at its end; `None` for any other pattern.
///
/// The returned patterns together match at least what the pattern matched.
/// Today a pattern equals the path, or is a prefix of it and ends in `*`. Up to KES 0.22 patterns were shell globs,
/// so there are files with `*`, `?` and `[…]` in the middle.
pub fn replacements(pattern: &str) -> Option<Vec<String>> {
    let start = wildcard(pattern)?;
    let expanded = expand_operation(pattern);
    Some(if expanded.is_empty() { vec![format!("{}*", &pattern[..start])] } else { expanded })
}

/// Returns whether no request can match a pattern, because no path begins so.
pub fn matches_nothing(pattern: &str) -> bool {
    !pattern.starts_with('/') && pattern != "*"
}

/// The operations on keys: the part of a path after `/v1/key/`.
const KEY_OPERATIONS: [&str; 9] =
    ["create", "import", "describe", "list", "delete", "generate", "encrypt", "decrypt", "hmac"];

/// Returns the offset of the first wildcard that is not a single `*` at the end.
fn wildcard(pattern: &str) -> Option<usize> {
    let body = pattern.strip_suffix('*').unwrap_or(pattern);
    body.find(['*', '?', '['])
}

/// Writes `/v1/key/*/<name>` out: one pattern for each operation that the wildcard matched.
fn expand_operation(pattern: &str) -> Vec<String> {
    let Some((operation, rest)) = pattern.strip_prefix("/v1/key/").and_then(|rest| rest.split_once('/'))
    else {
        return Vec::new();
    };
    // Any other wildcard leaves open which operations somebody meant.
    if operation.contains(['?', '[', '\\']) || !operation.contains('*') {
        return Vec::new();
    }
    let Ok(glob) = Glob::new(operation) else { return Vec::new() };
    let rest = match wildcard(rest) {
        Some(start) => format!("{}*", &rest[..start]),
        None => rest.to_owned(),
    };
    let matching = KEY_OPERATIONS.iter().filter(|name| glob.matches(name));
    matching.map(|name| format!("/v1/key/{name}/{rest}")).collect()
}

/// Returns whether a text can be the name of a policy. The rule is that of key names.
pub fn is_policy_name(text: &str) -> bool {
    KeyName::is_valid(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &str) -> Vec<String> {
        replacements(pattern).unwrap()
    }

    #[test]
    fn a_star_at_the_end_is_sound() {
        for pattern in ["/v1/key/create/my-key", "/v1/key/create/*", "/v1/key/*", "/*", "*"] {
            assert!(replacements(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn a_glob_over_operations_is_written_out() {
        assert_eq!(
            replaced("/v1/key/de*/my-*"),
            ["/v1/key/describe/my-*", "/v1/key/delete/my-*", "/v1/key/decrypt/my-*"]
        );
        assert_eq!(replaced("/v1/key/*/my-key").len(), KEY_OPERATIONS.len());
    }

    #[test]
    fn stars_cost_nothing() {
        assert_eq!(replaced(&format!("/v1/key/{}e/a", "*".repeat(200))).len(), 4); // create, describe, delete, generate
        assert_eq!(replaced(&format!("/v1/key/{}q/a", "*".repeat(200))), ["/v1/key/*"]);
        let wide = |operation| expand_operation(&format!("/v1/key/{operation}/a")).len();
        assert_eq!((wide("*e*e*"), wide("de*te"), wide("d*e*"), wide("list*list")), (4, 1, 3, 0));
    }

    #[test]
    fn any_other_glob_is_cut_at_its_first_wildcard() {
        assert_eq!(replaced("/v1/key/delete/*-prod"), ["/v1/key/delete/*"]);
        assert_eq!(replaced("/v1/key/delete/my-?"), ["/v1/key/delete/my-*"]);
        assert_eq!(replaced("/v1/key/delete/[ab]*"), ["/v1/key/delete/*"]);
        assert_eq!(replaced("/v1/*/list"), ["/v1/*"]);
    }
}
