//! A LocalStack for all tests of a process, and a proxy in front of it for each test.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kms_aws::{AwsConfig, AwsConnection, AwsKms, Credentials, SecretsConfig, SecretsManager};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::programs::{free_port, http, program, until};

/// A running LocalStack.
pub struct LocalStack {
    child: Mutex<Child>,
    port: u16,
    _directory: TempDir,
}

impl LocalStack {
    /// Returns the LocalStack of this process. The first call starts it, and it ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<LocalStack> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a LocalStack.
    pub fn start() -> Self {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let address = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        // The shell waits for the end of its input. The input ends with this process, also if that is killed.
        let child = Command::new("sh")
            .args(["-c", "\"$0\" </dev/null & pid=$!; cat >/dev/null; kill -9 $pid"])
            .arg(program("localstack"))
            .current_dir(directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", directory.path())
            .env("TMPDIR", directory.path())
            .envs([
                ("SERVICES", "kms,sts,secretsmanager"),
                ("STRICT_SERVICE_LOADING", "1"),
                ("EAGER_SERVICE_LOADING", "1"),
                ("DISABLE_EVENTS", "1"),
                ("SKIP_SSL_CERT_DOWNLOAD", "1"),
                ("DNS_ADDRESS", "0"),
                ("GATEWAY_SERVER", "hypercorn"),
                ("LOCALSTACK_HOST", &address),
                ("GATEWAY_LISTEN", &address),
            ])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { child: Mutex::new(child), port, _directory: directory };
        let began = Instant::now();
        while !this.is_ready() {
            assert!(began.elapsed() < Duration::from_secs(60), "LocalStack does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }

    /// Returns the URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn is_ready(&self) -> bool {
        let answer = std::net::TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            use std::io::{Read as _, Write as _};
            stream.write_all(b"GET /_localstack/health HTTP/1.0\r\nHost: x\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        answer.is_ok_and(|text| text.contains(r#""kms": "running""#) || text.contains(r#""kms":"running""#))
    }
}

impl Drop for LocalStack {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing; it passes.
    None,
    /// It is never answered.
    Drop,
    /// The connection is reset before the call arrives.
    Reset,
    /// The call arrives, and the connection is reset before the answer.
    ResetAfter,
    /// The answer is AWS's error of this name, with this status.
    Error(u16, &'static str),
    /// The answer is AWS's error of this name, with status 400 and this text.
    Says(&'static str, &'static str),
    /// The answer has status 200 and this body.
    Garbage(&'static [u8]),
}

type Choice = Box<dyn Fn(&str, &Value) -> Fault + Send>;

/// A proxy between servers and LocalStack: it gives each test an account of its own, counts calls and injects
/// faults.
pub struct Aws {
    address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

struct State {
    http: reqwest::Client,
    upstream: String,
    account: String,
    fault: Mutex<Choice>,
    /// The only access key that is accepted. `None` accepts every key.
    known: Mutex<Option<&'static str>>,
    seen: Mutex<Vec<(String, Value)>>,
    /// The number of calls under way now, and the highest number so far.
    at_once: Mutex<(usize, usize)>,
}

/// A call that is under way.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn begin(state: &Arc<State>) -> Self {
        let mut at_once = state.at_once.lock().unwrap();
        *at_once = (at_once.0 + 1, at_once.1.max(at_once.0 + 1));
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().0 -= 1;
    }
}

impl Aws {
    /// Starts a proxy to the shared LocalStack, with an empty account.
    pub async fn start() -> Self {
        let localstack = tokio::task::spawn_blocking(LocalStack::shared).await.unwrap();
        Self::before(localstack.endpoint()).await
    }

    /// Starts a proxy to the LocalStack at `upstream`, with an empty account.
    pub async fn before(upstream: String) -> Self {
        static ACCOUNTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(100_000_000_000);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            http: http(),
            upstream,
            account: ACCOUNTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string(),
            fault: Mutex::new(Box::new(|_, _| Fault::None)),
            known: Mutex::default(),
            seen: Mutex::default(),
            at_once: Mutex::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&state))).abort_handle();
        Self { address, state, task }
    }

    /// Returns the URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the settings of a connection. LocalStack takes an access key that is the number of an account
    /// as that account.
    pub fn connection(&self) -> AwsConnection {
        AwsConnection {
            endpoint: Some(self.endpoint()),
            region: Some("eu-central-1".to_owned()),
            credentials: Some(Credentials {
                access_key: self.state.account.clone(),
                secret_key: "secret-access-key".to_owned().into(),
                token: None,
            }),
        }
    }

    /// Returns the configuration of a server that uses this AWS.
    pub fn config(&self) -> AwsConfig {
        AwsConfig::new(self.connection())
    }

    /// Opens AWS KMS as a server does.
    pub async fn open(&self) -> Arc<AwsKms> {
        self.open_with(|_| {}).await
    }

    /// Opens AWS KMS as a server does, with a changed configuration.
    pub async fn open_with(&self, change: impl FnOnce(&mut AwsConfig)) -> Arc<AwsKms> {
        let mut config = self.config();
        change(&mut config);
        Arc::new(AwsKms::open(config).await.unwrap())
    }

    /// Opens Secrets Manager as a server does, with a changed configuration.
    pub async fn secrets(&self, change: impl FnOnce(&mut SecretsConfig)) -> SecretsManager {
        let mut config = SecretsConfig::new(self.connection());
        change(&mut config);
        SecretsManager::open(config).await.unwrap()
    }

    /// Injects this fault into every call from now on.
    pub fn fail(&self, fault: Fault) {
        self.fail_if(move |_, _| fault.clone());
    }

    /// Accepts only this access key from now on. Other calls get AWS's error for an unknown key.
    pub fn only_for(&self, key: &'static str) {
        *self.state.known.lock().unwrap() = Some(key);
        self.fail(Fault::None);
    }

    /// Chooses the fault of each call by its name and its parameters.
    pub fn fail_if(&self, fault: impl Fn(&str, &Value) -> Fault + Send + 'static) {
        *self.state.fault.lock().unwrap() = Box::new(fault);
    }

    /// Returns the names and parameters of all calls since the last call of this method.
    pub fn take_seen(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }

    /// Waits until no call is under way, and then counts anew how many calls there are at once.
    ///
    /// A server that has just started still makes calls.
    pub async fn count_anew(&self) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        until("nothing is under way", async || self.state.at_once.lock().unwrap().0 == 0).await;
        *self.state.at_once.lock().unwrap() = (0, 0);
    }

    /// Returns the highest number of calls that were under way at once.
    pub fn most_at_once(&self) -> usize {
        self.state.at_once.lock().unwrap().1
    }

    /// Returns the same calls as [`take_seen`](Self::take_seen) and keeps them.
    pub fn seen(&self) -> Vec<(String, Value)> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Makes a call to AWS KMS for the test itself, without counts and faults.
    pub async fn ask(&self, operation: &str, parameters: Value) -> Value {
        self.ask_service(&format!("TrentService.{operation}"), parameters).await
    }

    /// Makes a call to Secrets Manager for the test itself, without counts and faults.
    pub async fn ask_secrets(&self, operation: &str, parameters: Value) -> Value {
        self.ask_service(&format!("secretsmanager.{operation}"), parameters).await
    }

    /// Makes a call for the test itself that may be refused, without counts and faults.
    pub async fn try_ask(&self, target: &str, parameters: Value) -> (u16, Value) {
        let kind = "application/x-amz-json-1.1";
        let (status, body) = forward(&self.state, target, kind, parameters.to_string().into()).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(json!({})))
    }

    async fn ask_service(&self, target: &str, parameters: Value) -> Value {
        let (status, body) = self.try_ask(target, parameters).await;
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    /// Returns the state of a CMK.
    pub async fn state(&self, key: &str) -> String {
        let key = self.ask("DescribeKey", json!({"KeyId": key})).await;
        key["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned()
    }

    /// Returns the states of all CMKs.
    pub async fn states(&self) -> Vec<String> {
        let mut states = Vec::new();
        for key in self.ask("ListKeys", json!({"Limit": 1000})).await["Keys"].as_array().unwrap() {
            let key = self.ask("DescribeKey", json!({"KeyId": key["KeyId"]})).await;
            states.push(key["KeyMetadata"]["KeyState"].as_str().unwrap().to_owned());
        }
        states
    }

    /// Returns the id of the CMK behind an alias.
    pub async fn cmk(&self, alias: &str) -> String {
        let key = self.ask("DescribeKey", json!({"KeyId": alias})).await;
        key["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    // With this option a failed call ends in a reset instead of an orderly close.
    let _ = stream.set_zero_linger();
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Broken> {
    let _under_way = UnderWay::begin(&state);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    let target = parts.headers.get("x-amz-target").map_or("", |target| target.to_str().unwrap()).to_owned();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    // STS has another protocol: its parameters are a form.
    let kind = parts.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    let parameters: Value = serde_json::from_slice(&body).unwrap_or_default();
    let fault = (state.fault.lock().unwrap())(&operation, &parameters);
    let signed = parts.headers.get("authorization").map_or("", |signed| signed.to_str().unwrap());
    let fault = match *state.known.lock().unwrap() {
        Some(key) if !signed.contains(key) => Fault::Error(403, "UnrecognizedClientException"),
        _ => fault,
    };
    state.seen.lock().unwrap().push((operation, parameters));
    let respond = |status: u16, body: &[u8]| {
        Response::builder()
            .status(status)
            .header("content-type", "application/x-amz-json-1.1")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|_| Broken)
    };
    match fault {
        Fault::Drop => std::future::pending::<()>().await,
        Fault::Reset => return Err(Broken),
        Fault::Error(status, code) => {
            let body = json!({"__type": code, "message": "told to fail"}).to_string();
            return respond(status, body.as_bytes());
        }
        Fault::Says(code, text) => {
            let body = json!({"__type": code, "message": text}).to_string();
            return respond(400, body.as_bytes());
        }
        Fault::Garbage(garbage) => return respond(200, garbage),
        Fault::None | Fault::ResetAfter => {}
    }
    let (status, body) = forward(&state, &target, &kind, body).await.map_err(|_| Broken)?;
    if fault == Fault::ResetAfter {
        return Err(Broken);
    }
    respond(status, &body)
}

async fn forward(state: &State, target: &str, kind: &str, body: Bytes) -> reqwest::Result<(u16, Bytes)> {
    let service = match target.split('.').next() {
        Some("TrentService") => "kms",
        Some("secretsmanager") => "secretsmanager",
        _ => "sts",
    };
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential={}/20260101/eu-central-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=0",
        state.account
    );
    let mut request = state.http.post(&state.upstream).header("content-type", kind);
    if !target.is_empty() {
        request = request.header("x-amz-target", target);
    }
    let request = request.header("authorization", signed).body(body);
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.bytes().await?))
}

/// An error that makes hyper close the connection.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is reset, as told")
    }
}

impl std::error::Error for Broken {}
