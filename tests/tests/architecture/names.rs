//! Where the names of a package lead.

use super::package::Package;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// A module, by its place.
    Module(usize),
    /// Something that the module at this place defines.
    Item(usize),
}

/// More steps than any chain of re-exports has.
const MAX_STEPS: usize = 16;

/// Resolves names as the compiler does: by modules, imports, re-exports and definitions.
pub struct Names<'a> {
    package: &'a Package,
    /// The name of the library in code.
    library: String,
}

impl<'a> Names<'a> {
    pub fn of(package: &'a Package) -> Self {
        Self { package, library: package.name.replace('-', "_") }
    }

    /// Resolves a path in a module; `None` if it leads out of the package.
    pub fn resolve(&self, module: usize, segments: &[String]) -> Option<Found> {
        self.path(module, segments, 0)
    }

    fn path(&self, module: usize, segments: &[String], steps: usize) -> Option<Found> {
        let nodes = &self.package.nodes;
        let (first, mut rest) = segments.split_first()?;
        let mut found = match first.as_str() {
            "crate" => Found::Module(nodes[module].root),
            "self" => Found::Module(module),
            "super" => Found::Module(nodes[module].parent?),
            name => match self.name(module, name, steps) {
                Some(found) => found,
                None if *name == self.library => Found::Module(self.package.library?),
                None => return None,
            },
        };
        while let (Found::Module(at), Some((next, after))) = (found, rest.split_first()) {
            rest = after;
            found = match next.as_str() {
                "super" => Found::Module(nodes[at].parent?),
                // A name that is not found is made by a macro there.
                next => self.name(at, next, steps).unwrap_or(Found::Item(at)),
            };
        }
        Some(found)
    }

    /// Resolves one name in a module.
    fn name(&self, at: usize, name: &str, steps: usize) -> Option<Found> {
        if steps > MAX_STEPS {
            return None;
        }
        let node = &self.package.nodes[at];
        if let Some(&child) = node.children.get(name) {
            return Some(Found::Module(child));
        }
        let import = node.module.imports.iter().find(|import| import.name.as_deref() == Some(name));
        if let Some(import) = import {
            // A name from another crate is this module's own for whoever takes it from here.
            let own = import.path.segments == [name];
            let found = if own { None } else { self.path(at, &import.path.segments, steps + 1) };
            return Some(found.unwrap_or(Found::Item(at)));
        }
        if node.module.items.contains(name) {
            return Some(Found::Item(at));
        }
        let mut globs = node.module.imports.iter().filter(|import| import.all);
        globs.find_map(|import| match self.path(at, &import.path.segments, steps + 1)? {
            Found::Module(from) if from != at => self.name(from, name, steps + 1),
            _ => None,
        })
    }
}
