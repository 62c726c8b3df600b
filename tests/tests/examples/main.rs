//! The library without the server: a program that embeds it, and a third party's store that passes the contract suite.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_example_program_seals_and_opens() {
    let output = cargo().args(["run", "--quiet", "-p", "kms-core", "--example", "embed"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("opened again: yes"), "{stdout}");
}

#[test]
fn a_store_outside_the_workspace_passes_the_contract_suite() {
    let manifest = root().join("examples/own-store/Cargo.toml");
    let output = cargo().args(["test", "--manifest-path"]).arg(manifest).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("test passes_the_contract_suite ... ok"), "{stdout}");
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
