//! The metrics: KES's families for its clients, and our own.
//!
//! The SDK's reader of `/v1/metrics` fails on any other family with more than one series, so our families have a registry
//! of their own. Handles are created once, so that a request costs only a few atomic additions.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::Timestamp;
use kms_core::Kms;
use prometheus::{Encoder as _, Gauge, Histogram, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::buckets::BUCKETS;
use super::families::{Counter, CounterVec, counter, gauge, histogram, register};
use super::policy_durations::{OfPolicies, PolicyDurations};
use super::version_uses::VersionUses;
use crate::escrow::Figures;
use crate::host::process::{self, Locked, Memory};

/// The media type of Prometheus's text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The upper bounds of KES's buckets, in seconds.
const KES_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0];

/// All metrics of a server.
pub struct Metrics {
    started: Instant,
    kes: Registry,
    ours: Registry,
    active: IntGauge,
    success: Counter,
    by_code: ByCode,
    response_time: Histogram,
    duration: Histogram,
    of_policies: PolicyDurations,
    refused: Counter,
    system: System,
    audit_events: Counter,
    error_events: Counter,
    audit_dropped: Counter,
    unrecorded: Counter,
    evicted: Counter,
    cache: Cache,
    versions: VersionUses,
    certificate_expiry: Gauge,
    store_away: IntGauge,
    /// There is a series only if the key store has a login that ends.
    login_expiry: OnceLock<Option<IntGauge>>,
    closed_roots: IntGauge,
    roots_opened: IntGaugeVec,
    /// There is a series only if drills leave evidence for it.
    drill_ages: OnceLock<Option<[Gauge; 2]>>,
    protection: [IntGauge; 4],
    /// The figures of an escrow file, if there is one.
    escrow: OnceLock<Escrow>,
    /// The count of the process-wide error log at the last look.
    errors_seen: AtomicU64,
}

impl Metrics {
    /// Creates all metrics, at zero.
    pub fn new() -> prometheus::Result<Self> {
        let (kes, ours) = (Registry::new(), Registry::new());
        let by_code = ByCode::new(&kes)?;
        let help = "Histogram of request response times spawning from 10ms to 10s.";
        let response_time = histogram(&kes, "kes_http_response_time", help, &KES_BUCKETS)?;
        let help = "Time from a request's headers to its answer, in seconds.";
        Ok(Self {
            started: Instant::now(),
            active: gauge(
                &kes,
                "kes_http_request_active",
                "Number of active requests that are not finished, yet.",
            )?,
            success: by_code.success.with_label_values(&["200"]),
            by_code,
            response_time,
            duration: histogram(&ours, "kms_request_duration_seconds", help, &BUCKETS)?,
            of_policies: PolicyDurations::new(&ours)?,
            refused: counter(
                &ours,
                "kms_requests_refused_total",
                "Requests refused for their path, method, certificate or policy.",
            )?,
            system: System::new(&kes)?,
            audit_events: counter(
                &kes,
                "kes_log_audit_events",
                "Number of audit log events written to the audit log targets.",
            )?,
            error_events: counter(
                &kes,
                "kes_log_error_events",
                "Number of error log events written to the error log targets.",
            )?,
            audit_dropped: counter(
                &ours,
                "kms_audit_events_dropped_total",
                "Audit events that could not be written and are lost.",
            )?,
            unrecorded: counter(
                &ours,
                "kms_requests_unrecorded_total",
                "Requests refused since the audit log could not take them.",
            )?,
            evicted: counter(
                &ours,
                "kms_connections_evicted_total",
                "Connections of clients that may do nothing, closed to make room for others.",
            )?,
            cache: Cache::new(&ours)?,
            versions: VersionUses::new(&ours)?,
            certificate_expiry: register(
                &ours,
                Gauge::new(
                    "kms_certificate_expiry_timestamp_seconds",
                    "When the server's certificate ends, in seconds since 1970.",
                )?,
            )?,
            store_away: gauge(
                &ours,
                "kms_key_store_away",
                "Whether the key store, or the holder of its root key, did not answer the last call.",
            )?,
            login_expiry: OnceLock::new(),
            closed_roots: gauge(
                &ours,
                "kms_roots_closed",
                "Roots of the key store in the config that do not open it now.",
            )?,
            roots_opened: register(
                &ours,
                IntGaugeVec::new(
                    Opts::new(
                        "kms_root_last_opened_timestamp_seconds",
                        "When this root last opened the key store, in seconds since 1970; 0 if not since the start.",
                    ),
                    &["root"],
                )?,
            )?,
            drill_ages: OnceLock::new(),
            protection: [
                gauge(&ours, "kms_memory_locked", "Whether no page of the process can be swapped out.")?,
                gauge(
                    &ours,
                    "kms_master_keys_locked",
                    "Whether pages with master keys are kept from being swapped out, within the limit.",
                )?,
                gauge(&ours, "kms_core_dumps_off", "Whether a crash leaves no core dump.")?,
                gauge(&ours, "kms_memory_hidden", "Whether other processes cannot look into this one.")?,
            ],
            escrow: OnceLock::new(),
            errors_seen: AtomicU64::new(0),
            kes,
            ours,
        })
    }

    /// Counts a request as active until the returned value is dropped.
    pub fn begin(&self) -> Active<'_> {
        self.active.inc();
        Active(&self.active)
    }

    /// Returns the histograms of these policies. Those of all other policies end.
    pub fn of_policies<'a>(&self, names: impl Iterator<Item = &'a str>) -> OfPolicies {
        self.of_policies.set(names)
    }

    /// Counts an answer, also in the histogram of the policy that allowed the request.
    pub fn answered(&self, status: StatusCode, tally: Tally, took: Duration, of_policy: Option<&Histogram>) {
        let seconds = took.as_secs_f64();
        self.duration.observe(seconds);
        match tally {
            Tally::Refused => return self.refused.inc(),
            Tally::Monitoring => return,
            Tally::Request => {}
        }
        self.response_time.observe(seconds);
        if let Some(of_policy) = of_policy {
            of_policy.observe(seconds);
        }
        if status == StatusCode::OK {
            self.success.inc();
        } else {
            self.by_code.count(status);
        }
    }

    /// Counts events of the audit log that were written or lost.
    pub fn audited(&self, written: u64, dropped: u64) {
        self.audit_events.inc_by(written);
        self.audit_dropped.inc_by(dropped);
    }

    /// Counts a request that was refused because it cannot be recorded.
    pub fn unrecorded(&self) {
        self.unrecorded.inc();
    }

    /// Counts a connection that was closed to make room.
    pub fn evicted(&self) {
        self.evicted.inc();
    }

    /// Sets the end of the server's certificate.
    pub fn certificate_ends(&self, unix_seconds: i64) {
        #[expect(clippy::cast_precision_loss, reason = "it is exact for some hundred million years")]
        self.certificate_expiry.set(unix_seconds as f64);
    }

    /// Adds the families of an escrow file.
    pub fn show_escrow(&self, figures: Figures) -> prometheus::Result<()> {
        let escrow = Escrow::new(&self.ours, figures)?;
        // There is one escrow file, and it is shown once.
        let _ = self.escrow.set(escrow);
        Ok(())
    }

    /// Sets the age of the last good drill of a backup, and that of the backup, in seconds.
    pub fn drill_is_old(&self, seconds: [f64; 2]) {
        let made = self.drill_ages.get_or_init(|| {
            let gauge = |name, help| register(&self.ours, Gauge::new(name, help).ok()?).ok();
            Some([
                gauge(
                    "kms_backup_last_good_drill_age_seconds",
                    "Seconds since the last drill in which every key of a backup opened.",
                )?,
                gauge(
                    "kms_backup_last_good_snapshot_age_seconds",
                    "Age of the backup that the last good drill restored: seconds since its list of keys began.",
                )?,
            ])
        });
        for (age, seconds) in made.iter().flatten().zip(seconds) {
            age.set(seconds);
        }
    }

    /// Returns KES's families alone, in the text format.
    pub fn kes_text(&self) -> Vec<u8> {
        self.look();
        encode(&self.kes)
    }

    /// Returns all families in the text format.
    pub fn text(&self, kms: &dyn Kms) -> Vec<u8> {
        self.look();
        self.cache.look(kms);
        self.versions.look(kms);
        self.store_away.set(i64::from(kms.is_away().unwrap_or(false)));
        if let Some(ends) = kms.login_ends() {
            self.show_login(ends);
        }
        self.closed_roots
            .set(kms.closed_roots().map_or(0, |closed| i64::try_from(closed).unwrap_or(i64::MAX)));
        for (root, at) in kms.roots_opened() {
            self.roots_opened.with_label_values(&[root]).set(at.map_or(0, Timestamp::as_second));
        }
        if let Some(escrow) = self.escrow.get() {
            escrow.look();
        }
        if let Some(held) = process::protection() {
            let all = process::is_locked();
            let keys = all || matches!(held.locked, Ok(Locked::MasterKeys(_)));
            let held = [all, keys, held.no_core_dump.is_ok(), held.not_dumpable.is_ok()];
            for (family, holds) in self.protection.iter().zip(held) {
                family.set(i64::from(holds));
            }
        }
        let mut text = encode(&self.kes);
        text.extend_from_slice(&encode(&self.ours));
        text
    }

    fn show_login(&self, ends: Timestamp) {
        let made = self.login_expiry.get_or_init(|| {
            let help = "When the login at the key store ends unless it is renewed, in seconds since 1970; 0 while there is none.";
            gauge(&self.ours, "kms_key_store_login_expiry_timestamp_seconds", help).ok()
        });
        if let Some(expiry) = made {
            expiry.set(ends.as_second());
        }
    }

    /// Updates the figures that are only read on demand.
    fn look(&self) {
        self.system.look(self.started);
        let errors = crate::telemetry::error_log::events();
        let before = self.errors_seen.swap(errors, Ordering::Relaxed);
        self.error_events.inc_by(errors.saturating_sub(before));
    }
}

/// The families in which a request is counted.
///
/// KES's families count permitted requests for keys, policies and identities. Otherwise a monitoring client would mostly
/// see itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// A request that KES's families count.
    Request,
    /// A request for the version, health, routes, metrics or a log.
    Monitoring,
    /// A request that was refused for its path, its method, its certificate or a policy.
    Refused,
}

/// A request that is being answered.
pub struct Active<'a>(&'a IntGauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The requests by their result.
struct ByCode {
    success: CounterVec,
    error: CounterVec,
    failure: CounterVec,
}

impl ByCode {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        // A series that first appears with a failure shows no increase to an alert, so each begins at zero.
        let family = |name: &str, help: &str, codes: &[&str]| {
            let family = register(registry, CounterVec::new(Opts::new(name, help), &["code"])?)?;
            for code in codes {
                family.with_label_values(&[code]);
            }
            Ok::<_, prometheus::Error>(family)
        };
        Ok(Self {
            success: family(
                "kes_http_request_success",
                "Number of requests that have been served successfully.",
                &["200"],
            )?,
            error: family(
                "kes_http_request_error",
                "Number of request that failed due to some error. (HTTP 4xx status code)",
                &["400", "404"],
            )?,
            failure: family(
                "kes_http_request_failure",
                "Number of request that failed due to some internal failure. (HTTP 5xx status code)",
                &["500", "501", "502", "503", "504"],
            )?,
        })
    }

    fn count(&self, status: StatusCode) {
        let family = match status.as_u16() {
            500.. => &self.failure,
            400..=499 => &self.error,
            _ => &self.success,
        };
        family.with_label_values(&[status.as_str()]).inc();
    }
}

/// Figures of the process and its machine.
struct System {
    up_time: IntGauge,
    cpus: IntGauge,
    cpus_used: IntGauge,
    threads: IntGauge,
    heap: IntGauge,
    heap_objects: IntGauge,
    stack: IntGauge,
}

impl System {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| gauge(registry, &format!("kes_system_{name}"), help);
        Ok(Self {
            up_time: gauge("up_time", "The time the server has been up and running in seconds.")?,
            cpus: gauge("num_cpu", "The number of logical CPUs of the system.")?,
            cpus_used: gauge("num_cpu_used", "The number of threads that serve requests.")?,
            threads: gauge("num_threads", "The number of threads of the process.")?,
            heap: gauge("mem_heap_used", "The number of bytes of memory that the process allocated.")?,
            heap_objects: gauge("mem_heap_objects", "Always 0: the number of allocations is not known.")?,
            stack: gauge("mem_stack_used", "The bytes of the main thread's stack.")?,
        })
    }

    fn look(&self, started: Instant) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let memory = Memory::of_this_process();
        let workers =
            tokio::runtime::Handle::try_current().map_or(1, |handle| handle.metrics().num_workers());
        set(&self.up_time, started.elapsed().as_secs());
        set(&self.cpus, std::thread::available_parallelism().map_or(1, usize::from) as u64);
        set(&self.cpus_used, workers as u64);
        set(&self.threads, memory.threads);
        set(&self.heap, memory.heap);
        set(&self.heap_objects, 0);
        set(&self.stack, memory.stack);
    }
}

/// Figures of the cache. The key ring counts them. These are copies of its last report.
struct Cache {
    families: [IntGauge; 6],
}

impl Cache {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let family = |name: &str, help: &str| gauge(registry, name, help);
        Ok(Self {
            families: [
                family("kms_cache_hits", "Requests served by a key in memory, since the start.")?,
                family("kms_cache_misses", "Requests that had to wait for the key store, since the start.")?,
                family(
                    "kms_cache_offline_hits",
                    "Requests served by an offline copy while the key store was away, since the start.",
                )?,
                family("kms_key_store_reads", "Keys asked of the key store, since the start.")?,
                family("kms_key_store_failed_reads", "Reads of the key store that failed, since the start.")?,
                family("kms_cache_keys", "Keys that have a place in memory.")?,
            ],
        })
    }

    fn look(&self, kms: &dyn Kms) {
        let Some(counters) = kms.counters() else { return };
        let values = [
            counters.hits,
            counters.misses,
            counters.offline_hits,
            counters.reads,
            counters.failed_reads,
            counters.keys,
        ];
        for (family, value) in self.families.iter().zip(values) {
            family.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// Figures of the escrow file.
struct Escrow {
    figures: Figures,
    missing: IntGauge,
    ambiguous: IntGauge,
    complete: IntGauge,
    writable: IntGauge,
}

impl Escrow {
    fn new(registry: &Registry, figures: Figures) -> prometheus::Result<Self> {
        let family = |name: &str, help: &str| gauge(registry, &format!("kms_escrow_{name}"), help);
        Ok(Self {
            figures,
            missing: family("missing_keys", "Keys of which the escrow file lacks an entry.")?,
            ambiguous: family(
                "ambiguous_names",
                "Names under which several keys live by the escrow file, so that a restore takes none unasked.",
            )?,
            complete: family(
                "complete",
                "Whether the escrow file was compared with the whole key store since the start, and a restore takes each key unasked.",
            )?,
            writable: family("writable", "Whether the escrow file can be written.")?,
        })
    }

    fn look(&self) {
        self.missing.set(i64::try_from(self.figures.missing()).unwrap_or(i64::MAX));
        self.ambiguous.set(i64::try_from(self.figures.ambiguous()).unwrap_or(i64::MAX));
        self.complete.set(i64::from(self.figures.is_complete()));
        self.writable.set(i64::from(self.figures.is_writable()));
    }
}

fn encode(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory does not fail, and the registered families have valid names.
    let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
    text
}
