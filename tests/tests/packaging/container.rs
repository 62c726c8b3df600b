//! The image in a container: an independent reader unpacks it, and a real runtime starts it.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kms_tests::programs::program;
use kms_tests::shell::{Done, Shell, text};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::made::done;
use super::oci::Image;

/// Files that a suite puts into its container, readable for the user of the image.
pub struct Files {
    dir: TempDir,
}

impl Files {
    /// Makes keys and certificates for a server and a client.
    pub fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["server", "client"] {
            let (key, cert) = (files.path(&format!("{name}.key")), files.path(&format!("{name}.crt")));
            Shell::default()
                .run(&[
                    "identity",
                    "new",
                    "--key",
                    text(&key),
                    "--cert",
                    text(&cert),
                    "--ip",
                    "127.0.0.1",
                    name,
                ])
                .ok();
            for file in [key, cert] {
                chown(file, Some(1000), Some(1000)).unwrap();
            }
        }
        files
    }

    /// Returns the path of a file outside of the container.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// What is run in a container, beside what the image says.
#[derive(Default)]
pub struct Run<'a> {
    /// Takes the place of the image's entrypoint.
    pub entrypoint: Option<&'a str>,
    /// The arguments of the entrypoint.
    pub arguments: &'a [&'a str],
    /// Variables, as NAME=VALUE.
    pub variables: &'a [String],
    /// Files and directories of this machine, and where they are mounted.
    pub mounts: Vec<(PathBuf, &'a str)>,
    /// Directories of this machine that the container writes to, and where they are mounted.
    pub volumes: Vec<(PathBuf, &'a str)>,
    /// Nothing of the image can be written but /tmp.
    pub read_only: bool,
}

/// A running container. It ends when it is dropped.
pub struct Container {
    name: String,
    state: TempDir,
    process: Child,
}

impl Container {
    /// Starts a container in network and process namespaces of its own.
    pub fn start(image: &Image, run: &Run<'_>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let bundle = state.path().join("bundle");
        let name = format!("{}:{}", image.path().display(), image.version());
        done(Command::new(program("umoci")).args(["unpack", "--image", &name, text(&bundle)])).ok();
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        adapt(&mut spec, run);
        fs::write(&config, spec.to_string()).unwrap();
        let log = |name: &str| File::create(state.path().join(name)).unwrap();
        let name = format!("kms-test-{}", bundle.parent().unwrap().file_name().unwrap().display());
        let process = runc(state.path())
            .args(["run", "--bundle", text(&bundle), &name])
            .stdin(Stdio::null())
            .stdout(log("stdout"))
            .stderr(log("stderr"))
            .spawn()
            .unwrap();
        Self { name, state, process }
    }

    /// Runs another command in the container, until it succeeds.
    pub fn exec(&mut self, variables: &[&str], command: &[&str]) -> Done {
        let began = Instant::now();
        loop {
            let mut runc = runc(self.state.path());
            runc.arg("exec");
            for variable in variables {
                runc.args(["--env", variable]);
            }
            let ran = done(runc.arg(&self.name).args(command));
            if ran.status.success() {
                return ran;
            }
            let log = (self.output("stdout"), self.output("stderr"));
            assert!(self.process.try_wait().unwrap().is_none(), "the container ended: {log:?}");
            assert!(began.elapsed() < Duration::from_secs(30), "{command:?}: {ran:?} {log:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the container ends, and returns what it printed.
    pub fn ended(mut self) -> Done {
        let status = self.process.wait().unwrap();
        Done { status, stdout: self.output("stdout"), stderr: self.output("stderr") }
    }

    /// Returns what the container has printed so far.
    pub fn output(&self, stream: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.state.path().join(stream)).unwrap()).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        done(runc(self.state.path()).args(["delete", "--force", &self.name]));
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn runc(state: &Path) -> Command {
    let mut command = Command::new(program("runc"));
    command.arg("--root").arg(state.join("runc"));
    command
}

/// Puts what is run into the runtime's form of the image's config. User, working directory and variables stay the image's.
fn adapt(spec: &mut Value, run: &Run<'_>) {
    let entrypoint = match run.entrypoint {
        Some(program) => json!([program]),
        None => spec["process"]["args"].clone(),
    };
    let mut arguments = entrypoint.as_array().unwrap().clone();
    arguments.extend(run.arguments.iter().map(|argument| json!(argument)));
    spec["process"]["args"] = Value::Array(arguments);
    spec["process"]["terminal"] = json!(false);
    spec["process"]["env"]
        .as_array_mut()
        .unwrap()
        .extend(run.variables.iter().map(|variable| json!(variable)));
    spec["root"]["readonly"] = json!(run.read_only);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    // Not every machine of a test has its control groups in one tree.
    mounts.retain(|mount| mount["type"] != "cgroup");
    if run.read_only {
        mounts.push(
            json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] }),
        );
    }
    for (all, access) in [(&run.mounts, "ro"), (&run.volumes, "rw")] {
        for (outside, inside) in all {
            mounts.push(
                json!({ "destination": inside, "type": "bind", "source": outside, "options": ["rbind", access] }),
            );
        }
    }
    spec["linux"].as_object_mut().unwrap().remove("resources");
}
