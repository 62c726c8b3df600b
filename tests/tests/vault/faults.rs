//! Outages of every kind. Cached keys go on, other keys fail in time, and no answer is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::store::KeyStore;
use kms_core::{CacheConfig, DataKey, ErrorKind, Kms};
use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_tests::programs::until;
use kms_vault::{KvVersion, Login, Secret, SecretSource, VaultConfig};
use reqwest::Method;
use serde_json::json;

use super::common::{Ring, entry, key, kind, list_all, open, record, request, ring};
use super::proxy::{Fault, Proxy};

const PING: Duration = Duration::from_secs(1);
/// Keys end soon, but stay available in an outage.
const CACHE: CacheConfig = CacheConfig::new()
    .with_any(Duration::from_millis(300))
    .with_unused(Duration::from_secs(600))
    .with_offline(Duration::from_secs(600))
    .with_ping(PING);

#[tokio::test(flavor = "multi_thread")]
async fn what_the_network_does_to_us() {
    static FULL: [u8; 100_000] = [b'x'; 100_000];
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let timeout = Duration::from_secs(1);
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let config =
        VaultConfig { login, ping: PING, timeout, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) };
    let witness = Witness::start(ring(config, CACHE)).await;
    for (fault, expected) in [
        (Fault::Delay(Duration::from_secs(5)), ErrorKind::Timeout),
        (Fault::Drop, ErrorKind::Timeout),
        (Fault::Reset, ErrorKind::Unreachable),
        (Fault::ResetAfter, ErrorKind::Unreachable),
        (Fault::Garbage(b"<html>maintenance</html>"), ErrorKind::Unreachable),
        (Fault::Garbage(b"{}"), ErrorKind::Unreachable),
        (Fault::Garbage(b"{\"data\":{\"data\":{"), ErrorKind::Unreachable),
        (Fault::Garbage(&FULL), ErrorKind::Unreachable),
        (Fault::Status(429), ErrorKind::Throttled),
        (Fault::Status(500), ErrorKind::Unreachable),
        (Fault::Status(502), ErrorKind::Unreachable),
        (Fault::Status(503), ErrorKind::Unreachable),
    ] {
        proxy.fail(fault.clone());
        witness.outage(&format!("{fault:?}").chars().take(60).collect::<String>(), expected, timeout).await;
        proxy.fail(Fault::None);
        witness.recovery().await;
    }
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_and_unsealed() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let config = VaultConfig { login, ping: PING, ..bao.config(KvVersion::V2) };
    let witness = Witness::start(ring(config, CACHE)).await;
    bao.seal().await;
    witness.outage("sealed", ErrorKind::Sealed, Duration::from_secs(1)).await;
    bao.unseal().await;
    witness.recovery().await;
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted() {
    let mut bao = Bao::with_kv(KvVersion::V1).await;
    let login = bao.approle(kms_tests::bao::GUIDE_POLICY, "5m").await;
    let config = VaultConfig { login, ping: PING, ..bao.config(KvVersion::V1) };
    let witness = Witness::start(ring(config, CACHE)).await;
    bao.kill().await;
    witness.outage("killed", ErrorKind::Unreachable, Duration::from_secs(1)).await;
    bao.run().await;
    witness.outage("restarted, still sealed", ErrorKind::Sealed, Duration::from_secs(1)).await;
    bao.unseal().await;
    witness.recovery().await;
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_away_or_sealed_at_the_start_is_waited_for() {
    let mut bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    bao.kill().await;
    let store = open(VaultConfig { login, ping: PING, ..bao.config(KvVersion::V2) });
    assert_eq!(kind(store.status().await), Some(ErrorKind::Unreachable));
    assert_eq!(kind(store.get(&entry("key")).await), Some(ErrorKind::Unreachable));
    bao.run().await;
    assert_eq!(kind(store.status().await), Some(ErrorKind::Sealed));
    until("the login is tried again", async || {
        kind(store.get(&entry("key")).await) == Some(ErrorKind::Sealed)
    })
    .await;
    bao.unseal().await;
    let began = Instant::now();
    until("it serves", async || store.create(&entry("key"), &record()).await.is_ok()).await;
    assert!(began.elapsed() < 2 * PING, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_ends_keys_although_there_is_an_offline_copy() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let kms = ring(VaultConfig { login, ping: PING, ..bao.config(KvVersion::V2) }, CACHE);
    kms.create(&request(), &key("key")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await; // a younger token would not be suspected
    kms.generate(&request(), &key("key"), b"").await.unwrap();
    bao.ask(Method::DELETE, "auth/approle/role/kms", json!(null)).await;
    bao.ask(Method::PUT, "sys/leases/revoke-prefix/auth/approle", json!({"sync": true})).await;
    let began = Instant::now();
    until("the key ends", async || {
        kind(kms.generate(&request(), &key("key"), b"").await) == Some(ErrorKind::LoginRefused)
    })
    .await;
    assert!(began.elapsed() < CACHE.any + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_of_unknown_outcome_is_read_back_and_never_sent_again() {
    let bao = Bao::start().await;
    for version in [KvVersion::V1, KvVersion::V2] {
        bao.mount_kv(engine(version), version).await;
        let proxy = Proxy::start(bao.endpoint()).await;
        let config = VaultConfig {
            engine: engine(version).to_owned(),
            endpoint: proxy.endpoint(),
            timeout: Duration::from_secs(1),
            ..bao.config(version)
        };
        let kms = ring(config, CACHE);
        let puts = || proxy.take_seen().iter().filter(|(method, _)| method == "PUT").count();
        let on_put = |fault: Fault| {
            proxy.fail_if(move |method, _| if method == "PUT" { fault.clone() } else { Fault::None });
        };
        on_put(Fault::ResetAfter);
        kms.create(&request(), &key("written"))
            .await
            .unwrap_or_else(|error| panic!("{version:?}: {error:?}"));
        assert_eq!(puts(), 1, "{version:?}");

        on_put(Fault::Reset);
        assert_eq!(
            kind(kms.create(&request(), &key("lost")).await),
            Some(ErrorKind::Unreachable),
            "{version:?}"
        );
        assert_eq!(puts(), 1, "{version:?}");

        proxy.fail(Fault::None);
        kms.create(&request(), &key("lost")).await.unwrap();
        assert_eq!(kind(kms.create(&request(), &key("written")).await), Some(ErrorKind::AlreadyExists));
    }
}

/// The write arrives after its deadline and before the end of the settle time.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_write_on_v1_is_waited_for() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let store = open(VaultConfig { endpoint: proxy.endpoint(), ..bao.config(KvVersion::V1) });
    store.status().await.unwrap();
    let slow = Duration::from_millis(800);
    proxy.fail_if(move |method, _| if method == "PUT" { Fault::Delay(slow) } else { Fault::None });
    let began = Instant::now();
    store.create(&entry("slow"), &record()).await.expect("it was written after all");
    assert!(began.elapsed() > Duration::from_millis(1400), "{:?}", began.elapsed());
    assert!(store.get(&entry("slow")).await.unwrap() == record());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_that_is_not_vaults_is_no_missing_key() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let kms = ring(VaultConfig { endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) }, CACHE);
    kms.create(&request(), &key("key")).await.unwrap();
    proxy.fail(Fault::Status(404));
    let outcome = kind(kms.store().get(&entry("key")).await);
    assert!(outcome.is_some_and(|kind| kind != ErrorKind::NotFound), "{outcome:?}");

    // A Vault without the engine, or another namespace, does not make the key absent either.
    let elsewhere = open(VaultConfig { engine: "nothing-here".to_owned(), ..bao.config(KvVersion::V2) });
    let error = elsewhere.get(&entry("key")).await.err().unwrap();
    assert_ne!(error.kind(), ErrorKind::NotFound);
    assert!(error.chain().to_string().contains("no handler"), "{error:?}");
    let lost = open(VaultConfig { namespace: Some("nowhere".to_owned()), ..bao.config(KvVersion::V2) });
    assert_ne!(kind(lost.get(&entry("key")).await), Some(ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_generates_are_a_handful_of_requests() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let login = bao.approle(LEAST_POLICY, "5m").await;
    let config = VaultConfig { login, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) };
    let names: Vec<_> = (0..10).map(|n| key(&format!("key-{n}"))).collect();
    let maker = ring(bao.config(KvVersion::V2), CACHE);
    for name in &names {
        maker.create(&request(), name).await.unwrap();
    }
    let began = Instant::now();
    let servers: Vec<Ring> = (0..2).map(|_| ring(config.clone(), CacheConfig::default())).collect();
    let load: Vec<_> = servers
        .iter()
        .flat_map(|server| (0..5).map(|_| Arc::clone(server)))
        .map(|server| {
            let names = names.clone();
            tokio::spawn(async move {
                for n in 0..10_000 {
                    server.generate(&request(), &names[n % names.len()], b"context").await.unwrap();
                }
            })
        })
        .collect();
    for client in load {
        client.await.unwrap();
    }
    let seen = proxy.take_seen();
    let elapsed = usize::try_from(began.elapsed().as_secs() / 300).unwrap();
    // Each read of a key asks for the key and for its next version.
    let (logins, allowed) = (2, 2 * 10 * 2 * 2 * (1 + elapsed));
    assert!(
        seen.len() <= allowed + logins,
        "{} requests, {allowed} allowed and {logins} logins: {seen:?}",
        seen.len()
    );
    println!("{} requests to Vault", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_keys_are_listed_page_by_page() {
    let bao = Arc::new(Bao::with_kv(KvVersion::V1).await);
    let mut names: Vec<String> = (0..5000).map(|n| format!("key-{n:x}")).collect();
    let writers: Vec<_> = names
        .chunks(160)
        .map(|names| {
            let (bao, names) = (Arc::clone(&bao), names.to_vec());
            tokio::spawn(async move {
                for name in names {
                    bao.ask(Method::PUT, &format!("kv/minio/{name}"), json!({&name: "record"})).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    bao.ask(Method::PUT, "kv/minio/.v/00/2", json!({"x": "slot"})).await;
    bao.ask(Method::PUT, "kv/minio/of-others/key", json!({"x": "y"})).await;
    names.sort_unstable();
    let kms = ring(bao.config(KvVersion::V1), CACHE);
    let began = Instant::now();
    assert_eq!(list_all(kms.as_ref(), "", 1024).await, names);
    println!("5,000 keys in {:?}", began.elapsed());
    let some: Vec<_> = names.iter().filter(|name| name.starts_with("key-1")).cloned().collect();
    assert_eq!(list_all(kms.as_ref(), "key-1", 100).await, some);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_logs_tell_no_token() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let proxy = Proxy::start(bao.endpoint()).await;
    let token = Login::Token(SecretSource::Value(Secret::from(bao.root.as_str())));
    let config = VaultConfig { login: token, endpoint: proxy.endpoint(), ..bao.config(KvVersion::V2) };
    assert!(!format!("{config:?}").contains(&bao.root));
    let store = open(config);
    store.create(&entry("key"), &record()).await.unwrap();
    for fault in [Fault::Status(403), Fault::Status(500), Fault::Garbage(b"{\"auth\": 1}"), Fault::Reset] {
        proxy.fail(fault);
        let error = store.get(&entry("key")).await.err().unwrap();
        let text = format!("{error:?} {error} {}", error.chain());
        assert!(!text.contains(&bao.root), "{text}");
    }
}

/// A client that uses one key through every outage and checks every answer.
struct Witness {
    kms: Ring,
    dek: Arc<DataKey>,
    work: tokio::task::JoinHandle<u64>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Witness {
    async fn start(kms: Ring) -> Self {
        kms.create(&request(), &key("cached")).await.unwrap();
        let dek = Arc::new(kms.generate(&request(), &key("cached"), b"context").await.unwrap());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let work = tokio::spawn({
            let (kms, dek) = (Arc::clone(&kms), Arc::clone(&dek));
            async move {
                let mut done = 0;
                while !*stopped.borrow() {
                    let fresh =
                        kms.generate(&request(), &key("cached"), b"c").await.expect("generate, cached");
                    for (dek, context) in [(&*dek, b"context".as_slice()), (&fresh, b"c")] {
                        let opened = kms.decrypt(&request(), &key("cached"), &dek.ciphertext, context).await;
                        let opened = opened.expect("decrypt, cached");
                        assert!(opened.expose() == dek.plaintext.expose(), "a wrong answer");
                    }
                    done += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                done
            }
        });
        Self { kms, dek, work, stop }
    }

    /// Checks that uncached keys fail in time with the expected error, and that cached keys go on beyond
    /// their end.
    async fn outage(&self, what: &str, expected: ErrorKind, timeout: Duration) {
        let end = Instant::now() + 3 * CACHE.any;
        while Instant::now() < end {
            let began = Instant::now();
            let outcome = kind(self.kms.generate(&request(), &key("uncached"), b"").await);
            assert_eq!(outcome, Some(expected), "{what}");
            assert!(began.elapsed() < timeout + Duration::from_secs(2), "{what}: {:?}", began.elapsed());
            // Nobody knows whether the key was created.
            let outcome = kind(self.kms.create(&request(), &key("unsure")).await);
            assert!(outcome.is_some_and(ErrorKind::is_outage), "{what}: {outcome:?}");
            let status = self.kms.status().await.expect("a server with an offline copy goes on");
            assert!(!status.reachable && status.degraded.is_some(), "{what}: {status:?}");
            assert!(!self.work.is_finished(), "{what}: the work ended");
            let opened = self.kms.decrypt(&request(), &key("cached"), &self.dek.ciphertext, b"context").await;
            assert!(opened.unwrap().expose() == self.dek.plaintext.expose(), "{what}");
        }
    }

    /// Checks that everything works again soon.
    async fn recovery(&self) {
        let began = Instant::now();
        until("an uncached key is read", async || {
            kind(self.kms.generate(&request(), &key("uncached"), b"").await) == Some(ErrorKind::NotFound)
        })
        .await;
        assert!(began.elapsed() < 2 * PING, "it took {:?}", began.elapsed());
        assert!(self.kms.status().await.unwrap().reachable);
    }

    async fn finish(self) {
        self.stop.send_replace(true);
        assert!(self.work.await.unwrap() > 100);
    }
}

fn engine(version: KvVersion) -> &'static str {
    if version == KvVersion::V1 { "kv" } else { "kv2" }
}
