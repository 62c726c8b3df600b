//! Containers with their key store in a volume. Each container has a layer that ends with it, and mounts in
//! that layer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kms_tests::TestIdentity;
use kms_tests::shell::{Serving, Shell, field, kms, text};
use tempfile::TempDir;

use super::directory::ask;

/// What survives a container: volumes, certificate and config.
struct Host {
    dir: TempDir,
    volume: TempDir,
    admin: TestIdentity,
    uid: u32,
}

impl Host {
    /// Creates a host with a volume below `volumes`, for containers that run as `uid`.
    ///
    /// `key_store` is the section of the config. `{layer}` and `{host}` in it stand for directories in the
    /// container.
    fn new(volumes: &Path, uid: u32, key_store: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "mounts are made by root, as in a container");
        let dir = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir_in(volumes).unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (key, cert) = (file("server.key"), file("server.crt"));
        let new = ["identity", "new", "--key", &key, "--cert", &cert, "--ip", "127.0.0.1", "localhost"];
        Shell::default().run(&new).ok();
        let admin = TestIdentity::new();
        let identity = admin.identity();
        let host = Self { dir, volume, admin, uid };
        fs::create_dir(host.path("etc")).unwrap();
        let key_store =
            key_store.replace("{layer}", text(&host.path("layer"))).replace("{etc}", text(&host.path("etc")));
        let (name, config) = if key_store.starts_with('[') {
            let head = format!(
                "address = \"127.0.0.1:0\"\n[admin]\nidentity = \"{identity}\"\n[tls]\nkey = \"{key}\"\ncert = \"{cert}\"\n"
            );
            ("config.toml", format!("{head}{key_store}"))
        } else {
            let head = format!(
                "version: v1\naddress: 127.0.0.1:0\nadmin: {{identity: {identity}}}\ntls: {{key: {key}, cert: {cert}}}\n"
            );
            ("config.yml", format!("{head}{key_store}"))
        };
        fs::write(host.path(name), config).unwrap();
        fs::copy(kms(), host.path("kms")).unwrap();
        for open in [".", "etc"] {
            fs::set_permissions(host.path(open), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(host.path("server.key"), fs::Permissions::from_mode(0o644)).unwrap();
        for owned in [host.volume.path(), &host.path("etc")] {
            std::os::unix::fs::chown(owned, Some(uid), Some(uid)).unwrap();
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        [self.path("config.toml"), self.path("config.yml")].into_iter().find(|path| path.exists()).unwrap()
    }

    /// Creates the layer of a new container with the directory `mount_point`.
    fn fresh_layer(&self, mount_point: &str) {
        let layer = self.path("layer");
        let _ = fs::remove_dir_all(&layer);
        fs::create_dir_all(layer.join(mount_point)).unwrap();
    }

    /// Returns the command of a container. With a `mount_point` the volume is mounted there.
    fn container(&self, mount_point: Option<&str>, flags: &[&str]) -> Command {
        self.container_with("", mount_point, flags)
    }

    /// Returns the same command with `mounted` before it. `{volume}` in it stands for the mount point of the
    /// volume.
    fn container_with(&self, mounted: &str, mount_point: Option<&str>, flags: &[&str]) -> Command {
        let mount = match mount_point {
            Some(at) => {
                let volume = format!("'{}'", self.path("layer").join(at).display());
                let mounted = mounted.replace("{volume}", &volume);
                format!("mount --bind '{}' {volume} && {mounted}", self.volume.path().display())
            }
            None => String::new(),
        };
        let script = format!(
            "{mount}exec setpriv --reuid {uid} --regid {uid} --clear-groups '{kms}' \"$@\"",
            uid = self.uid,
            kms = self.path("kms").display()
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script, "kms"]).args(flags);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").current_dir("/");
        command
    }

    fn serve(&self, mount_point: &str, flags: &[&str]) -> Serving {
        let config = self.config();
        let all = [&["server", "--config", text(&config)], flags].concat();
        Serving::of(self.container(Some(mount_point), &all))
    }

    fn run(&self, mount_point: Option<&str>, arguments: &[&str]) -> Output {
        self.container(mount_point, arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn ask(&self, server: &Serving, method: &str, path: &str, body: &str) -> (u16, String) {
        ask(&self.admin, server, method, path, body)
    }

    /// Creates a key in one container and uses it in the next. Returns the log of the second.
    fn key_outlives_a_container(&self, mount_point: &str, flags: &[&str]) -> String {
        self.fresh_layer(mount_point);
        let server = self.serve(mount_point, flags);
        assert_eq!(self.ask(&server, "PUT", "/v1/key/create/my-key", "").0, 200);
        let (status, dek) = self.ask(&server, "PUT", "/v1/key/generate/my-key", "");
        assert_eq!(status, 200, "{dek}");
        server.stop();
        self.fresh_layer(mount_point);
        let server = self.serve(mount_point, &[]);
        let sealed = format!("{{\"ciphertext\":\"{}\"}}", field(&dek, "ciphertext"));
        let (status, opened) = self.ask(&server, "PUT", "/v1/key/decrypt/my-key", &sealed);
        assert_eq!(status, 200, "{opened}");
        assert_eq!(field(&opened, "plaintext"), field(&dek, "plaintext"));
        server.stderr()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const KES: &str = "keystore: {fs: {path: '{layer}/data'}}\n";

/// A container engine has its volumes on the device of its layers or on another one.
#[test]
fn keys_in_a_volume_outlive_their_container() {
    for volumes in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        for uid in [0, 1000] {
            let host = Host::new(&volumes, uid, KES);
            let told = host.key_outlives_a_container("data", &[]);
            assert!(told.contains("lies with the keys that it encrypts"), "{volumes:?}, {uid}: {told}");
            assert!(told.contains("mv ") && told.contains("root_key_file"), "{volumes:?}, {uid}: {told}");
            assert!(host.volume.path().join(".root-key").exists(), "{volumes:?}, {uid}");
            let check = host.run(Some("data"), &["check", "--config", text(&host.config())]);
            assert!(check.status.success(), "{}", said(&check));
            assert!(said(&check).contains("lies with the keys that it encrypts"), "{}", said(&check));
        }
    }
}

#[test]
fn a_path_deep_in_a_volume_is_made_and_has_its_root_key_beside_it() {
    let host = Host::new(&std::env::temp_dir(), 1000, "keystore: {fs: {path: '{layer}/data/a/b/keys'}}\n");
    let told = host.key_outlives_a_container("data", &[]);
    assert!(!told.contains("lies with the keys"), "{told}");
    assert!(host.volume.path().join("a/b/keys.root-key").exists());
}

#[test]
fn a_root_key_in_the_layer_is_served_and_told_while_it_lasts() {
    let host = Host::new(&std::env::temp_dir(), 0, KES);
    host.fresh_layer("data");
    host.serve("data", &[]).stop();
    // An old release that did not look at mounts left the root key here.
    fs::rename(host.volume.path().join(".root-key"), host.path("layer/data.root-key")).unwrap();
    let server = host.serve("data", &[]);
    let told = server.stderr();
    assert!(told.contains("data.root-key lies on another file system than its store"), "{told}");
    assert_eq!(host.ask(&server, "PUT", "/v1/key/create/served", "").0, 200);
    let (status, ready) = host.ask(&server, "GET", "/v1/ready", "");
    assert!(status == 200 && ready.contains("data.root-key lies on another file system"), "{ready}");
    server.stop();
    // The root key is gone with its layer. The server does not create another one for existing keys.
    host.fresh_layer("data");
    let refused = host.run(Some("data"), &["server", "--config", text(&host.config())]);
    assert!(!refused.status.success() && said(&refused).contains("is missing"), "{}", said(&refused));
}

#[test]
fn a_volume_that_is_not_mounted_stops_the_start() {
    let own = "[keystore.fs]\npath = \"{layer}/data/store\"\nroot_key_file = \"{etc}/root.key\"\n";
    let host = Host::new(&std::env::temp_dir(), 1000, own);
    host.key_outlives_a_container("data", &["--create"]);
    host.fresh_layer("data");
    for arguments in [["server", "--config"], ["check", "--config"]] {
        let config = host.config();
        let refused = host.run(None, &[arguments[0], arguments[1], text(&config)]);
        let told = said(&refused);
        assert!(!refused.status.success() && told.contains("is the volume mounted?"), "{told}");
        assert!(told.contains("--create") && told.contains("create = true"), "{told}");
    }
    let made = fs::read_dir(host.path("layer/data")).unwrap().count();
    assert_eq!(made, 0, "nothing was made where the volume was not");
}

/// The kernel mounts a failing disk read-only.
#[test]
fn a_store_on_a_read_only_mount_is_salvaged() {
    let own = "[keystore.fs]\npath = \"{layer}/data/store\"\nroot_key_file = \"{etc}/root.key\"\n";
    let host = Host::new(&std::env::temp_dir(), 1000, own);
    host.key_outlives_a_container("data", &["--create"]);
    for damage in ["journal", "sled/db"] {
        let file = host.volume.path().join("store").join(damage);
        let content = fs::read(&file).unwrap();
        fs::write(&file, &content[..content.len() / 3]).unwrap();
        let config = host.config();
        let flags = ["server", "--config", text(&config), "--salvage"];
        let server =
            Serving::of(host.container_with("mount -o remount,bind,ro {volume} && ", Some("data"), &flags));
        let (status, answer) = host.ask(&server, "PUT", "/v1/key/generate/my-key", "");
        assert_eq!(status, 200, "{damage}: {answer}");
        let (status, answer) = host.ask(&server, "PUT", "/v1/key/create/other", "");
        assert_eq!(status, 502, "{damage}: {answer}");
        assert!(server.stderr().contains("1 of 1 entries can be read"), "{damage}: {}", server.stderr());
        server.stop();
        fs::write(&file, content).unwrap();
    }
}
