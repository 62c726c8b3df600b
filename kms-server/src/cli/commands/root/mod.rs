//! `kms root`: the roots of a key store, each of which opens its store key.

mod status;

use std::path::PathBuf;

use clap::Subcommand;
use kms_core::roots::{Added, Established, Removal, RootId};
use kms_fs::{FsConfig, OpenMode};
use serde_json::json;

use self::status::LastOpened;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::{Output, note};
use crate::cli::runtime::block_on;
use crate::config;
use crate::settings::KeyStoreSettings;
use crate::store::roots::{HeaderKey, Prepared, UNNAMED, prepare};

/// The commands of `kms root`.
#[derive(Subcommand)]
pub enum Command {
    /// Show the roots of a store, when each last opened, and how many records open with one root only.
    Status(ArgsOfStatus),
    /// Give an empty store its store key, and each root its entry.
    Init(Args),
    /// Give a store with records its store key, and each root its entry; no record is rewritten.
    Adopt(Args),
    /// Give one more root its entry, and have it prove that it opens the store key.
    Add(ArgsOfOne),
    /// Remove a root. It opens nothing from then on, and never is the last one removed.
    Remove(ArgsOfRemoval),
}

#[derive(clap::Args)]
pub struct Args {
    /// The config file of the server. The server of a local store must not run.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ArgsOfStatus {
    #[command(flatten)]
    common: Args,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args)]
pub struct ArgsOfOne {
    /// The id of the root, as 'kms root status' shows it.
    id: String,
    #[command(flatten)]
    common: Args,
}

#[derive(clap::Args)]
pub struct ArgsOfRemoval {
    #[command(flatten)]
    one: ArgsOfOne,
    /// Remove the root key of the header of a local store, which is lost, so that nothing tells its id.
    #[arg(long)]
    header: bool,
}

/// Runs one of the commands.
pub fn run(command: &Command, call: Call<'_>) -> Result<(), Failure> {
    let args = match command {
        Command::Status(args) => &args.common,
        Command::Init(args) | Command::Adopt(args) => args,
        Command::Add(args) => &args.common,
        Command::Remove(args) => &args.one.common,
    };
    let settings = config::load(&args.config, call.environment)?.settings;
    let key_store = settings.key_store;
    let output = Output::new(args.json);
    block_on(async {
        let prepared = open(&key_store, args).await?;
        match command {
            Command::Status(args) => {
                let status = prepared.roots.status().await?;
                let last = LastOpened::of(&status, &prepared, &args.connection, settings.address, call).await;
                status::show(&status, &prepared, &last, output)
            }
            Command::Init(_) => {
                refuse_hindrance(&prepared)?;
                established(&prepared.roots.init().await?, output)
            }
            Command::Adopt(_) => {
                refuse_hindrance(&prepared)?;
                established(&prepared.roots.adopt().await?, output)
            }
            Command::Add(args) => add(&prepared, &id(args)?, output).await,
            Command::Remove(args) => remove(&key_store, prepared, &id(&args.one)?, args.header, output).await,
        }
    })?
}

fn id(args: &ArgsOfOne) -> Result<RootId, Failure> {
    RootId::new(&args.id).map_err(|error| Failure::new(error.to_string()))
}

async fn open(key_store: &KeyStoreSettings, args: &Args) -> Result<Prepared, Failure> {
    let Some(prepared) = prepare(key_store, OpenMode::Existing).await? else {
        let config = args.config.display();
        return Err(Failure::new(format!(
            "{config}: its key store has no roots, expected them in a list [[kms]]"
        )));
    };
    for warning in &prepared.warnings {
        note(warning);
    }
    Ok(prepared)
}

/// Refuses to give the store a key while a configured root cannot have an entry.
fn refuse_hindrance(prepared: &Prepared) -> Result<(), Failure> {
    prepared.hindrance.as_ref().map_or(Ok(()), |why| Err(Failure::new(why)))
}

fn established(done: &Established, output: Output) -> Result<(), Failure> {
    let fingerprint = format!("{:?}", done.anchor.fingerprint);
    if output.is_json() {
        return output.json(&json!({
            "store_key": fingerprint,
            "one_root_only": done.records.earlier,
            "notes": done.notes,
        }));
    }
    output.line(format_args!("The store has the store key {fingerprint}, which each of its roots opens"))?;
    for told in &done.notes {
        output.line(told)?;
    }
    if done.records.earlier > 0 {
        output.line(format_args!(
            "{} records were wrapped one by one and open with one root only: a second root does not protect them",
            done.records.earlier
        ))?;
    }
    Ok(())
}

async fn add(prepared: &Prepared, id: &RootId, output: Output) -> Result<(), Failure> {
    if id.as_str() == UNNAMED {
        refuse_hindrance(prepared)?;
    }
    let added = prepared.roots.add(id).await?;
    if output.is_json() {
        return output.json(&json!({ "id": id.as_str(), "added": added == Added::New }));
    }
    output.line(match added {
        Added::New => format!("Root {id} opens the store key now"),
        Added::Already => format!("Root {id} opens the store key already"),
    })
}

async fn remove(
    key_store: &KeyStoreSettings,
    prepared: Prepared,
    id: &RootId,
    is_lost: bool,
    output: Output,
) -> Result<(), Failure> {
    let in_header = is_in_header(&prepared, id, is_lost).await?;
    let removal = prepared.roots.begin_removal(id, in_header).await?;
    let other_ids = prepared.roots.other_ids_of(id).await;
    let prepared = if in_header {
        let path = prepared.local.as_ref().map(|local| local.path.clone());
        // The header is changed while the store is not open.
        drop(prepared);
        if let Some(path) = path {
            kms_fs::forget_local_root(&FsConfig::new(path))?;
        }
        prepare(key_store, OpenMode::Existing).await?
    } else {
        Some(prepared)
    };
    if let Some(prepared) = prepared {
        prepared.roots.finish_removal(&removal).await?;
    }
    removed(id, &removal, &other_ids, output)
}

fn removed(id: &RootId, removal: &Removal, other_ids: &[RootId], output: Output) -> Result<(), Failure> {
    let other_ids: Vec<_> = other_ids.iter().map(RootId::as_str).collect();
    if output.is_json() {
        return output.json(&json!({
            "removed": id.as_str(),
            "was_there": !removal.is_past(),
            "opens_as": other_ids,
        }));
    }
    if removal.is_past() {
        output.line(format_args!("Root {id} is not in the store: it was removed before, or never added"))?;
    }
    if !other_ids.is_empty() {
        return output.line(format_args!(
            "The root key of {id} still opens the store: it has an entry under another id, too: {}. 'kms root remove' \
             removes that",
            other_ids.join(", ")
        ));
    }
    if removal.is_past() {
        return Ok(());
    }
    output.line(format_args!(
        "Root {id} opens the store no more. Backups of the store made before still open with it."
    ))
}

/// Returns whether the header of the store holds the store key under this root.
///
/// Of a root key that is lost nothing tells the id, so the operator says that it `is_lost`, or said so to the removal that
/// is completed here.
async fn is_in_header(prepared: &Prepared, id: &RootId, is_lost: bool) -> Result<bool, Failure> {
    match prepared.header().cloned() {
        Some(HeaderKey::Of(own)) if own == *id => Ok(true),
        Some(HeaderKey::Closed) if is_lost || prepared.roots.is_removed_from_header(id).await? => {
            refuse_other_id(prepared, id).await.map(|()| true)
        }
        // A removal that came as far as the header is completed, and one that came to its end is repeated.
        Some(HeaderKey::Nothing)
            if is_lost
                && (prepared.roots.is_removed_from_header(id).await?
                    || !prepared.roots.has_entry(id).await?) =>
        {
            Ok(false)
        }
        header if is_lost => Err(Failure::new(match header {
            Some(HeaderKey::Of(own)) => {
                format!("--header: the root key of the header is here, its id is {own}, and not {id}")
            }
            Some(HeaderKey::Nothing) => {
                format!("--header: the header holds no store key any more, and {id} has an entry")
            }
            Some(HeaderKey::Closed) | None => {
                "--header: this store has no header with a store key".to_owned()
            }
        })),
        Some(HeaderKey::Closed) if is_of_local_key(id) && !prepared.roots.has_entry(id).await? => {
            Err(Failure::new(format!(
                "{id} has no entry. If it is the lost root key that the header of the store is under, \
                 'kms root remove {id} --header' removes that"
            )))
        }
        _ => Ok(false),
    }
}

/// Refuses an id that cannot be that of the header's lost root key.
async fn refuse_other_id(prepared: &Prepared, id: &RootId) -> Result<(), Failure> {
    if !is_of_local_key(id) {
        return Err(Failure::new(format!(
            "--header: {id} is no id of a local root key, expected 'local-' and 32 hex digits"
        )));
    }
    if prepared.roots.roots().iter().any(|root| root.id() == id) {
        return Err(Failure::new(format!("--header: {id} is configured, and does not open the header")));
    }
    if prepared.roots.has_entry(id).await? {
        return Err(Failure::new(format!(
            "--header: {id} has an entry, so it is not the root key of the header"
        )));
    }
    Ok(())
}

/// Returns whether an id is that of a local root key: `local-` and 32 hexadecimal digits.
fn is_of_local_key(id: &RootId) -> bool {
    let digits = id.as_str().strip_prefix("local-");
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
