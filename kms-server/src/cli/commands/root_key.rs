//! `kms root-key`: replaces the root key of a local store.

use std::path::PathBuf;

use clap::Subcommand;
use kms_fs::{FsConfig, RootKey};
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{self, Environment};
use crate::settings::{KeyStoreSettings, RootKeySource};
use crate::store::kes_directory;

/// The commands of `kms root-key`.
#[derive(Subcommand)]
pub enum Command {
    /// Replace the root key with a new one; the server must not run.
    Rotate(RotateArgs),
}

#[derive(clap::Args)]
pub struct RotateArgs {
    /// The config file of the server.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The environment variable with the new root key (32 random bytes in base64), if the present one is in a variable.
    #[arg(long, value_name = "VARIABLE")]
    new_env: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub fn run(command: Command, environment: &Environment) -> Result<(), Failure> {
    let Command::Rotate(args) = command;
    let loaded = config::load(&args.config, environment)?;
    let (path, root_key) = match loaded.settings.key_store {
        KeyStoreSettings::Fs { path, root_key, .. }
        | KeyStoreSettings::FsWithRoots { path, root_key, .. } => (path, root_key),
        KeyStoreSettings::KesDirectory { path, root_key, .. } => {
            let root_key = match root_key {
                Some(root_key) => root_key,
                None => RootKeySource::File(kes_directory::root_key_in_force(&path)?),
            };
            (kes_directory::store_path(&path), root_key)
        }
        KeyStoreSettings::Vault(_)
        | KeyStoreSettings::AwsKms(_)
        | KeyStoreSettings::Wrapped { .. }
        | KeyStoreSettings::AwsSecrets(_)
        | KeyStoreSettings::Salvage(_)
        | KeyStoreSettings::Memory => {
            let config = args.config.display();
            return Err(Failure::new(format!("{config}: the key store has no root key of its own")));
        }
    };
    let store = FsConfig::new(&path);
    let output = Output::new(args.json);
    match (root_key, args.new_env) {
        (RootKeySource::File(file) | RootKeySource::Credential(file), None) => {
            let old = kms_fs::rotate_root_key_file(&store, &file)?;
            if output.is_json() {
                return output.json(&json!({ "store": path, "root_key": file, "old_root_key": old }));
            }
            output.text(format_args!(
                "The store in {} has a new root key: {}\n\
                 Back this file up elsewhere than the store; losing it is losing all data.\n\
                 The old one is in {}: backups of the store made before need it.",
                path.display(),
                file.display(),
                old.display()
            ))
        }
        (RootKeySource::Environment(old), Some(new)) => {
            kms_fs::rotate_root_key(&store, &RootKey::from_env(&old)?.key, &RootKey::from_env(&new)?.key)?;
            if output.is_json() {
                return output.json(&json!({ "store": path, "root_key_env": new }));
            }
            output.text(format_args!(
                "The store in {} has the root key of {new} now: the server has to find it in {old}.\n\
                 Backups of the store made before need the old one.",
                path.display()
            ))
        }
        (RootKeySource::Environment(old), None) => Err(Failure::new(format!(
            "the root key comes from the environment variable {old}: \
             name another that holds the new one with --new-env VARIABLE"
        ))),
        (RootKeySource::File(file) | RootKeySource::Credential(file), Some(_)) => Err(Failure::new(format!(
            "--new-env is for root keys from the environment, this one comes from {}",
            file.display()
        ))),
    }
}
