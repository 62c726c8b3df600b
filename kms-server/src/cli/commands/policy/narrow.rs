//! The narrowest patterns that allow given requests.

use std::collections::BTreeMap;

use crate::api::{Route, Routes};

/// The number of names of one route from which on a pattern with their common beginning is shown, too.
const MANY_NAMES: usize = 9;

/// The longest name that a route has, which is that of an identity.
const MAX_NAME: usize = 128;

/// The patterns that allow given requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Narrowest {
    /// The patterns that allow them and nothing else, but for the further pages of a listing.
    pub patterns: Vec<String>,
    /// Patterns that may take the place of many of those. They also allow names that nobody asked for.
    pub shorter: Vec<String>,
}

/// Returns the patterns for `paths`, in the order of the routes. A path that [`can_be_named`] denies has none.
pub fn patterns<'a>(routes: &Routes, paths: impl IntoIterator<Item = &'a str>) -> Narrowest {
    let mut by_route: BTreeMap<usize, (&Route, Vec<String>)> = BTreeMap::new();
    for path in paths {
        let Some((route, rest)) = routes.find(path) else { continue };
        if !can_be_named(route, rest) {
            continue;
        }
        let place = routes.iter().position(|other| other.path == route.path).unwrap_or_default();
        by_route.entry(place).or_insert((route, Vec::new())).1.push(of_request(route, path, rest));
    }
    let mut narrowest = Narrowest::default();
    for (route, patterns) in by_route.into_values() {
        of_route(route, patterns, &mut narrowest);
    }
    narrowest
}

/// Returns whether what follows the path of a route can be a name, or the beginning of names where it lists them.
///
/// Clients choose their paths. One with a wildcard in it would allow more as a pattern than the request that was denied.
pub fn can_be_named(route: &Route, rest: &str) -> bool {
    let rest = route.listed(rest).unwrap_or(rest);
    rest.len() <= MAX_NAME && rest.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c))
}

fn of_route(route: &Route, mut patterns: Vec<String>, narrowest: &mut Narrowest) {
    patterns.sort();
    patterns.dedup();
    let all = patterns.clone();
    // What another pattern covers is not needed.
    patterns.retain(|pattern| !all.iter().any(|other| other != pattern && covers(other, pattern)));
    let beginning = common_beginning(&patterns);
    if patterns.len() >= MANY_NAMES && beginning.len() > route.path.len() {
        narrowest.shorter.push(format!("{beginning}*"));
    }
    narrowest.patterns.append(&mut patterns);
}

fn of_request(route: &Route, path: &str, rest: &str) -> String {
    // Each further page of a listing has a path of its own.
    route.listed(rest).map_or_else(|| path.to_owned(), |listed| format!("{}{listed}*", route.path))
}

fn covers(outer: &str, inner: &str) -> bool {
    outer.strip_suffix('*').is_some_and(|start| inner.trim_end_matches('*').starts_with(start))
}

/// Returns the text with which all of `texts` begin.
fn common_beginning(texts: &[String]) -> &str {
    let Some((first, others)) = texts.split_first() else { return "" };
    let mut end = first.len();
    for other in others {
        let same = first.char_indices().zip(other.chars()).take_while(|((_, one), other)| one == other);
        let len = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
        end = end.min(len);
    }
    first.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrowest(paths: &[&str]) -> Narrowest {
        patterns(&Routes::standard(), paths.iter().copied())
    }

    #[test]
    fn each_name_is_written_out_and_a_pattern_for_many_is_apart() {
        assert_eq!(narrowest(&["/v1/key/decrypt/a", "/v1/status", "/v1/key/decrypt/a"]).patterns.len(), 2);
        let many: Vec<_> = (0..20).map(|n| format!("/v1/key/generate/tenant-{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(narrowest(&many).patterns.len(), 20);
        assert_eq!(narrowest(&many).shorter, ["/v1/key/generate/tenant-*"]);
        let unlike: Vec<_> = ('a'..='k').map(|c| format!("/v1/key/generate/{c}")).collect();
        let unlike: Vec<_> = unlike.iter().map(String::as_str).collect();
        assert_eq!(narrowest(&unlike).patterns.len(), 11);
        assert!(narrowest(&unlike).shorter.is_empty(), "all keys are no short form");
    }

    #[test]
    fn a_listing_is_allowed_with_its_further_pages() {
        let paths = ["/v1/key/list/my-*", "/v1/key/list/my-~bXk", "/v1/key/list/my-"];
        assert_eq!(narrowest(&paths).patterns, ["/v1/key/list/my-*"]);
        assert_eq!(narrowest(&["/v1/key/list/", "/v1/key/list/a"]).patterns, ["/v1/key/list/*"]);
        assert_eq!(narrowest(&["/v2/nothing"]), Narrowest::default());
    }

    #[test]
    fn a_request_with_a_wildcard_in_it_gets_no_line() {
        let long = format!("/v1/key/create/{}", "a".repeat(MAX_NAME + 1));
        for path in [
            "/v1/key/generate/*",
            "/v1/key/create/a*",
            "/v1/key/decrypt/[a-z]",
            "/v1/key/decrypt/a\\b",
            "/v1/key/list/a*b",
            &long,
        ] {
            assert_eq!(narrowest(&[path]), Narrowest::default(), "{path}");
        }
        assert_eq!(narrowest(&["/v1/key/generate/x", "/v1/key/generate/*"]).patterns, ["/v1/key/generate/x"]);
    }
}
