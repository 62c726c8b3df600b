//! A package of the workspace with the modules of all its targets.

use std::collections::{BTreeMap, BTreeSet};

use super::module::{Module, modules};
use super::sources::{Member, Sources, Texts};

/// A package with the modules of all its targets.
pub struct Package {
    pub name: String,
    /// The files that no target reaches.
    unreached: Vec<String>,
    pub nodes: Vec<Node>,
    /// The root module of the library.
    pub library: Option<usize>,
}

/// A module in its place.
pub struct Node {
    pub file: String,
    pub parent: Option<usize>,
    /// The root of the target.
    pub root: usize,
    pub children: BTreeMap<String, usize>,
    pub module: Module,
}

impl Package {
    /// Reads all packages of a workspace.
    pub fn all(sources: &Sources) -> Vec<Self> {
        let read = |member: &Member| Self::of(&member.name, &member.directory, &sources.rust);
        sources.members.iter().map(read).collect()
    }

    /// Reads the package in a directory of the repository.
    pub fn of(name: &str, directory: &str, texts: &Texts) -> Self {
        let mut package =
            Self { name: name.to_owned(), unreached: Vec::new(), nodes: Vec::new(), library: None };
        let files: Vec<_> = texts.keys().filter(|file| file.starts_with(&format!("{directory}/"))).collect();
        for file in &files {
            let inside = &file[directory.len() + 1..];
            if !is_root(inside) {
                continue;
            }
            let root = package.load(file, None, None, texts);
            if inside == "src/lib.rs" {
                package.library = Some(root);
            }
        }
        let reached: BTreeSet<_> = package.nodes.iter().map(|node| node.file.clone()).collect();
        package.unreached = files.into_iter().filter(|file| !reached.contains(*file)).cloned().collect();
        package
    }

    /// Returns a line for each file that no target reaches, so that no rule sees it.
    pub fn unreached(&self) -> Vec<String> {
        self.unreached
            .iter()
            .map(|file| format!("{file}: no module of the package declares this file"))
            .collect()
    }

    /// Loads a file with the files of its modules, and returns its place.
    fn load(&mut self, file: &str, parent: Option<usize>, root: Option<usize>, texts: &Texts) -> usize {
        let first = self.nodes.len();
        let (folder, stem) = file.rsplit_once('/').unwrap_or(("", file));
        let stem = stem.trim_end_matches(".rs");
        let own_folder =
            if parent.is_none() || stem == "mod" { folder.to_owned() } else { format!("{folder}/{stem}") };
        let mut declared = Vec::new();
        for module in modules(texts.get(file).map_or("", String::as_str)) {
            let at = self.nodes.len();
            let parent = module.parent.map_or(parent, |parent| Some(first + parent));
            if let Some(around) = module.parent {
                self.nodes[first + around].children.insert(module.name.clone(), at);
            }
            declared.extend(module.files.iter().map(|(name, path)| (at, name.clone(), path.clone())));
            let root = root.unwrap_or(first);
            self.nodes.push(Node { file: file.to_owned(), parent, root, children: BTreeMap::new(), module });
        }
        for (of, name, path) in declared {
            let places = match path {
                Some(path) => vec![format!("{folder}/{path}")],
                None => vec![format!("{own_folder}/{name}.rs"), format!("{own_folder}/{name}/mod.rs")],
            };
            let Some(place) = places.iter().find(|place| texts.contains_key(*place)) else {
                panic!("{file}: the file of the module `{name}` is at none of {places:?}");
            };
            let child = self.load(place, Some(of), Some(root.unwrap_or(first)), texts);
            self.nodes[of].children.insert(name, child);
        }
        first
    }
}

/// Returns whether a file of a package is the root of a target.
fn is_root(file: &str) -> bool {
    let parts: Vec<_> = file.split('/').collect();
    matches!(
        parts.as_slice(),
        ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_module_declares_is_told() {
        let texts = [("x/src/lib.rs", "mod a;"), ("x/src/a.rs", ""), ("x/src/b.rs", "")];
        let texts = texts.map(|(file, text)| (file.to_owned(), text.to_owned())).into();
        let unreached = Package::of("kms-x", "x", &texts).unreached();
        assert_eq!(unreached, ["x/src/b.rs: no module of the package declares this file"]);
    }
}
