//! `kms man`.

use std::fs;

use kms_tests::shell::{Shell, text};

use super::installed;

#[test]
fn each_command_has_a_page_that_man_can_show() {
    let dir = tempfile::tempdir().unwrap();
    Shell::default().run(&["man", text(dir.path())]).ok();
    let mut pages: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    let names: Vec<_> =
        pages.iter().map(|page| page.file_name().unwrap().to_string_lossy().into_owned()).collect();
    for expected in
        ["kms.1", "kms-server.1", "kms-policy-explain.1", "kms-config-convert.1", "kms-backup-drill.1"]
    {
        assert!(names.contains(&expected.to_owned()), "{expected} is not in {names:?}");
    }
    for hidden in ["kms-man.1", "kms-update.1", "kms-tool.1", "kms-help.1"] {
        assert!(!names.contains(&hidden.to_owned()), "{hidden} is there");
    }
    let files: Vec<_> = pages.iter().map(|page| text(page)).collect();
    let lint = Shell::default().run_binary(
        &installed("mandoc"),
        &[&["-T", "lint", "-W", "error"] as &[&str], &files].concat(),
        b"",
    );
    assert!(lint.status.success(), "{lint:?}");
    let shown = Shell::default().run_binary(
        &installed("mandoc"),
        &["-T", "utf8", text(&dir.path().join("kms-policy-explain.1"))],
        b"",
    );
    let shown = shown.ok();
    // mandoc prints bold letters as a letter over itself.
    let plain = bare(&shown);
    for part in ["NAME", "SYNOPSIS", "--identity", "audit log"] {
        assert!(plain.contains(part), "{part} is not in {plain}");
    }
}

/// Removes each letter that another one is printed over.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    for c in text.chars() {
        if c == '\u{8}' {
            bare.pop();
        } else {
            bare.push(c);
        }
    }
    bare
}
