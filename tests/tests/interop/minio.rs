//! MinIO with encrypted objects. Every object can be read, whichever server restarts in between.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_tests::programs::program;
use kms_tests::shell::kms;
use kms_vault::{AppRole, KvVersion, Login, SecretSource};

use super::aws;
use super::postgres::{self, Store};
use super::setup::{KeyServer, Process, attempt, free_address, run, text};

const ALLOW: [&str; 6] = [
    "/v1/status",
    "/v1/key/create/minio-*",
    "/v1/key/describe/minio-*",
    "/v1/key/generate/minio-*",
    "/v1/key/decrypt/minio-*",
    "/v1/key/list/*",
];
const DENY: [&str; 1] = ["/v1/key/generate/minio-denied*"];
const USER: &str = "minio-root";
const PASSWORD: &str = "minio-root-password";
/// The size of an object that needs several parts of a multipart upload.
const LARGE: usize = 24 << 20;

/// MinIO's errors for an existing and for a new object whose key was deleted.
const DELETED: [&str; 2] =
    ["failed to decrypt ciphertext with KMS key", "failed to generate data key with KMS key"];

#[test]
fn minio_keeps_its_objects_on_the_embedded_store() {
    minio_keeps_its_objects(KeyServer::start(&ALLOW, &DENY));
}

#[test]
fn minio_keeps_its_objects_on_vault() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bao, login) = runtime.block_on(async {
        let bao = Bao::with_kv(KvVersion::V2).await;
        let login = bao.approle(LEAST_POLICY, "5m").await;
        (bao, login)
    });
    let Login::AppRole(AppRole { id, secret: SecretSource::Value(secret), .. }) = login else {
        unreachable!()
    };
    let (dir, secret) = (tempfile::tempdir().unwrap(), secret.expose());
    let key_store = format!(
        r#"[keystore.vault]
endpoint = "{}"
version = "v2"
prefix = "minio"
[keystore.vault.approle]
id = "{id}"
secret = "{secret}"
"#,
        bao.endpoint()
    );
    minio_keeps_its_objects(KeyServer::start_on(dir, &key_store, "vault: keys: 0 at", &ALLOW, &DENY));
}

#[test]
fn minio_keeps_its_objects_on_postgresql() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::start_blocking());
    minio_keeps_its_objects(KeyServer::start_on(dir, &store.sections(), postgres::TOLD, &ALLOW, &DENY));
}

#[test]
fn minio_keeps_its_objects_in_aws_kms() {
    let (dir, (key_store, told)) = (tempfile::tempdir().unwrap(), aws::kms());
    minio_keeps_its_objects(KeyServer::start_on(dir, &key_store, told, &ALLOW, &DENY));
}

#[test]
fn minio_keeps_its_objects_on_secrets_manager() {
    let (dir, (key_store, told)) = (tempfile::tempdir().unwrap(), aws::secrets_manager());
    minio_keeps_its_objects(KeyServer::start_on(dir, &key_store, told, &ALLOW, &DENY));
}

/// This server takes over the directory, the config and the port of a KES 0.24 while MinIO runs.
#[test]
fn minio_reads_under_us_what_it_wrote_under_kes() {
    let mut keys = KeyServer::start_kes(&program("kes"), &ALLOW);
    let minio = Minio::start(&keys);
    minio.mc(&["mb", "s3/sse-s3", "s3/sse-kms"]);
    minio.mc(&["admin", "kms", "key", "create", "s3", "minio-second"]);
    minio.mc(&["encrypt", "set", "sse-s3", "s3/sse-s3"]);
    minio.mc(&["encrypt", "set", "sse-kms", "minio-second", "s3/sse-kms"]);
    let file = minio.file("file", 1 << 20);
    let same = |object: &str| assert!(minio.get(object) == fs::read(&file).unwrap(), "{object} differs");
    for bucket in ["sse-s3", "sse-kms"] {
        minio.mc(&["cp", &path(&file), &format!("s3/{bucket}/old")]);
    }

    keys.run_kes_config(kms());
    minio.until_works(&["cat", "s3/sse-s3/old"]);
    for bucket in ["sse-s3", "sse-kms"] {
        same(&format!("s3/{bucket}/old"));
        minio.mc(&["cp", &path(&file), &format!("s3/{bucket}/new")]);
        minio.mc(&["cp", &format!("s3/{bucket}/old"), &format!("s3/{bucket}/copied")]);
        same(&format!("s3/{bucket}/new"));
        same(&format!("s3/{bucket}/copied"));
    }
    assert!(minio.stat("s3/sse-kms/new").contains("minio-second"));
}

/// Root copied the directory of KES, and the server has another user. So MinIO's default key exists and
/// cannot be read.
#[test]
fn minio_does_not_make_its_default_key_anew_when_it_cannot_be_read() {
    const NOBODY: u32 = 65534;
    let mut keys = KeyServer::start_kes(&program("kes"), &ALLOW);
    let mut minio = Minio::start(&keys);
    minio.mc(&["mb", "s3/bucket"]);
    minio.mc(&["encrypt", "set", "sse-s3", "s3/bucket"]);
    let file = minio.file("file", 1 << 20);
    minio.mc(&["cp", &path(&file), "s3/bucket/object"]);
    minio.stop();
    let key_file = keys.dir.path().join("keys/minio-default");
    let key = fs::read(&key_file).unwrap();

    keys.run_kes_config_as(NOBODY, &[&key_file]);
    // If the server reported an absent key, MinIO would create another one and start.
    let told = minio.refuses_to_start(&keys);
    assert!(told.contains("Failed to connect to KMS") && told.contains("failed to read key"), "{told}");
    let listed = keys.admin(&["key", "ls"]);
    assert!(listed.contains("minio-default"), "{listed}");
    let made = attempt_as_admin(&keys, &["key", "create", "minio-default"]);
    assert!(made.contains("key already exists"), "{made}");

    // After a `chown` everything works without a restart of the key server.
    std::os::unix::fs::chown(&key_file, Some(NOBODY), Some(NOBODY)).unwrap();
    assert!(fs::read(&key_file).unwrap() == key);
    minio.restart(&keys);
    minio.until_works(&["cat", "s3/bucket/object"]);
    assert!(minio.get("s3/bucket/object") == fs::read(&file).unwrap());
    minio.mc(&["cp", &path(&file), "s3/bucket/other"]);
}

fn attempt_as_admin(keys: &KeyServer, arguments: &[&str]) -> String {
    let (endpoint, ca) = (keys.endpoint(), path(&keys.ca()));
    let env = [("KES_SERVER", &*endpoint), ("KES_API_KEY", &*keys.admin_key), ("KES_CA_CERT", &*ca)];
    text(&attempt(kms(), arguments, &env))
}

fn minio_keeps_its_objects(mut keys: KeyServer) {
    let mut minio = Minio::start(&keys);

    let status = minio.mc(&["admin", "kms", "key", "status", "s3"]);
    assert!(status.contains("Encryption") && !status.to_lowercase().contains("error"), "{status}");
    minio.mc(&["mb", "s3/sse-s3", "s3/sse-kms", "s3/copies"]);
    minio.mc(&["admin", "kms", "key", "create", "s3", "minio-second"]);
    minio.mc(&["encrypt", "set", "sse-s3", "s3/sse-s3"]);
    minio.mc(&["encrypt", "set", "sse-kms", "minio-second", "s3/sse-kms"]);

    // Upload small and multipart objects of both kinds, and copy them between buckets with different keys.
    let small = minio.file("small", 1000);
    let large = minio.file("large", LARGE);
    for bucket in ["sse-s3", "sse-kms"] {
        minio.mc(&["cp", &path(&small), &format!("s3/{bucket}/small")]);
        minio.mc(&["put", "--part-size", "8MiB", &path(&large), &format!("s3/{bucket}/large")]);
    }
    minio.mc(&["cp", "s3/sse-s3/small", "s3/sse-kms/copied"]);
    minio.mc(&["cp", "s3/sse-kms/large", "s3/copies/large"]);
    assert!(minio.stat("s3/sse-s3/small").contains("SSE-S3"), "{}", minio.stat("s3/sse-s3/small"));
    assert!(minio.stat("s3/sse-kms/large").contains("minio-second"), "{}", minio.stat("s3/sse-kms/large"));
    let objects = [
        ("s3/sse-s3/small", &small),
        ("s3/sse-s3/large", &large),
        ("s3/sse-kms/small", &small),
        ("s3/sse-kms/large", &large),
        ("s3/sse-kms/copied", &small),
        ("s3/copies/large", &large),
    ];
    let listing = minio.mc(&["ls", "--recursive", "s3"]);
    assert_eq!(listing.lines().count(), objects.len(), "{listing}");
    assert!(!minio.disk_holds(&fs::read(&small).unwrap()[..64]), "an object lies on the disk in the clear");

    let all_come_back = |minio: &Minio, when: &str| {
        for (object, file) in objects {
            assert!(minio.get(object) == fs::read(file).unwrap(), "{object} differs {when}");
        }
    };
    all_come_back(&minio, "after the puts");
    keys.restart();
    all_come_back(&minio, "after a restart of the key server");
    minio.restart(&keys);
    all_come_back(&minio, "after a restart of MinIO");
    keys.stop();
    minio.stop();
    keys.restart();
    minio.restart(&keys);
    all_come_back(&minio, "after a restart of both");

    // The key server stops and starts again without a restart of MinIO.
    keys.stop();
    let refused = minio.attempt(&["cat", "s3/sse-s3/small"]);
    assert!(!refused.status.success(), "an object was read without its key");
    keys.restart();
    minio.until_works(&["cat", "s3/sse-s3/small"]);
    all_come_back(&minio, "after the key server was away");

    a_denied_and_a_deleted_key_are_told(&minio, &keys, &small);
    all_come_back(&minio, "at the end");
    minio.stop();
}

fn a_denied_and_a_deleted_key_are_told(minio: &Minio, keys: &KeyServer, file: &Path) {
    for name in ["minio-denied", "minio-doomed"] {
        keys.admin(&["key", "create", name]);
    }
    let put = |key: &str| {
        let target = format!("s3/copies/{key}");
        minio.attempt(&["cp", "--enc-kms", &format!("s3/copies={key}"), &path(file), &target])
    };
    let denied = text(&put("minio-denied"));
    assert!(denied.contains("insufficient permissions to perform KMS operation"), "{denied}");

    let doomed = put("minio-doomed");
    assert!(doomed.status.success(), "{}", text(&doomed));
    assert!(minio.get("s3/copies/minio-doomed") == fs::read(file).unwrap());
    keys.admin(&["key", "rm", "minio-doomed"]);
    let gone = text(&minio.attempt(&["cat", "s3/copies/minio-doomed"]));
    assert!(gone.contains(DELETED[0]), "{gone}");
    let gone = text(&put("minio-doomed"));
    assert!(gone.contains(DELETED[1]), "{gone}");
    minio.mc(&["rm", "s3/copies/minio-doomed"]);
}

/// A MinIO server with one drive, and its client.
pub struct Minio {
    dir: tempfile::TempDir,
    address: SocketAddr,
    process: Option<Process>,
    /// The endpoints of further key servers.
    more_endpoints: Vec<String>,
    /// The credentials of the client. `None` if they are those of root, which are given to MinIO.
    user: Option<(String, String)>,
    /// Whether root may do anything. If not, MinIO derives root's credentials from its key.
    has_root: bool,
}

impl Minio {
    pub fn start(keys: &KeyServer) -> Self {
        Self::start_with(keys, Vec::new())
    }

    pub fn start_with(keys: &KeyServer, more_endpoints: Vec<String>) -> Self {
        let mut minio = Self { more_endpoints, ..Self::prepared() };
        minio.restart(keys);
        minio
    }

    /// Returns a MinIO that has not started yet.
    pub fn prepared() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let more_endpoints = Vec::new();
        Self { dir, address: free_address(), process: None, more_endpoints, user: None, has_root: true }
    }

    /// Starts a MinIO without a key server. It has a user who may do everything, and derives root's credentials from its key.
    pub fn start_on_static_key(key: &str, user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = ("minioadmin".to_owned(), "minioadmin".to_owned());
        let (more_endpoints, has_root) = (Vec::new(), true);
        let mut minio =
            Self { dir, address: free_address(), process: None, more_endpoints, user: Some(first), has_root };
        let start = |minio: &mut Self| {
            let mut command = minio.command();
            command.env("MINIO_KMS_SECRET_KEY", key);
            minio.run(Process::start(command, &minio.dir.path().join("minio.log")));
        };
        start(&mut minio);
        minio.mc(&["admin", "user", "add", "s3", user, password]);
        minio.mc(&["admin", "policy", "attach", "s3", "consoleAdmin", "--user", user]);
        minio.stop();
        (minio.user, minio.has_root) = (Some((user.to_owned(), password.to_owned())), false);
        start(&mut minio);
        minio
    }

    pub fn restart(&mut self, keys: &KeyServer) {
        self.stop();
        self.run(self.process(keys, "minio.log"));
    }

    fn run(&mut self, process: Process) {
        process.until_listening(self.address);
        self.process = Some(process);
        self.until_works(&["ready", "s3"]);
    }

    /// Restarts MinIO, and ends it when it has said `what`.
    pub fn restart_until_told(&mut self, keys: &KeyServer, what: &str) {
        self.stop();
        let process = self.process(keys, "told.log");
        let log = self.dir.path().join("told.log");
        let began = Instant::now();
        loop {
            let told = fs::read_to_string(&log).unwrap_or_default();
            if told.contains(what) {
                drop(process);
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "MinIO does not say '{what}':\n{told}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts MinIO, waits until it has given up, and returns its output.
    pub fn refuses_to_start(&mut self, keys: &KeyServer) -> String {
        self.stop();
        self.process(keys, "refused.log").until_failed()
    }

    fn process(&self, keys: &KeyServer, log: &str) -> Process {
        let mut command = self.command();
        command
            .env(
                "MINIO_KMS_KES_ENDPOINT",
                self.more_endpoints.iter().fold(keys.endpoint(), |all, more| format!("{all},{more}")),
            )
            .env("MINIO_KMS_KES_API_KEY", &keys.app_key)
            .env("MINIO_KMS_KES_CAPATH", keys.ca())
            .env("MINIO_KMS_KES_KEY_NAME", "minio-default");
        Process::start(command, &self.dir.path().join(log))
    }

    /// Returns the command of a MinIO that has no key yet.
    fn command(&self) -> Command {
        let mut command = Command::new(program("minio"));
        command
            .args(["server", "--quiet", "--address", &self.address.to_string()])
            .arg(self.dir.path().join("drive"))
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off");
        if self.user.is_none() {
            command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD);
        }
        if !self.has_root {
            command.env("MINIO_API_ROOT_ACCESS", "off");
        }
        command
    }

    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// Runs the client `mc` and expects success.
    pub fn mc(&self, args: &[&str]) -> String {
        let [config, quiet] = self.options();
        let host = self.host();
        let args: Vec<&str> = [config.as_str(), &quiet].into_iter().chain(args.iter().copied()).collect();
        run(&program("mc"), &args, &[("MC_HOST_s3", &host)])
    }

    pub fn attempt(&self, args: &[&str]) -> Output {
        let (user, password) = self.credentials();
        self.attempt_as(&format!("{user}:{password}"), args)
    }

    /// Runs the client `mc` with these credentials, as its variable for a host takes them.
    pub fn attempt_as(&self, credentials: &str, args: &[&str]) -> Output {
        let [config, quiet] = self.options();
        let host = format!("http://{credentials}@{}", self.address);
        let args: Vec<&str> = [config.as_str(), &quiet].into_iter().chain(args.iter().copied()).collect();
        attempt(&program("mc"), &args, &[("MC_HOST_s3", &host)])
    }

    pub fn until_works(&self, args: &[&str]) {
        let began = Instant::now();
        loop {
            let output = self.attempt(args);
            if output.status.success() {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "mc {}: {}", args.join(" "), text(&output));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn get(&self, object: &str) -> Vec<u8> {
        let output = self.attempt(&["cat", object]);
        assert!(output.status.success(), "{object}: {}", text(&output));
        output.stdout
    }

    fn stat(&self, object: &str) -> String {
        self.mc(&["stat", object])
    }

    /// Creates a file of random bytes, which do not compress.
    pub fn file(&self, name: &str, len: usize) -> PathBuf {
        let file = self.dir.path().join(name);
        let mut bytes = vec![0; len];
        kms_core::primitives::fill_random(&mut bytes).unwrap();
        fs::write(&file, bytes).unwrap();
        file
    }

    fn disk_holds(&self, part: &[u8]) -> bool {
        let found =
            Command::new("find").arg(self.dir.path().join("drive")).args(["-type", "f"]).output().unwrap();
        let files = String::from_utf8(found.stdout).unwrap();
        assert!(files.lines().count() > 3, "the drive is empty: {files}");
        files.lines().any(|file| fs::read(file).unwrap().windows(part.len()).any(|window| window == part))
    }

    fn options(&self) -> [String; 2] {
        [format!("--config-dir={}", self.dir.path().join("mc").display()), "--quiet".to_owned()]
    }

    fn host(&self) -> String {
        let (user, password) = self.credentials();
        format!("http://{user}:{password}@{}", self.address)
    }

    fn credentials(&self) -> (&str, &str) {
        self.user.as_ref().map_or((USER, PASSWORD), |(user, password)| (user, password))
    }

    /// Returns the credentials as curl takes them.
    pub fn login(&self) -> String {
        let (user, password) = self.credentials();
        format!("{user}:{password}")
    }

    /// Returns the URL of an object, whose path begins with its bucket.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Begins a session of a user, and returns its credentials in the form of [`attempt_as`](Self::attempt_as).
    pub fn session(&self, user: &str, password: &str) -> String {
        let body = "Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600";
        let (user, host) = (format!("{user}:{password}"), format!("http://{}/", self.address));
        let signed = ["--aws-sigv4", "aws:amz:us-east-1:sts", "--user", &user, "--data", body, "-sS", &host];
        let answer = run(Path::new("/usr/bin/curl"), &signed, &[]);
        let part = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{answer}"));
            rest.split_once('<').unwrap().0.to_owned()
        };
        ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(part).join(":")
    }
}

pub fn path(file: &Path) -> String {
    file.display().to_string()
}
