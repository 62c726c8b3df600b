//! docs/install.md, "The image": the commands of the page, word for word, with runc in the place of the engine.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use kms_tests::shell::text;

use super::container::{Container, Run};
use super::made::{commands, done};
use super::oci::Image;

/// Starts what a line of `podman run` says. Directories in `/srv` of the page are in `srv`.
fn podman(line: &str, srv: &Path) -> Container {
    let mut words = line.strip_prefix("podman run ").unwrap().split(' ');
    let mut run = Run { read_only: true, ..Run::default() };
    loop {
        match words.next().unwrap() {
            "--rm" | "-d" => {}
            "--name" | "-p" | "--cap-add" => drop(words.next()),
            "--user" => run.user = words.next().map(|user| user.parse().unwrap()),
            "--entrypoint" => run.entrypoint = words.next(),
            "-v" => {
                let (outside, inside) = words.next().unwrap().split_once(':').unwrap();
                let outside = srv.join(outside.strip_prefix("/srv/").unwrap());
                match inside.strip_suffix(":ro") {
                    Some(inside) => run.mounts.push((outside, inside)),
                    None => run.volumes.push((outside, inside)),
                }
            }
            "kms" => break,
            other => panic!("{other} is not known here: {line}"),
        }
    }
    let arguments: Vec<&str> = words.collect();
    Container::start(Image::get(), &Run { arguments: &arguments, ..run })
}

#[test]
fn the_page_leads_from_nothing_to_a_container_with_keys() {
    let srv = tempfile::tempdir().unwrap();
    let commands = commands("## The image");
    let (server, before) = commands.split_last().unwrap();
    let mut told = String::new();
    for line in before {
        let ran = if line.starts_with("podman ") {
            podman(line, srv.path()).ended()
        } else {
            let line = line.replace("/srv/", &format!("{}/", text(srv.path())));
            done(Command::new("sh").args(["-c", &line]))
        };
        told += &ran.ok();
    }
    let secret = |name: &str| {
        let found = srv.path().join("kms-config").join(name).metadata().unwrap();
        (found.mode() & 0o777, found.uid())
    };
    for (name, uid) in [("root.key", 1000), ("server.key", 1000), ("minio.env", 0)] {
        assert_eq!(secret(name), (0o600, uid), "{name}");
    }
    let config = fs::read_to_string(srv.path().join("kms-config/config.toml")).unwrap();
    assert!(!config.contains(text(srv.path())), "it has the paths of the container: {config}");

    let api_key = told.lines().find_map(|line| line.trim().strip_prefix("export KES_API_KEY=")).unwrap();
    let admin = format!("KES_API_KEY={api_key}");
    let client = ["KES_SERVER=https://127.0.0.1:7373", "KES_CA_CERT=/etc/kms/server.crt", &admin];
    let mut container = podman(server, srv.path());
    container.exec(&client, &["kms", "key", "create", "my-key"]);
    drop(container);
    // The next container has the key, too.
    let mut container = podman(server, srv.path());
    let keys = container.exec(&client, &["kms", "key", "ls"]);
    assert!(keys.stdout.contains("my-key"), "{keys:?}");
}
