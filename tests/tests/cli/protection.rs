//! The protection of keys in the memory of a server that runs as root or as a user without capabilities, and of commands
//! that read keys.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};

use kms_tests::process::kms_binary;
use rustix::process::{Pid, Signal, kill_process};

struct Server {
    child: Child,
    banner: String,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(before: &[&str]) -> Self {
        // Everybody may run this copy. The tree itself may be in a private directory.
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = directory.path().join("kms");
        fs::copy(kms_binary(), &program).unwrap();
        let mut words = before.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .args(["server", "--dev", "--in-memory", "--addr", "127.0.0.1:0"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut banner = String::new();
        for line in lines {
            writeln!(banner, "{line}").unwrap();
            if line.contains("up and running") {
                break;
            }
        }
        Self { child, banner, _directory: directory }
    }

    /// Starts the server as a user without capabilities who may lock this many bytes.
    fn start_without_capabilities(memlock: &str) -> Self {
        Self::start(&[
            "prlimit",
            &format!("--memlock={memlock}:{memlock}"),
            "setpriv",
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ])
    }

    /// Runs `kms` with these arguments as the admin.
    fn admin(&self, arguments: &[&str]) -> String {
        let exports =
            self.banner.lines().filter_map(|line| line.strip_prefix("export KES_")?.split_once('='));
        let variables = exports.map(|(name, value)| (format!("KES_{name}"), value));
        let done = Command::new(kms_binary()).args(arguments).envs(variables).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    fn locked_kib(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    }

    fn assert_hidden(&self) {
        assert_not_dumpable(self.child.id());
        assert!(
            self.banner.contains("kept out of core dumps, hidden from other processes"),
            "{}",
            self.banner
        );
    }

    /// Stops the server as an operator does and returns its log.
    fn end(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        self.child.wait().unwrap();
        log
    }
}

#[test]
fn a_server_that_may_lock_its_memory_does_and_says_so() {
    let server = Server::start(&["env"]);
    server.assert_hidden();
    let is_locked = server.locked_kib() > 1024;
    assert_eq!(is_locked, may_lock_memory(), "{} KiB are locked", server.locked_kib());
    assert_eq!(is_locked, server.banner.contains("Memory      locked in memory"), "{}", server.banner);
    server.end();
}

#[test]
fn a_user_without_capabilities_has_its_master_keys_locked() {
    let server = Server::start_without_capabilities("16384");
    server.assert_hidden();
    assert_eq!(server.locked_kib(), 4, "the page that was tried");
    let told = "locked in memory as far as they are master keys and 16 KiB go";
    assert!(server.banner.contains(told), "{}", server.banner);
    server.admin(&["key", "create", "first"]);
    assert!(server.locked_kib() > 4, "{} KiB", server.locked_kib());
    let status = server.admin(&["status"]);
    assert!(status.contains("locked in memory as far as they are master keys"), "{status}");
    // Beyond the limit the server goes on and reports that once.
    for number in 0..100 {
        server.admin(&["key", "create", &format!("key-{number}")]);
    }
    assert!((8..=16).contains(&server.locked_kib()), "{} KiB", server.locked_kib());
    let log = server.end();
    assert!(log.contains("keys are not all locked in memory: it needs CAP_IPC_LOCK"), "{log}");
    assert_eq!(log.matches("no more memory can be locked").count(), 1, "{log}");
}

#[test]
fn a_user_who_may_lock_nothing_is_told_so() {
    let server = Server::start_without_capabilities("0");
    server.assert_hidden();
    assert_eq!(server.locked_kib(), 0);
    assert!(!server.banner.contains("locked in memory"), "{}", server.banner);
    let log = server.end();
    assert!(log.contains("keys are not locked in memory: it needs CAP_IPC_LOCK"), "{log}");
}

/// The command waits for a word before it opens any key store.
#[test]
fn a_command_that_reads_keys_leaves_none_in_a_core_dump() {
    let directory = tempfile::tempdir().unwrap();
    let config = |port: u16| {
        let file = directory.path().join(format!("{port}.toml"));
        let vault = format!(
            "[keystore.vault]\nendpoint = \"http://127.0.0.1:{port}\"\n[keystore.vault.token]\nvalue = \"none\"\n"
        );
        fs::write(&file, vault).unwrap();
        file
    };
    let mut child = Command::new(kms_binary())
        .args(["migrate", "--force", "--from"])
        .arg(config(1))
        .arg("--to")
        .arg(config(2))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.contains("Type yes")), "it did not ask");
    assert_not_dumpable(child.id());
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
}

fn assert_not_dumpable(process: u32) {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
    let core: Vec<_> = core.split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{core:?}");
    // As root the owner is root in any case; the limit above differs.
    assert_eq!(fs::metadata(format!("/proc/{process}/environ")).unwrap().uid(), 0, "it is not dumpable");
}

/// Returns whether a process of this user has CAP_IPC_LOCK. With it, no limit has to change.
fn may_lock_memory() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(capabilities.trim(), 16).unwrap() & (1 << 14) != 0
}
