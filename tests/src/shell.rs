//! Runs the binary in an environment that a test chooses. Servers end with their test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the path of the binary. The first call builds it.
pub fn kms() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(crate::process::kms_binary)
}

/// The result of a command.
#[derive(Debug)]
pub struct Done {
    /// The exit status.
    pub status: ExitStatus,
    /// Everything that the command wrote to stdout.
    pub stdout: String,
    /// Everything that the command wrote to stderr.
    pub stderr: String,
}

impl Done {
    /// Expects success and returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// Expects exit code 1 and one line on stderr, and returns that line.
    #[track_caller]
    pub fn error(self) -> String {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("Error: "), "{self:?}");
        self.stderr.trim_end().to_owned()
    }
}

/// Runs commands with only those environment variables that a test sets.
#[derive(Default, Clone)]
pub struct Shell {
    variables: Vec<(String, String)>,
}

impl Shell {
    /// Sets an environment variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// Returns an environment variable that was set.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find_map(|(other, value)| (other == name).then_some(&**value))
    }

    /// Runs `kms` with arguments.
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, b"")
    }

    /// Runs `kms` with arguments and these bytes on stdin.
    pub fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Done {
        self.run_binary(kms(), arguments, stdin)
    }

    /// Runs a binary with arguments and these bytes on stdin.
    pub fn run_binary(&self, binary: &Path, arguments: &[&str], stdin: &[u8]) -> Done {
        let mut child = self
            .command(binary, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its stdin may have ended already.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        Done {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts `kms server` and waits until it reports that it is up.
    pub fn serve(&self, arguments: &[&str]) -> Serving {
        Serving::of(self.command(kms(), &[&["server"], arguments].concat()))
    }

    /// Starts `kms server` and waits until it reports that it is up.
    ///
    /// With a `user` the server runs as that user, from `binary`.
    pub fn serve_as(&self, user: Option<u32>, binary: &Path, arguments: &[&str]) -> Serving {
        let Some(user) = user.map(|user| user.to_string()) else { return self.serve(arguments) };
        let to_user = ["--reuid", &user, "--regid", &user, "--clear-groups", text(binary), "server"];
        Serving::of(self.command(Path::new("/usr/bin/setpriv"), &[&to_user, arguments].concat()))
    }

    fn command(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command.args(arguments).env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A running server. It is killed when it is dropped.
pub struct Serving {
    process: Child,
    log: TempDir,
}

impl Serving {
    /// Starts a server by this command and waits until it reports that it is up.
    pub fn of(mut command: Command) -> Self {
        let log = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(log.path().join(name)).unwrap();
        let process =
            command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        let mut serving = Self { process, log };
        let start = Instant::now();
        while !serving.stdout().contains("Server is up and running") {
            let ended = serving.process.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {}", serving.stderr());
            assert!(start.elapsed() < PATIENCE, "the server does not start: {}", serving.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
        serving
    }

    /// Returns everything that the server has written to stdout.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.log.path().join("stdout")).unwrap()
    }

    /// Returns everything that the server has written to stderr, as soon as that has not grown for a moment.
    pub fn stderr(&self) -> String {
        crate::process::settled(&self.log.path().join("stderr"))
    }

    /// Returns the id of the process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns a shell with the variables that the banner exports.
    pub fn exports(&self) -> Shell {
        let stdout = self.stdout();
        let exports = stdout.lines().filter_map(|line| line.strip_prefix("export "));
        exports.fold(Shell::default(), |shell, export| {
            let (name, value) = export.split_once('=').unwrap();
            shell.set(name, value)
        })
    }

    /// Returns one value that the banner exports.
    pub fn export(&self, name: &str) -> String {
        let prefix = format!("export {name}=");
        self.stdout().lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
    }

    /// Sends SIGTERM and waits until the server has ended.
    pub fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.process.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not stop: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a string member of a JSON object.
pub fn field(json: &str, name: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned()
}

/// Returns a path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
