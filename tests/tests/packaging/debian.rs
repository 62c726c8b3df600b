//! An empty Debian in a root directory and in namespaces of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kms_tests::programs::program;
use kms_tests::shell::{Done, text};
use tempfile::TempDir;

use super::made::done;

/// The first process of the namespaces: it collects the processes whose parents have ended.
const FIRST: &str = r#"mount -t proc proc "$1/proc" && ip link set lo up && : >"$1/run/ready"
while :; do sleep 3600 & wait; done"#;

/// The root directory. What runs in it ends with it.
pub struct Debian {
    root: TempDir,
    first: Child,
}

impl Debian {
    /// Unpacks an empty Debian. A stand-in takes the place of systemd, which needs a machine of its own.
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        done(Command::new("tar").arg("-xf").arg(program("chroot")).arg("-C").arg(root.path())).ok();
        let first = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", FIRST, "sh"])
            .arg(root.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let debian = Self { root, first };
        debian.until("the namespaces are there", || debian.path("/run/ready").exists());
        debian.put("/etc/hosts", "127.0.0.1 localhost\n", 0o644);
        debian.put("/usr/bin/systemctl", include_bytes!("systemctl"), 0o755);
        fs::create_dir_all(debian.path("/run/systemd/system")).unwrap();
        debian
    }

    /// Returns a path as it is outside of the root directory.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside.trim_start_matches('/'))
    }

    /// Writes a file.
    pub fn put(&self, inside: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Copies a program or a package into the root directory.
    pub fn copy(&self, outside: &Path, inside: &str) {
        fs::copy(outside, self.path(inside)).unwrap();
    }

    /// Runs a line of the shell as root.
    pub fn run(&self, line: &str) -> Done {
        let namespaces = format!("/proc/{}/ns", self.first.id());
        let mut command = Command::new("nsenter");
        command
            .args([
                format!("--mount={namespaces}/mnt"),
                format!("--net={namespaces}/net"),
                format!("--pid={namespaces}/pid_for_children"),
            ])
            .args(["chroot", text(self.root.path()), "/bin/sh", "-c", line])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir("/")
            .stdin(Stdio::null());
        done(&mut command)
    }

    /// Runs a line until it succeeds, for at most 30 seconds.
    pub fn retry(&self, line: &str) -> Done {
        self.until(line, || self.run(line).status.success());
        self.run(line)
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            let log = fs::read_to_string(self.path("/var/log/kms.log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(30), "waited in vain: {what}\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}
