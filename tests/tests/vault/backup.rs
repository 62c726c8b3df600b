//! Backups of keys in a Vault: whole with versions, and refused where the list is denied.

use std::io::Read as _;

use kms_server::recipients::Identities;
use kms_server::settings::BackupSettings;
use kms_tests::bao::{Bao, GUIDE_POLICY};
use kms_tests::recipient::OWNER;
use kms_tests::{Protocol, TestServer};
use kms_vault::{KvVersion, VaultConfig};

use super::common::open;

const PATH: &str = "/v1/backup/create";

async fn server(config: VaultConfig) -> TestServer {
    let mut builder = TestServer::builder();
    builder.settings.backup =
        BackupSettings { recipients: vec![OWNER.public.to_owned()], drill_evidence: None };
    builder.store(open(config)).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_every_key_with_its_versions() {
    for version in [KvVersion::V1, KvVersion::V2] {
        let bao = Bao::with_kv(version).await;
        let server = server(bao.config(version)).await;
        let mut admin = server.admin(Protocol::Http2);
        for name in ["a", "b", "gone"] {
            assert_eq!(admin.send("PUT", &format!("/v1/key/create/{name}"), "").await.unwrap().code(), 200);
        }
        assert_eq!(admin.send("PUT", "/v1/key/rotate/b", "").await.unwrap().code(), 200);
        // Version 2 of the engine keeps what is deleted, and gives it out only after an undelete.
        assert_eq!(admin.send("DELETE", "/v1/key/delete/gone", "").await.unwrap().code(), 200);
        let sealed = admin.send("PUT", PATH, "").await.unwrap();
        assert_eq!(sealed.code(), 200);
        let directory = tempfile::tempdir().unwrap();
        let identities = Identities::from_file(&OWNER.file(directory.path(), "key")).unwrap();
        let mut tar = Vec::new();
        identities.open(&*sealed.body).unwrap().read_to_end(&mut tar).unwrap();
        let holds = |text: &str| tar.windows(text.len()).any(|window| window == text.as_bytes());
        for file in
            ["keys/a/versions/1", "keys/b/versions/2", "keys/b/versions/1", "\"keys\":2,\"versions\":3"]
        {
            assert!(holds(file), "{version:?}: {file}");
        }
        assert!(!holds("keys/gone/"), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_denies_the_list_refuses_a_backup() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let login = bao.approle(GUIDE_POLICY, "5m").await;
    let server = server(VaultConfig { login, ..bao.config(KvVersion::V1) }).await;
    let mut admin = server.admin(Protocol::Http2);
    assert_eq!(admin.send("PUT", "/v1/key/create/a", "").await.unwrap().code(), 200);
    let refused = admin.send("PUT", PATH, "").await.unwrap();
    assert_eq!(refused.code(), 502);
    assert!(refused.member("message").contains("denies this server the list of its keys"), "{refused:?}");
}
