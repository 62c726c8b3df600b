//! `/v1/log/…`: events as they happen, for as long as the client listens and may.

use std::sync::Arc;

use http::StatusCode;
use kms_core::Identity;

use super::answer::{Answer, Reject};
use super::call::Call;
use super::state::Api;
use crate::access::policy::Target;
use crate::conn::watch::Watch;
use crate::telemetry::hub::{Hub, Rules, TooMany};

/// Answers with the events of `hub` from now on, until a reload takes the client's right to them, its certificate
/// ends, or it is too slow.
pub fn follow(call: &Call<'_>, hub: &Hub) -> Result<Answer, Reject> {
    let rules = Reader {
        api: Arc::clone(&call.client.api),
        watch: Arc::clone(&call.client.watch),
        is_http2: call.client.is_http2,
        identity: call.identity,
        path: call.route.path,
        aliases: call.route.aliases,
    };
    let lines = hub.subscribe(call.identity, rules.clone()).map_err(|too_many| {
        let message = match too_many {
            TooMany::Readers => "too many readers of the log",
            TooMany::OfOne => "too many readers of the log by this identity",
        };
        Reject::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    // By rules that came between the look at this request and the place among the readers, it may not any more.
    if !rules.may_read() {
        return Err(Reject::not_authorized());
    }
    Ok(Answer::events(lines, call.expiry))
}

/// Who reads, and where.
#[derive(Clone)]
struct Reader {
    api: Arc<Api>,
    watch: Arc<Watch>,
    is_http2: bool,
    identity: Option<Identity>,
    path: &'static str,
    aliases: &'static [&'static str],
}

impl Rules for Reader {
    fn may_read(&self) -> bool {
        let access = self.api.access.load();
        let target = Target { path: self.path, aliases: self.aliases, rest: "" };
        self.watch.access_end().is_none()
            && self.identity.is_none_or(|identity| access.authorize(&identity, &target).is_ok())
    }

    fn is_cut_off(&self) {
        if self.is_http2 {
            // A peer that opens no window never takes the end of its stream either: the usual time holds from now on.
            self.watch.endless_ends(true);
        }
    }
}
