//! A config file and what lies over it: where each key was set, and the one configuration that results.

use std::collections::BTreeMap;

use figment::Figment;
use figment::providers::Serialized;

use super::node::{Key, KeyPath, Node, Place, dotted};
use super::problem::Problem;

/// The language that a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Ours, and that of KES in 2020.
    Toml,
    /// That of KES since 2021.
    Yaml,
}

/// A key that the file writes under a former name.
#[derive(Debug)]
pub struct Renamed {
    pub today: KeyPath,
    pub former: KeyPath,
}

/// A file, and what is set over it by variables and flags.
#[derive(Debug)]
pub struct Layers {
    /// What the file is called in messages.
    pub file: String,
    pub language: Language,
    /// What the file says, under the names of today.
    pub tree: Node,
    /// What variables and flags say.
    pub overrides: Node,
    /// The former names in the file, in the order in which they were replaced.
    pub renamed: Vec<Renamed>,
    /// The variables that the file refers to, by the keys whose values do.
    pub references: References,
}

/// The names of variables by the keys whose values refer to them.
pub type References = BTreeMap<KeyPath, Vec<String>>;

impl Layers {
    /// Returns the place where a key was set, else that of the nearest key above it.
    pub fn place_of(&self, key: &(impl Key + ?Sized)) -> String {
        let path = key.path();
        let nearest = (1..=path.len()).rev().find_map(|len| self.own_place(&path[..len]));
        nearest.unwrap_or_else(|| self.file.clone())
    }

    /// Returns whether the key itself was set, by the file or over it.
    pub fn is_set(&self, key: &(impl Key + ?Sized)) -> bool {
        self.own_place(&key.path()).is_some()
    }

    /// Returns where the key itself was set, if it was.
    pub fn set_at(&self, path: &[String]) -> Option<&Place> {
        let layers = [&self.overrides, &self.tree].into_iter();
        let mut places = layers.filter_map(|layer| layer.find(path).map(|node| &node.place));
        places.find(|place| !matches!(place, Place::Implied))
    }

    fn own_place(&self, path: &[String]) -> Option<String> {
        match self.set_at(path)? {
            Place::Line(line) => Some(format!("{}:{line}", self.file)),
            Place::Beside(name) => Some(name.clone()),
            Place::Implied => None,
        }
    }

    /// Creates a problem with a key.
    pub fn problem(&self, key: &(impl Key + ?Sized), message: impl AsRef<str>) -> Problem {
        Problem::new(self.place_of(key), self.name_of(key), message)
    }

    /// Returns the name of a key as the file writes it.
    pub fn name_of(&self, key: &(impl Key + ?Sized)) -> String {
        let mut path = key.path().into_owned();
        // The last renaming started from the names that the earlier ones had made, so it is undone first.
        for Renamed { today, former } in self.renamed.iter().rev() {
            let is_override =
                self.overrides.find(&path).is_some_and(|node| !matches!(node.place, Place::Implied));
            if path.starts_with(today) && !is_override {
                path.splice(..today.len(), former.iter().cloned());
            }
        }
        dotted(&path)
    }

    /// Merges the layers.
    pub fn merged(&self) -> Figment {
        Figment::from(Serialized::defaults(&self.tree)).merge(Serialized::defaults(&self.overrides))
    }
}
