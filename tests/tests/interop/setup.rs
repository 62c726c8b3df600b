//! Starts, configures and stops the programs.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_tests::shell::kms;
use tempfile::TempDir;

/// How long a program may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// This key server with its files. It has an admin and an application, each with an API key.
pub struct KeyServer {
    pub dir: TempDir,
    pub address: SocketAddr,
    pub admin_key: String,
    pub app_key: String,
    process: Option<Process>,
}

impl KeyServer {
    /// Starts a server on the embedded store. These patterns are the policy of the application.
    pub fn start(allow: &[&str], deny: &[&str]) -> Self {
        Self::start_with("", allow, deny)
    }

    /// Starts a server on the embedded store, with more lines in its config.
    pub fn start_with(more: &str, allow: &[&str], deny: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, root_key) = (dir.path().join("store"), dir.path().join("root.key"));
        let mut bytes = [0; 32];
        kms_core::primitives::fill_random(&mut bytes).unwrap();
        fs::write(&root_key, STANDARD.encode(bytes)).unwrap();
        fs::set_permissions(&root_key, fs::Permissions::from_mode(0o600)).unwrap();
        let key_store = format!(
            "[keystore.fs]\npath = \"{}\"\nroot_key_file = \"{}\"\ncreate = true\n{more}",
            store.display(),
            root_key.display()
        );
        Self::start_on(dir, &key_store, "sled in", allow, deny)
    }

    /// Starts a server with this section of the config for its key store. `kms check` has to print `told`.
    pub fn start_on(dir: TempDir, key_store: &str, told: &str, allow: &[&str], deny: &[&str]) -> Self {
        let mut server = Self::prepare(dir);
        server.configure(key_store, told, allow, deny);
        server
    }

    fn configure(&mut self, key_store: &str, told: &str, allow: &[&str], deny: &[&str]) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let [admin, app, client] =
            [&self.admin_key, &self.app_key, &file("client.crt")].map(|of| identity_of(of));
        let address = self.address;
        let mut config = String::new();
        write!(
            config,
            r#"address = "{address}"
[admin]
identity = "{admin}"
[tls]
key = "{}"
cert = "{}"
[policy.app]
allow = {allow:?}
deny = {deny:?}
identities = ["{app}", "{client}"]
{key_store}"#,
            file("server.key"),
            file("server.crt"),
        )
        .unwrap();
        let path = file("config.toml");
        fs::write(&path, config).unwrap();
        let found = run(kms(), &["check", "--config", &path], &[]);
        assert!(found.contains(told), "'{told}' is not in:\n{found}");
        self.restart();
    }

    /// Starts one more server with the identities and the certificate of this one.
    pub fn start_beside(&self, key_store: &str, told: &str, allow: &[&str], deny: &[&str]) -> Self {
        let mut other = self.prepare_beside();
        other.configure(key_store, told, allow, deny);
        other
    }

    /// Creates the files of one more server with the identities and the certificate of this one.
    fn prepare_beside(&self) -> Self {
        let mut other = Self::prepare(tempfile::tempdir().unwrap());
        (other.admin_key, other.app_key) = (self.admin_key.clone(), self.app_key.clone());
        for name in ["server.key", "server.crt"] {
            fs::copy(self.dir.path().join(name), other.dir.path().join(name)).unwrap();
        }
        other
    }

    /// Starts the real KES on a directory of key files, with the policy of [`KeyServer::start`].
    pub fn start_kes(kes: &Path, allow: &[&str]) -> Self {
        let server = Self::prepare(tempfile::tempdir().unwrap());
        fs::create_dir(server.dir.path().join("keys")).unwrap();
        server.with_kes(kes, "  fs:\n    path: keys\n", allow)
    }

    /// Starts the real KES with this section for its key store.
    pub fn start_kes_on(kes: &Path, key_store: &str, allow: &[&str]) -> Self {
        Self::prepare(tempfile::tempdir().unwrap()).with_kes(kes, key_store, allow)
    }

    /// Starts one more KES with the identities and the certificate of this one.
    pub fn start_kes_beside(&self, kes: &Path, key_store: &str, allow: &[&str]) -> Self {
        self.prepare_beside().with_kes(kes, key_store, allow)
    }

    fn with_kes(mut self, kes: &Path, key_store: &str, allow: &[&str]) -> Self {
        let [admin, app] = [&self.admin_key, &self.app_key].map(|key| identity_of(key));
        let patterns: String = allow.iter().fold(String::new(), |mut text, pattern| {
            writeln!(text, "    - {pattern}").unwrap();
            text
        });
        let config = format!(
            "version: v1\naddress: {}\nadmin:\n  identity: {admin}\ntls:\n  key: server.key\n  cert: server.crt\n\
             policy:\n  minio:\n    allow:\n{patterns}    identities:\n    - {app}\n\
             cache:\n  expiry:\n    any: 5m\n    unused: 20s\n\
             keystore:\n{key_store}",
            self.address
        );
        fs::write(self.dir.path().join("kes.yml"), config).unwrap();
        self.run_kes_config(kes);
        self
    }

    /// Ends the server and starts `program` with the config of KES.
    pub fn run_kes_config(&mut self, program: &Path) {
        self.process = None;
        let mut command = Command::new(program);
        command.args(["server", "--config", "kes.yml"]).current_dir(self.dir.path());
        let process = Process::start(command, &self.dir.path().join("server.log"));
        process.until_listening(self.address);
        self.process = Some(process);
    }

    /// Ends the server and starts this one with the config of KES as another user.
    ///
    /// That user owns all files except for `kept`.
    pub fn run_kes_config_as(&mut self, user: u32, kept: &[&Path]) {
        assert!(rustix::process::geteuid().is_root(), "files are given away by root, as in a container");
        self.process = None;
        let dir = self.dir.path();
        fs::copy(kms(), dir.join("kms")).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let owner = format!("{user}:{user}");
        run(Path::new("chown"), &["-R", &owner, &dir.display().to_string()], &[]);
        for file in kept {
            std::os::unix::fs::chown(file, Some(0), Some(0)).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut command = Command::new("setpriv");
        let user = user.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "./kms"]);
        command.args(["server", "--config", "kes.yml"]).current_dir(dir);
        let process = Process::start(command, &dir.join("server.log"));
        process.until_listening(self.address);
        self.process = Some(process);
    }

    /// Creates the files of a server that has not started yet.
    fn prepare(dir: TempDir) -> Self {
        let (admin_key, app_key) = (new_api_key(), new_api_key());
        let file = |name: &str| dir.path().join(name).display().to_string();
        for (name, subject) in [("server", "localhost"), ("client", "client")] {
            let (key, cert) = (file(&format!("{name}.key")), file(&format!("{name}.crt")));
            run(
                kms(),
                &["identity", "new", "--key", &key, "--cert", &cert, "--ip", "127.0.0.1", subject],
                &[],
            );
        }
        Self { dir, address: free_address(), admin_key, app_key, process: None }
    }

    /// Stops the server and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        let mut command = Command::new(kms());
        command.arg("server").arg("--config").arg(self.dir.path().join("config.toml"));
        let process = Process::start(command, &self.dir.path().join("server.log"));
        process.until_listening(self.address);
        self.process = Some(process);
    }

    /// Restarts the server with these patterns as the policy of the application.
    pub fn allow(&mut self, allow: &[&str]) {
        let path = self.dir.path().join("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        let (before, after) = config.split_once("allow = [").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        fs::write(&path, format!("{before}allow = {allow:?}\n{after}")).unwrap();
        self.restart();
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the server as an operator does and expects success.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("server.crt")
    }

    /// Runs `kms` with these arguments as the admin.
    pub fn admin(&self, args: &[&str]) -> String {
        let (endpoint, ca) = (self.endpoint(), self.ca().display().to_string());
        run(kms(), args, &[("KES_SERVER", &endpoint), ("KES_API_KEY", &self.admin_key), ("KES_CA_CERT", &ca)])
    }
}

/// A running program. It is killed when it is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program and appends its output to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let program = command.get_program().to_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self { child, log: log.into() }
    }

    pub fn until_listening(&self, address: SocketAddr) {
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < PATIENCE, "nothing listens on {address}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the program has ended by itself with an error, and returns its log.
    pub fn until_failed(mut self) -> String {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(!status.success(), "it ended well:\n{}", self.log());
                return self.log();
            }
            assert!(began.elapsed() < PATIENCE, "did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends SIGTERM, waits until the program has ended, and expects success.
    pub fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "ended with {status}:\n{}", self.log());
                return;
            }
            assert!(began.elapsed() < PATIENCE, "did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program, expects success and returns stdout.
pub fn run(program: &Path, args: &[&str], env: &[(&str, &str)]) -> String {
    let output = attempt(program, args, env);
    let text = text(&output);
    assert!(output.status.success(), "{} {}: {}\n{text}", program.display(), args.join(" "), output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program and returns its result.
pub fn attempt(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Returns everything that a program printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns an address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Creates an API key, and finds it in the output by its form as scripts do.
fn new_api_key() -> String {
    let printed = run(kms(), &["identity", "new"], &[]);
    printed.split_whitespace().find(|word| word.starts_with("kes:v1:")).unwrap().to_owned()
}

/// Returns the identity of an API key or of the certificate in a file.
fn identity_of(what: &str) -> String {
    run(kms(), &["identity", "of", what], &[]).split_whitespace().last().unwrap().to_owned()
}
