//! Lists of names: keys, identities, policies.

use std::collections::BTreeMap;

use clap::ArgGroup;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::colour::Style;
use super::connection::Connection;
use super::name::Call;
use super::{Failure, block_on};
use crate::text::mask::Secret;

/// The arguments of `kms ls`.
#[derive(clap::Args)]
#[command(group(ArgGroup::new("kind")))]
pub struct Args {
    /// What the names begin with; may end in '*'.
    #[arg(default_value = "*")]
    pattern: String,
    /// List identities.
    #[arg(short, long, alias = "identity", group = "kind")]
    identities: bool,
    /// List policies.
    #[arg(short, long, alias = "policy", group = "kind")]
    policies: bool,
    /// Print the names as a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What is listed.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Keys.
    Keys,
    /// Identities.
    Identities,
    /// Policies.
    Policies,
}

/// Lists what the flags say.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let kind = match (args.identities, args.policies) {
        (true, _) => Kind::Identities,
        (_, true) => Kind::Policies,
        _ => Kind::Keys,
    };
    print(kind, &args.pattern, &args.connection.client(call)?, args.json, call)
}

/// Reads all pages of a list and prints its names under what they are, or nothing if there are none.
pub fn print(kind: Kind, pattern: &str, client: &Client, json: bool, call: Call<'_>) -> Result<(), Failure> {
    let title = match kind {
        Kind::Keys => "Key",
        Kind::Identities => "Identity",
        Kind::Policies => "Policy",
    };
    print_under(title, kind, pattern, client, json, call)
}

/// The same under a title of the caller's.
pub fn print_under(
    title: &str,
    kind: Kind,
    pattern: &str,
    client: &Client,
    json: bool,
    call: Call<'_>,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default, alias = "identities")]
        names: Option<Vec<String>>,
        #[serde(default)]
        continue_at: String,
    }

    let (route, what) = match kind {
        Kind::Keys => ("key/list", "keys"),
        Kind::Identities => ("identity/list", "identities"),
        Kind::Policies => ("policy/list", "policies"),
    };
    if matches!(kind, Kind::Identities) {
        refuse_secret(pattern)?;
    }
    let names = block_on(async {
        let (mut names, mut pattern) = (Vec::new(), pattern.to_owned());
        loop {
            let page: Page = client.json(Method::GET, &path_of(route, &pattern), None).await?;
            names.extend(page.names.unwrap_or_default());
            if page.continue_at.is_empty() || page.continue_at == pattern {
                return Ok(names);
            }
            pattern = page.continue_at;
        }
    })?;
    let names = names.map_err(|error: crate::cli::client::ClientError| {
        Failure::from(error).context(&format!("failed to list {what}"))
    })?;
    let output = call.output(json);
    if output.is_json() {
        // KES has no empty array.
        let is_null = call.is_kes() && names.is_empty();
        return output.json(&(!is_null).then_some(&names));
    }
    if names.is_empty() {
        return Ok(());
    }
    output.row(&[(Style::Header, title)])?;
    output.lines(&names)
}

/// Keeps a secret that stands where an identity belongs from being sent: servers log the paths of requests.
pub fn refuse_secret(identity: &str) -> Result<(), Failure> {
    match Secret::in_text(identity) {
        None => Ok(()),
        Some(secret) => Err(Failure::new(format!(
            "expected an identity, 64 hex digits as 'identity of' prints them, and found {secret}: nothing was sent"
        ))),
    }
}

/// Returns the path of a route that is followed by a name.
pub fn path_of(route: &str, name: &str) -> String {
    format!("/v1/{route}/{}", utf8_percent_encode(name, UNRESERVED))
}

/// Patterns as a server sends them: each with an object of no meaning yet.
pub type Patterns = BTreeMap<String, Value>;

/// What stands in a path as it is, beside letters and digits.
const UNRESERVED: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'*');
