//! Another configuration for a server that runs: all of it or nothing.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::api::{Api, Routes};
use crate::config::settings::{Settings, TlsSettings};
use crate::conn::Connections;
use crate::policy::Access;
use crate::server::{StartError, create_keys};
use crate::{error_log, tls};

/// What can be changed on a server that runs.
#[derive(Clone)]
pub struct Reloader {
    api: Arc<Api>,
    connections: Arc<Connections>,
    route_timeout: Option<Duration>,
    /// One reload at a time.
    current: Arc<tokio::sync::Mutex<Current>>,
    watched: Arc<Mutex<Watched>>,
}

/// What is in force.
struct Current {
    settings: Settings,
    tls: TlsInputs,
}

impl Reloader {
    /// Makes one for a server that was made of `settings` when the files were as they were `seen`.
    pub(crate) fn new(
        settings: Settings,
        seen: Seen,
        api: Arc<Api>,
        connections: Arc<Connections>,
        route_timeout: Option<Duration>,
    ) -> Self {
        let Seen { watched, tls } = seen;
        let current = Arc::new(tokio::sync::Mutex::new(Current { settings, tls }));
        Self { api, connections, route_timeout, current, watched: Arc::new(Mutex::new(watched)) }
    }

    /// Puts `settings` in force, or fails and leaves everything as it was.
    ///
    /// Requests under way are not disturbed, and neither are connections and cached keys; but where the rule by which
    /// clients are accepted has changed, connections that were accepted by the old one end after the requests that have
    /// begun. Returns the settings that differ and take effect at the next start only.
    pub async fn reload(&self, settings: Settings) -> Result<Vec<&'static str>, StartError> {
        let mut current = self.current.lock().await;
        let access = Access::new(settings.admin, &settings.policies)
            .map_err(|error| StartError::new(error.to_string()))?
            .with_proxies(tls::proxies(&settings.tls)?);
        let routes = Routes::standard().with_settings(&settings.routes);
        let routes = match self.route_timeout {
            Some(timeout) => routes.with_timeout(timeout),
            None => routes,
        };
        let Seen { watched, tls: inputs } = Seen::of(&settings);
        let tls = if inputs == current.tls { None } else { Some(tls_config(&settings)?) };

        // From here on nothing fails. First who may do what, so that nobody is accepted by a new rule under an old policy.
        self.api.set(access, routes);
        self.connections.look_again();
        if let Some(tls) = tls {
            self.connections.set_tls(tls, inputs.rule != current.tls.rule);
            if let Some(end) = tls::certificate_end(&settings.tls.cert) {
                self.api.metrics().certificate_ends(end);
            }
            for warning in tls::certificate_warnings(&settings.tls.cert) {
                tracing::warn!("{warning}");
            }
        }
        self.end_refused_streams();
        self.api.audit().reopen();
        error_log::set_silent(!settings.log.error);
        if let Err(error) = create_keys(&settings, &**self.api.kms()).await {
            tracing::error!("{error}");
        }
        *self.watched() = watched;
        let later = settings_for_later(&current.settings, &settings);
        *current = Current { settings, tls: inputs };
        Ok(later)
    }

    /// Loads certificate, key and CAs again if their files have changed; `None` if they have not.
    pub async fn reload_certificates(&self) -> Option<Result<(), StartError>> {
        let mut current = self.current.lock().await;
        let now = Watched::of(&current.settings.tls);
        if std::mem::replace(&mut *self.watched(), now.clone()) == now {
            return None;
        }
        let inputs = TlsInputs::of(&current.settings);
        if inputs == current.tls {
            return None;
        }
        let made = tls::proxies(&current.settings.tls)
            .and_then(|proxies| Ok((tls_config(&current.settings)?, proxies)));
        let (tls, proxies) = match made {
            Ok(made) => made,
            Err(error) => return Some(Err(error)),
        };
        self.api.set_proxies(proxies);
        self.connections.set_tls(tls, inputs.rule != current.tls.rule);
        self.end_refused_streams();
        if let Some(end) = tls::certificate_end(&current.settings.tls.cert) {
            self.api.metrics().certificate_ends(end);
        }
        current.tls = inputs;
        Some(Ok(()))
    }

    /// Ends the log streams of those who may no longer read.
    fn end_refused_streams(&self) {
        for log in [self.api.audit().hub(), error_log::hub()] {
            log.end_refused();
        }
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls_config(settings: &Settings) -> Result<rustls::ServerConfig, StartError> {
    let tickets = tls::Tickets::begin();
    let mut config = tls::server_config(&settings.tls, settings.needs_certificates())?;
    tickets.give(&mut config, &settings.tls)?;
    Ok(config)
}

/// Names the settings that a server reads at its start only, where they differ.
fn settings_for_later(old: &Settings, new: &Settings) -> Vec<&'static str> {
    // Their texts show no secret: that one is another is not seen here.
    let differs = |name, old: String, new: String| (old != new).then_some(name);
    [
        differs("address", old.address.to_string(), new.address.to_string()),
        differs("probes", format!("{:?}", old.probes), format!("{:?}", new.probes)),
        differs("keystore", format!("{:?}", old.key_store), format!("{:?}", new.key_store)),
        differs("cache", format!("{:?}", old.cache), format!("{:?}", new.cache)),
        differs(
            "log.audit",
            format!("{:?}", (old.log.audit, &old.log.audit_file, old.log.audit_failure)),
            format!("{:?}", (new.log.audit, &new.log.audit_file, new.log.audit_failure)),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The files of a TLS configuration as they were before it was made of them, so that no later change is missed.
pub(crate) struct Seen {
    watched: Watched,
    tls: TlsInputs,
}

impl Seen {
    /// Looks at the files that `settings` name.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { watched: Watched::of(&settings.tls), tls: TlsInputs::of(settings) }
    }
}

/// What a TLS configuration is made of, to see whether it is another.
#[derive(PartialEq, Eq)]
struct TlsInputs {
    /// The server's own certificate and key.
    pair: u64,
    /// By what rule clients are accepted.
    rule: u64,
}

impl TlsInputs {
    fn of(settings: &Settings) -> Self {
        let TlsSettings { cert, key, ca, verify_clients, proxy } = &settings.tls;
        let mut pair = DefaultHasher::new();
        for file in [cert, key] {
            kms_trust::read_file(file).ok().as_deref().hash(&mut pair);
        }
        let mut rule = DefaultHasher::new();
        (verify_clients, settings.needs_certificates()).hash(&mut rule);
        if *verify_clients {
            for file in kms_trust::files_of(ca.as_deref()) {
                kms_trust::read_file(&file).ok().as_deref().hash(&mut rule);
            }
        }
        format!("{proxy:?}").hash(&mut rule);
        Self { pair: pair.finish(), rule: rule.finish() }
    }
}

/// When the files of a TLS configuration were written.
#[derive(Clone, PartialEq, Eq)]
struct Watched(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl Watched {
    fn of(settings: &TlsSettings) -> Self {
        let own = [settings.cert.clone(), settings.key.clone()];
        let stamp = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        let ca = settings.ca.as_deref();
        let cas = if settings.verify_clients { kms_trust::files_of(ca) } else { Vec::new() };
        let files = own.into_iter().chain(cas);
        Self(files.map(|path| (path.clone(), stamp(&path))).collect())
    }
}
