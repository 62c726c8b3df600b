//! What is told of each request when it is over: one count, and one line of the audit log, however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::StatusCode;
use jiff::Timestamp;

use super::{Api, Caller};
use crate::audit::{AuditEvent, LineRoom};

/// What a request that was given up comes to, as far as nothing had begun: by its code at other servers.
pub fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The account of a request, which its handler gives.
///
/// Dropped without, as when the client hangs up, it tells that nothing came of the request.
pub struct Account<'a> {
    pub api: &'a Arc<Api>,
    pub caller: &'a Caller,
    pub path: &'a str,
    pub is_known_route: bool,
    pub received: Instant,
    is_given: AtomicBool,
}

impl<'a> Account<'a> {
    /// Opens the account of a request.
    pub fn open(
        api: &'a Arc<Api>,
        caller: &'a Caller,
        path: &'a str,
        is_known_route: bool,
        received: Instant,
    ) -> Self {
        Self { api, caller, path, is_known_route, received, is_given: AtomicBool::new(false) }
    }

    /// Tells what was answered, unless somebody else does.
    pub fn answered(&self, status: StatusCode) {
        if !self.is_given.load(Ordering::Relaxed) {
            self.is_given.store(true, Ordering::Relaxed);
            self.tell(status, true);
        }
    }

    /// Leaves the account to a task that goes on without the handler.
    pub fn hand_over(&self, room: Option<LineRoom>) -> OwnAccount {
        self.is_given.store(true, Ordering::Relaxed);
        OwnAccount {
            api: Arc::clone(self.api),
            caller: self.caller.clone(),
            path: self.path.to_owned(),
            received: self.received,
            room,
            is_given: false,
        }
    }

    fn tell(&self, status: StatusCode, sent: bool) {
        self.caller.account_for(self.api, self.path, self.is_known_route, self.received, status, sent, None);
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if !*self.is_given.get_mut() {
            self.tell(client_closed_request(), false);
        }
    }
}

/// The account of an effect, which is given when it has ended, whoever still listens.
pub struct OwnAccount {
    api: Arc<Api>,
    caller: Caller,
    pub path: String,
    received: Instant,
    room: Option<LineRoom>,
    is_given: bool,
}

impl OwnAccount {
    /// Tells what came of it, and whether there is anybody left to be answered.
    pub fn give(mut self, status: StatusCode, sent: bool) {
        self.tell(status, sent);
    }

    fn tell(&mut self, status: StatusCode, sent: bool) {
        self.is_given = true;
        let room = self.room.as_ref();
        self.caller.account_for(&self.api, &self.path, true, self.received, status, sent, room);
    }
}

impl Drop for OwnAccount {
    fn drop(&mut self) {
        if !self.is_given {
            // Its task ended by a defect, or with the process.
            let identity = self.caller.identity.ok().map(tracing::field::display);
            tracing::error!(identity, path = self.path, "what came of this is not known");
            self.tell(StatusCode::INTERNAL_SERVER_ERROR, false);
        }
    }
}

impl Caller {
    /// Counts a request that is over, and records it if the client is known.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a line tells")]
    fn account_for(
        &self,
        api: &Api,
        path: &str,
        is_known_route: bool,
        received: Instant,
        status: StatusCode,
        sent: bool,
        room: Option<&LineRoom>,
    ) {
        let took = received.elapsed();
        api.metrics.answered(status, is_known_route, took);
        if !api.audit.is_on() {
            return;
        }
        let Ok(identity) = &self.identity else { return };
        let time = Timestamp::now() - took;
        api.audit.record(&AuditEvent { time, ip: self.ip, path, identity, status, took, sent }, room);
    }
}
