//! The versions of a key: `kms key rotate`, `rewrap`, `retire` and `enable`, and what `info` says of them.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::input::{base64_text, check_base64};
use super::request::{failed, key_path};
use crate::cli::client::{Client, Session, parse};
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::name::Call;
use crate::cli::output::{Output, note};
use crate::cli::runtime::block_on;
use crate::config::parse_long_duration;

#[derive(Args)]
pub struct RotateArgs {
    /// The name of the key.
    name: String,
    /// Return when the new version seals.
    #[arg(long)]
    wait: bool,
    /// Rotate although the server's config is one of KES, which cannot read what the new version seals.
    #[arg(long)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct RewrapArgs {
    /// The name of the key.
    name: String,
    /// The ciphertext in base64; '-' reads many from stdin, one JSON object a line: {"ciphertext": …, "context": …}.
    ciphertext: String,
    /// The context that the ciphertext is bound to, in base64.
    context: Option<String>,
    /// Print the result as JSON on a terminal, too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct WhichArgs {
    /// The name of the key.
    name: String,
    /// The number of the version.
    #[arg(long, value_name = "N")]
    version: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args)]
pub struct RetireArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Refuse if a server opened something under the version within this time. Name all servers with --server A,B.
    #[arg(long, value_name = "TIME", default_value = "30d")]
    unused_for: Span,
    /// Retire the version although a server did not answer, or has not run for that long.
    #[arg(long)]
    unproven: bool,
}

#[derive(Args)]
pub struct EnableArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Makes a new version of a key.
pub fn rotate(args: &RotateArgs, call: Call<'_>) -> Result<(), Failure> {
    #[derive(Deserialize, Serialize)]
    struct Made {
        /// AWS KMS has no number for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u32>,
        seals_after_ms: u64,
    }

    let client = args.connection.client(call)?;
    let context = format!("failed to rotate key \"{}\"", args.name);
    let body = args.yes.then(|| json!({ "confirm": args.name }));
    let made: Made = block_on(client.json(Method::PUT, &key_path("rotate", &args.name), body.as_ref()))?
        .map_err(|error| failed(&context, error))?;
    let delay = Duration::from_millis(made.seals_after_ms);
    let output = call.output(args.json);
    let what = made.version.map_or_else(
        || format!("A new version of key '{}'", args.name),
        |version| format!("Version {version} of key '{}'", args.name),
    );
    if args.wait {
        if !output.is_json() {
            output.line(format_args!("{what} is made"))?;
            Output::flush()?;
        }
        std::thread::sleep(delay);
    }
    if output.is_json() {
        output.json(&made)?;
    } else if args.wait {
        output.line(format_args!("It seals now, and a batch job may start"))?;
    } else {
        let delay = format::duration(nanos(delay));
        output.line(format_args!("{what} opens now and seals in {delay}"))?;
    }
    note(
        "note: KES, and releases of kms before the one that has versions, cannot read what the new version seals; \
         what was sealed before stays readable everywhere",
    );
    Ok(())
}

/// Seals a ciphertext anew, or many.
pub fn rewrap(args: &RewrapArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let output = call.output(args.json);
    if args.ciphertext == "-" {
        if args.context.is_some() {
            return Err(Failure::new("a line on stdin names its own context"));
        }
        return rewrap_all(&client, &args.name, output);
    }
    let ciphertext = base64_text(&args.ciphertext)?;
    let item = Item { ciphertext: ciphertext.to_string(), context: args.context.clone() };
    let rewrapped = block_on(async { item.rewrap(&mut client.session().await?, &args.name).await })??;
    if output.is_json() || !output.is_terminal() {
        return output.json(&json!({ "ciphertext": rewrapped }));
    }
    output.line(format_args!("ciphertext: {rewrapped}"))
}

/// Rewraps all lines of stdin, and prints a line for each in their order.
fn rewrap_all(client: &Client, name: &str, output: Output) -> Result<(), Failure> {
    block_on(async {
        let (mut session, mut progress) = (client.session().await?, Progress::new());
        for (n, line) in io::stdin().lock().lines().enumerate() {
            let line = line.map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
            if line.trim().is_empty() {
                continue;
            }
            let at = |failure: Failure| failure.context(&format!("stdin, line {}", n + 1));
            let item: Item = serde_json::from_str(&line).map_err(|_| {
                at(Failure::new("expected an object with \"ciphertext\" and \"context\", both in base64"))
            })?;
            let rewrapped = item.rewrap(&mut session, name).await.map_err(at)?;
            let mut result = json!({ "ciphertext": rewrapped });
            if let (Some(context), Value::Object(members)) = (item.context, &mut result) {
                members.insert("context".to_owned(), context.into());
            }
            output.json(&result)?;
            progress.advance();
        }
        Ok(())
    })?
}

/// Tells on a terminal how many are done. How many there will be is not known.
struct Progress {
    is_shown: bool,
    began: Instant,
    told: Instant,
    done: u64,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            is_shown: io::stderr().is_terminal() && !io::stdout().is_terminal(),
            began: now,
            told: now,
            done: 0,
        }
    }

    fn advance(&mut self) {
        self.done += 1;
        if self.is_shown && self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            self.tell();
        }
    }

    fn tell(&self) {
        let rate = u128::from(self.done) * 1000 / self.began.elapsed().as_millis().max(1);
        // What cannot be shown is no reason to stop.
        let _ = write!(io::stderr(), "\r{} rewrapped, {rate} a second", self.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown && self.done > 0 {
            self.tell();
            let _ = writeln!(io::stderr());
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    ciphertext: String,
    #[serde(default)]
    context: Option<String>,
}

impl Item {
    async fn rewrap(&self, session: &mut Session<'_>, name: &str) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Rewrapped {
            ciphertext: String,
        }

        check_base64(&self.ciphertext, "ciphertext")?;
        let mut body = json!({ "ciphertext": self.ciphertext });
        if let (Some(context), Value::Object(members)) = (&self.context, &mut body) {
            check_base64(context, "context")?;
            members.insert("context".to_owned(), context.as_str().into());
        }
        let answer = session.json(Method::PUT, &key_path("rewrap", name), Some(&body)).await;
        let answer: Rewrapped = answer.map_err(|error| failed("failed to rewrap ciphertext", error))?;
        Ok(answer.ciphertext)
    }
}

/// Prints the versions of a key, if there are several and a server tells. The uses of all servers are added up.
pub fn print(clients: &[(String, Client)], name: &str, output: Output) -> Result<(), Failure> {
    // KES has no versions, and a policy need not allow the question.
    let lists: Vec<_> = clients.iter().filter_map(|(_, client)| ask(client, name).ok()).collect();
    let Some(first) = lists.first().filter(|list| list.len() > 1) else { return Ok(()) };
    for version in first {
        let number = version.number;
        if !version.readable {
            output.line(format_args!("Version {number:<3} it cannot be read, see the server's log"))?;
            continue;
        }
        let uses = || {
            lists
                .iter()
                .flatten()
                .filter(|other| other.number == number)
                .filter_map(|other| other.used.as_ref())
        };
        let last =
            |time: Option<Timestamp>| time.map_or_else(String::new, |time| format!(", last {time:.0}"));
        let opened = uses().map(|used| used.opened).sum::<u64>();
        let sealed = uses().map(|used| used.sealed).sum::<u64>();
        let last_opened = last(uses().filter_map(|used| used.last_opened.map(|time| time.0)).max());
        let last_sealed = last(uses().filter_map(|used| used.last_sealed.map(|time| time.0)).max());
        output.line(format_args!(
            "Version {number:<3} {}  {}{}  opened {opened}{last_opened}; sealed {sealed}{last_sealed}",
            format::date(&version.created_at),
            version.fingerprint,
            if version.disabled { "  disabled" } else { "" },
        ))?;
    }
    if lists.len() < clients.len() {
        note(format_args!("note: {} of {} servers told", lists.len(), clients.len()));
    }
    Ok(())
}

fn ask(client: &Client, name: &str) -> Result<Vec<Version>, Failure> {
    Ok(read(client, name)?.versions)
}

/// Returns when a server used a key last, as far as it remembers.
pub fn last_use(client: &Client, name: &str) -> Result<Option<Timestamp>, Failure> {
    let list = read(client, name)?;
    let opened = list.versions.iter().filter_map(|version| version.used.as_ref()?.last_opened);
    Ok(opened.chain(list.last_used).map(|time| time.0).max())
}

fn read(client: &Client, name: &str) -> Result<List, Failure> {
    let answer = block_on(client.send(Method::GET, &key_path("versions", name), None))?;
    Ok(parse(&answer?)?)
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    last_used: Option<Time>,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "version")]
    number: u32,
    #[serde(default)]
    created_at: String,
    #[serde(default)]
    fingerprint: String,
    readable: bool,
    disabled: bool,
    #[serde(default)]
    used: Option<Used>,
}

#[derive(Deserialize)]
struct Used {
    since: Time,
    opened: u64,
    #[serde(default)]
    last_opened: Option<Time>,
    sealed: u64,
    #[serde(default)]
    last_sealed: Option<Time>,
}

/// A time in the form of RFC 3339.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Timestamp);

impl From<Time> for String {
    fn from(Time(time): Time) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

/// Disables a version of a key, if all servers prove that nobody needs it.
pub fn retire(args: &RetireArgs, call: Call<'_>) -> Result<(), Failure> {
    let WhichArgs { name, version, json, connection } = &args.which;
    let client = connection.client(call)?;
    let clients = client.each();
    let mut unproven = Vec::new();
    for (server, client) in &clients {
        match proof(client, name, *version, args.unused_for.time) {
            Ok(Proof::Unused) => {}
            Ok(Proof::Used(time)) => {
                let within = &args.unused_for.text;
                return Err(Failure::new(format!(
                    "version {version} was opened at {time:.0} on {server}, within the last {within}: nothing was changed"
                )));
            }
            Ok(Proof::CountsSince(time)) => {
                unproven.push(format!("{server} has counted only since {time:.0}"));
            }
            Ok(Proof::DoesNotCount) => unproven.push(format!("{server} has never seen a second version")),
            Err(failure) => unproven.push(format!("{server} did not tell: {failure}")),
        }
    }
    if !unproven.is_empty() && !args.unproven {
        return Err(Failure::new(format!(
            "nothing proves that version {version} is not needed: {}. Nothing was changed; --unproven retires it all the same",
            unproven.join("; ")
        )));
    }
    change(&client, "retire", &args.which)?;
    let output = call.output(*json);
    if output.is_json() {
        output.json(&json!({ "name": name, "version": version, "disabled": true, "unproven": unproven }))?;
    } else {
        output.line(format_args!(
            "Version {version} of key '{name}' is disabled. 'kms key enable {name} --version {version}' brings it back"
        ))?;
    }
    note(
        "note: other servers follow within their cache.expiry.any (5m by default). Counts do not prove everything: \
         MinIO reads its own config and IAM only at its start",
    );
    Ok(())
}

/// Enables a version of a key.
pub fn enable(args: &EnableArgs, call: Call<'_>) -> Result<(), Failure> {
    let WhichArgs { name, version, json, connection } = &args.which;
    change(&connection.client(call)?, "enable", &args.which)?;
    let output = call.output(*json);
    if output.is_json() {
        return output.json(&json!({ "name": name, "version": version, "disabled": false }));
    }
    output.line(format_args!("Version {version} of key '{name}' is enabled"))
}

fn change(client: &Client, operation: &str, which: &WhichArgs) -> Result<(), Failure> {
    let body = json!({ "version": which.version });
    let sent = block_on(client.send(Method::PUT, &key_path(operation, &which.name), Some(&body)))?;
    sent.map(drop).map_err(|error| failed(&format!("failed to {operation} version {}", which.version), error))
}

/// What a server says of the use of a version.
enum Proof {
    Unused,
    Used(Timestamp),
    CountsSince(Timestamp),
    DoesNotCount,
}

fn proof(client: &Client, name: &str, version: u32, unused_for: Duration) -> Result<Proof, Failure> {
    let versions = ask(client, name)?;
    let Some(used) =
        versions.into_iter().find(|listed| listed.number == version).and_then(|listed| listed.used)
    else {
        return Ok(Proof::DoesNotCount);
    };
    let Ok(begin) = Timestamp::now().checked_sub(unused_for) else {
        return Ok(Proof::CountsSince(used.since.0));
    };
    Ok(match used.last_opened {
        Some(Time(time)) if time > begin => Proof::Used(time),
        _ if used.since.0 > begin => Proof::CountsSince(used.since.0),
        _ => Proof::Unused,
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A time such as `30d`, `12h` or `1h30m`.
#[derive(Clone, Debug)]
struct Span {
    time: Duration,
    /// As the user wrote it.
    text: String,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { time: parse_long_duration(text)?, text: text.to_owned() })
    }
}
