//! Clients hang up while the server asks Vault.

use std::time::Duration;

use kms_core::CacheConfig;
use kms_tests::TestServer;
use kms_tests::bao::Bao;
use kms_tests::cut_off::CutOff;
use kms_vault::KvVersion;
use reqwest::Method;
use serde_json::Value;

use super::common::ring;

#[tokio::test(flavor = "multi_thread")]
async fn effects_in_vault_are_recorded_although_the_client_left() {
    for version in [KvVersion::V1, KvVersion::V2] {
        let bao = Bao::with_kv(version).await;
        let mut config = bao.config(version);
        (config.write_deadline, config.settle) = (Duration::from_millis(100), Duration::from_millis(150));
        let mut builder = TestServer::builder();
        let audit_file = builder.path("audit.log");
        builder.settings.log.audit_file = Some(audit_file.clone());
        let server = builder.kms(ring(config, CacheConfig::default())).start().await;
        let cut_off = CutOff { server: &server, audit_file: &audit_file };
        let part = if version == KvVersion::V1 { "kv" } else { "kv/data" };
        cut_off
            .check(async |name| {
                bao.try_in("", Method::GET, &format!("{part}/minio/{name}"), Value::Null).await.0 == 200
            })
            .await;
    }
}
