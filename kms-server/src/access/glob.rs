//! Shell globs over paths (Go's `path.Match`), which the policies of 2020 use.

use std::iter::Peekable;
use std::str::Chars;

/// A path pattern. `*` matches any characters but `/`, `?` one of them, and `[…]` one of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<[Part]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Star,
    Any,
    One(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Reads a pattern. The error says what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Star,
                '?' => Part::Any,
                '\\' => Part::One(chars.next().ok_or("'\\' with nothing behind it")?),
                '[' => set(&mut chars)?,
                other => Part::One(other),
            });
        }
        Ok(Self(parts.into()))
    }

    /// Returns whether the pattern matches the whole of `path`.
    pub fn matches(&self, path: &str) -> bool {
        let chars: Vec<char> = path.chars().collect();
        let (mut part, mut at) = (0, 0);
        // The place to go back to, where the last star takes one more character.
        let mut retry = None;
        loop {
            match self.0.get(part) {
                None if at == chars.len() => return true,
                Some(Part::Star) => {
                    part += 1;
                    retry = Some((part, at));
                    continue;
                }
                Some(single) if chars.get(at).is_some_and(|&c| single.matches(c)) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((after_star, start)) if chars.get(start).is_some_and(|&c| c != '/') => {
                    retry = Some((after_star, start + 1));
                    (part, at) = (after_star, start + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => c != '/',
            Self::One(expected) => c == *expected,
            Self::Set { negated, ranges } => {
                c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

fn set(chars: &mut Peekable<Chars<'_>>) -> Result<Part, &'static str> {
    const UNCLOSED: &str = "'[' without a closing ']'";
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        match chars.next().ok_or(UNCLOSED)? {
            ']' if ranges.is_empty() => return Err("'[]' holds nothing"),
            ']' => return Ok(Part::Set { negated, ranges }),
            '-' => return Err("'-' in '[…]' without what it begins with"),
            '\\' => ranges.push(range(chars.next().ok_or(UNCLOSED)?, chars)?),
            low => ranges.push(range(low, chars)?),
        }
    }
}

fn range(low: char, chars: &mut Peekable<Chars<'_>>) -> Result<(char, char), &'static str> {
    if chars.next_if_eq(&'-').is_none() {
        return Ok((low, low));
    }
    match chars.next() {
        None | Some(']' | '-') => Err("'-' in '[…]' without what it ends with"),
        Some('\\') => chars.next().map(|high| (low, high)).ok_or("'\\' with nothing behind it"),
        Some(high) => Ok((low, high)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_do_not_cross_a_slash() {
        for (pattern, path, expected) in [
            ("/v1/key/create/my-*", "/v1/key/create/my-key", true),
            ("/v1/key/create/my-*", "/v1/key/create/my-", true),
            ("/v1/key/create/my-*", "/v1/key/create/other", false),
            ("/v1/key/*", "/v1/key/create/my-key", false),
            ("/v1/key/*/my-key", "/v1/key/create/my-key", true),
            ("/v1/*/*/my-key", "/v1/key/create/my-key", true),
            ("/v1/key/*e/my-key", "/v1/key/create/my-key", true),
            ("/v1/key/*e/my-key", "/v1/key/list/my-key", false),
            ("*", "/v1", false),
            ("/v1/???", "/v1/key", true),
            ("/v1/???", "/v1/keys", false),
            ("/v1/k?y", "/v1/k/y", false),
            ("/[a-c]/[^x]", "/b/y", true),
            ("/[a-c]/[^x]", "/d/y", false),
            ("/[a-c]/[^x]", "/b/x", false),
            ("/[^x]", "//", false),
            ("/\\*", "/*", true),
            ("/\\*", "/a", false),
            ("/a*b*c", "/aXbYbc", true),
            ("/a*b*c", "/aXbYb", false),
            ("/v1/status", "/v1/status", true),
            ("/v1/status", "/v1/status/", false),
            ("", "", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_broken_pattern_is_refused() {
        for pattern in ["/[", "/[a", "/[]", "/[a-]", "/[-a]", "/\\", "/[a-\\"] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn many_stars_cost_little() {
        let glob = Glob::new(&"*a".repeat(40)).unwrap();
        assert!(!glob.matches(&"a".repeat(39)));
        assert!(!glob.matches(&format!("{}b", "a".repeat(5000))));
    }
}
