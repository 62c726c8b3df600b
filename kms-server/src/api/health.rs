//! `/version`, `/v1/ready` and `/v1/status`.

use std::time::Instant;

use http::StatusCode;
use kms_core::StoreStatus;

use super::answer::{Answer, Reject};
use super::{Call, json};
use crate::process::Memory;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, as the build was told in the environment variable `KMS_COMMIT`.
pub const COMMIT: &str = match option_env!("KMS_COMMIT") {
    Some(commit) => commit,
    None => "<unknown>",
};

/// The SDK rejects an answer that has the second without the first.
const UNREACHABLE: &[u8] = b",\"keystore_unavailable\":true,\"keystore_unreachable\":true}\n";

/// What does not change while the process runs.
#[derive(Debug)]
pub struct Process {
    started: Instant,
}

impl Process {
    /// Describes this process, which starts to serve now.
    pub fn now() -> Self {
        Self { started: Instant::now() }
    }
}

/// Tells version and commit.
pub fn version() -> Answer {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(b"{\"version\":");
    json::push_string(&mut out, VERSION);
    out.extend_from_slice(b",\"commit\":");
    json::push_string(&mut out, COMMIT);
    out.extend_from_slice(b"}\n");
    Answer::json(out)
}

/// Lists the routes of KES 0.24 with their limits; a log's time is told as 0, since its answer has no end.
pub fn api(call: &Call<'_>) -> Answer {
    let mut out = b"[".to_vec();
    for route in call.routes.iter().filter(|route| route.is_listed()) {
        if out.len() > 1 {
            out.push(b',');
        }
        let (method, path, max_body) = (route.verb.name(), route.path, route.max_body);
        let timeout = if route.is_endless() { 0 } else { route.timeout.as_secs() };
        out.extend_from_slice(
            format!(
                "{{\"method\":\"{method}\",\"path\":\"{path}\",\"max_body\":{max_body},\"timeout\":{timeout}}}"
            )
            .as_bytes(),
        );
    }
    out.extend_from_slice(b"]\n");
    Answer::json(out)
}

/// Whether requests can be served: the status of an answer to a probe, and what is amiss.
pub struct Readiness {
    /// 200 while keys can be served, be it from an offline copy.
    pub status: StatusCode,
    /// What is wrong, if anything is.
    pub amiss: Option<String>,
}

impl Readiness {
    /// Judges by what the key store answered, and by what is told of keys that the configuration names.
    pub fn of(store: kms_core::Result<StoreStatus>, wanted: Option<String>) -> Self {
        let (status, of_store) = match store {
            Ok(store) => (StatusCode::OK, store.degraded),
            Err(error) if error.kind().is_outage() => {
                (StatusCode::GATEWAY_TIMEOUT, Some("key store is not reachable".to_owned()))
            }
            Err(_) => (StatusCode::BAD_GATEWAY, Some("key store is unavailable".to_owned())),
        };
        let amiss = match (of_store, wanted) {
            (Some(store), Some(wanted)) => Some(format!("{store}; {wanted}")),
            (store, wanted) => store.or(wanted),
        };
        Self { status, amiss }
    }
}

/// Tells whether requests can be served.
pub async fn ready(call: &Call<'_>) -> Result<Answer, Reject> {
    match call.client.api.readiness().await {
        Readiness { status: StatusCode::OK, amiss: None } => Ok(Answer::done()),
        Readiness { status: StatusCode::OK, amiss: Some(why) } => {
            let mut out = b"{\"message\":".to_vec();
            json::push_string(&mut out, &why);
            out.extend_from_slice(b"}\n");
            Ok(Answer::json(out))
        }
        Readiness { status, amiss } => Err(Reject::new(status, amiss.unwrap_or_default())),
    }
}

/// Tells about the process and its key store.
pub async fn status(call: &Call<'_>) -> Result<Answer, Reject> {
    let api = &call.client.api;
    let memory = Memory::of_this_process();
    let mut out = b"{\"version\":".to_vec();
    json::push_string(&mut out, VERSION);
    let tokio_workers = tokio::runtime::Handle::current().metrics().num_workers();
    let facts = format!(
        ",\"os\":\"{}\",\"arch\":\"{}\",\"uptime\":{},\"num_cpu\":{},\"num_cpu_used\":{tokio_workers},\"mem_heap_used\":{},\"mem_stack_used\":{}",
        go_os(),
        go_arch(),
        api.process.started.elapsed().as_secs(),
        std::thread::available_parallelism().map_or(tokio_workers, usize::from),
        memory.heap,
        memory.stack,
    );
    out.extend_from_slice(facts.as_bytes());
    match api.store_status.ask().await {
        // Milliseconds, and never 0, which Go's encoder would have left out.
        Ok(store) if store.reachable => {
            out.extend_from_slice(
                format!(",\"keystore_latency\":{}}}\n", store.latency.as_millis().max(1)).as_bytes(),
            );
        }
        // Away: keys are served from their offline copies, or not at all.
        Ok(_) | Err(_) => out.extend_from_slice(UNREACHABLE),
    }
    Ok(Answer::json(out))
}

/// The operating system and the architecture by the names that Go gives them, as in `linux/amd64`.
pub fn platform() -> String {
    format!("{}/{}", go_os(), go_arch())
}

/// The operating system by the name that Go gives it.
fn go_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// The architecture by the name that Go gives it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
