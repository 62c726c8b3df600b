//! The narrowest patterns that allow given requests.

use std::collections::BTreeMap;

use crate::api::{CONTINUES, Operation, Route, Routes};

/// The most names of one route that are written out. For more of them a pattern with their common beginning is shown.
const MOST_NAMES: usize = 8;

/// A request as the audit log has it.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'a> {
    /// The decoded path.
    pub path: &'a str,
    /// Whether the log has only the beginning of the path.
    pub is_cut: bool,
}

/// Returns the patterns that together allow `requests`, in the order of the routes. A path without a route has none.
pub fn patterns<'a>(routes: &Routes, requests: impl IntoIterator<Item = Requested<'a>>) -> Vec<String> {
    let mut by_route: BTreeMap<usize, (&Route, Vec<Requested<'a>>)> = BTreeMap::new();
    for request in requests {
        let Some((route, _)) = routes.find(request.path) else { continue };
        let place = routes.iter().position(|other| other.path == route.path).unwrap_or_default();
        by_route.entry(place).or_insert((route, Vec::new())).1.push(request);
    }
    by_route.into_values().flat_map(|(route, requests)| of_route(route, &requests)).collect()
}

fn of_route(route: &Route, requests: &[Requested<'_>]) -> Vec<String> {
    let mut patterns: Vec<_> = requests.iter().map(|request| of_request(route, *request)).collect();
    patterns.sort();
    patterns.dedup();
    let all = patterns.clone();
    // What another pattern covers is not needed.
    patterns.retain(|pattern| !all.iter().any(|other| other != pattern && covers(other, pattern)));
    if patterns.len() <= MOST_NAMES {
        return patterns;
    }
    vec![format!("{}*", common_beginning(&patterns))]
}

fn of_request(route: &Route, Requested { path, is_cut }: Requested<'_>) -> String {
    if is_cut {
        return format!("{path}*");
    }
    match route.operation {
        // Each further page of a listing has a path of its own.
        Operation::List | Operation::Deleted | Operation::ListPolicies | Operation::ListIdentities => {
            let listed = path.split_once(CONTINUES).map_or(path, |(listed, _)| listed);
            format!("{}*", listed.trim_end_matches('*'))
        }
        _ => path.to_owned(),
    }
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

    fn narrowest(paths: &[&str]) -> Vec<String> {
        let requests = paths.iter().map(|path| Requested { path, is_cut: false });
        patterns(&Routes::standard(), requests)
    }

    #[test]
    fn a_name_is_written_out_and_many_names_become_a_pattern() {
        assert_eq!(narrowest(&["/v1/key/decrypt/a", "/v1/status", "/v1/key/decrypt/a"]).len(), 2);
        let many: Vec<_> = (0..20).map(|n| format!("/v1/key/generate/tenant-{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(narrowest(&many), ["/v1/key/generate/tenant-*"]);
        let unlike: Vec<_> = ('a'..='k').map(|c| format!("/v1/key/generate/{c}")).collect();
        let unlike: Vec<_> = unlike.iter().map(String::as_str).collect();
        assert_eq!(narrowest(&unlike), ["/v1/key/generate/*"]);
    }

    #[test]
    fn a_listing_is_allowed_with_its_further_pages() {
        let paths = ["/v1/key/list/my-*", "/v1/key/list/my-~bXk", "/v1/key/list/my-"];
        assert_eq!(narrowest(&paths), ["/v1/key/list/my-*"]);
        assert_eq!(narrowest(&["/v1/key/list/", "/v1/key/list/a"]), ["/v1/key/list/*"]);
        assert_eq!(narrowest(&["/v2/nothing"]), [] as [&str; 0]);
    }

    #[test]
    fn a_cut_path_is_allowed_by_its_beginning() {
        let cut = Requested { path: "/v1/key/create/aaa", is_cut: true };
        assert_eq!(patterns(&Routes::standard(), [cut]), ["/v1/key/create/aaa*"]);
    }
}
