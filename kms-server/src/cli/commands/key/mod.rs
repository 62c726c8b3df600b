//! `kms key`: creates, lists, deletes and uses keys.

mod crypto;
mod discard;
mod input;
mod manage;
mod request;
mod versions;

use clap::Subcommand;

use self::crypto::{DecryptArgs, DekArgs, EncryptArgs, HmacArgs};
use self::discard::DiscardArgs;
use self::manage::{ImportArgs, InfoArgs, NamesArgs};
use self::versions::{EnableArgs, RetireArgs, RewrapArgs, RotateArgs};
use crate::cli::failure::Failure;
use crate::cli::listing::{self, Kind, ListArgs};
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
    Ls(ListArgs),
    /// Delete keys for ever. Everything that was encrypted under them is lost.
    #[command(alias = "delete")]
    Rm(NamesArgs),
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
        Command::Ls(args) => listing::print(Kind::Keys, &args, call),
        Command::Rm(args) => manage::remove(&args, call),
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
