//! `/version`, `/v1/ready`, `/v1/status` and `/v1/api`.

use http::StatusCode;
use serde::Serialize;

use super::answer::{Answer, Message, Reject};
use super::call::Call;
use super::readiness::Readiness;
use crate::conn::here;
use crate::host::platform::{COMMIT, VERSION, go_arch, go_os};
use crate::host::process::Memory;

/// Answers with version and commit.
pub fn version() -> Answer {
    Answer::json(&VersionAnswer { version: VERSION, commit: COMMIT })
}

#[derive(Serialize)]
struct VersionAnswer {
    version: &'static str,
    commit: &'static str,
}

/// Answers with the routes of KES 0.24 and their limits. A log has no timeout, which is written as 0.
pub fn api(call: &Call<'_>) -> Answer {
    let listed = call.routes.iter().filter(|route| route.is_listed());
    let routes = listed.map(|route| RouteAnswer {
        method: route.verb.name(),
        path: route.path,
        max_body: route.max_body,
        timeout: if route.is_endless() { 0 } else { route.timeout.as_secs() },
    });
    Answer::json(&routes.collect::<Vec<_>>())
}

#[derive(Serialize)]
struct RouteAnswer {
    method: &'static str,
    path: &'static str,
    max_body: usize,
    timeout: u64,
}

/// Answers whether requests can be served.
pub async fn ready(call: &Call<'_>) -> Result<Answer, Reject> {
    match call.client.api.readiness().await {
        Readiness { status: StatusCode::OK, amiss: None } => Ok(Answer::done()),
        Readiness { status: StatusCode::OK, amiss: Some(why) } => {
            Ok(Answer::json(&Message { message: &why }))
        }
        Readiness { status, amiss } => Err(Reject::new(status, amiss.unwrap_or_default())),
    }
}

/// Answers with facts about the process and its key store.
pub async fn status(call: &Call<'_>) -> Result<Answer, Reject> {
    // The memory is read from files.
    here::leave().await;
    let api = &call.client.api;
    let memory = Memory::of_this_process();
    // While the store is away, keys are served from offline copies, or not at all.
    let store = api.store_status.ask().await.ok().filter(|store| store.reachable);
    let is_away = store.is_none().then_some(true);
    Ok(Answer::json(&StatusAnswer {
        version: VERSION,
        os: go_os(),
        arch: go_arch(),
        uptime: api.started.elapsed().as_secs(),
        num_cpu: std::thread::available_parallelism().map_or(api.threads, usize::from),
        num_cpu_used: api.threads,
        mem_heap_used: memory.heap,
        mem_stack_used: memory.stack,
        keystore_latency: store.map(|store| store.latency.as_millis().max(1)),
        keystore_unavailable: is_away,
        keystore_unreachable: is_away,
    }))
}

/// Answers with the metrics that KES has.
pub async fn metrics(call: &Call<'_>) -> Result<Answer, Reject> {
    here::leave().await;
    Ok(Answer::metrics(call.client.api.metrics.kes_text()))
}

/// Answers with all metrics.
pub async fn all_metrics(call: &Call<'_>) -> Result<Answer, Reject> {
    here::leave().await;
    let api = &call.client.api;
    Ok(Answer::metrics(api.metrics_text()))
}

#[derive(Serialize)]
struct StatusAnswer {
    version: &'static str,
    os: &'static str,
    arch: &'static str,
    uptime: u64,
    num_cpu: usize,
    num_cpu_used: usize,
    mem_heap_used: u64,
    mem_stack_used: u64,
    /// In milliseconds, and never 0, because Go's encoder would have omitted a 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    keystore_latency: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keystore_unavailable: Option<bool>,
    /// The SDK rejects an answer with this member and without `keystore_unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    keystore_unreachable: Option<bool>,
}
