//! `/v1/log/…`: events as they happen, for as long as the client listens and may.

use std::sync::Arc;

use http::StatusCode;

use super::Call;
use super::answer::{Answer, Reject};
use crate::policy::Target;
use crate::stream::Hub;

/// Answers with the events of `hub` from now on, until a reload takes the client's right to them, or its certificate
/// ends.
pub fn stream(call: &Call<'_>, hub: &Hub) -> Result<Answer, Reject> {
    let (api, watch) = (Arc::clone(&call.client.api), Arc::clone(&call.client.watch));
    let identity = call.identity;
    let (path, aliases) = (call.route.path, call.route.aliases);
    let may_read = move || {
        let access = api.access.load();
        let target = Target { path, aliases, rest: "" };
        watch.access_end().is_none()
            && identity.is_none_or(|identity| access.authorize(&identity, &target).is_ok())
    };
    let too_many = || Reject::new(StatusCode::SERVICE_UNAVAILABLE, "too many readers of the log");
    let lines = hub.subscribe(may_read.clone()).ok_or_else(too_many)?;
    // By rules that came between the look at this request and the place among the readers, it may not any more.
    if !may_read() {
        return Err(Reject::not_authorized());
    }
    Ok(Answer::stream(lines, call.expiry))
}
