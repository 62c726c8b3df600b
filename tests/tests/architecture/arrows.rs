//! The imports between the files of a package.

use super::module::{Import, Module, Path};
use super::names::{Found, Names};
use super::package::Package;

/// An import of one file by another.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrow {
    pub from: String,
    pub line: usize,
    /// The path as it is written.
    pub path: String,
    pub to: String,
}

impl std::fmt::Display for Arrow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: `{}` imports {}", self.from, self.line, self.path, self.to)
    }
}

/// Returns all imports between files. Declarations of modules and re-exports are none.
pub fn arrows(package: &Package) -> Vec<Arrow> {
    let names = Names::of(package);
    let mut arrows = Vec::new();
    for (at, node) in package.nodes.iter().enumerate() {
        let mut draw = |path: &Path, line: usize, to: &str| {
            if to != node.file {
                let (from, to) = (node.file.clone(), to.to_owned());
                arrows.push(Arrow { from, line, path: path.to_string(), to });
            }
        };
        for import in &node.module.imports {
            if let Some((file, line)) = target(package, &names, at, import) {
                draw(&import.path, line, file);
            }
        }
        for path in &node.module.paths {
            if is_told(&names, at, &node.module, &path.segments[0]) {
                continue;
            }
            if let Some(found) = names.resolve(at, &path.segments) {
                draw(path, path.line, file(package, found));
            }
        }
    }
    arrows
}

/// Returns all re-exports that lead to another file. A face of a folder has many; only where they lead may matter.
pub fn re_exports(package: &Package) -> Vec<Arrow> {
    let names = Names::of(package);
    let mut arrows = Vec::new();
    for (at, node) in package.nodes.iter().enumerate() {
        for import in node.module.imports.iter().filter(|import| import.public) {
            let Some(found) = names.resolve(at, &import.path.segments) else { continue };
            let (from, to) = (node.file.clone(), file(package, found).to_owned());
            if from != to {
                arrows.push(Arrow { from, line: import.path.line, path: import.path.to_string(), to });
            }
        }
    }
    arrows
}

/// Returns the file that a `use` item makes its file depend on, and the line.
fn target<'a>(
    package: &'a Package,
    names: &Names<'_>,
    at: usize,
    import: &Import,
) -> Option<(&'a str, usize)> {
    let module = &package.nodes[at].module;
    let found = names.resolve(at, &import.path.segments)?;
    let is_module = matches!(found, Found::Module(_));
    // Paths through a module are arrows themselves, and lead to what they name.
    let is_start = |name: &String| module.paths.iter().any(|path| path.segments[0] == *name);
    if is_module && !import.all && import.name.as_ref().is_some_and(is_start) {
        return None;
    }
    let line = match &import.name {
        _ if !import.public => import.path.line,
        Some(name) => *module.words.get(name)?,
        None => return None,
    };
    Some((file(package, found), line))
}

/// Returns whether a `use` item is the arrow already: whether it brings in this name, and the name is no module.
fn is_told(names: &Names<'_>, at: usize, module: &Module, name: &str) -> bool {
    let import = module.imports.iter().find(|import| import.name.as_deref() == Some(name));
    import.is_some_and(|import| {
        !import.public && !matches!(names.resolve(at, &import.path.segments), Some(Found::Module(_)))
    })
}

fn file(package: &Package, found: Found) -> &str {
    let (Found::Module(node) | Found::Item(node)) = found;
    &package.nodes[node].file
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the arrows of a made-up library, each as `from:line to`.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let texts = files.iter().map(|&(file, text)| (format!("x/src/{file}"), text.to_owned())).collect();
        let package = Package::of("kms-x", "x", &texts);
        assert_eq!(package.unreached(), [""; 0]);
        let short = |file: &str| file.trim_start_matches("x/src/").to_owned();
        let shown = |arrow: &Arrow| format!("{}:{} {}", short(&arrow.from), arrow.line, short(&arrow.to));
        super::arrows(&package).iter().map(shown).collect()
    }

    #[test]
    fn declarations_and_re_exports_are_no_arrows() {
        let found = arrows(&[
            ("lib.rs", "mod a;\npub use a::A;\npub use self::a::*;"),
            ("a/mod.rs", "mod b;\npub(crate) use b::{B as A, C};"),
            ("a/b.rs", "pub struct B;\npub struct C;"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_re_export_leads_to_the_file_that_defines_the_name() {
        let found = arrows(&[
            ("lib.rs", "mod a;\nmod d;\npub use a::A;"),
            ("a/mod.rs", "mod b;\nmod c;\npub use self::b::*;\npub use c::C;"),
            ("a/b.rs", "pub struct A;"),
            ("a/c.rs", "pub use std::sync::Arc as C;"),
            ("d.rs", "use crate::A;\nuse crate::a::C;\n\nfn f() { super::a::A::new(); C::new() }"),
        ]);
        assert_eq!(found, ["d.rs:1 a/b.rs", "d.rs:2 a/c.rs", "d.rs:4 a/b.rs"]);
    }

    #[test]
    fn a_name_that_is_re_exported_and_used_is_an_arrow() {
        let found = arrows(&[
            ("lib.rs", "mod a;\npub use a::{A, B};\n\nfn f(_: A) {}"),
            ("a.rs", "pub struct A;\npub struct B;"),
        ]);
        assert_eq!(found, ["lib.rs:4 a.rs"]);
    }

    #[test]
    fn paths_through_a_module_lead_to_what_they_name() {
        let found = arrows(&[
            ("lib.rs", "mod a;\nmod c;"),
            ("a/mod.rs", "mod b;\npub use b::B;\n\nfn f() { b::g() }"),
            ("a/b.rs", "pub struct B;\npub fn g() {}"),
            ("c.rs", "use crate::a;\nuse std::a as other;\n\nfn f(_: a::B) {}\nfn h() { other::B }"),
        ]);
        assert_eq!(found, ["a/mod.rs:4 a/b.rs", "c.rs:4 a/b.rs"]);
    }

    #[test]
    fn tests_in_braces_and_in_files_count() {
        let found = arrows(&[
            ("lib.rs", "mod a;\nmod b;"),
            ("a.rs", "#[cfg(test)]\nmod tests { use super::*;\nuse super::super::b::B; }"),
            ("b.rs", "pub struct B;\n#[cfg(test)]\nmod tests;"),
            ("b/tests.rs", "use super::*;"),
        ]);
        assert_eq!(found, ["a.rs:3 b.rs", "b/tests.rs:1 b.rs"]);
    }

    #[test]
    fn a_binary_and_a_suite_import_the_library() {
        let found = arrows(&[
            ("lib.rs", "pub mod a;"),
            ("a.rs", "pub fn run() {}"),
            ("main.rs", "fn main() { kms_x::a::run() }"),
            ("bin/y.rs", "use kms_x::a::run;"),
        ]);
        assert_eq!(found, ["bin/y.rs:1 a.rs", "main.rs:1 a.rs"]);
    }
}
