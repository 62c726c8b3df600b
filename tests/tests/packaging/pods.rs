//! The pods that the chart describes, in namespaces.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_tests::programs::{free_port, http};
use kms_tests::server::server_certificate;
use kms_tests::shell::{Serving, field};
use kms_tests::{Client, Protocol, TestIdentity};
use kms_vault::{KvVersion, Login};

use super::cases::CASES;
use super::pod::Pod;
use super::rendered::judge;

/// A secret: its name, and the files in it.
type Mounted<'a> = (&'a str, &'a [(&'a str, Vec<u8>)]);

/// What a pod gets beside the files of the test: where it listens, and who may do everything.
struct Running {
    pod: Pod,
    admin: TestIdentity,
    probes: u16,
}

impl Running {
    /// Makes the pod that a release describes. `secrets` are the secrets that the values name.
    fn of(values: &str, secrets: &[Mounted<'_>], volume: Option<&Path>) -> Self {
        let (admin, probes) = (TestIdentity::new(), free_port());
        // No test here listens on all addresses.
        let variables = [
            ("KMS_ADDRESS", "127.0.0.1:0".to_owned()),
            ("KMS_PROBES__ADDRESS", format!("127.0.0.1:{probes}")),
            ("KMS_ADMIN__IDENTITY", admin.identity().to_string()),
        ];
        let env: Vec<String> =
            variables.iter().map(|(name, value)| format!("{{name: {name}, value: '{value}'}}")).collect();
        let values = format!("{values}\nextraEnv: [{}]\n", env.join(", "));
        let release = judge(&[("pod", &values)]).remove("pod").unwrap();
        let args: Vec<&str> =
            release.container()["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        let mut pod = Pod::new(&args);
        for variable in release.container()["env"].as_array().unwrap() {
            pod = pod.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
        }
        let config = release.config().as_bytes().to_vec();
        let pair = server_certificate();
        let cert =
            [("tls.crt", pair.chain_pem().into_bytes()), ("tls.key", pair.key_pem().as_bytes().to_vec())];
        for mount in release.container()["volumeMounts"].as_array().unwrap() {
            let (name, at) = (mount["name"].as_str().unwrap(), mount["mountPath"].as_str().unwrap());
            let volumes = release.pod()["volumes"].as_array().unwrap();
            let Some(source) = volumes.iter().find(|one| one["name"] == name).map(|one| &one["secret"])
            else {
                pod.persistent(at, volume.expect("a volume is needed"));
                continue;
            };
            let secret = source["secretName"].as_str().unwrap();
            let mode = u32::try_from(source["defaultMode"].as_u64().unwrap()).unwrap();
            let files: Vec<(&str, Vec<u8>)> = match secret {
                "main-kms-config" => vec![("config.toml", config.clone())],
                "cert" => cert.to_vec(),
                other => secrets.iter().find(|(name, _)| *name == other).unwrap().1.to_vec(),
            };
            let items = source["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let path = |key: &str| {
                items.iter().find(|item| item["key"] == key).map(|item| item["path"].as_str().unwrap())
            };
            let files: Vec<_> =
                files.iter().map(|(key, file)| (path(key).unwrap_or(key), file.clone())).collect();
            pod.secret(at, &files, mode);
        }
        Self { pod, admin, probes }
    }

    async fn probe(&self, path: &str) -> u16 {
        let url = format!("http://127.0.0.1:{}{path}", self.probes);
        http().get(url).send().await.unwrap().status().as_u16()
    }

    fn client(&self, serving: &Serving) -> Client {
        let stdout = serving.stdout();
        let address = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
        Client::new(address.parse().unwrap(), Protocol::Http1, &self.admin)
    }
}

fn root_key() -> Vec<u8> {
    let mut root_key = [0; 32];
    kms_core::primitives::fill_random(&mut root_key).unwrap();
    STANDARD.encode(root_key).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_the_embedded_store_keeps_its_keys_on_its_volume() {
    let volume = tempfile::tempdir().unwrap();
    let root = [("root.key", root_key())];
    let secrets: &[Mounted<'_>] = &[("root", &root)];
    let first = format!("{}\npersistence: {{createStore: true}}", CASES[0].1);
    let pod = Running::of(&first, secrets, Some(volume.path()));
    let serving = pod.pod.serve();
    for path in ["/v1/metrics", "/v1/ready", "/metrics"] {
        assert_eq!(pod.probe(path).await, 200, "{path}");
    }
    let mut client = pod.client(&serving);
    assert_eq!(client.send("PUT", "/v1/key/create/my-key", "").await.unwrap().code(), 200);
    let dek = client.send("PUT", "/v1/key/generate/my-key", "{}").await.unwrap();
    let sealed = format!("{{\"ciphertext\":\"{}\"}}", field(dek.text(), "ciphertext"));
    assert!(serving.stop().success());

    let pod = Running::of(CASES[0].1, secrets, Some(volume.path()));
    let serving = pod.pod.serve();
    let opened = pod.client(&serving).send("PUT", "/v1/key/decrypt/my-key", sealed).await.unwrap();
    assert_eq!(field(opened.text(), "plaintext"), field(dek.text(), "plaintext"));
    assert!(serving.stop().success());

    // Another volume does not become another store unasked.
    let empty = tempfile::tempdir().unwrap();
    let refused = Running::of(CASES[0].1, secrets, Some(empty.path())).pod.run();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("is the volume mounted?"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_keys_in_vault_share_them() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let Login::AppRole(role) = login else { panic!("it is an AppRole") };
    let secrets: &[Mounted<'_>] = &[("vault", &[("secret-id", bao.secret_id().await.into_bytes())])];
    let values = format!(
        "tls: {{existingSecret: cert}}\ncredentials: {{existingSecret: vault}}\nconfig: {{keystore: {{vault: {{endpoint: '{}', \
         version: v2, prefix: minio, approle: {{id: '{}', secret_file: /etc/kms/credentials/secret-id}}}}}}}}",
        bao.endpoint(),
        role.id
    );
    let pods = [(); 2].map(|()| Running::of(&values, secrets, None));
    let servings = pods.each_ref().map(|pod| pod.pod.serve());
    let [mut one, mut two] = [0, 1].map(|at| pods[at].client(&servings[at]));
    assert_eq!(one.send("PUT", "/v1/key/create/my-key", "").await.unwrap().code(), 200);
    let dek = one.send("PUT", "/v1/key/generate/my-key", "{}").await.unwrap();
    let sealed = format!("{{\"ciphertext\":\"{}\"}}", field(dek.text(), "ciphertext"));
    assert_eq!(two.send("PUT", "/v1/key/decrypt/my-key", sealed.clone()).await.unwrap().code(), 200);

    // In an outage the pods stay ready, since they have the keys in memory.
    bao.seal().await;
    assert_eq!(two.send("PUT", "/v1/key/decrypt/my-key", sealed).await.unwrap().code(), 200);
    for pod in &pods {
        assert_eq!((pod.probe("/v1/ready").await, pod.probe("/v1/metrics").await), (200, 200));
    }
}
