//! Configuration files, and the patterns of policies in them.

use figment::value::Dict;

use crate::server::config::environment::Environment;
use crate::server::config::former::{self, Language, Modern};
use crate::server::config::glob::Glob;
use crate::server::config::places::{Lines, Places};
use crate::server::config::problem::{Problem, Warning};
use crate::server::config::{pattern, toml, tree, yaml};
use crate::split;

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
    let read = yaml::read(text, "f.yml").map(|document| (document.tree, document.lines));
    judge(text, read, Language::Yaml);
}

/// Brings a file as far as the schema; whatever is wrong with it is told in one line.
fn judge(text: &str, read: Result<(Dict, Lines), Problem>, language: Language) {
    let mut warnings = Vec::new();
    let outcome = read.and_then(|(tree, lines)| extract(tree, lines, language, &mut warnings));
    for problem in outcome.err().map(|problem| problem.to_string()).into_iter().chain(told(&warnings)) {
        assert!(!problem.contains(['\n', '\r']), "a message of two lines: {problem:?}");
        assert!(problem.len() <= MESSAGE + 8 * text.len(), "a message of {} bytes", problem.len());
    }
}

fn told(warnings: &[Warning]) -> impl Iterator<Item = String> {
    warnings.iter().map(ToString::to_string)
}

fn extract(tree: Dict, lines: Lines, language: Language, warnings: &mut Vec<Warning>) -> Result<(), Problem> {
    let environment = Environment::default();
    let Modern { tree, lines, written, .. } = former::modernise(tree, lines, language, "f")?;
    let places = Places { file: "f".to_owned(), lines, overrides: Default::default(), written };
    let tree = tree::expand(tree, language, &environment, &places, warnings);
    tree::extract(tree, &Dict::new(), &places, warnings).map(drop)
}

/// A pattern of a policy, and a path: it matches as the definition says, and in bounded time.
pub fn policy_glob(input: &[u8]) {
    let (pattern, path) = split(input);
    let (Ok(pattern), Ok(path)) = (str::from_utf8(pattern), str::from_utf8(path)) else { return };
    if let Some(found) = pattern::glob(pattern) {
        assert!(!found.replacements.is_empty());
        for written in &found.replacements {
            assert!(pattern::glob(written).is_none(), "a replacement with a wildcard: {written}");
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
