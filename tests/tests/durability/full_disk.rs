//! The disk is full. It is a small one in memory.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kms_core::ErrorKind;
use kms_core::store::{KeyStore, MemoryStore};
use kms_fs::{FsConfig, FsStore, OpenMode, RootKey};
use kms_server::escrow::{self, NoEscrow};
use kms_server::settings::{AuditFailure, EscrowFailure};
use kms_tests::content;
use kms_tests::escrow::EscrowKey;
use kms_tests::{Protocol, TestServer};
use tempfile::TempDir;

use crate::expectation::Expectation;
use crate::random::Random;
use crate::writer::{Running, Writer, root_key};

/// How long a store may take to notice free space.
const PATIENCE: Duration = Duration::from_secs(30);
/// This variable is set in the process that has a mount namespace of its own.
const INSIDE: &str = "DURABILITY_IN_NAMESPACE";

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    if !may_mount("full_disk::a_full_disk_stops_writes_and_nothing_else") {
        return;
    }
    let mut random = Random::seeded("full disk");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 0..3 {
        let disk = SmallDisk::mount();
        let expected = runtime.block_on(fill_and_free(&disk, round, &mut random));
        let found = expected.check(&disk.store(), &disk.root_key).unwrap();
        assert_eq!(found.names, *expected.present());
    }
}

#[test]
fn a_store_opens_on_a_full_disk_after_a_kill() {
    if !may_mount("full_disk::a_store_opens_on_a_full_disk_after_a_kill") {
        return;
    }
    let mut random = Random::seeded("full disk, killed");
    for _ in 0..5 {
        let disk = SmallDisk::mount();
        let mut expected = Expectation::default();
        let prefix = "killed".to_owned();
        let directory = disk.store();
        let writer = Writer {
            directory: &directory,
            root_key: &disk.root_key_file,
            prefix,
            tasks: 4,
            rounds: 100_000,
            deleted: 3,
        };
        let mut running = Running::start(writer.command());
        for _ in 0..random.below(300) {
            expected.hear(&running.line().unwrap());
        }
        let filler = disk.fill(random.below(700_000));
        running.lines_to("err").iter().chain(&running.kill()).for_each(|line| expected.hear(line));
        // The store opens any number of times without a free byte.
        for _ in 0..5 {
            fill_up(&filler);
            let found = expected
                .check(&directory, &disk.root_key)
                .unwrap_or_else(|why| panic!("on a full disk: {why}"));
            expected = found.into_expectation();
        }
        fs::remove_file(filler).unwrap();
        expected.check(&directory, &disk.root_key).unwrap();
    }
}

async fn fill_and_free(disk: &SmallDisk, round: usize, random: &mut Random) -> Expectation {
    let mut expected = Expectation::default();
    let mut store = disk.open();
    let mut made = 0;
    for times in 0..3 {
        for _ in 0..random.below(200) {
            create(&store, &mut made, &mut expected).await.unwrap();
        }
        let filler = disk.fill(random.below(700_000));
        let error = loop {
            if let Err(error) = create(&store, &mut made, &mut expected).await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error:?}");
        assert!(error.chain().to_string().contains("No space left on device"), "{}", error.chain());

        let refused = format!("refused-{times}");
        let began = Instant::now();
        let error = store.create(&content::entry(&refused), &content::record(&refused)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "a full disk is told at once");
        let found =
            expected.check_store(&store).await.unwrap_or_else(|why| panic!("reads on a full disk: {why}"));
        assert_eq!(found, *expected.present(), "what failed is not there");
        let degraded = store.status().await.unwrap().degraded.unwrap_or_default();
        assert!(degraded.starts_with("read-only"), "{degraded:?}");

        if round % 2 == 1 {
            // The store starts again on a disk without a free byte.
            drop(store);
            fill_up(&filler);
            store = disk.open();
            let found =
                expected.check_store(&store).await.unwrap_or_else(|why| panic!("on a full disk: {why}"));
            expected = crate::expectation::Found { names: found }.into_expectation();
        }
        fs::remove_file(filler).unwrap();
        let began = Instant::now();
        while let Err(error) = create(&store, &mut made, &mut expected).await {
            assert_eq!(error.kind(), ErrorKind::DiskFull, "{error:?}");
            assert!(began.elapsed() < PATIENCE, "there is space, and still: {}", error.chain());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(store.status().await.unwrap().degraded, None);
        let found = expected.check_store(&store).await.unwrap();
        assert_eq!(found, *expected.present(), "what failed has not come true");
    }
    expected
}

async fn create(store: &FsStore, made: &mut usize, expected: &mut Expectation) -> kms_core::Result<()> {
    *made += 1;
    let name = format!("key-{made}");
    store.create(&content::entry(&name), &content::record(&name)).await?;
    expected.hear(&format!("ok {name}"));
    Ok(())
}

/// The disk of the audit log fills up and is freed again and again. Each answer has its line, and each line
/// is whole.
#[test]
fn an_audit_log_on_a_full_disk_has_a_line_for_every_answer() {
    if !may_mount("full_disk::an_audit_log_on_a_full_disk_has_a_line_for_every_answer") {
        return;
    }
    let disk = SmallDisk::mount();
    let file = disk.mount_point.join("audit.log");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (answered, refused) = runtime.block_on(ask_while_the_disk_fills(&disk, &file));
    let text = fs::read_to_string(&file).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let lines = events.iter().filter(|event| event["response"]["code"] == 200).count();
    let told: u64 = events.iter().filter_map(|event| event["left_out"]["refused"].as_u64()).sum();
    let told = usize::try_from(told).unwrap();
    assert!(answered > 1000 && refused > 100, "{answered} answered, {refused} refused");
    assert!(lines >= answered, "{lines} lines of {answered} answers");
    assert_eq!(told + (lines - answered), refused, "who was refused is told, or was in line");
}

async fn ask_while_the_disk_fills(disk: &SmallDisk, file: &Path) -> (usize, usize) {
    const CLIENTS: usize = 8;
    let mut builder = TestServer::builder();
    builder.settings.log.audit_file = Some(file.to_owned());
    builder.settings.log.audit_failure = AuditFailure::Refuse;
    let server = builder.key("my-key").start().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = (0..CLIENTS).map(|_| {
        let mut client = server.admin(Protocol::Http2);
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            let (mut answered, mut refused) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                match client.send("POST", "/v1/key/generate/my-key", "{}").await.unwrap().code() {
                    200 => answered += 1,
                    503 => {
                        refused += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    code => panic!("{code}"),
                }
            }
            (answered, refused)
        })
    });
    let clients: Vec<_> = clients.collect();
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let filler = disk.fill(1000 + round * 1777);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        fs::remove_file(filler).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    is_over.store(true, Ordering::Relaxed);
    let mut sum = (0, 0);
    for client in clients {
        let (answered, refused) = client.await.unwrap();
        sum = (sum.0 + answered, sum.1 + refused);
    }
    server.stop().await;
    sum
}

/// The same for the escrow file, with the store elsewhere.
#[test]
fn a_full_disk_under_the_escrow_file_refuses_creates_and_stores_nothing() {
    if !may_mount("full_disk::a_full_disk_under_the_escrow_file_refuses_creates_and_stores_nothing") {
        return;
    }
    let disk = SmallDisk::mount();
    let key = EscrowKey::new();
    let path = disk.mount_point.join("escrow");
    let settings = key.settings(&path, EscrowFailure::Refuse);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Arc::new(MemoryStore::new());
    runtime.block_on(async {
        let (escrowed, _) = escrow::open(&settings, Arc::clone(&store) as Arc<dyn KeyStore>).unwrap();
        let (mut made, mut refused) = (0, 0);
        for round in 0..5 {
            let filler = disk.fill(1000 + round * 777);
            let mut was_refused = false;
            for n in 0..40 {
                let name = content::entry(&format!("key-{round}-{n}"));
                match escrowed.create(&name, &content::record(name.as_str())).await {
                    Ok(()) => made += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
                        assert!(NoEscrow::is_under(&error), "{error:?}");
                        let there = store.get(&name).await;
                        assert!(
                            there.is_err() || escrowed.get(&name).await.is_err(),
                            "served without a mark"
                        );
                        (refused, was_refused) = (refused + 1, true);
                    }
                }
            }
            assert!(was_refused, "round {round}: the disk was not full");
            fs::remove_file(filler).unwrap();
            let name = content::entry(&format!("after-{round}"));
            let began = Instant::now();
            while let Err(error) = escrowed.create(&name, &content::record(name.as_str())).await {
                assert!(began.elapsed() < PATIENCE, "no create although there is room: {error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            made += 1;
        }
        println!("{made} made, {refused} refused");
        let found = key.read(&[path]);
        assert_eq!(found.flaws, [], "what was not acknowledged was cut off");
        let names = kms_core::transfer::names(&store).await.unwrap();
        assert!(names.len() >= made);
        let restored = found.keys.iter().filter(|(name, record)| **record == *content::record(name).expose());
        assert!(restored.count() >= made);
    });
}

/// A disk of a few megabytes, with the root key on another one.
struct SmallDisk {
    mount_point: PathBuf,
    root_key_file: PathBuf,
    root_key: RootKey,
    _directory: TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount_point = directory.path().join("disk");
        fs::create_dir(&mount_point).unwrap();
        let mut mount = Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(&mount_point).status().unwrap();
        assert!(mounted.success(), "a small tmpfs cannot be mounted");
        let (root_key_file, root_key) = root_key(directory.path());
        Self { mount_point, root_key_file, root_key, _directory: directory }
    }

    fn store(&self) -> PathBuf {
        self.mount_point.join("store")
    }

    fn open(&self) -> FsStore {
        let config = FsConfig { ballast: content::BALLAST, ..FsConfig::new(self.store()) };
        let opened = kms_fs::open(&config, &self.root_key, OpenMode::CreateOrOpen);
        opened.unwrap_or_else(|error| panic!("{error}")).store
    }

    /// Fills the disk except for this number of bytes.
    fn fill(&self, but: usize) -> PathBuf {
        let filler = self.mount_point.join("filler");
        fill_up(&filler);
        let file = OpenOptions::new().write(true).open(&filler).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(but as u64)).unwrap();
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

/// Returns whether this process may mount. If not, runs the test in a process that may, and returns false.
fn may_mount(test: &str) -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    let may = *MAY.get_or_init(|| std::env::var_os(INSIDE).is_some() || can_mount());
    if !may {
        let mut namespace = Command::new("unshare");
        namespace.args(["-rm", "--"]).arg(std::env::current_exe().unwrap());
        let status = namespace.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
        let status = status.expect("root, or the program 'unshare', is needed to mount a small disk");
        assert!(status.success(), "a small disk cannot be mounted: run as root or allow user namespaces");
    }
    may
}

fn can_mount() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()).output();
    let mounted = mounted.is_ok_and(|output| output.status.success());
    if mounted {
        Command::new("umount").arg(directory.path()).status().unwrap();
    }
    mounted
}

/// Fills the disk to the last byte.
fn fill_up(filler: &Path) {
    let mut file = OpenOptions::new().append(true).create(true).open(filler).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        let block = vec![0xff; size];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == IoErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}
