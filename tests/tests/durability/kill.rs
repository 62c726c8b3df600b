//! The server is killed at random moments while it creates keys.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_server::credentials::apikey::ApiKey;
use kms_tests::process::kms_binary;
use kms_tests::{Client, Protocol, TestIdentity};
use serde_json::{Value, json};

use crate::random::{self, Random};

const ROUNDS: usize = 200;
const CLIENTS: usize = 8;

/// Keys by name, each with a data key of it in the clear and sealed.
type Acknowledged = Arc<Mutex<BTreeMap<String, Option<(String, String)>>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_survive_a_kill_of_the_server() {
    let mut random = Random::seeded("kill");
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Acknowledged::default();
    let mut known = BTreeMap::new();
    let rounds = random::rounds(ROUNDS);
    for round in 0..rounds {
        if random.percent(10) {
            // The kill hits the start of the server.
            let mut child = Server::spawn(dir.path());
            tokio::time::sleep(Duration::from_micros(random.next() % 100_000)).await;
            kill(&mut child);
        }
        let server = Server::start(dir.path());
        // Check all keys of the last round and a few older ones.
        let mut client = server.client();
        let fresh = std::mem::take(&mut *acknowledged.lock().unwrap());
        check_keys(&mut client, &fresh).await;
        known.extend(fresh);
        let some = (0..10).filter_map(|_| known.iter().nth(random.below(known.len().max(1))));
        check_keys(&mut client, &some.map(|(name, key)| (name.clone(), key.clone())).collect()).await;

        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (client, acknowledged) = (server.client(), Arc::clone(&acknowledged));
                tokio::spawn(make_keys(client, format!("round-{round}-{n}"), acknowledged))
            })
            .collect();
        let pause = Duration::from_micros(random.next() % 60_000);
        tokio::time::sleep(pause).await;
        drop(server);
        for client in clients {
            client.await.unwrap();
        }
    }
    known.extend(std::mem::take(&mut *acknowledged.lock().unwrap()));
    let server = Server::start(dir.path());
    check_keys(&mut server.client(), &known).await;
    check_listing(&mut server.client(), rounds, &known).await;
    println!("{} keys in {rounds} rounds", known.len());
    assert!(known.len() > rounds, "only {} keys were made", known.len());
}

/// Creates keys and a data key of each, until the server is gone.
async fn make_keys(mut client: Client, prefix: String, acknowledged: Acknowledged) {
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        match client.send("POST", &format!("/v1/key/create/{name}"), "").await {
            Ok(answer) => assert_eq!(answer.code(), 200, "create: {}", answer.text()),
            Err(_) => return,
        }
        acknowledged.lock().unwrap().insert(name.clone(), None);
        let Ok(answer) = client.send("POST", &format!("/v1/key/generate/{name}"), "{}").await else { return };
        assert_eq!(answer.code(), 200, "generate: {}", answer.text());
        let sealed = (answer.member("plaintext"), answer.member("ciphertext"));
        acknowledged.lock().unwrap().insert(name, Some(sealed));
    }
}

async fn check_keys(client: &mut Client, keys: &BTreeMap<String, Option<(String, String)>>) {
    for (name, sealed) in keys {
        let (plaintext, ciphertext) = if let Some(sealed) = sealed {
            sealed.clone()
        } else {
            // The key was acknowledged, and the server was killed before its use.
            let answer = client.send("POST", &format!("/v1/key/generate/{name}"), "{}").await.unwrap();
            assert_eq!(answer.code(), 200, "acknowledged key '{name}': {}", answer.text());
            (answer.member("plaintext"), answer.member("ciphertext"))
        };
        let body = json!({ "ciphertext": ciphertext }).to_string();
        let answer = client.send("POST", &format!("/v1/key/decrypt/{name}"), body).await.unwrap();
        assert_eq!(answer.code(), 200, "acknowledged key '{name}' does not decrypt: {}", answer.text());
        assert_eq!(answer.member("plaintext"), plaintext, "acknowledged key '{name}' is another");
    }
}

/// Checks that each listed name is a usable key, also one that was not acknowledged.
async fn check_listing(
    client: &mut Client,
    rounds: usize,
    known: &BTreeMap<String, Option<(String, String)>>,
) {
    let mut listed = 0;
    for round in 0..rounds {
        let answer = client.send("GET", &format!("/v1/key/list/round-{round}-*"), "").await.unwrap();
        assert_eq!(answer.code(), 200, "{}", answer.text());
        let page: Value = serde_json::from_str(answer.text()).unwrap();
        assert!(page["continue_at"].as_str().unwrap_or_default().is_empty(), "one page a round");
        let names: Vec<String> = serde_json::from_value(page["names"].clone()).unwrap();
        listed += names.len();
        let unknown = names.into_iter().filter(|name| !known.contains_key(name)).map(|name| (name, None));
        check_keys(client, &unknown.collect()).await;
    }
    assert!(listed >= known.len(), "{listed} names are listed, {} keys were acknowledged", known.len());
}

/// A server that can be killed and started again in the same directory.
struct Server {
    child: Child,
    // The pipe stays open, because a closed one could stop the server.
    _output: BufReader<ChildStdout>,
    address: SocketAddr,
    admin: TestIdentity,
}

impl Server {
    fn spawn(directory: &Path) -> Child {
        let mut command = Command::new(kms_binary());
        command.args(["server", "--dev", "--addr", "127.0.0.1:0", "--dir"]).arg(directory.join("dev"));
        command.env_remove("KMS_LOG").env_remove("RUST_LOG");
        let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    /// Starts the server and waits until it is up.
    fn start(directory: &Path) -> Self {
        let mut child = Self::spawn(directory);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut address, mut api_key) = (None, None);
        let mut line = String::new();
        while !line.contains("Server is up and running") {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 {
                let log = fs::read_to_string(directory.join("log")).unwrap();
                panic!("the server does not start after a kill: {}", log.lines().last().unwrap_or_default());
            }
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["Endpoint", endpoint] => address = endpoint.strip_prefix("https://").unwrap().parse().ok(),
                ["API", "Key", key] => api_key = ApiKey::parse(key).ok(),
                _ => {}
            }
        }
        let admin = api_key.expect("the banner has an API key").client_certificate().unwrap().into();
        Self { child, _output: output, address: address.expect("the banner has an endpoint"), admin }
    }

    fn client(&self) -> Client {
        Client::new(self.address, Protocol::Http1, &self.admin)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
