//! Another configuration while clients are at work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kms_core::{KeyRing, MemoryStore};
use kms_server::Server;
use kms_server::credentials::certificate::NewCertificate;
use kms_server::settings::KeyStoreSettings;
use kms_tests::client::{body_over_channel, tls_connect};
use kms_tests::process::kms_binary;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use kms_vault::{Login, SecretSource, VaultConfig};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};

use super::certificates::{authority, pem_of, signed};

/// A `kms server` on a config file that the test rewrites.
pub struct Reloaded {
    child: Option<Child>,
    pub directory: tempfile::TempDir,
    address: std::net::SocketAddr,
    pub admin: TestIdentity,
    pub app: TestIdentity,
}

impl Reloaded {
    pub fn start() -> Self {
        let (admin, app) = (TestIdentity::new(), TestIdentity::new());
        Self::start_with(admin, app, &[], |server| server.config("off", Some(&server.app)))
    }

    /// Starts one with these files beside its config, and `roots` as the CAs of the system.
    pub fn start_with(
        admin: TestIdentity,
        app: TestIdentity,
        files: &[(&str, &str)],
        config: impl FnOnce(&Self) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        write_certificate(directory.path());
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(kms_binary());
        command
            .args(["server", "--config", "kms.toml"])
            .current_dir(directory.path())
            .env_remove("KMS_LOG")
            .env_remove("RUST_LOG")
            .env("SSL_CERT_FILE", directory.path().join("roots.pem"))
            .env_remove("SSL_CERT_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut server = Self { child: None, directory, address, admin, app };
        fs::write(server.file("kms.toml"), config(&server)).unwrap();
        server.child = Some(command.spawn().unwrap());
        server.until_told("server is up", 1);
        server
    }

    pub fn client(&self, protocol: Protocol, identity: &TestIdentity) -> Client {
        Client::new(self.address, protocol, identity)
    }

    pub fn child(&self) -> &Child {
        self.child.as_ref().unwrap()
    }

    pub fn hang_up(&self) {
        kill_process(Pid::from_child(self.child()), Signal::HUP).unwrap();
    }

    /// Loads another configuration, and waits until it was loaded or refused.
    pub fn reload(&self, config: &str, told: &str) {
        let before = self.log().matches(told).count();
        fs::write(self.file("kms.toml"), config).unwrap();
        self.hang_up();
        self.until_told(told, before + 1);
    }

    pub fn until_told(&self, words: &str, times: usize) {
        let began = Instant::now();
        while self.log().matches(words).count() < times {
            assert!(began.elapsed() < Duration::from_secs(20), "not '{words}' in: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self, auth: &str, app: Option<&TestIdentity>) -> String {
        config(self.address, &self.admin, auth, app)
    }

    /// Waits until the process has ended.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        let began = Instant::now();
        let child = self.child.as_mut().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child().id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn write_certificate(directory: &Path) {
    let new = NewCertificate {
        common_name: "localhost".to_owned(),
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: Vec::new(),
        validity: Duration::from_secs(3600),
        server: true,
    };
    let pair = new.with_new_key().unwrap();
    fs::write(directory.join("server.key"), pair.key_pem().as_bytes()).unwrap();
    fs::write(directory.join("server.crt"), pair.chain_pem()).unwrap();
}

pub async fn server_certificate(server: &Reloaded) -> Vec<u8> {
    let config = Arc::new(server.app.client_config(&["h2"]));
    let tls = tls_connect(server.address, config).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn config(
    address: std::net::SocketAddr,
    admin: &TestIdentity,
    auth: &str,
    app: Option<&TestIdentity>,
) -> String {
    let identities = app.map_or(String::new(), |app| format!("\"{}\"", app.identity()));
    format!(
        r#"address = "{address}"
[admin]
identity = "{}"
[tls]
key = "server.key"
cert = "server.crt"
auth = "{auth}"
ca = "server.crt"
[policy.app]
allow = ["/v1/key/generate/my-*", "/v1/log/*"]
identities = [{identities}]
[[keys]]
name = "my-key"
[keystore.memory]
"#,
        admin.identity()
    )
}

pub const LOADED: &str = "the configuration was loaded again";
pub const REFUSED: &str = "the configuration was not loaded";
pub const GENERATE: &str = "/v1/key/generate/my-key";

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_without_its_policy_is_refused_on_the_connection_that_it_has() {
    let server = tokio::task::block_in_place(Reloaded::start);
    for protocol in Protocol::ALL {
        let mut app = server.client(protocol, &server.app);
        assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
        server.reload(&server.config("off", None), LOADED);
        assert!(app.is_connected());
        assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 403);
        server.reload(&server.config("off", Some(&server.app)), LOADED);
        assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
        assert!(app.is_connected(), "the same connection all the time");
    }
}

/// Its HTTP/2 connection has the few streams of a client that may do nothing, so it is asked to make another.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_a_policy_while_it_is_connected_gets_another_connection() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let other = TestIdentity::new();
    for (protocol, stays) in [(Protocol::Http1, true), (Protocol::Http2, false)] {
        server.reload(&server.config("off", None), LOADED);
        let mut client = server.client(protocol, &other);
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 403);
        assert!(client.is_connected());
        server.reload(&server.config("off", Some(&other)), LOADED);
        let begun = Instant::now();
        while client.is_connected() && begun.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(client.is_connected(), stays, "{protocol:?}");
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_listened_to_ends_with_the_right_to_it() {
    let server = tokio::task::block_in_place(Reloaded::start);
    for protocol in Protocol::ALL {
        for path in ["/v1/log/audit", "/v1/log/error/trace"] {
            let (mut app, mut admin) =
                (server.client(protocol, &server.app), server.client(protocol, &server.admin));
            let mut of_app = app.open(path).await.unwrap().into_body();
            let mut of_admin = admin.open(path).await.unwrap().into_body();
            server.reload(&server.config("off", Some(&server.app)), LOADED);
            assert!(!ends(&mut of_app).await, "{path}: a reload that changes nothing ends nothing");
            server.reload(&server.config("off", None), LOADED);
            assert!(ends(&mut of_app).await, "{path} goes on without a policy");
            assert!(!ends(&mut of_admin).await, "{path} of the admin goes on");
            server.reload(&server.config("off", Some(&server.app)), LOADED);
        }
    }
}

/// Tells whether a body ends; one from which nothing comes for half a second does not.
async fn ends(body: &mut Incoming) -> bool {
    loop {
        match tokio::time::timeout(Duration::from_millis(500), body.frame()).await {
            Err(_) => return false,
            Ok(None) => return true,
            Ok(Some(frame)) => drop(frame.unwrap()),
        }
    }
}

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

#[tokio::test(flavor = "multi_thread")]
async fn another_rule_for_clients_ends_connections_and_their_requests_are_answered() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let mut clients: Vec<_> =
        Protocol::ALL.into_iter().map(|protocol| server.client(protocol, &server.admin)).collect();
    for client in &mut clients {
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    }
    server.reload(&server.config("on", Some(&server.app)), LOADED);
    for client in &mut clients {
        let began = Instant::now();
        while client.is_connected() {
            assert!(began.elapsed() < Duration::from_secs(5), "a connection of the old rule lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            client.send("POST", GENERATE, "{}").await.is_err(),
            "no CA that is trusted signed the certificate"
        );
    }
    server.reload(&server.config("off", Some(&server.app)), LOADED);
    for client in &mut clients {
        assert_eq!(client.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    }
}

pub const FILES_LOADED: &str = "the certificate files have changed and were loaded";

/// Waits until the connection of a client is over.
async fn until_closed(client: &Client) {
    let began = Instant::now();
    while client.is_connected() {
        assert!(began.elapsed() < Duration::from_secs(5), "a connection of the old rule lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_streams_end_when_other_cas_sign_clients() {
    let (old, new) = (authority(), authority());
    let ca = pem_of(&old.0);
    let server = tokio::task::block_in_place(|| {
        Reloaded::start_with(signed(&old, |_| {}), signed(&old, |_| {}), &[("ca.crt", &ca)], |server| {
            server.config("on", Some(&server.app)).replace("ca = \"server.crt\"", "ca = \"ca.crt\"")
        })
    });
    let both = format!("{ca}{}", pem_of(&new.0));
    // First clients stay acceptable, then they do not; by a signal, and without one.
    for (ca, accepted, by_signal) in
        [(&both, true, false), (&ca, true, true), (&pem_of(&new.0), false, false)]
    {
        let mut streams = Vec::new();
        for protocol in Protocol::ALL {
            for path in ["/v1/log/audit", "/v1/log/error/trace"] {
                let mut client = server.client(protocol, &server.app);
                let body = client.open(path).await.unwrap().into_body();
                streams.push((client, body));
            }
        }
        let told = if by_signal { LOADED } else { FILES_LOADED };
        let before = server.log().matches(told).count();
        fs::write(server.file("ca.crt"), ca).unwrap();
        if by_signal {
            server.hang_up();
        }
        server.until_told(told, before + 1);
        for (client, body) in &mut streams {
            assert!(ends(body).await, "a log goes on under the old CAs");
            until_closed(client).await;
            let answer = client.send("POST", GENERATE, "{}").await;
            assert_eq!(
                answer.as_ref().map(kms_tests::Answer::code).ok(),
                accepted.then_some(200),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_proxy_are_verified_by_the_cas_that_have_changed() {
    let (old, new) = (authority(), authority());
    let both = format!("{}{}", pem_of(&old.0), pem_of(&new.0));
    let proxy = signed(&new, |_| {});
    let server = tokio::task::block_in_place(|| {
        Reloaded::start_with(signed(&old, |_| {}), signed(&old, |_| {}), &[("ca.crt", &both)], |server| {
            let section = format!(
                "[tls.proxy]\nidentities = [\"{}\"]\nheader.cert = \"x-cert\"\n[policy.app]",
                proxy.identity()
            );
            let config = server.config("on", Some(&server.app)).replace("[policy.app]", &section);
            config.replace("ca = \"server.crt\"", "ca = \"ca.crt\"")
        })
    });
    let certificate = utf8_percent_encode(&server.app.certificate_pem(), NON_ALPHANUMERIC).to_string();
    let headers = [("x-cert", certificate.as_str())];
    let mut through = server.client(Protocol::Http2, &proxy);
    assert_eq!(through.send_with("POST", GENERATE, &headers, "{}").await.unwrap().code(), 200);
    fs::write(server.file("ca.crt"), pem_of(&new.0)).unwrap();
    server.until_told(FILES_LOADED, 1);
    until_closed(&through).await;
    let answer = through.send_with("POST", GENERATE, &headers, "{}").await.unwrap();
    assert_eq!(answer.code(), 400, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_roots_of_the_system_are_seen() {
    let (old, new) = (authority(), authority());
    let server = tokio::task::block_in_place(|| {
        let roots = pem_of(&old.0);
        Reloaded::start_with(signed(&old, |_| {}), signed(&new, |_| {}), &[("roots.pem", &roots)], |server| {
            server.config("on", Some(&server.app)).replace("ca = \"server.crt\"\n", "")
        })
    });
    let mut of_old = server.client(Protocol::Http2, &server.admin);
    let mut of_new = server.client(Protocol::Http2, &server.app);
    assert_eq!(of_old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    assert!(of_new.send("POST", GENERATE, "{}").await.is_err());
    fs::write(server.file("roots.pem"), pem_of(&new.0)).unwrap();
    server.until_told(FILES_LOADED, 1);
    until_closed(&of_old).await;
    assert!(of_old.send("POST", GENERATE, "{}").await.is_err(), "its CA is no root any more");
    assert_eq!(of_new.send("POST", GENERATE, "{}").await.unwrap().code(), 200);

    // And by a signal, before the files are looked at.
    fs::write(server.file("roots.pem"), format!("{}{}", pem_of(&old.0), pem_of(&new.0))).unwrap();
    server.hang_up();
    server.until_told(LOADED, 1);
    assert_eq!(of_old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn cas_that_are_replaced_while_the_server_starts_are_seen() {
    let builder = TestServer::builder().verify_clients(&pem_of(&authority().0));
    let ca = builder.settings.tls.ca.clone().unwrap();
    let kms = Arc::new(KeyRing::new(MemoryStore::new(), builder.settings.cache));
    let server = Server::with_kms(builder.settings, kms).await.unwrap();
    fs::write(ca, pem_of(&authority().0)).unwrap();
    let reloader = server.listen().await.unwrap().reloader();
    assert!(matches!(reloader.reload_certificates().await, Some(Ok(()))));
    assert!(reloader.reload_certificates().await.is_none(), "they are seen once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_policy_goes_while_its_body_comes_has_no_effect() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let with = |allow: &str, app: Option<&TestIdentity>| {
        server.config("off", app).replace("\"/v1/key/generate/my-*\"", allow)
    };
    let import = "\"/v1/key/import/*\"";
    let key = "{\"bytes\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}";
    let cases = [
        ("gone", with(import, None), 403),
        ("denied", with("\"/v1/key/generate/*\"", Some(&server.app)), 403),
        ("other", with("\"/v1/key/*\"", Some(&server.app)), 200),
        ("same", with(import, Some(&server.app)), 200),
    ];
    for protocol in Protocol::ALL {
        for (what, config, code) in &cases {
            server.reload(&with(import, Some(&server.app)), LOADED);
            let name = format!("{what}-{protocol:?}");
            let (parts, body) = body_over_channel();
            let mut client = server.client(protocol, &server.app);
            let path = format!("/v1/key/import/{name}");
            let asked = tokio::spawn(async move { client.send_body("PUT", &path, &[], body).await });
            let (first, second) = key.split_at(20);
            parts.send(first.into()).unwrap();
            // The head and this are at the server, or else the answer is that of a request that came later.
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.reload(config, LOADED);
            parts.send(second.into()).unwrap();
            drop(parts);
            let answer = asked.await.unwrap().unwrap();
            assert_eq!(answer.code(), *code, "{name}: {}", answer.text());
            let mut admin = server.client(protocol, &server.admin);
            let there = admin.send("GET", &format!("/v1/key/describe/{name}"), "").await.unwrap().code();
            assert_eq!(there, if *code == 200 { 200 } else { 404 }, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_is_loaded_without_a_signal() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let mut old = server.client(Protocol::Http2, &server.app);
    assert_eq!(old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    let before = server_certificate(&server).await;
    write_certificate(server.directory.path());
    server.until_told(FILES_LOADED, 1);
    let now = server_certificate(&server).await;
    assert_ne!(before, now);
    assert!(old.is_connected());
    assert_eq!(old.send("POST", GENERATE, "{}").await.unwrap().code(), 200);

    fs::write(server.file("server.crt"), "nonsense").unwrap();
    server.until_told("cannot be used, the old ones stay in force", 1);
    assert_eq!(server_certificate(&server).await, now);
}

/// A signal each, and each is waited for until it is in force.
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
        // Both configs let the load pass, and differ in what they let pass beside it.
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

/// The certificate of a Vault is renewed: the server says that it goes on with the old one.
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
