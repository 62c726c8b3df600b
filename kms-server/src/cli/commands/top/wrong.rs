//! What is wrong with a server now.

use jiff::Timestamp;

use super::reading::{Reading, Ready};

/// A certificate that ends sooner than this is told.
const CERTIFICATE_DAYS: f64 = 7.0;

/// A backup whose last good drill was longer ago than this is told.
const DRILL_DAYS: f64 = 31.0;

/// A server that has run for longer than this should have compared its escrow file with the key store.
const ESCROW_SECONDS: f64 = 3600.0;

const DAY: f64 = 86_400.0;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Whether clients or keys suffer from it, or only will if nobody does anything.
    pub is_bad: bool,
    /// It, in one line.
    pub what: String,
}

/// Returns what is wrong by the last reading of a server and the one before, the worst first.
pub fn wrong(now: &Reading, before: Option<&Reading>, time: Timestamp) -> Vec<Wrong> {
    let mut found = Vec::new();
    of_readiness(now, &mut found);
    of_requests(now, before, &mut found);
    of_store(now, before, &mut found);
    of_ends(now, time, &mut found);
    of_safety(now, &mut found);
    found.sort_by_key(|wrong| !wrong.is_bad);
    found
}

fn bad(what: impl Into<String>) -> Wrong {
    Wrong { is_bad: true, what: what.into() }
}

fn doubtful(what: impl Into<String>) -> Wrong {
    Wrong { is_bad: false, what: what.into() }
}

/// Returns a count if it is not zero.
fn some(count: Option<f64>) -> Option<f64> {
    count.filter(|count| *count > 0.0)
}

fn of_readiness(now: &Reading, found: &mut Vec<Wrong>) {
    match &now.ready {
        Ready::Unknown | Ready::Yes => {}
        Ready::No(why) => found.push(bad(format!("not ready: {why}"))),
        Ready::Degraded(why) => found.extend(why.split("; ").map(doubtful)),
    }
}

fn of_requests(now: &Reading, before: Option<&Reading>, found: &mut Vec<Wrong>) {
    let grew = |family| some(now.growth(before?, family));
    if let Some(before) = before {
        for sample in now.series("kes_http_request_failure") {
            let code = sample.label("code");
            let then = before.series("kes_http_request_failure").find(|then| then.label("code") == code);
            let more = sample.value - then.map_or(0.0, |then| then.value);
            if let Some(more) = some(Some(more)) {
                let code = code.unwrap_or("5xx");
                found.push(bad(format!("{more} requests were answered with {code}")));
            }
        }
    }
    if let Some(count) = grew("kms_requests_unrecorded") {
        found.push(bad(format!("{count} requests were refused, as the audit log could not take them")));
    }
    if let Some(count) = grew("kms_audit_events_dropped") {
        found.push(bad(format!("{count} events of the audit log were lost")));
    } else if let Some(count) = some(now.sum("kms_audit_events_dropped")) {
        found.push(doubtful(format!("{count} events of the audit log were lost since the start")));
    }
    if let Some(count) = grew("kms_connections_evicted") {
        let what = "connections of clients without a policy were closed to make room";
        found.push(doubtful(format!("{count} {what}")));
    }
}

fn of_store(now: &Reading, before: Option<&Reading>, found: &mut Vec<Wrong>) {
    let grew = |family| some(now.growth(before?, family));
    let is_told = !matches!(now.ready, Ready::Unknown | Ready::Yes);
    if now.sum("kms_key_store_away") == Some(1.0) && !is_told {
        found.push(bad("the key store does not answer"));
    }
    if let Some(count) = grew("kms_cache_offline_hits") {
        found.push(bad(format!("{count} requests were served by offline copies of keys")));
    }
    if let Some(count) = grew("kms_key_store_failed_reads") {
        found.push(bad(format!("{count} reads of the key store failed")));
    }
    match some(now.sum("kms_roots_closed")) {
        Some(1.0) => found.push(bad("a root does not open the key store")),
        Some(count) => found.push(bad(format!("{count} roots do not open the key store"))),
        None => {}
    }
}

fn of_ends(now: &Reading, time: Timestamp, found: &mut Vec<Wrong>) {
    let left = |family| Some(now.sum(family)? - seconds_of(time));
    match left("kms_certificate_expiry_timestamp_seconds") {
        Some(left) if left <= 0.0 => {
            found.push(bad(format!("the server's certificate ended {} ago", span(-left))));
        }
        Some(left) if left < CERTIFICATE_DAYS * DAY => {
            found.push(doubtful(format!("the server's certificate ends in {}", span(left))));
        }
        _ => {}
    }
    if left("kms_key_store_login_expiry_timestamp_seconds").is_some_and(|left| left <= 0.0) {
        found.push(bad("there is no login at the key store, or it has ended"));
    }
    if let Some(age) = now.sum("kms_backup_last_good_drill_age_seconds")
        && age > DRILL_DAYS * DAY
    {
        found.push(doubtful(format!("the last good drill of a backup was {} ago", span(age))));
    }
}

fn of_safety(now: &Reading, found: &mut Vec<Wrong>) {
    if now.sum("kms_escrow_writable") == Some(0.0) {
        found.push(bad("the escrow file cannot be written"));
    }
    if let Some(count) = some(now.sum("kms_escrow_missing_keys")) {
        found.push(bad(format!("the escrow file lacks {count} keys")));
    }
    if let Some(count) = some(now.sum("kms_escrow_ambiguous_names")) {
        found.push(doubtful(format!("by the escrow file {count} names stand for several keys")));
    }
    let is_old = now.sum("kes_system_up_time").is_some_and(|seconds| seconds > ESCROW_SECONDS);
    if is_old && now.sum("kms_escrow_complete") == Some(0.0) {
        found.push(doubtful("the escrow file was not compared with the whole key store since the start"));
    }
    if now.sum("kms_master_keys_locked") == Some(0.0) {
        found.push(doubtful("memory with master keys can be swapped out"));
    }
}

fn seconds_of(time: Timestamp) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is exact for some hundred million years")]
    let seconds = time.as_second() as f64;
    seconds
}

/// Returns a number of seconds in the largest unit that fits.
pub fn span(seconds: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(DAY, "d"), (3600.0, "h"), (60.0, "m")];
    let fits = UNITS.into_iter().find(|(length, _)| seconds >= *length);
    let (length, unit) = fits.unwrap_or((1.0, "s"));
    format!("{:.0}{unit}", (seconds / length).floor())
}
