//! Files that import each other in a circle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::arrows::{Arrow, arrows};
use super::package::Package;

/// Returns lines for the circles among the files of a package: for each file the shortest one, unless another line shows it.
pub fn circles(package: &Package) -> Vec<String> {
    let arrows = arrows(package);
    let mut from: BTreeMap<&str, Vec<&Arrow>> = BTreeMap::new();
    for arrow in &arrows {
        from.entry(&arrow.from).or_default().push(arrow);
    }
    let (mut told, mut circles) = (BTreeSet::new(), Vec::new());
    for file in from.keys() {
        if told.contains(file) {
            continue;
        }
        if let Some(circle) = shortest(file, &from) {
            told.extend(circle.iter().map(|arrow| arrow.from.as_str()));
            let shown: Vec<_> = circle.iter().map(ToString::to_string).collect();
            circles.push(format!("files import each other in a circle:\n    {}", shown.join("\n    ")));
        }
    }
    circles
}

/// Returns the shortest circle that begins at a file.
fn shortest<'a>(start: &'a str, from: &BTreeMap<&str, Vec<&'a Arrow>>) -> Option<Vec<&'a Arrow>> {
    let mut reached: BTreeMap<&str, &Arrow> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(file) = waiting.pop_front() {
        for arrow in from.get(file).into_iter().flatten() {
            if reached.contains_key(arrow.to.as_str()) {
                continue;
            }
            reached.insert(&arrow.to, arrow);
            waiting.push_back(&arrow.to);
        }
    }
    let mut circle = vec![*reached.get(start)?];
    while circle[circle.len() - 1].from != start {
        circle.push(reached[circle[circle.len() - 1].from.as_str()]);
    }
    circle.reverse();
    Some(circle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<String> {
        let texts = files.iter().map(|&(file, text)| (format!("x/src/{file}"), text.to_owned())).collect();
        circles(&Package::of("kms-x", "x", &texts))
    }

    #[test]
    fn a_circle_of_three_files_is_told_with_its_imports() {
        let found = of(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "\nfn f() -> super::c::C {}\npub struct B;"),
            ("c.rs", "use crate::{d, a::*};\npub struct C;"),
            ("d.rs", "use crate::c::C;"),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            found[0],
            "files import each other in a circle:\n    \
             x/src/a.rs:1: `crate::b::B` imports x/src/b.rs\n    \
             x/src/b.rs:2: `super::c::C` imports x/src/c.rs\n    \
             x/src/c.rs:1: `crate::a` imports x/src/a.rs"
        );
    }

    #[test]
    fn a_parent_that_defines_what_its_child_uses_and_uses_the_child_is_a_circle() {
        let child = ("a/b.rs", "use super::Shared;\npub struct B;");
        let circle = ("a/mod.rs", "mod b;\nuse self::b::B;\npub struct Shared;");
        assert_eq!(of(&[("lib.rs", "mod a;"), child, circle]).len(), 1);
        let face = ("a/mod.rs", "mod b;\npub use self::b::B;\npub struct Shared;");
        assert_eq!(of(&[("lib.rs", "mod a;"), child, face]), [""; 0]);
    }
}
