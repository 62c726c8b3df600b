//! What the scripts in packaging/ make of the binary of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use kms_tests::programs::program;
use kms_tests::shell::{Done, kms, text};
use tempfile::TempDir;

/// Returns the root of the repository.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the commands below a heading of docs/install.md: the first indented block.
pub fn commands(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(project().join("docs/install.md")).unwrap();
    let (_, below) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let block = below.lines().skip_while(|line| !line.starts_with("    "));
    block.take_while(|line| line.starts_with("    ")).map(|line| line.trim().to_owned()).collect()
}

/// Runs a command to its end.
pub fn done(command: &mut Command) -> Done {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Done {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Returns a command of packaging/, whose tools are those of the tests.
pub fn script(name: &str) -> Command {
    let tools = program("nfpm").parent().unwrap().parent().unwrap().to_owned();
    let mut command = Command::new(project().join("packaging").join(name));
    command
        .env("KMS_TEST_TOOLS", tools)
        .env("KMS_COMMIT", "0123456789abcdef")
        .env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

/// Returns the binary without its symbols, which are most of a debug build.
pub fn binary() -> &'static Path {
    static STRIPPED: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = STRIPPED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kms");
        done(Command::new("strip").arg("-o").arg(&path).arg(kms())).ok();
        (dir, path)
    });
    path
}

/// The packages of two releases.
pub struct Packages {
    dir: TempDir,
}

impl Packages {
    /// Returns the packages of 0.1.0 and of 0.1.1. The first call makes them.
    pub fn get() -> &'static Self {
        static MADE: OnceLock<Packages> = OnceLock::new();
        MADE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            for version in ["0.1.0", "0.1.1"] {
                done(
                    script("packages")
                        .args(["--version", version, "--binary", text(binary())])
                        .arg("--out")
                        .arg(dir.path()),
                )
                .ok();
            }
            Self { dir }
        })
    }

    /// Returns the .deb of a version.
    pub fn deb(&self, version: &str) -> PathBuf {
        self.dir.path().join(format!("kms_{version}_amd64.deb"))
    }

    /// Returns the .rpm of a version.
    pub fn rpm(&self, version: &str) -> PathBuf {
        self.dir.path().join(format!("kms-{version}-1.x86_64.rpm"))
    }
}
