//! Creates, imports, rotations and deletes. An effect that has begun is finished and recorded, even if the client has left.
//!
//! A handler is dropped when its client hangs up, or when the route's timeout is over. So an effect runs in a task of its
//! own, which owns the audit line and the count. The handler only waits for it. An effect that still waits for its turn in
//! the key store has not begun, and ends with the handler.

use std::sync::Arc;

use http::StatusCode;
use kms_core::{ErrorKind, Kms, Request};
use tokio::sync::oneshot;

use super::account::client_closed_request;
use super::answer::{Answer, Reject};
use super::call::Call;

/// Runs an effect, and answers 200 after it.
pub async fn run<F>(
    call: &Call<'_>,
    request: Request,
    effect: impl FnOnce(Arc<dyn Kms>, Request) -> F,
) -> Result<Answer, Reject>
where
    F: Future<Output = kms_core::Result<()>> + Send + 'static,
{
    run_for(call, request, effect, |&()| Answer::done()).await
}

/// Runs an effect, and answers with what it brings.
pub async fn run_for<T, F>(
    call: &Call<'_>,
    request: Request,
    effect: impl FnOnce(Arc<dyn Kms>, Request) -> F,
    answer: impl FnOnce(&T) -> Answer + Send + 'static,
) -> Result<Answer, Reject>
where
    T: Send + Sync + 'static,
    F: Future<Output = kms_core::Result<T>> + Send + 'static,
{
    let api = &call.client.api;
    let room = api.audit.reserve(call.path).map_err(|_| call.account.refuse())?;
    let (request, waiter) = request.awaited();
    let effect = effect(Arc::clone(&api.kms), request);
    let (asked, account, running) = (call.asked(), call.account.hand_over(room), api.effects.begin());
    let (sender, outcome) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = effect.await;
        let answer = match &outcome {
            Ok(brought) => Ok(answer(brought)),
            Err(error) => Err(asked.failed(&account.path, error)),
        };
        let status = match &outcome {
            Err(error) if error.kind() == ErrorKind::Abandoned => client_closed_request(),
            _ => answer.as_ref().map_or_else(Reject::status, Answer::status),
        };
        let sent = !sender.is_closed();
        if !sent && status != client_closed_request() {
            tracing::warn!(
                identity = asked.identity.map(tracing::field::display),
                path = account.path,
                remote = %asked.remote,
                status = status.as_u16(),
                "what the client no longer waited for has come to its end"
            );
        }
        let recorded = account.give(status, sent).await;
        let _ = sender.send(recorded.and(answer));
        drop(running);
    });
    let outcome = tokio::time::timeout_at(call.effect_deadline().into(), outcome).await;
    drop(waiter);
    match outcome {
        Ok(Ok(answer)) => answer,
        // The task ended by a defect.
        Ok(Err(_)) => Err(Reject::new(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")),
        Err(_) => {
            tracing::error!(path = call.path, remote = %call.client.remote(), "request timed out, and what it began goes on");
            Err(Reject::timed_out())
        }
    }
}
