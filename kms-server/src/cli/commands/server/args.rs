//! The arguments of `kms server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::{self, Flags};

/// The arguments of `kms server`.
#[derive(clap::Args)]
#[command(after_help = "The log goes to stderr, from level info on or as KMS_LOG says (KMS_LOG=debug).\n\
    Any setting of the config can be given by a variable: KMS_CACHE__EXPIRY__ANY=1m sets cache.expiry.any.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// The config file.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["dev", "root"], conflicts_with = "dev")]
    pub config: Option<PathBuf>,
    /// Listen on this address instead of the config's [default with --dev: 127.0.0.1:7373].
    #[arg(long, value_name = "[IP]:PORT", value_parser = config::parse_address)]
    pub addr: Option<SocketAddr>,
    /// Run a development server, which needs no config. It keeps its keys in a directory.
    #[arg(long)]
    pub dev: bool,
    /// Keep the state of --dev in this directory instead of $KMS_DEV_DIR or ~/.local/state/kms-dev.
    #[arg(long, value_name = "DIR", requires = "dev")]
    pub dir: Option<PathBuf>,
    /// Keep the keys of --dev in memory only. All of them are lost when the process ends.
    #[arg(long, requires = "dev", conflicts_with = "dir")]
    pub in_memory: bool,
    /// Use this identity for the admin instead of the config's. With --key and --cert, no config is needed; all keys are
    /// kept in memory only, and lost when the process ends.
    #[arg(long, value_name = "IDENTITY", conflicts_with = "dev")]
    pub root: Option<String>,
    /// The file of the server's private key, if the config names none.
    #[arg(long, visible_alias = "tls-key", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The file of the server's certificate, if the config names none.
    #[arg(long, visible_alias = "tls-cert", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Create the local key store if it is missing, and its root key if that is missing, too.
    #[arg(long)]
    pub create: bool,
    /// Serve the keys of a damaged local key store that can still be read, and write nothing to it.
    #[arg(long, conflicts_with = "create", requires = "config")]
    pub salvage: bool,
    /// Do not print that the server is up.
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub former: Former,
}

/// Flags of former releases of KES.
#[derive(clap::Args)]
pub struct Former {
    /// Has no effect, as in KES 0.24: `tls.auth` of the config decides.
    #[arg(long, hide = true, value_name = "on|off", num_args = 0..=1, default_missing_value = "on", value_parser = ["on", "off"])]
    auth: Option<String>,
    /// Whether to verify the certificates of clients, if the config does not say.
    #[arg(long, hide = true, value_name = "verify|ignore", value_parser = ["verify", "ignore"])]
    mtls_auth: Option<String>,
    /// Has no effect.
    #[arg(long, hide = true)]
    mlock: bool,
}

impl Former {
    /// Warns about flags that have no effect.
    pub fn warn(&self) {
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
    /// Returns the flags that take the place of settings in the config.
    pub fn flags(&self) -> Flags {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        Flags {
            root: self.root.clone(),
            cert: text(&self.cert),
            key: text(&self.key),
            auth: self.former.mtls_auth.as_ref().map(|auth| auth == "verify"),
        }
    }
}
