//! Accounts for each request when it is over: one count and one line of the audit log, whatever its end is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Instant;

use http::StatusCode;
use jiff::Timestamp;
use prometheus::Histogram;

use super::answer::Reject;
use super::caller::Caller;
use super::state::Api;
use crate::access::policy::{AccessRules, Policy};
use crate::conn::here;
use crate::telemetry::audit::{AuditEvent, BackedUp, LineRoom, Recorded};
use crate::telemetry::metrics::Tally;

/// Returns the status, as other servers use it, of a request that was given up before anything had begun.
pub fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The account of a request, which its handler gives.
///
/// If it is dropped before, for example because the client hangs up, it records that nothing came of the request.
pub struct Account<'a> {
    pub api: &'a Arc<Api>,
    pub caller: Caller,
    access: &'a AccessRules,
    pub path: &'a str,
    /// Where the request is counted, unless it is refused.
    tally: Tally,
    pub received: Instant,
    is_given: AtomicBool,
    has_passed: AtomicBool,
    /// By what the request is allowed: nothing, no policy, or the policy with this rank.
    allowed_by: AtomicU16,
}

/// The values of [`Account::allowed_by`] that are no rank.
const NOT_ALLOWED: u16 = u16::MAX;
const NO_POLICY: u16 = u16::MAX - 1;

impl<'a> Account<'a> {
    /// Creates the account of a request.
    pub fn open(
        api: &'a Arc<Api>,
        caller: Caller,
        access: &'a AccessRules,
        path: &'a str,
        tally: Tally,
        received: Instant,
    ) -> Self {
        Self {
            api,
            caller,
            access,
            path,
            tally,
            received,
            is_given: AtomicBool::new(false),
            has_passed: AtomicBool::new(false),
            allowed_by: AtomicU16::new(NOT_ALLOWED),
        }
    }

    /// Notes that this policy allows the request, or that it needs none.
    pub fn authorized(&self, policy: Option<&Policy>) {
        // Of so many policies the last ones are in no figure.
        let rank = policy.and_then(|policy| u16::try_from(policy.rank()).ok());
        self.allowed_by.store(rank.map_or(NO_POLICY, |rank| rank.min(NO_POLICY)), Ordering::Relaxed);
    }

    /// Notes that the request is not refused for its path, its method, its certificate or a policy.
    pub fn passed(&self) {
        self.has_passed.store(true, Ordering::Relaxed);
    }

    fn tally(&self) -> Tally {
        if self.has_passed.load(Ordering::Relaxed) { self.tally } else { Tally::Refused }
    }

    /// Records the answer, unless the account was given already. The answer may have to wait for its line.
    pub fn answered(&self, status: StatusCode) -> Recorded {
        if self.is_given.load(Ordering::Relaxed) {
            return Recorded::Done;
        }
        self.is_given.store(true, Ordering::Relaxed);
        self.tell(status, true)
    }

    /// Waits for the line of an answer. If it cannot be written, the error is the refusal to send instead.
    pub async fn recorded(&self, recorded: Recorded, status: StatusCode) -> Result<(), Reject> {
        await_line(self.api, recorded, self.count(self.tally(), status)).await
    }

    /// Refuses a request that cannot be recorded. The refusal has no line either.
    pub fn refuse(&self) -> Reject {
        self.is_given.store(true, Ordering::Relaxed);
        self.api.audit.refused();
        self.count(self.tally, StatusCode::OK).refuse()
    }

    /// Passes the account on to a task that continues without the handler.
    pub fn hand_over(&self, room: Option<LineRoom>) -> OwnAccount {
        self.is_given.store(true, Ordering::Relaxed);
        OwnAccount {
            api: Arc::clone(self.api),
            caller: self.caller.clone(),
            path: self.path.to_owned(),
            received: self.received,
            durations: self.durations().cloned(),
            room,
            backed_up: None,
            is_given: false,
        }
    }

    fn tell(&self, status: StatusCode, sent: bool) -> Recorded {
        let Self { api, path, received, .. } = *self;
        let is_authorized = self.allowed_by.load(Ordering::Relaxed) != NOT_ALLOWED;
        let (tally, durations, backed_up) = (self.tally(), self.durations(), None);
        let told = Told { path, tally, durations, is_authorized, received, status, sent, backed_up };
        self.caller.account_for(api, &told, None)
    }

    /// Returns the histogram of the policy that allows the request.
    fn durations(&self) -> Option<&Histogram> {
        let rank = Some(self.allowed_by.load(Ordering::Relaxed)).filter(|rank| *rank < NO_POLICY)?;
        self.access.durations(usize::from(rank))
    }

    fn count(&self, tally: Tally, status: StatusCode) -> Count<'_> {
        Count { api: self.api, tally, durations: self.durations(), received: self.received, status }
    }
}

/// Counts an answer when it is dropped, even if nobody waits for it any more.
struct Count<'a> {
    api: &'a Api,
    tally: Tally,
    durations: Option<&'a Histogram>,
    received: Instant,
    status: StatusCode,
}

impl Count<'_> {
    /// Returns the refusal of a request, or of its answer, that is not recorded.
    fn refuse(mut self) -> Reject {
        let refused = Reject::new(StatusCode::SERVICE_UNAVAILABLE, "the request cannot be recorded");
        self.status = refused.status();
        self.api.metrics.unrecorded();
        refused
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.api.metrics.answered(self.status, self.tally, self.received.elapsed(), self.durations);
    }
}

async fn await_line(api: &Api, recorded: Recorded, count: Count<'_>) -> Result<(), Reject> {
    if here::stay(api.audit.is_written(recorded)).await { Ok(()) } else { Err(count.refuse()) }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if !*self.is_given.get_mut() {
            let status = client_closed_request();
            if self.tell(status, false) != Recorded::Done {
                // Nobody is left who could wait for the line.
                drop(self.count(self.tally(), status));
            }
        }
    }
}

/// The account of an effect. It is given when the effect ends, even if the client has left.
pub struct OwnAccount {
    api: Arc<Api>,
    caller: Caller,
    pub path: String,
    received: Instant,
    durations: Option<Histogram>,
    room: Option<LineRoom>,
    backed_up: Option<BackedUp>,
    is_given: bool,
}

impl OwnAccount {
    /// Notes what a backup holds.
    #[must_use]
    pub fn of_backup(mut self, backed_up: BackedUp) -> Self {
        self.backed_up = Some(backed_up);
        self
    }

    /// Records the result, and whether the client is still there. Waits until the answer may be sent.
    pub async fn give(mut self, status: StatusCode, sent: bool) -> Result<(), Reject> {
        match self.tell(status, sent) {
            Recorded::Done => Ok(()),
            recorded => await_line(&self.api, recorded, self.count(status)).await,
        }
    }

    fn tell(&mut self, status: StatusCode, sent: bool) -> Recorded {
        self.is_given = true;
        let (path, received) = (self.path.as_str(), self.received);
        let (tally, is_authorized, backed_up) = (Tally::Request, true, self.backed_up);
        let durations = self.durations.as_ref();
        let told = Told { path, tally, durations, is_authorized, received, status, sent, backed_up };
        self.caller.account_for(&self.api, &told, self.room.as_ref())
    }

    fn count(&self, status: StatusCode) -> Count<'_> {
        let (durations, received) = (self.durations.as_ref(), self.received);
        Count { api: &self.api, tally: Tally::Request, durations, received, status }
    }
}

impl Drop for OwnAccount {
    fn drop(&mut self) {
        if !self.is_given {
            // The task ended by a defect, or with the process.
            let identity = self.caller.identity.ok().map(tracing::field::display);
            tracing::error!(identity, path = self.path, "what came of this is not known");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            if self.tell(status, false) != Recorded::Done {
                drop(self.count(status));
            }
        }
    }
}

/// The facts about a request that is over.
struct Told<'a> {
    path: &'a str,
    tally: Tally,
    durations: Option<&'a Histogram>,
    is_authorized: bool,
    received: Instant,
    status: StatusCode,
    sent: bool,
    backed_up: Option<BackedUp>,
}

impl Caller {
    /// Records a request if its client has an identity. Counts it, unless its answer waits for the line.
    fn account_for(&self, api: &Api, told: &Told<'_>, room: Option<&LineRoom>) -> Recorded {
        let Told { path, tally, durations, is_authorized, received, status, sent, backed_up } = *told;
        let took = received.elapsed();
        let Some(identity) = self.identity.as_ref().ok().filter(|_| api.audit.is_on()) else {
            api.metrics.answered(status, tally, took, durations);
            return Recorded::Done;
        };
        let is_known = is_authorized || api.access.load().knows(identity);
        let time = Timestamp::now() - took;
        let event = AuditEvent { time, ip: self.ip, path, identity, is_known, status, took, sent, backed_up };
        let recorded = api.audit.record(&event, room);
        if recorded == Recorded::Done {
            api.metrics.answered(status, tally, took, durations);
        }
        recorded
    }
}
