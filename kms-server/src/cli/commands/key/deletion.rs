//! How a key goes, and comes back: `kms key rm`, `restore`, `purge` and `ls --deleted`.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::input::confirm;
use super::request::{failed, key_path};
use super::versions::{self, Time};
use crate::cli::client::{Client, ClientError, parse, path_of};
use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::listing::{self, Kind, ListArgs};
use crate::cli::name::Call;
use crate::cli::output::note;
use crate::cli::runtime::block_on;

/// A key that was used within this time is not deleted without a question.
const RECENT: Duration = Duration::from_secs(24 * 3600);

#[derive(Args)]
pub struct RemoveArgs {
    /// The names of the keys.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask, even if a key was used within the last day.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct RestoreArgs {
    /// The names of the keys.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The server of a restore or purge that is under way is dead: go on.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct PurgeArgs {
    /// The name of the key.
    name: String,
    /// The fingerprint of the key, as 'ls --deleted' shows it. A purge that was cut off needs it.
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Purge the key before its time is over. The name has to be typed.
    #[arg(long)]
    now: bool,
    /// The server of a purge that is under way is dead: go on.
    #[arg(long)]
    resume: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct KeyListArgs {
    /// List the deleted keys, which can be restored.
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    list: ListArgs,
}

/// Deletes keys, and says how that is undone.
pub fn remove(args: &RemoveArgs, call: Call<'_>) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Kept {
        #[serde(default)]
        until: Option<Time>,
        #[serde(default)]
        marked: bool,
    }

    let client = args.connection.client(call)?;
    let (mut is_kept, mut is_marked, mut is_lost) = (false, false, false);
    for name in &args.names {
        if !args.yes && io::stdin().is_terminal() && io::stderr().is_terminal() {
            ask_about_use(&client.each(), name)?;
        }
        let sent = block_on(client.send(Method::DELETE, &key_path("delete", name), None))?;
        let answer = sent.map_err(|error| failed(&format!("failed to remove key \"{name}\""), error))?;
        if answer.is_empty() {
            is_lost = true;
            continue;
        }
        is_kept = true;
        let Kept { until, marked } = parse(&answer)?;
        is_marked |= marked;
        let until = until.map_or_else(String::new, |Time(time)| format!(" until {time:.0}"));
        tell(
            call,
            format_args!("Key '{name}' is deleted and kept{until}: 'kms key restore {name}' brings it back"),
        );
    }
    if is_lost {
        tell(
            call,
            "note: nothing brings the key back; other servers of the same key store may go on sealing with it \
             for at most their cache.expiry.any (5m by default)",
        );
    }
    if is_kept {
        tell(call, "note: other servers follow within their cache.expiry.any (5m by default)");
    }
    if is_marked {
        tell(
            call,
            "note: KES, and releases of kms before the one that keeps deleted keys, serve the key until it is purged",
        );
    }
    Ok(())
}

/// KES prints nothing here, and scripts take any text on stderr for a failure.
fn tell(call: Call<'_>, text: impl std::fmt::Display) {
    if !call.is_kes() {
        note(text);
    }
}

/// Asks before the delete of a key that a server used lately.
fn ask_about_use(clients: &[(String, Client)], name: &str) -> Result<(), Failure> {
    // KES does not know, and a policy need not allow the question.
    let used = clients.iter().filter_map(|(_, client)| versions::last_use(client, name).ok().flatten()).max();
    let Some(used) = used else { return Ok(()) };
    let is_recent = Timestamp::now().checked_sub(RECENT).is_ok_and(|begin| used > begin);
    if !is_recent {
        return Ok(());
    }
    confirm(
        name,
        &format!(
            "key '{name}' was last used at {used:.0}: what is sealed under it does not open without it."
        ),
    )
}

/// Restores deleted keys.
pub fn restore(args: &RestoreArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let body = args.resume.then(|| json!({ "resume": true }));
    for name in &args.names {
        let sent = block_on(client.send(Method::PUT, &key_path("restore", name), body.as_ref()))?;
        sent.map_err(|error| failed(&format!("failed to restore key \"{name}\""), error))?;
        note(format_args!("Key '{name}' is restored"));
    }
    Ok(())
}

/// Removes a deleted key for ever.
pub fn purge(args: &PurgeArgs, call: Call<'_>) -> Result<(), Failure> {
    #[derive(Deserialize, Serialize)]
    struct Gone {
        fingerprint: String,
        versions: u32,
    }

    let client = args.connection.client(call)?;
    let name = &args.name;
    // What cannot be listed can be purged all the same: the server decides.
    let listed = block_on(read_all(&client, name))?.unwrap_or_else(|error| {
        note(format_args!("the fingerprint of the key cannot be shown: {error}"));
        Vec::new()
    });
    let mut keys: Vec<_> = listed.into_iter().filter(|key| key.name == *name).collect();
    match &args.fingerprint {
        Some(wanted) => keys.retain(|key| key.fingerprint == *wanted),
        // Anybody who can write to the store can leave something that looks like the rest of a purge.
        None if keys.iter().any(|key| key.restorable) => keys.retain(|key| key.restorable),
        None => {}
    }
    let key = match keys.as_slice() {
        [] => None,
        [key] => Some(key),
        several => {
            let list: Vec<_> = several.iter().map(|key| key.fingerprint.as_str()).collect();
            return Err(Failure::new(format!(
                "several deleted keys had the name '{name}': choose one by --fingerprint ({})",
                list.join(", ")
            )));
        }
    };
    if let Some(key) = key {
        note(key.line());
        if let Some(Time(until)) = key.in_use_until.filter(|until| until.0 > Timestamp::now()) {
            note(format_args!(
                "a server that is cut off from the key store may seal with the key until {until:.0}; that is lost, too"
            ));
        }
    }
    if args.now {
        confirm(
            name,
            &format!("key '{name}' will be removed for ever, with everything that was encrypted under it."),
        )?;
    }
    let fingerprint = args.fingerprint.as_deref().or(key.map(|key| key.fingerprint.as_str()));
    let confirmed = args.now.then_some(name);
    let body =
        json!({ "fingerprint": fingerprint, "now": args.now, "confirm": confirmed, "resume": args.resume });
    let gone: Gone = block_on(client.json(Method::PUT, &key_path("purge", name), Some(&body)))?.map_err(|error| {
        if matches!(error, ClientError::Refused { status: 504, .. }) {
            note("note: the server goes on with it: look with 'kms key ls --deleted' before you try --resume");
        }
        failed(&format!("failed to purge key \"{name}\""), error)
    })?;
    let output = call.output(args.json);
    if output.is_json() {
        return output.json(&gone);
    }
    let versions = if gone.versions == 1 { "version" } else { "versions" };
    output.line(format_args!(
        "Key '{name}', fingerprint {}, is removed for ever with its {} {versions}",
        gone.fingerprint, gone.versions
    ))
}

/// Lists keys, or those that are deleted.
pub fn list(args: &KeyListArgs, call: Call<'_>) -> Result<(), Failure> {
    if !args.deleted {
        return listing::print(Kind::Keys, &args.list, call);
    }
    let client = args.list.client(call)?;
    let keys = block_on(read_all(&client, args.list.pattern()))?;
    let keys = keys.map_err(|error| failed("failed to list deleted keys", error))?;
    let output = call.output(args.list.is_json());
    if output.is_json() {
        return output.json(&keys);
    }
    if keys.is_empty() {
        return Ok(());
    }
    output.row(&[(Style::Header, "Deleted key")])?;
    output.lines(keys.iter().map(DeletedKey::line))
}

async fn read_all(client: &Client, pattern: &str) -> Result<Vec<DeletedKey>, ClientError> {
    #[derive(Deserialize)]
    struct Page {
        keys: Vec<DeletedKey>,
        #[serde(default)]
        continue_at: String,
    }

    let (mut keys, mut pattern) = (Vec::new(), pattern.to_owned());
    loop {
        let page: Page = client.json(Method::GET, &path_of("key/deleted", &pattern), None).await?;
        keys.extend(page.keys);
        if page.continue_at.is_empty() || page.continue_at == pattern {
            return Ok(keys);
        }
        pattern = page.continue_at;
    }
}

#[derive(Deserialize, Serialize)]
struct DeletedKey {
    name: String,
    fingerprint: String,
    restorable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted_at: Option<Time>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    deleted_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_until: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_use_until: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    under_way: Option<String>,
}

impl DeletedKey {
    fn line(&self) -> String {
        let Self { name, fingerprint, deleted_by, .. } = self;
        let mut parts = vec![name.clone(), format!("fingerprint {fingerprint}")];
        parts.extend(self.deleted_at.map(|Time(at)| format!("deleted {at:.0} by {deleted_by}")));
        parts.extend(self.kept_until.map(|Time(until)| format!("kept until {until:.0}")));
        match &self.under_way {
            Some(what) => parts.push(format!("a {what} is under way")),
            None if !self.restorable => {
                parts.push("something is left of its purge, --resume removes that".to_owned());
            }
            None => {}
        }
        parts.join("  ")
    }
}
