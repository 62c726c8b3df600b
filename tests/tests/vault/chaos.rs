//! Three servers over one OpenBao under a load like that of MinIO, with faults of all kinds.
//!
//! Clients reset connections, servers are reloaded and killed, and OpenBao is sealed and restarted. No answer
//! may be wrong, no acknowledged key may be lost, and every effect has a line of audit. In an outage an error
//! of the server is a right answer.
//!
//! `tests/chaos SECONDS` runs the test for longer.

mod dice;
mod judge;
mod node;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_tests::bao::{Bao, LEAST_POLICY};
use kms_tests::programs::until;
use kms_tests::{Client, Protocol, TestIdentity};
use kms_vault::KvVersion;

use self::dice::{Dice, random_seed};
use self::judge::Judge;
use self::node::{CACHE, Node};
use self::worker::Worker;

const SECONDS: u64 = 40;
const NODES: usize = 3;
const WORKERS: usize = 6;
/// How many connections to OpenBao a server may keep for a while after a burst of reads.
///
/// If it did not close connections of clients, there would be hundreds.
const SPARE: usize = 64;
/// This server is reloaded and never killed. Its memory and descriptors are checked.
const STEADY: usize = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos() {
    let seconds =
        std::env::var("KMS_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let seed =
        std::env::var("KMS_CHAOS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(random_seed);
    println!("KMS_CHAOS_SECONDS={seconds} KMS_CHAOS_SEED={seed}");
    let mut bao = Bao::with_kv(KvVersion::V2).await;
    let login = bao.approle(LEAST_POLICY, "1h").await;
    let identities: Vec<_> = (0..WORKERS).map(|_| Arc::new(TestIdentity::new())).collect();
    let known: Vec<_> = identities.iter().map(|identity| identity.identity()).collect();
    let judge = Arc::new(Judge::default());
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Node::start(&bao.endpoint(), &login, &known).await);
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();

    let until_then = Instant::now() + Duration::from_secs(seconds);
    let workers: Vec<_> = identities
        .iter()
        .enumerate()
        .map(|(number, identity)| {
            let protocol = Protocol::ALL[number % 2];
            let worker = Worker::new(number, seed, Arc::clone(identity), &addresses, protocol, &judge);
            tokio::spawn(worker.run(until_then))
        })
        .collect();
    let rude = tokio::spawn(worker::reset_connections(addresses.clone(), until_then));

    let mut dice = Dice::new(seed);
    // Memory and descriptors may grow in the first quarter and have to stay afterwards.
    let (mut events, mut memory, mut descriptors) = ([0; 5], 0, 0);
    while Instant::now() < until_then {
        if Instant::now() + Duration::from_secs(seconds * 3 / 4) < until_then || memory == 0 {
            let now = nodes[STEADY].measure();
            (memory, descriptors) = (now.0.max(memory), now.1.max(descriptors));
        }
        disturb(&mut dice, &mut events, &mut nodes, &mut bao).await;
        pause(&mut dice, 3000).await;
    }
    rude.await.unwrap();
    let mut finished = Vec::new();
    for worker in workers {
        finished.push(worker.await.unwrap());
    }

    for address in &addresses {
        until("the server is ready", async || {
            let mut client = Client::new(*address, Protocol::Http2, &identities[0]);
            client.send("GET", "/v1/ready", "").await.is_ok_and(|answer| answer.code() == 200)
        })
        .await;
    }
    tokio::time::sleep(CACHE + worker::MARGIN).await;
    let checks: Vec<_> = finished.into_iter().map(|worker| tokio::spawn(worker.check_all())).collect();
    let mut finished = Vec::new();
    for check in checks {
        finished.push(check.await.unwrap());
    }
    let requests: usize = finished.iter().map(|worker| worker.requests).sum();
    let (keys, effects) = (finished.iter().map(Worker::live).sum::<usize>(), judge.attempts());
    drop(finished);
    let last = nodes[STEADY].measure();
    for node in &mut nodes {
        node.stop().await;
    }
    judge.read_audit(&nodes);
    let [reloads, kills, more_kills, seals, restarts] = events;
    println!(
        "{requests} requests, {effects} creates and deletes, {keys} keys are left; {reloads} reloads, {} kills, {seals} seals, \
         {restarts} restarts; memory {memory} -> {} KiB, descriptors {descriptors} -> {}",
        kills + more_kills,
        last.0,
        last.1,
    );
    judge.verdict();
    assert!(requests > 100 && keys > 0, "there was no load");
    assert!(last.0 < memory * 3 / 2 + (16 << 10), "memory grows: {memory} -> {} KiB", last.0);
    assert!(last.1 <= descriptors + SPARE, "descriptors grow: {descriptors} -> {}", last.1);
}

/// Reloads or kills a server, or stops OpenBao for a while, and counts the event.
async fn disturb(dice: &mut Dice, events: &mut [usize; 5], nodes: &mut [Node], bao: &mut Bao) {
    let event = dice.below(events.len());
    events[event] += 1;
    match event {
        0 => nodes[dice.below(NODES)].reload(),
        1 | 2 => {
            let node = &mut nodes[STEADY + 1 + dice.below(NODES - 1)];
            node.kill().await;
            pause(dice, 500).await;
            node.run().await;
        }
        3 => {
            bao.seal().await;
            pause(dice, 1500).await;
            bao.unseal().await;
        }
        _ => {
            bao.kill().await;
            pause(dice, 1000).await;
            bao.run().await;
            bao.unseal().await;
        }
    }
}

async fn pause(dice: &mut Dice, millis: usize) {
    tokio::time::sleep(Duration::from_millis(dice.below(millis) as u64)).await;
}
