//! Configuration files, and the patterns of policies in them.

use crate::access::glob::Glob;
use crate::server::config::environment::Environment;
use crate::server::config::former::{self, Modern};
use crate::server::config::layers::{Language, Layers, References};
use crate::server::config::node::Node;
use crate::server::config::problem::{Problem, Warning};
use crate::server::config::{expand, extract, pattern, toml, yaml};
use crate::split::split;

/// The longest that a message about one file may be, beside what it quotes of it.
const MESSAGE: usize = 4096;

/// A config file in TOML.
pub fn config_toml(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    judge(text, toml::read(text, "f.toml"), Language::Toml);
}

/// A config file in YAML.
pub fn config_yaml(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    judge(text, yaml::read(text, "f.yml").map(|document| document.tree), Language::Yaml);
}

/// Brings a file as far as the schema. Every problem is a message of one line.
fn judge(text: &str, read: Result<Node, Problem>, language: Language) {
    let mut warnings = Vec::new();
    let outcome = read.and_then(|tree| extract(tree, language, &mut warnings));
    for problem in outcome.err().map(|problem| problem.to_string()).into_iter().chain(told(&warnings)) {
        assert!(!problem.contains(['\n', '\r']), "a message of two lines: {problem:?}");
        assert!(problem.len() <= MESSAGE + 8 * text.len(), "a message of {} bytes", problem.len());
    }
}

fn told(warnings: &[Warning]) -> impl Iterator<Item = String> {
    warnings.iter().map(ToString::to_string)
}

fn extract(tree: Node, language: Language, warnings: &mut Vec<Warning>) -> Result<(), Problem> {
    let Modern { tree, renamed, .. } = former::modernise(tree, language, "f")?;
    let (overrides, references) = (Node::empty(), References::new());
    let mut layers = Layers { file: "f".to_owned(), language, tree, overrides, renamed, references };
    let failures = expand::expand(&mut layers, &Environment::default(), warnings);
    extract::extract(&mut layers, &failures, warnings).map(drop)
}

/// A pattern of a policy, and a path: it matches as the definition says, and in bounded time.
pub fn policy_glob(input: &[u8]) {
    let (pattern, path) = split(input);
    let (Ok(pattern), Ok(path)) = (str::from_utf8(pattern), str::from_utf8(path)) else { return };
    if let Some(found) = pattern::replacements(pattern) {
        assert!(!found.is_empty());
        for written in &found {
            assert!(pattern::replacements(written).is_none(), "a replacement with a wildcard: {written}");
        }
    }
    pattern::matches_nothing(pattern);
    let Ok(glob) = Glob::new(pattern) else { return };
    let matches = glob.matches(path);
    if !pattern.contains(['\\', '[']) {
        assert_eq!(matches, defined(pattern, path), "{pattern:?} {path:?}");
    }
}

/// Matches by the definition of `*` and `?`: the places of the pattern that each character can lead to.
fn defined(pattern: &str, path: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let over_stars = |places: &mut Vec<bool>| {
        for at in 0..pattern.len() {
            places[at + 1] |= places[at] && pattern[at] == '*';
        }
    };
    let mut places = vec![false; pattern.len() + 1];
    places[0] = true;
    over_stars(&mut places);
    for c in path.chars() {
        let mut next = vec![false; pattern.len() + 1];
        for at in (0..pattern.len()).filter(|&at| places[at]) {
            match pattern[at] {
                '*' => next[at] |= c != '/',
                '?' => next[at + 1] |= c != '/',
                other => next[at + 1] |= c == other,
            }
        }
        over_stars(&mut next);
        places = next;
    }
    places[pattern.len()]
}
