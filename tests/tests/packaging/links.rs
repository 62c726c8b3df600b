//! The pages of the packages lead to each other and to what the packages have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::shell::text;

use super::made::{Packages, done};

/// Returns all files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Returns where the links and pictures of a page lead, without those to the Web and to places of the page itself.
fn targets(page: &str) -> Vec<&str> {
    let links = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let pictures = page.split(" src=\"").skip(1).filter_map(|rest| rest.split_once('"'));
    let targets = links.chain(pictures).map(|(target, _)| target.split('#').next().unwrap());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

#[test]
fn each_link_of_a_packaged_page_leads_to_a_packaged_file() {
    let root = tempfile::tempdir().unwrap();
    let package = Packages::get().deb("0.1.0");
    done(Command::new("dpkg-deb").args(["--extract", text(&package), text(root.path())])).ok();
    let doc = root.path().join("usr/share/doc/kms");
    let pages = files(&doc);
    let pages: Vec<_> =
        pages.iter().filter(|file| file.extension().is_some_and(|name| name == "md")).collect();
    let (mut followed, mut broken) = (0, Vec::new());
    for page in &pages {
        for target in targets(&fs::read_to_string(page).unwrap()) {
            followed += 1;
            let led_to = page.parent().unwrap().join(target);
            if !led_to.exists() {
                broken.push(format!("{}: {target}", page.strip_prefix(&doc).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(pages.len() > 20 && followed > 100, "{} pages, {followed} links", pages.len());
    // What names a page by its path.
    let unit = fs::read_to_string(root.path().join("usr/lib/systemd/system/kms.service")).unwrap();
    let named = unit.lines().find_map(|line| line.strip_prefix("Documentation=file:/")).unwrap();
    assert!(root.path().join(named).exists(), "{named}");
}
