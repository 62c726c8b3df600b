//! The unit of systemd, as operators without a package install it.

use std::fs;
use std::path::Path;

use kms_tests::shell::{Shell, text};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Starts the server with the command and the variables of the unit. The test fills in the directory of
/// credentials.
#[test]
fn the_unit_starts_a_node_whose_root_key_is_a_credential() {
    let node = tempfile::tempdir().unwrap();
    let config = node.path().join("etc");
    Shell::default().run(&["init", text(&config), "--ip", "127.0.0.1"]).ok();
    let (credentials, state) = (node.path().join("credentials"), node.path().join("state"));
    fs::create_dir(&credentials).unwrap();
    fs::create_dir(&state).unwrap();
    let unit = fs::read_to_string(project().join("packaging/kms.service")).unwrap();
    let values = |key: &str| -> Vec<String> {
        unit.lines().filter_map(|line| line.strip_prefix(&format!("{key}="))).map(str::to_owned).collect()
    };
    let shell = Shell::default().set("KMS_ADDRESS", "127.0.0.1:0");
    let mut shell = shell.set("CREDENTIALS_DIRECTORY", credentials.display());
    for credential in values("LoadCredential") {
        let (name, path) = credential.split_once(":/etc/kms/").unwrap();
        fs::rename(config.join(path), credentials.join(name)).unwrap();
    }
    for variable in values("Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        let value = value.replace("%d", text(&credentials)).replace("/var/lib/kms", text(&state));
        shell = shell.set(name, value);
    }
    let command = |key: &str| -> Vec<String> {
        let line = values(key).remove(0).replace("/etc/kms", text(&config));
        line.split(' ').skip(1).map(str::to_owned).collect()
    };
    let check = command("ExecStartPre");
    shell.run(&check.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    let serve = command("ExecStart");
    assert_eq!(serve[0], "server");
    let server = shell.serve(&serve[1..].iter().map(String::as_str).collect::<Vec<_>>());
    assert!(state.join("sled").is_dir(), "{}", server.stderr());
    assert!(server.stop().success());
    assert_eq!(values("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
}
