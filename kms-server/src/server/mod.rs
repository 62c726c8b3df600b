//! The server: built and checked, then listening, then serving until it is stopped.

mod connections;
mod drive;
mod probes;
pub mod reload;
mod slots;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::Kms;
use kms_trust::describe_io_error;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use self::connections::Connections;
use self::probes::Probes;
use self::reload::{Reloader, Seen};
use self::threads::Threads;
use crate::access::policy::AccessRules;
use crate::api::{Api, BackupTarget, Routes};
pub use crate::conn::guard::Bounds;
use crate::error::StartError;
use crate::host::listen::listen;
use crate::host::process;
use crate::settings::Settings;
use crate::store::inventory::{count_keys, nobody};
use crate::store::rotations::Rotations;
use crate::store::wanted_keys::WantedKeys;
use crate::telemetry::audit::{self, Audit};
use crate::telemetry::error_log;
use crate::telemetry::metrics::Metrics;
use crate::{store, tls};

/// How long a stopping server waits for requests that have begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stopping server waits for effects whose clients have left. A call to the key store may take less than this.
const EFFECTS_TIMEOUT: Duration = Duration::from_secs(12);

/// The time between two looks for left-out log lines about strangers.
const TELL_LEFT_OUT: Duration = Duration::from_secs(5);

/// How long a stopping server waits for the audit log, last of all.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server with a checked configuration, certificate and key store, which does not listen yet.
pub struct Server {
    settings: Settings,
    seen: Seen,
    tls: rustls::ServerConfig,
    kms: Arc<dyn Kms>,
    access: AccessRules,
    routes: Routes,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    wanted: Arc<WantedKeys>,
    rotations: Arc<Rotations>,
    backup: BackupTarget,
    limits: Limits,
}

/// The limits of a server that the protocol does not define.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The timeout of all routes, or `None` for the default of each.
    pub route_timeout: Option<Duration>,
    /// The most connections at once. Beyond it, strangers' connections end, or new ones wait.
    pub connections: usize,
    /// The time limits of each connection.
    pub bounds: Bounds,
}

impl Default for Limits {
    /// Returns the default times, and as many connections as the limit of open files allows.
    fn default() -> Self {
        Self { route_timeout: None, connections: process::max_connections(), bounds: Bounds::default() }
    }
}

impl Server {
    /// Opens the key store and checks everything.
    ///
    /// An error is one line that names the file or key at fault and what was expected.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        // What is cheap and has no effect comes first.
        let seen = Seen::of(&settings);
        let tls = tls::server_config(&settings.tls, settings.needs_certificates())?;
        let tickets = tls::Tickets::begin();
        let store::Opened { kms, escrow } = store::open(&settings).await?;
        let server = Self::assemble(settings, seen, tls, tickets, kms).await?;
        if let Some(figures) = escrow {
            server.metrics.show_escrow(figures).map_err(no_metrics)?;
        }
        Ok(server)
    }

    /// Creates a server for the caller's key management service. The key store of `settings` is not opened.
    pub async fn with_kms(settings: Settings, kms: Arc<dyn Kms>) -> Result<Self, StartError> {
        let seen = Seen::of(&settings);
        let tls = tls::server_config(&settings.tls, settings.needs_certificates())?;
        Self::assemble(settings, seen, tls, tls::Tickets::begin(), kms).await
    }

    async fn assemble(
        settings: Settings,
        seen: Seen,
        mut tls: rustls::ServerConfig,
        tickets: tls::Tickets,
        kms: Arc<dyn Kms>,
    ) -> Result<Self, StartError> {
        let access = AccessRules::new(settings.admin, &settings.policies)
            .map_err(StartError::of)?
            .with_proxies(tls::proxies(&settings.tls)?);
        for warning in tls::certificate_warnings(&settings.tls.cert) {
            tracing::warn!("{warning}");
        }
        let audit = Audit::open(&settings.log).map_err(|(file, error)| {
            let why = describe_io_error(&error);
            let line = format!("log.audit_file: cannot open '{}': {why}", file.display());
            StartError::with_source(line, error)
        })?;
        let metrics = Metrics::new().map_err(no_metrics)?;
        if let Some(end) = tls::certificate_end(&settings.tls.cert) {
            metrics.certificate_ends(end);
        }
        let creator = settings.admin.unwrap_or_else(nobody);
        let wanted = WantedKeys::at_start(creator, &settings.keys, &*kms).await?;
        let rotations = Rotations::new(creator, settings.rotate_after.clone());
        tickets.give(&mut tls, &settings.tls)?;
        let backup = BackupTarget::of(&settings.backup)?;
        let routes = Routes::standard().with_settings(&settings.routes);
        let (metrics, limits) = (Arc::new(metrics), Limits::default());
        Ok(Self {
            settings,
            seen,
            tls,
            kms,
            access,
            routes,
            audit,
            metrics,
            wanted,
            rotations,
            backup,
            limits,
        })
    }

    /// Sets other limits than the defaults.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Begins to listen, and logs it in one line.
    #[allow(
        clippy::unused_async,
        reason = "it needs the runtime that it is awaited on, for its listeners and tasks"
    )]
    pub async fn listen(self) -> Result<Listening, StartError> {
        let unusable = |error: std::io::Error| {
            let why = describe_io_error(&error);
            let line = format!("address: cannot listen on {}: {why}", self.settings.address);
            StartError::with_source(line, error)
        };
        let no_thread = |error| StartError::with_source(format!("cannot start: {error}"), error);
        let threads = Threads::start(self.settings.threads).map_err(no_thread)?;
        let (listener, address) = listen(self.settings.address).map_err(unusable)?;
        let listener = {
            let _serving = threads.handle().enter();
            TcpListener::from_std(listener).map_err(unusable)?
        };
        let probes = match self.settings.probes {
            Some(address) => Some(Probes::listen(address).map_err(|error| {
                let why = describe_io_error(&error);
                let line = format!("probes.address: cannot listen on {address}: {why}");
                StartError::with_source(line, error)
            })?),
            None => None,
        };
        let backend = self.kms.capabilities().backend;
        // The listing may be long, so it runs beside serving.
        let kms = Arc::clone(&self.kms);
        tokio::spawn(async move {
            match count_keys(&*kms).await {
                Ok(keys) => tracing::info!(%address, backend, %keys, "server is up"),
                Err(error) => {
                    tracing::error!(%address, backend, error = error.as_dyn(), "server is up, but cannot list its keys");
                }
            }
        });
        let routes = match self.limits.route_timeout {
            Some(timeout) => self.routes.with_timeout(timeout),
            None => self.routes,
        };
        self.audit.start(Arc::clone(&self.metrics)).map_err(no_thread)?;
        let recorder = tokio::spawn(Arc::clone(&self.audit).watch());
        let api =
            Api::new(self.kms, self.access, routes, self.metrics, self.audit, self.wanted, self.rotations);
        api.set_for_kes(self.settings.is_for_kes);
        api.set_backup(self.backup);
        let api = Arc::new(api.with_threads(threads.count()));
        let Limits { connections: limit, bounds, .. } = self.limits;
        let elsewhere = Handle::current();
        let connections = Connections::new(Arc::clone(&api), self.tls, limit, bounds, elsewhere);
        let timeout = self.limits.route_timeout;
        let reloader =
            Reloader::new(self.settings, self.seen, Arc::clone(&api), Arc::clone(&connections), timeout);
        Ok(Listening { threads, listener, address, probes, api, connections, recorder, reloader })
    }
}

fn no_metrics(error: prometheus::Error) -> StartError {
    StartError::with_source(format!("metrics: {error}"), error)
}

/// A server that listens and does not serve yet. Clients' connections wait.
pub struct Listening {
    threads: Threads,
    listener: TcpListener,
    address: SocketAddr,
    probes: Option<Probes>,
    api: Arc<Api>,
    connections: Arc<Connections>,
    recorder: JoinHandle<()>,
    reloader: Reloader,
}

impl Listening {
    /// Returns the address, with the port that the system chose if none was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the listener for probes, if there is one.
    pub fn probes_addr(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(Probes::local_addr)
    }

    /// Returns the handle that changes the configuration of the running server.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Returns the key management service.
    pub fn kms(&self) -> &Arc<dyn Kms> {
        self.api.kms()
    }

    /// Serves until `shutdown` completes, and then stops.
    ///
    /// While stopping, it accepts no connection. Requests under way have 10 s to end, and their effects 12 s. It returns
    /// when no connection is left.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let connections = self.connections;
        let probes = self.probes.map(|probes| tokio::spawn(probes.serve(Arc::clone(&self.api))));
        let tell_left_out = async {
            let mut ticks = tokio::time::interval(TELL_LEFT_OUT);
            loop {
                ticks.tick().await;
                connections.tell_left_out(false);
            }
        };
        // These tasks end when the set is dropped.
        let mut keys = JoinSet::new();
        keys.spawn(Arc::clone(self.api.wanted_keys()).run(Arc::clone(self.api.kms())));
        keys.spawn(Arc::clone(self.api.rotations()).run(Arc::clone(self.api.kms())));
        let mut accepting = self.threads.handle().spawn(Arc::clone(&connections).accept(self.listener));
        tokio::select! {
            _ = &mut accepting => {}
            () = connections.reclaim_memory() => {}
            () = tell_left_out => {}
            () = shutdown => {}
        }
        accepting.abort();
        let _ = accepting.await;
        keys.abort_all();
        tracing::info!("server stops");
        // Readers of a log would never leave by themselves.
        self.api.audit().hub().close();
        error_log::hub().close();
        let began = Instant::now();
        match connections.end(DRAIN_TIMEOUT).await {
            0 => {}
            cut_off => tracing::warn!("{cut_off} connections had to be cut off"),
        }
        match self.api.effects().end(EFFECTS_TIMEOUT.saturating_sub(began.elapsed())).await {
            0 => {}
            left => tracing::error!(
                "{left} creates, imports or deletes had not ended: what came of them is not in the audit log"
            ),
        }
        self.recorder.abort();
        if let Some(probes) = probes {
            probes.abort();
        }
        connections.tell_left_out(true);
        let audit::LeftOut { lost, refused, .. } = self.api.audit().end(AUDIT_TIMEOUT).await;
        if lost != 0 {
            tracing::error!("{lost} events of the audit log could not be written and are lost");
        }
        if refused != 0 {
            tracing::error!(
                "{refused} requests were refused since they could not be recorded, and the audit log does not tell"
            );
        }
    }
}
