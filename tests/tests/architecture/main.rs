//! The sources keep the structure that `ARCHITECTURE.md` describes.
//!
//! There are four rules. No files of a crate import each other in a circle. No import leads up the rooms of the server.
//! No crate imports a crate above it. No Rust file has more than 500 lines.
//!
//! The suite reads sources as tokens. It counts code for every target and feature, and unit tests as well. It does not
//! expand macros and sees no paths in strings, such as those of serde's attributes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod arrows;
mod circles;
mod floors;
mod levels;
mod lines;
mod module;
mod names;
mod package;
mod sources;
mod tokens;

use floors::Floors;
use package::Package;
use sources::Sources;

/// Fails with one line for each breach of a rule.
#[track_caller]
fn assert_kept(breaches: &[String]) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

#[test]
fn every_source_file_belongs_to_a_crate() {
    let sources = Sources::of_repository();
    let unreached: Vec<_> = Package::all(&sources).iter().flat_map(Package::unreached).collect();
    assert_kept(&unreached);
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let sources = Sources::of_repository();
    let circles: Vec<_> = Package::all(&sources).iter().flat_map(circles::circles).collect();
    assert_kept(&circles);
}

#[test]
fn imports_of_the_server_lead_down_its_rooms() {
    let sources = Sources::of_repository();
    let rooms = Floors::of(&sources.architecture, "rooms");
    let packages = Package::all(&sources);
    let server = packages.iter().find(|package| package.name == "kms-server").unwrap();
    assert_kept(&levels::breaches_of_rooms(server, &rooms));
}

#[test]
fn crates_import_only_crates_below_them() {
    let sources = Sources::of_repository();
    let crates = Floors::of(&sources.architecture, "crates");
    assert_kept(&levels::breaches_of_crates(&Package::all(&sources), &crates));
}

#[test]
fn no_file_is_longer_than_500_lines() {
    assert_kept(&lines::too_long(&Sources::of_repository().rust));
}
