//! Replays all exchanges that were recorded with KES 0.24, in order.

use std::collections::HashMap;

use kms_core::store::EntryName;
use kms_core::{ErrorKind, KeyName};
use kms_server::settings::RouteSettings;
use kms_tests::faults::FaultyStore;
use kms_tests::{Answer, Client, Protocol, STATUS_KEPT, TestIdentity, TestServer, TestServerBuilder};
use serde_json::Value;

const TRANSCRIPT: &str = include_str!("../../vectors/transcript.json");

/// Exchanges in which this server differs from KES 0.24 on purpose: the number, the expected answer, and the
/// reason.
const DIFFERENCES: &[(u64, Expect, &str)] = &[
    (38, NO_ROUTE, "KES redirects to the cleaned path"),
    (39, NO_ROUTE, "KES redirects to the cleaned path"),
    (54, Expect::Skipped, "the form of 2020, {\"bytes\"}, is taken: see the tests of keys"),
    (55, Expect::Skipped, "the form of 2020, {\"bytes\"}, is taken: see the tests of keys"),
    (
        78,
        Expect::Body(
            200,
            r#"{"names":["my-imp1","my-imp2","my-imp3","my-imp4","my-imp5","my-imp7","my-key","my-key2","my-key4"]}"#,
        ),
        "a * at the end is a wildcard",
    ),
    (80, Expect::Body(200, r#"{"names":["my-key","my-key2","my-key4"]}"#), "a * at the end is a wildcard"),
    (102, Expect::Body(400, "{\"message\":\"invalid request body\"\n}"), "text after the object is refused"),
    (147, Expect::Skipped, "the route of KES 0.18 to 0.22 is there: see the tests of keys"),
    (191, Expect::Skipped, "an identity with a policy is told of it: see the tests of access"),
    (192, Expect::Skipped, "an identity with a policy is told of it: see the tests of access"),
    (206, Expect::Body(404, "{\"message\":\"key does not exist\"\n}"), "ours: a key has versions"),
    (209, NO_ROUTE, "KES redirects to the cleaned path"),
    (210, NO_ROUTE, "KES redirects to the cleaned path"),
    (215, Expect::Skipped, "ours: all metrics"),
    (236, Expect::Skipped, "the forged chain: see the tests of certificates"),
    (249, STORE_AWAY, "the SDK rejects keystore_unreachable without keystore_unavailable"),
    (
        253,
        Expect::Body(504, "{\"message\":\"key store is not reachable\"\n}"),
        "KES says 502 `unavailable` to a refused connection",
    ),
    (254, STORE_AWAY, "the SDK rejects keystore_unreachable without keystore_unavailable"),
    (
        262,
        Expect::Body(200, r#"{"names":[<1024 names, from pg-0000 to pg-1023>],"continue_at":"~pg-1023"}"#),
        "KES continues at a plain name, which it takes for a prefix, and loses the rest",
    ),
    (
        247,
        Expect::Body(200, "{\"message\":\"1 key cannot be read: my-den\"}"),
        "it is ready, and says that it is degraded",
    ),
    (263, Expect::Skipped, "the token of KES: ours is tried in the tests of keys"),
];

const NO_ROUTE: Expect = Expect::Body(404, "404 page not found");
const STORE_AWAY: Expect = Expect::Body(
    200,
    r#"{"version":"<text>","os":"linux","arch":"<text>","uptime":<integer>,"num_cpu":<integer>,"num_cpu_used":<integer>,"mem_heap_used":<integer>,"mem_stack_used":<integer>,"keystore_unavailable":true,"keystore_unreachable":true}"#,
);

/// These paths answer with streams that do not end. The tests of logs cover them.
const STREAMS: &str = "/v1/log/";

#[derive(Clone, Copy)]
enum Expect {
    Body(u16, &'static str),
    Skipped,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_those_of_kes_over_http1() {
    replay(Protocol::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_those_of_kes_over_http2() {
    replay(Protocol::Http2).await;
}

async fn replay(protocol: Protocol) {
    let transcript: Value = serde_json::from_str(TRANSCRIPT).unwrap();
    let mut replay = Replay::start(protocol, &transcript["client_identities"]).await;
    let mut replayed = 0;
    for exchange in transcript["exchanges"].as_array().unwrap() {
        if let Some(exchange) = Exchange::read(exchange) {
            replayed += u32::from(replay.play(&exchange).await);
        }
    }
    assert_eq!(replayed, 251, "exchanges that were replayed");
}

struct Exchange<'a> {
    number: u64,
    client: &'a str,
    server: &'a str,
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a str,
    status: u16,
    expected_headers: HashMap<&'a str, &'a str>,
    expected_body: &'a str,
}

impl<'a> Exchange<'a> {
    /// Reads an exchange; `None` if it is a stream or was recorded with another release of KES.
    fn read(exchange: &'a Value) -> Option<Self> {
        let text = |name: &str| exchange[name].as_str().unwrap_or_default();
        let pairs = |name: &str| exchange[name].as_object().into_iter().flatten();
        let is_stream = text("path").starts_with(STREAMS) && exchange["status"] == 200;
        let is_other = text("server").starts_with("KES ");
        let exchange_again = Self {
            number: exchange["n"].as_u64().unwrap(),
            client: text("client"),
            server: text("server"),
            method: text("method"),
            path: text("path"),
            headers: pairs("request_headers")
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
                .collect(),
            body: text("request_body"),
            status: u16::try_from(exchange["status"].as_u64().unwrap_or(0)).unwrap(),
            expected_headers: pairs("headers")
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
                .collect(),
            expected_body: text("body"),
        };
        (!is_stream && !is_other).then_some(exchange_again)
    }
}

struct Replay {
    protocol: Protocol,
    identities: HashMap<String, TestIdentity>,
    /// The identities of the transcript with those that replace them.
    renamed: Vec<(String, String)>,
    store: FaultyStore,
    mode: String,
    server: TestServer,
    clients: HashMap<String, Client>,
}

impl Replay {
    async fn start(protocol: Protocol, known: &Value) -> Self {
        let mut identities = HashMap::new();
        let mut renamed = Vec::new();
        identities.insert("none".to_owned(), TestIdentity::none());
        for (name, theirs) in known.as_object().unwrap() {
            let ours = TestIdentity::new();
            renamed.push((theirs.as_str().unwrap().to_owned(), ours.identity().to_string()));
            identities.insert(name.clone(), ours);
        }
        let store = FaultyStore::new();
        let server = builder(&identities).store(store.clone()).start().await;
        let (mode, clients) = (String::new(), HashMap::new());
        Self { protocol, identities, renamed, store, mode, server, clients }
    }

    /// Replays one exchange. Returns false if it cannot be sent.
    async fn play(&mut self, exchange: &Exchange<'_>) -> bool {
        self.prepare(exchange).await;
        let number = exchange.number;
        if exchange.client == "none" && !exchange.server.starts_with("skip_auth") {
            let mut stranger = Client::new(self.server.address(), self.protocol, &TestIdentity::none());
            assert!(
                stranger.send(exchange.method, exchange.path, "").await.is_err(),
                "{number}: TLS should fail"
            );
            return true;
        }
        let expect = DIFFERENCES.iter().find(|(at, ..)| *at == number).map(|(_, expect, _)| *expect);
        if matches!(expect, Some(Expect::Skipped)) {
            return false;
        }
        if matches!(exchange.path, "/v1/ready" | "/v1/status") && exchange.server.contains(", ") {
            tokio::time::sleep(STATUS_KEPT).await;
        }
        let (body, plaintext) = self.request_body(exchange).await;
        let path = self.our_path(exchange.path);
        let answer = self.send(exchange.client, exchange.method, &path, &exchange.headers, body).await;
        let context =
            format!("exchange {number}: {} {} as {}", exchange.method, exchange.path, exchange.client);
        if let Some(Expect::Body(status, body)) = expect {
            assert_eq!(answer.code(), status, "{context}: {}", answer.text());
            assert_like(&context, answer.text().trim_end(), body);
            return true;
        }
        assert_eq!(answer.code(), exchange.status, "{context}: {}", answer.text());
        let mut expected = exchange.expected_body.replace("<the plaintext of that generate>", &plaintext);
        expected = expected.replace(r"\u003cunknown\u003e", "<text>").replace("\"amd64\"", "\"<text>\"");
        for (theirs, ours) in &self.renamed {
            expected = expected.replace(theirs, ours);
        }
        match exchange.path {
            "/v1/metrics" if exchange.status == 200 => {
                let ours = families(answer.text());
                for family in families(&expected) {
                    assert!(ours.contains(&family), "{context}: '{family}' is not there");
                }
                return true;
            }
            "/v1/api" if exchange.status == 200 => {
                assert_eq!(objects(answer.text()), objects(&expected), "{context}");
                return true;
            }
            path if path.starts_with("/v1/identity/list/") && exchange.status == 200 => {
                expected = with_sorted_identities(&expected);
            }
            _ => {}
        }
        assert_like(&context, answer.text(), &expected);
        self.assert_headers(&context, exchange, &answer);
        true
    }

    /// Replaces the recorded identities in a path by ours. A prefix keeps its number of digits.
    fn our_path(&self, path: &str) -> String {
        self.renamed.iter().fold(path.to_owned(), |path, (theirs, ours)| {
            let path = path.replace(theirs.as_str(), ours);
            path.replace(&format!("/{}*", &theirs[..4]), &format!("/{}*", &ours[..4]))
        })
    }

    /// Brings the server and its store into the state in which the exchange was recorded.
    async fn prepare(&mut self, exchange: &Exchange<'_>) {
        if exchange.number == 158 {
            let name = EntryName::from(&KeyName::new("my-old").unwrap());
            let record = br#"{"bytes":"E3dN35l6yijrpyjsWxNw0lX8LEgzClOJDpEruUZLZN0="}"#;
            self.store.put(&name, record).await;
        }
        if exchange.server == self.mode {
            return;
        }
        let another = |mode: &str| mode.split(',').next().unwrap().to_owned();
        if another(exchange.server) != another(&self.mode) {
            self.store = FaultyStore::new();
            let mut server = builder(&self.identities);
            if exchange.server.starts_with("skip_auth") {
                let open = RouteSettings { skip_auth: true, timeout: None };
                let routes = ["/v1/ready", "/v1/status", "/v1/metrics", "/v1/api"];
                server.settings.routes = routes.map(|route| (route.to_owned(), open)).into();
            }
            self.server = server.store(self.store.clone()).start().await;
            self.clients.clear();
            if exchange.server.starts_with("1100 keys") {
                for number in 0..1100 {
                    let name = EntryName::from(&KeyName::new(format!("pg-{number:04}")).unwrap());
                    self.store.put(&name, b"never read").await;
                }
            }
        }
        self.store.fail(match exchange.server.split_once(", ") {
            Some((_, "its policy now denies everything")) => Some(ErrorKind::Denied),
            Some((_, "sealed")) => Some(ErrorKind::Sealed),
            Some((_, "its process stopped")) => Some(ErrorKind::Unreachable),
            _ => None,
        });
        exchange.server.clone_into(&mut self.mode);
    }

    async fn send(
        &mut self,
        client: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Answer {
        let make = || self.server.client(self.protocol, &self.identities[client]);
        let client = self.clients.entry(client.to_owned()).or_insert_with(make);
        client.send_with(method, path, headers, body).await.unwrap()
    }

    /// Returns the body of the request and, for a decrypt, the expected plaintext.
    async fn request_body(&mut self, exchange: &Exchange<'_>) -> (String, String) {
        let body = exchange.body;
        if let Some(size) = body.strip_prefix('<').and_then(|size| size.strip_suffix(" bytes>")) {
            let member = if exchange.path.contains("import") { "key" } else { "plaintext" };
            let frame = format!("{{\"{member}\":\"\"}}").len();
            let text = "A".repeat((size.parse::<usize>().unwrap() - frame) / 4 * 4);
            return (format!("{{\"{member}\":\"{text}\"}}"), String::new());
        }
        let Some((_, rest)) = body.split_once("\"<ciphertext of ") else {
            return (body.to_owned(), String::new());
        };
        let source = rest.split_once('>').unwrap().0;
        let (ciphertext, plaintext) = self.ciphertext(exchange, source).await;
        (body.replace(&format!("<ciphertext of {source}>"), &ciphertext), plaintext)
    }

    async fn ciphertext(&mut self, exchange: &Exchange<'_>, source: &str) -> (String, String) {
        let key = exchange.path.rsplit('/').next().unwrap();
        let key = if source == "generate of another key" { "my-key" } else { key };
        if let Some(plaintext) = source.strip_prefix("encrypt of ") {
            let plaintext = if plaintext == "nothing" { "" } else { plaintext };
            let path = format!("/v1/key/encrypt/{key}");
            let body = format!("{{\"plaintext\":\"{plaintext}\"}}");
            let answer = self.send("admin", "PUT", &path, &[], body).await;
            return (answer.member("ciphertext"), plaintext.to_owned());
        }
        let body = match source {
            "generate without context" | "generate of another key" => "{}",
            "generate with a context" | "generate with that context" | "generate with another context" => {
                r#"{"context":"eyJiIjoiYi9vIn0="}"#
            }
            other => panic!("unknown source of a ciphertext: {other}"),
        };
        let answer =
            self.send("admin", "PUT", &format!("/v1/key/generate/{key}"), &[], body.to_owned()).await;
        (answer.member("ciphertext"), answer.member("plaintext"))
    }

    fn assert_headers(&self, context: &str, exchange: &Exchange<'_>, answer: &Answer) {
        for (name, value) in &exchange.expected_headers {
            match *name {
                // This server always knows the length, and HTTP/2 has no such header.
                "transfer-encoding" => continue,
                "connection" if self.protocol == Protocol::Http2 => continue,
                "content-length" if *value == "<number>" || exchange.expected_body.contains("unknown") => {
                    continue;
                }
                _ => {}
            }
            let ours = answer.headers.get(*name).map(|value| value.to_str().unwrap());
            assert_eq!(ours, Some(*value), "{context}: header {name}");
        }
        for name in answer.headers.keys() {
            let known = ["date", "allow", "content-length"].contains(&name.as_str());
            assert!(
                known || exchange.expected_headers.contains_key(name.as_str()),
                "{context}: extra header {name}"
            );
        }
    }
}

/// Returns the families of metrics with their types, except for the two that appear with the first error.
fn families(text: &str) -> Vec<&str> {
    let errors = ["kes_http_request_error", "kes_http_request_failure"];
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut families: Vec<_> =
        types.filter(|family| !errors.iter().any(|error| family.starts_with(error))).collect();
    families.sort_unstable();
    families
}

fn objects(text: &str) -> Vec<String> {
    let array: Vec<Value> = serde_json::from_str(text).unwrap();
    let mut objects: Vec<_> = array.iter().map(Value::to_string).collect();
    objects.sort_unstable();
    objects
}

fn with_sorted_identities(text: &str) -> String {
    let (start, rest) = text.split_once('[').unwrap();
    let (array, end) = rest.split_once(']').unwrap();
    let mut identities: Vec<_> = array.split(',').collect();
    identities.sort_unstable();
    format!("{start}[{}]{end}", identities.join(","))
}

fn builder(identities: &HashMap<String, TestIdentity>) -> TestServerBuilder {
    let minio = [
        "/v1/key/create/my-*",
        "/v1/key/import/my-*",
        "/v1/key/generate/my-*",
        "/v1/key/decrypt/my-*",
        "/v1/key/list/*",
        "/v1/status",
    ];
    let ops = ["/v1/key/describe/my-key", "/v1/policy/*", "/v1/identity/*", "/v1/log/*"];
    let mut builder = TestServer::builder()
        .policy("minio", &minio, &["/v1/key/generate/my-internal*"], &[identities["policy"].identity()])
        .policy("ops", &ops, &[], &[identities["ops"].identity()])
        .policy("empty-policy", &[], &[], &[]);
    builder.settings.admin = Some(identities["admin"].identity());
    builder
}

/// Fails unless a text matches one with placeholders in angle brackets.
fn assert_like(context: &str, text: &str, expected: &str) {
    if text == expected {
        return;
    }
    let mut rest = text;
    let mut parts = expected.split('<');
    let mut literal = parts.next().unwrap();
    loop {
        rest = rest
            .strip_prefix(literal)
            .unwrap_or_else(|| panic!("{context}: got {text:?}, expected {expected:?}"));
        let Some(part) = parts.next() else { break };
        let (kind, next) = part.split_once('>').unwrap();
        let end = rest.find(['"', ',', '}', ']']).unwrap_or(rest.len());
        let end = if kind.contains("names") { rest.find(']').unwrap() } else { end };
        assert_kind(context, kind, &rest[..end]);
        (rest, literal) = (&rest[end..], next);
    }
    assert_eq!(rest, "", "{context}: got {text:?}, expected {expected:?}");
}

fn assert_kind(context: &str, kind: &str, value: &str) {
    let words: Vec<_> = kind.split(' ').collect();
    match words.as_slice() {
        ["integer"] => assert!(value.parse::<u64>().is_ok(), "{context}: {value:?} is no {kind}"),
        ["text"] => assert!(!value.is_empty(), "{context}: no text"),
        ["base64", "of", size, "bytes"] => {
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, value).unwrap();
            assert_eq!(bytes.len().to_string(), *size, "{context}: {value:?}");
        }
        ["RFC", "3339", "time,", "UTC"] => {
            let shape = value.len() >= 20 && value.ends_with('Z') && value.as_bytes()[10] == b'T';
            assert!(shape, "{context}: {value:?} is no {kind}");
        }
        [count, "names,", "from", first, "to", last] => {
            let names: Vec<_> = value.split(',').map(|name| name.trim_matches('"')).collect();
            assert_eq!(names.len().to_string(), *count, "{context}");
            assert_eq!((names[0], *names.last().unwrap()), (*first, *last), "{context}");
        }
        _ => panic!("{context}: unknown placeholder <{kind}>"),
    }
}
