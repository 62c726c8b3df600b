//! A real PostgreSQL for one test, its standby, and a PgBouncer before it. They end with the test.
//!
//! PostgreSQL and PgBouncer refuse to run as root. Where the tests are root, they run as the user `postgres` or `nobody`.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kms_postgres::{Host, PostgresConfig, Roles, Secret, SecretSource, TlsConfig, TlsMode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::programs::{free_port, program, until};

/// The database, the role of the server and its password.
pub const DATABASE: &str = "keys";
/// See [`DATABASE`].
pub const ROLE: &str = "kms";
/// See [`DATABASE`].
pub const PASSWORD: &str = "pw-of-the-test";

/// A running PostgreSQL.
pub struct Postgres {
    directory: TempDir,
    port: u16,
    name: &'static str,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Postgres {
    /// Starts a server with the table, and with the roles that `kms postgres schema` makes.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further settings, each `name=value`.
    pub async fn start_with(settings: &[&str]) -> Self {
        let mut server = Self::empty(settings).await;
        server.make_table();
        server.name = "primary";
        server
    }

    /// Starts a server with an empty database that belongs to the role.
    pub async fn empty(settings: &[&str]) -> Self {
        let mut server = Self::begin(memory_directory(), "primary", settings);
        server.initialise();
        server.run().await;
        server.make_database();
        server
    }

    /// Starts a standby that follows this server. The server knows it by `name`.
    pub async fn standby(&self, name: &'static str) -> Self {
        // A standby that is promoted asks for no other one.
        let mut standby = Self::begin(memory_directory(), name, &["synchronous_standby_names="]);
        let from = format!("host={} port={} user=postgres", self.directory.path().display(), self.port);
        run(self
            .pg("pg_basebackup")
            .args(["-c", "fast", "-X", "stream", "-R", "--no-sync", "-d", &from, "-D"])
            .arg(standby.data()));
        standby.settings.push("hot_standby=on".to_owned());
        standby.run().await;
        standby
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the directory with data, log and socket.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the configuration of a store on this server, without TLS.
    pub fn config(&self) -> PostgresConfig {
        config(&[self.port])
    }

    /// Starts the process and waits until it answers.
    pub async fn run(&mut self) {
        let child = self.spawn();
        self.child = Some(child);
        until("PostgreSQL answers", async || self.try_sql("postgres", "SELECT 1").is_ok()).await;
    }

    /// Starts the process without a wait.
    pub fn run_unheard(&mut self) {
        let child = self.spawn();
        self.child = Some(child);
    }

    /// Adds a setting for the next start.
    pub fn add_setting(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Kills the process and all that it started. They notice the end of the first at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process as an administrator who is in a hurry does.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Makes a primary of a standby.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote(true, 30)"), "t");
    }

    /// Runs SQL in the database of the keys as the superuser, and returns what it prints.
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(DATABASE, text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Runs SQL in a database, which may fail.
    pub fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
        let socket = self.directory.path().to_str().unwrap();
        let port = self.port.to_string();
        let mut psql = self.pg("psql");
        psql.args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
            socket,
            "-p",
            &port,
            "-d",
            database,
        ]);
        let mut child =
            psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // psql ends without reading it where no connection is made: its own message says more than a broken pipe.
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Changes a setting of the running server. Sessions that begin afterwards have it.
    pub fn set(&self, name: &str, value: &str) {
        let loaded = || self.sql("SELECT pg_conf_load_time()");
        let before = loaded();
        self.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.sql("SELECT pg_reload_conf()");
        let began = Instant::now();
        while loaded() == before {
            assert!(began.elapsed() < Duration::from_secs(30), "the settings were not loaded");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns a dump of the database of the keys.
    pub fn dump(&self) -> String {
        let (socket, port) = (self.directory.path().to_str().unwrap(), self.port.to_string());
        let mut dump = self.pg("pg_dump");
        let output = dump.args(["-U", "postgres", "-h", socket, "-p", &port, DATABASE]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns what the server logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn begin(directory: TempDir, name: &'static str, settings: &[&str]) -> Self {
        give(directory.path());
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { directory, port: free_port(), name, settings, child: None }
    }

    fn initialise(&self) {
        run(self
            .pg("initdb")
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "-D"])
            .arg(self.data()));
        // Over TCP everybody needs a password.
        let rules = "local all all trust\nlocal replication all trust\nhost all all all scram-sha-256\n";
        std::fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
    }

    fn make_database(&self) {
        let roles = format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}';\nCREATE DATABASE {DATABASE} OWNER {ROLE};"
        );
        self.try_sql("postgres", &roles).unwrap();
    }

    /// Makes the table by the SQL that the program prints.
    fn make_table(&self) {
        self.sql(&format!("ALTER DATABASE {DATABASE} OWNER TO postgres"));
        self.sql(&kms_postgres::schema(&self.config(), &Roles::default()));
    }

    fn spawn(&self) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        let mut command = self.pg("postgres");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        let own = [
            format!("unix_socket_directories={}", self.directory.path().display()),
            format!("cluster_name={}", self.name),
            "listen_addresses=127.0.0.1".to_owned(),
            "shared_buffers=16MB".to_owned(),
            "dynamic_shared_memory_type=mmap".to_owned(),
            "max_connections=200".to_owned(),
            "wal_keep_size=256MB".to_owned(),
            "autovacuum=off".to_owned(),
        ];
        for setting in own.iter().chain(&self.settings) {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn pg(&self, name: &str) -> Command {
        let mut command = Command::new(program("postgres"));
        command
            .arg(name)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C");
        unprivileged(&mut command);
        command
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        if child.try_wait().unwrap().is_some() {
            return;
        }
        let _ = kill_process(Pid::from_child(&child), signal);
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!("the log of {} ends so:", self.name);
            lines.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        // At once, and without shared memory left behind.
        self.end(Signal::QUIT);
    }
}

/// Returns the configuration of a store on servers at these ports, without TLS.
pub fn config(ports: &[u16]) -> PostgresConfig {
    let hosts = ports.iter().map(|port| Host::new("127.0.0.1", *port)).collect();
    PostgresConfig {
        password: Some(SecretSource::Value(Secret::from(PASSWORD))),
        tls: TlsConfig { mode: TlsMode::Disable, ..TlsConfig::default() },
        ..PostgresConfig::new(hosts, DATABASE, ROLE)
    }
}

/// A running PgBouncer in transaction mode.
pub struct PgBouncer {
    _directory: TempDir,
    child: Child,
    port: u16,
}

impl PgBouncer {
    /// Starts a PgBouncer before the server at `port`.
    pub async fn start(port: u16) -> Self {
        let directory = memory_directory();
        give(directory.path());
        let (path, own_port) = (directory.path(), free_port());
        let config = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={port}\n[pgbouncer]\npool_mode = transaction\n\
             listen_addr = 127.0.0.1\nlisten_port = {own_port}\nunix_socket_dir =\nauth_type = plain\n\
             auth_file = {users}\nlogfile = {log}\ndefault_pool_size = 4\nmax_client_conn = 500\n",
            users = path.join("users").display(),
            log = path.join("log").display(),
        );
        std::fs::write(path.join("users"), format!("\"{ROLE}\" \"{PASSWORD}\"\n")).unwrap();
        std::fs::write(path.join("config"), config).unwrap();
        let mut command = Command::new(program("pgbouncer"));
        command.arg("-q").arg(path.join("config")).current_dir(path);
        unprivileged(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", own_port)).await.is_ok()
        })
        .await;
        Self { _directory: directory, child, port: own_port }
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL as the role of the server over one of the sessions, and returns what it prints.
    pub fn sql(&self, text: &str) -> String {
        let port = self.port.to_string();
        let mut psql = Command::new(program("postgres"));
        psql.args(["psql", "-XAtq", "-h", "127.0.0.1", "-p", &port, "-U", ROLE, "-d", DATABASE, "-c", text]);
        let output = psql.env("PGPASSWORD", PASSWORD).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes `path` the own directory of the user that servers run as.
pub fn give(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
    if let Some((user, group)) = other_user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// Makes a file readable for the user that servers run as, and for nobody else: PostgreSQL refuses other private keys.
pub fn give_file(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    if let Some((user, group)) = other_user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// Makes a command run as the user that servers run as.
pub fn unprivileged(command: &mut Command) {
    if let Some((user, group)) = other_user() {
        command.uid(user).gid(group);
    }
}

/// Returns the user and group to run servers as; `None` if we are not root.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            (fields[0] == name).then(|| (fields[2].parse().unwrap(), fields[3].parse().unwrap()))
        })
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("there is a user postgres or nobody"))
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Creates a directory in memory if the machine has one. No test here is about disks.
pub fn memory_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
