//! `/v1/backup/create`: who may ask for it, what is in the answer, and how an answer that is not whole ends.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore, MemoryStore, StoreCapabilities};
use kms_core::{ErrorKind, KeyName, ListQuery, Page, StoreStatus};
use kms_server::recipients::Identities;
use kms_server::settings::BackupSettings;
use kms_tests::faults::FaultyStore;
use kms_tests::recipient::{OTHER, OWNER};
use kms_tests::{Client, Protocol, TestIdentity, TestServer, TestServerBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

const PATH: &str = "/v1/backup/create";

/// A server that seals its backups to two recipients and writes an audit log.
struct Backed {
    builder: TestServerBuilder,
    directory: TempDir,
}

impl Backed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut builder = TestServer::builder();
        let recipients = [&OWNER, &OTHER].map(|recipient| recipient.public.to_owned()).to_vec();
        builder.settings.backup = BackupSettings { recipients, drill_evidence: None };
        builder.settings.log.audit_file = Some(directory.path().join("audit.log"));
        Self { builder, directory }
    }

    fn audit(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }
}

/// The lines of the audit log about backups.
fn lines_of(log: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["request"]["path"] == PATH).collect()
}

async fn begin(client: &mut Client) -> Incoming {
    let response = client.open_with("PUT", PATH, &[("te", "trailers")]).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    response.into_body()
}

/// Opens an archive with an identity, and returns the tar in it.
fn opened(sealed: &[u8], secret: &kms_tests::recipient::Recipient) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let identities = Identities::from_file(&secret.file(directory.path(), "key")).unwrap();
    let mut tar = Vec::new();
    identities.open(sealed).unwrap().read_to_end(&mut tar).unwrap();
    tar
}

fn holds(tar: &[u8], text: &str) -> bool {
    tar.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn an_allow_has_to_name_it_exactly() {
    let allows: [(&[&str], &[&str], u16); 8] = [
        (&[PATH], &[], 200),
        (&["*"], &[], 403),
        (&["/v1/*"], &[], 403),
        (&["/v1/key/*"], &[], 403),
        (&["/v1/backup/*"], &[], 403),
        (&["/v1/backup/create*"], &[], 403),
        (&[PATH], &["/v1/backup/*"], 403),
        (&[], &[], 403),
    ];
    let clients: Vec<_> = allows.iter().map(|_| TestIdentity::new()).collect();
    let mut builder = Backed::new().builder;
    builder.settings.log.audit_file = None;
    for (number, ((allow, deny, _), client)) in allows.iter().zip(&clients).enumerate() {
        builder = builder.policy(&format!("p{number}"), allow, deny, &[client.identity()]);
    }
    let server = builder.start().await;
    for ((allow, deny, code), client) in allows.iter().zip(&clients) {
        let answer = server.client(Protocol::Http2, client).send("PUT", PATH, "").await.unwrap();
        assert_eq!(answer.code(), *code, "{allow:?} without {deny:?}");
    }
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", PATH, "").await.unwrap().code(), 200);
    assert_eq!(admin.send("GET", PATH, "").await.unwrap().code(), 405);
    let stranger = server.client(Protocol::Http2, &TestIdentity::new()).send("PUT", PATH, "").await.unwrap();
    assert_eq!(stranger.code(), 403);
}

#[tokio::test]
async fn without_recipients_there_is_none() {
    let server = TestServer::builder().key("my-key").start().await;
    for protocol in Protocol::ALL {
        let answer = server.admin(protocol).send("PUT", PATH, "").await.unwrap();
        assert_eq!(answer.code(), 501);
        assert!(answer.member("message").contains("set backup.recipients"), "{answer:?}");
    }
}

#[tokio::test]
async fn each_recipient_opens_it_and_the_audit_log_counts() {
    let backed = Backed::new();
    let audit = backed.audit();
    let _directory = backed.directory;
    let server = backed.builder.key("key-one").key("key-two").start().await;
    for protocol in Protocol::ALL {
        let mut admin = server.admin(protocol);
        let body = begin(&mut admin).await.collect().await.unwrap();
        let trailer = body.trailers().unwrap()["kms-backup"].to_str().unwrap().to_owned();
        let summary: Value = serde_json::from_str(&trailer).unwrap();
        assert_eq!(
            summary,
            serde_json::json!({"keys": 2, "versions": 2, "left_out": 0, "unreadable": 0, "recipients": 2})
        );
        let sealed = body.to_bytes();
        assert!(!holds(&sealed, "key-one"), "no name is in the clear");
        for recipient in [&OWNER, &OTHER] {
            let tar = opened(&sealed, recipient);
            for path in ["keys/key-one/versions/1", "keys/key-two/versions/1", "manifest.json"] {
                assert!(holds(&tar, path), "{path}");
            }
        }
        // The connection can be used further.
        assert_eq!(admin.send("GET", "/v1/status", "").await.unwrap().code(), 200);
    }
    server.stop().await;
    let lines = lines_of(&audit);
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert_eq!(line["response"]["code"], 200);
        assert_eq!(line["backup"], serde_json::json!({"keys": 2, "recipients": 2}));
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_read_breaks_it_off() {
    for protocol in Protocol::ALL {
        let backed = Backed::new();
        let audit = backed.audit();
        let _directory = backed.directory;
        let store = FaultyStore::new();
        let server = backed.builder.store(store.clone()).start().await;
        let mut admin = server.admin(protocol);
        for number in 0..200 {
            admin.send("PUT", &format!("/v1/key/create/a{number:03}"), "").await.unwrap();
        }
        store.put(&EntryName::from(&KeyName::new("z").unwrap()), b"no record").await;
        let body = begin(&mut admin).await;
        assert!(body.collect().await.is_err(), "{protocol:?}: it looks whole");
        server.stop().await;
        let lines = lines_of(&audit);
        assert_eq!((lines.len(), &lines[0]["response"]["code"]), (1, &502.into()), "{lines:?}");
        assert_eq!(
            (&lines[0]["response"]["sent"], &lines[0]["backup"]["keys"]),
            (&false.into(), &200.into())
        );
    }
}

#[tokio::test]
async fn a_second_one_waits_for_the_first_and_who_leaves_is_recorded() {
    let backed = Backed::new();
    let audit = backed.audit();
    let _directory = backed.directory;
    let store = Hanging::default();
    let server = backed.builder.store(store.clone()).key("my-key").start().await;
    let mut admin = server.admin(Protocol::Http2);
    store.hang(true);
    let mut first = server.admin(Protocol::Http2);
    let body = begin(&mut first).await;
    let second = admin.send("PUT", PATH, "").await.unwrap();
    assert_eq!(second.code(), 409);
    assert!(second.member("message").contains("another backup is under way"));
    // Nothing was read yet, and nothing will be: it is the client alone whose end is noticed.
    drop((first, body));
    tokio::time::sleep(Duration::from_millis(500)).await;
    store.hang(false);
    for _ in 0..100 {
        if admin.send("PUT", PATH, "").await.unwrap().code() == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
    let codes: Vec<_> = lines_of(&audit).iter().map(|line| line["response"]["code"].clone()).collect();
    assert!(codes.contains(&499.into()) && codes.contains(&409.into()), "{codes:?}");
    assert_eq!(codes.last(), Some(&200.into()));
}

/// A store that lists its keys and gives none of them out while it hangs.
#[derive(Clone, Default)]
struct Hanging {
    inner: Arc<MemoryStore>,
    hangs: Arc<watch::Sender<bool>>,
}

impl Hanging {
    fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }
}

#[async_trait::async_trait]
impl KeyStore for Hanging {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("hanging")
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> kms_core::Result<()> {
        self.inner.create(name, record).await
    }

    async fn get(&self, name: &EntryName) -> kms_core::Result<SecretBytes> {
        self.hangs.subscribe().wait_for(|hangs| !hangs).await.unwrap();
        self.inner.get(name).await
    }

    async fn delete(&self, name: &EntryName) -> kms_core::Result<()> {
        self.inner.delete(name).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> kms_core::Result<Page> {
        self.inner.list(query).await
    }

    async fn status(&self) -> kms_core::Result<StoreStatus> {
        self.inner.status().await
    }
}

#[tokio::test]
async fn a_store_that_denies_the_list_refuses_it_with_the_reason() {
    let store = FaultyStore::new();
    let server = Backed::new().builder.store(store.clone()).key("my-key").start().await;
    store.fail(Some(ErrorKind::Denied));
    let answer = server.admin(Protocol::Http2).send("PUT", PATH, "").await.unwrap();
    assert_eq!(answer.code(), 502);
    assert!(answer.member("message").contains("denies this server the list"), "{answer:?}");
    store.fail(Some(ErrorKind::Unreachable));
    let answer = server.admin(Protocol::Http2).send("PUT", PATH, "").await.unwrap();
    assert_eq!(answer.code(), 502);
    store.fail(None);
    let answer = server.admin(Protocol::Http2).send("PUT", PATH, "").await.unwrap();
    assert_eq!(answer.code(), 200, "the refused ones are over");
}

#[tokio::test]
async fn the_age_of_the_last_good_drill_is_a_metric() {
    let mut backed = Backed::new();
    let file = backed.directory.path().join("evidence.json");
    backed.builder.settings.backup.drill_evidence = Some(file.clone());
    let server = backed.builder.start().await;
    let figure = async |name: &str| {
        let text = server.admin(Protocol::Http2).send("GET", "/metrics", "").await.unwrap();
        let line = text.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.to_owned()
    };
    let age = async || figure("kms_backup_last_good_drill_age_seconds").await;
    let snapshot = async || figure("kms_backup_last_good_snapshot_age_seconds").await;
    assert_eq!(age().await, "inf", "an alert on an age that is too high has to fire without a drill, too");
    let evidence = |last_good: Option<String>| {
        let now = jiff::Timestamp::now().to_string();
        serde_json::json!({
            "format": "kms-drill/1", "program": "kms", "host": "h", "began": now, "ended": now,
            "archive": {"path": "p"}, "verdict": "bad", "keys": 0, "versions": 0, "last_good": last_good,
        })
    };
    std::fs::write(&file, evidence(None).to_string()).unwrap();
    assert_eq!(age().await, "inf", "a bad drill is none");
    let hour_ago = jiff::Timestamp::now() - Duration::from_secs(3600);
    std::fs::write(&file, evidence(Some(hour_ago.to_string())).to_string()).unwrap();
    let seconds: f64 = age().await.parse().unwrap();
    assert!((3600.0..3660.0).contains(&seconds), "{seconds}");
    assert_eq!(snapshot().await, "inf", "evidence that does not say how old the archive was proves no age");
    let mut told = evidence(Some(hour_ago.to_string()));
    told["last_good_snapshot"] = (jiff::Timestamp::now() - Duration::from_secs(7200)).to_string().into();
    std::fs::write(&file, told.to_string()).unwrap();
    let seconds: f64 = snapshot().await.parse().unwrap();
    assert!(
        (7200.0..7260.0).contains(&seconds),
        "a drill of an old archive is new, and the archive is old: {seconds}"
    );
    std::fs::write(&file, "no evidence").unwrap();
    assert_eq!(age().await, "inf");
    // Clocks differ by a little. A clock that was set back would show a new drill for as long as it was set back by.
    for (ahead, expected) in [(60, "0"), (86_400, "inf")] {
        let ahead = (jiff::Timestamp::now() + Duration::from_secs(ahead)).to_string();
        let mut told = evidence(Some(ahead.clone()));
        told["last_good_snapshot"] = ahead.into();
        std::fs::write(&file, told.to_string()).unwrap();
        assert_eq!((age().await.as_str(), snapshot().await.as_str()), (expected, expected));
    }
    let without = TestServer::start().await;
    let text = without.admin(Protocol::Http2).send("GET", "/metrics", "").await.unwrap();
    assert!(!text.text().contains("last_good_drill"), "nobody makes drills there");
}
