//! Changes the configuration of a running server: completely, or not at all.

mod inputs;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use kms_core::{CacheConfig, Identity, KeyName};
use rustls::ServerConfig;

pub(crate) use self::inputs::Seen;
use self::inputs::{TlsInputs, Watched};
use super::connections::Connections;
use crate::access::policy::{AccessRules, Proxies};
use crate::api::{Api, BackupTarget, Routes};
use crate::error::StartError;
use crate::settings::{
    ErrorLevel, EscrowSettings, KeyStoreSettings, LogFormat, LogSettings, Settings, TlsSettings,
};
use crate::store::inventory::nobody;
use crate::telemetry::error_log;
use crate::tls;

/// The time between two checks whether replaced rules are still in use.
const RETIRE_CHECK: Duration = Duration::from_millis(200);

/// Changes the configuration of a running server.
///
/// Files are read, and slow work is done, on threads that serve nobody.
#[derive(Clone)]
pub struct Reloader {
    api: Arc<Api>,
    connections: Arc<Connections>,
    route_timeout: Option<Duration>,
    started: Arc<AtStart>,
    /// The configuration in force. The lock allows one change at a time.
    current: Arc<tokio::sync::Mutex<Current>>,
}

/// The settings that a server reads only at its start.
#[derive(PartialEq, Eq)]
struct AtStart {
    address: SocketAddr,
    threads: Option<NonZeroUsize>,
    probes: Option<SocketAddr>,
    key_store: KeyStoreSettings,
    /// The hash of the files for the TLS connections to a Vault.
    vault_files: u64,
    /// The hash of the files for the TLS connections to a PostgreSQL.
    postgres_files: u64,
    cache: CacheConfig,
    grace: Duration,
    escrow: Option<EscrowSettings>,
    /// The error log is not compared: it follows at once.
    log: LogSettings,
}

/// The part in force that can be changed.
struct Current {
    tls: Arc<TlsSettings>,
    needs_certificates: bool,
    /// The state of the files before they were read.
    watched: Watched,
    inputs: TlsInputs,
    /// Why the current files cannot be used. They are tried again at each check.
    refused: Option<StartError>,
}

/// A new configuration that is ready to be put in force.
struct Made {
    access: AccessRules,
    routes: Routes,
    tls: Option<MadeTls>,
    log_least: Option<ErrorLevel>,
    log_format: LogFormat,
    creator: Identity,
    keys: Vec<KeyName>,
    rotate_after: Vec<(KeyName, Duration)>,
    is_for_kes: bool,
    backup: BackupTarget,
    later: Vec<&'static str>,
    current: Current,
}

/// A TLS configuration, and the facts to report about it.
struct MadeTls {
    config: ServerConfig,
    rule_changed: bool,
    certificate_end: Option<i64>,
    warnings: Vec<String>,
}

/// The result of a check of the TLS files.
enum Looked {
    /// They were not written.
    Unchanged,
    /// They were written with the same content.
    Same(Watched),
    /// They have another content, which is usable.
    Other(Watched, TlsInputs, Box<MadeTls>, Option<Proxies>),
    /// They have another content, which is not usable.
    Refused(StartError),
}

impl Reloader {
    /// Creates the reloader of a server that was made from `settings` and from the files in state `seen`.
    pub(crate) fn new(
        settings: Settings,
        seen: Seen,
        api: Arc<Api>,
        connections: Arc<Connections>,
        route_timeout: Option<Duration>,
    ) -> Self {
        let Seen { watched, inputs } = seen;
        let needs_certificates = settings.needs_certificates();
        let (started, tls) = AtStart::split(settings);
        let current = Current { tls: Arc::new(tls), needs_certificates, watched, inputs, refused: None };
        let current = Arc::new(tokio::sync::Mutex::new(current));
        Self { api, connections, route_timeout, started: Arc::new(started), current }
    }

    /// Puts `settings` in force, or fails and leaves everything as it was.
    ///
    /// Requests, connections and cached keys are not disturbed, with one exception: if the rule for clients' certificates
    /// has changed, connections that the old rule accepted end after their current requests. Returns the names of changed
    /// settings that take effect only at the next start.
    pub async fn reload(&self, settings: Settings) -> Result<Vec<&'static str>, StartError> {
        let mut current = self.current.lock().await;
        let (started, inputs, timeout) = (Arc::clone(&self.started), current.inputs, self.route_timeout);
        let made = blocking(move || Made::of(settings, &started, inputs, timeout)).await?;

        // Nothing fails from here on. The policies come first, so that the new rule accepts nobody under an old policy.
        let old = self.api.set(made.access, made.routes);
        self.connections.look_again();
        if let Some(tls) = made.tls {
            self.put(tls);
        }
        self.end_refused_streams();
        self.api.audit().reopen();
        error_log::set_least(made.log_least);
        error_log::set_format(made.log_format);
        *current = made.current;
        drop(current);
        retire(old);
        self.api.set_for_kes(made.is_for_kes);
        self.api.set_backup(made.backup);
        self.api.rotations().set(made.creator, made.rotate_after);
        self.api.wanted_keys().set(made.creator, made.keys).await;
        Ok(made.later)
    }

    /// Loads certificate, key and CAs again if their files have changed, or if the changed files were unusable.
    ///
    /// Returns `None` if there is no news. The reason why files are unusable is returned only once.
    pub async fn reload_certificates(&self) -> Option<Result<(), StartError>> {
        let mut current = self.current.lock().await;
        let (settings, needs_certificates) = (Arc::clone(&current.tls), current.needs_certificates);
        let seen = current.refused.is_none().then(|| current.watched.clone());
        let inputs = current.inputs;
        let looked = blocking(move || Ok(Looked::at(&settings, needs_certificates, seen.as_ref(), inputs)));
        match looked.await.unwrap_or_else(Looked::Refused) {
            Looked::Unchanged => None,
            Looked::Same(watched) => {
                current.watched = watched;
                current.refused.take().map(|_| Ok(()))
            }
            Looked::Other(watched, inputs, tls, proxies) => {
                self.api.set_proxies(proxies);
                self.put(*tls);
                self.end_refused_streams();
                *current = Current {
                    tls: Arc::clone(&current.tls),
                    needs_certificates,
                    watched,
                    inputs,
                    refused: None,
                };
                Some(Ok(()))
            }
            Looked::Refused(error) => {
                let is_told = current.refused.as_ref() == Some(&error);
                current.refused = Some(error.clone());
                (!is_told).then_some(Err(error))
            }
        }
    }

    fn put(&self, tls: MadeTls) {
        self.connections.set_tls(tls.config, tls.rule_changed);
        if let Some(end) = tls.certificate_end {
            self.api.metrics().certificate_ends(end);
        }
        for warning in tls.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Ends the readers of logs that may no longer read.
    fn end_refused_streams(&self) {
        for log in [self.api.audit().hub(), error_log::hub()] {
            log.end_refused();
        }
    }
}

impl Made {
    fn of(
        settings: Settings,
        started: &AtStart,
        in_force: TlsInputs,
        route_timeout: Option<Duration>,
    ) -> Result<Self, StartError> {
        let access = AccessRules::new(settings.admin, &settings.policies)
            .map_err(StartError::of)?
            .with_proxies(tls::proxies(&settings.tls)?);
        let routes = Routes::standard().with_settings(&settings.routes);
        let routes = match route_timeout {
            Some(timeout) => routes.with_timeout(timeout),
            None => routes,
        };
        let needs_certificates = settings.needs_certificates();
        // The state is taken before the files are read, so that no later change is missed.
        let Seen { watched, inputs } = Seen::of(&settings);
        let tls = if inputs == in_force {
            None
        } else {
            Some(MadeTls::of(&settings.tls, needs_certificates, inputs.rule != in_force.rule)?)
        };
        let creator = settings.admin.unwrap_or_else(nobody);
        let (log_least, keys) = (settings.log.least(), settings.keys.clone());
        let log_format = settings.log.format;
        let backup = BackupTarget::of(&settings.backup)?;
        let (rotate_after, is_for_kes) = (settings.rotate_after.clone(), settings.is_for_kes);
        let (now, of_tls) = AtStart::split(settings);
        let current = Current { tls: Arc::new(of_tls), needs_certificates, watched, inputs, refused: None };
        let later = started.differences(&now);
        Ok(Self {
            access,
            routes,
            tls,
            log_least,
            log_format,
            creator,
            keys,
            rotate_after,
            is_for_kes,
            backup,
            later,
            current,
        })
    }
}

impl MadeTls {
    fn of(settings: &TlsSettings, needs_certificates: bool, rule_changed: bool) -> Result<Self, StartError> {
        let mut config = tls::server_config(settings, needs_certificates)?;
        tls::Tickets::begin().give(&mut config, settings)?;
        Ok(Self {
            config,
            rule_changed,
            certificate_end: tls::certificate_end(&settings.cert),
            warnings: tls::certificate_warnings(&settings.cert),
        })
    }
}

impl Looked {
    /// Checks the files. They are unchanged if their state is `seen`. The current configuration was made from `in_force`.
    fn at(
        settings: &TlsSettings,
        needs_certificates: bool,
        seen: Option<&Watched>,
        in_force: TlsInputs,
    ) -> Self {
        let watched = Watched::of(settings);
        if seen == Some(&watched) {
            return Self::Unchanged;
        }
        let inputs = TlsInputs::of(settings, needs_certificates);
        if inputs == in_force {
            return Self::Same(watched);
        }
        let made = MadeTls::of(settings, needs_certificates, inputs.rule != in_force.rule);
        match made.and_then(|made| Ok((made, tls::proxies(settings)?))) {
            Ok((made, proxies)) => Self::Other(watched, inputs, Box::new(made), proxies),
            Err(error) => Self::Refused(error),
        }
    }
}

impl AtStart {
    /// Splits `settings` into those that are read only at the start, and those for TLS.
    fn split(settings: Settings) -> (Self, TlsSettings) {
        let Settings { address, threads, probes, key_store, cache, grace, escrow, log, tls, .. } = settings;
        let LogSettings { error, error_level, format, .. } = LogSettings::default();
        let log = LogSettings { error, error_level, format, ..log };
        let vault_files = inputs::of_vault(&key_store);
        let postgres_files = inputs::of_postgres(&key_store);
        let at_start = Self {
            address,
            threads,
            probes,
            key_store,
            vault_files,
            postgres_files,
            cache,
            grace,
            escrow,
            log,
        };
        (at_start, tls)
    }

    /// Returns the names of the settings that differ.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("address", self.address != other.address),
            ("threads", self.threads != other.threads),
            ("probes", self.probes != other.probes),
            ("keystore", self.key_store != other.key_store),
            ("the files of keystore.vault.tls", self.vault_files != other.vault_files),
            ("the files of keystore.postgres.tls", self.postgres_files != other.postgres_files),
            ("cache", self.cache != other.cache),
            ("deletion", self.grace != other.grace),
            ("escrow", self.escrow != other.escrow),
            ("log.audit", self.log != other.log),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// Runs slow work, or work that reads files, on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let ended = |error| StartError::with_source(format!("it was cut off: {error}"), error);
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// Drops replaced rules on a thread that serves nobody, after the last request has released them.
fn retire(old: Arc<AccessRules>) {
    tokio::spawn(async move {
        while Arc::strong_count(&old) > 1 {
            tokio::time::sleep(RETIRE_CHECK).await;
        }
        tokio::task::spawn_blocking(move || drop(old));
    });
}
