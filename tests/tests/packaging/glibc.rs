//! The checks of a release's program: its symbols, and the machine that it is for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::shell::text;

use super::made::{binary, done, project, script};

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

/// Returns a copy of the start of the program whose header names another machine.
fn for_machine(dir: &Path, machine: u16) -> PathBuf {
    let mut header = fs::read(binary()).unwrap();
    header.truncate(4096);
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    let path = dir.join(format!("machine-{machine}"));
    fs::write(&path, header).unwrap();
    path
}

#[test]
fn a_program_for_another_machine_is_neither_packed_nor_put_into_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (amd64, arm64, riscv) = (binary(), for_machine(dir.path(), 183), for_machine(dir.path(), 243));
    let no_program = dir.path().join("text");
    fs::write(&no_program, "#!/bin/sh\n").unwrap();
    for name in ["image", "packages"] {
        for (program, arch, complaint) in [
            (&*arm64, "amd64", "machine-183 is for arm64, and not for amd64"),
            (amd64, "arm64", "kms is for amd64, and not for arm64"),
            (&riscv, "arm64", "machine-243 is for another machine (e_machine f300), and not for arm64"),
            (&no_program, "amd64", "text is no program of Linux for 64 bits"),
            (dir.path(), "amd64", "there is no such file"),
            (&dir.path().join("none"), "amd64", "none: there is no such file"),
        ] {
            let out = dir.path().join("out");
            let words = ["--binary", text(program), "--arch", arch, "--out", text(&out)];
            let refused = done(script(name).args(words));
            assert_eq!(refused.status.code(), Some(1), "{name} {words:?}: {refused:?}");
            assert!(refused.stderr.contains(complaint), "{name} {words:?}: {refused:?}");
            assert!(!out.exists(), "{name} {words:?}");
        }
    }
    // On a machine that cannot run it, its completions come from the same program for this machine.
    let refused = done(script("packages").args([
        "--binary",
        text(&arm64),
        "--arch",
        "arm64",
        "--out",
        text(dir.path()),
    ]));
    assert!(refused.stderr.contains("name the same program for this one by --tool"), "{refused:?}");
}

#[test]
fn a_wrong_call_of_a_script_prints_its_usage_and_nothing_else() {
    for (name, words) in [
        ("image", &["--binary"][..]),
        ("image", &["--binary", "a", "--arch", "riscv64", "--out", "b"]),
        ("image", &["--binary", ""]),
        ("packages", &["--out"]),
        ("packages", &["--binary", "a", "--arch", "riscv64", "--out", "b"]),
        ("packages", &[]),
        ("build", &["--arch"]),
        ("build", &["--arch", "riscv64", "a"]),
        ("build", &[]),
        ("install", &["a"]),
        ("check-glibc", &["a"]),
        ("check-arch", &["a"]),
        ("cross-rustc", &["arm64"]),
    ] {
        let told = done(script(name).args(words));
        assert_eq!(told.status.code(), Some(2), "{name} {words:?}: {told:?}");
        let usage = told.stderr.strip_prefix(&format!("usage: packaging/{name} ")).unwrap_or_default();
        assert!(usage.trim_end().lines().count() == 1, "{name} {words:?}: {told:?}");
    }
}
