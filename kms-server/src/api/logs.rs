//! `/v1/log/…`: events as they happen, for as long as the client listens.

use http::StatusCode;

use super::answer::{Answer, Reject};
use crate::stream::Hub;

/// Answers with the events of `hub` from now on, without an end.
pub fn stream(hub: &Hub) -> Result<Answer, Reject> {
    let too_many = || Reject::new(StatusCode::SERVICE_UNAVAILABLE, "too many readers of the log");
    Ok(Answer::stream(hub.subscribe().ok_or_else(too_many)?))
}
