//! Signals before a server is up, and output that nobody reads.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kms_tests::shell::{Shell, field, kms, text};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that is about to start.
struct Starting {
    child: Child,
    dir: TempDir,
}

impl Starting {
    /// Runs a command with these arguments in a directory with a certificate and `kms.toml`.
    fn by(command: &[&str], arguments: &[&str], stdout: Stdio, spoil: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (key, cert) = (at("server.key"), at("server.crt"));
        let new = ["identity", "new", "--key", &key, "--cert", &cert, "--ip", "127.0.0.1", "localhost"];
        Shell::default().run(&new).ok();
        let admin = field(&Shell::default().run(&["identity", "new", "--json"]).ok(), "identity");
        let config = format!(
            "address = \"127.0.0.1:0\"\nadmin.identity = \"{admin}\"\n[tls]\nkey = \"{key}\"\n\
             cert = \"{cert}\"\n[keystore.memory]\n"
        );
        fs::write(dir.path().join("kms.toml"), config).unwrap();
        spoil(dir.path());
        let all: Vec<_> = command.iter().chain(arguments).collect();
        let (program, arguments) = all.split_first().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .current_dir(dir.path())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// Starts a server whose config is a pipe, so that it waits for its configuration.
    fn waiting(command: &[&str]) -> Self {
        Self::by(command, &["server", "--config", "kms.toml"], Stdio::null(), |dir| {
            fs::rename(dir.join("kms.toml"), dir.join("good.toml")).unwrap();
            mknodat(CWD, dir.join("kms.toml"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until the server reads its configuration, and returns the other end of the pipe.
    fn reads_config(&self) -> File {
        let pipe = self.path("kms.toml");
        let (sender, opened) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(OpenOptions::new().write(true).open(pipe)));
        opened.recv_timeout(PATIENCE).expect("it does not read its config").unwrap()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "not {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn until_told(&self, words: &str) {
        self.until(words, || self.log().contains(words));
    }

    fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stop_is_heard_before_the_server_is_up() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Starting::waiting(&[text(kms())]);
        let _config = server.reads_config();
        kill_process(server.pid(), signal).unwrap();
        assert_eq!(server.ended().code(), Some(0), "{}", server.log());
        assert!(server.log().contains("server stops before it is up"), "{}", server.log());
    }
}

/// The first process of a container gets only the signals that it handles.
#[test]
fn a_stop_is_heard_by_the_first_process_before_the_server_is_up() {
    // Without root, a PID namespace needs a user namespace.
    let of_users: &[&str] =
        if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let command = [&["unshare"], of_users, &["--pid", "--fork", "--kill-child", text(kms())]].concat();
    let mut unshare = Starting::waiting(&command);
    let _config = unshare.reads_config();
    let children = format!("/proc/{0}/task/{0}/children", unshare.child.id());
    let first: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(first).unwrap(), Signal::TERM).unwrap();
    assert_eq!(unshare.ended().code(), Some(0), "{}", unshare.log());
}

#[test]
fn a_reload_that_is_asked_for_before_the_server_is_up_follows_its_start() {
    let mut server = Starting::waiting(&[text(kms())]);
    let mut config = server.reads_config();
    kill_process(server.pid(), Signal::HUP).unwrap();
    let good = fs::read(server.path("good.toml")).unwrap();
    fs::rename(server.path("good.toml"), server.path("kms.toml")).unwrap();
    config.write_all(&good).unwrap();
    drop(config);
    server.until_told("the configuration was loaded again");
    assert!(server.log().contains("server is up"), "{}", server.log());
    kill_process(server.pid(), Signal::TERM).unwrap();
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_stop_is_heard_while_the_key_store_is_opened_and_the_next_start_completes_it() {
    let state = tempfile::tempdir().unwrap();
    let data = state.path().join("data");
    fs::create_dir(&data).unwrap();
    let turn = File::open(&data).unwrap();
    flock(&turn, FlockOperation::LockExclusive).unwrap();
    let arguments = ["server", "--dev", "--addr", "127.0.0.1:0", "--dir", text(state.path())];
    let start = || Starting::by(&[text(kms())], &arguments, Stdio::null(), |_| {});
    let mut server = start();
    server.until("made its certificate", || state.path().join("public.crt").exists());
    std::thread::sleep(Duration::from_millis(300));
    kill_process(server.pid(), Signal::TERM).unwrap();
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
    drop(turn);
    let mut server = start();
    server.until_told("server is up");
    kill_process(server.pid(), Signal::TERM).unwrap();
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
}

#[test]
fn a_server_whose_stdout_takes_nothing_is_up_all_the_same() {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let state = tempfile::tempdir().unwrap();
    let dev = ["server", "--dev", "--addr", "127.0.0.1:0", "--dir", text(state.path())];
    for arguments in [["server", "--config", "kms.toml"].as_slice(), &dev] {
        for stdout in [full(), closed()] {
            let mut server = Starting::by(&[text(kms())], arguments, stdout, |_| {});
            server.until_told("server is up");
            server.until_told("stdout cannot be written");
            std::thread::sleep(Duration::from_millis(200));
            assert!(server.child.try_wait().unwrap().is_none(), "it ended: {}", server.log());
            kill_process(server.pid(), Signal::TERM).unwrap();
            assert_eq!(server.ended().code(), Some(0), "{}", server.log());
        }
    }
}
