//! Imports lead down: from room to room in a crate, and from crate to crate.

use std::collections::BTreeSet;

use super::arrows::{arrows, re_exports};
use super::floors::Floors;
use super::package::Package;

/// Returns a line for each import or re-export that leads up, and for each room that is not in the block or only there.
///
/// Rooms of one line may import each other; circles of files have a rule of their own.
pub fn breaches_of_rooms(package: &Package, rooms: &Floors) -> Vec<String> {
    let files: BTreeSet<_> = package.nodes.iter().map(|node| node.file.as_str()).filter_map(room).collect();
    let mut breaches = unnamed(&files, rooms, "room");
    for arrow in arrows(package).into_iter().chain(re_exports(package)) {
        let (Some(from), Some(to)) = (room(&arrow.from), room(&arrow.to)) else { continue };
        if let (Some(above), Some(below)) = (rooms.depth(to), rooms.depth(from))
            && above < below
        {
            breaches
                .push(format!("{arrow}, and in ARCHITECTURE.md the room `{to}` is above the room `{from}`"));
        }
    }
    breaches
}

/// Returns a line for each import of a crate that is not below the one that imports it, and for each crate that is not in
/// the block or only there.
pub fn breaches_of_crates(packages: &[Package], crates: &Floors) -> Vec<String> {
    let all: BTreeSet<_> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut breaches = unnamed(&all, crates, "crate");
    for package in packages {
        for node in &package.nodes {
            let imports = node.module.imports.iter().map(|import| &import.path);
            for path in imports.chain(&node.module.paths) {
                let to = path.segments[0].replace('_', "-");
                if to == package.name || !all.contains(to.as_str()) {
                    continue;
                }
                let from = package.name.as_str();
                if crates.depth(&to) <= crates.depth(from) {
                    breaches.push(format!(
                        "{}:{}: `{path}` is an import of {to}, and in ARCHITECTURE.md {to} is not below {from}",
                        node.file, path.line
                    ));
                }
            }
        }
    }
    breaches
}

/// Returns a line for each name that the block lacks, and for each that only the block has.
fn unnamed(there: &BTreeSet<&str>, floors: &Floors, what: &str) -> Vec<String> {
    let missing = there.iter().filter(|name| floors.depth(name).is_none());
    let missing = missing
        .map(|name| format!("the {what} `{name}` is not in the block `text {what}s` of ARCHITECTURE.md"));
    let gone = floors.names().filter(|name| !there.contains(name));
    let gone = gone.map(|name| format!("the {what} `{name}` of ARCHITECTURE.md does not exist"));
    missing.chain(gone).collect()
}

/// Returns the room of a file: the folder or the file at the top of `src`.
fn room(file: &str) -> Option<&str> {
    let (_, inside) = file.split_once("/src/")?;
    let first = inside.split('/').next()?;
    Some(first.trim_end_matches(".rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, files: &[(&str, &str)]) -> Package {
        let texts = files.iter().map(|&(file, text)| (format!("x/src/{file}"), text.to_owned())).collect();
        Package::of(name, "x", &texts)
    }

    fn floors(name: &str, lines: &str) -> Floors {
        Floors::of(&format!("```text {name}\n{lines}\n```"), name)
    }

    #[test]
    fn an_import_that_leads_up_is_told_and_one_that_leads_down_is_not() {
        let server = package(
            "kms-x",
            &[
                ("lib.rs", "mod api;\nmod tls;\nmod json;\npub use api::Api;"),
                ("api/mod.rs", "mod keys;\npub struct Api;"),
                ("api/keys.rs", "use super::Api;\nuse crate::tls::Tls;\nuse crate::json::write;"),
                ("tls.rs", "pub struct Tls;\nfn f(_: &Tls) { crate::json::write(); }"),
                ("json.rs", "use crate::tls::Tls;\n\npub fn write() { let _: crate::Api; }"),
            ],
        );
        assert_eq!(
            breaches_of_rooms(&server, &floors("rooms", "lib\napi/\ntls json  one floor")),
            [
                "x/src/json.rs:3: `crate::Api` imports x/src/api/mod.rs, and in ARCHITECTURE.md the room `api` is \
                 above the room `json`"
            ]
        );
    }

    #[test]
    fn a_re_export_that_leads_up_is_told_and_one_of_a_face_is_not() {
        let server = package(
            "kms-x",
            &[
                ("lib.rs", "mod api;\nmod host;\npub use host::Shell;"),
                ("api/mod.rs", "mod keys;\npub use self::keys::Key;\npub use crate::host::Shell;"),
                ("api/keys.rs", "pub struct Key;"),
                ("host.rs", "pub struct Shell;\npub(crate) use crate::api::Key as Other;"),
            ],
        );
        let breaches = breaches_of_rooms(&server, &floors("rooms", "lib\napi\nhost"));
        let [breach] = breaches.as_slice() else { panic!("{breaches:?}") };
        assert!(
            breach.starts_with("x/src/host.rs:2: `crate::api::Key` imports x/src/api/keys.rs"),
            "{breach}"
        );
    }

    #[test]
    fn a_room_that_is_not_named_and_one_that_is_not_there_are_told() {
        let server = package("kms-x", &[("lib.rs", "mod a;\nmod b;"), ("a.rs", ""), ("b/mod.rs", "")]);
        assert_eq!(
            breaches_of_rooms(&server, &floors("rooms", "lib\na c")),
            [
                "the room `b` is not in the block `text rooms` of ARCHITECTURE.md",
                "the room `c` of ARCHITECTURE.md does not exist"
            ]
        );
    }

    #[test]
    fn a_crate_that_imports_one_above_it_or_beside_it_is_told() {
        let packages = [
            package("kms-top", &[("lib.rs", "use kms_low::A;")]),
            package("kms-side", &[("lib.rs", "\nfn f() { kms_top::B::new(); }")]),
            package("kms-low", &[("lib.rs", "// kms_top::B\nuse kms_side::C;\npub use std::io::Write;")]),
        ];
        assert_eq!(
            breaches_of_crates(&packages, &floors("crates", "kms-top kms-side\nkms-low")),
            [
                "x/src/lib.rs:2: `kms_top::B::new` is an import of kms-top, and in ARCHITECTURE.md kms-top is not \
                 below kms-side",
                "x/src/lib.rs:2: `kms_side::C` is an import of kms-side, and in ARCHITECTURE.md kms-side is not \
                 below kms-low"
            ]
        );
    }
}
