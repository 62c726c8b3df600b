//! The state that all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kms_core::Kms;

use super::backups::{BackupTarget, Backups};
use super::body::BodyRoom;
use super::readiness::Readiness;
use super::route::{Operation, Routes};
use super::store_status::SharedStatus;
use super::under_way::Effects;
use crate::access::policy::{AccessRules, Proxies};
use crate::store::rotations::Rotations;
use crate::store::wanted_keys::WantedKeys;
use crate::telemetry::audit::Audit;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::Metrics;

/// The most log lines about identities without a policy, and the interval for them.
const STRANGERS: (Duration, u32) = (Duration::from_secs(10), 20);

/// The state that all requests share.
pub struct Api {
    pub(super) kms: Arc<dyn Kms>,
    pub(super) store_status: SharedStatus,
    wanted: Arc<WantedKeys>,
    rotations: Arc<Rotations>,
    is_for_kes: AtomicBool,
    pub(super) access: ArcSwap<AccessRules>,
    /// The number of changes of the access rules.
    pub(super) access_changes: AtomicU32,
    pub(super) routes: ArcSwap<Routes>,
    pub(super) room: Arc<BodyRoom>,
    /// The time when the process began to serve.
    pub(super) started: Instant,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    pub(super) effects: Arc<Effects>,
    pub(super) backups: Backups,
    /// The number of threads that serve connections.
    pub(super) threads: usize,
    /// Limits the log lines about identities without a policy.
    pub(super) strangers: LogLimit,
}

impl Api {
    /// Creates the state for serving `kms` to everybody whom `access` lets pass.
    pub fn new(
        kms: Arc<dyn Kms>,
        access: AccessRules,
        routes: Routes,
        metrics: Arc<Metrics>,
        audit: Arc<Audit>,
        wanted: Arc<WantedKeys>,
        rotations: Arc<Rotations>,
    ) -> Self {
        let access = access.counted_by(&metrics);
        Self {
            store_status: SharedStatus::new(Arc::clone(&kms)),
            wanted,
            rotations,
            is_for_kes: AtomicBool::new(false),
            kms,
            access: ArcSwap::from_pointee(access),
            access_changes: AtomicU32::new(0),
            routes: ArcSwap::from_pointee(routes),
            room: Arc::default(),
            started: Instant::now(),
            metrics,
            audit,
            effects: Arc::default(),
            backups: Backups::default(),
            threads: 1,
            strangers: LogLimit::new(STRANGERS.0, STRANGERS.1),
        }
    }

    /// Sets the number of threads that serve connections, for answers about the process.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Logs how many lines about strangers were left out last.
    pub fn tell_left_out(&self, at_the_end: bool) {
        if let Some(count) = self.strangers.ended(at_the_end) {
            tracing::warn!("not authorized: {count} more requests of identities without a policy");
        }
    }

    /// Returns the effects under way.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Returns the audit log.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// Puts other access rules and routes in force, for all further requests.
    ///
    /// Returns the old rules, because dropping many rules takes long.
    pub fn set(&self, access: AccessRules, routes: Routes) -> Arc<AccessRules> {
        let old = self.set_access(access.counted_by(&self.metrics));
        self.routes.store(Arc::new(routes));
        old
    }

    /// Replaces the rule for the certificates that proxies pass on.
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

    /// Returns the metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the key management service.
    pub fn kms(&self) -> &Arc<dyn Kms> {
        &self.kms
    }

    /// Returns the keys that are rotated by age.
    pub fn rotations(&self) -> &Arc<Rotations> {
        &self.rotations
    }

    /// Puts other settings of backups in force, for further backups.
    pub fn set_backup(&self, target: BackupTarget) {
        self.backups.set(target);
    }

    /// Returns all metrics in the text format of Prometheus.
    pub fn metrics_text(&self) -> Vec<u8> {
        if let Some(ages) = self.backups.drill_ages() {
            self.metrics.drill_is_old(ages);
        }
        self.metrics.text(&*self.kms)
    }

    /// Returns whether the configuration is one of KES, to which its user may want to go back.
    pub fn is_for_kes(&self) -> bool {
        self.is_for_kes.load(Ordering::Relaxed)
    }

    /// Notes whether the configuration is one of KES.
    pub fn set_for_kes(&self, is_for_kes: bool) {
        self.is_for_kes.store(is_for_kes, Ordering::Relaxed);
    }

    /// Returns the keys that the configuration names.
    pub fn wanted_keys(&self) -> &Arc<WantedKeys> {
        &self.wanted
    }

    /// Returns whether requests can be served. The key store is asked at most once a second, for all who ask.
    pub(super) async fn readiness(&self) -> Readiness {
        Readiness::of(self.store_status.ask().await, self.wanted.describe())
    }

    /// Returns the same within the timeout of the route `/v1/ready`, or `None` if that is over.
    pub async fn readiness_in_time(&self) -> Option<Readiness> {
        let timeout = self.routes.load().timeout_of(Operation::Ready);
        tokio::time::timeout(timeout, self.readiness()).await.ok()
    }
}
