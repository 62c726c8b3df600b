//! A client that knows the expected state of each of its keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_tests::{Answer, Client, Protocol, TestIdentity};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::dice::Dice;
use super::judge::{Attempt, Judge};
use super::node::CACHE;

/// Additional time for a read that began before the cache ended.
pub const MARGIN: Duration = Duration::from_secs(2);
/// In this time a request is answered or the connection ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// The highest number of keys of a worker.
const KEYS: usize = 200;

/// The expected state of a key.
enum State {
    /// A create had no answer, so the key may exist or not.
    Unknown,
    Live(Vec<Sealed>),
    /// A delete had no answer, so the key may exist or not.
    Going,
    /// A delete was acknowledged at this time.
    Gone(Instant),
}

/// A data key that a server generated.
struct Sealed {
    context: String,
    plaintext: String,
    ciphertext: String,
}

pub struct Worker {
    number: usize,
    dice: Dice,
    identity: Arc<TestIdentity>,
    protocol: Protocol,
    addresses: Vec<SocketAddr>,
    clients: Vec<Client>,
    judge: Arc<Judge>,
    keys: BTreeMap<String, State>,
    /// Keys with a create that may still be under way. The worker does not delete them, because that create
    /// might make them again.
    under_way: BTreeSet<String>,
    made: usize,
    pub requests: usize,
}

impl Worker {
    pub fn new(
        number: usize,
        seed: u64,
        identity: Arc<TestIdentity>,
        addresses: &[SocketAddr],
        protocol: Protocol,
        judge: &Arc<Judge>,
    ) -> Self {
        let clients = addresses.iter().map(|address| Client::new(*address, protocol, &identity)).collect();
        Self {
            number,
            dice: Dice::new(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            identity,
            protocol,
            addresses: addresses.to_vec(),
            clients,
            judge: Arc::clone(judge),
            keys: BTreeMap::new(),
            under_way: BTreeSet::new(),
            made: 0,
            requests: 0,
        }
    }

    pub async fn run(mut self, until: Instant) -> Self {
        while Instant::now() < until {
            let name = self.some_key();
            match (name, self.dice.below(100)) {
                (None, _) | (_, 0..5) if self.keys.len() < KEYS => self.create().await,
                (None, _) | (_, 0..2) => self.forget_gone(),
                (Some(name), 2..7) => self.delete(&name).await,
                (Some(_), 7..12) => self.list().await,
                (Some(name), _) => self.use_key(&name, true).await,
            }
        }
        self
    }

    /// Checks every key on every server after all faults have ended.
    pub async fn check_all(mut self) -> Self {
        let names: Vec<String> = self.keys.keys().cloned().collect();
        for name in &names {
            for node in 0..self.addresses.len() {
                match &self.keys[name] {
                    State::Live(sealed) => {
                        for number in 0..sealed.len() {
                            self.decrypt(node, name, number, false).await;
                        }
                        let answer = self.ask(node, "POST", "generate", name, "{}", false).await;
                        self.expect(answer.as_ref(), &[200], &format!("{name} at the end on {node}"));
                    }
                    State::Gone(_) => {
                        let answer = self.ask(node, "POST", "generate", name, "{}", false).await;
                        self.expect(
                            answer.as_ref(),
                            &[404],
                            &format!("{name}, deleted, at the end on {node}"),
                        );
                    }
                    State::Unknown | State::Going => {}
                }
            }
        }
        self.list().await;
        self
    }

    pub fn live(&self) -> usize {
        self.keys.values().filter(|state| matches!(state, State::Live(_))).count()
    }

    fn some_key(&mut self) -> Option<String> {
        if self.keys.is_empty() {
            return None;
        }
        let number = self.dice.below(self.keys.len());
        self.keys.keys().nth(number).cloned()
    }

    fn forget_gone(&mut self) {
        self.keys.retain(|_, state| !matches!(state, State::Gone(_)));
    }

    async fn create(&mut self) {
        self.made += 1;
        let name = format!("w{}-{}", self.number, self.made);
        self.keys.insert(name.clone(), State::Unknown);
        self.try_create(&name).await;
    }

    async fn try_create(&mut self, name: &str) {
        let node = self.some_node();
        let is_first = !matches!(self.keys[name], State::Live(_));
        let was_tried = self.judge.was_tried(&format!("/v1/key/create/{name}"));
        let answer = self.effect(node, "POST", "create", name).await;
        let code = answer.as_ref().map(Answer::code);
        if !matches!(code, Some(200 | 400)) {
            self.under_way.insert(name.to_owned());
        }
        match code {
            Some(200) if is_first => self.is_live(name),
            Some(200) => self.judge.wrong(format!("{name}: created a second time on {node}")),
            Some(400) if is_first && was_tried => self.is_live(name),
            Some(400) if !is_first => {}
            _ => self.expect(answer.as_ref(), &[], &format!("create {name} on {node}")),
        }
    }

    fn is_live(&mut self, name: &str) {
        self.judge.effect(format!("/v1/key/create/{name}"));
        self.keys.insert(name.to_owned(), State::Live(Vec::new()));
    }

    async fn delete(&mut self, name: &str) {
        if matches!(self.keys[name], State::Unknown | State::Gone(_)) || self.under_way.contains(name) {
            return;
        }
        let was_going = matches!(self.keys[name], State::Going);
        self.keys.insert(name.to_owned(), State::Going);
        let node = self.some_node();
        let answer = self.effect(node, "DELETE", "delete", name).await;
        match answer.as_ref().map(Answer::code) {
            Some(code @ (200 | 404)) if code == 200 || was_going => {
                self.judge.effect(format!("/v1/key/delete/{name}"));
                self.keys.insert(name.to_owned(), State::Gone(Instant::now()));
            }
            _ => self.expect(answer.as_ref(), &[], &format!("delete {name} on {node}")),
        }
    }

    /// Uses a key, as far as its state allows to judge the answer.
    async fn use_key(&mut self, name: &str, may_reset: bool) {
        let node = self.some_node();
        match &self.keys[name] {
            State::Unknown => self.try_create(name).await,
            State::Going => self.delete(name).await,
            State::Gone(at) if at.elapsed() < CACHE + MARGIN => {}
            State::Gone(_) => {
                let answer = self.ask(node, "POST", "generate", name, "{}", may_reset).await;
                self.expect(answer.as_ref(), &[404], &format!("{name}, deleted, on {node}"));
            }
            State::Live(sealed) => match (sealed.len(), self.dice.below(100)) {
                (_, 0) => self.try_create(name).await,
                (0, _) | (1..4, 1..20) => self.generate(node, name, may_reset).await,
                (many, _) => {
                    let number = self.dice.below(many);
                    self.decrypt(node, name, number, may_reset).await;
                }
            },
        }
    }

    async fn generate(&mut self, node: usize, name: &str, may_reset: bool) {
        let context = STANDARD.encode(format!("bucket/{}", self.requests));
        let body = format!("{{\"context\":\"{context}\"}}");
        let answer = self.ask(node, "POST", "generate", name, &body, may_reset).await;
        self.expect(answer.as_ref(), &[200], &format!("generate {name} on {node}"));
        let Some(answer) = answer.filter(|answer| answer.code() == 200) else { return };
        let (plaintext, ciphertext) = (answer.member("plaintext"), answer.member("ciphertext"));
        if let Some(State::Live(sealed)) = self.keys.get_mut(name) {
            sealed.push(Sealed { context, plaintext, ciphertext });
        }
    }

    async fn decrypt(&mut self, node: usize, name: &str, number: usize, may_reset: bool) {
        let State::Live(sealed) = &self.keys[name] else { return };
        let Sealed { context, plaintext, ciphertext } = &sealed[number];
        let expected = plaintext.clone();
        let is_other = self.dice.below(10) == 0;
        let context = if is_other { "b3RoZXI=" } else { context };
        let body = format!("{{\"ciphertext\":\"{ciphertext}\",\"context\":\"{context}\"}}");
        let answer = self.ask(node, "POST", "decrypt", name, &body, may_reset).await;
        let right = if is_other { 400 } else { 200 };
        self.expect(answer.as_ref(), &[right], &format!("decrypt under {name} on {node}"));
        if let Some(answer) = answer.filter(|answer| answer.code() == 200)
            && answer.member("plaintext") != expected
        {
            self.judge.wrong(format!("decrypt under {name} on {node}: another plaintext"));
        }
    }

    /// Lists the keys of this worker and checks that all live keys are there and no deleted one.
    async fn list(&mut self) {
        let node = self.some_node();
        let names = |is_wanted: fn(&State) -> bool| -> BTreeSet<String> {
            self.keys.iter().filter(|(_, state)| is_wanted(state)).map(|(name, _)| name.clone()).collect()
        };
        let live = names(|state| matches!(state, State::Live(_)));
        let gone = names(|state| matches!(state, State::Gone(_)));
        let prefix = format!("w{}-*", self.number);
        let answer = self.ask(node, "GET", "list", &prefix, "", false).await;
        self.expect(answer.as_ref(), &[200], &format!("list {prefix} on {node}"));
        let Some(answer) = answer.filter(|answer| answer.code() == 200) else { return };
        let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let listed = page["names"].as_array().unwrap().iter();
        let listed: BTreeSet<String> = listed.map(|name| name.as_str().unwrap().to_owned()).collect();
        for lost in live.difference(&listed) {
            self.judge.wrong(format!("list on {node}: {lost} is not in it"));
        }
        for back in gone.intersection(&listed) {
            self.judge.wrong(format!("list on {node}: {back} was deleted"));
        }
    }

    /// Asks for a create or a delete and records the attempt.
    async fn effect(&mut self, node: usize, method: &str, operation: &str, name: &str) -> Option<Answer> {
        let began = Instant::now();
        let answer = self.ask(node, method, operation, name, "", true).await;
        let path = format!("/v1/key/{operation}/{name}");
        let code = answer.as_ref().map(Answer::code);
        self.judge.attempt(Attempt { node, path, began, ended: Instant::now(), code });
        answer
    }

    /// Sends a request; `None` without an answer. Sometimes the client leaves early.
    async fn ask(
        &mut self,
        node: usize,
        method: &str,
        operation: &str,
        name: &str,
        body: &str,
        may_reset: bool,
    ) -> Option<Answer> {
        self.requests += 1;
        let path = format!("/v1/key/{operation}/{name}");
        let leaves = may_reset && self.dice.below(20) == 0;
        let patience = if leaves { Duration::from_micros(self.dice.below(20_000) as u64) } else { PATIENCE };
        let body = body.to_owned();
        let asked = tokio::time::timeout(patience, self.clients[node].send(method, &path, body)).await;
        if let Ok(Ok(answer)) = asked {
            return Some(answer);
        }
        if asked.is_err() && !leaves {
            self.judge.wrong(format!("{method} {path} on {node}: no answer in {PATIENCE:?}"));
        }
        self.clients[node] = Client::new(self.addresses[node], self.protocol, &self.identity);
        if !leaves {
            // The server was killed. The pause leaves time for other requests.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Checks that a status is one of `right` or reports an outage. No answer is right as well.
    fn expect(&self, answer: Option<&Answer>, right: &[u16], what: &str) {
        let Some(answer) = answer else { return };
        if !right.contains(&answer.code()) && answer.code() < 500 && answer.code() != 429 {
            self.judge.wrong(format!("{what}: {} {}", answer.code(), answer.text().trim()));
        }
    }

    fn some_node(&mut self) -> usize {
        self.dice.below(self.addresses.len())
    }
}

/// Opens connections, sends a part of a handshake and resets them.
pub async fn reset_connections(addresses: Vec<SocketAddr>, until: Instant) {
    while Instant::now() < until {
        for address in &addresses {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await;
                let _ = stream.set_zero_linger();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
