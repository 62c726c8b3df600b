//! `kms completion`, in the real shells.

use std::fs;
use std::path::Path;

use kms_tests::shell::{Shell, kms, text};

use super::installed;

/// Returns a shell that finds `kms`.
fn shell() -> Shell {
    let path = format!("{}:/usr/bin:/bin", text(kms().parent().unwrap()));
    Shell::default().set("PATH", path).set("TERM", "dumb")
}

fn script(of: &str) -> String {
    Shell::default().run(&["completion", of]).ok()
}

#[test]
fn bash_completes_commands_flags_and_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms.bash");
    fs::write(&file, script("bash")).unwrap();
    let completed = |words: &str| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _kms kms \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            text(&file)
        );
        shell().run_binary(Path::new("/bin/bash"), &["--norc", "-c", &ask], b"").ok()
    };
    assert_eq!(completed("kms poli").trim(), "policy");
    assert_eq!(completed("kms policy ex").trim(), "explain");
    assert_eq!(completed("kms config show --conf").trim(), "--config");
    assert_eq!(completed("kms --color a"), "auto\nalways\n");
    for hidden in ["upd", "too", "man"] {
        assert_eq!(completed(&format!("kms {hidden}")).trim(), "", "{hidden} is hidden");
    }
    assert_eq!(completed("kms server --mloc").trim(), "");
}

#[test]
fn fish_completes_commands_with_what_they_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kms.fish");
    fs::write(&file, script("fish")).unwrap();
    let completed = |line: &str| {
        let ask = format!("source {}; complete --do-complete '{line}'", text(&file));
        let shell = shell().set("HOME", text(dir.path()));
        shell.run_binary(&installed("fish"), &["--no-config", "--command", &ask], b"").ok()
    };
    assert!(completed("kms poli").starts_with("policy\t"), "{}", completed("kms poli"));
    assert!(completed("kms backup dri").starts_with("drill\t"));
    assert!(completed("kms policy for-minio --format y").starts_with("yaml"));
    assert_eq!(completed("kms upd"), "");
}

#[test]
fn zsh_loads_the_script_and_completes_by_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("_kms"), script("zsh")).unwrap();
    // The function of the script decides by what it hands to `_describe`, for the words that the widget has.
    let ask = format!(
        r#"
        if [[ -d $KMS_ZSH_ROOT/usr/share/zsh/functions ]]; then
            module_path=($KMS_ZSH_ROOT/usr/lib/*/zsh/*(/)) fpath=($KMS_ZSH_ROOT/usr/share/zsh/functions/*(/))
        fi
        fpath=({dir} $fpath)
        autoload -U compinit && compinit -u -d {dir}/dump || exit 1
        print -r -- "command: $_comps[kms]"
        autoload +X -U _kms || exit 1
        _arguments() {{ return 0 }}
        _describe() {{ print -r -- ${{(P)4}}; print -r -- ${{(P)2}} }}
        source {dir}/_kms 2>/dev/null
        _kms_commands
        _kms__subcmd__policy_commands 2>/dev/null || _kms__policy_commands
        "#,
        dir = text(dir.path())
    );
    let done = shell().set("HOME", text(dir.path())).run_binary(&installed("zsh"), &["-f", "-c", &ask], b"");
    let printed = done.ok();
    assert!(printed.contains("command: _kms"), "{printed}");
    for command in ["server", "policy", "config", "explain", "for-minio"] {
        assert!(printed.contains(&format!("{command}:")), "{command} is not in {printed}");
    }
    assert!(!printed.contains("update:"), "{printed}");
}

#[test]
fn the_script_is_for_the_name_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let kes = dir.path().join("kes");
    std::os::unix::fs::symlink(kms(), &kes).unwrap();
    let script = Shell::default().run_binary(&kes, &["completion", "bash"], b"").ok();
    assert!(script.contains("_kes()") && script.trim_end().ends_with("fi"), "{script}");
    // KES's own way goes on: the shell calls the program.
    let asked = Shell::default().set("COMP_LINE", "kes id").run_binary(&kes, &["kes", "id", "kes"], b"");
    assert_eq!(asked.ok(), "identity\n");
}
