//! The check of a release's symbols.

use std::fs;
use std::process::Command;

use super::made::{done, project};

#[test]
fn a_program_for_a_newer_glibc_is_refused_with_its_symbols() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("program.c"), dir.path().join("program"));
    // __libc_start_main is of glibc 2.34 in everything that is linked on a machine that has it.
    fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"x\"); }\n").unwrap();
    done(Command::new("cc").arg("-o").arg(&program).arg(&source)).ok();
    let check = |version: &str| {
        done(Command::new(project().join("packaging/check-glibc")).arg(&program).arg(version))
    };
    let told = check("99.0").ok();
    let newest = told.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(check(&newest).status.success(), "{newest}");
    let refused = check("2.1");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("puts of glibc 2.2.5"), "{refused:?}");

    // What cannot be looked at is no release either.
    let other = done(Command::new(project().join("packaging/check-glibc")).arg(&source).arg("99.0"));
    assert!(!other.status.success(), "{other:?}");
}
