//! A reload takes effect as a whole or not at all, and costs no request.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kms_core::KeyRing;
use kms_core::store::MemoryStore;
use kms_server::Server;
use kms_server::settings::KeyStoreSettings;
use kms_tests::{Protocol, TestServer};
use kms_vault::{Login, SecretSource, VaultConfig};

use super::super::certificates::{authority, pem_of};
use super::server::{GENERATE, REFUSED, Reloaded};

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_load_leaves_the_old_in_force_and_says_why() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let mut app = server.client(Protocol::Http2, &server.app);
    server.reload(&server.config("off", None).replace("allow =", "alow ="), REFUSED);
    assert!(server.log().contains("kms.toml:10: policy.app.alow: unknown key"), "{}", server.log());
    server
        .reload(&server.config("off", None).replace("cert = \"server.crt\"", "cert = \"none.crt\""), REFUSED);
    assert!(server.log().contains("none.crt"), "{}", server.log());
    assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    let moved =
        server.config("off", Some(&server.app)).replace("address = \"127.0.0.1:", "address = \"127.0.0.2:");
    server.reload(&moved, "changes of these take effect at the next start: address");
    assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
}

/// The CA of a Vault changes. The server says that it goes on with the old one.
#[tokio::test]
async fn other_files_for_a_vault_are_told_as_waiting_for_the_next_start() {
    let (first, second, third) = (TestServer::builder(), TestServer::builder(), TestServer::builder());
    let (pair, file) = ([first.path("server.crt"), first.path("server.key")], first.path("vault-ca.crt"));
    let settings = |mut builder: kms_tests::server::TestServerBuilder| {
        let mut vault =
            VaultConfig::new("https://127.0.0.1:1", Login::Token(SecretSource::Value("t".into())));
        vault.tls.ca = Some(file.clone());
        builder.settings.key_store = KeyStoreSettings::Vault(Box::new(vault));
        [builder.settings.tls.cert, builder.settings.tls.key] = pair.clone();
        builder.settings
    };
    let [before, after] = [authority(), authority()].map(|authority| pem_of(&authority.0));
    fs::write(&file, before).unwrap();
    let kms = Arc::new(KeyRing::new(MemoryStore::new(), first.settings.cache));
    let server = Server::with_kms(settings(TestServer::builder()), kms).await.unwrap();
    let reloader = server.listen().await.unwrap().reloader();
    assert_eq!(reloader.reload(settings(second)).await.unwrap(), [""; 0]);
    fs::write(&file, after).unwrap();
    assert_eq!(reloader.reload(settings(third)).await.unwrap(), ["the files of keystore.vault.tls"]);
}

/// Each reload comes with a signal, and the test waits until it is in force.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_reloads_under_load_fail_no_request_and_leave_nothing_behind() {
    let reloads: u64 = std::env::var("KMS_TEST_RELOADS").map_or(1_000, |text| text.parse().unwrap());
    let server = tokio::task::block_in_place(Reloaded::start);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = Protocol::ALL
        .into_iter()
        .map(|protocol| {
            let mut client = server.client(protocol, &server.app);
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.send("POST", GENERATE, "{}").await.unwrap();
                    assert_eq!(answer.code(), 200, "{}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let files = || fs::read_dir(format!("/proc/{}/fd", server.child().id())).map(Iterator::count);
    let mut admin = server.client(Protocol::Http2, &server.admin);
    let mut before = (0, None);
    for number in 0..reloads {
        // Both configs allow the load. They differ in what else they allow.
        let other =
            server.config("off", Some(&server.app)).replace("my-*", ["my-*", "my-k*"][(number % 2) as usize]);
        fs::write(server.file("kms.toml"), other).unwrap();
        server.hang_up();
        let began = Instant::now();
        loop {
            let answer = admin.send("GET", "/v1/policy/read/app", "").await.unwrap();
            if answer.text().contains(["generate/my-*", "generate/my-k*"][(number % 2) as usize]) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "reload {number} is not in force");
        }
        if number == reloads / 10 {
            before = (server.resident_kib(), files().ok());
        }
    }
    let after = (server.resident_kib(), files().ok());
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.unwrap();
    }
    let answered = answered.load(Ordering::Relaxed);
    println!(
        "{reloads} reloads, {answered} requests answered, resident {} KiB, then {} KiB",
        before.0, after.0
    );
    assert!(answered > reloads);
    assert!(after.0 < before.0 + 4096, "memory grew from {} to {} KiB", before.0, after.0);
    assert_eq!(before.1, after.1, "open files");
}
