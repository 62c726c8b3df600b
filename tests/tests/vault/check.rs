//! `kms_vault::check` finds mistakes before production does.

use kms_tests::bao::{Bao, GUIDE_POLICY, LEAST_POLICY, WIDE_POLICY};
use kms_tests::programs::free_port;
use kms_vault::{AppRole, Finding, KvVersion, Level, Login, Secret, TransitConfig, VaultConfig, check};
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_setup_has_no_problem_and_leaves_nothing_behind() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    bao.ask(Method::PUT, "kv/data/minio/key", json!({"data": {"key": "record"}})).await;
    let findings = check(VaultConfig { login, ..bao.config(KvVersion::V2) }).await;
    assert_eq!(problems(&findings), [""; 0], "{findings:#?}");
    for (what, part) in [
        ("address", "127.0.0.1"),
        ("login", "AppRole"),
        ("lease", "300 s, renewed"),
        ("engine", "version 2"),
        ("capabilities", "create, read, delete, list"),
        ("probe entry", "deleted"),
        ("keys", "1 at 'kv/metadata/minio/'"),
    ] {
        assert!(has(&findings, Level::Good, what, part), "{what}: {findings:#?}");
    }
    assert!(has(&findings, Level::Warning, "tls", "in the clear"), "{findings:#?}");
    let left = bao.ask(Method::GET, "kv/metadata/minio/?list=true", json!(null)).await;
    assert_eq!(left["data"]["keys"], json!(["key"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_should_be_known_is_a_warning() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    bao.mount_transit("minio").await;
    let login = bao.approle(GUIDE_POLICY, "5m").await;
    let findings = check(VaultConfig { login, ..bao.config(KvVersion::V1) }).await;
    assert_eq!(problems(&findings), [""; 0], "{findings:#?}");
    assert!(has(&findings, Level::Warning, "engine", "no atomic create"), "{findings:#?}");
    assert!(has(&findings, Level::Warning, "capabilities", "'list' on 'kv/minio/'"), "{findings:#?}");

    bao.ask(Method::PUT, "sys/policies/acl/kms", json!({"policy": WIDE_POLICY})).await;
    let id = bao.ask(Method::GET, "auth/approle/role/kms/role-id", json!(null)).await;
    let secret = Secret::from(bao.secret_id().await);
    let login = Login::AppRole(AppRole::new(id["data"]["role_id"].as_str().unwrap(), secret));
    let transit = Some(TransitConfig::new("minio"));
    let findings = check(VaultConfig { login, transit: transit.clone(), ..bao.config(KvVersion::V1) }).await;
    assert!(has(&findings, Level::Warning, "capabilities", "may 'update'"), "{findings:#?}");
    assert!(has(&findings, Level::Warning, "transit", "does not bind"), "{findings:#?}");
    assert!(has(&findings, Level::Warning, "transit", "not sealed"), "{findings:#?}");

    let findings = check(VaultConfig { transit, ..bao.config(KvVersion::V1) }).await;
    assert!(has(&findings, Level::Warning, "capabilities", "root token"), "{findings:#?}");
    assert!(has(&findings, Level::Warning, "lease", "no end"), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_is_named_and_the_last_finding() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(r#"path "kv/data/minio/*" { capabilities = ["read"] }"#, "5m").await;
    let good = || bao.config(KvVersion::V2);
    let wrong_login = Login::AppRole(AppRole::new("nobody", Secret::from("nothing")));
    for (config, what, part) in [
        (VaultConfig { prefix: "..".to_owned(), ..good() }, "configuration", "prefix"),
        (
            VaultConfig { endpoint: "http://no-such-host.invalid".to_owned(), ..good() },
            "address",
            "no-such-host.invalid",
        ),
        (
            VaultConfig { endpoint: format!("http://127.0.0.1:{}", free_port()), ..good() },
            "connection",
            "refused",
        ),
        (VaultConfig { login: wrong_login, ..good() }, "login", "invalid role or secret"),
        (bao.config(KvVersion::V1), "engine", "version 2"),
        (VaultConfig { login, ..good() }, "capabilities", "'create' on 'kv/data/minio/"),
        (
            VaultConfig { transit: Some(TransitConfig::new("none")), ..good() },
            "transit",
            "transit/encrypt/none",
        ),
    ] {
        let findings = check(config).await;
        let last = findings.last().unwrap();
        assert_eq!((last.level, last.what), (Level::Problem, what), "{findings:#?}");
        assert!(last.detail.to_lowercase().contains(part), "'{part}' in {last}");
    }
    bao.seal().await;
    let findings = check(good()).await;
    assert!(has(&findings, Level::Problem, "connection", "sealed"), "{findings:#?}");
}

fn problems(findings: &[Finding]) -> Vec<String> {
    findings.iter().filter(|finding| finding.level == Level::Problem).map(ToString::to_string).collect()
}

fn has(findings: &[Finding], level: Level, what: &str, part: &str) -> bool {
    findings.iter().any(|found| found.level == level && found.what == what && found.detail.contains(part))
}
