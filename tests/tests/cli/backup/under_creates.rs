//! A backup while clients make keys as fast as they can.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kms_server::credentials::apikey::ApiKey;
use kms_tests::recipient::OWNER;
use kms_tests::shell::{Shell, text};
use kms_tests::{Client, Protocol, TestIdentity};
use tokio::task::JoinSet;

use super::Node;

/// The clients, on one thread.
const CLIENTS: usize = 32;

/// How long keys are made before each backup, and after the last one.
const PAUSE: Duration = Duration::from_secs(2);

/// What clients asked for, and what the server said yes to.
#[derive(Default)]
struct Keys {
    asked: AtomicUsize,
    acknowledged: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Keys {
    fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().unwrap().clone()
    }
}

fn admin(node: &Node) -> TestIdentity {
    ApiKey::parse(&node.api_key()).unwrap().client_certificate().unwrap().into()
}

fn address(shell: &Shell) -> SocketAddr {
    shell.variable("KES_SERVER").unwrap().strip_prefix("https://").unwrap().parse().unwrap()
}

/// Returns how many there were in each second since `began`.
fn per_second(count: usize, began: Instant) -> u128 {
    count as u128 * 1000 / began.elapsed().as_millis().max(1)
}

/// Makes keys until it is told to stop.
async fn create(keys: Arc<Keys>, mut client: Client) {
    while !keys.is_over.load(Ordering::Relaxed) {
        // Names come in an order in which the listing has passed some of them.
        let number = keys.asked.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:03}-{number}", number * 7919 % 1000);
        let answer = client.send("PUT", &format!("/v1/key/create/{name}"), "").await.unwrap();
        assert_eq!(answer.code(), 200);
        keys.acknowledged.lock().unwrap().push(name);
    }
}

/// Asks for each name with `CLIENTS` requests at once, and returns what `member` of each answer says.
async fn for_each(
    server: SocketAddr,
    identity: &TestIdentity,
    requests: Vec<(String, String)>,
    member: &'static str,
) -> Vec<String> {
    let len = requests.len();
    let next = Arc::new(AtomicUsize::new(0));
    let (requests, answers) = (Arc::new(requests), Arc::new(Mutex::new(vec![String::new(); len])));
    let mut running = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = Client::new(server, Protocol::Http1, identity);
        let (next, requests, answers) = (Arc::clone(&next), Arc::clone(&requests), Arc::clone(&answers));
        running.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((path, body)) = requests.get(at) else { break };
                let answer = client.send("PUT", path, body.clone()).await.unwrap();
                assert_eq!(answer.code(), 200, "{path}: {answer:?}");
                answers.lock().unwrap()[at] = answer.member(member);
            }
        });
    }
    running.join_all().await;
    Arc::into_inner(answers).unwrap().into_inner().unwrap()
}

#[test]
fn every_key_that_was_acknowledged_before_is_restored_and_none_that_nobody_asked_for() {
    let node = Node::init();
    let (server, shell) = node.serve();
    let (origin, identity) = (address(&shell), admin(&node));
    let keys = Arc::new(Keys::default());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients = {
        let (keys, identity) = (Arc::clone(&keys), admin(&node));
        std::thread::spawn(move || {
            runtime().block_on(async {
                let mut running = JoinSet::new();
                for _ in 0..CLIENTS {
                    running.spawn(create(Arc::clone(&keys), Client::new(origin, Protocol::Http1, &identity)));
                }
                running.join_all().await;
            });
        })
    };
    let began = Instant::now();
    let mut backups = Vec::new();
    for number in 0..2 {
        std::thread::sleep(PAUSE);
        let before = keys.acknowledged();
        let file = node.path(&format!("{number}.backup"));
        let start = Instant::now();
        shell.run(&["backup", "create", "-o", text(&file)]).ok();
        let during = keys.acknowledged().len() - before.len();
        println!(
            "{} keys before, {during} made during the backup: {} a second",
            before.len(),
            per_second(during, start)
        );
        backups.push((file, before));
    }
    std::thread::sleep(PAUSE);
    keys.is_over.store(true, Ordering::Relaxed);
    clients.join().unwrap();
    let all = keys.acknowledged();
    println!("{} creates, {} a second", all.len(), per_second(all.len(), began));
    assert_eq!(all.len(), keys.asked.load(Ordering::Relaxed));

    let body = format!("{{\"plaintext\":\"{}\"}}", BASE64_STANDARD.encode("hello"));
    let encrypts = all.iter().map(|name| (format!("/v1/key/encrypt/{name}"), body.clone())).collect();
    let sealed = runtime().block_on(for_each(origin, &identity, encrypts, "ciphertext"));
    server.stop();

    for (file, before) in backups {
        let target = Node::init();
        target.restore(&file, &OWNER.file(target.dir.path(), "identity")).ok();
        let (_server, shell) = target.serve();
        let listed: Vec<String> = serde_json::from_str(&shell.run(&["key", "ls", "--json"]).ok()).unwrap();
        let listed: HashSet<_> = listed.into_iter().collect();
        let asked: HashSet<_> = all.iter().cloned().collect();
        let missing: Vec<_> = before.iter().filter(|name| !listed.contains(*name)).collect();
        assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), before.len());
        assert!(listed.is_subset(&asked), "{:?}", listed.difference(&asked));
        let decrypts = all
            .iter()
            .zip(&sealed)
            .filter(|(name, _)| listed.contains(*name))
            .map(|(name, sealed)| {
                (format!("/v1/key/decrypt/{name}"), format!("{{\"ciphertext\":\"{sealed}\"}}"))
            })
            .collect::<Vec<_>>();
        println!("{} keys restored, of which {} were there before", decrypts.len(), before.len());
        let opened = runtime().block_on(for_each(address(&shell), &admin(&target), decrypts, "plaintext"));
        assert!(opened.iter().all(|text| *text == BASE64_STANDARD.encode("hello")));
    }
}
