//! The table of commands in docs/from-kes.md is what both programs do.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::kms;

#[test]
fn every_command_and_flag_of_kes_does_the_same_or_has_its_reason() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    let installed = Command::new(tools.join("install")).arg("kes").status().unwrap();
    assert!(installed.success(), "KES could not be installed");
    let programs = std::env::var_os("KMS_TEST_TOOLS");
    let programs = programs.map_or_else(|| tools.join("../../target/test-tools"), PathBuf::from).join("bin");
    let mut commands = Command::new(tools.join("commands"));
    let compared = commands.arg("--kes").arg(programs.join("kes")).arg("--kms").arg(kms()).output().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
}
