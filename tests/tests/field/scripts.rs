//! Shell scripts from the field, with the binary as `kes` on their PATH.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use kms_tests::shell::kms;

/// Runs a script of the directory `scripts` in a directory of its own. The first command that fails ends it.
#[track_caller]
fn runs(script: &str) {
    let directory = tempfile::tempdir().unwrap();
    let programs = directory.path().join("bin");
    fs::create_dir(&programs).unwrap();
    symlink(kms(), programs.join("kes")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/scripts").join(script);
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [port, other_port] = ports.map(|listener| listener.local_addr().unwrap().port());
    // `-e` alone does not end a script at a command with `!` before it.
    let trace = "set -Eeu; trap 'echo \"failed: line $LINENO: $BASH_COMMAND\" >&2' ERR";
    let text = fs::read_to_string(&script).unwrap();
    let fails = |line: &str| {
        line.strip_prefix("! ")
            .map(|command| format!("if {command}; then echo 'succeeds: {line:?}' >&2; exit 1; fi"))
    };
    let lines = text.lines().map(|line| fails(line).unwrap_or_else(|| line.to_owned()));
    let file = directory.path().join("script");
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let done = Command::new("timeout")
        .args(["120", "bash", "-c", &format!("{trace}; . ./script")])
        .current_dir(directory.path())
        .env_clear()
        .env("HOME", directory.path())
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", programs.display()))
        .env("LC_ALL", "C.UTF-8")
        .env("PORT", port.to_string())
        .env("OTHER_PORT", other_port.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{}: {}\n{}", script.display(), text(&done.stdout), text(&done.stderr));
}

#[test]
fn a_new_identity_is_cut_out_of_what_is_printed() {
    runs("identity-new.sh");
}

#[test]
fn identity_alone_is_for_command_substitution() {
    runs("identity-alone.sh");
}

#[test]
fn the_steps_of_an_acceptance_test_work() {
    runs("acceptance.sh");
}

#[test]
fn policies_and_identities_are_read_by_their_labels() {
    runs("policies.sh");
}

#[test]
fn failures_are_one_line_and_exit_code_1() {
    runs("failures.sh");
}

#[test]
fn logs_and_metrics_are_kept_in_files() {
    runs("watching.sh");
}

#[test]
fn the_words_of_2020_work() {
    runs("words-of-2020.sh");
}

#[test]
fn readers_go_early_servers_stand_side_by_side_and_links_stay() {
    runs("pipes.sh");
}
