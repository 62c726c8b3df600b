//! The key servers that MinIO's operator starts for a tenant (`spec.kes`), on this program: its command, mounts and variables.

use std::path::Path;

use kms_server::credentials::certificate::CertifiedKey;
use kms_tests::bao::{Bao, GUIDE_POLICY};
use kms_tests::programs::{free_port, until};
use kms_tests::server::server_certificate;
use kms_tests::shell::{Serving, field};
use kms_tests::{Client, Protocol, TestIdentity};
use kms_vault::{KvVersion, Login, SecretSource};

use super::pod::{Pod, renew};

const GUIDE: &str = include_str!("../../../docs/kubernetes.md");
/// A config as the operator's examples of 2021 have it.
const OF_2021: &str = include_str!("../../configs/operator-2021.yml");

/// The mode of the files in the operator's projected volume, with the group of the pod.
const MODE: u32 = 0o644;

/// Returns the config of the page: `server-config.yaml` in its secret.
fn of_the_page() -> String {
    let block = GUIDE.split("```yaml\n").find(|block| block.contains("server-config.yaml: |")).unwrap();
    let lines = block.split("```").next().unwrap().lines();
    let mut lines = lines.skip_while(|line| line.trim() != "server-config.yaml: |").skip(1).peekable();
    let indent = lines.peek().unwrap().len() - lines.peek().unwrap().trim_start().len();
    lines
        .map_while(|line| line.get(indent..).or(Some("").filter(|_| line.is_empty())))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// A tenant of the operator: what is in its secrets.
struct Tenant {
    minio: TestIdentity,
    config: String,
    port: u16,
}

impl Tenant {
    /// Puts what an operator of the tenant fills in into the config.
    async fn new(config: &str, bao: &Bao) -> Self {
        let Login::AppRole(role) = bao.approle(&GUIDE_POLICY.replace("minio", "my-minio"), "5m").await else {
            panic!("it is an AppRole")
        };
        let SecretSource::Value(secret) = &role.secret else { panic!("it is a value") };
        let port = free_port();
        let mut config = config.to_owned();
        for (from, to) in [
            // The test listens on no other address.
            ("address: 0.0.0.0:7373", format!("address: 127.0.0.1:{port}")),
            ("address: :7373", format!("address: 127.0.0.1:{port}")),
            ("https://vault.default.svc.cluster.local:8200", bao.endpoint()),
            ("00000000-0000-0000-0000-000000000001", role.id.clone()),
            ("00000000-0000-0000-0000-000000000002", secret.expose().to_owned()),
        ] {
            config = config.replace(from, &to);
        }
        assert!(config.contains(&port.to_string()) && config.contains(&bao.endpoint()), "{config}");
        Self { minio: TestIdentity::new(), config, port }
    }

    fn files(&self, pair: &CertifiedKey) -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("server-config.yaml", self.config.clone().into_bytes()),
            ("server.crt", pair.chain_pem().into_bytes()),
            ("server.key", pair.key_pem().as_bytes().to_vec()),
        ]
    }

    /// Starts a container as the operator's StatefulSet has it. It leaves the flag out where it does not know the tag of the image.
    fn start(&self, pair: &CertifiedKey, knows_the_tag: bool) -> (Serving, std::path::PathBuf, Pod) {
        let all = ["server", "--config=/tmp/kes/server-config.yaml", "--auth=off"];
        let args = if knows_the_tag { &all[..] } else { &all[..2] };
        let mut pod = Pod::new(args).env("MINIO_KES_IDENTITY", self.minio.identity());
        let volume = pod.secret("/tmp/kes", &self.files(pair), MODE);
        (pod.serve(), volume, pod)
    }

    fn client(&self) -> Client {
        Client::new(([127, 0, 0, 1], self.port).into(), Protocol::Http2, &self.minio)
    }

    /// Does what a MinIO asks of its key server.
    async fn use_keys(&self) {
        let mut client = self.client();
        let created = client.send("POST", "/v1/key/create/my-minio-key", "").await.unwrap();
        assert_eq!(created.code(), 200, "{}", created.text());
        let dek = client.send("POST", "/v1/key/generate/my-minio-key", "{}").await.unwrap();
        let sealed = format!("{{\"ciphertext\":\"{}\"}}", field(dek.text(), "ciphertext"));
        let opened = client.send("POST", "/v1/key/decrypt/my-minio-key", sealed).await.unwrap();
        assert_eq!(field(opened.text(), "plaintext"), field(dek.text(), "plaintext"));
        assert_eq!(client.send("DELETE", "/v1/key/delete/my-minio-key", "").await.unwrap().code(), 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_leads_to_a_tenant_that_uses_keys_in_vault() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let tenant = Tenant::new(&of_the_page(), &bao).await;
    let first = server_certificate();
    let (serving, volume, _pod) = tenant.start(&first, true);
    tenant.use_keys().await;
    for path in ["/v1/status", "/v1/metrics", "/v1/key/describe/my-minio-key"] {
        assert_eq!(tenant.client().send("GET", path, "").await.unwrap().code(), 200, "{path}");
    }

    // The kubelet replaces the files when the certificate in the secret was renewed.
    let second = server_certificate();
    renew(&volume, &tenant.files(&second), MODE);
    let told = || serving.stdout() + &serving.stderr();
    until("the new certificate is served", async || presented(tenant.port).await == second.chain[0].as_ref())
        .await;
    assert_eq!(tenant.client().send("GET", "/v1/status", "").await.unwrap().code(), 200, "{}", told());
    assert!(serving.stop().success());

    // A second server of the tenant, under a tag that the operator does not know.
    let (serving, _volume, _pod) = tenant.start(&second, false);
    let known = tenant.client().send("GET", "/v1/key/describe/my-minio-key", "").await.unwrap();
    assert_eq!(known.code(), 200, "{}", known.text());
    assert!(serving.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_of_the_operators_older_examples_serves() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let tenant = Tenant::new(OF_2021, &bao).await;
    let (serving, _volume, _pod) = tenant.start(&server_certificate(), true);
    tenant.use_keys().await;
    assert!(serving.stop().success());
}

/// Returns the certificate that a server presents, in DER.
async fn presented(port: u16) -> Vec<u8> {
    let config = std::sync::Arc::new(TestIdentity::none().client_config(&[]));
    let tls = kms_tests::client::tls_connect(([127, 0, 0, 1], port).into(), config).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// The page names the files of the test's container.
#[test]
fn the_page_names_what_the_operator_mounts() {
    for named in ["/tmp/kes/server.crt", "/tmp/kes/server.key", "${MINIO_KES_IDENTITY}", "kesSecret:"] {
        assert!(GUIDE.contains(named), "{named}");
    }
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes.md").exists());
}
