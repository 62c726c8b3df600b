//! The server: built and checked, then listening, then serving until it is told to stop.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_core::name::MAX_PAGE_LEN;
use kms_core::{Error, Identity, InvalidSetting, Kms, ListQuery, Request};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::{Api, Routes};
use crate::audit::{self, Audit};
use crate::config::Origins;
use crate::config::settings::Settings;
use crate::conn::{Bounds, Connections};
use crate::listen::listen;
use crate::metrics::Metrics;
use crate::policy::Access;
use crate::probes::Probes;
use crate::reload::{Reloader, Seen};
use crate::wanted_keys::WantedKeys;
use crate::{backend, certificate, error_log, process, tls};

/// How long a stopping server waits for requests that have begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits for creates, imports and deletes whose clients have left: longer than a call to the key store may take.
const EFFECTS_TIMEOUT: Duration = Duration::from_secs(12);

/// How often is looked whether lines of the error log about strangers were left out.
const TELL_LEFT_OUT: Duration = Duration::from_secs(5);

/// How long it waits at last for the audit log to take what waits.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the start may wait for the key store, for each question.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Pages of names that the start reads to tell how many keys there are.
const MAX_COUNTED_PAGES: usize = 100;

/// A server whose configuration, certificate and key store are known to be good, and that does not listen yet.
pub struct Server {
    settings: Settings,
    seen: Seen,
    tls: rustls::ServerConfig,
    kms: Arc<dyn Kms>,
    access: Access,
    routes: Routes,
    audit: Arc<Audit>,
    metrics: Arc<Metrics>,
    wanted: Arc<WantedKeys>,
    limits: Limits,
}

/// The bounds of a server that are not those of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long every route may take; `None` for the usual time of each.
    pub route_timeout: Option<Duration>,
    /// How many connections there may be at once; of more, those of clients that may do nothing end, or they wait.
    pub connections: usize,
    /// How long each thing on a connection may take.
    pub bounds: Bounds,
}

impl Default for Limits {
    /// The usual times, and as many connections as there may be open files, less some.
    fn default() -> Self {
        Self { route_timeout: None, connections: process::max_connections(), bounds: Bounds::default() }
    }
}

impl Server {
    /// Opens the key store and checks everything.
    ///
    /// An error is one line that names the file or key at fault and what was expected.
    pub async fn build(settings: Settings) -> Result<Self, StartError> {
        // First what is cheap and has no effect.
        let seen = Seen::of(&settings);
        let tls = tls::server_config(&settings.tls, settings.needs_certificates())?;
        let tickets = tls::Tickets::begin();
        let kms = backend::open(&settings).await?;
        Self::assemble(settings, seen, tls, tickets, kms).await
    }

    /// Serves a key management service of the caller's; the key store of `settings` is not opened.
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
        let access = Access::new(settings.admin, &settings.policies)
            .map_err(|error| StartError::new(error.to_string()))?
            .with_proxies(tls::proxies(&settings.tls)?);
        for warning in tls::certificate_warnings(&settings.tls.cert) {
            tracing::warn!("{warning}");
        }
        let audit = Audit::open(&settings.log).map_err(|(file, error)| {
            let why = certificate::describe_io_error(&error);
            StartError::new(format!("log.audit_file: cannot open '{}': {why}", file.display()))
        })?;
        let metrics = Metrics::new().map_err(|error| StartError::new(format!("metrics: {error}")))?;
        if let Some(end) = tls::certificate_end(&settings.tls.cert) {
            metrics.certificate_ends(end);
        }
        let creator = settings.admin.unwrap_or_else(nobody);
        let wanted = WantedKeys::at_start(creator, &settings.keys, &*kms).await?;
        tickets.give(&mut tls, &settings.tls)?;
        let routes = Routes::standard().with_settings(&settings.routes);
        let (metrics, limits) = (Arc::new(metrics), Limits::default());
        Ok(Self { settings, seen, tls, kms, access, routes, audit, metrics, wanted, limits })
    }

    /// Sets other bounds than the usual ones.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Begins to listen, and says so in one line of the log.
    #[allow(
        clippy::unused_async,
        reason = "it needs the runtime that it is awaited on, for its listeners and tasks"
    )]
    pub async fn listen(self) -> Result<Listening, StartError> {
        let unusable = |error: std::io::Error| {
            let why = certificate::describe_io_error(&error);
            StartError::new(format!("address: cannot listen on {}: {why}", self.settings.address))
        };
        let (listener, address) = listen(self.settings.address).map_err(unusable)?;
        let probes = match self.settings.probes {
            Some(address) => Some(Probes::listen(address).map_err(|error| {
                let why = certificate::describe_io_error(&error);
                StartError::new(format!("probes.address: cannot listen on {address}: {why}"))
            })?),
            None => None,
        };
        let backend = self.kms.capabilities().backend;
        // Beside serving: a long listing must hold up nobody.
        let kms = Arc::clone(&self.kms);
        tokio::spawn(async move {
            match count_keys(&*kms).await {
                Ok(keys) => tracing::info!(%address, backend, %keys, "server is up"),
                Err(error) => {
                    tracing::error!(%address, backend, error = %error.chain(), "server is up, but cannot list its keys");
                }
            }
        });
        let routes = match self.limits.route_timeout {
            Some(timeout) => self.routes.with_timeout(timeout),
            None => self.routes,
        };
        let no_thread = |error| StartError::new(format!("cannot start: {error}"));
        self.audit.start(Arc::clone(&self.metrics)).map_err(no_thread)?;
        let recorder = tokio::spawn(Arc::clone(&self.audit).watch());
        let api = Arc::new(Api::new(self.kms, self.access, routes, self.metrics, self.audit, self.wanted));
        let connections =
            Connections::new(Arc::clone(&api), self.tls, self.limits.connections, self.limits.bounds);
        let timeout = self.limits.route_timeout;
        let reloader =
            Reloader::new(self.settings, self.seen, Arc::clone(&api), Arc::clone(&connections), timeout);
        Ok(Listening { listener, address, probes, api, connections, recorder, reloader })
    }
}

/// A server that listens and does not serve yet: connections wait.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    probes: Option<Probes>,
    api: Arc<Api>,
    connections: Arc<Connections>,
    recorder: JoinHandle<()>,
    reloader: Reloader,
}

impl Listening {
    /// Returns the address that it listens on, with the port that the system chose if none was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address where probes are answered, if they are.
    pub fn probes_addr(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(Probes::local_addr)
    }

    /// Returns what puts another configuration in force while it serves.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Lends the key management service.
    pub fn kms(&self) -> &Arc<dyn Kms> {
        self.api.kms()
    }

    /// Serves until `shutdown` is done; then takes no further connection, lets requests that have begun end
    /// within 10 s, and what they began within 12 s, and returns when no connection is left.
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
        // It ends when this is dropped.
        let mut keys = JoinSet::new();
        keys.spawn(Arc::clone(self.api.wanted_keys()).run(Arc::clone(self.api.kms())));
        tokio::select! {
            () = connections.accept(self.listener) => {}
            () = tell_left_out => {}
            () = shutdown => {}
        }
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

/// How many keys there are, or that there are more than were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCount {
    /// Exactly so many.
    Exactly(usize),
    /// More than so many.
    MoreThan(usize),
}

impl fmt::Display for KeyCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}

/// Counts the keys of `kms`, up to 102,400 of them.
pub async fn count_keys(kms: &dyn Kms) -> kms_core::Result<KeyCount> {
    let mut count = 0;
    let mut after = None;
    for _ in 0..MAX_COUNTED_PAGES {
        let request = Request::new(nobody(), START_TIMEOUT);
        let query = ListQuery { prefix: "", after: after.as_deref(), limit: MAX_PAGE_LEN };
        let page = kms.list(&request, &query).await?;
        count += page.names.len();
        match page.names.last().filter(|_| page.more) {
            None => return Ok(KeyCount::Exactly(count)),
            Some(last) => after = Some(last.as_str().to_owned()),
        }
    }
    Ok(KeyCount::MoreThan(count))
}

/// Why a server cannot start: one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(String);

impl StartError {
    /// Makes one of a line that names the file or key at fault and what was expected.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl StartError {
    /// Takes an error of what `section` of the config describes, and names the setting in it that is at fault.
    pub(crate) fn of_section(section: &str, error: &Error) -> Self {
        Self(match InvalidSetting::under(error) {
            Some(InvalidSetting { field, why }) => format!("{section}.{field}: {why}"),
            None => error.chain().to_string(),
        })
    }

    /// Puts in front of it where the setting at fault stands.
    #[must_use]
    pub fn placed(self, origins: &Origins) -> Self {
        Self(origins.tell(&self.0))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self(error.chain().to_string())
    }
}

/// The identity of the server itself where no admin is set: one that no certificate has.
pub(crate) fn nobody() -> Identity {
    Identity::from_hex("0000000000000000000000000000000000000000000000000000000000000000")
        .unwrap_or_else(|| Identity::of_public_key(&[]))
}
