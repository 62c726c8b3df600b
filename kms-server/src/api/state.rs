//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kms_core::Kms;

use super::body::BodyRoom;
use super::readiness::Readiness;
use super::route::{Operation, Routes};
use super::store_status::SharedStatus;
use super::under_way::Effects;
use crate::access::policy::{AccessRules, Proxies};
use crate::store::wanted_keys::WantedKeys;
use crate::telemetry::audit::Audit;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::Metrics;

/// How many lines of the error log are about identities that have no policy, and in what time.
const STRANGERS: (Duration, u32) = (Duration::from_secs(10), 20);

/// What all requests share.
pub struct Api {
    pub(super) kms: Arc<dyn Kms>,
    pub(super) store_status: SharedStatus,
    wanted: Arc<WantedKeys>,
    pub(super) access: ArcSwap<AccessRules>,
    /// How often the access rules were changed.
    pub(super) access_changes: AtomicU32,
    pub(super) routes: ArcSwap<Routes>,
    pub(super) room: Arc<BodyRoom>,
    /// When the process began to serve.
    pub(super) started: Instant,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    pub(super) effects: Arc<Effects>,
    /// Lines of the error log about identities that have no policy.
    pub(super) strangers: LogLimit,
}

impl Api {
    /// Serves `kms` to those whom `access` lets pass.
    pub fn new(
        kms: Arc<dyn Kms>,
        access: AccessRules,
        routes: Routes,
        metrics: Arc<Metrics>,
        audit: Arc<Audit>,
        wanted: Arc<WantedKeys>,
    ) -> Self {
        Self {
            store_status: SharedStatus::new(Arc::clone(&kms)),
            wanted,
            kms,
            access: ArcSwap::from_pointee(access),
            access_changes: AtomicU32::new(0),
            routes: ArcSwap::from_pointee(routes),
            room: Arc::default(),
            started: Instant::now(),
            metrics,
            audit,
            effects: Arc::default(),
            strangers: LogLimit::new(STRANGERS.0, STRANGERS.1),
        }
    }

    /// Tells in the error log how many lines about strangers were left out last.
    pub fn tell_left_out(&self, at_the_end: bool) {
        if let Some(count) = self.strangers.ended(at_the_end) {
            tracing::warn!("not authorized: {count} more requests of identities without a policy");
        }
    }

    /// Lends the effects that are under way.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Lends the audit log.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// Puts other access rules and routes in force: they hold for every request that comes from now on.
    ///
    /// Returns the rules that were in force: where they are many, it takes long to drop them.
    pub fn set(&self, access: AccessRules, routes: Routes) -> Arc<AccessRules> {
        let old = self.set_access(access);
        self.routes.store(Arc::new(routes));
        old
    }

    /// Has the certificates that proxies hand on verified otherwise.
    pub fn set_proxies(&self, proxies: Option<Proxies>) {
        self.set_access(AccessRules::clone(&self.access.load()).with_proxies(proxies));
    }

    fn set_access(&self, access: AccessRules) -> Arc<AccessRules> {
        let old = self.access.swap(Arc::new(access));
        self.access_changes.fetch_add(1, Ordering::Release);
        old
    }

    /// Returns the access rules.
    pub fn access(&self) -> Arc<AccessRules> {
        self.access.load_full()
    }

    /// Returns the routes.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Lends what is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Lends the key management service.
    pub fn kms(&self) -> &Arc<dyn Kms> {
        &self.kms
    }

    /// Lends the keys that the configuration names.
    pub fn wanted_keys(&self) -> &Arc<WantedKeys> {
        &self.wanted
    }

    /// Tells whether requests can be served, and what is amiss, by one question to the key store for all who ask in the
    /// same second.
    pub(super) async fn readiness(&self) -> Readiness {
        Readiness::of(self.store_status.ask().await, self.wanted.describe())
    }

    /// Tells the same within the time of the route `/v1/ready`; `None` when that is over.
    pub async fn readiness_in_time(&self) -> Option<Readiness> {
        let timeout = self.routes.load().timeout_of(Operation::Ready);
        tokio::time::timeout(timeout, self.readiness()).await.ok()
    }
}
