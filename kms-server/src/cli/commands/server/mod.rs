//! `kms server`.

mod dev;
mod signals;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::net::SocketAddr;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use self::dev::{self, Banner, DevServer};
use self::signals::{Signals, Stop};
use crate::cli::name::Name;
use crate::cli::{Failure, Output};
use crate::config::{self, Environment, Flags, Origins};
use crate::host::process;
use crate::server::reload::Reloader;
use crate::server::{Listening, Server};
use crate::settings::{KeyStoreSettings, Settings};
use crate::store::inventory::count_keys;
use crate::telemetry::error_log;

/// How often is looked whether the certificate's files have changed.
const CERTIFICATES_CHECKED: Duration = Duration::from_secs(2);

/// The arguments of `kms server`.
#[derive(clap::Args)]
#[command(after_help = "The log goes to stderr, from level info on or as KMS_LOG says (KMS_LOG=debug).\n\
    Any setting of the config can be given by a variable: KMS_CACHE__EXPIRY__ANY=1m sets cache.expiry.any.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// The config file.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["dev", "root"], conflicts_with = "dev")]
    config: Option<PathBuf>,
    /// Where to listen, instead of the config's address; 127.0.0.1:7373 with --dev.
    #[arg(long, value_name = "[IP]:PORT", value_parser = config::parse_address)]
    addr: Option<SocketAddr>,
    /// Run a server for development, which needs no config and keeps its keys.
    #[arg(long)]
    dev: bool,
    /// Keep the state of --dev in this directory instead of $KMS_DEV_DIR or ~/.local/state/kms-dev.
    #[arg(long, value_name = "DIR", requires = "dev")]
    dir: Option<PathBuf>,
    /// Keep the keys of --dev in memory only: all are lost when the process ends.
    #[arg(long, requires = "dev", conflicts_with = "dir")]
    in_memory: bool,
    /// The admin's identity instead of the config's. With --key and --cert and no config: keys in memory only.
    #[arg(long, value_name = "IDENTITY", conflicts_with = "dev")]
    root: Option<String>,
    /// The private key of the server, where the config names none.
    #[arg(long, visible_alias = "tls-key", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The certificate of the server, where the config names none.
    #[arg(long, visible_alias = "tls-cert", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Make the local key store where it is not there, with its root key if that is not there either.
    #[arg(long)]
    create: bool,
    /// Serve what can be read of a local key store whose files are damaged, and write nothing to it.
    #[arg(long, conflicts_with = "create", requires = "config")]
    salvage: bool,
    /// Print nothing when the server is up.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    former: Former,
}

/// Flags of former releases of KES.
#[derive(clap::Args)]
struct Former {
    /// Without effect, as in KES 0.24: `tls.auth` of the config decides.
    #[arg(long, hide = true, value_name = "on|off", num_args = 0..=1, default_missing_value = "on", value_parser = ["on", "off"])]
    auth: Option<String>,
    /// Whether clients' certificates are verified, where the config does not say.
    #[arg(long, hide = true, value_name = "verify|ignore", value_parser = ["verify", "ignore"])]
    mtls_auth: Option<String>,
    /// Without effect.
    #[arg(long, hide = true)]
    mlock: bool,
}

impl Former {
    fn warn(&self) {
        if let Some(auth) = &self.auth {
            tracing::warn!(
                "--auth={auth} has no effect, as in KES 0.24: tls.auth of the config decides, and is off if absent"
            );
        }
        if self.mlock {
            tracing::warn!("--mlock has no effect: memory is locked wherever the system allows it");
        }
    }
}

impl Args {
    fn flags(&self) -> Flags {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        Flags {
            root: self.root.clone(),
            cert: text(&self.cert),
            key: text(&self.key),
            auth: self.former.mtls_auth.as_ref().map(|auth| auth == "verify"),
        }
    }
}

/// Serves until the process is told to stop.
pub fn run(args: Args, environment: &Environment) -> Result<(), Failure> {
    // Before there are threads.
    process::return_large_blocks();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    // Then at once, since the first process of a container has no other answer to a signal than to ignore it.
    let signals = {
        let _context = runtime.enter();
        Signals::hear()?
    };
    start_log(environment)?;
    process::protect_memory();
    process::raise_file_limit();
    args.former.warn();
    let args = Arc::new(Start { args, environment: environment.clone() });
    let outcome = runtime.block_on(start_and_serve(args, signals));
    // A log that takes nothing holds a thread for ever; a start that was cut off is waited for by nobody.
    runtime.shutdown_timeout(if matches!(outcome, Ok(false)) { Duration::ZERO } else { SHUTDOWN_TIMEOUT });
    let takes_lines = error_log::end(LOG_TIMEOUT);
    // Whoever stopped reading must not hold up the end.
    outcome.map(|_| ()).map_err(|failure| if takes_lines { failure } else { Failure::silent() })
}

/// How long a server that has stopped waits for stderr to take the rest of the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server that has stopped waits for what still runs.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// What a server starts with, and loads its configuration with again.
struct Start {
    args: Args,
    environment: Environment,
}

/// A server that is about to be built, and what is told of it when it is up.
struct Prepared {
    settings: Settings,
    origins: Origins,
    banner: Option<Banner>,
}

/// Starts and serves; tells whether the server was up when it was told to stop.
async fn start_and_serve(start: Arc<Start>, mut signals: Signals) -> Result<bool, Failure> {
    let prepare = {
        let start = Arc::clone(&start);
        move || start.prepare()
    };
    let Some(Prepared { settings, origins, banner }) = unless_stopped(&mut signals.stop, prepare).await?
    else {
        return Ok(false);
    };
    let least = settings.log.least();
    let explain = |failure| match &banner {
        Some(banner) => banner.explain(failure),
        None => failure,
    };
    let build = move || {
        let built = Handle::current().block_on(Server::build(settings));
        Ok((built.map_err(|error| origins.place(&error))?, origins))
    };
    let Some((server, origins)) = unless_stopped(&mut signals.stop, build).await.map_err(explain)? else {
        return Ok(false);
    };
    let listening = server.listen().await.map_err(|error| origins.place(&error))?;
    tell_protection();
    let text = match &banner {
        None => {
            error_log::set_least(least);
            format!("=> Server is up and running on https://{}", listening.local_addr())
        }
        Some(banner) => {
            let keys = count_keys(&**listening.kms()).await?;
            banner.text(listening.local_addr(), keys).to_string()
        }
    };
    if !start.args.quiet {
        // Whoever does not read it holds up nothing.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = Output::print(text) {
                tracing::warn!(
                    "stdout cannot be written, so what is told there at the start is lost: {error}"
                );
            }
        });
    }
    serve(listening, start, signals).await;
    Ok(true)
}

/// Does a part of the start on a thread of its own, where it may block; `None` if a signal ends it before that is done.
async fn unless_stopped<T: Send + 'static>(
    stop: &mut Stop,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<Option<T>, Failure> {
    let work = tokio::task::spawn_blocking(work);
    tokio::select! {
        biased;
        () = stop.wait() => {
            tracing::info!("server stops before it is up");
            Ok(None)
        }
        done = work => match done {
            Ok(done) => done.map(Some),
            Err(error) => Err(Failure::new(format!("cannot start: {error}"))),
        },
    }
}

impl Start {
    fn prepare(&self) -> Result<Prepared, Failure> {
        let args = &self.args;
        if !args.dev {
            let (settings, origins) = self.load()?;
            return Ok(Prepared { settings, origins, banner: None });
        }
        let address = args.addr.unwrap_or(dev::DEFAULT_ADDRESS);
        // KES keeps nothing, and scripts of it run twice, and two servers at once.
        let is_as_kes = Name::of_this_process() == Name::Kes
            && args.dir.is_none()
            && self.environment.first_of(&["KMS_DEV_DIR"]).is_none();
        let DevServer { settings, banner } = if args.in_memory || is_as_kes {
            dev::in_memory(address)?
        } else {
            dev::in_directory(args.dir.clone(), address, args.create, &self.environment)?
        };
        Ok(Prepared { settings, origins: Origins::none(), banner: Some(banner) })
    }

    /// Reads the configuration, and keeps where its settings stand.
    fn load(&self) -> Result<(Settings, Origins), Failure> {
        let args = &self.args;
        let loaded = match &args.config {
            _ if args.dev => {
                return Err(Failure::new("a server for development has no configuration to load"));
            }
            Some(config) => config::load_with(config, &args.flags(), &self.environment)?,
            None if args.key.is_none() || args.cert.is_none() => {
                return Err(Failure::new("--root without --config wants --key FILE and --cert FILE, too"));
            }
            None => config::from_flags(&args.flags())?,
        };
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let (mut settings, mut origins) = (loaded.settings, loaded.origins);
        if args.salvage {
            settings.key_store = KeyStoreSettings::Salvage(Box::new(settings.key_store));
        }
        if args.create && !settings.key_store.allow_create() {
            tracing::warn!("--create has no effect: it is for a local key store whose root key is a file");
        }
        if let Some(address) = args.addr {
            settings.address = address;
            origins.set("address", "flag --addr");
        }
        Ok((settings, origins))
    }
}

/// Serves until a signal ends it. Another one has the configuration loaded again, beside what is served and heard.
async fn serve(listening: Listening, start: Arc<Start>, signals: Signals) {
    let Signals { mut stop, hangup } = signals;
    let mut beside = JoinSet::new();
    beside.spawn(reload_at(hangup, listening.reloader(), start));
    beside.spawn(look_at_certificates(listening.reloader()));
    listening
        .serve(async {
            stop.wait().await;
            beside.abort_all();
        })
        .await;
}

/// Loads the configuration at each signal; one that comes meanwhile is heard afterwards.
async fn reload_at(mut hangup: Signal, reloader: Reloader, start: Arc<Start>) {
    while hangup.recv().await.is_some() {
        let start = Arc::clone(&start);
        let loaded = tokio::task::spawn_blocking(move || start.load()).await;
        let outcome = match loaded {
            Ok(Ok((settings, origins))) => {
                reloader.reload(settings).await.map_err(|error| origins.place(&error).into())
            }
            Ok(Err(failure)) => Err(failure),
            Err(error) => Err(Failure::new(format!("it was cut off: {error}"))),
        };
        match outcome {
            Ok(later) if later.is_empty() => tracing::info!("the configuration was loaded again"),
            Ok(later) => tracing::warn!(
                "the configuration was loaded again; changes of these take effect at the next start: {}",
                later.join(", ")
            ),
            Err(failure) => {
                tracing::error!("the configuration was not loaded, the old one stays in force: {failure}");
            }
        }
    }
}

/// Loads the certificate's files when they have changed.
async fn look_at_certificates(reloader: Reloader) {
    let mut look = tokio::time::interval(CERTIFICATES_CHECKED);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match reloader.reload_certificates().await {
            Some(Ok(())) => tracing::info!("the certificate files have changed and were loaded"),
            Some(Err(error)) => tracing::error!(
                "the certificate files have changed and cannot be used, the old ones stay in force: {error}"
            ),
            None => {}
        }
    }
}

/// Tells what keeps others from reading the keys in memory.
fn tell_protection() {
    let protection = process::protect_memory();
    tracing::info!("keys are {}", protection.held().join(", "));
    for missing in protection.missing() {
        tracing::warn!("keys are {missing}");
    }
}

/// Puts a panic in the log, which waits for nobody, and with RUST_BACKTRACE where it came from.
fn tell_defect(panic: &PanicHookInfo<'_>) {
    tracing::error!("a defect: {panic}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|line| tracing::error!("{line}"));
    }
}

/// Sends the log to stderr: from `info` on, or as `KMS_LOG` says.
fn start_log(environment: &Environment) -> Result<(), Failure> {
    let wanted = environment.first_of(&["KMS_LOG", "RUST_LOG"]).unwrap_or("info");
    let filter = EnvFilter::try_new(wanted);
    let mut filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    // What sled says of damage is for its makers; kms-fs says what it means. So it is with the SDK of AWS, whose search for a
    // region and for credentials tells its own structures; kms-aws tells where was looked. Whoever asks for these by name gets them.
    let quiet = ["sled=off", "aws_config=off"];
    for quiet in &quiet[..if wanted.contains("aws_config") { 1 } else { 2 }] {
        filter = quiet.parse().map_or(filter.clone(), |directive| filter.clone().add_directive(directive));
    }
    let stderr = error_log::stderr_layer().with_filter(filter);
    // Every layer has its filter: one without would have all events and spans of all libraries made for it.
    let stream = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("sled", LevelFilter::OFF)
        .with_target("aws_config", LevelFilter::OFF);
    let stream = error_log::stream_layer().with_filter(stream);
    let _ = tracing_subscriber::registry().with(stderr).with(stream).try_init();
    std::panic::set_hook(Box::new(tell_defect));
    error_log::start().map_err(|error| Failure::new(format!("cannot start: {error}")))
}
