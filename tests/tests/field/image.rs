//! What operators install: the layout of an image and the unit of systemd.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kms_tests::shell::{Shell, kms, text};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A root directory with the layout of the image and the shell and libraries of this machine.
struct Image {
    root: tempfile::TempDir,
}

impl Image {
    fn unpack() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let install = project().join("packaging/install");
        assert!(Command::new(install).arg(root.path()).arg(kms()).status().unwrap().success());
        for program in ["/bin/sh", text(kms())] {
            let listed = Command::new("ldd").arg(program).output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
                copy_into(root.path(), library);
            }
        }
        copy_into(root.path(), "/bin/sh");
        fs::create_dir(root.path().join("tmp")).unwrap();
        fs::set_permissions(root.path().join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        Self { root }
    }

    /// Writes a file that the user of the image may read.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.root.path().join(name);
        fs::write(&path, content).unwrap();
        chown(&path, Some(1000), Some(1000)).unwrap();
    }

    /// Returns a command that runs a line of the shell in the image as its user.
    fn run(&self, line: &str) -> Command {
        let mut command = Command::new("chroot");
        command.args(["--userspec=1000:1000", text(self.root.path()), "sh", "-c", line]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin").stdin(Stdio::null());
        command
    }
}

fn copy_into(root: &Path, file: &str) {
    let target = root.join(file.trim_start_matches('/'));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(file, target).unwrap();
}

/// A process that is killed with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until_it_works(client: &Shell, arguments: &[&str]) {
    let began = Instant::now();
    loop {
        let done = client.run(arguments);
        if done.status.success() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{done:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_image_serves_as_the_suites_start_it() {
    let image = Image::unpack();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| files.path().join(name);
    for name in ["server", "client"] {
        let (key, cert) = (file(&format!("{name}.key")), file(&format!("{name}.crt")));
        Shell::default()
            .run(&["identity", "new", "--key", text(&key), "--cert", text(&cert), "--ip", "127.0.0.1", name])
            .ok();
    }
    image.put("private.key", fs::read(file("server.key")).unwrap());
    image.put("public.crt", fs::read(file("server.crt")).unwrap());
    image.put("client.crt", fs::read(file("client.crt")).unwrap());
    let port = free_port();
    let line = format!(
        "exec /kes server --addr 127.0.0.1:{port} --key=/private.key --cert=/public.crt \
         --root=$(/kes tool identity of /client.crt) --auth=off"
    );
    let _server = Running(image.run(&line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let client = Shell::default()
        .set("KES_SERVER", format!("https://127.0.0.1:{port}"))
        .set("KES_CLIENT_KEY", file("client.key").display())
        .set("KES_CLIENT_CERT", file("client.crt").display());
    until_it_works(&client, &["status", "-k"]);
    client.run(&["key", "create", "-k", "my-key"]).ok();

    let version = image.run("kes --version && kms --version").output().unwrap();
    assert!(
        version.status.success() && version.stdout.split(|byte| *byte == b'\n').count() == 3,
        "{version:?}"
    );
}

#[test]
fn the_image_takes_a_relative_config_in_its_working_directory() {
    let image = Image::unpack();
    let files = tempfile::tempdir().unwrap();
    let (key, cert) = (files.path().join("kes.key"), files.path().join("kes.crt"));
    Shell::default()
        .run(&["identity", "new", "--key", text(&key), "--cert", text(&cert), "--ip", "127.0.0.1", "kes"])
        .ok();
    let port = free_port();
    image.put("kes.key", fs::read(&key).unwrap());
    image.put("kes.crt", fs::read(&cert).unwrap());
    image.put(
        "config.yml",
        format!(
            "address: 127.0.0.1:{port}\nadmin:\n  identity: disabled\ntls:\n  key: kes.key\n  cert: kes.crt\n\
             api:\n  /v1/ready:\n    skip_auth: true\nkeystore:\n  fs:\n    path: /tmp/keys\n"
        ),
    );
    let mut server =
        Running(image.run("exec /kes server --config config.yml").stderr(Stdio::piped()).spawn().unwrap());
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(server.0.try_wait().unwrap().is_none(), "it ended");
        assert!(began.elapsed() < Duration::from_secs(30), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(image.root.path().join("tmp/keys/.kms").is_dir());
}

#[test]
fn the_containerfile_has_what_entrypoints_rely_on() {
    let text = fs::read_to_string(project().join("Containerfile")).unwrap();
    let last = text.rsplit("\nFROM ").next().unwrap();
    for line in ["WORKDIR /", "USER 1000", "EXPOSE 7373", "ENTRYPOINT [\"/kes\"]"] {
        assert!(last.lines().any(|found| found == line), "{line}");
    }
    assert!(last.contains("/tmp/install / /tmp/kms"), "the layout is that of packaging/install");
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
