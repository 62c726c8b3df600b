//! `/v1/log/…`: events as they happen, for as long as the client listens and has the right to.

use std::sync::Arc;

use http::StatusCode;
use kms_core::Identity;

use super::answer::{Answer, Reject};
use super::call::Call;
use super::state::Api;
use crate::access::policy::Target;
use crate::conn::watch::Watch;
use crate::telemetry::hub::{Hub, Rules, TooMany};

/// Answers with the events of `hub` from now on.
///
/// The answer ends when a reload takes the client's right to read, when its certificate ends, or when it is too slow.
pub fn follow(call: &Call<'_>, hub: &Hub) -> Result<Answer, Reject> {
    let rules = LogReader {
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
    // A reload between the first check and the subscription does not end this reader, so the right is checked again.
    if !rules.may_read() {
        return Err(Reject::not_authorized());
    }
    Ok(Answer::events(lines, call.expiry))
}

/// The reader of a log.
#[derive(Clone)]
struct LogReader {
    api: Arc<Api>,
    watch: Arc<Watch>,
    is_http2: bool,
    identity: Option<Identity>,
    path: &'static str,
    aliases: &'static [&'static str],
}

impl Rules for LogReader {
    fn may_read(&self) -> bool {
        let access = self.api.access.load();
        let target = Target { aliases: self.aliases, ..Target::of(self.path) };
        self.watch.access_end().is_none()
            && self.identity.is_none_or(|identity| access.authorize(&identity, &target).is_ok())
    }

    fn is_cut_off(&self) {
        if self.is_http2 {
            // A peer with a closed window never receives the end of its stream. So the usual timeout applies from now on.
            self.watch.endless_ends(true);
        }
    }
}
