//! The process that writes to the store.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use kms_fs::RootKey;

/// How many lines may precede the expected one. A full disk shows only after thousands of entries.
const MOST_LINES: usize = 20_000;

/// The arguments of a writer.
pub struct Writer<'a> {
    pub directory: &'a Path,
    pub root_key: &'a Path,
    /// The prefix of all names.
    pub prefix: String,
    pub tasks: usize,
    pub rounds: usize,
    /// One in this number of entries is deleted again.
    pub deleted: usize,
}

impl Writer<'_> {
    /// Returns the command that starts the writer.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-writer"));
        command.arg(self.directory).arg(self.root_key).arg(&self.prefix);
        command.arg(self.tasks.to_string()).arg(self.rounds.to_string()).arg(self.deleted.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Starts the writer and records its file operations.
    pub fn record(&self, log: &Path, environment: &[(&str, String)]) -> Running {
        self.record_below(self.directory, log, environment)
    }

    /// Starts the writer and records its file operations below `root`.
    pub fn record_below(&self, root: &Path, log: &Path, environment: &[(&str, String)]) -> Running {
        let mut command = self.command();
        command.env("LD_PRELOAD", shim()).env("POWERCUT_ROOT", root).env("POWERCUT_LOG", log);
        command.envs(environment.iter().map(|(name, value)| (name, value.as_str())));
        Running::start(command)
    }
}

/// A running writer. It is killed when it is dropped.
pub struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for the next line; `None` after the last one.
    pub fn line(&mut self) -> Option<String> {
        self.lines.next().map(Result::unwrap)
    }

    /// Returns all lines up to one that begins like this. Fails if it takes too many lines.
    pub fn lines_to(&mut self, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < MOST_LINES {
            lines.push(self.line().unwrap_or_else(|| panic!("the writer ended before it said '{start}'")));
            if lines.last().is_some_and(|line| line.starts_with(start)) {
                return lines;
            }
        }
        panic!("the writer says '{}' and never '{start}'", lines.last().map_or("", String::as_str));
    }

    /// Kills the writer and returns the lines that nobody has read, without an incomplete one.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.by_ref().map(Result::unwrap).collect()
    }

    /// Waits until the writer ends by itself or by its own signal.
    pub fn wait(mut self) {
        for line in self.lines.by_ref() {
            line.unwrap();
        }
        let status = self.child.wait().unwrap();
        assert!(status.success() || status.code().is_none(), "the writer failed: {status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates a root key in `directory`.
pub fn root_key(directory: &Path) -> (PathBuf, RootKey) {
    let file = directory.join("root.key");
    RootKey::random().unwrap().write_new(&file).unwrap();
    let key = RootKey::from_file(&file).unwrap().key;
    (file, key)
}

/// Compiles the recorder of file operations and returns its path.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("powercut/shim.c");
        let library =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercut-{}.so", std::process::id()));
        let mut compiler = Command::new("cc");
        compiler
            .args(["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source);
        let status = compiler.args(["-ldl", "-lpthread"]).status().expect("a C compiler, 'cc'");
        assert!(status.success(), "powercut/shim.c does not compile");
        library
    })
}
