//! The image: what is in it, that it is the same each time, and that it serves as suites and deployments start it.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;

use kms_tests::programs::program;
use kms_tests::shell::{Shell, field, text};

use super::container::{Container, Files, Run};
use super::made::{done, project};
use super::oci::Image;

#[test]
fn two_builds_of_the_image_have_one_digest() {
    let (first, second) = (Image::get(), Image::build());
    let digest = |image: &Image| {
        image.told().split_whitespace().find(|word| word.starts_with("sha256:")).map(str::to_owned)
    };
    assert!(digest(first).is_some_and(|digest| digest.len() > 64), "{}", first.told());
    assert_eq!(digest(first), digest(&second));
    assert_eq!(first.files(), second.files());
}

#[test]
fn the_image_says_what_it_is_and_has_what_that_of_kes_had() {
    let image = Image::get();
    let manifest = image.manifest();
    let config = image.blob(&manifest["config"]);
    let run = &config["config"];
    assert_eq!(run["Entrypoint"], serde_json::json!(["/kes"]));
    assert_eq!((run["WorkingDir"].as_str(), run["User"].as_str()), (Some("/"), Some("1000")));
    assert_eq!(run["ExposedPorts"], serde_json::json!({ "7373/tcp": {} }));
    let label =
        |name: &str| run["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap().to_owned();
    assert_eq!(label("title"), "kms");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("revision"), "0123456789abcdef");
    assert_eq!(label("licenses"), "Apache-2.0 OR MIT");
    assert_eq!(label("source"), env!("CARGO_PKG_REPOSITORY"));
    assert_eq!(label("created"), "2023-11-14T22:13:20Z");

    let script = "set -e; test $(id -u) = 1000; test $(pwd) = /; test -n \"$BASH_VERSION\"; touch /tmp/writable
        for tool in kes kms /kes ./kes bash sh cat date env id ls mkdir nproc sha256sum sleep stat tr; do command -v $tool; done
        for tool in sed grep jq apt-get; do ! command -v $tool; done
        test $(readlink -f /bin/sh) = $(readlink -f /bin/bash)
        cat /etc/ssl/certs/ca-certificates.crt | tr -cd B | head -c 100 | wc -c
        ls /var/lib/dpkg/status.d; sha256sum /usr/share/doc/*/copyright >/tmp/texts; test $(wc -l </tmp/texts) -ge 9
        kes --version; kms --version; kes identity new --key /tmp/k --cert /tmp/c localhost";
    let ran = Container::start(
        image,
        &Run { entrypoint: Some("/bin/bash"), arguments: &["-c", script], ..Run::default() },
    );
    let ran = ran.ended();
    assert!(ran.status.success(), "{ran:?}");
    for line in ["100", "libc6", "coreutils", "ca-certificates"] {
        assert!(ran.stdout.lines().any(|found| found == line), "{line}: {}", ran.stdout);
    }
}

#[test]
fn the_image_serves_the_suites_that_name_root_key_and_cert() {
    // Grafana's e2e, and Cortex's, which adds --quiet and waits for nothing.
    for more in ["", " --quiet"] {
        let files = Files::new();
        let line = format!(
            "/kes server --addr 0.0.0.0:7373 --key=/shared/server.key --cert=/shared/server.crt \
             --root=$(/kes tool identity of /shared/client.crt) --auth=off{more}"
        );
        let mut container = Container::start(
            Image::get(),
            &Run {
                entrypoint: Some("sh"),
                arguments: &["-c", &line],
                mounts: vec![(files.path(""), "/shared")],
                ..Run::default()
            },
        );
        let client = [
            "KES_SERVER=https://127.0.0.1:7373",
            "KES_CLIENT_KEY=/shared/client.key",
            "KES_CLIENT_CERT=/shared/client.crt",
        ];
        container.exec(&client, &["kms", "status", "-k"]);
        container.exec(&client, &["/kes", "key", "create", "-k", "my-key"]);
        assert_eq!(container.output("stdout").is_empty(), !more.is_empty(), "{more}");
    }
}

#[test]
fn the_image_serves_operators_and_compose_files() {
    let identity = |files: &Files| {
        Shell::default().run(&["identity", "of", text(&files.path("client.crt"))]).ok().trim().to_owned()
    };
    let config = |key: &str, admin: &str| {
        format!(
            "address: 0.0.0.0:7373\nadmin:\n  identity: {admin}\ntls:\n  key: {key}.key\n  cert: {key}.crt\n\
             keystore:\n  fs:\n    path: /tmp/keys\n"
        )
    };
    for (arguments, inside, key) in [
        // MinIO's operator: its own directory, and the admin's identity from the environment.
        (
            &["server", "--config=/tmp/kes/server-config.yaml", "--auth=off"] as &[&str],
            "/tmp/kes",
            "/tmp/kes/server",
        ),
        // Trino: a path in the working directory.
        (&["server", "--config", "config.yml"], "/", "server"),
        // Compose files: a value as a word of its own.
        (&["server", "--config", "/config.yml", "--auth", "off"], "/", "/server"),
    ] {
        let files = Files::new();
        let identity = identity(&files);
        let variable = format!("MINIO_KES_IDENTITY={identity}");
        let is_operator = inside != "/";
        let mounts = if is_operator {
            files.put("server-config.yaml", &config(key, "${MINIO_KES_IDENTITY}"));
            vec![(files.path(""), "/tmp/kes")]
        } else {
            vec![
                (files.put("config.yml", &config(key, &identity)), "/config.yml"),
                (files.path("server.key"), "/server.key"),
                (files.path("server.crt"), "/server.crt"),
                (files.path(""), "/shared"),
            ]
        };
        let mut container = Container::start(
            Image::get(),
            &Run { arguments, variables: &[variable], mounts, read_only: is_operator, ..Run::default() },
        );
        let shared = if is_operator { "/tmp/kes" } else { "/shared" };
        let client = [
            "KES_SERVER=https://127.0.0.1:7373",
            &format!("KES_CLIENT_KEY={shared}/client.key"),
            &format!("KES_CLIENT_CERT={shared}/client.crt"),
        ];
        container.exec(&client, &["kms", "key", "ls", "-k"]);
        container.exec(&client, &["kes", "key", "create", "-k", "my-key"]);
    }
}

#[test]
fn the_image_makes_a_node_on_two_volumes_and_serves_it() {
    let machine = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let volume = |name: &str| {
            let path = machine.path().join(name);
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(1000), Some(1000)).unwrap();
            path
        };
        let volumes = vec![(volume("config"), "/etc/kms"), (volume("store"), "/var/lib/kms")];
        let run = Run { arguments, volumes, read_only: true, ..Run::default() };
        Container::start(Image::get(), &run)
    };
    let init = ["init", "/etc/kms", "--data", "/var/lib/kms", "--ip", "127.0.0.1", "--json"];
    let made = run(&init).ended().ok();
    assert!(machine.path().join("store/journal").exists(), "{made}");
    assert!(!machine.path().join("config/data").exists(), "{made}");
    let mut container = run(&["server", "--config", "/etc/kms/config.toml"]);
    let key = format!("KES_API_KEY={}", field(&made, "api_key"));
    let client = ["KES_SERVER=https://127.0.0.1:7373", "KES_CA_CERT=/etc/kms/server.crt", &key];
    container.exec(&client, &["kms", "key", "create", "my-key"]);
}

#[test]
fn the_image_runs_entrypoints_of_bash() {
    let line = "./kes identity new --ip 127.0.0.1 localhost --dns kes --key=/tmp/kes.key --cert=/tmp/kes.crt --expiry 87660h
        id=$(./kes identity of /tmp/kes.crt)
        printf '%s\\n' 'address: 0.0.0.0:7373' 'admin:' \"  identity: $id\" 'tls:' '  key: /tmp/kes.key' \\
            '  cert: /tmp/kes.crt' 'keystore:' '  fs:' '    path: /tmp/keys' >/tmp/server-config.yaml
        exec /kes server --config /tmp/server-config.yaml";
    let mut container = Container::start(
        Image::get(),
        &Run { entrypoint: Some("/bin/bash"), arguments: &["-e", "-c", line], ..Run::default() },
    );
    let client =
        ["KES_SERVER=https://127.0.0.1:7373", "KES_CLIENT_KEY=/tmp/kes.key", "KES_CLIENT_CERT=/tmp/kes.crt"];
    container.exec(&client, &["./kes", "status", "-k"]);
}

#[test]
fn the_containerfile_makes_an_image_of_the_same_form() {
    let text = fs::read_to_string(project().join("Containerfile")).unwrap();
    let last = text.rsplit("\nFROM ").next().unwrap();
    for line in ["WORKDIR /", "USER 1000", "EXPOSE 7373", "ENTRYPOINT [\"/kes\"]"] {
        assert!(last.lines().any(|found| found == line), "{line}");
    }
    assert!(last.contains("/tmp/install / /tmp/kms"), "the layout is that of packaging/install");
    let image = Image::get();
    let manifest = image.manifest();
    let labels = image.blob(&manifest["config"])["config"]["Labels"].clone();
    for label in labels.as_object().unwrap().keys().filter(|name| !name.ends_with(".created")) {
        assert!(last.contains(label.as_str()), "{label}");
    }
    let checked = done(Command::new(program("umoci")).args(["stat", "--image"]).arg(format!(
        "{}:{}",
        image.path().display(),
        image.version()
    )));
    assert!(checked.stdout.contains("packaging/image"), "{checked:?}");
}
