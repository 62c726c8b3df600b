//! `kms server`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{Failure, Output};
use crate::config::{self, Environment, Flags, KeyStoreSettings, Settings};
use crate::dev::{self, DevServer};
use crate::error_log;
use crate::process;
use crate::reload::Reloader;
use crate::server::{Listening, Server, count_keys};

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
    start_log(environment)?;
    process::protect_memory();
    process::return_large_blocks();
    process::raise_file_limit();
    args.former.warn();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        if args.dev {
            return serve_dev(args, environment).await;
        }
        serve_config(&args, environment).await
    });
    // A log that takes nothing holds a thread for ever.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    let takes_lines = error_log::end(LOG_TIMEOUT);
    // Whoever stopped reading must not hold up the end.
    outcome.map_err(|failure| if takes_lines { failure } else { Failure::silent() })
}

/// How long a server that has stopped waits for stderr to take the rest of the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server that has stopped waits for what still runs.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

async fn serve_config(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let load = || {
        let loaded = match &args.config {
            Some(config) => config::load_with(config, &args.flags(), environment)?,
            None if args.key.is_none() || args.cert.is_none() => {
                return Err(Failure::new("--root without --config wants --key FILE and --cert FILE, too"));
            }
            None => config::from_flags(&args.flags())?,
        };
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let mut settings = loaded.settings;
        if args.salvage {
            settings.key_store = KeyStoreSettings::Salvage(Box::new(settings.key_store));
        }
        if args.create && !settings.key_store.allow_create() {
            tracing::warn!("--create has no effect: it is for a local key store whose root key is a file");
        }
        settings.address = args.addr.unwrap_or(settings.address);
        Ok(settings)
    };
    let settings = load()?;
    let silent = !settings.log.error;
    let listening = Server::build(settings).await?.listen().await?;
    tell_protection();
    error_log::set_silent(silent);
    if !args.quiet {
        let address = listening.local_addr();
        Output::new(false).text(format_args!("=> Server is up and running on https://{address}"))?;
    }
    serve(listening, load).await
}

async fn serve_dev(args: Args, environment: &Environment) -> Result<(), Failure> {
    let address = args.addr.unwrap_or(dev::DEFAULT_ADDRESS);
    let DevServer { settings, banner } = if args.in_memory {
        dev::in_memory(address)?
    } else {
        dev::in_directory(args.dir, address, args.create, environment)?
    };
    let server = Server::build(settings).await.map_err(|error| banner.explain(error.into()))?;
    let listening = server.listen().await?;
    tell_protection();
    let keys = count_keys(&**listening.kms()).await?;
    if !args.quiet {
        Output::new(false).text(banner.text(listening.local_addr(), keys))?;
    }
    serve(listening, || Err(Failure::new("a server for development has no configuration to load"))).await
}

/// Serves until a signal ends it; `load` reads the configuration again at each SIGHUP.
async fn serve(
    listening: Listening,
    load: impl Fn() -> Result<Settings, Failure> + Send,
) -> Result<(), Failure> {
    let cannot_wait = |error| Failure::new(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot_wait)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_wait)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot_wait)?;
    let reloader = listening.reloader();
    let mut look = tokio::time::interval(CERTIFICATES_CHECKED);
    let stopped = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => reload(&reloader, &load).await,
                _ = look.tick() => match reloader.reload_certificates().await {
                    Some(Ok(())) => tracing::info!("the certificate files have changed and were loaded"),
                    Some(Err(error)) => tracing::error!(
                        "the certificate files have changed and cannot be used, the old ones stay in force: {error}"
                    ),
                    None => {}
                },
            }
        }
    };
    listening.serve(stopped).await;
    Ok(())
}

/// Tells what keeps others from reading the keys in memory.
fn tell_protection() {
    let protection = process::protect_memory();
    tracing::info!("keys are {}", protection.held().join(", "));
    for missing in protection.missing() {
        tracing::warn!("keys are {missing}");
    }
}

async fn reload(reloader: &Reloader, load: &impl Fn() -> Result<Settings, Failure>) {
    let outcome = match load() {
        Ok(settings) => reloader.reload(settings).await.map_err(Failure::from),
        Err(failure) => Err(failure),
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

/// Sends the log to stderr: from `info` on, or as `KMS_LOG` says.
fn start_log(environment: &Environment) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(environment.first_of(&["KMS_LOG", "RUST_LOG"]).unwrap_or("info"));
    let mut filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    // What sled says of damage is for its makers; kms-fs says what it means.
    filter = "sled=off".parse().map_or(filter.clone(), |directive| filter.clone().add_directive(directive));
    let stderr = error_log::stderr_layer().with_filter(filter);
    // Every layer has its filter: one without would have all events and spans of all libraries made for it.
    let stream = Targets::new().with_default(LevelFilter::WARN).with_target("sled", LevelFilter::OFF);
    let stream = error_log::stream_layer().with_filter(stream);
    let _ = tracing_subscriber::registry().with(stderr).with(stream).try_init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("a defect: {panic}")));
    error_log::start().map_err(|error| Failure::new(format!("cannot start: {error}")))
}
