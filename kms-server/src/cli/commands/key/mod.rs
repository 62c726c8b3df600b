//! `kms key`: creates, lists, deletes and uses keys.

mod crypto;
mod deletion;
mod discard;
pub mod input;
mod manage;
mod request;
mod versions;

use clap::Subcommand;

use self::crypto::{DecryptArgs, DekArgs, EncryptArgs, HmacArgs};
use self::deletion::{KeyListArgs, PurgeArgs, RemoveArgs, RestoreArgs};
use self::discard::DiscardArgs;
use self::manage::{ImportArgs, InfoArgs, NamesArgs};
use self::versions::{EnableArgs, RetireArgs, RewrapArgs, RotateArgs};
use crate::cli::failure::Failure;
use crate::cli::name::Call;

/// The commands of `kms key`.
#[derive(Subcommand)]
pub enum Command {
    /// Create keys.
    Create(NamesArgs),
    /// Import an existing key.
    Import(ImportArgs),
    /// Show the metadata of a key.
    Info(InfoArgs),
    /// List keys.
    #[command(alias = "list")]
    Ls(KeyListArgs),
    /// Delete keys. What was encrypted under them does not open, unless they are restored in time.
    #[command(alias = "delete")]
    Rm(RemoveArgs),
    /// Restore deleted keys.
    Restore(RestoreArgs),
    /// Remove a deleted key for ever. Everything that was encrypted under it is lost.
    Purge(PurgeArgs),
    /// Make a new version of a key. What was sealed before stays readable.
    Rotate(RotateArgs),
    /// Seal ciphertexts anew, under the version that seals.
    Rewrap(RewrapArgs),
    /// Disable an old version of a key that nobody needs any more. Nothing is destroyed.
    Retire(RetireArgs),
    /// Enable a version of a key that was retired.
    Enable(EnableArgs),
    /// Discard an unreadable key of a local store; the server must not run.
    Discard(DiscardArgs),
    /// Generate a data encryption key.
    #[command(alias = "derive")]
    Dek(DekArgs),
    /// Encrypt a message.
    Encrypt(EncryptArgs),
    /// Decrypt a ciphertext of 'dek' or 'encrypt'.
    Decrypt(DecryptArgs),
    /// Compute the HMAC-SHA256 of a message.
    Hmac(HmacArgs),
}

/// Runs one of the commands.
pub fn run(command: Command, call: Call<'_>) -> Result<(), Failure> {
    match command {
        Command::Create(args) => manage::create(&args, call),
        Command::Import(args) => manage::import(&args, call),
        Command::Info(args) => manage::info(&args, call),
        Command::Ls(args) => deletion::list(&args, call),
        Command::Rm(args) => deletion::remove(&args, call),
        Command::Restore(args) => deletion::restore(&args, call),
        Command::Purge(args) => deletion::purge(&args, call),
        Command::Rotate(args) => versions::rotate(&args, call),
        Command::Rewrap(args) => versions::rewrap(&args, call),
        Command::Retire(args) => versions::retire(&args, call),
        Command::Enable(args) => versions::enable(&args, call),
        Command::Discard(args) => discard::run(&args, call.environment),
        Command::Dek(args) => crypto::dek(&args, call),
        Command::Encrypt(args) => crypto::encrypt(args, call),
        Command::Decrypt(args) => crypto::decrypt(&args, call),
        Command::Hmac(args) => crypto::hmac(args, call),
    }
}
