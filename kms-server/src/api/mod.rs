//! The API of KES, from a request to its answer.
//!
//! The order of checks is that of KES 0.24: path, method, certificate, policy, name, body, existence.

mod account;
mod answer;
mod backup;
mod backups;
mod body;
mod call;
mod caller;
mod deleted;
mod effects;
mod health;
mod keys;
mod logs;
mod path;
mod policies;
mod readiness;
mod route;
mod state;
mod store_status;
mod under_way;
mod versions;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::EXPECT;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use kms_core::Identity;

use self::account::Account;
pub use self::answer::AnswerBody;
use self::answer::{Answer, Reject};
pub use self::backups::BackupTarget;
pub use self::call::MARGIN;
use self::call::{Call, access_ended};
use self::caller::Caller;
pub use self::caller::Client;
use self::path::OwnPath;
pub use self::readiness::Readiness;
use self::route::Gate;
pub use self::route::{Operation, Route, Routes, decode};
pub use self::state::Api;
use crate::access::policy::{AccessRules, Denial, Target};
use crate::conn::here;
use crate::telemetry::audit::Recorded;
use crate::telemetry::error_log;
use crate::telemetry::metrics::Tally;

/// How long the rest of an unwanted body is awaited: from strangers on HTTP/1.1, from known clients on HTTP/2.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers one request, always and within the route's timeout.
///
/// The future is copied and allocated for each request, so what is large and not needed to its end is boxed.
pub fn serve(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> + Send + 'static {
    let received = Instant::now();
    let (head, body) = request.into_parts();
    respond(client, received, Box::new(head), body)
}

async fn respond(
    client: Arc<Client>,
    received: Instant,
    head: Box<Parts>,
    mut body: Incoming,
) -> Result<Response<AnswerBody>, Infallible> {
    let client = &*client;
    let to_head = head.method == Method::HEAD;
    let path = OwnPath::new(&decode(head.uri.path()));
    let path = path.as_str();
    // The count is read before the rules. So a change between the two is noticed later.
    let access_changes = client.api.access_changes.load(Ordering::Acquire);
    let (access, routes) = (client.api.access.load(), client.api.routes.load());
    let found = routes.find(path);
    let tally = found.map_or(Tally::Refused, |(route, _)| route.tally());
    let _active = (tally == Tally::Request).then(|| client.api.metrics.begin());
    let timeout = found.map_or_else(|| routes.shortest_timeout(), |(route, _)| route.timeout);
    let caller = Caller::new(client, &access, &head, path);
    let account = Account::open(&client.api, caller, &access, path, tally, received);
    let deadline = received + timeout;
    if !client.is_http2 {
        client.watch.http1_begin(deadline);
    }
    let waits = !body.is_end_stream() && head.headers.contains_key(EXPECT);
    let in_force = InForce { access: &access, access_changes, routes: &routes };
    let checked = check(client, &head, found, &account, in_force);
    // The head's 16 kB are freed before a body or the key store is awaited.
    drop(head);
    let mut answer = match checked {
        Ok(ref call) => {
            let outcome = within(client, deadline, Box::pin(execute(call, &mut body))).await;
            outcome.unwrap_or_else(|| Err(timed_out(call))).unwrap_or_else(Answer::from)
        }
        Err(refused) => refused,
    };
    let recorded = account.answered(answer.status());
    if recorded != Recorded::Done
        && let Err(refused) = Box::pin(account.recorded(recorded, answer.status())).await
    {
        answer = refused.into();
    }
    let mut lingers = false;
    if body.is_end_stream() {
        // Other requests may follow a refused one.
        lingers = client.watch.http1_refusal().is_some();
    } else if client.is_http2 {
        leave(client, &access, body, waits);
    } else {
        let is_ignored = |body| Box::pin(ignore(client, &access, body, waits, deadline));
        if answer.closes() || !is_ignored(&mut body).await {
            answer = answer.and_close();
        }
        lingers = !body.is_end_stream();
    }
    if answer.is_endless() {
        answer.watch(&client.watch, client.is_http2);
    } else if !client.is_http2 {
        client.watch.http1_answered(lingers);
    }
    Ok(answer.into_response(to_head, client.is_http2))
}

fn timed_out(call: &Call<'_>) -> Reject {
    tracing::error!(path = call.path, remote = %call.client.remote, "request timed out");
    Reject::timed_out().and_close()
}

/// Discards the rest of an HTTP/2 body. The answer does not wait for it.
///
/// The stream is reset after the answer. For known clients it stays open a little longer: what a peer sends to a forgotten
/// stream counts against the connection.
fn leave(client: &Client, access: &AccessRules, mut body: Incoming, waits: bool) {
    if client.is_known(access) {
        tokio::spawn(async move {
            let _ = tokio::time::timeout(REST_TIMEOUT, body::ignore(&mut body, waits)).await;
        });
    }
}

/// Reads and discards the rest of a short HTTP/1.1 body before the answer is sent.
///
/// Some clients do not read an answer while they are sending. Returns false if the connection cannot be used further.
async fn ignore(
    client: &Client,
    access: &AccessRules,
    body: &mut Incoming,
    waits: bool,
    deadline: Instant,
) -> bool {
    let mut deadline = deadline;
    if !client.is_known(access) {
        deadline = deadline.min(Instant::now() + REST_TIMEOUT);
        client.watch.http1_due(deadline);
    }
    within(client, deadline, Box::pin(body::ignore(body, waits))).await == Some(true)
}

/// The rules that apply to one request from its beginning to its end.
#[derive(Clone, Copy)]
struct InForce<'a> {
    access: &'a AccessRules,
    /// The number of changes of the access rules up to these.
    access_changes: u32,
    routes: &'a Routes,
}

/// Makes all checks that need no body and no key.
fn check<'a>(
    client: &'a Client,
    head: &Parts,
    found: Option<(&'a Route, &'a str)>,
    account: &'a Account<'a>,
    in_force: InForce<'a>,
) -> Result<Call<'a>, Answer> {
    let InForce { access, access_changes, routes } = in_force;
    let Account { ref caller, path, received, .. } = *account;
    if let Some(refusal) = client.watch.http1_refusal() {
        return Err(Reject::new(refusal.status, refusal.message).and_close().into());
    }
    let Some((route, rest)) = found else {
        return Err(match routes.find_without_slash(path) {
            Some(route) => Answer::redirect(&head.method, route.path),
            None => Answer::no_such_route(),
        });
    };
    if !route.verb.accepts(&head.method) {
        return Err(Reject::wrong_method(&head.method, route.verb).into());
    }
    if client.api.audit.refuses() {
        return Err(account.refuse().into());
    }
    if let Some(why) = client.watch.access_end() {
        return Err(access_ended(why).into());
    }
    let identity = match route.gate {
        Gate::Anyone => caller.identity.ok(),
        Gate::Policy => Some(authorize(client, account, access, &route.target(path, rest))?),
    };
    account.passed();
    let expiry = caller.expiry;
    Ok(Call {
        client,
        route,
        path,
        rest,
        access,
        access_changes,
        routes,
        identity,
        expiry,
        received,
        account,
    })
}

/// Returns the identity of a client that may request `target`.
fn authorize(
    client: &Client,
    account: &Account<'_>,
    access: &AccessRules,
    target: &Target<'_>,
) -> Result<Identity, Reject> {
    let caller = &account.caller;
    let identity = caller.identity.map_err(|refusal| Reject::bad_request(refusal.message()))?;
    let denial = match access.authorize(&identity, target) {
        Ok(policy) => {
            account.authorized(policy);
            return Ok(identity);
        }
        Err(denial) => denial,
    };
    // Anybody can make many identities without a policy, so these lines are limited.
    let left_out = match denial {
        Denial::NoPolicy => client.api.strangers.allow(),
        _ => Some(0),
    };
    if let Some(left_out) = left_out {
        let left_out = Some(left_out).filter(|&count| count != 0);
        tracing::warn!(%identity, path = target.path, ip = %caller.ip, left_out, "not authorized: {denial}");
    }
    Err(Reject::not_authorized())
}

async fn execute(call: &Call<'_>, body: &mut Incoming) -> Result<Answer, Reject> {
    // Rare operations are boxed, because every request has the size of the largest one that is not.
    match call.route.operation {
        Operation::Generate => keys::generate(call, body).await,
        Operation::Decrypt => keys::decrypt(call, body).await,
        Operation::Encrypt => keys::encrypt(call, body).await,
        Operation::Hmac => Box::pin(keys::hmac(call, body)).await,
        Operation::Describe => Box::pin(keys::describe(call)).await,
        Operation::Create => Box::pin(keys::create(call)).await,
        Operation::Import => Box::pin(keys::import(call, body)).await,
        Operation::List => Box::pin(keys::list(call)).await,
        Operation::Rotate => Box::pin(versions::rotate(call, body)).await,
        Operation::Rewrap => Box::pin(versions::rewrap(call, body)).await,
        Operation::Retire => Box::pin(versions::retire(call, body)).await,
        Operation::Enable => Box::pin(versions::enable(call, body)).await,
        Operation::Versions => Box::pin(versions::list(call)).await,
        Operation::Delete => Box::pin(deleted::delete(call)).await,
        Operation::Deleted => Box::pin(deleted::list(call)).await,
        Operation::Restore => Box::pin(deleted::restore(call, body)).await,
        Operation::Purge => Box::pin(deleted::purge(call, body)).await,
        Operation::Ready => Box::pin(health::ready(call)).await,
        Operation::Status => Box::pin(health::status(call)).await,
        Operation::Version => Ok(health::version()),
        Operation::BulkDecrypt => Box::pin(keys::bulk_decrypt(call, body)).await,
        Operation::DescribePolicy => policies::describe_policy(call),
        Operation::ReadPolicy => policies::read_policy(call),
        Operation::ListPolicies => policies::list_policies(call),
        Operation::DescribeIdentity => policies::describe_identity(call),
        Operation::ListIdentities => policies::list_identities(call),
        Operation::DescribeSelf => policies::describe_self(call),
        Operation::Api => Ok(health::api(call)),
        Operation::Metrics => Box::pin(health::metrics(call)).await,
        Operation::AllMetrics => Box::pin(health::all_metrics(call)).await,
        Operation::ErrorLog => logs::follow(call, error_log::hub()),
        Operation::Backup => Box::pin(backup::create(call, body)).await,
        Operation::AuditLog => logs::follow(call, call.client.api.audit.hub()),
    }
}

/// Waits for `work` until `deadline`. Returns `None` if the deadline comes first.
///
/// Work that completes at once, as with a cached key, never sets a timer. Work in the connection's task has the
/// connection's own timer. Work elsewhere gets a timer when it has to wait.
async fn within<T>(
    client: &Client,
    deadline: Instant,
    mut work: Pin<Box<impl Future<Output = T>>>,
) -> Option<T> {
    let mut timer = None;
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if !client.is_http2 && client.watch.http1_is_overdue() => Poll::Ready(None),
        Poll::Pending if here::is_here() => Poll::Pending,
        Poll::Pending => {
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
            timer.as_mut().poll(cx).map(|()| None)
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// malloc has a fast path for blocks of up to 1,032 bytes, and hyper adds less than two hundred to each request.
    #[test]
    fn a_request_is_small() {
        fn size<C, F>(_: impl FnOnce(C, Request<Incoming>) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(serve) <= 850, "{} bytes", size(serve));
    }
}
