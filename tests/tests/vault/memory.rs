//! What remains of keys in the memory of a server that does not need them any more.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kms_tests::Protocol;
use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_vault::KvVersion;
use reqwest::Method;
use serde_json::{Value, json};

use super::server::KmsProcess;

const KEYS: usize = 8;

/// Unused keys end at once, and records are under transit.
const CONFIG: &str = r#"[keystore.vault.transit]
key = "minio"
[cache.expiry]
any = "1s"
unused = "1s"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_key_is_left_when_it_has_ended() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("minio").await;
    let login = bao.approle(WIDE_POLICY, "5m").await;
    let server = KmsProcess::start(&bao.endpoint(), &login, CONFIG, "info").await;
    let mut client = server.app(Protocol::Http2);
    let mut secrets = Vec::new();
    for n in 0..KEYS {
        let name = format!("my-key-{n}");
        let created = client.send("PUT", &format!("/v1/key/create/{name}"), "").await.unwrap();
        assert_eq!(created.code(), 200, "{}", created.text());
        secrets.extend(Secret::all_of(&bao, &name).await);
    }
    for _ in 0..3 {
        // On a busy machine the first keys may have ended before the last one is used.
        let mut master_keys = 0;
        for _ in 0..10 {
            for n in 0..KEYS {
                let used = client.send("PUT", &format!("/v1/key/generate/my-key-{n}"), "{}").await.unwrap();
                assert_eq!(used.code(), 200, "{}", used.text());
            }
            let found = found_in(server.pid(), &secrets);
            master_keys = found.iter().filter(|secret| secret.what == "master key").count();
            if master_keys >= KEYS {
                break;
            }
        }
        assert!(master_keys >= KEYS, "the search finds keys where they are: {master_keys}");
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    let left = found_in(server.pid(), &secrets);
    assert!(left.is_empty(), "{left:?}");
}

/// A part of a secret, and the name of that secret.
struct Secret {
    what: &'static str,
    part: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what)
    }
}

impl Secret {
    /// Returns all forms in which a server has the key.
    async fn all_of(bao: &Bao, name: &str) -> Vec<Self> {
        let stored = bao.ask(Method::GET, &format!("kv/data/minio/{name}"), Value::Null).await;
        let sealed = json!({"ciphertext": stored["data"]["data"][name]});
        let opened = bao.ask(Method::PUT, "transit/decrypt/minio", sealed).await;
        let plaintext = opened["data"]["plaintext"].as_str().unwrap();
        let record = STANDARD.decode(plaintext).unwrap();
        let message = STANDARD.decode(&record).unwrap();
        // The bytes 4 to 36 of the message are the key. The four bytes before it are the same in all
        // messages.
        vec![
            Self { what: "master key", part: message[4..36].to_vec() },
            Self { what: "record", part: record[8..40].to_vec() },
            Self { what: "plaintext of transit", part: plaintext.as_bytes()[12..52].to_vec() },
        ]
    }
}

/// Searches the writable memory of a process.
fn found_in(pid: u32, secrets: &[Secret]) -> Vec<&Secret> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // The guard of a stack and memory that was given back meanwhile cannot be read.
        let Ok(()) = memory.read_exact_at(&mut bytes, from) else { continue };
        for secret in secrets {
            let first = secret.part[0];
            let is_here = bytes
                .iter()
                .enumerate()
                .any(|(at, byte)| *byte == first && bytes[at..].starts_with(&secret.part));
            if is_here {
                found.push(secret);
            }
        }
    }
    found
}
