//! `/version`, `/v1/ready` and `/v1/status`.

use http::StatusCode;

use super::answer::{Answer, Reject};
use super::call::Call;
use super::readiness::Readiness;
use crate::host::platform::{COMMIT, VERSION, go_arch, go_os};
use crate::host::process::Memory;
use crate::json;

/// The SDK rejects an answer that has the second without the first.
const UNREACHABLE: &[u8] = b",\"keystore_unavailable\":true,\"keystore_unreachable\":true}\n";

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
        api.started.elapsed().as_secs(),
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
