//! The settings that a server starts with.

use super::args::Args;
use super::dev::{self, Banner, DevServer};
use crate::cli::failure::Failure;
use crate::cli::name::Name;
use crate::config::{self, Environment, Loaded, Origins};
use crate::settings::{KeyStoreSettings, Settings};
use crate::telemetry::error_log;

/// The input of a start, and of every reload.
pub struct Start {
    pub args: Args,
    pub environment: Environment,
}

/// The settings of a server that is about to be built.
pub struct Prepared {
    pub settings: Settings,
    pub origins: Origins,
    /// The text for stdout of a development server.
    pub banner: Option<Banner>,
}

impl Start {
    /// Loads the settings, or creates those of a development server.
    pub fn prepare(&self) -> Result<Prepared, Failure> {
        let args = &self.args;
        if !args.dev {
            let loaded = self.read()?;
            error_log::set_format(loaded.settings.log.format);
            let (settings, origins) = self.put(loaded);
            return Ok(Prepared { settings, origins, banner: None });
        }
        let address = args.addr.unwrap_or(dev::DEFAULT_ADDRESS);
        // KES keeps nothing, so its scripts may start a server twice, even two at once.
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

    /// Loads the configuration, with the places of its settings.
    pub fn load(&self) -> Result<(Settings, Origins), Failure> {
        self.read().map(|loaded| self.put(loaded))
    }

    fn read(&self) -> Result<Loaded, Failure> {
        let args = &self.args;
        Ok(match &args.config {
            _ if args.dev => {
                return Err(Failure::new("a server for development has no configuration to load"));
            }
            Some(config) => config::load_with(config, &args.flags(), &self.environment)?,
            None if args.key.is_none() || args.cert.is_none() => {
                return Err(Failure::new("--root without --config wants --key FILE and --cert FILE, too"));
            }
            None => config::from_flags(&args.flags())?,
        })
    }

    /// Puts the other flags over what was read, and logs what is dubious about it.
    fn put(&self, loaded: Loaded) -> (Settings, Origins) {
        let args = &self.args;
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
        (settings, origins)
    }
}
