//! A pod in namespaces: a container with a read-only root directory, volumes as a kubelet lays them out, and no privileges.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kms_tests::shell::{Serving, kms, text};
use tempfile::TempDir;

/// The user and group of containers, and the group of their volumes.
pub const USER: u32 = 1000;

/// A container that was not started yet.
pub struct Pod {
    root: TempDir,
    args: Vec<String>,
    env: Vec<(String, String)>,
    mounts: Vec<(PathBuf, String)>,
    volumes: Vec<TempDir>,
}

impl Pod {
    /// Creates a container with the program as `/kes`, where an image has it.
    pub fn new(args: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "mounts are made by root, as in a container");
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let listed = Command::new("ldd").arg(kms()).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        // The image has the system's CAs, too.
        for file in libraries.chain(["/etc/ssl/certs/ca-certificates.crt".into()]) {
            let target = inside(root.path(), text(&file));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&file, target).unwrap();
        }
        fs::copy(kms(), root.path().join("kes")).unwrap();
        for directory in ["proc", "dev", "tmp"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { root, args, env: Vec::new(), mounts: Vec::new(), volumes: Vec::new() }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Mounts files read-only, as a kubelet does it with secrets. Returns the volume, for [`renew`].
    pub fn secret(&mut self, at: &str, files: &[(&str, Vec<u8>)], mode: u32) -> PathBuf {
        let volume = tempfile::tempdir().unwrap();
        fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = volume.path().to_owned();
        renew(&path, files, mode);
        for (name, _) in files {
            symlink(format!("..data/{name}"), path.join(name)).unwrap();
        }
        self.volumes.push(volume);
        self.mount(&path, at, true);
        path
    }

    /// Mounts a directory that the container may write, as a kubelet does it with a persistent volume.
    pub fn persistent(&mut self, at: &str, volume: &Path) {
        chown(volume, Some(0), Some(USER)).unwrap();
        fs::set_permissions(volume, fs::Permissions::from_mode(0o2775)).unwrap();
        self.mount(volume, at, false);
    }

    fn mount(&mut self, volume: &Path, at: &str, read_only: bool) {
        fs::create_dir_all(inside(self.root.path(), at)).unwrap();
        let options = if read_only { "ro" } else { "rw" };
        self.mounts.push((volume.to_owned(), format!("{options} {at}")));
    }

    /// Starts the container and waits until the server is up.
    pub fn serve(&self) -> Serving {
        Serving::of(self.command())
    }

    /// Runs the container to its end.
    pub fn run(&self) -> Output {
        self.command().stdin(Stdio::null()).output().unwrap()
    }

    fn command(&self) -> Command {
        let root = text(self.root.path());
        let mut script = format!("set -e\nmount --bind {root} {root}\n");
        for (volume, mount) in &self.mounts {
            let (options, at) = mount.split_once(' ').unwrap();
            let at = inside(self.root.path(), at);
            writeln!(script, "mount --bind {} {}", volume.display(), at.display()).unwrap();
            writeln!(script, "mount -o remount,bind,{options} {}", at.display()).unwrap();
        }
        for of_kernel in ["proc", "dev"] {
            writeln!(script, "mount --rbind /{of_kernel} {root}/{of_kernel}").unwrap();
        }
        writeln!(script, "mount -o remount,bind,ro {root}").unwrap();
        let user = format!("--userspec={USER}:{USER} --groups={USER}");
        writeln!(script, "exec setpriv --no-new-privs chroot {user} {root} /kes \"$@\"").unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script, "kes"]).args(&self.args);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").envs(self.env.clone());
        command.current_dir("/");
        command
    }
}

/// Replaces all files of a volume at once, as a kubelet does it: `..data` leads to the directory of the present ones.
pub fn renew(volume: &Path, files: &[(&str, Vec<u8>)], mode: u32) {
    let present = tempfile::Builder::new().prefix("..2026_").tempdir_in(volume).unwrap().keep();
    fs::set_permissions(&present, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, content) in files {
        let file = present.join(name);
        fs::write(&file, content).unwrap();
        chown(&file, Some(0), Some(USER)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let link = volume.join("..data_tmp");
    symlink(present.file_name().unwrap(), &link).unwrap();
    fs::rename(link, volume.join("..data")).unwrap();
}

fn inside(root: &Path, at: &str) -> PathBuf {
    root.join(at.trim_start_matches('/'))
}
