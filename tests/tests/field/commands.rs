//! The table of commands in docs/from-kes.md describes what both programs do.

use std::path::Path;
use std::process::Command;

use kms_tests::programs::program;
use kms_tests::shell::kms;

#[test]
fn every_command_and_flag_of_kes_does_the_same_or_has_its_reason() {
    let mut commands = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/commands"));
    let compared = commands.arg("--kes").arg(program("kes")).arg("--kms").arg(kms()).output().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
}
